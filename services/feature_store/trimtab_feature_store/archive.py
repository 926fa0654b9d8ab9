"""Kafka door of the archive: events.<source> and predictions in, Delta tables out.

At least once with effects applied once: Kafka's offsets are committed after a flush,
and what comes again after a crash or a rebalance is refused by the table itself. A
table in trouble holds its own topic back, never the others.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import pyarrow as pa
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError
from trimtab_contracts import topics
from trimtab_contracts.common.v1.common_pb2 import Watermark
from trimtab_runtime import records
from trimtab_runtime.clock import Clock, to_timestamp
from trimtab_runtime.errors import TrimtabError
from trimtab_runtime.specbook import SpecBook
from trimtab_runtime.starting import AGAIN_AFTER_S, member, started

from trimtab_feature_store import deadletters, tables
from trimtab_feature_store.shelves import PREDICTIONS_PRESS, Press, Shelf, event_press
from trimtab_feature_store.store import Piece, Reach

GROUP = "feature_store-archive"
HEARS = (topics.EVENTS, topics.PREDICTIONS)
_POLL_MS = 100
_POLL_RECORDS = 20_000
log = logging.getLogger(__name__)


class Store(Protocol):
    """What the archive needs of its tables; each call blocks."""

    def append(
        self, table: str, schema: pa.Schema, pieces: Sequence[Piece], watermark_ms: Mapping[int, int]
    ) -> None:
        """Add what the table does not hold yet, and move its watermarks on."""
        ...

    def reach(self, table: str, partitions: int) -> Reach:
        """Return how far the newest version of a table has come."""
        ...


class Archive(ConsumerRebalanceListener):  # type: ignore[misc]
    """Archives all topics of `book` until its `run` is cancelled."""

    def __init__(self, servers: str, book: SpecBook, store: Store, producer: Any, clock: Clock) -> None:
        self._servers = servers
        self._book = book
        self._store = store
        self._producer = producer
        self._clock = clock
        self._shelves: dict[str, Shelf] = {}
        self._presses: dict[str, tuple[object, Press]] = {}
        self._hurried: Counter[str] = Counter()
        self._published: dict[str, int] = {}
        self._assigned: set[TopicPartition] = set()

    def owns(self, topic: str) -> bool:
        """Whether the first partition of a topic is archived here, as it is by one process at a time."""
        return TopicPartition(topic, 0) in self._assigned

    @contextmanager
    def hurried(self, sources: Sequence[str]) -> Iterator[None]:
        """Have the events of `sources` flushed at once, as long as somebody waits inside."""
        names = [topics.EVENTS.named(source).name for source in sources]
        self._hurried.update(names)
        try:
            yield
        finally:
            self._hurried.subtract(names)

    async def run(self) -> None:
        """Read and flush; a broker that is away is waited for."""
        while True:
            try:
                async with started(self._member, "the archive") as consumer:
                    await self._read(consumer)
            except KafkaError as error:
                log.warning("the archive waits for Kafka: %s", error)
                await asyncio.sleep(AGAIN_AFTER_S)
            finally:
                self.on_partitions_revoked(())

    def _member(self) -> AIOKafkaConsumer:
        return member(
            self._servers,
            GROUP,
            metadata_max_age_ms=5_000,
            fetch_max_wait_ms=_POLL_MS,
            max_partition_fetch_bytes=4_194_304,
        )

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Forget what is not archived yet: whoever gets the partitions reads it again."""
        self._shelves.clear()
        self._assigned.clear()

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """Note what is read here; that starts at the committed offsets."""
        self._assigned = set(assigned)

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        heard: set[str] = set()
        while True:
            wanted = {
                topics.PREDICTIONS.name,
                *(topics.EVENTS.named(name).name for name in self._book.sources),
            }
            if wanted != heard:
                heard = wanted
                consumer.subscribe(topics=sorted(heard), listener=self)
                for topic in (
                    self._shelves.keys() - heard
                ):  # of a deleted source: should it come back, they are read again
                    del self._shelves[topic]
            found = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
            now_ms = self._clock.now_ms()
            for place, batch in found.items():
                self._shelves.setdefault(place.topic, Shelf(place.topic)).put(place.partition, batch, now_ms)
            for topic, shelf in list(self._shelves.items()):
                if shelf.is_due(now_ms, hurried=self._hurried[topic] > 0):
                    await self._flush(consumer, shelf)

    async def _flush(self, consumer: AIOKafkaConsumer, shelf: Shelf) -> None:
        places = [TopicPartition(shelf.topic, partition) for partition in shelf.held]
        offsets = {TopicPartition(shelf.topic, p): batch[-1].offset + 1 for p, batch in shelf.held.items()}
        try:
            refused = await asyncio.to_thread(self._append, self._press(shelf.topic), shelf)
        except TrimtabError as error:
            log.error("%d records of %s are not archived yet: %s", shelf.records, shelf.topic, error)
            shelf.failed(self._clock.now_ms())
            consumer.pause(*(place for place in places if place in consumer.assignment()))
            return
        shelf.clear()
        await records.send_all(self._producer, [deadletters.letter(raw, why) for raw, why in refused])
        try:
            consumer.resume(*(place for place in places if place in consumer.paused()))
            await consumer.commit(offsets)
        except (KafkaError, IllegalStateError) as error:
            # A partition went to another member: it reads the rows again, and the table refuses them.
            log.warning("offsets of %s were not committed: %s", shelf.topic, error)
        await self._publish(shelf.topic)

    def _append(self, press: Press, shelf: Shelf) -> list[tuple[Any, str]]:
        pieces: list[Piece] = []
        marks: dict[int, int] = {}
        refused: list[tuple[Any, str]] = []
        for partition, batch in shelf.held.items():
            pressed = press.press(partition, batch)
            pieces.append(Piece(shelf.topic, partition, pressed.rows, batch[-1].offset))
            refused += pressed.refused
            if pressed.watermark_ms is not None:
                marks[partition] = pressed.watermark_ms
        self._store.append(press.table, press.schema, pieces, marks)
        return refused

    def _press(self, topic: str) -> Press:
        if topic == topics.PREDICTIONS.name:
            return PREDICTIONS_PRESS
        source = self._book.source(topics.EVENTS.member(topic))
        held = self._presses.get(topic)
        if held is None or held[0] is not source:
            held = (source, event_press(source))
            self._presses[topic] = held
        return held[1]

    async def _publish(self, topic: str) -> None:
        """Tell how far a source has been archived, all partitions and all processes together.

        Whoever publishes looks once more afterwards, so that of two processes which flush
        at the same time the last word is the furthest.
        """
        source = self._book.sources.get(topics.EVENTS.member(topic))
        if source is None:  # predictions, or a source that was deleted meanwhile
            return
        table, partitions = tables.events_table(source.name), source.spec.partitions
        while True:
            reached = (await asyncio.to_thread(self._store.reach, table, partitions)).least()
            if reached <= self._published.get(source.name, 0):
                return
            mark = Watermark(
                stage="archive", name=source.name, partition=0, partitions=1, time=to_timestamp(reached)
            )
            key = f"archive/{source.name}/0/"
            await records.send_all(
                self._producer,
                [
                    records.outgoing(
                        topics.WATERMARKS,
                        mark,
                        key=key,
                        id=f"{key}{reached}",
                        source="feature_store",
                        time_ms=reached,
                    )
                ],
            )
            self._published[source.name] = reached
