"""What lies in raw.<source> besides rows that are sent: those of a file that have come, and watermarks."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer
from trimtab_contracts import topics
from trimtab_runtime import records
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.records import Outgoing

from trimtab.reading import PATIENCE_S, opened, up_to


def watermarks(source: str, partitions: int, time_ms: int) -> list[Outgoing]:
    """Return the records that move a source's event time on to a time, one for each partition."""
    return [
        Outgoing(
            topics.RAW.named(source).name,
            None,
            b"",
            records.watermark_headers(source=source, time_ms=time_ms, origin=number, origins=partitions),
            number,
        )
        for number in range(partitions)
    ]


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
            ends = await consumer.end_offsets(list(consumer.assignment()))
            return {place.partition: offset for place, offset in ends.items()}

    async def ids(self, source: str, since: Mapping[int, int], prefix: str) -> set[str]:
        """Return the ids that begin with `prefix`, of the records from the offsets `since` up to now.

        Raises:
            Unavailable: Kafka is away.
        """
        found: set[str] = set()
        start = prefix.encode()
        async with self._reading(source) as consumer:
            ends = await consumer.end_offsets(list(consumer.assignment()))
            for place in ends:
                consumer.seek(place, since.get(place.partition, 0))
            async for batch in up_to(consumer, ends, servers=self._servers):
                ids = (value for row in batch for name, value in row.headers if name == "ce_id")
                found |= {each.decode() for each in ids if each.startswith(start)}
        return found

    @asynccontextmanager
    async def _reading(self, source: str) -> AsyncIterator[AIOKafkaConsumer]:
        """Have a consumer of all partitions of raw.<source>; uncommitted rows count, for they may yet be committed."""
        topic = topics.RAW.named(source).name
        async with opened(
            self._servers,
            topic,
            auto_offset_reset="earliest",
            request_timeout_ms=int(PATIENCE_S * 1000),
            retry_backoff_ms=50,
            fetch_max_wait_ms=100,
        ) as consumer:
            if not consumer.assignment():
                raise Unavailable(f"topic {topic!r} is not there yet")
            yield consumer
