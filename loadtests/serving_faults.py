"""What goes wrong under load in bench_serving.py: versions are swapped, and the broker is killed.

Both tell what a caller sees of it, and `logged` whether the prediction log holds every answer that was ever given.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from load import under_load
from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import Rollout, VersionRef
from trimtab_runtime import bus, records
from trimtab_serving import testing
from trimtab_stack.kafka import Kafka

PATIENCE_S = 60.0
WARM_UP_S = 0.5
"""A little longer than the load generator's own, which it does not measure."""
QUIET_S = 4.0
AROUND_S = 4.0
"""How long is asked before the broker goes, and after it is back."""


@asynccontextmanager
async def reading(servers: str, topic: topics.Topic[Any], *, from_start: bool) -> AsyncIterator[Any]:
    """Read all partitions of a topic."""
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        places = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        consumer.assign(places)
        if from_start:
            await consumer.seek_to_beginning(*places)
        else:
            await consumer.seek_to_end(*places)
        yield consumer
    finally:
        await consumer.stop()


class Deployments:
    """Says what is wanted, as the registry would, and waits until it is so."""

    def __init__(self, statuses: Any, producer: Any, generation: int) -> None:
        """`generation` is the newest that was published."""
        self._statuses = statuses
        self._producer = producer
        self._generation = generation

    async def put(self, champion: VersionRef, challenger: VersionRef, previous: VersionRef) -> None:
        """Make versions the wanted ones, and wait until all are warm; the challenger is a shadow and a canary in turn.

        Raises:
            TimeoutError: they are not in time.
        """
        self._generation += 1
        strategy = ("shadow", "canary")[self._generation % 2]
        rollout = Rollout(id=f"r{self._generation}", strategy=strategy, share=50)
        wanted = testing.deployment(
            "model", self._generation, champion, challenger=challenger, previous=previous, rollout=rollout
        )
        await records.send_all(self._producer, [wanted])
        async with asyncio.timeout(PATIENCE_S):
            while not await self._warm(champion.number):
                pass

    async def _warm(self, champion: int) -> bool:
        warm = False
        for batch in (await self._statuses.getmany(timeout_ms=200)).values():
            for status in (topics.SERVING_STATUS.decode(record.value) for record in batch):
                if status.generation == self._generation and status.champion_version == champion:
                    warm = all(version.warm for version in status.versions)
        return warm


async def swap(
    servers: str, versions: Sequence[VersionRef], swaps: int, rounds: int, client: Sequence[str], core: int
) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Return what a caller saw in quiet, with a version on trial, and of so many swaps, some times in turn.

    A swap promotes the version on trial and puts the next of `versions` on trial. What was seen of them holds how many
    they were and the seconds that they took.
    """
    wanted = iter(zip(versions[1:], versions[2:], versions, strict=False))
    found = []
    async with (
        reading(servers, topics.SERVING_STATUS, from_start=False) as statuses,
        bus.open_producer(servers) as producer,
    ):
        deployments = Deployments(statuses, producer, generation=1)
        for _ in range(rounds):
            await deployments.put(*next(wanted))
            with under_load(client, core) as quiet:
                await asyncio.sleep(QUIET_S)
            with under_load(client, core) as swapping:
                await asyncio.sleep(WARM_UP_S)
                begun = time.monotonic()
                for _ in range(swaps):
                    await deployments.put(*next(wanted))
                taken = time.monotonic() - begun
            found.append((quiet, {**swapping, "swaps": swaps, "seconds": taken}))
    return found


def outage(kafka: Kafka, seconds: float, client: Sequence[str], core: int) -> dict[str, float]:
    """Kill the broker under load, start it again after some seconds, and return what a caller saw of it."""
    with under_load(client, core) as seen:
        time.sleep(AROUND_S)
        kafka.kill()
        time.sleep(seconds)
        kafka.start()
        time.sleep(AROUND_S)
    return seen


async def logged(servers: str, answers: int) -> tuple[int, int]:
    """Return how many predictions are in the log, and how many are in it more than once.

    Reads to its end, and until there are `answers`, as long as more of them come.
    """
    seen: set[str] = set()
    rows, until = 0, time.monotonic() + PATIENCE_S
    async with reading(servers, topics.PREDICTIONS, from_start=True) as consumer:
        while time.monotonic() < until:
            batches = (await consumer.getmany(timeout_ms=1000)).values()
            if not batches and len(seen) >= answers:
                break
            for record in chain(*batches):
                ids = topics.PREDICTIONS.decode(record.value).ids
                rows += len(ids)
                seen.update(ids)
                until = time.monotonic() + PATIENCE_S if ids else until
    return len(seen), rows - len(seen)
