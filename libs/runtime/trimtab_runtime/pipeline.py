"""From Kafka to Kafka, exactly once: the one loop of all stages that read topics and write topics.

Each input partition has a lane of its own: a worker, and a transactional producer
whose id is the partition's. What a batch becomes and the offset that has been
consumed are one transaction. A lane's producer is initialised before the committed
offset is read, so whoever owned the partition before, even if only paused, can commit
nothing any more: its epoch is fenced. A transaction that fails is as if it had never
been; the worker is thrown away with it, and a new one is restored from what is
committed.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import InvalidProducerEpoch, KafkaError, ProducerFenced

from trimtab_runtime.errors import TrimtabError, Unavailable
from trimtab_runtime.records import Outgoing

log = logging.getLogger(__name__)

Output = Outgoing
"""A record that a worker writes."""

SESSION_MS = 6_000
_TRANSACTION_MS = 30_000
_REOPEN_AFTER_S = (0.1, 0.5, 1.0, 2.0)


class Worker(Protocol):
    """The work of one input partition, alive for one assignment of it."""

    async def restore(self) -> None:
        """Rebuild state from what is committed; older owners are fenced, and no record has come yet."""
        ...

    def process(self, records: Sequence[Any]) -> Sequence[Outgoing]:
        """Return what a batch becomes; changes of state are thrown away with the worker if it does not commit."""
        ...


MakeWorker = Callable[[TopicPartition], Worker]


class Broken(TrimtabError):
    """A worker failed on a record; the stage cannot go on, for it may neither skip nor repeat it."""

    def __init__(self, place: TopicPartition, offset: int, error: Exception) -> None:
        super().__init__(
            f"{place.topic}/{place.partition} from offset {offset}: {type(error).__name__}: {error}"
        )


@dataclass(slots=True, eq=False)
class _Lane:
    """One input partition while it is ours."""

    place: TopicPartition
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    worker: Worker | None = None
    producer: AIOKafkaProducer | None = None
    failures: int = 0
    open_at: float = 0.0
    """Not before this (monotonic seconds) it is opened, or opened again."""


class Pipeline(ConsumerRebalanceListener):  # type: ignore[misc]
    """Runs a worker for each input partition that this process is assigned."""

    def __init__(
        self,
        servers: str,
        *,
        service: str,
        make_worker: MakeWorker,
        topics: Collection[str] = (),
        max_records: int = 2000,
    ) -> None:
        """Read `topics` as the consumer group `service`, at most `max_records` at a time."""
        self._servers = servers
        self._service = service
        self._make_worker = make_worker
        self._topics = frozenset(topics)
        self._max_records = max_records
        self._changed = asyncio.Event()
        self._lanes: dict[TopicPartition, _Lane] = {}
        self._consumer: Any = None

    def set_topics(self, topics: Collection[str]) -> None:
        """Read exactly `topics` from now on; none is fine."""
        if frozenset(topics) != self._topics:
            self._topics = frozenset(topics)
            self._changed.set()

    @property
    def assignment(self) -> tuple[TopicPartition, ...]:
        """The input partitions that are open and being worked on."""
        return tuple(place for place, lane in self._lanes.items() if lane.worker is not None)

    def worker(self, place: TopicPartition) -> Worker | None:
        """Return the worker of an input partition, if it is open here."""
        lane = self._lanes.get(place)
        return lane.worker if lane else None

    async def run(self) -> None:
        """Work until cancelled, then finish the transactions in flight.

        Raises:
            Broken: a worker failed on a record.
        """
        while True:
            self._changed.clear()
            if not self._topics:
                await self._changed.wait()
                continue
            # A consumer for each set of topics: a consumer that subscribes anew while it is being
            # assigned partitions can lose its fetcher without a word (aiokafka 0.14).
            self._consumer = AIOKafkaConsumer(
                bootstrap_servers=self._servers,
                group_id=self._service,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                isolation_level="read_committed",
                session_timeout_ms=SESSION_MS,
                heartbeat_interval_ms=500,
                max_poll_interval_ms=600_000,
                retry_backoff_ms=20,
                fetch_max_wait_ms=200,
                metadata_max_age_ms=10_000,
            )
            self._consumer.subscribe(topics=sorted(self._topics), listener=self)
            try:
                await self._start()
                while not self._changed.is_set():
                    await self._turn()
            finally:
                await asyncio.shield(self._stop())

    async def _start(self) -> None:
        while True:
            try:
                await self._consumer.start()
                return
            except KafkaError as error:
                log.warning("%s waits for Kafka: %s", self._service, error)
                await asyncio.sleep(0.5)

    async def _turn(self) -> None:
        await self._open_what_is_due()
        batches = await self._consumer.getmany(timeout_ms=100, max_records=self._max_records)
        if batches:
            work = asyncio.gather(*[self._work(place, batch) for place, batch in batches.items()])
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                await work
                raise

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Take partitions; they are opened between two turns, for that may take long."""
        for place in assigned:
            self._consumer.pause(place)
            self._lanes[place] = _Lane(place)

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Give partitions back, once what is in flight has been committed or has failed."""
        lanes = [self._lanes.pop(place) for place in list(revoked) if place in self._lanes]
        await asyncio.gather(*[self._close(lane) for lane in lanes])

    async def _open_what_is_due(self) -> None:
        now = time.monotonic()
        due = [lane for lane in self._lanes.values() if lane.worker is None and lane.open_at <= now]
        await asyncio.gather(*[self._open(lane) for lane in due])

    async def _open(self, lane: _Lane) -> None:
        """Fence older owners, restore, and read on from what is committed."""
        async with lane.busy:
            if self._lanes.get(lane.place) is not lane:
                return
            try:
                lane.producer = await self._fencing_producer(lane.place)
                committed = await self._consumer.committed(lane.place)
                worker = self._make_worker(lane.place)
                await worker.restore()
                if self._lanes.get(lane.place) is not lane:
                    return
                if committed is None:
                    await self._consumer.seek_to_beginning(lane.place)
                else:
                    self._consumer.seek(lane.place, committed)
                self._consumer.resume(lane.place)
                lane.worker = worker
            except (KafkaError, Unavailable, OSError) as error:
                await self._give_up(lane, error)

    async def _fencing_producer(self, place: TopicPartition) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._servers,
            transactional_id=f"{self._service}/{place.topic}/{place.partition}",
            transaction_timeout_ms=_TRANSACTION_MS,
            acks="all",
            linger_ms=0,
            max_batch_size=262_144,
            max_request_size=8_388_608,
            compression_type="lz4",
            retry_backoff_ms=20,
        )
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        return producer

    async def _work(self, place: TopicPartition, batch: Sequence[Any]) -> None:
        """Commit what `batch` becomes with the offset after it; or nothing, and the lane is closed."""
        lane = self._lanes.get(place)
        if lane is None:
            return
        async with lane.busy:
            if self._lanes.get(place) is not lane or lane.worker is None or lane.producer is None:
                return  # taken from us, or failed: whoever opens it next reads these records again
            try:
                outputs = lane.worker.process(batch)
            except Unavailable as error:
                await self._give_up(lane, error)
                return
            except Exception as error:
                raise Broken(place, batch[0].offset, error) from error
            try:
                await self._commit(lane.producer, place, batch[-1].offset + 1, outputs)
                lane.failures = 0
            except (KafkaError, OSError) as error:
                await self._give_up(lane, error)

    async def _commit(
        self, producer: AIOKafkaProducer, place: TopicPartition, offset: int, outputs: Sequence[Outgoing]
    ) -> None:
        async with producer.transaction():
            waiting = [
                await producer.send(each.topic, each.value, each.key, each.partition, headers=each.headers)
                for each in outputs
            ]
            await producer.send_offsets_to_transaction({place: offset}, self._service)
            for future in waiting:
                await future

    async def _give_up(self, lane: _Lane, error: Exception) -> None:
        """Close a lane that failed; it is opened again later, with a new worker.

        A lane that was fenced belongs to another member by now, and the group will say
        so; only if it does not, within the session's time, was the fence something else
        (the broker's transaction timeout), and the lane is ours to open again.
        """
        fenced = isinstance(error, ProducerFenced | InvalidProducerEpoch)
        wait_s = (
            SESSION_MS / 1000 + 1 if fenced else _REOPEN_AFTER_S[min(lane.failures, len(_REOPEN_AFTER_S) - 1)]
        )
        log.warning("lane %s/%d closes for %.1f s: %r", lane.place.topic, lane.place.partition, wait_s, error)
        lane.failures += 1
        lane.open_at = time.monotonic() + wait_s
        lane.worker = None
        if lane.place in self._consumer.assignment():
            self._consumer.pause(lane.place)
        await self._stop_producer(lane)

    async def _close(self, lane: _Lane) -> None:
        async with lane.busy:
            lane.worker = None
            await self._stop_producer(lane)

    async def _stop_producer(self, lane: _Lane) -> None:
        producer, lane.producer = lane.producer, None
        if producer is not None:
            with contextlib.suppress(KafkaError, OSError):
                await producer.stop()

    async def _stop(self) -> None:
        lanes = list(self._lanes.values())
        self._lanes.clear()
        await asyncio.gather(*[self._close(lane) for lane in lanes])
        await self._consumer.stop()


async def read_partition(
    servers: str, topic: str, partition: int, *, offset: int = 0
) -> AsyncIterator[Sequence[Any]]:
    """Yield the committed records of a partition, in batches, up to the end as it stands at the call."""
    place = TopicPartition(topic, partition)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_wait_ms=50,
        retry_backoff_ms=20,
        max_partition_fetch_bytes=4_194_304,
    )
    try:
        await consumer.start()
        consumer.assign([place])
        if offset:
            consumer.seek(place, offset)
        else:
            await consumer.seek_to_beginning(place)
        end = (await consumer.end_offsets([place]))[place]
        while await consumer.position(place) < end:
            for batch in (await consumer.getmany(place, timeout_ms=50)).values():
                yield batch
    except KafkaError as error:
        raise Unavailable(f"{topic}/{partition} cannot be read: {error}") from error
    finally:
        await consumer.stop()
