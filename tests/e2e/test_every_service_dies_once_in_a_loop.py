"""P1, P3, P4: each service is killed at its own step of a loop, and the loop ends as if nothing had happened."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import VersionEvent
from trimtab_contracts.training.v1.training_pb2 import RunEvent
from trimtab_runtime.follow import Follower
from trimtab_runtime.testing import eventually
from trimtab_stack.stack import SERVICES, Stack

pytestmark = [pytest.mark.real, pytest.mark.timeout(420)]

HEARD = {each.name: each for each in (topics.DRIFT, topics.RUNS, topics.VERSIONS)}


class Reaper:
    """Kills a service the moment its step is told, once, and starts it again."""

    def __init__(self, stack: Stack, model: str) -> None:
        self.killed: list[str] = []
        self.armed = False
        self._stack = stack
        self._model = model
        self.follower = Follower(stack.environ["TRIMTAB_KAFKA_SERVERS"], list(HEARD), self._hear)

    async def kill(self, service: str) -> None:
        if service not in self.killed:
            self.killed.append(service)
            await asyncio.to_thread(self._stack.kill_service, service)
            await asyncio.to_thread(self._stack.start_service, service)

    async def _hear(self, topic: str, _: int, batch: Sequence[Any]) -> None:
        for record in batch:
            message: Any = HEARD[topic].decode(record.value)  # type: ignore[attr-defined]
            if self.armed and message.model == self._model and (service := _due(topic, message)):
                await self.kill(service)


def _due(topic: str, message: Any) -> str | None:
    """Return the service whose step has just been told."""
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
            reaping = tasks.create_task(reaper.follower.run())
            await world.backfill(48)
            await world.first_version()
            await world.live(12)
            reaper.armed = True

            for service in ("ingestion", "feature_store"):
                hour = tasks.create_task(world.live(1))
                await reaper.kill(service)
                await hour
            world.slope = 5.0
            loops = await world.live(
                96, until=lambda loops: any(loop.HasField("drift") and loop.state == "live" for loop in loops)
            )

            won = [loop for loop in loops if loop.HasField("drift") and loop.state == "live"]
            assert won, [(loop.state, loop.outcome) for loop in loops]
            assert set(reaper.killed) == set(SERVICES)
            assert world.replay.tally.failed_requests == 0, world.replay.tally.failures

            await world.live(3)
            await _assert_one_champion(world, max(loop.version for loop in won))
            await _assert_nothing_lost_or_doubled(world)
            reaping.cancel()


async def _assert_one_champion(world: Any, number: int) -> None:
    deployment = await world.trimtab.deployment(world.name)
    assert deployment.champion.number == number
    versions = await world.trimtab.versions(world.name)
    live = [each.number for each in versions if each.HasField("live_from") and not each.HasField("live_to")]
    assert live == [number]


async def _assert_nothing_lost_or_doubled(world: Any) -> None:
    loops = await world.trimtab.loops(world.name)
    commands = [loop.command_id for loop in loops if loop.command_id]
    assert len(commands) == len(set(commands)) == len(await world.trimtab.runs(world.name))

    async def every_prediction_is_stored_once() -> bool:
        health = await world.trimtab.health(world.name)
        return bool(health.predictions == world.replay.tally.predictions)

    await eventually(every_prediction_is_stored_once, what="as many predictions stored as were answered")
