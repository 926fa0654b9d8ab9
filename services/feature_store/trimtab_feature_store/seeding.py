"""What a generation of a view begins with: the events that the archive holds.

A seed says up to which offset of each input partition it reaches, and reaches past
whatever had been written when it was asked for. So a fold that takes it, and of the
rows that come only those from that offset on, has every event once.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
from trimtab_contracts import topics
from trimtab_core.slots import Layout
from trimtab_core.specs import FeatureView, Source

from trimtab_feature_store.errors import EventsNotArchivedYet
from trimtab_feature_store.keyed import KeyedRows
from trimtab_feature_store.repartition import Cut
from trimtab_feature_store.store import EVER_MS, Flushing, Reach, Tables
from trimtab_feature_store.tables import column_of, events_table

_POLL_S = 0.1
_ROWS_AT_ONCE = 20_000
_PLACE = ("event_time_ms", "id", "partition", "offset")


class ReadPartition(Protocol):
    """How topics are read."""

    def __call__(self, topic: str, partition: int, *, offset: int = 0) -> AsyncIterator[Sequence[Any]]:
        """Yield the committed records of a partition from an offset on, up to its end."""
        ...


@dataclass(frozen=True, slots=True)
class Seed:
    """The archived events of one partition of a view, and how far they reach."""

    live_from: Mapping[int, int]
    """By partition of events.<source>: the offset of the first row that is not among them."""
    watermark_ms: Mapping[int, int]
    pieces: Iterable[KeyedRows]
    """To be gone through once, and from a thread: it reads as it goes."""


class Seeds:
    """Takes seeds from the archive."""

    def __init__(
        self, read_partition: ReadPartition, tables: Tables, flushing: Flushing, *, patience_s: float
    ) -> None:
        self._read_partition = read_partition
        self._tables = tables
        self._flushing = flushing
        self._patience_s = patience_s

    async def take(self, view: FeatureView, generation: int, source: Source, partition: int) -> Seed:
        """Return the seed of a partition of a generation of `view`.

        Raises:
            EventsNotArchivedYet: what has been written is not archived within the patience.
            Unavailable: Kafka or the archive cannot be read.
        """
        table, partitions = events_table(source.name), source.spec.partitions
        reach, held = await self._whole(source)
        watermark_ms = {number: at for number, at in reach.watermark_ms.items() if at}
        layout = Layout.of(view.spec, source.spec.lateness)
        # What is older is in no window any more, and its entities are past their time to live.
        since_ms = reach.least() - max(view.spec.ttl, layout.ring * layout.hop_ms)
        cut = Cut(source, [(view, generation)])

        def pieces() -> Iterator[KeyedRows]:
            columns = [*map(column_of, cut.fields), *_PLACE]
            found = self._tables.read(
                table, columns, version=reach.version, start_ms=since_ms, end_ms=EVER_MS
            )
            for origin in range(partitions):
                rows = found.filter(pc.field("partition") == origin).sort_by("offset")
                for batch in rows.to_batches(_ROWS_AT_ONCE):
                    yield from (piece for _, home, piece in _cut(cut, batch, origin) if home == partition)

        return Seed({number: last + 1 for number, last in enumerate(held)}, watermark_ms, pieces())

    async def _whole(self, source: Source) -> tuple[Reach, list[int]]:
        """Return a version of the source's table that holds all that is written by now, and the last offsets in it."""
        topic = topics.EVENTS.named(source.name).name
        _, held = await asyncio.to_thread(self._held, source)
        last = [await self._last(topic, number, after) for number, after in enumerate(held)]
        until = time.monotonic() + self._patience_s
        with self._flushing.hurried([source.name]):
            while True:
                reach, held = await asyncio.to_thread(self._held, source)
                behind = sum(max(0, wanted - there) for wanted, there in zip(last, held, strict=True))
                if not behind:
                    return reach, held
                if time.monotonic() > until:
                    raise EventsNotArchivedYet(source.name, behind)
                await asyncio.sleep(_POLL_S)

    def _held(self, source: Source) -> tuple[Reach, list[int]]:
        """Return how far the source's table has come, and the last offsets in it; it blocks."""
        table, partitions = events_table(source.name), source.spec.partitions
        reach = self._tables.reach(table, partitions)
        topic = topics.EVENTS.named(source.name).name
        return reach, self._tables.offsets(table, reach.version, topic, partitions)

    async def _last(self, topic: str, partition: int, after: int) -> int:
        """Return the offset of the last record that is written to a partition, or `after` if none follows that."""
        async for batch in self._read_partition(topic, partition, offset=after + 1):
            after = batch[-1].offset
        return after


def _cut(cut: Cut, batch: pa.RecordBatch, origin: int) -> Iterator[tuple[FeatureView, int, KeyedRows]]:
    return cut.pieces_of(
        {name: batch[column_of(name)].to_pylist() for name in cut.fields},
        event_time_ms=batch["event_time_ms"].to_pylist(),
        ids=batch["id"].to_pylist(),
        offsets=batch["offset"].to_pylist(),
        origin=origin,
    )
