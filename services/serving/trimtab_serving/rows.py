"""From rows of a model's source to what its versions take.

Compiled once for a generation of the specs. A version's features are prepared before
it is shown to any request, and nothing here changes afterwards but the online state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from trimtab_contracts.topics import MOST_ROW_BYTES
from trimtab_core import features as core
from trimtab_core import specs
from trimtab_core.asking import Asking, NotARow
from trimtab_core.contract import compile_contract, entity_key, entity_text
from trimtab_core.features import FeatureFault, RequestEvaluator, ViewFeature
from trimtab_runtime.onlineview import OnlineView
from trimtab_runtime.reftables import RefTable, RefTables, lookups
from trimtab_runtime.specbook import SpecBook

from trimtab_serving.errors import BadRow, CannotServe
from trimtab_serving.online import OnlineViews

Given = Mapping[str, NDArray[np.float64]]
"""Features of views that the caller has, [rows] by name."""
Inputs = tuple[NDArray[np.float32], NDArray[np.object_] | None]
"""Features [rows, features], and texts [rows, texts] of a version that takes some."""


class Asked(NamedTuple):
    """Rows that hold what they must."""

    rows: list[dict[str, Any]]
    keys: list[str]
    """Of the source: what arms stick by."""
    join_keys: list[str]
    """What the label will be found by."""
    event_time_ms: list[int]


class Ages(NamedTuple):
    """How fresh views were that rows looked into."""

    names: Sequence[str] = ()
    until_ms: Sequence[int] = ()
    """Their watermarks; 0 until there is one."""
    as_of_ms: Sequence[int] = ()
    """Rows x views, row by row: the hop boundary that the values are of. Past the watermark they may still lack events."""


@dataclass(frozen=True, slots=True)
class _Lookup:
    """Columns that come from one view."""

    view: OnlineView
    entities: tuple[str, ...]
    """Of a row: the fields that name the entity."""
    places: list[int]
    """Among the inputs of the features."""
    columns: list[int]
    """In the view's values."""
    names: list[str]
    """What they are called: view.column."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a version's features are made."""

    evaluator: RequestEvaluator
    lookups: list[_Lookup]
    asking: Asking
    """Reads the fields that count of a row."""
    texts: bool
    """Whether some of the features are texts."""


class RowReader:
    """Reads the rows of one model's source."""

    def __init__(
        self,
        model: specs.Model,
        source: specs.Source,
        views: Mapping[str, OnlineView],
        tables: Mapping[str, RefTable],
    ) -> None:
        """`views` and `tables` are those that the model's versions may name."""
        self._model = model
        self._source = source
        self._views = views
        self._tables = tables
        self._contract = compile_contract(source.spec)
        self._always = frozenset((source.spec.key, source.spec.event_time, model.spec.label.on))
        self._plans: dict[tuple[str, ...], _Plan] = {}

    @property
    def keep_ms(self) -> int | None:
        """How long answers to the same features are kept; None where they are not."""
        return self._model.spec.serving.cache

    def prepare(self, features: tuple[str, ...], texts: tuple[str, ...] = ()) -> None:
        """Compile a version's features, in the order in which it takes them: numbers, and then texts.

        Raises:
            CannotServe: one of them means nothing here.
            NotLoaded: one looks into a table that has not been read yet.
        """
        takes = features + texts
        if takes in self._plans:
            return
        view_specs = {name: view.spec for name, view in self._views.items()}
        try:
            table_specs = {name: table.spec for name, table in self._tables.items()}
            found = core.resolve(takes, self._source.spec, view_specs, table_specs)
        except FeatureFault as error:
            raise CannotServe(
                f"a version of model {self._model.name!r} cannot be given its features: {error}"
            ) from error
        named = tuple(tuple(it.name for it in part) for part in (core.numbers(found), core.texts(found)))
        if named != (features, texts):
            mean = named[0] + named[1]
            raise CannotServe(
                f"a version of model {self._model.name!r} takes {takes}, which mean {mean}: train it again"
            )
        fields = self._always | core.required_fields(found, view_specs)
        evaluator = RequestEvaluator(found, lookups(found, self._tables))
        self._plans[takes] = _Plan(
            evaluator,
            [self._lookup(name, evaluator.inputs) for name in dict.fromkeys(_views_in(evaluator.inputs))],
            Asking(self._contract, fields),
            bool(texts),
        )

    def read(self, payloads: Sequence[bytes], inputs: tuple[str, ...]) -> Asked:
        """Return the rows in `payloads`, JSON objects, cleaned as events are and checked for what `inputs` need of them.

        Their timestamps are instants from here on, so that none is parsed twice.

        Raises:
            BadRow: one of them is not as the source's contract says, or there is none.
        """
        if not payloads:
            raise BadRow(f"the request for model {self._model.name!r} has no rows: send at least one")
        if (most := max(map(len, payloads))) > MOST_ROW_BYTES:
            raise BadRow(
                f"a row of the request for model {self._model.name!r} has {most} bytes: send {MOST_ROW_BYTES} at most"
            )
        plan = self._plans[inputs]
        rows = [self._row(at, payload, plan) for at, payload in enumerate(payloads)]
        key, join_key, time = self._source.spec.key, self._model.spec.label.on, self._source.spec.event_time
        keys = [entity_text(row[key]) for row in rows]
        return Asked(
            rows,
            keys,
            keys if key == join_key else [entity_text(row[join_key]) for row in rows],
            [row[time] for row in rows],
        )

    def inputs(self, asked: Asked, takes: tuple[str, ...], given: Given | None = None) -> Inputs:
        """Return what a version `takes`: float32 [rows, features], as it was at each row's event time, and its texts.

        What is missing is NaN, or the empty text. Where features of views are `given`, none is looked up.

        Raises:
            BadRow: some are given, and not all that the version takes.
        """
        plan = self._plans[takes]
        matrix = plan.evaluator.evaluate(asked.rows, asked.event_time_ms)
        for lookup in plan.lookups:
            matrix[:, lookup.places] = self._looked_up(lookup, asked) if given is None else _of(lookup, given)
        texts = plan.evaluator.texts(asked.rows) if plan.texts else None
        return plan.evaluator.finish(matrix).astype(np.float32), texts

    def ages(self, asked: Asked, takes: tuple[str, ...]) -> Ages:
        """Return how fresh the views are that what a version `takes` comes from."""
        views = [lookup.view for lookup in self._plans[takes].lookups]
        return Ages(
            [view.name for view in views],
            [view.until_ms or 0 for view in views],
            [view.layout.boundary_of(at) for at in asked.event_time_ms for view in views],
        )

    def features_until_ms(self) -> int | None:
        """Return the watermark of the online features that the model uses; None if it uses none."""
        reached = [lookup.view.until_ms for plan in self._plans.values() for lookup in plan.lookups]
        known = [at for at in reached if at is not None]
        return min(known, default=None) if len(known) == len(reached) else None

    def _row(self, at: int, payload: bytes, plan: _Plan) -> dict[str, Any]:
        try:
            return plan.asking.read(payload)
        except NotARow as error:
            raise BadRow(f"row {at} of the request for model {self._model.name!r}: {error}") from error

    @staticmethod
    def _looked_up(lookup: _Lookup, asked: Asked) -> NDArray[np.float64]:
        entities = [_entity([row.get(name) for name in lookup.entities]) for row in asked.rows]
        return lookup.view.values(entities, asked.event_time_ms)[:, lookup.columns]

    def _lookup(self, name: str, inputs: Sequence[core.Input]) -> _Lookup:
        view = self._views[name]
        columns = view.spec.columns()
        wanted = [
            (at, each.column)
            for at, each in enumerate(inputs)
            if isinstance(each, ViewFeature) and each.view == name
        ]
        return _Lookup(
            view,
            view.spec.entities,
            [at for at, _ in wanted],
            [columns.index(column) for _, column in wanted],
            [f"{name}.{column}" for _, column in wanted],
        )


def _views_in(inputs: Sequence[core.Input]) -> list[str]:
    return [each.view for each in inputs if isinstance(each, ViewFeature)]


def _of(lookup: _Lookup, given: Given) -> NDArray[np.float64]:
    if missing := [name for name in lookup.names if name not in given]:
        raise BadRow(f"{missing[0]!r} is not among the features that are given: give all of views, or none")
    return np.column_stack([given[name] for name in lookup.names])


def _entity(values: Sequence[Any]) -> str:
    """Return the entity that fields name together; where one is null nothing is known, like of one never seen."""
    key = entity_key(values)
    return "\0" if key is None else key


class Readers:
    """The reader of each model, compiled anew when what it rests on has changed; only the control plane calls it."""

    def __init__(self, book: SpecBook, views: OnlineViews, tables: RefTables) -> None:
        self._book = book
        self._views = views
        self._tables = tables
        self._held: dict[str, tuple[tuple[Any, ...], RowReader]] = {}

    def of(self, name: str) -> RowReader:
        """Return the reader of a model's rows.

        Raises:
            UnknownModel, UnknownSource: a spec is not there.
        """
        model = self._book.model(name)
        rests_on = (model, self._book.source(model.spec.source), self._views.all, self._tables.all)
        held = self._held.get(name)
        if held is None or any(one is not other for one, other in zip(held[0], rests_on, strict=True)):
            held = (rests_on, RowReader(*rests_on))
            self._held[name] = held
        return held[1]
