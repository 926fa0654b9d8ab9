"""A model that a person brings along, or has made of several versions, in the place of one that is fitted.

It is judged, compared and exported by the same steps as a fitted one. It answers with one finite number a row, a
probability where those are asked for, or one for each class, or the run fails with what to change.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from trimtab_core.specs import ModelSpec
from trimtab_training import combining, export, inputs, reference, signature
from trimtab_training.errors import RunFailed
from trimtab_training.families import Floats, Matrix, own
from trimtab_training.fitting import Rows
from trimtab_training.inputs import Inputs
from trimtab_training.making import Made

LEAST = 100
"""So many rows that it was not fitted to are enough to judge it by."""
_LABEL, _TIME = "label", "event_time_ms"


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph as serving runs it."""

    content: bytes
    features: tuple[str, ...]
    task: str
    classes: tuple[str, ...]
    """Of a multiclass task."""

    def predict(self, features: Matrix | Inputs) -> Floats:
        """Return predictions [rows], or probabilities [rows, classes].

        Raises:
            RunFailed: it cannot run, or answers with what is no prediction.
        """
        try:
            said = export.run(self.content, features)
        except Exception as error:  # ONNX Runtime's own exceptions share no base
            raise RunFailed(
                f"the model fails on {len(features)} rows: {error}; mend it, and register it again"
            ) from error
        if said.shape != (len(features), *([len(self.classes)] if self.classes else [])):
            wanted = f"one for each of {', '.join(self.classes)}" if self.classes else "one"
            raise RunFailed(
                f"the model gives {said.size} numbers for {len(features)} rows: export it with {wanted} a row"
            )
        if not (finite := np.isfinite(said.reshape(len(said), -1)).all(axis=1)).all():
            raise RunFailed(self._blank(features, said, finite))
        return own.probable(said, "the model") if self.task != "regression" else said

    def to_onnx(self) -> Any:
        """Return the graph."""
        return onnx.load_model_from_string(self.content)

    def _blank(self, features: Matrix | Inputs, said: Floats, finite: Any) -> str:
        numbers, _ = inputs.pair(features)
        missing = [
            name
            for name, column in zip(self.features, np.isnan(numbers[~finite]).any(0), strict=True)
            if column
        ]
        where = f", where {', '.join(missing)} may be missing" if missing else ""
        return (
            f"the model gives {said[~finite].flat[0]} for {int((~finite).sum())} of {len(said)} rows{where}: a feature that is "
            "missing is NaN, so let the graph itself put something in its place"
        )


@dataclass(frozen=True, slots=True)
class Brought:
    """A model that was brought, and what is known of it."""

    graph: Graph
    origin: str
    digest: str
    trained_to_ms: int | None
    rows: Rows | None
    """The rows that came with it."""
    texts: tuple[str, ...] = ()
    parts: tuple[combining.Part, ...] = ()
    """The versions that it is the mean of."""

    def unseen(self, rows: Rows, held_out: slice) -> slice:
        """Return the places to judge by: of the held-out ones those that are newer than its own training.

        Raises:
            RunFailed: they are too few.
        """
        if self.trained_to_ms is None:
            return held_out
        newer = int(np.searchsorted(rows.event_time_ms, self.trained_to_ms, side="right"))
        found = slice(max(held_out.start, newer), held_out.stop)
        if found.stop - found.start < LEAST:
            who, remedy = (
                "the model",
                ", or name no --trained-to and have it judged by the newest rows all the same",
            )
            if self.parts:
                who, remedy = f"one of {self.origin}", ""
            raise RunFailed(
                f"{max(0, found.stop - found.start)} labelled rows are newer than what {who} was trained on, and it takes "
                f"{LEAST} to judge it: wait for more{remedy}"
            )
        return found

    def at_work(self, rows: Rows, unseen: Floats, judged: slice) -> tuple[Rows, Floats]:
        """Return the rows that its reference is made of, and what it says of them.

        They are those that came with it. Without any: those it is judged by, if it is known which it has not seen.
        """
        if self.rows is not None:
            return self.rows, self.graph.predict(self.rows.features)
        if self.trained_to_ms is not None:
            return rows[judged], unseen[judged]
        return rows, unseen

    def made(self, rows: Rows, judged: slice) -> Made:
        """Return what a fit would come to: nothing is fitted, and the model has seen what it has seen.

        Raises:
            RunFailed: it answers with what is no prediction, or otherwise than its parts do.
        """
        if self.parts:
            checked = export.to_check(rows.features)
            combining.check(self.graph.content, self.parts, self.graph.features, self.texts, checked)
        said = self.graph.predict(rows.features)
        shown, unseen = self.at_work(rows, said, judged)
        newest = slice(max(0, len(shown) - reference.MOST_ROWS), len(shown))
        return Made(self.graph, rows, said[judged], shown[newest], unseen[newest], {})

    def record(self, rows: Rows) -> dict[str, Any]:
        """Return what a run's result says otherwise than of a fit.

        Where nobody says up to when it was trained, it may have been on all there is.
        """
        newest = int(rows.event_time_ms[-1])
        return {
            "parameters": {
                "kind": "ensemble" if self.parts else "registered",
                "origin": self.origin,
                "sha256": self.digest,
            },
            "trained_to_ms": newest if self.trained_to_ms is None else min(self.trained_to_ms, newest),
        }


def brought(folder: Path, features: Sequence[str], texts: Sequence[str], spec: ModelSpec) -> Brought | None:
    """Return the model in a job's folder, None if one is to be fitted.

    Raises:
        RunFailed: it is none that can serve these features.
    """
    if not (folder / "registered.json").exists():
        return None
    told, task = json.loads((folder / "registered.json").read_text()), spec.task
    classes = spec.label.classes if task == "multiclass" else ()
    parts = tuple(_part(folder, part) for part in told.get("parts", ()))
    try:
        if parts:
            content = graph = combining.combined(parts, features, texts, task, classes)
        else:
            content = (folder / "registered.onnx").read_bytes()
            graph = export.serialised(
                signature.adapted(content, features, task, texts=texts, classes=classes)
            )
    except onnx.checker.ValidationError as error:
        raise RunFailed(f"the model is not well formed ({error}): export it anew") from error
    reference = folder / "registered.parquet"
    return Brought(
        Graph(graph, tuple(features), task, classes),
        told["origin"],
        hashlib.sha256(content).hexdigest(),
        told["trained_to_ms"],
        _rows(reference, features, texts, spec.label.classes) if reference.exists() else None,
        tuple(texts),
        parts,
    )


def _part(folder: Path, told: Mapping[str, Any]) -> combining.Part:
    return combining.Part(
        name=f"version {told['version']}",
        content=(folder / f"version-{told['version']}.onnx").read_bytes(),
        weight=told["weight"],
        features=tuple(told["features"]),
        texts=tuple(told["texts"]),
        task=told["task"],
        classes=tuple(told["classes"]),
    )


def _rows(path: Path, features: Sequence[str], texts: Sequence[str], classes: Sequence[str]) -> Rows:
    """Return the rows that came with a model.

    Raises:
        RunFailed: they are no such rows.
    """
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise RunFailed(
            f"the reference data is no Parquet that can be read ({error}): write it again"
        ) from error
    names = {
        name: next(filter(table.column_names.__contains__, signature.called(name)), name)
        for name in [*features, *texts]
    }
    if lacking := [name for name in [*names.values(), _LABEL] if name not in table.column_names]:
        raise RunFailed(
            f"the reference data has no column {', '.join(lacking)}: give it one for each feature, and {_LABEL}"
        )
    if table.num_rows < LEAST:
        raise RunFailed(
            f"the reference data has {table.num_rows} rows, and it takes {LEAST} to say what is usual: add some"
        )
    if _TIME in table.column_names:
        table = table.sort_by(_TIME)
    label = _label(table, classes)
    if blank := int((~np.isfinite(label)).sum()):
        raise RunFailed(f"{_LABEL} is missing in {blank} rows of the reference data: leave those out")
    times = (
        table[_TIME].to_numpy().astype(np.int64)
        if _TIME in table.column_names
        else np.zeros(len(label), np.int64)
    )
    columns = [_numbers(table, names[name]) for name in features] + [
        _words(table, names[name]) for name in texts
    ]
    seen = pa.table(dict(zip([*features, *texts], columns, strict=True)))
    return Rows(inputs.of(seen, features, texts), label, times)


def _label(table: pa.Table, classes: Sequence[str]) -> Floats:
    """Return the labels: numbers, or the numbers of classes that are called by their names."""
    column = table[_LABEL]
    if not classes or (len(classes) == 2 and not pa.types.is_string(column.type)):
        return _numbers(table, _LABEL)
    number = {name: float(at) for at, name in enumerate(classes)}
    said = column.cast(pa.string()).to_pylist()
    if others := sorted({each for each in said if each is not None} - set(number)):
        raise RunFailed(
            f"{_LABEL} of the reference data is {', '.join(others[:3])} in some rows, and the classes are {', '.join(classes)}: "
            "leave those rows out, or name the classes as the spec does"
        )
    return np.array([number.get(each, np.nan) for each in said])


def _words(table: pa.Table, name: str) -> Any:
    if not pa.types.is_string(table[name].type) and not pa.types.is_large_string(table[name].type):
        raise RunFailed(
            f"column {name} of the reference data is {table[name].type}, and a text is wanted: convert it"
        )
    return table[name].cast(pa.string())


def _numbers(table: pa.Table, name: str) -> Floats:
    try:
        return np.asarray(table[name].cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    except pa.ArrowException as error:
        raise RunFailed(
            f"column {name} of the reference data is {table[name].type}, and a number is wanted: convert it"
        ) from error
