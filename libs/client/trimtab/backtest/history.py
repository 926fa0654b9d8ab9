"""A user's files as the history of one model: each row as it would have been asked, with the truth that came.

Rows pass the sources' contracts as they would on their way in, and arrive when they
happen. Features are those of the training sets: point in time, from completed slots.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from trimtab_core.contract import compile_contract, entity_key, entity_text
from trimtab_core.features import (
    Feature,
    FeatureFault,
    RequestEvaluator,
    TableFeature,
    ViewFeature,
    inputs,
    numbers,
    required_fields,
    resolve,
    texts,
)
from trimtab_core.grouping import Grouping
from trimtab_core.pointintime import NEVER, join_labels, point_in_time
from trimtab_core.slots import Layout
from trimtab_core.specs import FeatureView, Model, Resource, Source, Table
from trimtab_core.timestamps import NOT_A_TIME, iso, parse_timestamps, zone
from trimtab_runtime.errors import Rejected
from trimtab_training.inputs import Inputs, Matrix, pair

from trimtab.files import Row
from trimtab.typed import Reading, Typing

Floats = NDArray[np.float64]
Millis = NDArray[np.int64]
LEAST_ROWS: Final = 100
"""Rows of history without which nothing can be said."""
_AT_ONCE: Final = 20_000
_OTHER_CLASS: Final = -1.0


@dataclass(frozen=True, slots=True)
class Project:
    """The specs that a backtest of one model needs."""

    model: Model
    sources: Mapping[str, Source]
    views: Mapping[str, FeatureView]
    features: tuple[Feature, ...]

    @classmethod
    def of(cls, resources: Iterable[Resource], name: str = "") -> "Project":
        """Return what `resources` say of the model called `name`, or of the only one.

        Raises:
            Rejected: there is no such model, or what it leans on is missing.
        """
        every = list(resources)
        models = {each.name: each for each in every if isinstance(each, Model)}
        if name not in models and (name or len(models) != 1):
            there = ", ".join(models) or "none"
            raise Rejected(
                f"the project has no model {name!r} but {there}: name one of these with --model"
                if name
                else f"the project has {len(models)} models ({there}): name one with --model"
            )
        model = models[name] if name else next(iter(models.values()))
        sources = {each.name: each for each in every if isinstance(each, Source)}
        views = {each.name: each for each in every if isinstance(each, FeatureView)}
        source = _there(sources, model.spec.source, model)
        tables = {each.name: each.spec for each in every if isinstance(each, Table)}
        try:
            held = {view: each.spec for view, each in views.items()}
            features = resolve(model.spec.features, source.spec, held, tables)
        except FeatureFault as fault:
            raise Rejected(f"model {model.name!r}: {fault}") from fault
        for each in inputs(features):
            if isinstance(each, TableFeature):
                raise Rejected(
                    f"feature {each.name!r} looks into a table, whose history no file of events has: leave it out to backtest"
                )
        used = {each.view: views[each.view] for each in inputs(features) if isinstance(each, ViewFeature)}
        named = [model.spec.source, model.spec.label.source, *(view.spec.source for view in used.values())]
        return cls(model, {each: _there(sources, each, model) for each in named}, used, features)

    def fields(self, source: str) -> set[str]:
        """Return the fields of a source that are read of its rows."""
        spec, found = self.model.spec, set[str]()
        if source == spec.source:
            views = {name: view.spec for name, view in self.views.items()}
            found |= required_fields(self.features, views) | {spec.label.on, *spec.groups}
        if source == spec.label.source:
            found |= {spec.label.on, spec.label.value}
        for view in self.views.values():
            if view.spec.source == source:
                layout = Layout.of(view.spec, self.sources[source].spec.lateness)
                found |= {*layout.fields, *view.spec.entities}
        return found


class Rows(Protocol):
    """A file, or what gives rows like one."""

    path: str

    @property
    def decimal_comma(self) -> bool:
        """Whether `2,6` is a number."""
        ...

    def rows(self) -> Iterator[Row]:
        """Read the rows, in order."""
        ...


@dataclass(slots=True)
class Events:
    """The events of one source, in order of event time."""

    at_ms: Millis
    columns: dict[str, list[Any]]
    """By field, those that are read."""
    refused: Counter[str] = field(default_factory=Counter)
    """How many rows the contract refused, and those of before 1970, by reason."""

    def rows(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return the rows with some of their fields."""
        if not names:
            return [{}] * len(self.at_ms)
        return [
            dict(zip(names, values, strict=True))
            for values in zip(*(self.columns[name] for name in names), strict=True)
        ]


@dataclass(frozen=True, slots=True)
class History:
    """Rows in order of event time, each with what is known of it."""

    at_ms: Millis
    features: Matrix | Inputs
    """As a model is shown them."""
    names: tuple[str, ...]
    """Of the features that are numbers, in order."""
    texts: tuple[str, ...]
    """Of those that are texts."""
    label: Floats
    """NaN where none came in time; of classes their numbers."""
    known_ms: Millis
    """When each label came, `NEVER` where none did."""
    groups: Mapping[str, NDArray[Any]]
    """By field, what gates tell rows apart by."""
    refused: Mapping[str, int]
    """How many rows the contracts refused, by source and reason."""
    in_order: bool = False
    """Whether its times stand for places in a file."""

    def __len__(self) -> int:
        return len(self.at_ms)

    def row(self, at_ms: int) -> int:
        """Return the number of the newest row at a time, from 1."""
        return int(np.searchsorted(self.at_ms, at_ms, side="right"))

    def when(self, at_ms: int) -> str:
        """Return a time as people read it, or the row that stands for it."""
        return f"row {self.row(at_ms):,}" if self.in_order else iso(at_ms)[:16].replace("T", " ")

    @property
    def numbers(self) -> Matrix:
        """The features that are numbers, float32 [rows, numbers]."""
        return pair(self.features)[0]

    @property
    def words(self) -> NDArray[np.object_]:
        """The features that are texts [rows, texts]."""
        return pair(self.features)[1]

    @property
    def carries(self) -> tuple[str, ...]:
        """The names of both, as monitoring knows what a prediction carries."""
        return self.names + self.texts


def events(
    source: Source,
    files: Sequence[Rows],
    fields: set[str],
    reading: Mapping[str, Any],
    on_rows: Callable[[int], object] = lambda _: None,
) -> Events:
    """Read the events of a source, of which `fields` are kept; `on_rows` hears how many rows were read at once.

    Raises:
        Rejected: a file cannot be read, or none of its rows is one.
    """
    spec, contract = source.spec, compile_contract(source.spec)
    where = zone(spec.fields[spec.event_time].timezone)
    times: list[Millis] = []
    columns: dict[str, list[Any]] = {name: [] for name in sorted(fields)}
    refused: Counter[str] = Counter()
    example = ""
    for file in files:
        typing = Typing(spec, Reading(**reading, decimal_comma=file.decimal_comma))
        rows = file.rows()
        while chunk := list(islice(rows, _AT_ONCE)):
            typed = [typing.typed(row, str(row.number)) for row in chunk]
            arrived = parse_timestamps([each.get(spec.event_time) for each, _ in typed], where)
            arrived[arrived == NOT_A_TIME] = 0
            checked = contract.check([payload for _, payload in typed], arrived)
            good = np.array([not reasons for reasons in checked.reasons])
            for reasons in checked.reasons:
                if reasons:
                    refused[f"{reasons[0].code} {reasons[0].field}".strip()] += 1
                    example = example or reasons[0].message
            good &= checked.event_time_ms != NOT_A_TIME
            if (early := good & (checked.event_time_ms < 0)).any():
                refused[f"{spec.event_time} before 1970"] += int(early.sum())
                first = iso(int(checked.event_time_ms[early.argmax()]))
                example = (
                    example
                    or f"its {spec.event_time} is {first}, and a backtest's time begins in 1970: leave such rows out"
                )
            places = np.flatnonzero(good & ~early)
            held = [checked.rows[at] or {} for at in places.tolist()]
            times.append(checked.event_time_ms[places])
            for name, column in columns.items():
                column += [row.get(name) for row in held]
            on_rows(len(chunk))
    at_ms = np.concatenate(times) if times else np.empty(0, np.int64)
    if not len(at_ms):
        said = ", ".join(file.path for file in files)
        total = sum(refused.values())
        raise Rejected(
            f"{said} has no row that source {source.name!r} takes: "
            + (f"all {total:,} are refused, the first because {example}" if total else "it is empty")
        )
    order = np.argsort(at_ms, kind="stable")
    if (order[1:] < order[:-1]).any():
        at_ms, places = at_ms[order], order.tolist()
        columns = {name: [column[at] for at in places] for name, column in columns.items()}
    return Events(at_ms, columns, refused)


def history(project: Project, held: Mapping[str, Events]) -> History:
    """Return the history of a project's model from the events of its sources, by name.

    Raises:
        Rejected: rows or labels are too few, or the labels are all the same.
    """
    model, spine = project.model, held[project.model.spec.source]
    label, known_ms = _labels(project, held)
    _must_tell(model, label, len(spine.at_ms))
    matrix = _numbers(project, held).astype(np.float32)
    wanted = texts(project.features)
    shown: Matrix | Inputs = matrix
    if wanted:
        column = RequestEvaluator(wanted).texts(spine.rows([each.field for each in wanted]))
        shown = Inputs(matrix, column, tuple(each.words for each in wanted))
    groups = {
        name: np.array(["(none)" if each is None else entity_text(each) for each in spine.columns[name]])
        for name in model.spec.groups
    }
    refused = {
        f"{source}: {reason}": count
        for source, each in held.items()
        for reason, count in each.refused.most_common()
    }
    names = tuple(each.name for each in numbers(project.features))
    words = tuple(each.name for each in wanted)
    return History(spine.at_ms, shown, names, words, label, known_ms, groups, refused)


def _numbers(project: Project, held: Mapping[str, Events]) -> Floats:
    spine = held[project.model.spec.source]
    evaluator = RequestEvaluator(project.features)
    own = sorted(
        required_fields([each for each in evaluator.inputs if not isinstance(each, ViewFeature)], {})
    )
    matrix = evaluator.evaluate(spine.rows(own), spine.at_ms)
    for name, view in project.views.items():
        columns, found = view.spec.columns(), _view(project, view, held)
        for place, each in enumerate(evaluator.inputs):
            if isinstance(each, ViewFeature) and each.view == name:
                matrix[:, place] = found[:, columns.index(each.column)]
    return evaluator.finish(matrix)


def _view(project: Project, view: FeatureView, held: Mapping[str, Events]) -> Floats:
    source, spine = project.sources[view.spec.source], held[project.model.spec.source]
    seen = held[view.spec.source]
    layout = Layout.of(view.spec, source.spec.lateness)
    columns = {name: seen.columns[name] for name in layout.fields}
    entities_of, spine_of = (_entities(each, view.spec.entities) for each in (seen, spine))
    return point_in_time(
        layout,
        entities_of,
        seen.at_ms,
        Grouping(layout, source.spec.fields).values(columns, len(seen.at_ms)),
        seen.at_ms,
        spine_of,
        spine.at_ms,
        [f"{at:012}" for at in range(len(seen.at_ms))] if layout.ends else (),
    )


def _entities(events: Events, names: Sequence[str]) -> pa.Array:
    """Return what entities are called that fields name together, null where one of them is."""
    if len(names) == 1:
        return pa.array(events.columns[names[0]])
    if not names:
        return pa.array([""] * len(events.at_ms))
    parts = zip(*(events.columns[name] for name in names), strict=True)
    return pa.array([entity_key(each) for each in parts], pa.string())


def _labels(project: Project, held: Mapping[str, Events]) -> tuple[Floats, Millis]:
    """Return the label of each row, NaN where there is none, and when it came."""
    label, spine = project.model.spec.label, held[project.model.spec.source]
    said = held[label.source]
    value = _label_values(said.columns[label.value], label.classes)
    there = np.flatnonzero(~np.isnan(value))
    keys = pa.array(said.columns[label.on]).take(pa.array(there))
    at_ms = said.at_ms[there]
    asked = pa.array(spine.columns[label.on])
    found, came = (
        join_labels(asked, spine.at_ms, keys, each, at_ms, at_ms, label.within, NEVER)[0]
        for each in (value[there], at_ms.astype(np.float64))
    )
    found[found == _OTHER_CLASS] = np.nan
    known_ms, known = np.full(len(found), NEVER), ~np.isnan(found)
    known_ms[known] = came[known].astype(np.int64)
    return found, known_ms


def _label_values(values: Sequence[Any], classes: Sequence[str]) -> Floats:
    """Return labels as numbers, NaN where null; one of another class is a row's label all the same, until it is joined."""
    if not classes:
        return np.array(pa.array(values).cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    number = {name: float(at) for at, name in enumerate(classes)}
    return np.array(
        [np.nan if each is None else number.get(entity_text(each), _OTHER_CLASS) for each in values]
    )


def _must_tell(model: Model, label: Floats, rows: int) -> None:
    spec, known = model.spec, label[~np.isnan(label)]
    if not known.size:
        raise Rejected(
            f"no row has its label: {spec.label.source}.{spec.label.value} is found by {spec.label.on} within "
            f"{spec.label.within // 60_000} minutes after a row: look at these, or at the file"
        )
    if known.size < LEAST_ROWS:
        raise Rejected(
            f"{known.size} of {rows} rows have a label, and a backtest needs {LEAST_ROWS}: give it more history"
        )
    if spec.task == "binary" and (strange := known[(known != 0) & (known != 1)]).size:
        raise Rejected(
            f"label {spec.label.value!r} is {strange[0]:g} in some row, and a binary task reads 0 and 1: name its two values in "
            "label.classes"
        )
    if (known == known[0]).all():
        shown = spec.label.classes[int(known[0])] if spec.label.classes else f"{known[0]:g}"
        raise Rejected(
            f"label {spec.label.value!r} is {shown} in every row, so there is nothing to learn: name another column"
        )


def _there(sources: Mapping[str, Source], name: str, model: Model) -> Source:
    if name not in sources:
        raise Rejected(f"model {model.name!r} leans on source {name!r}, which the project lacks: add it")
    return sources[name]


def covers(source: Source, row: Row, project: Project) -> bool:
    """Whether a file whose first row is `row` can hold events of a source: its columns are all that the source must have."""
    if row.fields is None:
        return False
    typed = Typing(source.spec, Reading()).fields(row.fields)
    needed = {name for name, spec in source.spec.fields.items() if not spec.nullable and spec.default is None}
    wanted = project.fields(source.name) | {source.spec.event_time}
    return needed <= typed.keys() and {name for name in wanted if name in source.spec.fields} <= typed.keys()
