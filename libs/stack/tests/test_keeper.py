"""When what died is started again: fakes, and a clock that is passed in."""

import itertools
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
from trimtab_stack.errors import DidNotStart
from trimtab_stack.keeper import Keeper


class AtOnce(Executor):
    """Does what it is given before it returns."""

    def submit(self, act: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(act(*args, **kwargs))
        except DidNotStart as error:
            done.set_exception(error)
        return done


class FakePart:
    def __init__(self) -> None:
        self.process = self
        self.log = Path("/log")
        self.alive = True
        self.refuses = False
        self.starts = 0

    def describe_exit(self) -> str:
        return "exit code 1"

    def start(self) -> None:
        self.starts += 1
        if self.refuses:
            raise DidNotStart("part", self.log, "it refuses")
        self.alive = True


class FakeStack:
    def __init__(self) -> None:
        self.part = FakePart()
        self.parts = {"part": self.part}
        self.errors: list[str] = []

    def record(self, _status: str, error: str = "") -> None:
        self.errors.append(error)


@pytest.fixture
def stack() -> Any:
    return FakeStack()


@pytest.fixture
def keeper(stack: Any) -> Keeper:
    return Keeper(stack, AtOnce())


def starts(keeper: Keeper, stack: FakeStack, until: int) -> list[float]:
    """Return when the part was started, of a clock that ticks twice a second."""
    times: list[float] = []
    for tick in range(2 * until):
        before = stack.part.starts
        keeper.tend(tick / 2)
        times += [tick / 2] * (stack.part.starts - before)
    return times


def test_what_lives_is_left_alone(keeper: Keeper, stack: FakeStack) -> None:
    assert starts(keeper, stack, until=10) == []
    assert stack.errors == []


def test_what_died_is_started_again_and_written_down(keeper: Keeper, stack: FakeStack) -> None:
    stack.part.alive = False

    assert starts(keeper, stack, until=10) == [0.5]
    assert stack.errors == ["part ended with exit code 1; its log is /log", ""]


def test_what_keeps_dying_is_started_ever_more_rarely_but_always_again(
    keeper: Keeper, stack: FakeStack
) -> None:
    stack.part.alive, stack.part.refuses = False, True

    times = starts(keeper, stack, until=36_000)

    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert waits[:4] == [1.5, 2.5, 4.5, 8.5]
    assert set(waits[6:]) == {30.5}
    assert stack.errors[-1] == "part did not start: it refuses; its log is /log"


def test_after_a_calm_minute_an_old_death_counts_no_more(keeper: Keeper, stack: FakeStack) -> None:
    stack.part.alive, stack.part.refuses = False, True
    starts(keeper, stack, until=20)
    stack.part.refuses = False
    starts(keeper, stack, until=200)

    stack.part.alive = False

    assert starts(keeper, stack, until=10) == [0.5]
