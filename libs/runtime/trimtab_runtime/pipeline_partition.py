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


class ProcessingFailed(TrimtabError):
    """A worker could not process a record; the pipeline stops before it, as nothing may be skipped."""

    def __init__(self, where: str, error: Exception) -> None:
        super().__init__(f"{where} could not be processed: {error!r}; mend the worker and start again")


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


class Circumstances(Protocol):
    """What a partition needs of its pipeline."""

    max_records: int
    turns: asyncio.Semaphore
    """Bounds the transactions in flight."""
    restores: asyncio.Semaphore
    """Bounds the restores under way."""

    def new_worker(self, place: TopicPartition) -> Worker:
        """Return a worker that is not yet restored."""
        ...

    def new_writer(self, place: TopicPartition) -> Transactions:
        """Return a writer that is not yet open."""
        ...

    def discard(self, writer: Transactions) -> None:
        """Close `writer` some time soon."""
        ...

    def changed(self) -> None:
        """Take note that a partition began or ceased to work."""
        ...

    def rejoin(self, reason: str) -> None:
        """Ask the group anew what is ours."""
        ...

    def failed(self, error: KafkaError) -> None:
        """Take note that the consumer is broken."""
        ...


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
        self._is_idle = True
        self._is_stopping = False

    async def run(self) -> None:
        """Take records through transactions until stopped, or until the partition is no longer ours.

        Raises:
            ProcessingFailed: the worker has a fault.
            KafkaError: one of `HOPELESS`.
        """
        failures = 0
        while not self._is_stopping:
            try:
                if self.hold is None:
                    self.hold = await self._take_over()
                await self._work(self.hold)
            except (IllegalStateError, ConsumerStoppedError):
                return  # the assignment was taken away; what is held may still be of use in the next
            except Fenced as error:
                self._let_go()
                if not self._is_inherited:
                    log.warning("%s was taken away: %s", self.where, error)
                    return self._pipeline.rejoin(f"{self.where} was fenced")
                self._is_inherited = False
            except HOPELESS:
                raise
            except (KafkaError, Unavailable) as error:
                if isinstance(error.__cause__, HOPELESS):
                    raise error.__cause__ from error
                self._let_go()
                delay = _BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)]
                failures = failures + 1 if self._is_idle else 1
                log.warning("%s starts over in %.2f s: %s", self.where, delay, error)
                await asyncio.sleep(delay)

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
