"""Features of entities in the past, each as it was at a time of its own, for whoever has rows and wants them answered.

The archive is the only thing asked. It says how far it has come with all that the
features are made of; what is asked for past that has no value here, for the rows that
it would be made of may still be on their way.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from trimtab_core.partials import Floats
from trimtab_core.specs import Source
from trimtab_runtime.specbook import SpecBook

from trimtab_feature_store.errors import BadQuestion
from trimtab_feature_store.online import Plan, entities_asked, rows_asked
from trimtab_feature_store.sharding import ShardedJoin
from trimtab_feature_store.store import EVER_MS, Reach, Tables
from trimtab_feature_store.tables import events_table
from trimtab_feature_store.viewjoin import view_values


@dataclass(frozen=True, slots=True)
class Joined:
    """Features [rows, names] as they were, NaN where there is none."""

    values: Floats
    until_ms: int
    """The archive is whole up to here; 0 where nothing says so. Rows of later times are all NaN."""


class Joining:
    """Joins one question at a time, off the event loop."""

    def __init__(self, book: SpecBook, tables: Tables) -> None:
        self._book = book
        self._tables = tables
        self._join = ShardedJoin()
        self._one = asyncio.Lock()

    async def join(self, plan: Plan, entities: Mapping[str, Sequence[str]], at_ms: Sequence[int]) -> Joined:
        """Return the features of some entities, each at its own time: event times, in milliseconds since the epoch.

        `entities` are columns of one length by the name of their field, as for the online features.

        Raises:
            BadQuestion: the entities or the times do not fit, or are too many.
            UnknownSource: the source of a view is not there.
        """
        rows = rows_asked(entities, plan) if entities else len(at_ms)
        if rows != len(at_ms):
            raise BadQuestion(f"there are {rows} entities and {len(at_ms)} times: send a time for each row")
        sources = {each.view.spec.source: self._book.source(each.view.spec.source) for each in plan.views}
        columns = [entities_asked(each.view, entities, rows) for each in plan.views]
        async with self._one:
            at = np.array(at_ms, np.int64)
            return await asyncio.to_thread(self._joined, plan, columns, at, sources)

    def _joined(
        self,
        plan: Plan,
        entities: Sequence[Sequence[str]],
        at: NDArray[np.int64],
        sources: Mapping[str, Source],
    ) -> Joined:
        reached = {name: self._reach(source) for name, source in sources.items()}
        until_ms = min(reach.least() for reach in reached.values())
        known = at <= until_ms
        values = np.full((len(at), len(plan.names)), np.nan)
        if not known.any():
            return Joined(values, until_ms)
        for each, names in zip(plan.views, entities, strict=True):
            source = each.view.spec.source
            found = view_values(
                self._tables,
                each.view,
                sources[source],
                pa.array(names, pa.string()).filter(pa.array(known)),
                at[known],
                int(at[known].min()),
                int(at[known].max()) + 1,
                version=reached[source].version,
                as_of_ms=EVER_MS,
                join=self._join,
            )
            part = np.full((len(at), found.shape[1]), np.nan)
            part[known] = found
            values[:, each.places] = part[:, each.columns]
        return Joined(values, until_ms)

    def _reach(self, source: Source) -> Reach:
        return self._tables.reach(events_table(source.name), source.spec.partitions)
