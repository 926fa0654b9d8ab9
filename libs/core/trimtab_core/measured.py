"""Gates that are not about one metric: fairness and calibration over the rows, latency and size as measured, and tests.

Latency and behavioural tests were taken in the training process, where the graph is:
the candidate carries their numbers, and nothing is measured here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab_core import cost, specs
from trimtab_core.fairness import Fairness, fairness
from trimtab_core.findings import Finding, Floats
from trimtab_core.reliability import Calibration, calibration

Document = Mapping[str, Any]
Measured = specs.FairnessSpec | specs.CalibrationGateSpec | specs.LatencyGateSpec | specs.SizeGateSpec


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition a candidate was held to, with its numbers."""

    gate: str
    passed: bool
    value: float
    limit: float
    low: float | None
    high: float | None
    sentence: str


@dataclass(frozen=True, slots=True)
class Judged:
    """The rows on which a candidate was evaluated."""

    table: Any
    """With a column for each group."""
    label: Floats
    said: Floats
    """Predictions [rows], or probabilities [rows, classes]."""
    classes: Sequence[str]


def hold(gate: Measured, rows: Judged, candidate: Document, *, beside: int, seed: int) -> Finding:
    """Hold a candidate, and the rows on which it was evaluated beside a version (or beside 0, none), to a gate.

    Raises:
        KeyError, ValueError: they lack what the gate reads.
    """
    match gate:
        case specs.FairnessSpec():
            group = rows.table[gate.fairness].to_numpy(zero_copy_only=False)
            return fairness(fairness_of(gate), rows.label, rows.said, group, rows.classes)
        case specs.CalibrationGateSpec():
            bound = Calibration(gate.at_most, gate.bins, gate.confidence, gate.unsure)
            return calibration(bound, rows.label, rows.said, seed=seed)
        case specs.SizeGateSpec():
            return cost.held_to_size(int(candidate.get("model", {}).get("size", 0)), gate.at_most)
        case specs.LatencyGateSpec():
            return _latency(gate, candidate, beside)


def fairness_of(asked: specs.FairnessSpec) -> Fairness:
    """Return what a gate of fairness asks, or what is watched without one."""
    return Fairness(
        asked.fairness, asked.of, asked.max_difference, asked.min_ratio, asked.threshold, asked.confidence,
        asked.min_rows, asked.unsure if isinstance(asked, specs.FairnessGateSpec) else "passes",
    )  # fmt: skip


def _latency(gate: specs.LatencyGateSpec, candidate: Document, beside: int) -> Finding:
    taken = candidate.get("latency", {}).get(gate.latency)
    if taken is None:
        raise ValueError(f"the {gate.latency} latency was not measured: train again")
    found = cost.Latency(_bounded(taken["ms"]), taken.get("champion_ms"), _bounded(taken.get("ratio")))
    if gate.at_most is not None:
        return cost.held_to_time(gate.latency, found, gate.at_most)
    if beside and found.ratio is None:
        raise ValueError(
            f"version {beside}, which is live, could not be timed beside it, so {name_of(gate)} says nothing: keep the "
            "features that the live version needs until it is replaced, or drop the gate"
        )
    return cost.held_to_champion(gate.latency, found, gate.max_ratio or 0.0)


def _bounded(held: Mapping[str, float] | None) -> Any:
    return None if held is None else cost.Bounded(*(held.get(name, 0.0) for name in ("value", "low", "high")))


def name_of(gate: Measured) -> str:
    """Return what people call a gate, such as `p99 latency versus champion`."""
    match gate:
        case specs.FairnessSpec():
            return f"{gate.of} between {gate.fairness}"
        case specs.CalibrationGateSpec():
            return f"calibration_error at most {gate.at_most:g}"
        case specs.SizeGateSpec():
            return f"size at most {cost.shown_size(gate.at_most)}"
        case specs.LatencyGateSpec():
            limit = "versus champion" if gate.at_most is None else f"at most {gate.at_most:g} ms"
            return f"{gate.latency} latency {limit}"


def tests(candidate: Document) -> list[Gate]:
    """Return what the behavioural tests said that were applied when the candidate was trained."""
    return [
        Gate(
            gate=held["gate"],
            passed=held.get("passed", False),
            value=held.get("value", 0.0),
            limit=held.get("limit", 0.0),
            low=None,
            high=None,
            sentence=held.get("sentence", ""),
        )
        for held in candidate.get("tests", [])
    ]
