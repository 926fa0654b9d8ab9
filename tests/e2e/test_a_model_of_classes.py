"""A model whose label is a text: trained, gated, judged on live traffic and watched by the chances it gave."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from trimtab_runtime.testing import eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

CLASSES = ("low", "middle", "high")
GATES = "[{metric: error_rate, at_most: 0.3}, {metric: log_loss, at_most: 0.8}]"


async def test_a_model_of_classes_is_promoted_by_the_chances_it_gives(make_world: Callable[..., Any]) -> None:
    async with make_world("classes", classes=CLASSES, gates=GATES) as world:
        await world.backfill(24)
        first = await world.first_version()
        assert first.state == "live", first.outcome
        rows = [
            {"id": str(x), "at": "2023-11-15T00:00:00Z", "road": "b", "x": x, "note": "calm"} for x in (-9, 9)
        ]
        answer = await world.trimtab.predict("classes", rows, version=1)
        assert list(answer.classes) == ["low", "high"]
        assert list(answer.class_names) == list(CLASSES)
        assert sum(answer.probabilities) == pytest.approx(2)

        world.slope = -2.0
        command = await world.trimtab.train("classes", reason="again", actor="test", as_of_ms=world.now_ms)
        loops = await world.live(
            48, until=lambda loops: any(loop.id == command and not loop.open for loop in loops)
        )
        (second,) = [loop for loop in loops if loop.id == command]
        assert second.verdict.rows > 0, second
        assert world.replay.tally.failed_requests == 0, world.replay.tally.failures

        async def watched() -> Any:
            health = await world.trimtab.health("classes")
            found = {reading.name: reading for reading in health.metrics}
            return found if {"log_loss", "prediction_drift"} <= found.keys() else None

        found = await eventually(watched, what="a window of losses and of predictions", deadline_s=60)
        assert 0 < found["log_loss"].value

        async def compared() -> bool:
            audit = await world.trimtab.audit_skew("classes")
            return bool(audit.rows == world.replay.tally.predictions and not audit.mismatched)

        await eventually(compared, what="every prediction compared", deadline_s=120)
        await asyncio.sleep(0)
