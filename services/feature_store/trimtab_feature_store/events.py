"""Archived events of a source, as its contract types them: all of a range of event time, or a sample.

A sample is the rows whose ids have the smallest hashes. It favours no row, and is the
same each time, however the rows are stored. What is held at once is a multiple of
the sample, never the range.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from trimtab_core.sketches import text_numbers
from trimtab_core.specs import Source
from trimtab_core.timestamps import NOT_A_TIME, parse_timestamps, zone
from trimtab_runtime.specbook import SpecBook

from trimtab_feature_store.errors import BadQuestion, BadWindow
from trimtab_feature_store.store import EVER_MS, Tables
from trimtab_feature_store.tables import EventTable, column_of, events_table

MOST_ROWS = 1_000_000
"""Of one answer."""
_TIME = pa.timestamp("ms", tz="UTC")


@dataclass(frozen=True, slots=True)
class Extent:
    """How much there is in a range of a version of a source's table."""

    table: str
    version: int
    """-1 where nothing has been archived."""
    rows: int
    first_ms: int | None
    """Event time of the first row of the range, if it has any."""
    last_ms: int | None
    watermark_ms: int
    """All events up to here are archived; 0 if none said so yet."""


class EventReader:
    """Reads the events of one source at a time, off the event loop."""

    def __init__(self, book: SpecBook, tables: Tables) -> None:
        self._book = book
        self._tables = tables
        self._one = asyncio.Lock()

    async def read(
        self, name: str, start_ms: int = -EVER_MS, end_ms: int = EVER_MS, most_rows: int = MOST_ROWS
    ) -> tuple[Extent, pa.Table]:
        """Return how many events there are in [start, end), and so many of them at most, in order of event time.

        Raises:
            UnknownSource: there is no such source.
            BadWindow: the times make no range.
            BadQuestion: there is no answer of so many rows.
        """
        source = self._book.source(name)
        if start_ms >= end_ms:
            raise BadWindow(start_ms, end_ms)
        if not 0 <= most_rows <= MOST_ROWS:
            raise BadQuestion(
                f"most_rows is {most_rows}, and an answer has up to {MOST_ROWS}: ask for fewer, or for shorter ranges"
            )
        async with self._one:
            return await asyncio.to_thread(self._read, source, start_ms, end_ms, most_rows)

    def _read(self, source: Source, start_ms: int, end_ms: int, most_rows: int) -> tuple[Extent, pa.Table]:
        table, schema = events_table(source.name), EventTable(source.spec).schema
        reach = self._tables.reach(table, source.spec.partitions)
        found = _Sample(schema, most_rows)
        names = schema.names if most_rows else ["event_time_ms"]
        found.add(self._tables.scan(table, names, version=reach.version, start_ms=start_ms, end_ms=end_ms))
        extent = Extent(table, reach.version, found.seen, found.first_ms, found.last_ms, reach.least())
        return extent, _typed(source, found.rows())


class _Sample:
    """Counts rows, and keeps so many of them."""

    def __init__(self, schema: pa.Schema, most: int) -> None:
        self.seen = 0
        self.first_ms: int | None = None
        self.last_ms: int | None = None
        self._most = most
        self._kept = schema.empty_table()

    def add(self, batches: Iterable[pa.RecordBatch]) -> None:
        for batch in batches:
            if not batch.num_rows:
                continue
            self.seen += batch.num_rows
            times = pc.min_max(batch["event_time_ms"]).as_py()
            self.first_ms = times["min"] if self.first_ms is None else min(self.first_ms, times["min"])
            self.last_ms = times["max"] if self.last_ms is None else max(self.last_ms, times["max"])
            if self._most:
                more = pa.Table.from_batches([batch]).cast(self._kept.schema)
                self._kept = pa.concat_tables([self._kept, more])
            if self._kept.num_rows > 2 * self._most:
                self._kept = self._smallest()

    def rows(self) -> pa.Table:
        """Return what is kept, in an order that storage has no part in."""
        kept = self._smallest() if self._kept.num_rows > self._most else self._kept
        order = np.lexsort([kept[name].to_numpy() for name in ("offset", "partition", "event_time_ms")])
        return kept.take(pa.array(order))

    def _smallest(self) -> pa.Table:
        kept = self._kept
        hashes = text_numbers(kept["id"].to_pylist())
        order = np.lexsort([kept["offset"].to_numpy(), kept["partition"].to_numpy(), hashes])
        return kept.take(pa.array(order[: self._most]))


def _typed(source: Source, rows: pa.Table) -> pa.Table:
    """Return archived rows under the names that their contract has, with times as times."""
    columns: dict[str, Any] = {}
    for name, field in source.spec.shown.items():
        column = rows[column_of(name)]
        columns[name] = _times(column, field.timezone) if field.type == "timestamp" else column
    columns["event.id"] = rows["id"]
    for name, column in (("event.time", "event_time_ms"), ("event.arrived_at", "arrived_at_ms")):
        columns[name] = rows[column].cast(_TIME)
    return pa.table(columns)


def _times(column: pa.ChunkedArray, timezone: str | None) -> pa.Array:
    """Return the instants that texts name, in a field's zone; null where there is none."""
    found = parse_timestamps(column.to_pylist(), zone(timezone)) if len(column) else np.empty(0, np.int64)
    return pa.array(found, mask=found == NOT_A_TIME).cast(_TIME)
