"""What a retrain cost and what it bought, in the loop's row, corrected as predictions come."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from trimtab_contracts.common.v1.common_pb2 import RunCost
from trimtab_contracts.training.v1.training_pb2 import RunEvent
from trimtab_core.policy import Answer, PolicyState, command_id
from trimtab_core.watched import Standing
from trimtab_core.worth import Gain
from trimtab_monitoring import messages
from trimtab_monitoring.usecases.entities import Cost, Loop
from trimtab_monitoring.usecases.ledger import Ledger
from trimtab_monitoring.usecases.loops import StageNews

Make = Callable[..., Any]
ROLLOUT = "m/2/2"


async def on_trial(world: Any, flow: Make, rows: int = 400) -> None:
    """Have version 2 answer beside version 1, and lose about half as much."""
    await world.ready(1, 2)
    world.fleet.standings["m"] = Standing("m", 2, 1, 2, ROLLOUT, 0, (100,), loop_id="loop")
    async with world.store.begin("m") as unit:
        await unit.put_loop(Loop("loop", "m", "data", "on_trial", version=2, rollout_id=ROLLOUT))
    part = flow(0, rows, error=2.0, generation=2, challenger_version=2, rollout_id=ROLLOUT)
    part.challenger = part.labels + np.random.default_rng(9).normal(0, 1.0, rows)
    await world.live(part)


async def gain_of(world: Any) -> Gain | None:
    found: Gain | None = (await world.store.find_loop("loop")).gain
    return found


async def test_what_a_version_bought_is_what_it_lost_less_on_its_trial_times_its_predictions(
    world: Any, flow: Make
) -> None:
    await on_trial(world, flow)
    assert await gain_of(world) is None, "it is not live yet"
    world.fleet.standings["m"] = Standing("m", 3, 2)

    seen = []
    for at in range(4):
        await world.live(flow(400 + 100 * at, 100, error=1.0, version=2, generation=3))
        seen.append(await gain_of(world))

    first, *_, last = seen
    assert (first.before, first.paired, first.metric) == (1, True, "mae")
    assert 0.5 < first.a_row < 1.1
    assert first.low < first.a_row < first.high
    assert [each.rows for each in seen] == [100, 200, 300, 400]
    assert last == replace(first, rows=400)


async def test_a_version_that_is_replaced_keeps_what_it_bought_by_then(world: Any, flow: Make) -> None:
    await on_trial(world, flow)
    await world.live(flow(400, 1_000, version=2, generation=3))
    await world.live(flow(1_400, 50, version=2, generation=3))
    told = (await gain_of(world)).rows

    await world.live(flow(1_450, 10, version=3, generation=4))

    assert told == 1_000, "half a tenth more is not told"
    assert (await gain_of(world)).rows == 1_050


async def test_what_a_run_took_is_read_from_its_event(world: Any) -> None:
    event = RunEvent(
        id="r/succeeded", run_id="r", loop_id="loop", model="m", status=RunEvent.SUCCEEDED,
        cost=RunCost(wall_seconds=42.5, cpu_seconds=40.25, rows=12_000, attempts=2),
    )  # fmt: skip
    failed = RunEvent(
        id="f/failed",
        run_id="f",
        loop_id="vain",
        model="m",
        status=RunEvent.FAILED,
        cost=RunCost(wall_seconds=3),
    )
    ledger = Ledger(world.store, world.clock)
    for each in (event, failed):
        await ledger.ran(messages.run_news(each))

    assert (await world.store.find_loop("loop")).cost == Cost(42.5, 40.25, 12_000, 2)
    assert (await world.store.find_loop("vain")).cost == Cost(3.0, None, 0, 0)
    told = messages.loop(await world.store.find_loop("loop"))
    assert (told.cost, told.HasField("gain")) == (event.cost, False)


@pytest.mark.parametrize("rows", [5, 200])
async def test_a_trial_that_is_on_says_how_many_more_rows_it_is_likely_to_need(
    world: Any, flow: Make, rows: int
) -> None:
    await on_trial(world, flow, 5)
    part = flow(5, rows - 5, generation=2, challenger_version=2, rollout_id=ROLLOUT)
    part.challenger = np.array(part.predicted().champion) + 0.02
    await world.live(*[part] * (rows > 5))
    loop = await world.api.GetLoop(type("Request", (), {"id": "loop"}), None)
    health = await world.api.GetModelHealth(type("Request", (), {"model": "m"}), None)

    shown = await world.api.GetTrial(type("Request", (), {"model": "m"}), None)
    assert loop.foreseen == health.foreseen == shown.arms[0].foreseen
    assert ("5 labelled rows of version 2 so far" if rows == 5 else "more are needed") in loop.foreseen


async def test_a_rollout_says_before_its_first_row_how_many_it_is_likely_to_need(
    world: Any, flow: Make
) -> None:
    await world.ready(1, 2)
    await world.live(flow(0, 500, error=0.5))
    world.fleet.standings["m"] = Standing("m", 2, 1, 2, ROLLOUT, 0, (100,), loop_id="loop")
    async with world.store.begin("m") as unit:
        await unit.put_loop(Loop("loop", "m", "data", "on_trial", version=2, rollout_id=ROLLOUT))

    loop = await world.api.GetLoop(type("Request", (), {"id": "loop"}), None)
    health = await world.api.GetModelHealth(type("Request", (), {"model": "m"}), None)
    shown = await world.api.GetTrial(type("Request", (), {"model": "m"}), None)

    assert loop.foreseen.startswith("0 labelled rows of version 2 so far: to tell a difference of 0.039 mae")
    assert "of the 2 days that it waits at most" in loop.foreseen
    assert loop.foreseen == health.foreseen == shown.arms[0].foreseen


@pytest.mark.parametrize("heard", ["live first", "rows first"])
async def test_a_version_that_loses_clearly_more_at_once_did_not_help(
    world: Any, flow: Make, heard: str
) -> None:
    ledger, given = Ledger(world.store, world.clock), command_id("e", 1)
    await world.ready(1, 2)
    await world.live(flow(0, 200, error=0.5))
    async with world.store.begin("m") as unit:
        await unit.save_policy(PolicyState(in_flight=given, answers=(Answer("e", 1, given),)))
        await unit.put_loop(Loop("loop", "m", "data", "loading", version=2, command_id=given, as_of_ms=1_000))
    world.fleet.standings["m"] = Standing("m", 2, 2)
    steps = [
        lambda: ledger.staged(StageNews("n", "m", 2, "run", "loop", "LIVE", "", [], "", 6_000)),
        lambda: world.live(flow(200, 250, error=6.0, version=2, generation=2)),
    ]
    for step in steps if heard == "live first" else reversed(steps):
        await step()
    once = await policy_of(world)
    await world.live(flow(450, 400, error=6.0, version=2, generation=2))

    loop = await world.store.find_loop("loop")
    assert (loop.state, loop.worse, loop.gain.paired, loop.gain.a_row < 0) == ("live", True, False, True)
    assert (once.failures, once.in_flight, once.answers[0].helped) == (1, None, False)
    assert await policy_of(world) == once


async def test_a_version_that_loses_less_still_helped(world: Any, flow: Make) -> None:
    await world.ready(1, 2)
    given = command_id("e", 1)
    await world.live(flow(0, 200, error=2.0))
    async with world.store.begin("m") as unit:
        await unit.save_policy(PolicyState(answers=(Answer("e", 1, given, helped=True),)))
        await unit.put_loop(
            Loop("loop", "m", "data", "live", version=2, command_id=given, steps={"live": 6_000})
        )
    before = await policy_of(world)

    await world.live(flow(200, 400, error=1.0, version=2, generation=2))

    loop = await world.store.find_loop("loop")
    assert (loop.worse, loop.gain.a_row > 0) == (False, True)
    assert await policy_of(world) == before


async def policy_of(world: Any) -> PolicyState:
    async with world.store.begin("m") as unit:
        found: PolicyState = unit.policy
    return found
