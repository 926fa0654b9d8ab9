"""Training sets: what each archived row of a model's source would have been answered with, and its label.

Nothing is seen that had not arrived by the time a row was asked for, nor anything
that arrived after the set's own `as_of`. The set is a function of the
request and of the rows in the tables' versions: the same again has the same digest.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from trimtab_contracts import topics
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
from trimtab_core.lookup import Lookup
from trimtab_core.pointintime import join_labels
from trimtab_core.specs import FeatureView, Model, Source, group_column
from trimtab_runtime.errors import Rejected
from trimtab_runtime.reftables import RefTables, lookups
from trimtab_runtime.specbook import SpecBook

from trimtab_feature_store.errors import BadWindow, NotArchivedYet
from trimtab_feature_store.sharding import ShardedJoin
from trimtab_feature_store.store import Flushing, Reach, Tables
from trimtab_feature_store.tables import column_of, events_table
from trimtab_feature_store.viewjoin import NOBODY, archived, as_texts, entities_of, ints, view_values

FOLLOWS = (topics.TABLES,)

_POLL_S = 0.05
_OTHER_CLASS = -1.0
"""What the label join has for a label that is none of a model's classes: it is the row's label all the same."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which training set."""

    model: str
    start_ms: int
    end_ms: int
    as_of_ms: int
    wait_until_ms: int
    versions: Mapping[str, int] = field(default_factory=dict)
    """Of the tables that are to be read as they were; the others are read as they stand."""
    document: Model | None = None
    """What the model was, if the set is to be made by that; as it is applied, if it is not given."""


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Labelled rows in order of event time: key, event_time_ms, the features (numbers, then texts), label, and what gates group by."""

    rows: pa.Table
    rows_without_label: int
    """Those of other classes among them."""
    versions: Mapping[str, int]
    """Of the tables it was made from."""
    digest: str
    rows_of_other_classes: int = 0
    """Rows whose label is none of the classes that the model's spec names."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A model's set, spelled out, over fixed versions of the tables."""

    wanted: Wanted
    model: Model
    source: Source
    views: Mapping[str, FeatureView]
    sources: Mapping[str, Source]
    features: tuple[Feature, ...]
    lookups: Mapping[str, Lookup]
    """The reference tables that the features look into, by name."""
    versions: Mapping[str, int]
    """Of the archive's tables their own, of reference tables since when the newest counts that is seen, in milliseconds."""
    reached_ms: int
    """The event time up to which all of the sources are whole in those versions."""


class Historical:
    """Makes training sets from the archive, one at a time, off the event loop."""

    def __init__(
        self,
        book: SpecBook,
        tables: Tables,
        flushing: Flushing,
        references: RefTables,
        make: Callable[[Plan], TrainingSet] | None = None,
    ) -> None:
        """`make` blocks and returns the set of a plan; it is made in this process if not given."""
        self._book = book
        self._tables = tables
        self._flushing = flushing
        self._references = references
        self._make = make or (lambda plan: Making(tables, plan).make())
        self._one = asyncio.Lock()

    async def training_set(self, wanted: Wanted, *, patience_s: float) -> TrainingSet:
        """Return the set, once the archive has passed `wait_until_ms`.

        Raises:
            UnknownModel, UnknownSource: it names something that is not there.
            Rejected: the model's features mean nothing any more.
            BadWindow: its times make no range.
            NotArchivedYet: the archive did not come so far within `patience_s`.
            VersionGone: a version of a table that it is to be read at is not kept any more.
            NotLoaded, NotRead: a reference table has not been loaded yet, or not been read within `patience_s`.
        """
        plan = await self.plan(wanted, patience_s=patience_s)
        async with self._one:
            return await asyncio.to_thread(self._make, plan)

    async def plan(
        self, wanted: Wanted, features: Sequence[str] | None = None, *, patience_s: float = 60.0
    ) -> Plan:
        """Return what a set is made of: the model's features, or those given, over the tables as they stand.

        Raises: as `training_set` does.
        """
        if wanted.start_ms >= wanted.end_ms:
            raise BadWindow(wanted.start_ms, wanted.end_ms)
        model = wanted.document or self._book.model(wanted.model)
        source = self._book.source(model.spec.source)
        resolved = self._features(model, source, features)
        views, looked_into = self._views(resolved), await self._lookups(resolved, patience_s)
        sources = self._sources(model, views.values())
        reached = await self._passed(sources, wanted.wait_until_ms, patience_s)
        versions = {
            table: wanted.versions.get(table, reach.version)
            for table, reach in ((events_table(name), reach) for name, reach in reached.items())
        }
        versions |= {
            topics.TABLES.named(name).name: lookup.newest_ms(wanted.as_of_ms)
            for name, lookup in looked_into.items()
        }
        until_ms = min(reach.least() for reach in reached.values())
        return Plan(wanted, model, source, views, sources, resolved, looked_into, versions, until_ms)

    def check(self, name: str) -> None:
        """Refuse a model that cannot be made a set for.

        Raises:
            UnknownModel, UnknownSource: the model, or what it leans on, is not there.
        """
        self._book.source(self._book.model(name).spec.source)

    async def watermark_ms(self, name: str) -> int | None:
        """Return how far all that a model is trained on is archived, None if something of it is not at all.

        Raises:
            UnknownModel, UnknownSource: the model, or what it leans on, is not there.
            Rejected: the model's features mean nothing any more.
        """
        model = self._book.model(name)
        features = self._features(model, self._book.source(model.spec.source))
        sources = self._sources(model, self._views(features).values())
        reached = [(await self._reach(source)).least() for source in sources.values()]
        return min(reached) or None

    def _views(self, features: Sequence[Feature]) -> dict[str, FeatureView]:
        return {
            each.view: self._book.view(each.view)
            for each in inputs(features)
            if isinstance(each, ViewFeature)
        }

    def _sources(self, model: Model, views: Iterable[FeatureView]) -> dict[str, Source]:
        names = [model.spec.source, model.spec.label.source, *(view.spec.source for view in views)]
        return {name: self._book.source(name) for name in names}

    async def _reach(self, source: Source) -> Reach:
        table = events_table(source.name)
        return await asyncio.to_thread(self._tables.reach, table, source.spec.partitions)

    def _features(
        self, model: Model, source: Source, features: Sequence[str] | None = None
    ) -> tuple[Feature, ...]:
        try:
            views = {name: view.spec for name, view in self._book.views.items()}
            tables = {name: table.spec for name, table in self._references.all.items()}
            return resolve(model.spec.features if features is None else features, source.spec, views, tables)
        except FeatureFault as fault:
            raise Rejected(f"model {model.name!r}: {fault}") from fault

    async def _lookups(self, features: Sequence[Feature], patience_s: float) -> dict[str, Lookup]:
        """Return the reference tables that features look into, read to their end."""
        if any(isinstance(each, TableFeature) for each in inputs(features)):
            await self._references.caught_up(patience_s)
        return lookups(features, self._references.all)

    async def _passed(
        self, sources: Mapping[str, Source], time_ms: int, patience_s: float
    ) -> dict[str, Reach]:
        """Wait until all of `sources` are archived up to a time, and return how far each is."""
        reached: dict[str, Reach] = {}
        try:
            with self._flushing.hurried(list(sources)):
                async with asyncio.timeout(patience_s):
                    for name, source in sources.items():
                        while True:
                            reached[name] = await self._reach(source)
                            if reached[name].least() >= time_ms:
                                break
                            await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            name = next(name for name in sources if name not in reached or reached[name].least() < time_ms)
            came_ms = reached[name].least() if name in reached else 0
            raise NotArchivedYet(name, came_ms, time_ms) from error
        return reached


class Making:
    """What the archive says of the rows of a plan; each call blocks."""

    def __init__(self, tables: Tables, plan: Plan, join: ShardedJoin | None = None) -> None:
        """`join` joins the shards elsewhere; here, one after the other, if not given."""
        self._tables = tables
        self._plan = plan
        self._join = join or ShardedJoin()

    def make(self) -> TrainingSet:
        """Read, join and leave out what has no label."""
        plan, spine = self._plan, self.spine()
        at, keys = ints(spine["event_time_ms"]), self.keys(spine)
        matrix, words = self.features(spine), self.texts(spine)
        labels, without = self._labels(keys, at)
        other = labels == _OTHER_CLASS
        labels[other] = np.nan
        known = ~np.isnan(labels)
        rows = pa.table(
            {
                "key": keys.filter(pa.array(known)),
                "event_time_ms": at[known],
                **{each.name: matrix[known, place] for place, each in enumerate(numbers(plan.features))},
                **{
                    each.name: pa.array(words[known, place], pa.string())
                    for place, each in enumerate(texts(plan.features))
                },
                "label": labels[known],
            }
        )
        named = digest(
            rows
        )  # what rows are grouped by is beside the dataset, and changes nothing that is fitted
        for name in plan.model.spec.groups:
            groups = as_texts(self._field(spine, name)).filter(pa.array(known))
            groups = pc.if_else(pc.equal(groups, NOBODY), "(none)", groups)
            rows = rows.append_column(group_column(name), groups)
        strange = int(np.count_nonzero(other))
        return TrainingSet(rows, without + strange, plan.versions, named, strange)

    def features(self, spine: pa.Table) -> NDArray[np.float64]:
        """Return the numbers [rows, numbers] of some rows of the spine, as each would have been answered then."""
        at = ints(spine["event_time_ms"])
        evaluator = RequestEvaluator(self._plan.features, self._plan.lookups)
        known_ms = np.minimum(at, self._plan.wanted.as_of_ms)
        matrix = evaluator.evaluate(self._own_fields(spine, evaluator.inputs), known_ms)
        for name, view in self._plan.views.items():
            columns = self._view(view, spine, at)
            for place, each in enumerate(evaluator.inputs):
                if isinstance(each, ViewFeature) and each.view == name:
                    matrix[:, place] = columns[:, view.spec.columns().index(each.column)]
        return evaluator.finish(matrix)

    def texts(self, spine: pa.Table) -> NDArray[np.object_]:
        """Return the features [rows, texts] that are texts of some rows of the spine."""
        wanted = texts(self._plan.features)
        return RequestEvaluator(wanted).texts(self._own_fields(spine, wanted))

    def keys(self, spine: pa.Table) -> pa.Array:
        """Return what the label of each row of the spine is found by, as text."""
        return as_texts(self._field(spine, self._plan.model.spec.label.on))

    def spine(self) -> pa.Table:
        """Return the archived events of the model's source, in order of event time."""
        wanted, source = self._plan.wanted, self._plan.source
        views = {name: view.spec for name, view in self._plan.views.items()}
        spec = self._plan.model.spec
        fields = required_fields(self._plan.features, views) | {spec.label.on, *spec.groups}
        return self._read(source, sorted(fields), wanted.start_ms, wanted.end_ms)

    def _own_fields(self, spine: pa.Table, features: Sequence[Feature]) -> list[dict[str, Any]]:
        """Return the rows of the spine with what features read of the row itself."""
        names = sorted(required_fields([each for each in features if not isinstance(each, ViewFeature)], {}))
        if not names:
            return [{}] * spine.num_rows
        columns = [self._field(spine, name).to_pylist() for name in names]
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]

    def _view(self, view: FeatureView, spine: pa.Table, at: NDArray[np.int64]) -> NDArray[np.float64]:
        source, wanted = self._plan.sources[view.spec.source], self._plan.wanted
        return view_values(
            self._tables,
            view,
            source,
            entities_of([spine[column_of(name)] for name in view.spec.entities], spine.num_rows),
            at,
            wanted.start_ms,
            wanted.end_ms,
            version=self._plan.versions[events_table(source.name)],
            as_of_ms=wanted.as_of_ms,
            join=self._join,
        )

    def _labels(self, keys: pa.Array, at: NDArray[np.int64]) -> tuple[NDArray[np.float64], int]:
        label, wanted = self._plan.model.spec.label, self._plan.wanted
        source = self._plan.sources[label.source]
        on, value = column_of(label.on), column_of(label.value)
        found = self._read(source, [label.on, label.value], wanted.start_ms, wanted.end_ms + label.within)
        found = found.filter(pc.and_(pc.is_valid(found[on]), pc.is_valid(found[value])))
        return join_labels(
            keys,
            at,
            as_texts(found[on]),
            _classes(found[value], label.classes) if label.classes else _numbers(found[value]),
            ints(found["event_time_ms"]),
            ints(found["arrived_at_ms"]),
            label.within,
            wanted.as_of_ms,
        )

    def _read(self, source: Source, fields: Iterable[str], start_ms: int, end_ms: int) -> pa.Table:
        return archived(
            self._tables,
            source,
            fields,
            start_ms,
            end_ms,
            version=self._plan.versions[events_table(source.name)],
            as_of_ms=self._plan.wanted.as_of_ms,
        )

    def _field(self, table: pa.Table, name: str) -> Any:
        return table[column_of(name)]


def digest(rows: pa.Table) -> str:
    """Return the sha256 of what `rows` hold, in order, however they lie in memory."""
    found = hashlib.sha256()
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        found.update(f"{name}\x00{column.type}\x00{len(column)}\x00".encode())
        if pa.types.is_string(column.type):
            found.update(ints(pc.binary_length(column)).tobytes())
            found.update("".join(column.to_pylist()).encode())
        else:
            found.update(np.ascontiguousarray(column.to_numpy()).tobytes())
    return found.hexdigest()


def arrow_pieces(rows: pa.Table, size: int = 1_000_000) -> Iterator[bytes]:
    """Return `rows` as an Arrow IPC stream, cut in pieces of about `size` bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=65_536)
    whole = memoryview(sink.getvalue())
    for start in range(0, len(whole), size):
        yield bytes(whole[start : start + size])


def _classes(column: Any, names: Sequence[str]) -> NDArray[np.float64]:
    """Return the number of each value's class, `_OTHER_CLASS` where it is none of `names`."""
    found = pc.index_in(as_texts(column), pa.array(names, pa.string()))
    return np.asarray(pc.fill_null(found, int(_OTHER_CLASS)).to_numpy(zero_copy_only=False), np.float64)


def _numbers(column: Any) -> NDArray[np.float64]:
    """Return a numeric field's values, NaN where null."""
    return np.array(column.cast(pa.float64()).to_numpy(), np.float64)
