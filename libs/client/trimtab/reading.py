"""How commands read topics: whole, or with a sentence about a Kafka that is away or has gone away."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.lifecycle import finish

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
