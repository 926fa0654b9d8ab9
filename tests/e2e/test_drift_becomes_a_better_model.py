"""The main story: the world changes, and the live model follows."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trimtab_runtime.testing import eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


async def test_drift_becomes_a_better_model(
    make_world: Callable[..., Any], spans: Callable[..., Any]
) -> None:
    async with make_world("becomes") as world:
        await world.backfill(48)
        first = await world.first_version()
        assert first.state == "live", first.outcome

        quiet = await world.live(24)
        assert [loop for loop in quiet if loop.HasField("drift")] == []

        world.slope = 5.0
        loops = await world.live(
            96, until=lambda loops: any(loop.HasField("drift") and loop.state == "live" for loop in loops)
        )

        won = next(loop for loop in loops if loop.HasField("drift") and loop.state == "live")
        assert won.drift.kind in ("performance", "data")
        assert won.verdict.mean_difference > 0
        deployment = await world.trimtab.deployment(world.name)
        assert deployment.champion.number == won.version
        assert world.replay.tally.failed_requests == 0, world.replay.tally.failures

        async def report_is_written() -> bool:
            return await asyncio.to_thread(Path(won.drift.report).exists)

        await eventually(report_is_written, what="the report that the drift event names", deadline_s=90)
        services = {span["service"] for span in spans(won.trace_id)}
        assert {"monitoring", "trainer", "registry", "serving"} <= services
