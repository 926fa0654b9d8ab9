"""P1, P3, P4: each service is killed at its own step of a loop, and the loop ends as if nothing had happened."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import grpc
import numpy as np
import pytest
from deltalake import DeltaTable
from trimtab_contracts import topics
from trimtab_contracts.features.v1.features_pb2 import EntityColumn, GetOnlineFeaturesRequest
from trimtab_contracts.features.v1.features_pb2_grpc import FeatureStoreStub
from trimtab_contracts.registry.v1.registry_pb2 import VersionEvent
from trimtab_contracts.training.v1.training_pb2 import RunEvent
from trimtab_feature_store.tables import column_of
from trimtab_runtime import rpc
from trimtab_runtime.clock import iso, to_timestamp
from trimtab_runtime.errors import TrimtabError, Unavailable
from trimtab_runtime.follow import Follower
from trimtab_runtime.testing import eventually
from trimtab_stack.stack import SERVICES, Stack

pytestmark = [pytest.mark.real, pytest.mark.timeout(420)]

_PAUSE_S = 0.25
HEARD = {each.name: each for each in (topics.WATERMARKS, topics.DRIFT, topics.RUNS, topics.VERSIONS)}


class Reaper:
    """Kills a service the moment its step is told, once, and starts it again; while one starts, others may be killed."""

    def __init__(self, stack: Stack, model: str) -> None:
        self.killed: list[str] = []
        self.armed = False
        self._stack = stack
        self._model = model
        self._dead = asyncio.Queue[str]()
        self.follower = Follower(stack.environ["TRIMTAB_KAFKA_SERVERS"], list(HEARD), self._hear)

    async def revive(self) -> None:
        """Start what was killed, until cancelled."""
        while True:
            await asyncio.to_thread(self._stack.start_service, await self._dead.get())

    async def _kill(self, service: str) -> None:
        if service not in self.killed:
            self.killed.append(service)
            await asyncio.to_thread(self._stack.service(service).kill)
            self._dead.put_nowait(service)

    async def _hear(self, topic: str, _: int, batch: Sequence[Any]) -> None:
        for record in batch:
            if record.value is None:
                continue
            message: Any = HEARD[topic].decode(record.value)  # type: ignore[attr-defined]
            if self.armed and (service := _due(topic, message, self._model)):
                await self._kill(service)


class Caller:
    """An application that asks now and then, whatever happens to the services meanwhile."""

    def __init__(self, world: Any) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._world = world
        self._rng = np.random.default_rng(7)

    async def run(self) -> None:
        """Ask until cancelled."""
        asked = 0
        while True:
            asked += 1
            row = {
                "id": f"call-{asked}",
                "at": iso(self._world.now_ms),
                "road": "b",
                "x": self._rng.normal(0, 3),
            }
            try:
                await self._world.trimtab.predict(self._world.name, [row])
                self.answered += 1
            except TrimtabError as error:
                self.failures.append(str(error))
            await asyncio.sleep(_PAUSE_S)


def _due(topic: str, message: Any, model: str) -> str | None:
    """Return the service whose step for a model has just been told."""
    if topic == topics.WATERMARKS.name:
        steps = {
            ("ingestion", f"{model}-truths"): "ingestion",
            ("features", f"{model}-road"): "feature_store",
        }
        return steps.get((message.stage, message.name))
    if message.model != model:
        return None
    if topic == topics.DRIFT.name:
        return "monitoring"
    if topic == topics.RUNS.name:
        return {RunEvent.STARTED: "trainer", RunEvent.SUCCEEDED: "registry"}.get(message.status)
    return "serving" if message.stage == VersionEvent.ON_TRIAL else None


async def test_a_loop_in_which_every_service_dies_once_ends_with_one_champion(
    make_world: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    environ = {"TRIMTAB_TRAINER_LEASE_S": "3"}
    services = {**dict.fromkeys(SERVICES, 1), "serving": 2}  # one dies, and the other answers
    with Stack(tmp_path_factory.mktemp("dies"), services, environ, fsync=False) as stack:
        async with make_world("dies", stack=stack) as world, asyncio.TaskGroup() as tasks:
            reaper = Reaper(stack, world.name)
            reaping = [tasks.create_task(each) for each in (reaper.follower.run(), reaper.revive())]
            await world.backfill(48)
            await world.first_version()
            await world.live(12)
            caller = Caller(world)
            calling = tasks.create_task(caller.run())
            world.slope = 5.0
            reaper.armed = True
            loops = await world.live(
                96, until=lambda loops: any(loop.HasField("drift") and loop.state == "live" for loop in loops)
            )

            won = [loop for loop in loops if loop.HasField("drift") and loop.state == "live"]
            assert won, [(loop.state, loop.outcome) for loop in loops]
            assert set(reaper.killed) == set(SERVICES)

            await world.live(3)
            calling.cancel()
            assert (world.replay.tally.failures, caller.failures) == ([], [])
            assert caller.answered > 20
            await _assert_one_champion(world, max(loop.version for loop in won))
            await _assert_nothing_lost_or_doubled(world, caller)
            await _assert_every_event_is_folded_and_archived_once(world, stack)
            for each in reaping:
                each.cancel()


async def _assert_one_champion(world: Any, number: int) -> None:
    deployment = await world.trimtab.deployment(world.name)
    assert deployment.champion.number == number
    versions = await world.trimtab.versions(world.name)
    live = [each.number for each in versions if each.HasField("live_from") and not each.HasField("live_to")]
    assert live == [number]


async def _assert_nothing_lost_or_doubled(world: Any, caller: Caller) -> None:
    async def every_command_is_one_run() -> bool:
        with suppress(Unavailable):  # of a service that has just begun anew
            commands = [loop.command_id for loop in await world.trimtab.loops(world.name) if loop.command_id]
            assert len(commands) == len(set(commands))
            return len(commands) == len(await world.trimtab.runs(world.name))
        return False

    await eventually(every_command_is_one_run, what="as many runs as commands")

    async def every_prediction_is_stored_once() -> bool:
        with suppress(Unavailable):
            health = await world.trimtab.health(world.name)
            return bool(health.predictions == world.replay.tally.predictions + caller.answered)
        return False

    await eventually(every_prediction_is_stored_once, what="as many predictions stored as were answered")


async def _assert_every_event_is_folded_and_archived_once(world: Any, stack: Stack) -> None:
    request = GetOnlineFeaturesRequest(
        features=[f"{world.name}-road.y_count_1d"],
        entities=[EntityColumn(field="road", values=["a", "b", "c"])],
        at=to_timestamp(world.now_ms),
    )
    async with rpc.channel(stack.address("feature_store")) as channel:
        store: Any = FeatureStoreStub(channel)

        async def all_are_folded() -> bool:
            with suppress(grpc.RpcError):
                return bool(sum((await store.GetOnlineFeatures(request)).values) == 24 * world.per_hour)
            return False

        await eventually(all_are_folded, what="the events of a day in the online features")

    for source in (f"{world.name}-asks", f"{world.name}-truths"):
        await world.watermarks.wait("archive", source, world.now_ms)
        table = DeltaTable(str(stack.directory / "data" / "delta" / "events" / source)).to_pyarrow_table()
        keys = table[column_of("id")].to_pylist()
        assert sorted(keys) == sorted(f"{world.name}-{number}" for number in range(world.made))
