"""Events scored as they arrive by two processes, of which one joins, and one is killed, meanwhile."""

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from trimtab_contracts import topics
from trimtab_core.slots import FoldState, Layout
from trimtab_core.specs import FieldSpec, Metadata, Source
from trimtab_runtime import admin, bus, records
from trimtab_runtime.clock import iso
from trimtab_runtime.pipeline import read_partition
from trimtab_runtime.records import Outgoing
from trimtab_runtime.testing import eventually
from trimtab_serving import testing
from trimtab_serving.streaming import GROUP
from trimtab_stack import environment, ports
from trimtab_stack.services import ServiceProcess

pytestmark = pytest.mark.real

DAY = 86_400_000
MIDNIGHT = 19_700 * DAY
PARTITIONS, EVENTS = 2, 6_000


class World:
    """A model that scores all pickups, with zone 7 at 20 mph yesterday, and two serving processes."""

    def __init__(self, servers: str, path: Path) -> None:
        self.servers = servers
        self.project = testing.project(f"-{uuid.uuid4().hex[:8]}", score=["stream"])
        self.model, self.source = self.project.model.name, self.project.pickups.name
        self.guesses = self._guesses()
        self.version = testing.version(path, 1, self.project.features, testing.linear_model([1, 0, 10]))
        self.first, self.second = (self._process(path / str(number)) for number in range(2))

    def _guesses(self) -> Source:
        """Return a source of the model's predictions."""
        pickups = self.project.pickups
        fields = {name: pickups.spec.fields[name] for name in ("trip", "at")}
        said = {"prediction": FieldSpec(type="number")}
        changes = {"predictions_of": self.model, "fields": fields | said}
        return Source(
            metadata=Metadata(name=f"{self.source}-guesses"), spec=pickups.spec.model_copy(update=changes)
        )

    def _process(self, path: Path) -> ServiceProcess:
        environ = {
            **environment.inherited(),
            "TRIMTAB_KAFKA_SERVERS": self.servers,
            "TRIMTAB_GRPC_ADDRESS": f"127.0.0.1:{ports.choose()}",
            "TRIMTAB_STATE_DIR": str(path),
            "TRIMTAB_INSTANCE": f"serving-{uuid.uuid4().hex[:8]}",
        }
        path.mkdir()
        return ServiceProcess("serving", 0, environ, path / "serving.log")

    async def begin(self) -> None:
        view = self.project.speed
        family = {"partitions": PARTITIONS}
        made = [
            topics.FEATURES.named(view.name, **family),
            topics.EVENTS.named(self.source, **family),
            topics.SCORES.named(self.source, **family),
            topics.RAW.named(self.guesses.name, **family),
            topics.TABLES.named(self.project.zones.name),
        ]
        await admin.ensure_topics(self.servers, [*topics.STATIC, *made])
        fold = FoldState(Layout.of(view.spec, self.project.dropoffs.spec.lateness))
        fold.fold(["7", "7"], np.array([MIDNIGHT, MIDNIGHT + 1]), np.array([[10.0], [30.0]]))
        await self.publish(
            *self.project.specs,
            testing.spec(self.guesses),
            *testing.features(view.name, fold, MIDNIGHT + DAY, 2),
            testing.deployment(self.model, 1, self.version),
        )
        # What came before it was asked for is nobody's to score.
        await self.publish(*[self.event(number) for number in range(-100, 0)])
        await asyncio.to_thread(self.first.start)
        await eventually(self.is_read, what="the events being read")

    async def is_read(self) -> bool:
        client, offsets = AIOKafkaAdminClient(bootstrap_servers=self.servers), dict[TopicPartition, Any]()
        await client.start()
        with suppress(KafkaError):  # the first member of the first group is on its way
            offsets = await client.list_consumer_group_offsets(GROUP)
        await client.close()
        return sum(place.topic == f"events.{self.source}" for place in offsets) == PARTITIONS

    def event(self, number: int) -> Outgoing:
        at, trip = MIDNIGHT + DAY // 2 + number, f"t{number}"
        row = {"trip": trip, "at": iso(at), "zone": 7, "distance": number % 100}
        headers = records.row_headers(id=f"e{number}", source=self.source, event_time_ms=at, arrived_at_ms=at)
        topic = f"events.{self.source}"
        return Outgoing(topic, trip.encode(), json.dumps(row).encode(), headers, number % PARTITIONS)

    async def publish(self, *found: Outgoing) -> None:
        async with bus.open_producer(self.servers) as producer:
            await records.send_all(producer, found)

    async def read(self, topic: topics.Topic[Any]) -> list[Any]:
        """Return all messages that are committed."""
        found = []
        for record in await self.records(topic):
            with suppress(topics.Undecodable):  # which others may have left there
                found.append(topic.decode(record.value))
        return found

    async def records(self, topic: topics.Topic[Any]) -> list[Any]:
        """Return all records that are committed."""
        return [
            record
            for partition in range(topic.partitions)
            async for batch in read_partition(self.servers, topic.name, partition)
            for record in batch
        ]

    async def scores(self) -> list[Any]:
        return await self.read(topics.SCORES.named(self.source, partitions=PARTITIONS))


@pytest.fixture
def world(kafka_servers: str, tmp_path: Path) -> Iterator[World]:
    made = World(kafka_servers, tmp_path)
    try:
        asyncio.run(made.begin())
        yield made
    finally:
        made.first.kill()
        made.second.kill()


async def test_every_event_is_scored_once_while_processes_join_and_are_killed(world: World) -> None:
    parts = iter(range(0, EVENTS, EVENTS // 6))

    async def publish(count: int) -> None:
        for _ in range(count):
            start = next(parts)
            await world.publish(*[world.event(number) for number in range(start, start + EVENTS // 6)])

    async def some() -> bool:
        return len(await world.scores()) > 0

    await publish(2)
    await eventually(some, what="the first scores")
    await asyncio.gather(asyncio.to_thread(world.second.start), publish(2))
    await asyncio.to_thread(world.first.kill)
    await publish(2)

    async def all_of_them() -> bool:
        return len(await world.scores()) >= EVENTS

    await eventually(all_of_them, what=f"{EVENTS} scores")
    said = await world.scores()
    logged = [each for each in await world.read(topics.PREDICTIONS) if each.model == world.model]
    assert Counter(each.event_id for each in said) == Counter(f"e{number}" for number in range(EVENTS))
    assert all(each.prediction == 200 + int(each.key[1:]) % 100 for each in said)
    assert Counter(key for each in logged for key in each.keys) == Counter(
        f"t{number}" for number in range(EVENTS)
    )
    assert {each for batch in logged for each in batch.ids} == {each.id for each in said}
    rows = await world.records(topics.RAW.named(world.guesses.name, partitions=PARTITIONS))
    assert Counter(
        (json.loads(row.value)["trip"], row.partition, dict(row.headers)["ce_id"].decode()) for row in rows
    ) == Counter((each.key, int(each.key[1:]) % PARTITIONS, each.id) for each in said)
