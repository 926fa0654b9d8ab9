"""One transaction at a time: records, and the offset of the input they were made of, all or nothing.

To open a `Transactions` fences every earlier one of the same id, in whatever process:
what they have committed is settled by then, and they can commit nothing any more.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Sequence
from functools import lru_cache
from typing import Any, Self

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import IllegalOperation, KafkaError, MessageSizeTooLargeError
from aiokafka.partitioner import murmur2
from trimtab_contracts.topics import MOST_BYTES

from trimtab_runtime.lifecycle import finish
from trimtab_runtime.records import Outgoing
from trimtab_runtime.starting import naming_no_brokers

FAILURES = (KafkaError, IllegalOperation, OSError)
"""What Kafka, its client and the network fail with; a timeout is an OSError."""

TIMEOUT_MS = 30_000
_REQUEST_MS = 10_000
_BATCH_BYTES = 262_144
# A commit is acknowledged before its markers are written; whoever begins the next
# transaction in between is sent away, and aiokafka comes back after 20 ms.
_SETTLES_S = 0.002


class Transactions:
    """A producer of transactions, good until its first failure and to be closed then."""

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
        producer = AIOKafkaProducer(
            bootstrap_servers=servers,
            transactional_id=id,
            transaction_timeout_ms=TIMEOUT_MS,
            request_timeout_ms=_REQUEST_MS,
            acks="all",
            linger_ms=0,
            max_batch_size=_BATCH_BYTES,
            max_request_size=MOST_BYTES,
            compression_type="lz4",
            retry_backoff_ms=20,
        )
        try:
            with naming_no_brokers():
                await producer.start()
        except BaseException:
            await finish(producer.stop())
            raise
        return cls(producer)

    async def commit(
        self, outputs: Sequence[Outgoing], group: str, place: TopicPartition, offset: int
    ) -> None:
        """Write `outputs` in their order, and `offset` as what `group` reads next of `place`.

        Raises:
            FAILURES: nothing of it will be seen, or all of it was committed and the answer was lost.
        """
        self._is_whole = False
        async with asyncio.timeout(TIMEOUT_MS / 1000):
            batches = await self._batches(outputs)
            await asyncio.sleep(max(0.0, self._settled_at - time.monotonic()))
            await self._producer.begin_transaction()
            sends = [self._send(target, each) for target, each in batches.items()]
            offsets = self._producer.send_offsets_to_transaction({place: offset}, group)
            try:
                await _all(*sends, offsets)
            except MessageSizeTooLargeError:
                # Kafka is there, and the next of this id may be long in coming: until then readers would wait here.
                await self._producer.abort_transaction()
                raise
            await self._producer.commit_transaction()
        self._settled_at = time.monotonic() + _SETTLES_S
        self._is_whole = True

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

    async def _batches(self, outputs: Sequence[Outgoing]) -> dict[TopicPartition, list[Any]]:
        """Return `outputs` as batches by partition: half the work of sending them one by one."""
        found: dict[TopicPartition, list[Any]] = {}
        open_batches: dict[tuple[str, int], Any] = {}
        for each in outputs:
            partition = each.partition if each.partition is not None else await self._partition(each)
            batch = open_batches.get((each.topic, partition))
            if batch is None or not _fits(batch, each):
                batch = open_batches[each.topic, partition] = self._producer.create_batch()
                found.setdefault(TopicPartition(each.topic, partition), []).append(batch)
                _fits(batch, each)  # the first always does
        return found

    async def _partition(self, record: Outgoing) -> int:
        count = len(await self._producer.partitions_for(record.topic))
        return random.randrange(count) if record.key is None else _hash(record.key) % count

    async def _send(self, target: TopicPartition, batches: Sequence[Any]) -> None:
        sent: list[Awaitable[Any]] = []
        try:
            for batch in batches:
                sent += [await self._producer.send_batch(batch, target.topic, partition=target.partition)]
        finally:
            await _all(*sent)


async def _all(*waited: Awaitable[Any]) -> None:
    """Wait for every one to end, and raise the first failure, in their order, that is no mere consequence of another."""
    ends = await asyncio.gather(*waited, return_exceptions=True)
    failures = [end for end in ends if isinstance(end, BaseException)]
    if failures:
        # Once one has failed, the client refuses the rest as not in a transaction.
        raise next((each for each in failures if not isinstance(each, IllegalOperation)), failures[0])


def _fits(batch: Any, record: Outgoing) -> bool:
    appended = batch.append(timestamp=None, key=record.key, value=record.value, headers=list(record.headers))
    return appended is not None


@lru_cache(maxsize=65_536)
def _hash(key: bytes) -> int:
    """Return what all of Kafka's clients place a key by."""
    return int(murmur2(key)) & 0x7FFFFFFF
