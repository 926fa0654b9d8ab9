"""From the rows on which a candidate was evaluated to what its gates say.

The rows are an Arrow table: `label`, `prediction`, `champion_prediction` (null where
the live version was not asked: of rows that it was fitted to, or of all without one)
and a column for each slice or group; one row a prediction. Of a multiclass task losses
are of `probabilities` and `champion_probabilities`, lists with one for each class. A gate
that compares reads the rows of which both were asked. What is no matter of rows (latency,
size, behavioural tests) was measured in the training process, and stands in the candidate.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from trimtab_core import gates, measured, specs
from trimtab_core.findings import Finding
from trimtab_core.losses import Metric, loss
from trimtab_core.measured import Document
from trimtab_core.measured import Gate as Gate


class NotCompared(ValueError):
    """A gate compares with a live version that could not be evaluated beside the candidate."""


def is_comparison(gate: specs.AnyGateSpec) -> bool:
    """Whether a gate compares the candidate with the champion."""
    if isinstance(gate, specs.LatencyGateSpec):
        return gate.versus is not None
    return isinstance(gate, specs.GateSpec) and gate.at_most is None


def judge(
    spec: specs.ModelSpec,
    table: Any,
    *,
    champion: int = 0,
    seed: int = 0,
    candidate: Document | None = None,
) -> list[Gate]:
    """Hold the evaluated rows, and what was measured of the `candidate`, to the gates of `spec`, and to its tests.

    `champion` is the live version they were evaluated beside, or 0.

    Raises:
        NotCompared: there is a champion, and no row of which it was asked.
        KeyError, ValueError: the rows lack what a gate reads.
    """
    offered = candidate or {}
    whole, both = _losses(spec, table), _losses(spec, _compared(table))
    said = _said(table, "prediction", "probabilities")
    rows = measured.Judged(table, _column(table, "label"), said, spec.label.classes)
    results = [
        gates.evaluate([_core_gate(gate)], both if is_comparison(gate) else whole, seed=seed)[0]
        if isinstance(gate, specs.GateSpec)
        else measured.hold(gate, rows, offered, beside=champion, seed=seed)
        for gate in spec.gates
    ]
    compared = [
        name_of(gate) for gate in spec.gates if isinstance(gate, specs.GateSpec) and is_comparison(gate)
    ]
    if champion and compared and both.champion is None:
        raise NotCompared(
            f"version {champion}, which is live, could not be evaluated beside it, so {', '.join(compared)} says nothing: "
            "keep the features that the live version needs until it is replaced, or drop the gate"
        )
    told = [_told(name_of(gate), result) for gate, result in zip(spec.gates, results, strict=True)]
    return [*told, *measured.tests(offered)]


def _compared(table: Any) -> Any:
    """Return the rows of which champion and candidate were asked; all, if the champion was asked of none."""
    said = table["champion_prediction"] if "champion_prediction" in table.column_names else None
    return table if said is None or said.null_count == len(table) else table.filter(pc.is_valid(said))


def _losses(spec: specs.ModelSpec, table: Any) -> gates.Evaluation:
    asked = [gate for gate in spec.gates if isinstance(gate, specs.GateSpec)]
    metrics: list[Metric] = [*{gate.metric for gate in asked}]
    label, said = _column(table, "label"), _said(table, "prediction", "probabilities")
    candidate = {metric: loss(metric, label, said) for metric in metrics}
    champion = None
    if "champion_prediction" in table.column_names and not table["champion_prediction"].null_count:
        said = _said(table, "champion_prediction", "champion_probabilities")
        champion = {metric: loss(metric, label, said) for metric in metrics}
    slices = {
        gate.slices: table[gate.slices].to_numpy(zero_copy_only=False)
        for gate in asked
        if gate.slices is not None
    }
    return gates.Evaluation(candidate, champion, slices)


def _said(table: Any, prediction: str, probabilities: str) -> NDArray[np.float64]:
    """Return predictions [rows], or probabilities [rows, classes] where there are some."""
    if probabilities not in table.column_names:
        return _column(table, prediction)
    lists = table[probabilities].combine_chunks()
    return np.asarray(lists.flatten().to_numpy(zero_copy_only=False), np.float64).reshape(len(lists), -1)


def _column(table: Any, name: str) -> NDArray[np.float64]:
    return np.asarray(table[name].to_numpy(zero_copy_only=False), dtype=np.float64)


def _core_gate(gate: specs.GateSpec) -> gates.GateSpec:
    if gate.at_most is not None:
        return gates.AbsoluteGate(gate.metric, at_most=gate.at_most)
    if gate.slices is not None and gate.max_worse is not None:
        return gates.SliceGate(gate.metric, gate.slices, gate.max_worse, confidence=gate.confidence)
    return gates.ChampionGate(gate.metric, gate.better_by, gate.confidence)


def name_of(gate: specs.AnyGateSpec) -> str:
    """Return what people call a gate, such as `mae versus champion`."""
    if not isinstance(gate, specs.GateSpec):
        return measured.name_of(gate)
    if gate.at_most is not None:
        return f"{gate.metric} at most {gate.at_most:g}"
    return f"{gate.metric} versus champion" if gate.slices is None else f"{gate.metric} by {gate.slices}"


def _told(name: str, result: gates.GateResult | Finding) -> Gate:
    return Gate(
        gate=name,
        passed=result.passed,
        value=result.value if result.value is not None else 0.0,
        limit=result.limit,
        low=result.low,
        high=result.high,
        sentence=result.sentence,
    )


def failed(results: Sequence[Gate]) -> list[Gate]:
    """Return the gates that were not passed."""
    return [gate for gate in results if not gate.passed]
