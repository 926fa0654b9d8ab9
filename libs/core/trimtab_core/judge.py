"""Whether a challenger replaces the champion, on live paired losses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from numpy.typing import ArrayLike

Action = Literal["continue", "advance", "promote", "rollback", "undecided"]


@dataclass(frozen=True, slots=True)
class JudgeSpec:
    """How a rollout is judged."""

    cap: float
    alpha: float = 0.05
    margin: float = 0.0
    steps: tuple[int, ...] = (10, 50, 100)
    within_s: float = 14 * 86_400.0
    worse_margin: float = 0.0


@dataclass(frozen=True, slots=True)
class JudgeState:
    """What the rows so far have come to."""

    n: int = 0
    decided: Literal["promote", "rollback"] | None = None

    def to_json(self) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class JudgeVerdict:
    """What is to be done, and the numbers."""

    action: Action
    step: int
    """Index into `steps` that the rollout should now stand at."""
    share: int
    n: int
    mean_difference: float
    e_better: float
    e_worse: float
    low: float
    high: float


def update(
    spec: JudgeSpec, state: JudgeState, champion_losses: ArrayLike, challenger_losses: ArrayLike
) -> JudgeState:
    """Take in rows in order."""
    raise NotImplementedError


def verdict(spec: JudgeSpec, state: JudgeState, waited_s: float, step: int = 0) -> JudgeVerdict:
    """Say what is to be done."""
    raise NotImplementedError
