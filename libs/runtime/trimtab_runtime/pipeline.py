"""From Kafka to Kafka, exactly once: the one loop of all stages that read topics and write topics.

Each input partition has a lane of its own: a worker, and transactions whose id is the
partition's. What a batch becomes and the offset that has been consumed are one
transaction. A lane's transactions are opened before the committed offset is read, so
whoever owned the partition before, even if only paused, can commit nothing any more. A
transaction that fails is as if it had never been; the worker is thrown away with it,
and a new one is restored from what is committed.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import InvalidProducerEpoch, KafkaError, MessageSizeTooLargeError, ProducerFenced

from trimtab_runtime.errors import TrimtabError, Unavailable
from trimtab_runtime.lifecycle import finish
from trimtab_runtime.records import Outgoing
from trimtab_runtime.starting import member
from trimtab_runtime.transactions import FAILURES, Transactions

log = logging.getLogger(__name__)

SESSION_MS = 6_000
_POLL_MS = 200
_QUIET_MS = 1_000
_RESTORED_AT_ONCE = 20_000
"""Records of one transaction, of those that a restored worker begins with."""
_DRAIN_S = 5.0
_CANCEL_AGAIN_S = 0.5
_AGAIN_AFTER_S = (0.1, 0.5, 1.0, 2.0)
_TOO_LARGE_AGAIN_S = 30.0
_NOWHERE = TopicPartition("", 0)


class Worker(Protocol):
    """The work of one input partition, alive for one assignment of it."""

    async def restore(self) -> Sequence[Outgoing]:
        """Rebuild state from what is committed; older owners are fenced, and no record has come yet.

        A partition that state is read from is written by this input partition's workers alone. What is returned,
        mostly nothing, is committed before the first batch, in its order, and not all at once where it is much.
        """
        ...

    def process(self, records: Sequence[Any]) -> Sequence[Outgoing]:
        """Return what a batch becomes; changes of state are thrown away with the worker if it does not commit.

        An empty batch says that nothing has come for a second.
        """
        ...


@runtime_checkable
class Preparing(Protocol):
    """A worker that needs something from elsewhere before it can process a batch."""

    async def prepare(self, records: Sequence[Any]) -> None:
        """Have at hand what `process` needs for a batch that is not empty; what it does may be done again.

        `Unavailable` is waited out for as long as it takes: the partition is held back with its worker as it is, and
        others go on.
        """
        ...


MakeWorker = Callable[[TopicPartition], Worker]


class Broken(TrimtabError):
    """A worker failed on a record; the stage cannot go on, for it may neither skip nor repeat it."""

    def __init__(self, place: TopicPartition, offset: int, error: Exception) -> None:
        super().__init__(
            f"{place.topic}/{place.partition} from offset {offset}: {type(error).__name__}: {error}"
        )


class _TooLarge(TrimtabError):
    """A worker made a record that Kafka does not take; a topic that takes it, or a spec that makes less, may come yet."""

    def __init__(self, place: TopicPartition, offset: int, error: Exception) -> None:
        super().__init__(
            f"{place.topic}/{place.partition} stands still at offset {offset}, for what is made from there on has a record that "
            f"is too large ({error}): raise max.message.bytes of the topics that are written, or mend what makes it so large"
        )


class Pipeline:
    """Runs a worker for each input partition that this process is assigned."""

    def __init__(
        self,
        servers: str,
        *,
        service: str,
        make_worker: MakeWorker,
        topics: Collection[str] = (),
        max_records: int = 2000,
        session_ms: int = SESSION_MS,
        from_now: bool = False,
    ) -> None:
        """Read `topics` as the consumer group `service`, at most `max_records` of a partition at a time.

        A partition that the group has never read is read from its beginning, or `from_now` on.
        A process that is not heard of for `session_ms` loses its partitions to the others.
        """
        self.servers = servers
        self.service = service
        self.make_worker = make_worker
        self.max_records = max_records
        self.session_ms = session_ms
        self.from_now = from_now
        self._topics = frozenset(topics)
        self._changed = asyncio.Event()
        self._membership: _Membership | None = None

    def set_topics(self, topics: Collection[str]) -> None:
        """Read exactly `topics` from now on; none is fine, and so is one that does not exist yet."""
        if frozenset(topics) != self._topics:
            self._topics = frozenset(topics)
            self._changed.set()

    @property
    def assignment(self) -> tuple[TopicPartition, ...]:
        """The input partitions that are open and being worked on."""
        lanes = self._membership.lanes.items() if self._membership else ()
        return tuple(place for place, lane in lanes if lane.worker is not None)

    def worker(self, place: TopicPartition) -> Worker | None:
        """Return the worker of an input partition, if it is open here."""
        lane = self._membership.lanes.get(place) if self._membership else None
        return lane.worker if lane else None

    async def run(self) -> None:
        """Work until cancelled, then finish the transactions in flight; a Kafka that is away is waited for.

        Raises:
            Broken: a worker failed on a record.
        """
        while True:
            self._changed.clear()
            if not self._topics:
                await self._changed.wait()
                continue
            # One membership for each set of topics: a consumer that subscribes anew while it is being
            # assigned partitions can lose its fetcher without a word (aiokafka 0.14).
            self._membership = _Membership(self, self._topics)
            try:
                await self._membership.run(self._changed)
            except FAILURES as error:
                log.warning("%s joins its group again soon: %r", self.service, error)
                await asyncio.sleep(_AGAIN_AFTER_S[1])


class _Membership(ConsumerRebalanceListener):  # type: ignore[misc]
    """This process in the group, for one set of topics: a consumer, and a lane for each partition it is given."""

    def __init__(self, pipeline: Pipeline, topics: frozenset[str]) -> None:
        self.pipeline = pipeline
        self.lanes: dict[TopicPartition, _Lane] = {}
        self.broken: Broken | None = None
        self.heartbeat_ms = max(100, pipeline.session_ms // 10)
        self.consumer = member(
            pipeline.servers,
            pipeline.service,
            session_timeout_ms=pipeline.session_ms,
            heartbeat_interval_ms=self.heartbeat_ms,
            retry_backoff_ms=20,
            fetch_max_wait_ms=250,
            metadata_max_age_ms=10_000,
        )
        self._topics = topics
        self._closing = False

    async def run(self, changed: asyncio.Event) -> None:
        """Work until `changed`, until a topic that was missing has come to be, or until cancelled."""
        failure: Exception | None = None
        try:
            await self.consumer.start()
            async with asyncio.TaskGroup() as self._tasks:
                try:
                    await self._attend(changed)
                except (Broken, *FAILURES) as error:
                    failure = error
                finally:
                    self._closing = True
                    await self.on_partitions_revoked(list(self.lanes))
        finally:
            await finish(self.consumer.stop())
        if failure:
            raise failure

    async def _attend(self, changed: asyncio.Event) -> None:
        """Let the lanes work, and see to what is theirs all together."""
        missing = self._topics - await self.consumer.topics()
        if missing:
            log.info("%s waits for topics that do not exist yet: %s", self.pipeline.service, sorted(missing))
        if present := self._topics - missing:
            self.consumer.subscribe(topics=sorted(present), listener=self)
        while not changed.is_set():
            if present:
                # Hears what went wrong in the group; the records are taken by the lanes.
                await self.consumer.getmany(_NOWHERE, timeout_ms=_POLL_MS)
            else:
                await asyncio.sleep(_POLL_MS / 1000)
            if self.broken:
                raise self.broken
            if missing and missing & await self.consumer.topics():
                return

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Open a lane for each partition; none is read before its lane says from where."""
        for place in assigned:
            self.consumer.pause(place)
            if not self._closing:
                lane = self.lanes[place] = _Lane(place, self)
                lane.task = self._tasks.create_task(lane.run())

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Give partitions back, once what is in flight has been committed or has failed."""
        lanes = [self.lanes.pop(place) for place in list(revoked) if place in self.lanes]
        await asyncio.gather(*[lane.close() for lane in lanes])


class _Lane:
    """One input partition while it is ours: opened, worked on, and opened again after a failure."""

    task: asyncio.Task[None]

    def __init__(self, place: TopicPartition, membership: _Membership) -> None:
        self.worker: Worker | None = None
        self._place = place
        self._membership = membership
        self._pipeline = membership.pipeline
        self._consumer = membership.consumer
        self._busy = asyncio.Lock()
        self._failures = 0
        self._is_ours = True

    async def run(self) -> None:
        """Work until cancelled, or until the worker is broken."""
        while self._is_ours:
            transactions: Transactions | None = None
            try:
                transactions = await Transactions.open(self._pipeline.servers, self._id)
                await self._work(await self._open(transactions), transactions)
            except Broken as error:
                self._membership.broken = error
                return
            except _TooLarge as error:
                wait_s = _TOO_LARGE_AGAIN_S
                log.error("%s (others go on, and it is tried again in %.0f s)", error, wait_s)
            except (Unavailable, *FAILURES) as error:
                wait_s = self._patience_s(error)
                log.warning("%s closes for %.1f s: %r", self._id, wait_s, error)
            finally:
                self.worker = None
                if transactions is not None:
                    with contextlib.suppress(*FAILURES):
                        await finish(transactions.close())
            if self._place in self._consumer.assignment():
                self._consumer.pause(self._place)
            await asyncio.sleep(wait_s)

    async def close(self) -> None:
        """End, after the transaction in flight; one that takes too long is as if it had never been."""
        self._is_ours = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                await self._busy.acquire()
        while not self.task.done():
            # Again and again: a client of Kafka that is being stopped can swallow a cancellation (aiokafka 0.14).
            self.task.cancel()
            await asyncio.wait([self.task], timeout=_CANCEL_AGAIN_S)

    @property
    def _id(self) -> str:
        return f"{self._pipeline.service}/{self._place.topic}/{self._place.partition}"

    async def _open(self, transactions: Transactions) -> int:
        """Restore a worker, and return from where it reads on, which is what is committed; older owners are fenced."""
        offset: int | None = await self._consumer.committed(self._place)
        if offset is None:
            offset = await self._first(transactions)
        try:
            worker = self._pipeline.make_worker(self._place)
            outputs = await worker.restore()
            for at in range(0, len(outputs), _RESTORED_AT_ONCE):
                async with self._busy:
                    await self._commit(transactions, outputs[at : at + _RESTORED_AT_ONCE], offset, offset)
        except (_TooLarge, Unavailable, *FAILURES):
            raise
        except Exception as error:
            raise Broken(self._place, offset, error) from error
        self._consumer.seek(self._place, offset)
        self._consumer.resume(self._place)
        self.worker = worker
        return offset

    async def _first(self, transactions: Transactions) -> int:
        """Return from where a partition is read that the group has never read; from now on is from the same now ever after."""
        if not self._pipeline.from_now:
            return int((await self._consumer.beginning_offsets([self._place]))[self._place])
        offset = int((await self._consumer.end_offsets([self._place]))[self._place])
        await self._commit(transactions, [], offset, offset)
        return offset

    async def _work(self, offset: int, transactions: Transactions) -> None:
        """Commit what each batch becomes together with the offset after it, which is `offset` at first."""
        while True:
            batches = await self._consumer.getmany(
                self._place, timeout_ms=_QUIET_MS, max_records=self._pipeline.max_records
            )
            batch = batches.get(self._place, [])
            if batch and isinstance(self.worker, Preparing):
                await self._prepare(self.worker, batch)
            async with self._busy:
                offset = await self._carry(batch, offset, transactions)

    async def _prepare(self, worker: Preparing, batch: Sequence[Any]) -> None:
        """Return once the worker has what it needs; until then nothing is in flight, so the lane can close at once."""
        outages = 0
        while True:
            try:
                return await worker.prepare(batch)
            except Unavailable as error:
                wait_s = _AGAIN_AFTER_S[min(outages, len(_AGAIN_AFTER_S) - 1)]
                log.warning("%s is held back, and tries again in %.1f s: %s", self._id, wait_s, error)
            except Exception as error:
                raise Broken(self._place, batch[0].offset, error) from error
            outages += 1
            await asyncio.sleep(wait_s)

    async def _carry(self, batch: Sequence[Any], offset: int, transactions: Transactions) -> int:
        assert self.worker is not None
        after = int(batch[-1].offset) + 1 if batch else offset
        try:
            outputs = self.worker.process(batch)
            if batch or outputs:
                await self._commit(transactions, outputs, offset, after)
        except (_TooLarge, Unavailable, *FAILURES):
            raise
        except Exception as error:
            raise Broken(self._place, batch[0].offset if batch else offset, error) from error
        self._failures = 0
        return after

    async def _commit(
        self, transactions: Transactions, outputs: Sequence[Outgoing], offset: int, after: int
    ) -> None:
        """Commit what the records from `offset` up to `after` became."""
        try:
            await transactions.commit(outputs, self._pipeline.service, self._place, after)
        except MessageSizeTooLargeError as error:
            raise _TooLarge(self._place, offset, error) from error

    def _patience_s(self, error: Exception) -> float:
        """Return how long to stay closed.

        A lane that was fenced belongs to another member by now, and the group will say
        so with a heartbeat; only if it does not was the fence something else (a member
        that woke up late, the broker's own timeout), and the lane is ours to open again.
        """
        if isinstance(error, ProducerFenced | InvalidProducerEpoch):
            return 2 * self._membership.heartbeat_ms / 1000
        self._failures += 1
        return _AGAIN_AFTER_S[min(self._failures, len(_AGAIN_AFTER_S)) - 1]


async def read_partition(
    servers: str, topic: str, partition: int, *, offset: int = 0
) -> AsyncIterator[Sequence[Any]]:
    """Yield the committed records of a partition, in batches, up to its end as it stands at the call.

    A transaction that is open there is waited for: behind it may lie what has been committed.

    Raises:
        Unavailable: the partition does not exist, or cannot be read.
    """
    place = TopicPartition(topic, partition)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        request_timeout_ms=10_000,
        fetch_max_wait_ms=10,
        retry_backoff_ms=20,
        max_partition_fetch_bytes=4_194_304,
    )
    try:
        await consumer.start()
        if topic not in await consumer.topics():
            raise Unavailable(f"{topic}/{partition} cannot be read: there is no such topic")
        consumer.assign([place])
        start = (await consumer.beginning_offsets([place]))[place]
        consumer.seek(place, max(offset, start))
        end: int | None = None
        # The position, not the last record, says when it is over: the end may be a marker, or compacted away.
        while end is None or await consumer.position(place) < end:
            found = await consumer.getmany(place, timeout_ms=50)
            if end is None:
                end = consumer.highwater(place)
            for batch in found.values():
                yield batch
    except KafkaError as error:
        raise Unavailable(f"{topic}/{partition} cannot be read: {error!r}") from error
    finally:
        await finish(consumer.stop())
