"""Producers of which Kafka takes each record once, and what it refuses as too large harms nothing behind it.

Kafka numbers the records of a producer in each partition, and refuses those that leave a gap. aiokafka (0.14) counts in the
records of a batch that was refused, so that all behind it would leave one, for as long as the producer lives.
"""

import asyncio
import random
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import IllegalOperation, MessageSizeTooLargeError
from aiokafka.partitioner import murmur2
from trimtab_contracts.topics import MOST_BYTES

from trimtab_runtime.lifecycle import finish
from trimtab_runtime.records import Outgoing
from trimtab_runtime.starting import naming_no_brokers


async def start(servers: str, **options: Any) -> AIOKafkaProducer:
    """Return a started idempotent producer; `options` are aiokafka's, beside those that all of ours have.

    Raises:
        KafkaError, OSError: Kafka is away, or refused.
    """
    producer = AIOKafkaProducer(
        bootstrap_servers=servers,
        enable_idempotence=True,
        acks="all",
        max_request_size=MOST_BYTES,
        compression_type="lz4",
        retry_backoff_ms=20,
        **options,
    )
    _forget_what_is_refused(producer)
    try:
        with naming_no_brokers():
            await producer.start()
    except BaseException:
        await finish(producer.stop())
        raise
    return producer


@dataclass(frozen=True, slots=True)
class Batch:
    """Records that go to one partition together, and are taken or refused together."""

    builder: Any
    places: list[int] = field(default_factory=list)
    """Which of the records that were to be sent they are."""

    def takes(self, record: Outgoing, place: int, most: int) -> bool:
        """Append `record` if there is room for it; the first may have more than `most` bytes."""
        if self.places and self.builder.size() + len(record.key or b"") + len(record.value or b"") > most:
            return False
        headers = list(record.headers)
        if self.builder.append(timestamp=None, key=record.key, value=record.value, headers=headers) is None:
            return False
        self.places.append(place)
        return True


async def in_batches(
    producer: AIOKafkaProducer, records: Sequence[Outgoing], most: int
) -> dict[TopicPartition, list[Batch]]:
    """Return `records` in batches of about `most` bytes, by partition and in order: half the work of sending them one by one."""
    found: dict[TopicPartition, list[Batch]] = {}
    filling: dict[tuple[str, int], Batch] = {}
    for place, record in enumerate(records):
        partition = record.partition
        if partition is None:
            partition = await _partition(producer, record)
        batch = filling.get((record.topic, partition))
        if batch is None or not batch.takes(record, place, most):
            batch = filling[record.topic, partition] = Batch(producer.create_batch())
            batch.takes(record, place, most)
            found.setdefault(TopicPartition(record.topic, partition), []).append(batch)
    return found


async def _partition(producer: AIOKafkaProducer, record: Outgoing) -> int:
    count = len(await producer.partitions_for(record.topic))
    return random.randrange(count) if record.key is None else _hash(record.key) % count


@lru_cache(maxsize=65_536)
def _hash(key: bytes) -> int:
    """Return what all of Kafka's clients place a key by."""
    return int(murmur2(key)) & 0x7FFFFFFF


async def all_ended(*waited: Awaitable[Any]) -> None:
    """Wait for every one to end, and raise the first failure, in their order, that is no mere consequence of another."""
    ends = await asyncio.gather(*waited, return_exceptions=True)
    failures = [end for end in ends if isinstance(end, BaseException)]
    if failures:
        # Once one of a transaction has failed, the client refuses the rest as not in a transaction.
        raise next((each for each in failures if not isinstance(each, IllegalOperation)), failures[0])


def _forget_what_is_refused(producer: AIOKafkaProducer) -> None:
    """Have the records of a batch that was refused as too large be none that were numbered."""
    sender, numbers = producer._sender, producer._txn_manager
    send = sender._send_produce_req

    async def send_and_number(node: int, batches: dict[Any, Any]) -> None:
        await send(node, batches)
        # No other batch of the partition has a number yet: there is one on its way at a time, and nothing was awaited since.
        for place, batch in batches.items():
            ended = batch.future.done() and not batch.future.cancelled()
            if ended and isinstance(batch.future.exception(), MessageSizeTooLargeError):
                numbers.increment_sequence_number(place, -batch.record_count)

    sender._send_produce_req = send_and_number
