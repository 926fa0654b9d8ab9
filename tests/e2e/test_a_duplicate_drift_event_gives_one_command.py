"""P2: an episode gives one command, however often and in whatever order its event is told."""

from collections.abc import Callable
from typing import Any

import pytest
from trimtab_contracts import topics
from trimtab_contracts.monitoring.v1.monitoring_pb2 import DriftEvent
from trimtab_runtime import records
from trimtab_runtime.clock import to_timestamp
from trimtab_runtime.pipeline import read_partition

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

        first, second, last = (f"{world.name}-{number}" for number in (1, 2, 3))
        await records.send_all(world.producer, [told(first), told(first), told(second), told(first)])
        await world.ended(first)
        # The last has the key of the others, so its answer comes after theirs.
        await records.send_all(world.producer, [told(second), told(first), told(last)])
        await world.ended(last)

        commands = await commands_of(world)
        assert [command.episode for command in commands if command.trigger != "manual"] == [first]
        assert len(await world.trimtab.runs(world.name)) == 2
        for other in (second, last):
            declined = await world.ended(other)
            assert declined.state == "declined"
            assert declined.reason


async def commands_of(world: Any) -> list[Any]:
    """Return all commands for the world's model that were ever given."""
    found = [
        topics.COMMANDS_RETRAIN.decode(record.value)
        for partition in range(topics.COMMANDS_RETRAIN.partitions)
        async for batch in read_partition(world.servers, topics.COMMANDS_RETRAIN.name, partition)
        for record in batch
    ]
    return [command for command in found if command.model == world.name]
