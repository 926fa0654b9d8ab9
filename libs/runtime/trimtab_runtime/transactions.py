"""One transaction at a time: records, and the offset of the input they were made of, all or nothing.

To open a `Transactions` fences every earlier one of the same id, in whatever process:
what they have committed is settled by then, and they can commit nothing any more.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Self

from aiokafka import TopicPartition
from aiokafka.errors import IllegalOperation, KafkaError, MessageSizeTooLargeError
from trimtab_contracts.topics import MOST_ROW_BYTES

from trimtab_runtime import bus, producing
from trimtab_runtime.producing import Batch, all_ended, in_batches
from trimtab_runtime.records import Outgoing

log = logging.getLogger(__name__)

FAILURES = (KafkaError, IllegalOperation, OSError)
"""What Kafka, its client and the network fail with; a timeout is an OSError."""

TIMEOUT_MS = 30_000
_REQUEST_MS = 10_000
_BATCH_BYTES = 262_144
# A commit is acknowledged before its markers are written; whoever begins the next
# transaction in between is sent away, and aiokafka comes back after 20 ms.
_SETTLES_S = 0.002


class Transactions:
    """A producer of transactions, good until its first failure, but for what was too large, and to be closed then."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self._settled_at = 0.0
        self._is_whole = True

    @classmethod
    async def open(cls, servers: str, id: str) -> Self:
        """Fence all earlier ones of `id`.

        Raises:
            FAILURES: Kafka is away, or refused.
        """
        producer = await producing.start(
            servers,
            transactional_id=id,
            transaction_timeout_ms=TIMEOUT_MS,
            request_timeout_ms=_REQUEST_MS,
            linger_ms=0,
            max_batch_size=_BATCH_BYTES,
        )
        return cls(producer)

    async def commit(
        self, outputs: Sequence[Outgoing], group: str, place: TopicPartition, offset: int
    ) -> None:
        """Write `outputs` in their order, and `offset` as what `group` reads next of `place`.

        Where Kafka refuses something as too large, batches are made smaller, and dead letters are cut.

        Raises:
            MessageSizeTooLargeError: a record is too large whatever is done; nothing of it will be seen.
            FAILURES: nothing of it will be seen, or all of it was committed and the answer was lost.
        """
        self._is_whole = False
        most, smaller = MOST_ROW_BYTES, list(bus.SMALLER)
        while True:
            try:
                async with asyncio.timeout(TIMEOUT_MS / 1000):
                    batches = await in_batches(self._producer, outputs, most)
                    await self._commit(batches, group, place, offset)
                break
            except MessageSizeTooLargeError as error:
                if not smaller:
                    raise
                most = smaller.pop(0)
                log.warning(
                    "what is made of %s/%d is too large for Kafka (%s), and is sent again in batches and dead letters of %d bytes",
                    place.topic,
                    place.partition,
                    error,
                    most,
                )
                outputs = [bus.cut(each, most) for each in outputs]
        self._settled_at = time.monotonic() + _SETTLES_S
        self._is_whole = True

    async def _commit(
        self,
        batches: Mapping[TopicPartition, Sequence[Batch]],
        group: str,
        place: TopicPartition,
        offset: int,
    ) -> None:
        await asyncio.sleep(max(0.0, self._settled_at - time.monotonic()))
        await self._producer.begin_transaction()
        sends = [self._send(target, each) for target, each in batches.items()]
        offsets = self._producer.send_offsets_to_transaction({place: offset}, group)
        try:
            await all_ended(*sends, offsets)
        except MessageSizeTooLargeError:
            # Kafka is there, and the next of this id may be long in coming: until then readers would wait here.
            await self._producer.abort_transaction()
            raise
        await self._producer.commit_transaction()

    async def close(self) -> None:
        """Let go; a transaction that failed is left to whoever opens the next of this id to abort."""
        if not self._is_whole:
            # Or stop() would wait for what was not sent, for as long as Kafka is away. To cancel a sender that
            # is about to end, as stop() does, would cancel whoever closes: so wait for its end first.
            sender = self._producer._sender.sender_task
            sender.cancel()
            await asyncio.wait([sender])
            ended = self._producer._txn_manager.wait_for_transaction_end()
            if ended is not None and ended.done():
                ended.exception()  # seen, so that asyncio does not report it
        try:
            await self._producer.stop()
        finally:
            await self._producer.client.close()  # which stop() leaves open if it raises

    async def _send(self, target: TopicPartition, batches: Sequence[Batch]) -> None:
        sent: list[Awaitable[Any]] = []
        try:
            for batch in batches:
                sent += [
                    await self._producer.send_batch(batch.builder, target.topic, partition=target.partition)
                ]
        finally:
            await all_ended(*sent)
