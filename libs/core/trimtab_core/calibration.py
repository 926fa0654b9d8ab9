"""How unusual a window is, for a stated rate of false alarms of the whole rule.

A level is found by playing the rule that will be used on the version's own rows;
the same rows and seed give the same level, and a tolerance only removes alarms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from trimtab_core.drift import Column, Kind, Reference

Floats = NDArray[np.float64]
TOLERANCE: Final[Mapping[Kind, float]] = {"numeric": 0.1, "categorical": 0.1}
LOSS_TOLERANCE: Final = 0.1


@dataclass(frozen=True, slots=True)
class Rule:
    """An alarm needs `k` of the last `n` windows over the level, the newest among them."""

    k: int = 2
    n: int = 3


@dataclass(frozen=True, slots=True)
class Null:
    """How a score is distributed while nothing changes."""

    quantiles: tuple[float, ...]
    tail: float


@dataclass(frozen=True, slots=True)
class DriftThresholds:
    """What turns the scores of a window of `window` rows into a verdict."""

    window: int
    rule: Rule
    false_alarms: float
    nulls: Mapping[str, Null]
    tolerance: Mapping[str, float]
    level: float
    clear_level: float
    small: bool

    def to_json(self) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class LevelThreshold:
    """What turns the mean loss of a window of `window` rows into a verdict."""

    window: int
    rule: Rule
    false_alarms: float
    mean: float
    null: Null
    tolerance: float
    level: float
    clear_level: float
    small: bool

    def to_json(self) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class WindowVerdict:
    """What one window says."""

    scores: Mapping[str, float]
    p_values: Mapping[str, float]
    min_p: float
    over: bool
    clear: bool
    drifted: tuple[str, ...]


def calibrate(
    columns: Mapping[str, Column],
    kinds: Mapping[str, Kind],
    *,
    window: int,
    false_alarms: float,
    rule: Rule = Rule(),
    seed: int = 0,
    rounds: int = 1_000,
    tolerance: Mapping[Kind, float] = TOLERANCE,
) -> DriftThresholds:
    """Find the thresholds."""
    raise NotImplementedError


def judge_window(
    thresholds: DriftThresholds, references: Mapping[str, Reference], columns: Mapping[str, Column]
) -> WindowVerdict:
    """Judge a window."""
    raise NotImplementedError


def calibrate_mean(
    losses: Sequence[float] | Floats,
    *,
    window: int,
    false_alarms: float,
    rule: Rule = Rule(),
    seed: int = 0,
    rounds: int = 1_000,
    tolerance: float = LOSS_TOLERANCE,
) -> LevelThreshold:
    """Find the threshold of a mean loss."""
    raise NotImplementedError


def judge_level(threshold: LevelThreshold, losses: Sequence[float] | Floats) -> WindowVerdict:
    """Judge a window of losses."""
    raise NotImplementedError
