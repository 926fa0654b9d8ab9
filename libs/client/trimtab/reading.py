"""How commands read topics: whole, or with a sentence about a Kafka that is away or has gone away."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.lifecycle import finish
from trimtab_runtime.pipeline import read_partition

PATIENCE_S = 10.0
"""How long nothing may come before Kafka is given up."""


@asynccontextmanager
async def opened(servers: str, *topics: str, **options: Any) -> AsyncIterator[AIOKafkaConsumer]:
    """Have a consumer that belongs to no group, with `options` of its own, open while the context is.

    Raises:
        Unavailable: Kafka is away, or goes away meanwhile.
    """
    consumer = AIOKafkaConsumer(*topics, bootstrap_servers=servers, enable_auto_commit=False, **options)
    try:
        await consumer.start()
        yield consumer
    except (KafkaError, TimeoutError) as error:
        raise Unavailable(f"Kafka at {servers} cannot be read: {error}") from error
    finally:
        await finish(consumer.stop())


async def up_to(
    consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int], *, servers: str
) -> AsyncIterator[Sequence[Any]]:
    """Yield the records of a consumer in batches, from where it stands until it has reached all of `ends`.

    Raises:
        Unavailable: nothing has come for `PATIENCE_S`.
    """
    last_s = time.monotonic()
    while left := [place for place, end in ends.items() if await consumer.position(place) < end]:
        batches = await consumer.getmany(timeout_ms=200)
        for batch in batches.values():
            yield batch
        if batches:
            last_s = time.monotonic()
        elif time.monotonic() - last_s > PATIENCE_S:
            raise Unavailable(f"Kafka at {servers} gives no more of {left[0].topic}")


async def committed(servers: str, topic: str, since_ms: int | None = None) -> AsyncIterator[Any]:
    """Yield the committed records of a topic up to its end, from a time on; none of a topic that is not there.

    Raises:
        Unavailable: Kafka is away.
    """
    for place, offset in (await _starts(servers, topic, since_ms)).items():
        async for batch in read_partition(servers, place.topic, place.partition, offset=offset):
            for record in batch:
                yield record


async def _starts(servers: str, topic: str, since_ms: int | None) -> dict[TopicPartition, int]:
    """Return the partitions in which there is something since a time, and the offset of the first of it."""
    async with opened(servers, topic) as consumer:
        places = [
            TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())
        ]
        ends = await consumer.end_offsets(places) if places else {}
        starts = dict.fromkeys(places, 0)
        if since_ms is not None and places:
            found = await consumer.offsets_for_times(dict.fromkeys(places, since_ms))
            starts = {place: at.offset if (at := found[place]) else ends[place] for place in places}
        return {place: start for place, start in starts.items() if start < ends[place]}
