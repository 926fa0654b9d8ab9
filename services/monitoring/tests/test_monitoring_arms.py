"""An A/B test of several versions is watched arm by arm, and anybody may see how each stands."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
from trimtab_contracts.monitoring.v1.monitoring_pb2 import GetTrialRequest
from trimtab_core.watched import Arm, Others, Said, Standing, Verdict
from trimtab_monitoring.usecases.entities import Loop

Make = Callable[..., Any]
ROLLOUT = "m/2/2"


async def on_trial(world: Any, *versions: int, left: int = 0) -> None:
    arms = tuple(Arm(version, 20, f"loop-{version}") for version in versions)
    world.fleet.standings["m"] = Standing("m", 2 + left, 1, versions[0], ROLLOUT, left, (), "loop-2", arms)
    async with world.store.begin("m") as unit:
        for version in versions:
            await unit.put_loop(
                Loop(f"loop-{version}", "m", "data", state="on_trial", rollout_id=ROLLOUT, version=version)
            )


def asked(flow: Make, start: int, rows: int, **errors: float) -> Any:
    """Return traffic in which version 1 is off by `v1`, version 2 by `v2`, and so on."""
    part = flow(start, rows, error=errors.pop("v1"), generation=2, challenger_version=2, rollout_id=ROLLOUT)
    rng = np.random.default_rng(start + 9)
    said = {int(name[1:]): part.labels + rng.normal(0, error, rows) for name, error in errors.items()}
    part.challenger = said.pop(2)
    part.others = [
        msgspec.json.encode(
            Others(1 + len(said), tuple(Said(number, float(each[at])) for number, each in said.items()))
        )
        for at in range(rows)
    ]
    return part


async def test_a_bad_arm_is_told_first_and_then_the_best_each_to_its_own_loop(world: Any, flow: Make) -> None:
    await world.ready(1, 2)
    await on_trial(world, 2, 3)
    for at in range(30):
        await world.live(asked(flow, at * 20, 20, v1=1.5, v2=4.0, v3=1.0))

    (bad,) = world.told(Verdict)
    assert (bad.outcome, bad.challenger, bad.step) == ("ROLL_BACK", 2, 0)
    assert (await world.store.find_loop("loop-2")).state == "rolling_back"
    assert (await world.store.find_loop("loop-3")).state == "on_trial"

    await on_trial(world, 3, left=1)
    await world.close()
    _, best = world.told(Verdict)
    assert (best.outcome, best.challenger, best.step, best.generation) == ("PROMOTE", 3, 1, 3)
    assert (await world.store.find_loop("loop-3")).state == "promoting"


async def test_anybody_may_see_how_each_arm_stands(world: Any, flow: Make) -> None:
    await world.ready(1, 2)
    await on_trial(world, 2, 3)
    before = await world.api.GetTrial(GetTrialRequest(model="m"), None)
    assert (before.rollout_id, before.needed, [arm.rows for arm in before.arms]) == (ROLLOUT, 40, [0, 0])

    part = asked(flow, 0, 60, v1=1.5, v2=1.5, v3=1.0)
    await world.live(part)

    found = await world.api.GetTrial(GetTrialRequest(model="m"), None)
    assert (found.metric, found.champion, found.alpha, found.needed) == ("mae", 1, 0.05, 40)
    assert [(arm.version, arm.share, arm.left, arm.rows) for arm in found.arms] == [
        (2, 20, False, 60), (3, 20, False, 60),
    ]  # fmt: skip
    for arm in found.arms:
        assert arm.low <= arm.mean_difference <= arm.high
    assert found.arms[1].e_better > found.arms[0].e_better
    assert found.until.ToMilliseconds() == part.times[0] + 2 * 86_400_000

    world.fleet.standings["m"] = replace(world.fleet.standings["m"], arms=(Arm(3, 20, "loop-3"),), step=1)
    found = await world.api.GetTrial(GetTrialRequest(model="m"), None)
    assert [(arm.version, arm.left) for arm in found.arms] == [(3, False), (2, True)]


async def test_without_a_trial_there_is_nothing_to_see(world: Any) -> None:
    found = await world.api.GetTrial(GetTrialRequest(model="m"), None)
    assert (found.rollout_id, len(found.arms), found.champion) == ("", 0, 1)


async def test_a_canary_is_seen_too(world: Any, flow: Make) -> None:
    await world.ready(1, 2)
    world.fleet.standings["m"] = Standing("m", 2, 1, 2, ROLLOUT, 1, (10, 50), loop_id="loop")
    part = replace(asked(flow, 0, 30, v1=1.0, v2=1.0), others=None)
    await world.live(part)

    found = await world.api.GetTrial(GetTrialRequest(model="m"), None)
    assert [(arm.version, arm.share, arm.rows) for arm in found.arms] == [(2, 50, 30)]
    assert found.needed == 20
