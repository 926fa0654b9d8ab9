"""Whether a candidate may go on, on the newest labelled rows beside the champion.

What noise can explain neither passes a gate that asks for better nor fails one that
asks for not worse; the same rows and seed give the same result.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trimtab_core import bootstrap
from trimtab_core.losses import Metric, aggregate

Floats = NDArray[np.float64]

_MOST_UNITS: Final = 4_096
_MOST_WORSE: Final = 1e6
"""The largest ratio that is told: beside a champion without loss it has no bound, and a figure must be finite."""
_NORMAL: Final = NormalDist()


@dataclass(frozen=True, slots=True)
class AbsoluteGate:
    """The candidate's metric lies within bounds."""

    metric: Metric
    at_most: float | None = None
    at_least: float | None = None


@dataclass(frozen=True, slots=True)
class ChampionGate:
    """The candidate's metric is below the champion's by more than `better_by`, with confidence."""

    metric: Metric
    better_by: float = 0.0
    confidence: float = 0.95


@dataclass(frozen=True, slots=True)
class SliceGate:
    """On no slice of at least `min_rows` rows is the candidate worse by more than the share `max_worse`, with confidence.

    `slices` names the column whose values are the slices; the confidence is of all slices together.
    """

    metric: Metric
    slices: str
    max_worse: float
    min_rows: int = 100
    confidence: float = 0.95


GateSpec = AbsoluteGate | ChampionGate | SliceGate


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Per-row losses by metric, of the same rows in the same order, and columns to slice them by."""

    candidate: Mapping[Metric, Floats]
    champion: Mapping[Metric, Floats] | None = None
    slices: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GateResult:
    """What a gate found.

    `value` is the metric (absolute), champion - candidate (versus champion) or the share by which the candidate is worse
    on its worst slice; `low` and `high` bound it one-sidedly each. They are None where there was nothing to compare.
    """

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
    """Apply each gate, in order.

    Raises:
        ValueError: a gate's metric or slice column was not evaluated, or losses are empty, unequal in length or not finite.
    """
    return [_apply(gate, evaluation, seed, rounds) for gate in gates]


def _apply(gate: GateSpec, evaluation: Evaluation, seed: int, rounds: int) -> GateResult:
    candidate = _losses(evaluation.candidate, gate.metric, "candidate")
    if isinstance(gate, AbsoluteGate):
        return _absolute(gate, candidate)
    if evaluation.champion is None:
        limit = gate.better_by if isinstance(gate, ChampionGate) else gate.max_worse
        sentence = f"There is no champion to compare {gate.metric} with, so the gate passes."
        return GateResult(gate, True, None, limit, None, None, sentence)
    champion = _losses(evaluation.champion, gate.metric, "champion")
    if champion.shape != candidate.shape:
        raise ValueError(
            f"{gate.metric} has {candidate.size} candidate and {champion.size} champion rows: evaluate the same"
        )
    if isinstance(gate, ChampionGate):
        return _versus(gate, candidate, champion, seed, rounds)
    if gate.slices not in evaluation.slices or len(evaluation.slices[gate.slices]) != candidate.size:
        raise ValueError(
            f"slice column {gate.slices!r} is absent or not one value a row: add it to the evaluation"
        )
    return _sliced(gate, candidate, champion, evaluation.slices[gate.slices])


def _absolute(gate: AbsoluteGate, candidate: Floats) -> GateResult:
    if (gate.at_most is None) == (gate.at_least is None):
        raise ValueError(
            f"an absolute gate on {gate.metric} has exactly one of at_most and at_least: give one"
        )
    value = aggregate(gate.metric, candidate)
    limit, word, passed = (
        (gate.at_most, "most", value <= gate.at_most)
        if gate.at_most is not None
        else (gate.at_least or 0.0, "least", value >= (gate.at_least or 0.0))
    )
    sentence = (
        f"The candidate's {gate.metric} is {value:.4g}, {_where(passed)} the limit of at {word} {limit:.4g}."
    )
    return GateResult(gate, passed, value, limit, None, None, sentence)


def _versus(gate: ChampionGate, candidate: Floats, champion: Floats, seed: int, rounds: int) -> GateResult:
    value = aggregate(gate.metric, champion) - aggregate(gate.metric, candidate)
    low, high = _bca(gate, candidate, champion, value, seed, rounds)
    passed = low > gate.better_by
    direction = "below" if value >= 0 else "above"
    sentence = (
        f"The candidate's {gate.metric} is {abs(value):.4g} {direction} the champion's (at least {low:.4g} below with "
        f"{gate.confidence:.0%} confidence), {_where(passed)} the margin of more than {gate.better_by:.4g}."
    )
    return GateResult(gate, passed, value, gate.better_by, low, high, sentence)


def _bca(
    gate: ChampionGate, candidate: Floats, champion: Floats, value: float, seed: int, rounds: int
) -> tuple[float, float]:
    """Bound the difference by the paired bootstrap, over at most 4,096 units."""
    starts = bootstrap.starts(candidate.size, _MOST_UNITS)
    sizes = np.diff(np.append(starts, candidate.size)).astype(np.float64)
    sums = np.stack([np.add.reduceat(champion, starts), np.add.reduceat(candidate, starts), sizes])
    shares = (1 - gate.confidence, gate.confidence)

    def difference(drawn: Floats) -> Floats:
        return _difference(gate.metric, drawn)[None]

    [(low, high)] = bootstrap.bounds(
        sums, difference, np.array([value]), shares, seed=seed, rounds=rounds
    ).tolist()
    return low, high


def _difference(metric: Metric, sums: Floats) -> Floats:
    """Return champion - candidate from sums of both and of rows along the first axis."""
    means = sums[:2] / sums[2]
    values = np.sqrt(means) if metric == "rmse" else means
    return np.asarray(values[0] - values[1])


def _sliced(gate: SliceGate, candidate: Floats, champion: Floats, column: NDArray[Any]) -> GateResult:
    """Test each slice for a mean of candidate - allowed * champion above 0, by Bonferroni over slices.

    Worse by a share is linear in the losses, and for `rmse` in their squares, so a z-test reads all slices in one pass.
    """
    names, number = np.unique(np.asarray(column).astype(str), return_inverse=True)
    rows = np.bincount(number)
    large = np.flatnonzero(rows >= gate.min_rows)
    if large.size == 0:
        sentence = f"No slice of {gate.slices} has {gate.min_rows} rows to compare {gate.metric} on, so the gate passes."
        return GateResult(gate, True, None, gate.max_worse, None, None, sentence)
    power = 2 if gate.metric == "rmse" else 1
    allowed = (1 + gate.max_worse) ** power
    excess = candidate - allowed * champion
    mean = np.bincount(number, excess) / rows
    spread = np.sqrt(np.bincount(number, (excess - mean[number]) ** 2) / np.maximum(rows - 1, 1) / rows)
    base = np.bincount(number, champion) / rows
    reach = _NORMAL.inv_cdf(1 - (1 - gate.confidence) / large.size) * spread

    def worse_by(excess_mean: Floats) -> Floats:
        ratio = np.divide(excess_mean, base, out=np.where(excess_mean > 0, np.inf, 0.0), where=base > 0)
        return np.asarray(np.clip(allowed + ratio, 0, _MOST_WORSE) ** (1 / power) - 1)

    value, low, high = worse_by(mean), worse_by(mean - reach), worse_by(mean + reach)
    refusing = large[(mean - reach)[large] > 0]
    worst = large[np.argmax(low[large])]
    passed = refusing.size == 0
    side = "above" if value[worst] >= 0 else "below"
    sentence = (
        f"On {gate.slices} {names[worst]} ({rows[worst]} rows), the worst of {large.size} slices, the candidate's "
        f"{gate.metric} is {abs(value[worst]):.1%} {side} the champion's, {_where(passed)} the limit of "
        f"{gate.max_worse:.1%} above at {gate.confidence:.0%} confidence."
    )
    return GateResult(
        gate, passed, float(value[worst]), gate.max_worse, float(low[worst]), float(high[worst]), sentence
    )


def _losses(of: Mapping[Metric, Floats], metric: Metric, who: str) -> Floats:
    if metric not in of:
        raise ValueError(
            f"the {who} was not evaluated on {metric}: add it to the evaluation, or drop the gate"
        )
    losses = np.asarray(of[metric], dtype=np.float64)
    if losses.size == 0 or not np.isfinite(losses).all():
        raise ValueError(
            f"the {who}'s {metric} has no rows or one that is not finite: evaluate on finite labelled rows"
        )
    return losses


def _where(passed: bool) -> str:
    return "which meets" if passed else "which misses"
