"""How commands read topics up to an end: whole, or with a sentence about a Kafka that has gone away."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from trimtab_runtime.errors import Unavailable

PATIENCE_S = 10.0
"""How long nothing may come before Kafka is given up."""


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
