"""The online features as this process reads them back from features.<view>.

Any process answers for every entity, whoever folds it. A view is followed from the
first time somebody asks for it, so a store that nobody asks reads nothing. Questions
come from many threads, and once a view is followed they wait for nobody but for where
its slots lie: in memory, or in PostgreSQL (`inpostgres.py`).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from trimtab_contracts import topics
from trimtab_core.contract import entity_key
from trimtab_core.specs import FeatureView, Source
from trimtab_runtime import featurelog
from trimtab_runtime.follow import Follower
from trimtab_runtime.freshness import Freshness
from trimtab_runtime.onlineview import Answers, Floats, Generations, OnlineView, Statuses
from trimtab_runtime.specbook import SpecBook

from trimtab_feature_store.errors import BadQuestion, NotRead

FOLLOWS = (topics.FEATURES,)
MOST_VALUES = 500_000
"""Of one answer: rows by features."""
_POLL_S = 0.05
_MOST_PLANS = 1_000


Places = slice | NDArray[np.intp]
"""Numbers of columns; those that follow one another are a slice, which is quicker to take."""


class Columns(NamedTuple):
    """What a question wants of one view."""

    view: FeatureView
    places: Places
    """Of the columns, in the answer."""
    columns: Places
    """In the view's values."""


class Plan(NamedTuple):
    """The features of a question, spelled out."""

    names: list[str]
    views: list[Columns]


class ViewRead(NamedTuple):
    """How one view was read."""

    name: str
    as_of_ms: int
    watermark_ms: int | None
    freshness_ms: int | None


@dataclass(frozen=True, slots=True)
class Answer:
    """Features of some entities, all at one time."""

    names: list[str]
    values: Floats
    """[rows, names], NaN where there is none."""
    statuses: Statuses
    views: list[ViewRead]


class Home(Protocol):
    """Where the slots of views lie."""

    async def open(self, view: str) -> Mapping[int, int]:
        """Begin with a view, and return from which offset on each partition of its topic is to be written."""
        ...

    def begin(self, view: FeatureView, source: Source, generation: int) -> Answers:
        """Return a generation of a view, with what is there of it already."""
        ...

    async def write(self, view: str, partition: int, records: Sequence[Any]) -> None:
        """Take in records of a partition of a view's topic; what they say can be read when this returns."""
        ...

    async def tidy(self, whole: Callable[[], Mapping[str, int]]) -> None:
        """Delete what lies before the generations that `whole` says, as long as views change."""
        ...


class InMemory:
    """Each generation holds its own slots, as it hears of them."""

    async def open(self, view: str) -> Mapping[int, int]:
        """Return nothing: a topic is read from its beginning."""
        return {}

    def begin(self, view: FeatureView, source: Source, generation: int) -> Answers:
        """Return a generation that has heard of nothing yet."""
        return OnlineView(view, source, generation)

    async def write(self, view: str, partition: int, records: Sequence[Any]) -> None:
        """Do nothing: the generations are told by whoever has heard the records."""

    async def tidy(self, whole: Callable[[], Mapping[str, int]]) -> None:
        """Do nothing: a generation that is left goes with its slots."""


class OnlineViews:
    """The views that have been asked for."""

    def __init__(self, servers: str, book: SpecBook, freshness: Freshness, home: Home) -> None:
        self._book = book
        self._freshness = freshness
        self._home = home
        self._held: dict[str, Generations[Answers]] = {}
        self._opening = asyncio.Lock()
        self._asked: set[str] = set()
        self._followed: set[str] = set()
        self._plans: dict[tuple[str, ...], Plan] = {}
        self.follower = Follower(servers, [], self._hear)
        """Run it as a task."""

    def update(self) -> None:
        """Begin anew what has changed in the book; only the event loop calls it."""
        for name in self._followed:
            self._current(name)

    def plan(self, features: Sequence[str]) -> Plan:
        """Return what `features` mean: `view.column`, or `view.*` for all of a view's.

        Raises:
            BadQuestion: there are none, or one of them means nothing.
            UnknownView: it names a view that is not there.
        """
        key, views = tuple(features), self._book.views
        plan = self._plans.get(key)
        if plan is None or any(views.get(each.view.name) is not each.view for each in plan.views):
            if len(self._plans) >= _MOST_PLANS:
                self._plans = {}
            plan = self._plans[key] = _plan(self._book, key)
        return plan

    def lacks(self, plan: Plan) -> bool:
        """Whether a view of the plan has not been read yet: `follow` it first."""
        return not self._followed.issuperset(each.view.name for each in plan.views)

    async def follow(self, plan: Plan, *, patience_s: float) -> None:
        """Read the views of a plan, and from now on; only the event loop calls it.

        Raises:
            NotRead: their topics have not been read to the end within `patience_s`.
            Unavailable: where their slots lie does not answer.
        """
        names = {each.view.name for each in plan.views}
        async with self._opening:
            for name in names - self._asked:
                topic, next_of = topics.FEATURES.named(name).name, await self._home.open(name)
                self.follower.begin_at({(topic, partition): at for partition, at in next_of.items()})
                self._freshness.follow(name)
                self._asked.add(name)
        self.follower.set_topics([topics.FEATURES.named(name).name for name in self._asked])
        try:
            async with asyncio.timeout(patience_s):
                await self.follower.caught_up()
        except TimeoutError as error:
            raise NotRead(min(names - self._followed, default=min(names))) from error
        for name in names:
            self._current(name)
        self._followed |= names

    def read(self, plan: Plan, entities: Mapping[str, Sequence[str]], at_ms: int) -> Answer:
        """Return the features of some entities at a time, each view as of its own hop boundary.

        `entities` are columns of one length by the name of their field; without any there is one row.

        Raises:
            BadQuestion: the entities do not fit, or are too many.
            NotRead: a view has just changed, and what it was cannot answer.
            Unavailable: where the slots lie does not answer.
        """
        rows = rows_asked(entities, plan)
        values = np.empty((rows, len(plan.names)))
        statuses = np.empty((rows, len(plan.names)), np.uint8)
        reads = []
        for each in plan.views:
            held, columns = self._answering(each)
            boundary, watermark_ms = held.layout.boundary_of(at_ms), held.until_ms
            found, told = held.read(entities_asked(each.view, entities, rows), boundary)
            values[:, each.places], statuses[:, each.places] = found[:, columns], told[:, columns]
            reads.append(ViewRead(held.name, boundary, watermark_ms, self._freshness.last_ms(held.name)))
        return Answer(plan.names, values, statuses, reads)

    async def _hear(self, topic: str, partition: int, batch: Sequence[Any]) -> None:
        view, batch = topics.FEATURES.member(topic), [each for each in batch if each.key is not None]
        newest = max(map(_generation, batch), default=0)
        while view in self._book.views and self._book.generation(self._book.views[view]) < newest:
            await asyncio.sleep(_POLL_S)  # the spec that this was folded by is on its way
        self._current(view)
        if batch:
            await self._home.write(view, partition, batch)
        if (held := self._held.get(view)) is not None:
            held.apply(partition, batch)
            self._freshness.note(view, batch)

    def whole(self) -> dict[str, int]:
        """Return the generation that answers for each view, of those that have begun in all partitions."""
        now = [each.current for each in self._held.values()]
        return {each.name: each.generation for each in now if each is not None and each.is_whole}

    def _answering(self, wanted: Columns) -> tuple[Answers, Places]:
        """Return the generation that answers for a view, which may be the one before, and the columns' places in it."""
        name = wanted.view.name
        held = each.current if (each := self._held.get(name)) is not None else None
        if held is None:
            raise NotRead(name)  # the event loop sees to it in a moment
        if held.spec is wanted.view.spec or held.spec == wanted.view.spec:
            return held, wanted.columns
        now, there = wanted.view.spec.columns(), held.spec.columns()
        names = [now[at] for at in np.arange(len(now))[wanted.columns].tolist()]
        if held.spec.entity != wanted.view.spec.entity or not set(names) <= set(there):
            raise NotRead(name)
        return held, np.array([there.index(each) for each in names])

    def _current(self, name: str) -> None:
        """Follow what a view is by now; forget it if it is gone."""
        view = self._book.views.get(name)
        source = self._book.sources.get(view.spec.source) if view is not None else None
        if view is None or source is None:
            self._held.pop(name, None)
        else:
            self._held.setdefault(name, Generations(self._home.begin)).follow(
                view, source, self._book.generation(view)
            )


def _plan(book: SpecBook, features: tuple[str, ...]) -> Plan:
    if not features:
        raise BadQuestion("features is empty: name some, such as view.column or view.*")
    names: list[str] = []
    wanted: dict[str, tuple[FeatureView, list[int], list[int]]] = {}
    for feature in features:
        name, dot, column = feature.partition(".")
        if not (name and dot and column):
            raise BadQuestion(f"feature {feature!r} is not understood: write view.column or view.*")
        view = book.view(name)
        columns = view.spec.columns()
        if column != "*" and column not in columns:
            raise BadQuestion(
                f"feature {feature!r} names column {column!r}, which the view lacks: it has {', '.join(columns)}"
            )
        _, places, numbers = wanted.setdefault(name, (view, [], []))
        for each in columns if column == "*" else (column,):
            if f"{name}.{each}" in names:
                raise BadQuestion(f"feature '{name}.{each}' is asked for twice: drop one")
            places.append(len(names))
            numbers.append(columns.index(each))
            names.append(f"{name}.{each}")
    return Plan(names, [Columns(view, _run(at), _run(of)) for view, at, of in wanted.values()])


def _run(numbers: list[int]) -> Places:
    follow = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return slice(numbers[0], numbers[-1] + 1) if follow else np.array(numbers, np.intp)


def rows_asked(entities: Mapping[str, Sequence[str]], plan: Plan) -> int:
    """Return how many rows are asked for."""
    lengths = {field: len(values) for field, values in entities.items()}
    rows = next(iter(lengths.values()), 1)
    if any(length != rows for length in lengths.values()):
        told = ", ".join(f"{field} has {length}" for field, length in lengths.items())
        raise BadQuestion(f"the entity columns are of different lengths ({told}): send a value of each a row")
    if rows * len(plan.names) > MOST_VALUES:
        raise BadQuestion(
            f"{rows} rows of {len(plan.names)} features are more than the {MOST_VALUES} values of one answer: "
            f"ask for {MOST_VALUES // len(plan.names)} rows at a time"
        )
    return rows


def entities_asked(view: FeatureView, given: Mapping[str, Sequence[str]], rows: int) -> Sequence[str]:
    """Return the view's entity of each row, of the columns given."""
    fields = view.spec.entities
    for field in fields:
        if field not in given:
            there = f"there are {', '.join(given)}" if given else "there are none"
            raise BadQuestion(
                f"view {view.name!r} is told apart by {field!r}, and no entity column is called so ({there}): add one"
            )
    if len(fields) == 1:
        return given[fields[0]]
    if not fields:
        return [""] * rows
    return [entity_key(each) or "" for each in zip(*(given[field] for field in fields), strict=True)]


def _generation(record: Any) -> int:
    try:
        return featurelog.parse_key(record.key).generation
    except msgspec.DecodeError:
        return 0
