"""One input partition on its way through a worker, transaction by transaction.

The order is the promise: fence older owners, then read where they got to, then rebuild state, then take records. So
a state and a position that were read stay true for as long as this owner can still commit; when it cannot, both
are thrown away together.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aiokafka import TopicPartition
from aiokafka.errors import (
    ConsumerStoppedError,
    GroupAuthorizationFailedError,
    IllegalStateError,
    IncompatibleBrokerVersion,
    InconsistentGroupProtocolError,
    InvalidGroupIdError,
    InvalidTransactionTimeout,
    KafkaError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

from trimtab_runtime.errors import TrimtabError, Unavailable
from trimtab_runtime.pipeline_transactions import Fenced, Output, Transactions

log = logging.getLogger(__name__)

_BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
HOPELESS = (
    GroupAuthorizationFailedError,
    IncompatibleBrokerVersion,
    InconsistentGroupProtocolError,
    InvalidGroupIdError,
    InvalidTransactionTimeout,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
"""What Kafka will answer again, however often it is asked."""


class Worker(Protocol):
    """The work of one input partition, alive for one assignment of it."""

    async def restore(self) -> None:
        """Rebuild the state: called once, after older owners are fenced and before the first record.

        What it reads must be partitions that only this input partition's workers write.
        """
        ...

    def process(self, records: Sequence[Any]) -> Sequence[Output]:
        """Return what `records` (aiokafka's, in order) become; no I/O.

        A change of state counts only if the transaction commits: otherwise the worker is thrown away and another,
        restored, takes the same records again.
        """
        ...


class WorkerFailed(TrimtabError):
    """A worker has a fault; the pipeline stops before the record that shows it, as nothing may be skipped."""

    def __init__(self, what: str, error: Exception) -> None:
        super().__init__(f"{what}: {error!r}; mend the worker, then start again")


@dataclass(slots=True)
class Hold:
    """What a live owner of a partition has; `position` is what it has committed, the state of `worker` is of there.

    It may outlast an assignment: nobody else can have moved the partition on without fencing `writer`.
    """

    writer: Transactions
    worker: Worker
    position: int
    clean: bool = True
    """Whether no transaction is half done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What the partitions of a pipeline share, and how they reach it."""

    new_worker: Callable[[TopicPartition], Worker]
    new_writer: Callable[[TopicPartition], Transactions]
    max_records: int
    turns: asyncio.Semaphore
    """Bounds the transactions in flight."""
    restores: asyncio.Semaphore
    """Bounds the restores under way."""
    discard: Callable[[Transactions], None]
    """Closes a writer some time soon."""
    changed: Callable[[], None]
    """Hears that a partition began or ceased to work."""
    rejoin: Callable[[str], None]
    """Asks the group anew what is ours, for the given reason."""
    failed: Callable[[Exception], None]
    """Hears of a broken consumer (a `KafkaError` outside `HOPELESS`) or of what ends the pipeline."""


class Partition:
    """Runs one assignment of `place`, from what an earlier one still holds, if anything."""

    def __init__(
        self, place: TopicPartition, pipeline: Circumstances, consumer: Any, hold: Hold | None
    ) -> None:
        self.place = place
        self.hold = hold
        self.is_working = False
        self.where = f"{place.topic}/{place.partition}"
        self._pipeline = pipeline
        self._consumer = consumer
        self._is_inherited = hold is not None
        self._failures = 0
        self._is_idle = True
        self._is_stopping = False

    async def run(self) -> None:
        """Take records through transactions until stopped, or until the partition is no longer ours."""
        while not self._is_stopping:
            try:
                if self.hold is None:
                    self.hold = await self._take_over()
                await self._work(self.hold)
            except (IllegalStateError, ConsumerStoppedError):
                return  # the assignment was taken away; what is held may still be of use in the next
            except Fenced as error:
                self._let_go()
                if not self._is_inherited:  # since it was assigned to us it was assigned again, to another
                    log.warning("%s was taken away: %s", self.where, error)
                    self._pipeline.rejoin(f"{self.where} was fenced")
                    return
                self._is_inherited = False
            except Exception as error:  # the edge of the loop: what is not an outage ends the pipeline
                cause = error.__cause__ if isinstance(error, Unavailable) else error
                if isinstance(cause, HOPELESS):
                    self._pipeline.failed(cause)
                    return
                if not isinstance(error, KafkaError | Unavailable):
                    self._pipeline.failed(error)
                    return
                await self._pause(error)

    async def stop(self, task: asyncio.Task[None], *, grace_s: float) -> Hold | None:
        """End `task`, which runs this, and return what it still holds; a transaction in flight has `grace_s` to finish."""
        self._is_stopping = True
        if self._is_idle:
            task.cancel()
        await asyncio.wait([task], timeout=grace_s)
        if not task.done():
            log.warning("%s is given up with a transaction unfinished after %.1f s", self.where, grace_s)
            task.cancel()
            await asyncio.wait([task])
        self.is_working = False
        if self.hold is not None and not self.hold.clean:
            self._let_go()
        return self.hold

    async def _pause(self, error: Exception) -> None:
        self._let_go()
        delay = _BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)]
        self._failures += 1
        log.warning("%s starts over in %.2f s: %s", self.where, delay, error)
        await asyncio.sleep(delay)

    async def _take_over(self) -> Hold:
        """Fence older owners, then read where they got to, then rebuild what they knew."""
        pipeline, consumer, place = self._pipeline, self._consumer, self.place
        writer = pipeline.new_writer(place)
        try:
            await writer.open()
            position = await consumer.committed(place)
            if position is None:
                position = (await consumer.beginning_offsets([place]))[place]
            worker = pipeline.new_worker(place)
            async with pipeline.restores:
                await self._restore(worker)
        except BaseException:
            pipeline.discard(writer)
            raise
        log.info("%s is ours from offset %d", self.where, position)
        return Hold(writer, worker, position)

    async def _restore(self, worker: Worker) -> None:
        try:
            await worker.restore()
        except (KafkaError, TrimtabError):
            raise
        except Exception as error:  # a fault of the worker, of whatever kind
            raise WorkerFailed(f"the state of {self.where} could not be restored", error) from error

    async def _work(self, hold: Hold) -> None:
        """Take records through transactions until told to stop."""
        pipeline, consumer, place = self._pipeline, self._consumer, self.place
        consumer.seek(place, hold.position)
        consumer.resume(place)
        self.is_working = True
        pipeline.changed()
        while not self._is_stopping:
            records = await self._fetch()
            position = await consumer.position(place)  # past the markers of other writers' transactions
            if not records:
                hold.position = position
                continue
            async with pipeline.turns:
                if self._is_stopping:
                    return
                self._is_idle = hold.clean = False
                try:
                    outputs = await self._process(hold.worker, records)
                    await self._commit(hold, outputs, position, records)
                finally:
                    self._is_idle = True
            hold.position, hold.clean = position, True
            self._failures, self._is_inherited = 0, False

    async def _fetch(self) -> Sequence[Any]:
        try:
            batches = await self._consumer.getmany(
                self.place, timeout_ms=1_000, max_records=self._pipeline.max_records
            )
        except IllegalStateError:
            raise
        except KafkaError as error:
            self._pipeline.failed(error)
            raise IllegalStateError("the consumer is broken") from error
        fetched: Sequence[Any] = batches.get(self.place, ())
        return fetched

    async def _process(self, worker: Worker, records: Sequence[Any]) -> Sequence[Output]:
        try:
            return worker.process(records)
        except Exception as error:  # a fault of the worker, of whatever kind
            raise WorkerFailed(f"{await self._culprit(records)} could not be processed", error) from error

    async def _culprit(self, records: Sequence[Any]) -> str:
        """Name the first of `records` that a fresh worker, given one at a time, fails on."""
        between = f"one of {self.where}/{records[0].offset} to {records[-1].offset}"
        tried: int | None = None
        if len(records) == 1:
            return f"{self.where}/{records[0].offset}"
        try:
            worker = self._pipeline.new_worker(self.place)
            await worker.restore()
            for record in records:
                tried = record.offset
                worker.process([record])
        except Exception:  # most likely the fault that is looked for; it is reported in any case
            return f"{self.where}/{tried}" if tried is not None else between
        return between

    async def _commit(
        self, hold: Hold, outputs: Sequence[Output], position: int, records: Sequence[Any]
    ) -> None:
        try:
            await hold.writer.commit(outputs, self.place, position)
        except (TypeError, ValueError) as error:
            span = f"{self.where}/{records[0].offset} to {records[-1].offset}"
            raise WorkerFailed(f"what {span} became could not be written", error) from error

    def _let_go(self) -> None:
        """Throw away what is held: it is no longer known to be true."""
        if self.hold is not None:
            self._pipeline.discard(self.hold.writer)
            self.hold = None
        self.is_working = False
        self._pipeline.changed()
