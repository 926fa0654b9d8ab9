"""What has already come of a file's rows in raw.<source>, read from Kafka itself."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from trimtab_contracts import topics
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.lifecycle import finish

_TIMEOUT_MS = 10_000


class RawLog:
    """Reads raw.<source> of one Kafka."""

    def __init__(self, servers: str) -> None:
        self._servers = servers

    async def ends(self, source: str) -> dict[int, int]:
        """Return the offset behind the last record of each partition.

        Raises:
            Unavailable: Kafka is away.
        """
        async with self._reading(source) as consumer:
            return await _ends(consumer)

    async def ids(self, source: str, since: Mapping[int, int], prefix: str) -> set[str]:
        """Return the ids that begin with `prefix`, of the records from the offsets `since` up to now.

        Raises:
            Unavailable: Kafka is away.
        """
        found: set[str] = set()
        start = prefix.encode()
        async with self._reading(source) as consumer:
            ends = await _ends(consumer)
            left = {number for number, end in ends.items() if since.get(number, 0) < end}
            for number in ends:
                consumer.seek(_place(consumer, number), since.get(number, 0))
            last_s = time.monotonic()
            while left:
                batches = await consumer.getmany(timeout_ms=200)
                for batch in batches.values():
                    ids = (value for row in batch for name, value in row.headers if name == "ce_id")
                    found |= {each.decode() for each in ids if each.startswith(start)}
                if batches:
                    last_s = time.monotonic()
                elif time.monotonic() - last_s > _TIMEOUT_MS / 1000:
                    raise Unavailable(f"Kafka at {self._servers} gives no more of raw.{source}")
                reached = {n: await consumer.position(_place(consumer, n)) for n in left}
                left = {number for number, at in reached.items() if at < ends[number]}
        return found

    @asynccontextmanager
    async def _reading(self, source: str) -> AsyncIterator[AIOKafkaConsumer]:
        """Have a consumer of all partitions of raw.<source>; uncommitted rows count, for they may yet be committed."""
        topic = topics.RAW.named(source).name
        consumer = AIOKafkaConsumer(
            topic,
            bootstrap_servers=self._servers,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            request_timeout_ms=_TIMEOUT_MS,
            retry_backoff_ms=50,
            fetch_max_wait_ms=100,
        )
        try:
            await consumer.start()
            if not consumer.assignment():
                raise Unavailable(f"topic {topic!r} is not there yet")
            yield consumer
        except KafkaError as error:
            raise Unavailable(f"Kafka at {self._servers} cannot be read: {error!r}") from error
        finally:
            await finish(consumer.stop())


async def _ends(consumer: AIOKafkaConsumer) -> dict[int, int]:
    ends = await consumer.end_offsets(list(consumer.assignment()))
    return {place.partition: offset for place, offset in ends.items()}


def _place(consumer: AIOKafkaConsumer, number: int) -> TopicPartition:
    return next(place for place in consumer.assignment() if place.partition == number)
