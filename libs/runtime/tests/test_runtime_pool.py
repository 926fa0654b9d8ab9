import threading
from collections.abc import Iterator

import pytest
from trimtab_runtime.pool import Pool, aside, working_until
from trimtab_runtime.testing import Handed


@pytest.fixture
def pool() -> Iterator[Handed]:
    made = Handed(Pool(3))
    yield made
    made.end()


def test_a_call_that_fails_takes_no_thread_with_it(pool: Handed, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("on purpose")

    ended = threading.Semaphore(0)
    for _ in range(10):
        pool.submit(fail)
        pool.submit(ended.release)

    for _ in range(10):
        assert ended.acquire(timeout=60)
    assert "failed outside its handler" in caplog.text


def test_no_more_work_at_once_than_threads_and_the_rest_is_taken_in_turn(pool: Handed) -> None:
    go, done = threading.Event(), threading.Semaphore(0)
    begun: list[int] = []

    def hold(number: int) -> None:
        begun.append(number)
        assert go.wait(60)
        done.release()

    for number in range(50):
        pool.submit(hold, number)
    while not (pool.pool.waiting == 47 and len(begun) == 3):
        threading.Event().wait(0.001)
    assert not pool.pool.announce(47)
    go.set()

    for _ in range(50):
        assert done.acquire(timeout=60)
    assert sorted(begun[:3]) == [0, 1, 2]
    assert sorted(begun) == list(range(50))


def test_closing_waits_for_what_was_taken(pool: Handed) -> None:
    done: list[int] = []
    for number in range(100):
        pool.submit(done.append, number)

    pool.end()

    assert sorted(done) == list(range(100))


def test_calls_that_wait_keep_nobody_from_being_served(pool: Handed) -> None:
    go, done = threading.Event(), threading.Semaphore(0)

    def wait() -> None:
        with aside():
            go.wait(60)
        done.release()

    for _ in range(20):
        pool.submit(wait)
    pool.submit(done.release)

    assert done.acquire(timeout=60)
    go.set()
    for _ in range(20):
        assert done.acquire(timeout=60)


def test_once_nobody_waits_there_are_as_many_threads_as_before(pool: Handed) -> None:
    ended = threading.Semaphore(0)

    def wait() -> None:
        with aside():
            pass
        ended.release()  # from here on it has no other thread begin

    for _ in range(200):
        pool.submit(wait)
        pool.submit(ended.release)
    for _ in range(400):
        assert ended.acquire(timeout=60)
    while pool.pool.threads > 4:  # one too many ends with its next call
        pool.submit(ended.release)
        assert ended.acquire(timeout=60)

    assert pool.pool.threads == 4  # three that work, and one that listens


def test_a_call_that_waits_learns_how_long_its_caller_still_does(pool: Handed) -> None:
    heard: list[float] = []

    def ask() -> None:
        working_until(lambda: 2.5)
        with aside() as seconds:
            heard.append(seconds)

    pool.submit(ask)
    pool.end()

    assert heard == [2.5]
    with aside() as seconds:
        assert seconds == float("inf")


def test_a_thread_of_no_pool_learns_too_how_long_its_caller_still_waits() -> None:
    heard: list[float] = []

    def ask() -> None:
        working_until(lambda: 1.5)
        with aside() as seconds:
            heard.append(seconds)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(60)

    assert heard == [1.5]


def test_where_no_thread_can_take_ones_place_there_is_no_more_work_at_once_afterwards(
    pool: Handed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun, go, ended = threading.Semaphore(0), threading.Event(), threading.Semaphore(0)

    def out_of_threads(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def wait() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", out_of_threads)
            with aside():
                pass

    def hold() -> None:
        begun.release()
        assert go.wait(60)
        ended.release()

    for _ in range(5):
        pool.submit(wait)
        pool.submit(ended.release)
        assert ended.acquire(timeout=60)
    assert caplog.text.count("can't start new thread") >= 5

    for _ in range(8):
        pool.submit(hold)
    for _ in range(3):
        assert begun.acquire(timeout=60)
    while pool.pool.waiting != 5:
        threading.Event().wait(0.001)
    assert (pool.pool.threads, begun.acquire(blocking=False)) == (4, False)
    go.set()
    for _ in range(8):
        assert ended.acquire(timeout=60)
