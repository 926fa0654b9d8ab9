"""How many requests of a slow version run at once, and which of them together."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.pool import Pool, working_until
from trimtab_runtime.testing import Handed
from trimtab_serving import lanes
from trimtab_serving.errors import ModelBusy
from trimtab_serving.lanes import Lane, Pace


class Slow:
    """Answers the first feature of each row, once it is let."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def run(self, features: Any, texts: Any) -> Any:
        self.batches.append(len(features))
        self.begun.release()
        assert self.go.acquire(timeout=60)
        if np.isnan(features).any():
            raise ValueError("no number")
        return features[:, 0]


def rows(*values: float) -> Any:
    return np.array(values, np.float32)[:, None]


class Asked:
    """A lane whose places are taken, and requests that wait for them."""

    def __init__(self, *, together: bool) -> None:
        self.model, self.lane = Slow(), Lane("version 1", together=together)
        self._threads = ThreadPoolExecutor(300)
        self.first = [self.ask(rows(0)) for _ in range(lanes.RUNS)]
        for _ in self.first:
            assert self.model.begun.acquire(timeout=60)

    def ask(self, features: Any) -> Future[Any]:
        return self._threads.submit(self.lane.run, self.model.run, features, None)

    def waiting(self, features: Any) -> Future[Any]:
        """Ask, and return once the request is in the lane."""
        before = self.lane.waiting
        asked = self.ask(features)
        wait_until(lambda: self.lane.waiting > before or asked.done())
        return asked

    def let(self, runs: int) -> None:
        for _ in range(runs):
            self.model.go.release()

    def end(self) -> None:
        self.let(1000)
        self._threads.shutdown()


def wait_until(holds: Callable[[], bool]) -> None:
    while not holds():  # the time limit of a test is the deadline
        threading.Event().wait(0.001)


def test_what_waits_when_a_run_ends_is_the_next_run(request: pytest.FixtureRequest) -> None:
    asked = Asked(together=True)
    request.addfinalizer(asked.end)
    waiting = [asked.waiting(rows(number, -number)) for number in range(40)]

    asked.let(lanes.RUNS)
    asked.let(2)

    assert [found.result(60).tolist() for found in waiting] == [[number, -number] for number in range(40)]
    assert asked.model.batches == [1, 1, 80]


def test_no_run_is_larger_than_what_trees_gain_by(request: pytest.FixtureRequest) -> None:
    asked = Asked(together=True)
    request.addfinalizer(asked.end)
    waiting = [asked.waiting(np.zeros((size, 1), np.float32)) for size in (60, 36, 1, 500, 1)]

    asked.let(100)

    assert [len(found.result(60)) for found in waiting] == [60, 36, 1, 500, 1]
    assert sorted(asked.model.batches[2:]) == [1, 1, 96, 500]


def test_a_version_that_gains_nothing_by_it_runs_requests_one_by_one(request: pytest.FixtureRequest) -> None:
    asked = Asked(together=False)
    request.addfinalizer(asked.end)
    waiting = [asked.waiting(rows(number)) for number in range(10)]

    asked.let(100)

    assert [found.result(60).tolist() for found in waiting] == [[number] for number in range(10)]
    assert asked.model.batches == [1] * 12


def test_one_more_than_may_wait_is_refused_at_once_and_the_others_are_answered(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "MOST_WAITING", 5)
    asked = Asked(together=True)
    request.addfinalizer(asked.end)
    waiting = [asked.waiting(rows(number)) for number in range(5)]

    with pytest.raises(ModelBusy, match="version 1 has 5 requests waiting here, which is the most"):
        asked.ask(rows(6)).result(60)

    asked.let(100)
    assert [found.result(60).tolist() for found in waiting] == [[number] for number in range(5)]


def test_rows_that_a_version_fails_on_fail_for_whoever_brought_them_alone(
    request: pytest.FixtureRequest,
) -> None:
    asked = Asked(together=True)
    request.addfinalizer(asked.end)
    good, bad, other = (asked.waiting(rows(value)) for value in (1, float("nan"), 2))

    asked.let(100)

    assert [good.result(60).tolist(), other.result(60).tolist()] == [[1], [2]]
    with pytest.raises(ValueError, match="no number"):
        bad.result(60)


def test_what_nobody_waits_for_any_longer_is_not_computed(request: pytest.FixtureRequest) -> None:
    pool, refused = Handed(Pool(1)), Future[Exception]()
    request.addfinalizer(pool.end)
    asked = Asked(together=True)
    request.addfinalizer(asked.end)

    def ask() -> None:
        working_until(lambda: 0.0)
        try:
            asked.lane.run(asked.model.run, rows(1), None)
        except Unavailable as error:
            refused.set_result(error)

    pool.submit(ask)
    wait_until(lambda: asked.lane.waiting == 1)
    after = asked.waiting(rows(2))
    asked.let(100)

    assert "did not come to it in time" in str(refused.result(60))
    assert after.result(60).tolist() == [2]
    assert asked.model.batches == [1, 1, 1]


def test_a_slow_version_leaves_the_doors_threads_to_others(request: pytest.FixtureRequest) -> None:
    pool, others = Handed(Pool(2)), threading.Semaphore(0)
    request.addfinalizer(pool.end)
    asked = Asked(together=True)
    request.addfinalizer(asked.end)
    for _ in range(50):
        pool.submit(asked.lane.run, asked.model.run, rows(1), None)

    pool.submit(others.release)

    assert others.acquire(timeout=60)


@pytest.mark.parametrize(
    ("one_s", "many_s", "expected"),
    [
        (6e-6, 30e-6, Pace(622, together=False)),
        (4e-3, 5e-3, Pace(0, together=True)),
        (4e-3, 64e-3, Pace(0, together=False)),
        (0.5e-3, 8e-3, Pace(2, together=False)),
        (0.5e-3, 0.6e-3, Pace(0, together=True)),
    ],
    ids=["quick", "gains much", "slow and gains nothing", "gains nothing", "gains some"],
)
def test_how_a_version_is_run_follows_from_what_its_runs_cost(
    one_s: float, many_s: float, expected: Pace
) -> None:
    assert lanes.pace(one_s, many_s) == expected
