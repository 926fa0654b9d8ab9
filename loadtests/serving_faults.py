"""What goes wrong under load in bench_serving.py: versions are swapped, and the broker is killed.

Both tell what a caller sees of it, and `logged` whether the prediction log holds every answer that was ever given.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from load import under_load
from serving_project import publish
from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import Rollout, VersionRef
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

    def __init__(self, servers: str, generation: int) -> None:
        """`generation` is the newest that was published."""
        self._servers = servers
        self._generation = generation

    async def put(self, *versions: tuple[VersionRef, VersionRef, VersionRef]) -> None:
        """Make each of `versions`, a champion, its challenger and the one before it, wanted in turn; wait for each.

        The challenger is on trial as a shadow and as a canary of half the traffic in turn.

        Raises:
            TimeoutError: one is not warm in time.
        """
        async with reading(self._servers, topics.SERVING_STATUS, from_start=False) as consumer:
            for champion, challenger, previous in versions:
                self._generation += 1
                strategy = ("shadow", "canary")[self._generation % 2]
                rollout = Rollout(id=f"r{self._generation}", strategy=strategy, share=50)
                wanted = testing.deployment(
                    "model",
                    self._generation,
                    champion,
                    challenger=challenger,
                    previous=previous,
                    rollout=rollout,
                )
                await publish(self._servers, [wanted])
                async with asyncio.timeout(PATIENCE_S):
                    while not await self._warm(consumer, champion.number):
                        pass

    async def _warm(self, consumer: Any, champion: int) -> bool:
        warm = False
        for batch in (await consumer.getmany(timeout_ms=200)).values():
            for status in (topics.SERVING_STATUS.decode(record.value) for record in batch):
                if status.generation == self._generation and status.champion_version == champion:
                    warm = all(version.warm for version in status.versions)
        return warm


def swap(
    deployments: Deployments, versions: Sequence[VersionRef], client: Sequence[str], core: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Promote the third of `versions` and each after it but the last, under load, with the next one on trial.

    Returns what a caller saw in quiet, with a version on trial as well, and what it saw of the swaps, with how many
    there were and the seconds that they took.
    """
    wanted = [
        (champion, challenger, previous)
        for previous, champion, challenger in zip(versions, versions[1:], versions[2:], strict=False)
    ]
    asyncio.run(deployments.put(wanted[0]))
    with under_load(client, core) as quiet:
        time.sleep(QUIET_S)
    with under_load(client, core) as swapping:
        time.sleep(WARM_UP_S)
        begun = time.monotonic()
        asyncio.run(deployments.put(*wanted[1:]))
        taken = time.monotonic() - begun
    return quiet, {**swapping, "swaps": len(wanted) - 1, "seconds": taken}


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

    Waits until there are `answers`, as long as more of them come.
    """
    seen: set[str] = set()
    rows, until = 0, time.monotonic() + PATIENCE_S
    async with reading(servers, topics.PREDICTIONS, from_start=True) as consumer:
        while len(seen) < answers and time.monotonic() < until:
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                for record in batch:
                    ids = topics.PREDICTIONS.decode(record.value).ids
                    rows += len(ids)
                    seen.update(ids)
                    until = time.monotonic() + PATIENCE_S if ids else until
    return len(seen), rows - len(seen)
