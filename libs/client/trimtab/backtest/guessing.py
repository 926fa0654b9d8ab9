"""A project for a table with a label and nothing else: what `trimtab init` would write, made to be lived through.

Contracts refuse nothing for its range here, for a world that drifts leaves the range of its
first rows, and what goes missing is no fault. Lengths of time follow from how long history is;
without a column of times, a row is taken for a minute, in the order of the file or of a column
of numbers.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import chain, islice
from operator import itemgetter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from trimtab_core import specs
from trimtab_core.contract import entity_text
from trimtab_core.durations import format_duration
from trimtab_core.losses import Task
from trimtab_core.specs import Model, Resource
from trimtab_runtime.errors import Rejected

from trimtab import infer, project, scaffold
from trimtab.backtest.history import LEAST_ROWS
from trimtab.files import File, Row
from trimtab.infer import Column
from trimtab.typed import number_of

_LOOKED_AT: Final = 50_000
_MOST_CLASSES: Final = 20
_OF_ROWS: Final = ("request.", "text(request.")
_OF_CLOCKS: Final = ("hour(", "weekday(")
_ROW_TIME: Final = "row_time"
_BEGIN_MS: Final = round(datetime(2000, 1, 1, tzinfo=UTC).timestamp() * 1000)
_ROW_MS: Final = 60_000
_BOUNDS: Final = ("min", "max", "enum")
_MAY_LACK: Final[Mapping[str, Any]] = {"nullable": True, "expect": {"null_share": "<= 1"}}
"""Nobody is there to mend what a file lacks, so more of it is drift and no fault that holds retrains up."""


class Ordered:
    """A file whose rows have no time: each is given one by its place, in the file or by the number that it has in a column `by`."""

    def __init__(self, file: File, by: str = "") -> None:
        self.path = file.path
        self._file = file
        self._by = by

    @property
    def decimal_comma(self) -> bool:
        """Whether `2,6` is a number."""
        return self._file.decimal_comma

    def rows(self) -> Iterator[Row]:
        """Read the rows, in order; those without a number to be ordered by keep what they have, for the contract to refuse."""
        if self._by:
            yield from self._sorted()
            return
        for row in self._file.rows():
            fields = None if row.fields is None else row.fields | {_ROW_TIME: _time_of(row.number)}
            yield Row(row.number, fields, row.line if fields is None else b"")

    def _sorted(self) -> Iterator[Row]:
        placed, others = list[tuple[float, Row]](), list[Row]()
        for row in self._file.rows():
            number = None if row.fields is None else row.fields.get(self._by)
            if isinstance(number, str):
                number = number_of(number, self.decimal_comma)
            at = math.nan
            if isinstance(number, int | float | Decimal):
                with suppress(OverflowError, ValueError):  # one beyond all floats, or a signalling NaN
                    at = float(number)
            if math.isfinite(at):
                placed.append((at, row))
            else:
                others.append(row)
        placed.sort(key=itemgetter(0))
        for place, (_, row) in enumerate(placed, start=1):
            yield Row(row.number, (row.fields or {}) | {self._by: _time_of(place)})
        yield from others


@dataclass(frozen=True, slots=True)
class Guessed:
    """A project, and how the file is read for it."""

    resources: Sequence[Resource]
    file: File | Ordered
    reading: Mapping[str, Any]
    in_order: bool
    """Whether the order of the file, or of a column of numbers, stands for time."""
    remarks: Sequence[str]
    """What a person should know of the guess."""


def guess(file: File, *, label: str, time: str = "", task: str = "") -> Guessed:
    """Return a project that predicts the column `label` of a file.

    Raises:
        Rejected: the file is empty, has no such columns, or its label cannot be predicted; it says what to do.
    """
    rows = [row.fields for row in islice(file.rows(), _LOOKED_AT) if row.fields is not None]
    if not rows:
        raise Rejected(f"{file.path} is empty: name a file with history in it")
    if len(rows) < LEAST_ROWS:
        raise Rejected(
            f"{file.path} has {len(rows)} rows, and a backtest needs {LEAST_ROWS}: give it more history"
        )
    columns = infer.columns(rows, decimal_comma=file.decimal_comma)
    by = next((each for each in columns if time in (each.name, each.field)), None) if time else None
    in_order = by is not None and by.type in ("integer", "number")
    if by is not None and in_order:
        columns = [_in_place_of(by) if each is by else each for each in columns]
    elif by is not None and by.type != "timestamp":
        raise Rejected(
            f"--time {time!r} holds no times that are understood, but a {by.type} such as {_example(by)!r}: name a column of times like "
            "2020-03-15T12:00:00Z or of numbers, or leave --time out, and the file's order stands for them"
        )
    elif not time and not any(each.type == "timestamp" for each in columns):
        in_order = True
        columns = [_row_time(len(rows)), *columns]
    target = _label(columns, label, file.path)
    classes = _classes(target, task)
    chosen = columns
    if target.type == "string":  # a scaffold knows labels that are numbers alone
        shown = replace(target, type="boolean", numbers=np.zeros(target.rows))
        chosen = [shown if each is target else each for each in columns]
    wishes = scaffold.Wishes(
        scaffold.resource_name(file.path.rpartition("/")[2].partition(".")[0]), label, "", time
    )
    plan = scaffold.plan(chosen, wishes)
    text = "\n---\n".join(scaffold.files(plan, file=file.path, sampled=len(rows)).values())
    found = [
        _loosened(each, plan, target, classes, task, clocks=not in_order)
        for each in project.parse(text).resources
    ]
    how = scaffold.reading(plan, decimal_comma=file.decimal_comma)
    reading = {
        "columns": how.columns,
        "nulls": how.nulls,
        "time_formats": how.time_formats,
        "row_id": how.row_id,
    }
    model = next(each for each in found if isinstance(each, Model))
    read = {each.name for each in columns}
    others = [name for name in dict.fromkeys(chain(*rows)) if name not in read]
    nested = [name for name in others if any(infer.is_nested(row.get(name)) for row in rows)]
    remarks = list(_remarks(model, plan, nested))
    if in_order:
        remarks.append(
            f"{by.name} holds numbers and no times, so their order stands for them, a row for a minute."
            if by is not None
            else "The file has no times, so its order stands for them, a row for a minute."
        )
    rows_of = Ordered(file, by.name if by is not None else "") if in_order else file
    return Guessed(found, rows_of, reading, in_order, remarks)


def _remarks(model: Model, plan: scaffold.Plan, nested: Sequence[str]) -> Iterator[str]:
    yield f"No spec was given, so one is guessed; its features: {', '.join(model.spec.features)}."
    for column, said in plan.features():
        if said:
            yield (
                f"{column.name} {said}: if it is not known before {plan.label.name} is, the numbers above mean nothing, and it is to be "
                "left out of the file."
            )
    left = [f"{column.name} ({why})" for column, why in _left_out(plan)]
    left += [f"{name} (it holds lists or objects)" for name in nested]
    if left:
        yield f"Left out: {'; '.join(left)}."


def _left_out(plan: scaffold.Plan) -> list[tuple[Column, str]]:
    """Return the columns that are no features, and why; what tells rows apart is one of them."""
    key = [(plan.key, plan.why["key"])] if plan.key is not None else []
    return [*key, *plan.left_out()]


def settled(model: Model, at_ms: NDArray[np.int64]) -> tuple[Model, int]:
    """Return a guessed model with lengths of time that suit a history, and the step to live it in."""
    rows, span_ms = len(at_ms), max(int(at_ms[-1] - at_ms[0]), 1_000)
    window = max(50, min(500, rows // 100))
    document = specs.to_document(model)
    spec = document["spec"]
    spec["label"]["within"] = "1s"
    spec["trainer"] |= {"window": _lasting(span_ms // 4), "min_rows": max(10, min(200, rows // 20))}
    spec["rollout"]["within"] = _lasting(span_ms // 20)
    spec["monitoring"] = {"window": window, "false_alarms": f"1 per {_lasting(span_ms)}"}
    spec["retrain"] = {
        # Each row has its label at once, so a look at losses row by row tells soonest.
        "on": ["data", "performance", "concept"],
        "cooldown": _lasting(span_ms * window // rows),
        "at_most": f"100 per {_lasting(span_ms)}",
    }
    found = specs.parse("Model", document)
    assert isinstance(found, Model)
    return found, max(span_ms // 1_000, 1_000)


def _lasting(milliseconds: int) -> str:
    return format_duration(max(milliseconds // 1_000, 1) * 1_000)


def _row_time(rows: int) -> Column:
    times = np.array([_time_of(number) for number in range(1, rows + 1)], np.int64)
    return Column(_ROW_TIME, _ROW_TIME, "timestamp", rows, 0, rows, times=times, values=times.tolist())


def _in_place_of(by: Column) -> Column:
    """Return a column of numbers as that of the times by which it is replaced."""
    return replace(_row_time(by.rows), name=by.name, field=by.field)


def _example(column: Column) -> Any:
    return next((value for value in column.values if value is not None), None)


def _time_of(number: int) -> int:
    return _BEGIN_MS + number * _ROW_MS


def _label(columns: Sequence[Column], name: str, path: str) -> Column:
    for column in columns:
        if name in (column.name, column.field):
            if column.distinct < 2:
                raise Rejected(
                    f"--label {name!r} is the same in every row of {path}, so there is nothing to learn: name another column"
                )
            return column
    known = ", ".join(column.name for column in columns if column.name != _ROW_TIME)
    raise Rejected(f"--label {name!r} is no column of {path}: name one of {known}")


def _classes(label: Column, task: str) -> tuple[str, ...]:
    """Return the classes of a label; none of a number, or of one that is 0 or 1 already."""
    if task == "regression":
        if label.numbers is None:
            raise Rejected(
                f"--task regression predicts a number, and {label.name!r} is a {label.type}: leave --task out"
            )
        return ()
    if label.numbers is not None and (
        not task or (label.low, label.high) == (0.0, 1.0) or label.type == "boolean"
    ):
        return ()
    values = sorted({entity_text(value) for value in label.values if value is not None})
    if not 2 <= len(values) <= _MOST_CLASSES or (task == "binary" and len(values) != 2):
        wanted = "two" if task == "binary" else f"2 to {_MOST_CLASSES}"
        raise Rejected(
            f"--label {label.name!r} has {len(values):,} different values, and a classification needs {wanted}: name another "
            "column, or say --task regression of a number"
        )
    return tuple(values)


def _loosened(
    resource: Resource, plan: scaffold.Plan, label: Column, classes: Sequence[str], task: str, *, clocks: bool
) -> Resource:
    """Return what a scaffold has written as a backtest of it needs it; `clocks` says whether times are such.

    Views are left out, and the month: over a history that is not many years long they always drift. What moves with the label
    is taken in, as a person who names a file and its label expects, and told.
    """
    document = specs.to_document(resource)
    spec = document["spec"]
    if resource.kind == "Source":
        needed = (spec["key"], spec["event_time"])
        for name, held in spec["fields"].items():
            loose = {key: value for key, value in held.items() if key not in _BOUNDS}
            spec["fields"][name] = loose if name in needed else {**loose, **_MAY_LACK}
        if label.type == "string":
            spec["fields"][label.field] = {"type": "string", "nullable": True}
    elif resource.kind == "Model":
        kinds = _OF_ROWS + _OF_CLOCKS if clocks else _OF_ROWS
        telling = [f"request.{column.field}" for column, said in plan.features() if said]
        spec["features"] = [*telling, *(name for name in spec["features"] if name.startswith(kinds))]
        if not spec["features"]:
            why = "; ".join(f"{column.name}: {said}" for column, said in _left_out(plan))
            raise Rejected(
                f"beside --label {label.name!r} no column can be a feature{why and f' ({why})'}: name a file that has more"
            )
        if classes or task in ("binary", "multiclass"):
            of: Task = "multiclass" if len(classes) > 2 else "binary"
            spec["task"] = of
            spec["label"] |= {"classes": list(classes)} if classes else {}
            spec["rollout"] = {"strategy": "canary", "steps": [10, 50, 100], "judge": "log_loss"}
            spec["gates"] = [{"metric": "log_loss", "versus": "champion"}]
    return specs.parse(resource.kind, document)
