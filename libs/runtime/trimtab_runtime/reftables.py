"""Reference tables in memory: written by whoever follows their topics, read by many threads.

A table can be looked up once a load of it has been read to its end, and of its columns
those that a load has had. What is handed out of a table never changes for a time that
has come; what it says of a time ahead may.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError
from trimtab_contracts import topics
from trimtab_contracts.ingestion.v1.ingestion_pb2 import TableLoad
from trimtab_core.features import Feature, TableFeature, inputs
from trimtab_core.lookup import Lookup
from trimtab_core.specs import TableSpec

from trimtab_runtime import tablelog
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.follow import Follower
from trimtab_runtime.specbook import SpecBook

log = logging.getLogger(__name__)


class NotLoaded(Unavailable):
    """A table, or a column of it, has not been loaded yet."""

    def __init__(self, table: str, column: str) -> None:
        super().__init__(
            f"column {column!r} of table {table!r} has not been loaded yet: ask again in a moment, or look on "
            "`alerts` why it cannot be"
        )


class NotRead(Unavailable):
    """The tables have not been read to their end yet."""

    def __init__(self) -> None:
        super().__init__("the reference tables are still being read: ask again in a moment")


@dataclass(frozen=True, slots=True)
class RefTable:
    """A table as it is applied, and what can be looked up in it."""

    spec: TableSpec
    lookup: Lookup
    """It goes on changing, and is never another: who holds it sees what comes."""
    columns: tuple[str, ...]
    """What `lookup` has by now: columns that have been loaded, none before the first load."""


@dataclass(slots=True)
class _State:
    lookup: Lookup = field(default_factory=Lookup)
    load: TableLoad = field(default_factory=TableLoad)


class RefTables:
    """All tables that are applied; one thread follows them."""

    def __init__(self, book: SpecBook, stored: Callable[[str], Iterable[Any]] = lambda topic: ()) -> None:
        """`stored` gives the records of a topic that are there already, for a table that is new here."""
        self._book = book
        self._stored = stored
        self._states: dict[str, _State] = {}
        self._follower: Follower | None = None
        self.all: Mapping[str, RefTable] = {}
        """By name; another mapping each time that a table is applied anew, or can be asked for more."""

    def follower(self, servers: str) -> Follower:
        """Return the follower that hears the tables of the book, of none at first; run it as a task."""
        self._follower = Follower(servers, [], self._hear)
        return self._follower

    def update(self) -> list[str]:
        """Follow the book, and return the topics to follow."""
        self._states = {name: self._states.get(name) or self._begun(name) for name in self._book.tables}
        self._look()
        names = [topics.TABLES.named(name).name for name in self._states]
        if self._follower is not None:
            self._follower.set_topics(names)
        return names

    def apply(self, topic: str, records: Sequence[Any]) -> bool:
        """Take in raw records of a table's topic, and return whether `all` is another."""
        name = topics.TABLES.member(topic)
        state = self._states.get(name)
        if state is None:
            return False
        _take(name, state, records)
        return self._look()

    async def caught_up(self, patience_s: float) -> None:
        """Wait until all that Kafka holds of the tables has been read.

        Raises:
            NotRead: it was not within `patience_s`.
        """
        if self._follower is None:
            return
        try:
            async with asyncio.timeout(patience_s):
                await self._follower.caught_up()
        except TimeoutError as error:
            raise NotRead from error

    async def _hear(self, topic: str, _: int, records: Sequence[Any]) -> None:
        self.apply(topic, records)

    def _begun(self, name: str) -> _State:
        state = _State()
        _take(name, state, self._stored(topics.TABLES.named(name).name))
        return state

    def _look(self) -> bool:
        """Show what can be asked for now, and return whether that is something else."""
        found = {}
        for name, state in self._states.items():
            spec = self._book.tables[name].spec
            lookup, loaded = state.lookup, state.load.columns
            if more := [each for each in spec.features if each in loaded and each not in lookup.columns]:
                lookup.extend(more)
            found[name] = RefTable(spec, lookup, lookup.columns)
        is_same = found.keys() == self.all.keys() and all(
            each.spec is self.all[name].spec
            and each.lookup is self.all[name].lookup
            and each.columns == self.all[name].columns
            for name, each in found.items()
        )
        if not is_same:
            self.all = found
        return not is_same


def lookups(features: Sequence[Feature], tables: Mapping[str, RefTable]) -> dict[str, Lookup]:
    """Return what `features` look into, by table.

    Raises:
        NotLoaded: a column that one takes has not been loaded yet.
    """
    found = {}
    for each in inputs(features):
        if isinstance(each, TableFeature):
            table = tables[each.table]
            if each.column not in table.columns:
                raise NotLoaded(each.table, each.column)
            found[each.table] = table.lookup
    return found


def _take(name: str, state: _State, records: Iterable[Any]) -> None:
    for record in records:
        try:
            state.load = tablelog.apply(state.lookup, [record]) or state.load
        except (TypeError, ValueError, DecodeError) as error:
            # One record that cannot be read must not keep every other from being looked up.
            log.error("record %r of table %r cannot be read: %s", record.key, name, error)
