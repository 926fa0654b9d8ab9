"""How a process reads a topic that everyone reads: from the start, with no group.

A follower keeps a process's own view of compacted topics. It is caught up once all
topics exist and it has passed the end offsets that stood when it first asked for them;
one that does not exist yet holds up no other. What it has read it can be told to
remember (`start`), so that a restart reads on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from trimtab_runtime.lifecycle import finish
from trimtab_runtime.starting import AGAIN_AFTER_S, naming_no_brokers

log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 0.2

OnRecords = Callable[[str, int, Sequence[Any]], Awaitable[None]]
"""Takes topic, partition and raw records, in order; what it raises ends the follower."""


class Follower:
    """Follows a set of topics that may grow and shrink while it runs."""

    def __init__(
        self,
        servers: str,
        topics: Sequence[str],
        on_records: OnRecords,
        *,
        start: Mapping[tuple[str, int], int] | None = None,
        only: Callable[[str, int], bool] = lambda topic, partition: True,
    ) -> None:
        """Follow `topics`, each partition from `start` or its beginning.

        `only` limits the partitions that are read.
        """
        self._servers = servers
        self._wanted = set(topics)
        self._on_records = on_records
        self._next = dict(start or {})
        self._only = only
        self._missing: Sequence[str] = ()
        self._looked_at = 0.0
        self._changed = asyncio.Event()
        self._caught_up = asyncio.Event()

    def set_topics(self, topics: Sequence[str]) -> None:
        """Follow exactly `topics` from now on."""
        if set(topics) != self._wanted:
            self._wanted = set(topics)
            self._caught_up.clear()
            self._changed.set()

    def begin_at(self, start: Mapping[tuple[str, int], int]) -> None:
        """Read partitions that have not been read yet from an offset on, and not from their beginning."""
        self._next = {**start, **self._next}

    async def caught_up(self) -> None:
        """Wait until it is caught up."""
        await self._caught_up.wait()

    async def run(self) -> None:
        """Read until cancelled; a broker that is away is waited for."""
        while True:
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self._servers,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                isolation_level="read_committed",
                retry_backoff_ms=50,
                max_partition_fetch_bytes=4_194_304,
            )
            try:
                with naming_no_brokers():
                    await consumer.start()
                await self._read(consumer)
            except KafkaError as error:
                log.warning("following %s waits for Kafka: %s", sorted(self._wanted), error)
                await asyncio.sleep(AGAIN_AFTER_S)
            finally:
                await finish(consumer.stop())

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        ends = await self._assign(consumer)
        while True:
            if self._changed.is_set() or await self._has_one_come(consumer):
                ends = await self._assign(consumer)
            ends = {place: end for place, end in ends.items() if await consumer.position(place) < end}
            if not (
                ends or self._missing or self._changed.is_set()
            ):  # set_topics may have been called meanwhile
                self._caught_up.set()
            if not consumer.assignment():
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_AGAIN_S if self._missing else None):
                        await self._changed.wait()
                continue
            for place, batch in (await consumer.getmany(timeout_ms=100)).items():
                await self._on_records(place.topic, place.partition, batch)
                self._next[place.topic, place.partition] = batch[-1].offset + 1

    async def _assign(self, consumer: AIOKafkaConsumer) -> dict[TopicPartition, int]:
        """Assign all wanted partitions that exist, and return the ends not yet reached."""
        self._changed.clear()
        wanted = sorted(self._wanted)
        found = await self._partitions(consumer, wanted)
        if missing := [topic for topic in wanted if topic not in found]:
            log.info("topics that do not exist yet are waited for: %s", missing)
        self._missing, self._looked_at = missing, monotonic()
        places = [
            TopicPartition(topic, number)
            for topic, numbers in found.items()
            for number in numbers
            if self._only(topic, number)
        ]
        consumer.assign(places)
        for place in places:
            if (offset := self._next.get((place.topic, place.partition))) is not None:
                consumer.seek(place, offset)
            else:
                await consumer.seek_to_beginning(place)
        return dict(await consumer.end_offsets(places)) if places else {}

    async def _has_one_come(self, consumer: AIOKafkaConsumer) -> bool:
        """Look, every so often, whether one of the missing topics exists by now."""
        if not self._missing or monotonic() < self._looked_at + _LOOK_AGAIN_S:
            return False
        found = await self._partitions(consumer, self._missing)
        self._looked_at = monotonic()
        return bool(found)

    async def _partitions(self, consumer: AIOKafkaConsumer, topics: Sequence[str]) -> dict[str, list[int]]:
        """Return the partitions of those of `topics` that exist."""
        for topic in topics:
            consumer._client.add_topic(topic)  # the client fetches metadata of the topics it knows
        if not all(consumer.partitions_for_topic(topic) for topic in topics):
            await consumer._client.force_metadata_update()
        return {topic: sorted(found) for topic in topics if (found := consumer.partitions_for_topic(topic))}


async def catch_up(tasks: asyncio.TaskGroup, *followers: Follower) -> None:
    """Run followers among `tasks`, and return once all of them are caught up."""
    for follower in followers:
        tasks.create_task(follower.run())
    for follower in followers:
        await follower.caught_up()
