"""Serving as a process, with a Kafka of its own that may be killed; both are shared by the tests here."""

import asyncio
import json
import os
import signal
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from trimtab.client import SERVICES, Trimtab
from trimtab.predicting import Predictor
from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import Rollout, VersionRef
from trimtab_contracts.serving.v1.serving_pb2 import PredictionBatch, PredictRequest, PredictResponse
from trimtab_contracts.serving.v1.serving_pb2_grpc import PredictionStub
from trimtab_core.slots import FoldState, Layout
from trimtab_runtime import admin, bus, records
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import TrimtabError
from trimtab_runtime.featurelog import partition_of
from trimtab_runtime.records import Outgoing
from trimtab_runtime.testing import eventually
from trimtab_serving import testing
from trimtab_serving.testing import Project
from trimtab_stack import environment, ports
from trimtab_stack.kafka import Kafka
from trimtab_stack.services import ServiceProcess

pytestmark = pytest.mark.real

DAY = 86_400_000
MIDNIGHT = 19_700 * DAY
OF_A_MODEL = {"predictions", "failures", "latency_p50_ms", "latency_p99_ms"}
OF_THE_WHOLE = {
    "queue_ms", "utilisation", "cold_loads", "versions_warm", "versions_cold", "memory_bytes", "copy_behind_s",
}  # fmt: skip


class World:
    """A project that is applied, with zone 7 at 20 mph yesterday, and one serving process."""

    def __init__(self, kafka: Kafka, path: Path) -> None:
        self.kafka = kafka
        self.path = path
        self.generation = 0
        self.project: Project = testing.project(f"-{uuid.uuid4().hex[:8]}")
        self.model = self.project.model.name
        self.instance = f"serving-{uuid.uuid4().hex[:8]}"
        self.address, self.process = self.made(self.instance)

    def made(self, instance: str) -> tuple[str, ServiceProcess]:
        """Return the address and the process of an instance that is not yet started."""
        address = f"127.0.0.1:{ports.choose()}"
        environ = self._environ(instance, address)
        return address, ServiceProcess("serving", 0, environ, self.path / f"{instance}.log")

    def workers(self, count: int) -> ServiceProcess:
        """Return the service as several processes, in the place of the one."""
        environ = self._environ(self.instance, self.address) | {"TRIMTAB_SERVING_WORKERS": str(count)}
        return ServiceProcess("serving", 0, environ, self.path / "workers.log")

    def _environ(self, instance: str, address: str) -> dict[str, str]:
        return {
            **environment.inherited(),
            "TRIMTAB_KAFKA_SERVERS": self.kafka.servers,
            "TRIMTAB_GRPC_ADDRESS": address,
            "TRIMTAB_STATE_DIR": str(self.path / instance),
            "TRIMTAB_INSTANCE": instance,
            "TRIMTAB_SERVING_CATCH_UP_S": "1",
        }

    async def begin(self) -> None:
        view = self.project.speed
        made = [topics.FEATURES.named(view.name, partitions=2), topics.TABLES.named(self.project.zones.name)]
        await admin.ensure_topics(self.kafka.servers, made)
        fold = FoldState(Layout.of(view.spec, self.project.dropoffs.spec.lateness))
        fold.fold(["7", "7"], np.array([MIDNIGHT, MIDNIGHT + 1]), np.array([[10.0], [30.0]]))
        await self.publish(*self.project.specs, *testing.features(view.name, fold, MIDNIGHT + DAY, 2))
        await self.deploy(1)
        await asyncio.to_thread(self.process.start)

    async def deploy(self, champion: int, challenger: int = 0, **rollout: Any) -> None:
        """Make versions the wanted ones."""
        self.generation += 1
        found = testing.deployment(
            self.model,
            self.generation,
            self.version(champion),
            challenger=self.version(challenger) if challenger else None,
            rollout=Rollout(id=f"r{self.generation}", **rollout) if challenger else None,
            loop_id="loop",
        )
        await self.publish(found)

    def version(self, number: int) -> VersionRef:
        """Return a version that answers its number, plus ten times the zone's speed."""
        return testing.version(
            self.path, number, self.project.features, testing.linear_model([0, 0, 10], bias=number)
        )

    async def publish(self, *found: Outgoing) -> None:
        producer = await bus.start_producer(self.kafka.servers)
        try:
            await records.send_all(producer, found)
        finally:
            await producer.stop()

    def rows(self, *trips: str) -> list[bytes]:
        at = iso(MIDNIGHT + DAY // 2)
        return [json.dumps({"trip": trip, "at": at, "zone": 7, "distance": 1}).encode() for trip in trips]

    async def ask(self, *trips: str) -> PredictResponse:
        async with grpc.aio.insecure_channel(self.address) as channel:
            request = PredictRequest(model=self.model, rows=self.rows(*trips))
            return await PredictionStub(channel).Predict(request, timeout=60)

    async def answered_by(self, number: int) -> None:
        async def probe() -> bool:
            return list((await self.ask("probe")).versions) == [number]

        await eventually(probe, what=f"version {number}")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    kafka = Kafka(tmp_path_factory.mktemp("kafka"), ports.choose())
    kafka.start()
    asyncio.run(admin.ensure_topics(kafka.servers, topics.STATIC))
    made = World(kafka, tmp_path_factory.mktemp("serving"))
    asyncio.run(made.begin())
    yield made
    made.process.kill()
    kafka.kill()


class Load:
    """Clients that ask as fast as they are answered, and keep what they were told."""

    def __init__(self, world: World, clients: int) -> None:
        self.ids: set[str] = set()
        self.failures: list[str] = []
        self.versions: set[int] = set()
        self._world = world
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]

    def _ask(self, client: int) -> None:
        with grpc.insecure_channel(self._world.address) as channel:
            predict = PredictionStub(channel).Predict
            number = 0
            while not self._done.is_set():
                number += 1
                rows = self._world.rows(f"{client}-{number}", f"{client}-{number}-b")
                try:
                    answer = predict(PredictRequest(model=self._world.model, rows=rows), timeout=60)
                except grpc.RpcError as error:
                    self.failures.append(str(error))
                    continue
                self.ids.update(answer.ids)
                self.versions.update(answer.versions)
                if any(
                    abs(said - version - 200) > 0.01
                    for said, version in zip(answer.predictions, answer.versions, strict=True)
                ):
                    self.failures.append(f"{answer} is not what its version says")

    @contextmanager
    def on(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._done.set()
            for thread in self._threads:
                thread.join()


async def read_all(servers: str, topic: topics.Topic[Any]) -> list[Any]:
    """Return every record of a topic."""
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        places = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(places)
        found: list[Any] = []
        while any([await consumer.position(place) < ends[place] for place in places]):
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                found += batch
        return found
    finally:
        await consumer.stop()


async def logged(world: World) -> list[tuple[int, PredictionBatch]]:
    """Return the prediction log of the world's model, with the partition of each batch, in order."""
    found = [
        (record.partition, topics.PREDICTIONS.decode(record.value))
        for record in await read_all(world.kafka.servers, topics.PREDICTIONS)
    ]
    return [(partition, batch) for partition, batch in found if batch.model == world.model]


def once(batches: Sequence[tuple[int, PredictionBatch]]) -> list[str]:
    """Return the ids in the log; a batch that was sent twice counts once."""
    return [said for batch in {batch.id: batch for _, batch in batches}.values() for said in batch.ids]


async def test_what_is_answered_is_logged_whole(world: World) -> None:
    trips = [f"t{number}" for number in range(40)]
    await world.deploy(1, 2, strategy="canary", share=50)

    async def both_answer() -> bool:
        return set((await world.ask(*trips)).versions) == {1, 2}

    await eventually(both_answer)
    answer = await world.ask(*trips)
    told = dict(zip(answer.ids, zip(trips, answer.predictions, answer.versions, strict=True), strict=True))

    async def in_the_log() -> list[tuple[int, PredictionBatch]]:
        batches = await logged(world)
        return batches if set(answer.ids) <= set(once(batches)) else []

    for partition, batch in await eventually(in_the_log):
        for at in [at for at, name in enumerate(batch.ids) if name in told]:
            trip, said, version = told.pop(batch.ids[at])
            assert partition == partition_of(trip, topics.PREDICTIONS.partitions)
            assert (batch.keys[at], batch.event_time_ms[at]) == (trip, MIDNIGHT + DAY // 2)
            assert (batch.champion[at], batch.challenger[at]) == (201, 202)
            assert (batch.challenger_answered[at], said) == (version == 2, 200 + version)
            assert (batch.champion_version, batch.challenger_version) == (1, 2)
            assert (batch.rollout_id, batch.generation) == (f"r{world.generation}", world.generation)
            assert list(batch.feature_names) == list(world.project.features)
            assert list(batch.features[at * 3 : at * 3 + 3]) == [1, 12, 20]
            assert batch.features_until_ms[at] == from_timestamp(answer.features_until) == MIDNIGHT + DAY
    assert told == {}


async def test_what_is_loaded_is_reported_at_once(world: World) -> None:
    key = f"{world.model}@{world.instance}".encode()
    await world.deploy(1, 2, strategy="shadow")

    async def reported() -> Any:
        found = [
            record
            for record in await read_all(world.kafka.servers, topics.SERVING_STATUS)
            if record.key == key
        ]
        told = [it for it in found if topics.SERVING_STATUS.decode(it.value).generation == world.generation]
        return told[-1] if told else None

    record = await eventually(reported)
    status = topics.SERVING_STATUS.decode(record.value)
    assert status.champion_version == 1
    assert [(each.number, each.warm, each.error) for each in status.versions] == [
        (1, True, ""),
        (2, True, ""),
    ]
    assert from_timestamp(status.lease_until) - from_timestamp(status.at) == 6000
    assert dict(record.headers)["ce_correlationid"] == b"loop"


async def test_features_that_are_here_move_the_watermark(world: World) -> None:
    key = f"serving/{world.project.speed.name}/0/{world.instance}".encode()

    async def told() -> list[int]:
        found = await read_all(world.kafka.servers, topics.WATERMARKS)
        return [from_timestamp(topics.WATERMARKS.decode(it.value).time) for it in found if it.key == key]

    assert (await eventually(told, what="a watermark of the features"))[-1] == MIDNIGHT + DAY


async def test_traffic_is_measured(world: World) -> None:
    await world.ask("t")

    async def measured() -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for record in await read_all(world.kafka.servers, topics.METRICS_SERVING):
            metric = topics.METRICS_SERVING.decode(record.value)
            of = found.setdefault(metric.model, {})
            of[metric.name] = max(of.get(metric.name, 0), metric.value)
        # Those of one report come one by one.
        whole = found.get("", {}).get("utilisation") and found[""].keys() >= OF_THE_WHOLE
        return found if whole and found.get(world.model, {}).keys() >= OF_A_MODEL else {}

    metrics = await eventually(measured, what="metrics of the model and of the whole")
    ours, whole = metrics[world.model], metrics[""]
    assert ours.keys() == OF_A_MODEL
    assert ours["predictions"] > 0
    assert whole.keys() == OF_THE_WHOLE
    assert whole["versions_warm"] >= 1
    assert whole["memory_bytes"] > 0


async def test_fifty_swaps_under_load_fail_no_request(world: World) -> None:
    load = Load(world, clients=3)
    with load.on():
        for number in range(50):
            new, old = (2, 1) if number % 2 == 0 else (1, 2)
            await world.deploy(new, old, strategy="shadow")
            await world.answered_by(new)

    assert load.failures == []
    assert load.versions == {1, 2}


async def test_an_instance_that_is_killed_under_load_costs_its_clients_nothing(world: World) -> None:
    """Two instances; a synchronous and an asynchronous client go to both, and one of the two is killed."""
    address, other = world.made("another")
    ids, errors, done = set[str](), list[str](), threading.Event()
    addresses = f"{world.address},{address}"

    def ask(predictor: Predictor) -> None:
        while not done.is_set():
            try:
                ids.update(predictor.predict(world.model, world.rows("t"), timeout=60).ids)
            except TrimtabError as error:
                errors.append(str(error))

    async def ask_async(trimtab: Trimtab) -> None:
        while not done.is_set():
            try:
                ids.update((await trimtab.predict(world.model, world.rows("t"), timeout=60)).ids)
            except TrimtabError as error:
                errors.append(str(error))

    async def both_answer() -> bool:
        return len({said[:16] for said in ids}) == 2

    async def so_many_more(count: int) -> bool:
        return len(ids) >= count

    try:
        await asyncio.to_thread(other.start)
        with Predictor.connect(addresses) as predictor:
            async with (
                Trimtab.connect(dict.fromkeys(SERVICES, addresses)) as trimtab,
                asyncio.TaskGroup() as clients,
            ):
                for _ in range(2):
                    clients.create_task(asyncio.to_thread(ask, predictor))
                    clients.create_task(ask_async(trimtab))
                try:
                    await eventually(both_answer)
                    await eventually(partial(so_many_more, len(ids) + 100))
                    await asyncio.to_thread(other.kill)
                    await eventually(partial(so_many_more, len(ids) + 300))
                finally:
                    done.set()
    finally:
        other.kill()

    assert errors == []


async def test_with_everything_else_down_it_restarts_and_answers_and_loses_nothing(world: World) -> None:
    """The broker is killed under load, serving is restarted meanwhile, and no artifact is left but its own."""
    before, first, second = await world.ask("t"), Load(world, clients=2), Load(world, clients=2)
    with first.on():
        await eventually(lambda: told(first, 200))
        await asyncio.to_thread(world.kafka.kill)
        alone = len(first.ids)
        await eventually(lambda: told(first, alone + 500))
    delete_artifacts(world.path)
    await asyncio.to_thread(world.process.stop)
    await asyncio.to_thread(world.process.start)
    after = await world.ask("t")
    with second.on():
        await eventually(lambda: told(second, 200))
        await asyncio.to_thread(world.kafka.start)
        await eventually(lambda: told(second, 700))

    assert (list(after.predictions), after.features_until) == (
        list(before.predictions),
        before.features_until,
    )
    assert first.failures == second.failures == []
    everything = first.ids | second.ids

    async def in_the_log() -> bool:
        return everything <= set(once(await logged(world)))

    await eventually(in_the_log, what=f"{len(everything)} predictions in the log")
    found = once(await logged(world))
    assert len(found) == len(set(found))


async def test_sigterm_ends_with_everything_answered_in_the_log(world: World) -> None:
    load = Load(world, clients=2)
    with load.on():
        await eventually(lambda: told(load, 100))
        await asyncio.to_thread(world.process.stop)

    assert world.process.process.exit_code == 0

    async def in_the_log() -> bool:
        return load.ids <= set(once(await logged(world)))

    if not await in_the_log():  # Kafka was too slow for the farewell: the rest is sent at the next start
        await asyncio.to_thread(world.process.start)
        await eventually(in_the_log, what="the rest in the log")


async def told(load: Load, count: int) -> bool:
    return len(load.ids) >= count


def delete_artifacts(path: Path) -> None:
    for stored in list(path.glob("artifacts/*/*")):
        stored.unlink()


async def test_workers_share_a_port_and_one_that_is_killed_is_begun_again(world: World) -> None:
    await asyncio.to_thread(world.process.stop)
    await world.deploy(1)  # whose file is there again
    together = world.workers(2)
    try:
        await asyncio.to_thread(together.start)

        async def answering() -> set[int]:
            """Return the processes that listen on the port, once there are two."""
            found = listening(int(world.address.rsplit(":", 1)[1]))
            return found if len(found) == 2 else set()

        before = await eventually(answering)
        assert together.pid not in before
        assert list((await world.ask("t")).versions) == list((await world.ask("u")).versions)
        os.kill(min(before), signal.SIGKILL)

        async def another() -> bool:
            return bool(await answering() - before)

        await eventually(another)
        assert list((await world.ask("t")).versions) != []
        await asyncio.to_thread(together.stop)
        assert together.process.exit_code == 0
        assert listening(int(world.address.rsplit(":", 1)[1])) == set()
    finally:
        together.kill()


def listening(port: int) -> set[int]:
    return {
        found.pid
        for found in psutil.net_connections("tcp")
        if found.status == psutil.CONN_LISTEN and found.laddr.port == port and found.pid is not None
    }
