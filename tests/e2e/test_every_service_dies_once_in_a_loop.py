"""P1 and P3: each service is killed at its own step of a loop, and the loop still ends as if nothing had happened."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import VersionEvent
from trimtab_contracts.training.v1.training_pb2 import RunEvent
from trimtab_runtime.follow import Follower
from trimtab_runtime.testing import eventually
from trimtab_stack.stack import Stack

pytestmark = [pytest.mark.real, pytest.mark.timeout(420)]


class Reaper:
    """Kills a service the moment its step is told, once, and starts it again."""

    def __init__(self, stack: Stack, model: str) -> None:
        self.stack = stack
        self.model = model
        self.killed: list[str] = []
        self.armed = False
        self.follower = Follower(
            stack.environ["TRIMTAB_KAFKA_SERVERS"],
            [topics.DRIFT.name, topics.RUNS.name, topics.VERSIONS.name, topics.VERDICTS.name],
            self._hear,
        )

    async def kill(self, service: str) -> None:
        if service not in self.killed:
            self.killed.append(service)
            await asyncio.to_thread(self.stack.kill_service, service)
            await asyncio.to_thread(self.stack.start_service, service)

    async def _hear(self, topic: str, _: int, batch: Sequence[Any]) -> None:
        for record in batch:
            known = {
                each.name: each for each in (topics.DRIFT, topics.RUNS, topics.VERSIONS, topics.VERDICTS)
            }
            message: Any = known[topic].decode(record.value)  # type: ignore[attr-defined]
            if not self.armed or message.model != self.model:
                continue
            if topic == topics.DRIFT.name:
                await self.kill("monitoring")
            elif topic == topics.RUNS.name and message.status == RunEvent.STARTED:
                await self.kill("trainer")
            elif topic == topics.RUNS.name and message.status == RunEvent.SUCCEEDED:
                await self.kill("registry")
            elif topic == topics.VERSIONS.name and message.stage == VersionEvent.ON_TRIAL:
                await self.kill("serving")


async def test_a_loop_in_which_every_service_dies_once_ends_with_one_champion(
    make_world: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    environ = {"TRIMTAB_TRAINER_LEASE_S": "3"}
    with Stack(tmp_path_factory.mktemp("dies"), {**ONE_OF_EACH, "serving": 2}, environ, fsync=False) as stack:
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
            assert set(reaper.killed) == {
                "ingestion",
                "feature_store",
                "monitoring",
                "trainer",
                "registry",
                "serving",
            }
            assert world.replay.tally.failed_requests == 0, world.replay.tally.failures

            await world.live(3)
            deployment = await world.trimtab.deployment(world.name)
            assert deployment.champion.number == max(loop.version for loop in won)
            live = [
                v
                for v in await world.trimtab.versions(world.name)
                if v.HasField("live_from") and not v.HasField("live_to")
            ]
            assert [version.number for version in live] == [deployment.champion.number]
            commands = [loop.command_id for loop in await world.trimtab.loops(world.name) if loop.command_id]
            assert len(commands) == len(set(commands)) == len(await world.trimtab.runs(world.name))

            async def every_prediction_is_stored_once() -> bool:
                health = await world.trimtab.health(world.name)
                return bool(health.predictions == world.replay.tally.predictions)

            await eventually(
                every_prediction_is_stored_once, what="as many predictions stored as were answered"
            )
            reaping.cancel()


ONE_OF_EACH = dict.fromkeys(("registry", "ingestion", "feature_store", "trainer", "serving", "monitoring"), 1)
