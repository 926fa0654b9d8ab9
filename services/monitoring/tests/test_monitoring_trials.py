"""The judge of a rollout: one verdict a step, whatever the batches, and none before the trial is on."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from trimtab_core.watched import Standing, Verdict
from trimtab_monitoring.errors import NotCalibrated
from trimtab_monitoring.usecases import judging
from trimtab_monitoring.usecases.entities import Arrivals, Loop, StoredFile, Version

Make = Callable[..., Any]
ROLLOUT = "m/2/2"


async def on_trial(
    world: Any, *, step: int = 0, generation: int = 2, steps: tuple[int, ...] = (10, 50, 100)
) -> None:
    world.fleet.standings["m"] = Standing("m", generation, 1, 2, ROLLOUT, step, steps, loop_id="loop")
    async with world.store.begin("m") as unit:
        if await unit.loop("loop") is None:
            await unit.put_loop(Loop("loop", "m", "data", state="on_trial", rollout_id=ROLLOUT))


def trial(flow: Make, start: int, rows: int, *, error: float, challenger_error: float) -> Any:
    part = flow(start, rows, error=error, generation=2, challenger_version=2, rollout_id=ROLLOUT)
    rng = np.random.default_rng(start + 9)
    part.challenger = part.labels + rng.normal(0, challenger_error, rows)
    return part


async def test_a_better_challenger_climbs_the_steps_and_is_promoted(world: Any, flow: Make) -> None:
    await world.ready(1, 2)
    await on_trial(world)
    said: list[Verdict] = []

    for at in range(40):
        await world.live(trial(flow, at * 4, 4, error=2.0, challenger_error=0.5))
        for verdict in world.told(Verdict)[len(said) :]:
            said.append(verdict)
            if verdict.outcome == "ADVANCE":
                await on_trial(world, step=verdict.step + 1, generation=verdict.generation + 1)
                await world.close()

    assert [(it.outcome, it.step, it.generation) for it in said] == [
        ("ADVANCE", 0, 2),
        ("ADVANCE", 1, 3),
        ("PROMOTE", 2, 4),
    ]
    assert said[-1].id == f"{ROLLOUT}/2/promote"
    assert said[-1].mean_difference > 0
    assert said[-1].evidence >= 1 / said[-1].alpha
    loop = await world.store.find_loop("loop")
    assert (loop.state, loop.open, loop.verdict) == ("promoting", True, said[-1])


async def test_a_worse_challenger_is_rolled_back_once(world: Any, flow: Make) -> None:
    await world.ready(1, 2)
    await on_trial(world)

    for at in range(30):
        await world.live(trial(flow, at * 20, 20, error=0.5, challenger_error=3.0))

    (verdict,) = world.told(Verdict)
    assert (verdict.outcome, verdict.step) == ("ROLL_BACK", 0)
    assert verdict.mean_difference < 0
    assert (await world.store.find_loop("loop")).state == "rolling_back"


async def test_no_verdict_before_the_registry_says_that_the_trial_is_on(world: Any, flow: Make) -> None:
    await world.ready(1, 2)
    await on_trial(world)
    async with world.store.begin("m") as unit:
        await unit.put_loop(replace(await unit.loop("loop"), state="loading"))
    await world.live(trial(flow, 0, 300, error=0.5, challenger_error=3.0))
    assert world.told(Verdict) == []

    async with world.store.begin("m") as unit:
        await unit.put_loop(replace(await unit.loop("loop"), state="on_trial"))
    await world.close()

    assert [it.outcome for it in world.told(Verdict)] == ["ROLL_BACK"]


async def test_equals_are_undecided_at_the_longest_wait_and_not_later(world: Any, flow: Make) -> None:
    await world.ready(1, 2)
    await on_trial(world)
    part = trial(flow, 0, 60, error=1.0, challenger_error=1.0)
    part = replace(part, challenger=np.array(part.predicted().champion), step_ms=3_600_000)

    await world.live(part)

    (verdict,) = world.told(Verdict)
    assert verdict.outcome == "UNDECIDED"
    assert verdict.at_ms == part.times[0] + 48 * 3_600_000
    assert verdict.rows == 49


async def test_the_verdict_does_not_depend_on_the_batches(new_world: Make, flow: Make) -> None:
    verdicts = []
    for size in (400, 100, 7):
        world = new_world()
        await world.ready(1, 2)
        await on_trial(world, steps=(0,))
        part = trial(flow, 0, 400, error=2.0, challenger_error=0.5)
        await world.store.take(Arrivals([part.predicted()], [part.labelled()]))
        for until in range(size - 1, 400 + size, size):
            await world.mark(part.times[min(until, 399)])
            await world.close()
        verdicts.append(world.told(Verdict))

    assert len(verdicts[0]) == 1
    assert verdicts[0] == verdicts[1] == verdicts[2]


async def test_rows_of_a_rollout_before_the_newest_one_do_not_count(world: Any, flow: Make) -> None:
    await world.ready(1, 2)
    await on_trial(world)
    await world.live(trial(flow, 0, 10, error=1.0, challenger_error=1.0))

    late = replace(trial(flow, 10, 50, error=1.0, challenger_error=9.0), rollout_id="m/7/1", generation=1)
    await world.live(late)

    watch = await world.store.watch("m")
    assert (watch.trial.rollout_id, watch.trial.state.n) == (ROLLOUT, 10)


async def test_a_challenger_without_an_answer_makes_no_pair(world: Any, flow: Make) -> None:
    await world.ready(1, 2)
    await on_trial(world)
    part = trial(flow, 0, 20, error=1.0, challenger_error=1.0)
    part.challenger[:5] = np.nan

    await world.live(part)

    assert (await world.store.watch("m")).trial.state.n == 15


async def test_a_trial_begins_with_the_first_row_that_its_challenger_was_asked_for(
    world: Any, flow: Make
) -> None:
    await world.ready(1, 2)
    await on_trial(world)
    loading = flow(
        0, 50, error=0.5, generation=2, rollout_id=ROLLOUT
    )  # an instance that has not loaded it yet
    await world.live(loading)
    for at in range(30):
        await world.live(trial(flow, 1_000 + at * 20, 20, error=0.5, challenger_error=3.0))

    (verdict,) = world.told(Verdict)
    assert (verdict.outcome, verdict.challenger) == ("ROLL_BACK", 2)


async def test_a_rollout_is_judged_and_guarded_while_the_champion_waits_for_its_calibration(
    world: Any, flow: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "MOST_ROWS", 100)
    await world.store.put_versions([Version("m", 1, StoredFile("/1", "", 0))])
    await on_trial(world)
    part = trial(flow, 0, 600, error=0.5, challenger_error=3.0)
    await world.store.take(Arrivals([part.predicted()], [part.labelled()]))
    await world.mark(part.times[-1])
    with pytest.raises(NotCalibrated):
        await world.close()

    (verdict,) = world.told(Verdict)
    watch = await world.store.watch("m")
    assert (verdict.outcome, watch.closed_ms, watch.judged_to) == ("ROLL_BACK", 0, part.times[-1])
    assert watch.guards is not None

    await world.ready(1, 2)
    await world.close()
    after = await world.store.watch("m")
    assert after.closed_ms == part.times[-1]
    assert (after.trial, after.earning) == (watch.trial, watch.earning), "each row is taken in once"


async def test_rows_that_the_closing_takes_in_first_are_not_judged_again(world: Any, flow: Make) -> None:
    await world.ready(1, 2)
    part = trial(flow, 0, 30, error=1.0, challenger_error=1.0)
    await world.live(part)
    await on_trial(world)
    await world.live(trial(flow, 30, 30, error=1.0, challenger_error=1.0))

    watch = await world.store.watch("m")
    assert (watch.trial.state.n, watch.earning.rows) == (60, 60)
