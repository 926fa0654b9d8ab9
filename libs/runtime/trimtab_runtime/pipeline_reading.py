"""Reads one partition to its end: how a stage rebuilds what it has published.

The end is where the partition ended at the call. Nothing before it is left out: a transaction that is still open
there is waited for, since records behind it, our own among them, cannot be read until it is decided.
"""

from collections.abc import AsyncIterator
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from trimtab_runtime.errors import Unavailable

_WAIT_MS = 50
_POLL_MS = 20


async def read_partition(
    servers: str, topic: str, partition: int, *, offset: int = 0
) -> AsyncIterator[list[Any]]:
    """Yield the committed records of a partition from `offset` to its present end, in batches, in order.

    Raises:
        Unavailable: no broker answers.
    """
    place = TopicPartition(topic, partition)
    end = await _end(servers, place)
    if offset >= end:
        return
    consumer = _consumer(servers, "read_committed")
    try:
        await consumer.start()
        consumer.assign([place])
        if offset:
            consumer.seek(place, offset)
        else:
            await consumer.seek_to_beginning(place)
        async for records in _until(consumer, place, end):
            yield records
    except KafkaError as error:
        raise Unavailable(f"{topic}/{partition} cannot be read from {servers}: {error!r}") from error
    finally:
        await consumer.stop()


async def _end(servers: str, place: TopicPartition) -> int:
    """Return the offset at which `place` ends, open transactions included."""
    consumer = _consumer(servers, "read_uncommitted")
    try:
        await consumer.start()
        return int((await consumer.end_offsets([place]))[place])
    except KafkaError as error:
        raise Unavailable(f"no Kafka at {servers} says where {place} ends: {error!r}") from error
    finally:
        await consumer.stop()


def _consumer(servers: str, isolation_level: str) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        bootstrap_servers=servers,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level=isolation_level,
        fetch_max_wait_ms=_WAIT_MS,
        max_partition_fetch_bytes=4_194_304,
        retry_backoff_ms=20,
    )


async def _until(consumer: Any, place: TopicPartition, end: int) -> AsyncIterator[list[Any]]:
    """Yield records below `end`; stop there, or where only compacted offsets are left before it."""
    while (position := await consumer.position(place)) < end:
        answered = consumer.last_poll_timestamp(place)
        batch = (await consumer.getmany(place, timeout_ms=_POLL_MS)).get(place)
        if not batch and consumer.last_poll_timestamp(place) != answered:
            # The broker answered from `position`: either that is on its way to us, or there was nothing.
            batch = (await consumer.getmany(place)).get(place)
            decided = (consumer.last_stable_offset(place) or 0) >= end
            if not batch and decided and await consumer.position(place) == position:
                return
        if below := [record for record in batch or () if record.offset < end]:
            yield below
