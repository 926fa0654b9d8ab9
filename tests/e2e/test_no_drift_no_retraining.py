"""A world that stays as it is leaves the model alone, and so does bad data, which is no other world."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from trimtab.testing import HOUR_MS
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Loop, Metric
from trimtab_runtime.testing import eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

X = '{type: number, nullable: true, min: -100, max: 100, expect: {null_share: "< 0.2"}}'


async def test_a_stream_without_drift_causes_no_retraining_and_bad_data_none_either(
    make_world: Callable[..., Any],
) -> None:
    async with make_world("steady", x=X) as world:
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
        await bad_data_is_told_and_not_learnt(world)


async def bad_data_is_told_and_not_learnt(world: Any) -> None:
    """Send rows of which every second lacks a field through ingestion, and ask for them."""
    begun_ms, world.missing = world.now_ms, 0.5

    def drifted(loops: Sequence[Loop]) -> list[Loop]:
        told = (
            world.now_ms >= begun_ms + 4 * HOUR_MS
        )  # the second hour is, once an event of the fourth has come
        return [loop for loop in loops if told and loop.HasField("drift")]

    (loop, *_) = drifted(await world.live(10, until=lambda loops: bool(drifted(loops))))

    who = "it is field 'x' of source 'steady-asks' (owner steady@example.org)"
    assert (loop.state, who in loop.reason) == ("declined", True), loop
    assert len(await world.trimtab.runs(world.name)) == 1, "nothing is trained on it"
    assert [who in sentence for sentence in await alerts_of(world, world.name, "quality")] == [True]
    sentences = await alerts_of(world, "steady-asks", "expectation")
    assert all(it.startswith("null_share of x is not < 0.2") for it in sentences), sentences

    async def hours() -> dict[str, Metric]:
        end_ms = begun_ms + 2 * HOUR_MS
        found = await world.trimtab.metrics(source="steady-asks", since_ms=end_ms, until_ms=end_ms + 1)
        return {it.name: it for it in found.messages}

    hour = await eventually(hours, what="the second bad hour among the metrics of the source")
    assert (hour["events_an_hour"].value, hour["repeats_an_hour"].value) == (world.per_hour, 0)
    assert hour["refused_an_hour"].value == 0
    nulls = hour["hourly_null_share"]
    assert (nulls.feature, nulls.held, 0.2 < nulls.value < 0.8) == ("x", False, True)


async def alerts_of(world: Any, subject: str, kind: str) -> list[str]:
    """Return what the open alerts of a kind say, once there is one."""

    async def found() -> list[str]:
        held = await world.trimtab.alerts(subject, open_only=True)
        return [it.alert.sentence for it in held if it.alert.kind == kind]

    return await eventually(found, what=f"an alert of {kind} about {subject}")
