import threading
from collections.abc import Iterator

import pytest
from trimtab_runtime.pool import Pool, aside, working_until


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool(3)
    yield made
    made.close()


def test_every_end_is_told_once_however_late_one_asks(pool: Pool) -> None:
    told: list[int] = []
    jobs = [pool.submit(lambda: None) for _ in range(2000)]
    for number, job in enumerate(jobs):
        job.add_done_callback(lambda _, number=number: told.append(number))
    pool.close()

    assert sorted(told) == list(range(2000))
    jobs[0].add_done_callback(lambda _: told.append(-1))
    assert told[-1] == -1


def test_a_call_that_fails_takes_no_thread_with_it(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("on purpose")

    ended = threading.Semaphore(0)
    for _ in range(10):
        pool.submit(fail).add_done_callback(lambda _: ended.release())
    pool.submit(ended.release)

    for _ in range(11):
        assert ended.acquire(timeout=60)
    assert "failed outside its handler" in caplog.text


def test_closing_waits_for_what_was_taken(pool: Pool) -> None:
    done: list[int] = []
    for number in range(100):
        pool.submit(done.append, number)

    pool.close()

    assert sorted(done) == list(range(100))


def test_calls_that_wait_keep_nobody_from_being_served(pool: Pool) -> None:
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


def test_once_nobody_waits_there_are_as_many_threads_as_before(pool: Pool) -> None:
    ended = threading.Semaphore(0)

    def wait() -> None:
        with aside():
            pass

    for _ in range(200):
        pool.submit(wait).add_done_callback(lambda _: ended.release())
    for _ in range(200):
        assert ended.acquire(timeout=60)
    while pool.threads > 3:  # one too many ends with its next call
        pool.submit(ended.release)
        assert ended.acquire(timeout=60)

    assert pool.threads == 3
    assert pool.tally().calls >= 200


def test_a_call_that_waits_learns_how_long_its_caller_still_does(pool: Pool) -> None:
    heard: list[float] = []

    def ask() -> None:
        working_until(lambda: 2.5)
        with aside() as seconds:
            heard.append(seconds)

    pool.submit(ask)
    pool.close()

    assert heard == [2.5]
    with aside() as seconds:
        assert seconds == float("inf")
