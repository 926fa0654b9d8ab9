"""Writes a project for a user's own table: a source, a feature view and a model, with the reasons beside them.

What is written can be applied and trained as it is. What is a guess says so in a
comment, for the person who knows the data to correct.
"""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from trimtab_core.durations import format_duration
from trimtab_core.timestamps import NOT_A_TIME
from trimtab_runtime.errors import Rejected

from trimtab.infer import Column
from trimtab.typed import Reading, field_name

_MINUTE, _HOUR, _DAY = 60_000, 3_600_000, 86_400_000
_KEY = re.compile(r"(^|_)(id|uuid|key|guid|number|no|nr)$", re.IGNORECASE)
_TIME = re.compile(r"time|date|(^|_)(at|ts|on|stamp|when)(_|$)", re.IGNORECASE)
_LABEL = re.compile(
    r"^(label|target|class|outcome|y)$|churn|fraud|default(ed)?$|converted|survived|clicked", re.IGNORECASE
)
_MEASURE = re.compile(r"amount|price|fare|duration|minutes|demand|load|sales|cost|total", re.IGNORECASE)
_ENTITY = re.compile(
    r"zone|location|station|store|shop|city|region|country|user|customer|sensor|device|site|vendor|plan|(^|_)id$",
    re.IGNORECASE,
)
_ROW_ID = "row_id"
_NUMERIC = ("integer", "number")
_MOST_CLASSES = 50
_A_CLASS = 5
"""So many rows each class of a label has at the least, on average."""
_LONGEST_CLASS = 200
_TELLS = 0.98
"""A feature whose correlation with the label is higher may be the label itself in other words."""
_HOPS = ((3 * _DAY, 10 * _MINUTE, (6, 36)), (30 * _DAY, _HOUR, (6, 24)), (730 * _DAY, 12 * _HOUR, (14, 56)))
_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan"})


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a person has said already; empty for what they leave to the guess."""

    name: str
    label: str = ""
    key: str = ""
    time: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the project will be made of, and why."""

    name: str
    columns: Sequence[Column]
    time: Column
    key: Column | None
    """None where no column tells the rows apart: each gets an id on the way in."""
    label: Column
    entity: Column | None
    why: dict[str, str]
    """Of each choice, by its role."""

    @property
    def span_ms(self) -> int:
        """From the first event to the last."""
        times = _times(self.time)
        return int(times.max() - times.min())

    @property
    def daily(self) -> bool:
        """Whether the times are dates."""
        return bool((_times(self.time) % _DAY == 0).all())

    @property
    def measures(self) -> list[Column]:
        """Up to three numbers worth an aggregate, the label first if it is one."""
        return [each for each in (self.label, *self._inputs()) if each.type in _NUMERIC][:3]

    def _inputs(self) -> list[Column]:
        """The columns that a prediction may be told by themselves."""
        rest = [each for each in self.columns if each not in (self.time, self.key, self.label)]
        return [
            each
            for each in rest
            if each.type in (*_NUMERIC, "boolean") and each.distinct > 1 and not _names(each)
        ]

    def features(self) -> list[tuple[Column, str]]:
        """Return the inputs, each with a warning if it nearly says the label."""
        return [(each, _tells(each, self.label)) for each in self._inputs()]

    def texts(self) -> list[Column]:
        """Return the columns of texts that can be features, categories first."""
        rest = [each for each in self.columns if each not in (self.time, self.key, self.label)]
        return [
            *(each for each in rest if each.is_category),
            *(each for each in rest if each.wordy and each.distinct > 1),
        ]

    def left_out(self) -> list[tuple[Column, str]]:
        """Return the columns that are no features, and why."""
        used = [self.time, self.key, self.label, *self._inputs(), *self.texts()]
        found = []
        for column in self.columns:
            if column in used or column.type == "timestamp":
                continue
            if column.distinct < 2:
                found.append((column, "it is the same in every row" if column.distinct else "it is empty"))
            elif column.type == "string":
                found.append(
                    (
                        column,
                        f"{column.distinct:,} texts over {column.rows:,} rows name things rather than kinds",
                    )
                )
            else:
                found.append((column, "its numbers seem to be names"))
        return found

    @property
    def classes(self) -> tuple[str, ...]:
        """The values of a label that is a text; the rarest last, which of two is the positive one."""
        if self.label.type != "string":
            return ()
        counts = Counter(value for value in self.label.values if value is not None)
        return tuple(sorted(counts)) if len(counts) > 2 else tuple(name for name, _ in counts.most_common())


def plan(columns: Sequence[Column], wishes: Wishes) -> Plan:
    """Choose what the project is made of.

    Raises:
        Rejected: something that it needs cannot be found, or a wish cannot be met; it says what to do.
    """
    why: dict[str, str] = {}
    time = _time(columns, wishes.time, why)
    key = _key(columns, wishes.key, why)
    label = _label(columns, [each for each in (time, key) if each], wishes.label, why)
    return Plan(wishes.name, columns, time, key, label, _entity(columns, (time, key, label), why), why)


def _named(columns: Sequence[Column], name: str, option: str) -> Column:
    for column in columns:
        if name in (column.name, column.field):
            return column
    known = ", ".join(column.name for column in columns)
    raise Rejected(f"{option} {name!r} is no column of the file: name one of {known}")


def _time(columns: Sequence[Column], wish: str, why: dict[str, str]) -> Column:
    if wish:
        found = _named(columns, wish, "--time")
        if found.type != "timestamp":
            raise Rejected(
                f"--time {wish!r} holds no times that are understood, but {_shown(found)}: name another column"
            )
        why["time"] = "as you said"
        return found
    times = [each for each in columns if each.type == "timestamp"]
    if not times:
        raise Rejected(
            "no column looks like a time, and every event needs one: name it with --time, or add a column that says "
            "when each row was true"
        )
    best = min(times, key=lambda each: (each.nulls, not _TIME.search(each.name), columns.index(each)))
    others = ", ".join(each.name for each in times if each is not best)
    why["time"] = (
        f"the first time that every row has; others: {others}" if others else "the only column of times"
    )
    return best


def _key(columns: Sequence[Column], wish: str, why: dict[str, str]) -> Column | None:
    if wish:
        found = _named(columns, wish, "--key")
        if found.nullable:
            raise Rejected(
                f"--key {wish!r} is empty in {found.nulls:,} rows, and every event needs a key: name another"
            )
        if found.type == "timestamp":
            raise Rejected(
                f"--key {wish!r} holds times, and an instant is written in many ways, so no row is found by one: "
                "name another, or leave --key out"
            )
        why["key"] = "as you said" + ("" if found.unique else "; rows share it")
        return found
    alone = [each for each in columns if each.unique and each.type in ("string", "integer")]
    if named := [each for each in alone if _KEY.search(each.name)]:
        why["key"] = "no two rows have the same, and it is called like one"
        return named[0]
    if texts := [each for each in alone if each.type == "string" and not each.wordy]:
        why["key"] = "no two rows have the same"
        return texts[0]
    why["key"] = "no column tells the rows apart: `--row-id` gives each an id on the way in"
    return None


def _label(columns: Sequence[Column], taken: Sequence[Column], wish: str, why: dict[str, str]) -> Column:
    if wish:
        found = _named(columns, wish, "--label")
        if found.type not in (*_NUMERIC, "boolean") and not _is_class(found):
            values = f" and has {found.distinct:,} values" if found.type == "string" else ""
            raise Rejected(
                f"--label {wish!r} holds {_shown(found)}{values}, and a label is a number, a yes or no, or one of 2 to "
                f"{_MOST_CLASSES} texts: name another column"
            )
        why["label"] = "as you said"
        return found
    free = [
        each
        for each in columns
        if each not in taken and each.type in (*_NUMERIC, "boolean") and each.distinct > 1
    ]
    free = [each for each in free if not _names(each)] or free
    classes = [each for each in columns if each not in taken and _is_class(each)]
    if not free and not classes:
        raise Rejected(
            "no column can be what is predicted, a number, a yes or no, or one of a few texts: name one with --label, or add one"
        )
    for pattern, said, fit in (
        (_LABEL, "it is called like a label", [*free, *classes]),
        (_MEASURE, "it is called like something to predict", free),
    ):
        if called := [each for each in fit if pattern.search(each.field)]:
            why["label"] = f"a guess: {said}"
            return called[0]
    if not free:
        why["label"] = "a guess: the last column of a few texts"
        return classes[-1]
    binary = [each for each in free if _is_binary(each)]
    why["label"] = "a guess: the last yes or no" if binary else "a guess: the last number"
    return (binary or free)[-1]


def _entity(columns: Sequence[Column], taken: Sequence[Column | None], why: dict[str, str]) -> Column | None:
    fit = [
        each
        for each in columns
        if each not in taken[:1] and each is not taken[2] and each.type in ("string", "integer")
        and 2 <= each.distinct <= each.rows / 5 and not (each.type == "integer" and not _ENTITY.search(each.field))
    ]  # fmt: skip
    if not fit:
        why["entity"] = (
            "no column groups the rows, so the view has one row for all: add `entity: FIELD` if one does"
        )
        return None
    best = max(fit, key=lambda each: (bool(_ENTITY.search(each.field)), each.distinct))
    others = ", ".join(each.field for each in fit if each is not best)
    why["entity"] = f"a guess: {best.distinct:,} values over {best.rows:,} rows" + (
        f"; others: {others}" if others else ""
    )
    return best


def _is_class(column: Column) -> bool:
    """Whether a column of texts is of a few that can be the classes of a label."""
    most = min(_MOST_CLASSES, (column.rows - column.nulls) / _A_CLASS)
    return (
        column.type == "string"
        and 2 <= column.distinct <= most
        and max(len(value) for value in column.values if value is not None) <= _LONGEST_CLASS
    )


def _is_binary(column: Column) -> bool:
    return column.type == "boolean" or (column.distinct == 2 and (column.low, column.high) == (0.0, 1.0))


def _names(column: Column) -> bool:
    """Whether a column's numbers only name things."""
    return column.type == "integer" and bool(_KEY.search(column.name)) and not _is_binary(column)


def _tells(column: Column, label: Column) -> str:
    if column.numbers is None or label.numbers is None:
        return ""
    known = ~(np.isnan(column.numbers) | np.isnan(label.numbers))
    left, right = column.numbers[known], label.numbers[known]
    if len(left) < 10 or not left.std() or not right.std():
        return ""
    together = float(np.corrcoef(left, right)[0, 1])
    return f"moves with {label.field} (correlation {together:.2f})" if abs(together) > _TELLS else ""


def _shown(column: Column) -> str:
    examples = [value for value in column.values if value is not None][:1]
    return f"a {column.type}" + (f" such as {examples[0]!r}" if examples else "")


def _times(column: Column) -> Any:
    assert column.times is not None
    return column.times[column.times != NOT_A_TIME]


def files(plan: Plan, *, file: str, sampled: int) -> dict[str, str]:
    """Return the project's files by name."""
    return {
        "source.yaml": _lines(_source(plan, file, sampled)),
        "features.yaml": _lines(_view(plan)),
        "model.yaml": _lines(_model(plan)),
    }


def reading(plan: Plan, *, decimal_comma: bool) -> Reading:
    """Return how the file is to be read so that the project takes it."""
    renamed = {
        column.name: column.field
        for column in plan.columns
        if "+" in column.name or column.field not in (column.name, field_name(column.name))
    }
    formats = dict.fromkeys(column.time_format for column in plan.columns if column.time_format)
    return Reading(
        columns=renamed,
        nulls=_nulls(plan.columns),
        time_formats=list(formats),
        decimal_comma=decimal_comma,
        row_id="" if plan.key else _ROW_ID,
    )


def ingest_options(plan: Plan) -> list[str]:
    """Return the same as options of `trimtab ingest`, for history."""
    how = reading(plan, decimal_comma=False)
    options = ["--arrived", "event_time", *(["--row-id", how.row_id] if how.row_id else [])]
    options += [word for name, field in how.columns.items() for word in ("--map", f"{name}={field}")]
    options += [word for form in how.time_formats for word in ("--time-format", form)]
    return [*options, *[f"--null={text}" for text in how.nulls]]


def _nulls(columns: Sequence[Column]) -> list[str]:
    """Return what stands for null: in any column where no other holds it as a value, in its own where one does."""
    found: dict[str, None] = {}
    for column in columns:
        for text in column.null_texts:
            elsewhere = any(
                text in map(str, each.values)
                or text in [f"{value:g}" for value in set(each.values) if type(value) in (int, float)]
                for each in columns
                if text not in each.null_texts
            )
            found[f"{column.field}={text}" if elsewhere else text] = None
    return list(found)


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"


def _source(plan: Plan, file: str, sampled: int) -> Iterator[str]:
    command = shlex.join(["trimtab", "ingest", plan.name, file, *ingest_options(plan)])
    yield f"# What a row of {file} is, as its first {sampled:,} rows show it. What is a guess says so: you know better."
    yield f"# History goes in with: {command}"
    yield from ("apiVersion: trimtab/v1", "kind: Source", f"metadata: {{name: {plan.name}}}", "spec:")
    key = plan.key.field if plan.key else _ROW_ID
    yield f"  key: {_scalar(key)}  # {plan.why['key']}"
    yield f"  event_time: {_scalar(plan.time.field)}  # {plan.why['time']}"
    yield f"  lateness: {'1d' if plan.daily else '1h'}  # a row that arrives later than this after its time is refused"
    yield "  fields:"
    if plan.key is None:
        yield f"    {_ROW_ID}: {{type: string}}"
    for column in plan.columns:
        yield f"    {_scalar(column.field)}: {_field(column, needed=column in (plan.time, plan.key))}{_notes(column, plan)}"


def _field(column: Column, *, needed: bool) -> str:
    parts = [f"type: {column.type}"]
    if column.nullable and not needed:
        parts.append("nullable: true")
    parts += [
        f"{name}: {bound:.15g}"
        for name, bound in (("min", column.low), ("max", column.high))
        if bound is not None
    ]
    if column.enum:
        parts.append(f"enum: [{', '.join(_scalar(value) for value in column.enum)}]")
    return f"{{{', '.join(parts)}}}"


def _notes(column: Column, plan: Plan) -> str:
    notes = list(column.notes)
    if column.type == "timestamp" and not column.has_offset:
        notes.insert(
            0,
            "no offset is written, so it is taken as UTC: if local clocks wrote it, add timezone: Europe/Zurich",
        )
    if column.enum:
        notes.append("all that was seen: any other is refused")
    if column.unfit:
        notes.append(f"{column.unfit:,} rows hold something else, and are refused")
    if column in (plan.time, plan.key) and column.nullable:
        notes.append(f"{column.nulls:,} rows have none, and are refused")
    return f"  # {'; '.join(_one_line(note) for note in notes)}" if notes else ""


def _view(plan: Plan) -> Iterator[str]:
    hop, windows = _rhythm(plan)
    yield f"# How things have been lately{f' for each {plan.entity.field}' if plan.entity else ''}: only whole hops before a row count, never the row."
    yield from (
        "apiVersion: trimtab/v1",
        "kind: FeatureView",
        f"metadata: {{name: {_view_name(plan)}}}",
        "spec:",
    )
    yield f"  source: {plan.name}"
    yield (
        f"  entity: {_scalar(plan.entity.field)}  # {plan.why['entity']}"
        if plan.entity
        else f"  # {plan.why['entity']}"
    )
    yield "  aggregates:"
    shown = ", ".join(map(format_duration, windows))
    for column in plan.measures:
        yield f"    - {{field: {_scalar(column.field)}, functions: [mean, stddev], windows: [{shown}]}}"
    counted = plan.key.field if plan.key else _ROW_ID
    yield f"    - {{field: {_scalar(counted)}, functions: [count], windows: [{shown}]}}"
    yield f"  hop: {format_duration(hop)}  # how often values change; windows are multiples of it"
    yield f"  ttl: {format_duration(4 * max(windows))}  # after so long without an event an entity is forgotten"


def _rhythm(plan: Plan) -> tuple[int, list[int]]:
    """Return the hop and the windows that suit how long the data lasts."""
    found = [(hop, lengths) for until, hop, lengths in _HOPS if plan.span_ms < until]
    hop, lengths = found[0] if found else (_DAY, (7, 28))
    if plan.daily and hop < _DAY:
        hop, lengths = _DAY, (7, 28)
    return hop, [hop * length for length in lengths]


def _model(plan: Plan) -> Iterator[str]:
    label, rows = plan.label, len(_times(plan.time))
    classes = plan.classes
    binary = _is_binary(label) or len(classes) == 2
    metric = "log_loss" if binary or classes else "mae"
    yield f"# Predicts {label.field}: {plan.why['label']}. Another column: trimtab init --label COLUMN."
    yield from ("apiVersion: trimtab/v1", "kind: Model", f"metadata: {{name: {model_name(plan)}}}", "spec:")
    yield f"  task: {'binary' if binary else 'multiclass' if classes else 'regression'}  # {_task_said(label, binary=binary)}"
    yield f"  source: {plan.name}"
    yield "  features:  # only what is known when a prediction is asked for: take out what comes later"
    for column, tells in plan.features():
        line = f"- request.{column.field}"
        yield f"    # {line}  # {tells}: put it in if it is known by then" if tells else f"    {line}"
    for column in plan.texts():
        if column.is_category:
            yield f"    - request.{column.field}  # a category of {column.distinct:,} values"
        else:
            yield f"    - text(request.{column.field})  # words, of which each counts by itself"
    clocks = ("weekday", "month") if plan.daily else ("hour", "weekday")
    yield from (f"    - {clock}({plan.time.field})" for clock in clocks)
    yield f"    - {_view_name(plan)}.*"
    for column, said in plan.left_out():
        yield f"    # - request.{column.field}  # left out: {said}"
    on = plan.key.field if plan.key else _ROW_ID
    named = f", classes: [{', '.join(_scalar(each) for each in classes)}]" if classes else ""
    yield f"  label: {{source: {plan.name}, on: {_scalar(on)}, value: {_scalar(label.field)}, within: {'1d' if plan.daily else '1h'}{named}}}"
    if len(classes) == 2:
        yield "  # The second class is the positive one, whose probability is answered: the rarer here; turn them round if it is not."
    elif classes:
        yield "  # All classes that were seen, and a row of another is left out; more may be added at the end, later too."
    yield "  # The truth is in the row itself. Where it comes later, in a stream of its own, make that another source."
    window = format_duration(max(2, -(-plan.span_ms // _DAY) + 1) * _DAY)
    yield f"  trainer: {{kind: hist_gradient_boosting, window: {window}, min_rows: {max(10, min(200, rows // 4))}}}"
    yield "  gates:"
    yield f"    - {{metric: {metric}, versus: champion, better_by: 0.0, confidence: 0.95}}"
    yield f"    # - {{metric: {metric}, at_most: ...}}  # what is good enough to serve at all?"
    cap = "" if metric == "log_loss" else f", cap: {_cap(label):.15g}"
    yield f"  rollout: {{strategy: canary, steps: [10, 50, 100], judge: {metric}{cap}, within: 14d}}"
    yield f'  monitoring: {{window: {max(50, min(500, rows // 20))}, false_alarms: "1 per 90d"}}'


def _task_said(label: Column, *, binary: bool) -> str:
    if binary:
        return "it has two values"
    if label.type == "string":
        return f"it is one of {label.distinct:,} texts"
    few = label.type == "integer" and label.distinct <= _MOST_CLASSES
    how = "; if they are classes: task: multiclass, with all of them in label.classes" if few else ""
    return f"it is a number with {label.distinct:,} values{how}"


def _cap(label: Column) -> float:
    """Return what one row's error may count at most: about the distance of the farthest hundredth from the middle."""
    assert label.numbers is not None
    there = label.numbers[~np.isnan(label.numbers)]
    away = float(np.quantile(np.abs(there - np.median(there)), 0.99)) or 1.0
    return float(f"{away:.1g}")


def _view_name(plan: Plan) -> str:
    return f"{plan.name}_by_{_name(plan.entity.field)}"[:80] if plan.entity else f"{plan.name}_lately"[:80]


def _name(text: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")


def resource_name(text: str) -> str:
    """Return what a source made of something called `text` may be called."""
    found = _name(text) or "table"
    return (found if found[0].isalpha() else f"t-{found}")[:60]


def model_name(plan: Plan) -> str:
    """Return what the project's model is called."""
    return f"{plan.name}-{_name(plan.label.field)}"[:80]


def _scalar(value: Any) -> str:
    text = str(value)
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text) and text.lower() not in _WORDS
    return text if plain else json.dumps(text)


def _one_line(text: str) -> str:
    return " ".join(text.split())
