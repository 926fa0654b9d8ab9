"""Kafka door of monitoring, where much comes: predictions, and the events that are labels.

What one poll brings is stored in one transaction, together with the marks that came
with it, before its offsets are committed: it may come again, and then changes
nothing. A record that cannot be stored becomes a dead letter by itself; while
PostgreSQL is away the door waits.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from trimtab_contracts import topics
from trimtab_contracts.topics import Undecodable
from trimtab_runtime import admin, bus, records
from trimtab_runtime.errors import Rejected, Unavailable
from trimtab_runtime.specbook import SpecBook
from trimtab_runtime.starting import member, started

from trimtab_monitoring import messages
from trimtab_monitoring.news import SOURCE
from trimtab_monitoring.usecases.arriving import Gathering, LabelReader, label_streams
from trimtab_monitoring.usecases.entities import Mark, events_stream, predictions_stream
from trimtab_monitoring.usecases.ports import Store

log = logging.getLogger(__name__)

GROUP = "monitoring-intake"
HEARS = (topics.PREDICTIONS, topics.EVENTS)
_POLL_MS = 250
_MOST_RECORDS = 5_000
_BACKOFF_S = 0.5


class Intake:
    """Stores what serving said, and what came true."""

    def __init__(
        self, servers: str, store: Store, book: SpecBook, producer: Any,
        *, moved: Callable[[Iterable[str]], None], hold: Callable[[Iterable[int], int], None],
    ) -> None:  # fmt: skip
        """`moved` is called with the streams whose marks have moved, `hold` with the partitions of the predictions that are ours from then on, and how many there are."""
        self._servers = servers
        self._store = store
        self._book = book
        self._producer = producer
        self._moved = moved
        self._hold = hold
        self._specs_changed = True
        self._readers: dict[str, list[LabelReader]] = {}

    async def run(self, ready: asyncio.Event) -> None:
        """Hear until cancelled; a Kafka that is away is waited for."""
        while True:
            try:
                async with started(self._consumer, GROUP) as consumer:
                    self._specs_changed = True  # to this consumer, all is new
                    await self._hear(consumer, ready)
            except (KafkaError, Unavailable) as error:
                log.warning("intake waits for Kafka: %s", error)
                await asyncio.sleep(_BACKOFF_S)

    async def _hear(self, consumer: AIOKafkaConsumer, ready: asyncio.Event) -> None:
        while True:
            if self._specs_changed:
                await self._subscribe(consumer)
                ready.set()
            batches = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_MOST_RECORDS)
            if batches:
                await self._take([record for batch in batches.values() for record in batch])
                await _commit(consumer, {place: batch[-1].offset + 1 for place, batch in batches.items()})

    def _consumer(self) -> AIOKafkaConsumer:
        return member(self._servers, GROUP)

    def specs_changed(self) -> None:
        """Hear, from the next poll on, what the models that are applied now call for."""
        self._specs_changed = True

    async def _subscribe(self, consumer: AIOKafkaConsumer) -> None:
        """Hear the predictions, and the label sources of all models that are applied now."""
        self._specs_changed = False
        streams = label_streams(self._book.models.values())
        wanted = [
            topics.EVENTS.named(name, partitions=self._book.sources[name].spec.partitions)
            for name in streams
            if name in self._book.sources
        ]
        await admin.ensure_topics(self._servers, wanted)
        self._readers = {
            topic.name: [LabelReader(stream) for stream in streams[topics.EVENTS.member(topic.name)]]
            for topic in wanted
        }
        heard = {topics.PREDICTIONS.name, *self._readers}
        if heard != consumer.subscription():
            consumer.subscribe(list(heard), listener=_Assigned(consumer, self._hold))

    async def _take(self, batch: Sequence[Any]) -> None:
        """Store the records of `batch`, or bury those that cannot be."""
        try:
            gathered = self._gather(batch)
            await self._store_until_done(gathered)
        except Exception as error:  # the edge of the loop: one record must not stop the stream
            if len(batch) > 1:
                for record in batch:
                    await self._take([record])
                return
            await self._bury(batch[0], error)
            return
        self._moved({mark.stream for mark in gathered.marks.values()})

    def _gather(self, batch: Sequence[Any]) -> Gathering:
        gathered = Gathering()
        for record in batch:
            if record.topic == topics.PREDICTIONS.name:
                self._prediction(record, gathered)
            else:
                self._event(record, gathered)
        return gathered

    def _prediction(self, record: Any, into: Gathering) -> None:
        batch = topics.PREDICTIONS.decode(record.value)
        if batch.ids:
            into.predicted.append(messages.predicted(batch))
        stream, partitions = predictions_stream(batch.model), topics.PREDICTIONS.partitions
        into.mark(Mark(stream, batch.instance, record.partition, partitions, batch.watermark_ms))

    def _event(self, record: Any, into: Gathering) -> None:
        origin = records.origin(record)
        if origin.event_time_ms is None:
            return
        if origin.is_watermark:
            stream = events_stream(topics.EVENTS.member(record.topic))
            into.mark(Mark(stream, "", origin.partition, origin.partitions, origin.event_time_ms))
            return
        for reader in self._readers.get(record.topic, ()):
            if record.value is not None and (label := reader.read(record.value)) is not None:
                into.label(reader.stream, label[0], origin.event_time_ms, label[1])

    async def _store_until_done(self, gathered: Gathering) -> None:
        arrivals = gathered.arrivals()
        while True:
            try:
                return await self._store.take(arrivals)
            except Unavailable as error:
                log.warning("intake waits: %s", error)
                await asyncio.sleep(_BACKOFF_S)

    async def _bury(self, record: Any, error: Exception) -> None:
        if isinstance(error, Undecodable):
            code, message = "undecodable", str(error)
        elif isinstance(error, Rejected):
            code, message = "rejected", str(error)
        else:
            code, message = "failed", f"{type(error).__name__}: {error}"
        await bus.bury(self._producer, SOURCE, record, code, message)


class _Assigned(ConsumerRebalanceListener):  # type: ignore[misc]
    """Says which partitions of the predictions are ours, until the group says otherwise."""

    def __init__(self, consumer: AIOKafkaConsumer, hold: Callable[[Iterable[int], int], None]) -> None:
        self._consumer = consumer
        self._hold = hold

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Go on with what is ours until it is known whose it is."""

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Hold what is ours, all of it."""
        ours = [place.partition for place in assigned if place.topic == topics.PREDICTIONS.name]
        known = self._consumer.partitions_for_topic(topics.PREDICTIONS.name)
        self._hold(ours, len(known) if known else topics.PREDICTIONS.partitions)


async def _commit(consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]) -> None:
    try:
        await consumer.commit(dict(offsets))
    except KafkaError as error:
        # The partition went to another member: it stores the records again, which changes nothing.
        log.warning("offsets %s were not committed: %s", offsets, error)
