import threading
from collections.abc import Iterator

import pytest
from trimtab_runtime.pool import Pool


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
