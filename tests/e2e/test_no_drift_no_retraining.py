"""A world that stays as it is leaves the model alone."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


async def test_a_stream_without_drift_causes_no_retraining(make_world: Callable[..., Any]) -> None:
    async with make_world("steady") as world:
        await world.backfill(48)
        await world.first_version()

        loops = await world.live(72)

        assert [loop.trigger for loop in loops] == ["manual"]
        assert len(await world.trimtab.runs(world.name)) == 1
        health = await world.trimtab.health(world.name)
        assert health.labels == world.replay.tally.predictions - health.unlabelled - world.per_hour
        metrics = {metric.name: metric for metric in health.metrics}
        assert "mae" in metrics
        estimate = metrics["estimated_mae"]
        assert estimate.unknown == ""
        assert estimate.low < estimate.value < estimate.high
