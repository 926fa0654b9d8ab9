"""P2: an episode gives one command, however often and in whatever order its event is told."""

from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from trimtab_contracts import topics
from trimtab_contracts.monitoring.v1.monitoring_pb2 import DriftEvent
from trimtab_runtime import records
from trimtab_runtime.clock import to_timestamp
from trimtab_runtime.testing import eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]


async def test_a_duplicate_drift_event_gives_one_command(make_world: Callable[..., Any]) -> None:
    async with make_world("duplicate", gates="[{metric: mae, versus: champion, better_by: 0.2}]") as world:
        await world.backfill(24)
        await world.first_version()

        def told(episode: str) -> records.Outgoing:
            event = DriftEvent(
                id=episode, model=world.name, version=1, kind="performance", episode=episode, loop_id=episode,
                at=to_timestamp(world.now_ms), summary="told by a test", score=2.0, threshold=1.0, severity=2.0,
            )  # fmt: skip
            return records.outgoing(
                topics.DRIFT, event, key=world.name, id=episode, source="test", time_ms=world.now_ms
            )

        first, second = f"{world.name}-1", f"{world.name}-2"
        await records.send_all(world.producer, [told(first), told(first), told(second), told(first)])
        await world.ended(first)
        await records.send_all(world.producer, [told(second), told(first)])

        commands = await self_commands(world)
        assert [command.episode for command in commands if command.trigger != "manual"] == [first]
        assert len(await world.trimtab.runs(world.name)) == 2
        declined = await world.ended(second)
        assert declined.state == "declined"
        assert declined.reason


async def self_commands(world: Any) -> list[Any]:
    """Return all commands for the world's model once the policy has heard everything it was told."""
    consumer = AIOKafkaConsumer(
        topics.COMMANDS_RETRAIN.name,
        bootstrap_servers=world.servers,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    await consumer.start()
    commands: list[Any] = []
    try:

        async def settled() -> bool:
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                commands.extend(topics.COMMANDS_RETRAIN.decode(record.value) for record in batch)
            loops = {loop.id: loop for loop in await world.trimtab.loops(world.name)}
            second = loops.get(f"{world.name}-2")
            return second is not None and not second.open

        await eventually(settled, what="the policy's answer to every drift event")
    finally:
        await consumer.stop()
    return [command for command in commands if command.model == world.name]
