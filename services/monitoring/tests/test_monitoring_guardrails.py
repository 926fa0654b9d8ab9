"""The guardrails of a rollout: a version on trial that fails or is slow is taken back before a label comes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from trimtab_contracts.monitoring.v1.monitoring_pb2 import GetTrialRequest
from trimtab_contracts.serving.v1.serving_pb2 import OtherAnswers, PredictionBatch
from trimtab_core.judge import JudgeSpec
from trimtab_core.watched import Arm, Others, Said, Standing, Trial, Verdict
from trimtab_monitoring import messages
from trimtab_monitoring.errors import BadBatch
from trimtab_monitoring.usecases import judging
from trimtab_monitoring.usecases.entities import Arrivals, Loop

Make = Callable[..., Any]
ROLLOUT = "m/2/2"


async def on_trial(world: Any) -> None:
    await world.ready(1, 2)
    world.fleet.standings["m"] = Standing("m", 2, 1, 2, ROLLOUT, 0, (10, 50, 100), loop_id="loop")
    async with world.store.begin("m") as unit:
        await unit.put_loop(Loop("loop", "m", "data", state="on_trial", rollout_id=ROLLOUT))


def asked(flow: Make, start: int, rows: int, *, failing: int = 0, took_us: Any = (1_000, 1_000)) -> Any:
    """Make requests of which the challenger fails the first `failing` in ten."""
    part = flow(start, rows, generation=2, challenger_version=2, rollout_id=ROLLOUT, took_us=took_us)
    part.challenger = np.where(np.arange(rows) % 10 < failing, np.nan, part.labels)
    return part


async def predict(world: Any, part: Any, *, labels_ms: int = 0) -> None:
    """Let predictions come, complete to their last; labels are complete up to a time long before."""
    await world.store.take(Arrivals([part.predicted()]))
    await world.mark(part.times[-1], labels_ms=labels_ms or part.times[0])
    await world.close()


async def test_anybody_may_see_how_a_challenger_stands_by_its_guardrails(world: Any, flow: Make) -> None:
    await on_trial(world)
    api = world.api
    before = await api.GetTrial(GetTrialRequest(model="m"), None)

    await predict(world, asked(flow, 0, 50, failing=1))
    found = await api.GetTrial(GetTrialRequest(model="m"), None)

    assert [len(arm.guardrails) for arm in before.arms] == [0]
    (arm,) = found.arms
    failures, latency = arm.guardrails
    assert (arm.version, found.guardrail_needed) == (2, 200)
    assert (failures.name, failures.requests, failures.challenger_alone, failures.champion_alone) == (
        "failures",
        50,
        5,
        0,
    )
    assert (latency.name, latency.limit_ms, latency.requests) == ("latency", 0, 0), "too few runs were timed"
    assert 1 < failures.evidence < found.guardrail_needed
    assert failures.allowed == 0.01


@pytest.mark.parametrize(
    ("part", "guardrail", "told"),
    [
        ({"failing": 2}, "failures", "version 2 alone had no answer to"),
        ({"took_us": (1_000, 50_000)}, "latency", "version 2 alone took more than 10 ms for"),
    ],
)
async def test_a_challenger_beyond_a_guardrail_is_taken_back_once_and_no_label_is_waited_for(
    world: Any, flow: Make, part: dict[str, Any], guardrail: str, told: str
) -> None:
    await on_trial(world)

    for at in range(10):
        await predict(world, asked(flow, at * 50, 50, **part))

    (verdict,) = world.told(Verdict)
    assert (verdict.outcome, verdict.guardrail, verdict.step, verdict.generation) == (
        "ROLL_BACK",
        guardrail,
        0,
        2,
    )
    assert verdict.evidence >= 1 / verdict.alpha == 2 / 0.01
    assert told in verdict.sentence
    assert (await world.store.watch("m")).labels == 0
    loop = await world.store.find_loop("loop")
    assert (loop.state, loop.verdict) == ("rolling_back", verdict)


async def test_a_challenger_within_the_guardrails_is_left_to_the_judge(world: Any, flow: Make) -> None:
    await on_trial(world)

    for at in range(10):
        await predict(world, asked(flow, at * 50, 50, took_us=(1_000, 9_000)))

    assert world.told(Verdict) == []
    (guard,) = (await world.store.watch("m")).guards.arms
    assert (guard.state.failures.requests, guard.state.failures.theirs) == (500, 0)


async def test_the_guardrails_do_not_depend_on_the_batches(
    new_world: Make, flow: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = []
    part = asked(flow, 0, 300, failing=1)
    for size, at_most in ((300, 5_000), (300, 7), (31, 5_000)):
        monkeypatch.setattr(judging, "MOST_ROWS", at_most)
        world = new_world()
        await on_trial(world)
        await world.store.take(Arrivals([part.predicted()]))
        for until in range(size - 1, 300 + size, size):
            await world.mark(part.times[min(until, 299)], labels_ms=part.times[0])
            await world.close()
        verdicts += world.told(Verdict)

    assert len(verdicts) == 3
    assert verdicts[0] == verdicts[1] == verdicts[2]


async def test_who_was_not_asked_alike_is_held_to_no_guardrail(world: Any, flow: Make) -> None:
    await on_trial(world)

    await predict(world, asked(flow, 0, 300, failing=10, took_us=None))

    assert world.told(Verdict) == []


async def test_what_the_judge_has_said_of_a_step_is_done_before_a_guardrail_speaks(
    world: Any, flow: Make
) -> None:
    await on_trial(world)
    async with world.store.begin("m") as unit:
        advanced = Trial(ROLLOUT, 2, 2, 0, JudgeSpec(10.0), said_at_step=0)
        await unit.save_watch(replace(unit.watch, trial=advanced))
    await predict(world, asked(flow, 0, 300, failing=2))
    assert world.told(Verdict) == []

    world.fleet.standings["m"] = replace(world.fleet.standings["m"], step=1, generation=3)
    await world.close()

    assert [(it.step, it.generation, it.outcome) for it in world.told(Verdict)] == [(1, 3, "ROLL_BACK")]


async def test_each_rollout_has_a_guard_of_its_own(world: Any, flow: Make) -> None:
    await on_trial(world)
    await predict(world, asked(flow, 0, 300, failing=2))
    world.fleet.standings["m"] = Standing("m", 4, 1, 3, "m/3/4", 0, (10, 50, 100), loop_id="next")
    async with world.store.begin("m") as unit:
        await unit.put_loop(Loop("next", "m", "data", state="on_trial", rollout_id="m/3/4"))

    part = replace(asked(flow, 300, 300, failing=2), rollout_id="m/3/4", challenger_version=3, generation=4)
    await predict(world, part)

    assert [(it.rollout_id, it.challenger) for it in world.told(Verdict)] == [(ROLLOUT, 2), ("m/3/4", 3)]


def test_times_are_read_from_a_batch_that_has_them_and_missed_in_no_other() -> None:
    batch = PredictionBatch(
        id="b", model="m", ids=["a", "b"], keys=["a", "b"], event_time_ms=[1, 2], champion=[1, 2],
        challenger_version=2, challenger=[1, 2],
    )  # fmt: skip
    assert messages.predicted(batch).challenger_us is None

    batch.champion_us.extend([5, 0])
    batch.challenger_us.extend([7, 0])
    assert messages.predicted(batch).challenger_us == [7, 0]
    batch.challenger_us.append(1)
    with pytest.raises(BadBatch, match="2 ids and 3 of challenger_us"):
        messages.predicted(batch)


async def several_on_trial(world: Any, *versions: int, left: int = 0) -> None:
    arms = tuple(Arm(version, 20, f"loop-{version}") for version in versions)
    world.fleet.standings["m"] = Standing("m", 2 + left, 1, versions[0], ROLLOUT, left, (), "loop-2", arms)
    async with world.store.begin("m") as unit:
        for version in versions:
            await unit.put_loop(Loop(f"loop-{version}", "m", "data", state="on_trial", rollout_id=ROLLOUT))


def asked_of_three(flow: Make, start: int, rows: int, *, failing: dict[int, int], slow: int = 0) -> Any:
    """Make requests of 2, 3 and 4, of which each fails so many of the first in ten, and one takes 50 ms."""
    part = asked(
        flow, start, rows, failing=failing.get(2, 0), took_us=(1_000, 50_000 if slow == 2 else 1_000)
    )

    def said(number: int, at: int) -> Said:
        answer = None if at % 10 < failing.get(number, 0) else float(part.labels[at])
        return Said(number, answer, took_us=50_000 if number == slow else 1_000)

    others = [Others(3, (said(3, at), said(4, at))) for at in range(rows)]
    return replace(part, others=[msgspec.json.encode(each) for each in others])


@pytest.mark.parametrize(
    ("harm", "guardrail"), [({"failing": {4: 3}}, "failures"), ({"failing": {}, "slow": 4}, "latency")]
)
async def test_an_arm_beyond_a_guardrail_leaves_and_the_others_go_on(
    world: Any, flow: Make, harm: dict[str, Any], guardrail: str
) -> None:
    await world.ready(1, 2)
    await several_on_trial(world, 2, 3, 4)
    for at in range(10):
        await predict(world, asked_of_three(flow, at * 50, 50, **harm))

    (verdict,) = world.told(Verdict)
    assert (verdict.outcome, verdict.challenger, verdict.guardrail) == ("ROLL_BACK", 4, guardrail)
    assert verdict.alpha == pytest.approx(0.01 / 2 / 3), "alpha is shared by the arms"
    assert verdict.evidence >= 1 / verdict.alpha
    assert [(await world.store.find_loop(f"loop-{each}")).state for each in (2, 3, 4)] == [
        "on_trial", "on_trial", "rolling_back",
    ]  # fmt: skip


async def test_arms_leave_one_a_step_the_first_beyond_it_first_and_one_that_has_left_is_not_spoken_of(
    world: Any, flow: Make
) -> None:
    await world.ready(1, 2)
    await several_on_trial(world, 2, 3, 4)
    await predict(world, asked_of_three(flow, 0, 400, failing={2: 2, 3: 9}))
    await world.close()
    assert [(it.challenger, it.step) for it in world.told(Verdict)] == [(3, 0)]

    await several_on_trial(world, 2, 4, left=1)
    await world.close()
    assert [(it.challenger, it.step, it.generation) for it in world.told(Verdict)][1:] == [(2, 1, 3)]

    await several_on_trial(world, 4, left=2)
    await predict(world, asked_of_three(flow, 400, 400, failing={2: 9, 3: 9}))
    assert len(world.told(Verdict)) == 2


async def test_a_version_that_is_only_to_serve_is_held_to_no_guardrail(world: Any, flow: Make) -> None:
    await on_trial(world)
    world.fleet.standings["m"] = replace(world.fleet.standings["m"], steps=())

    await predict(world, asked(flow, 0, 300, failing=9))

    assert (world.told(Verdict), (await world.store.watch("m")).guards) == ([], None)


def test_rows_of_other_versions_say_how_long_each_ran() -> None:
    batch = PredictionBatch(
        id="b", model="m", ids=["a", "b"], keys=["a", "b"], event_time_ms=[1, 2], champion=[1, 2],
        challenger_version=2, challenger=[1, 2], champion_us=[5, 0], challenger_us=[7, 0], arms=2,
        others=[OtherAnswers(version=3, said=[1, float("nan")], answered=[True, False], took_us=[9, 0])],
    )  # fmt: skip
    first, second = (
        msgspec.json.decode(each, type=Others) for each in messages.predicted(batch).others or ()
    )
    assert (first.said, second.said) == ((Said(3, 1.0, (), 9),), (Said(3, None),))

    batch.others[0].took_us.append(1)
    with pytest.raises(BadBatch, match="2 ids and 3 of took_us of version 3"):
        messages.predicted(batch)
