"""When what died is started again: fakes and a clock that is passed in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trimtab_stack.errors import DidNotStart
from trimtab_stack.keeper import Keeper
from trimtab_stack.waiting import until


class FakePart:
    def __init__(self) -> None:
        self.process = self
        self.alive = True
        self.log = Path("/log")
        self.starts = 0
        self.refuses = False

    def describe_exit(self) -> str:
        return "exit code 1"

    def kill(self) -> None:
        self.alive = False

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
def stack() -> FakeStack:
    return FakeStack()


@pytest.fixture
def keeper(stack: Any) -> Iterator[Keeper]:
    keeper = Keeper(stack)
    yield keeper
    keeper.close()


def starts_after(keeper: Keeper, stack: FakeStack, now: float) -> int:
    """Let the keeper look until it has nothing more to do at `now`."""
    before = -1
    while before != stack.part.starts:
        before = stack.part.starts
        keeper.tend(now)
        assert until(lambda: all(each.done() for each in keeper.starting), within=20)
        keeper.tend(now)
    return stack.part.starts


def test_what_lives_is_left_alone(keeper: Keeper, stack: FakeStack) -> None:
    assert starts_after(keeper, stack, 0) == 0
    assert stack.errors == []


def test_what_died_is_started_again_a_little_later(keeper: Keeper, stack: FakeStack) -> None:
    stack.part.kill()

    assert starts_after(keeper, stack, 0.0) == 0
    assert starts_after(keeper, stack, 0.6) == 1
    assert stack.errors == ["part ended with exit code 1; its log is /log", ""]


def test_what_keeps_dying_is_started_less_and_less_often_but_always_again(
    keeper: Keeper, stack: FakeStack
) -> None:
    stack.part.refuses = True
    stack.part.kill()

    tries = [
        now for now in range(300) if starts_after(keeper, stack, now) > len(range(0)) and stack.part.starts
    ]

    assert tries
