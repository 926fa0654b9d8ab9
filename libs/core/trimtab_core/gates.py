"""Whether a candidate may go on, on the newest labelled rows beside the champion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trimtab_core.losses import Metric

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AbsoluteGate:
    """The candidate's metric lies within bounds."""

    metric: Metric
    at_most: float | None = None
    at_least: float | None = None


@dataclass(frozen=True, slots=True)
class ChampionGate:
    """The candidate is better than the champion by more than a margin, with confidence."""

    metric: Metric
    better_by: float = 0.0
    confidence: float = 0.95


@dataclass(frozen=True, slots=True)
class SliceGate:
    """On no slice is the candidate worse than the champion by more than a share, with confidence."""

    metric: Metric
    slices: str
    max_worse: float
    min_rows: int = 100
    confidence: float = 0.95


GateSpec = AbsoluteGate | ChampionGate | SliceGate


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Losses of the same rows, in the same order, by metric."""

    candidate: Mapping[Metric, Floats]
    champion: Mapping[Metric, Floats] | None = None
    slices: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GateResult:
    """What a gate found."""

    gate: GateSpec
    passed: bool
    value: float | None
    limit: float
    low: float | None
    high: float | None
    sentence: str


def evaluate(
    gates: Sequence[GateSpec], evaluation: Evaluation, *, seed: int = 0, rounds: int = 2_000
) -> list[GateResult]:
    """Apply each gate."""
    raise NotImplementedError
