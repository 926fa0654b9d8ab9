"""The guardrails of a rollout: a challenger that fails or is slow is taken back before a label comes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from trimtab_contracts.serving.v1.serving_pb2 import PredictionBatch
from trimtab_core.judge import JudgeSpec
from trimtab_core.watched import Standing, Trial, Verdict
from trimtab_monitoring import messages
from trimtab_monitoring.errors import BadBatch
from trimtab_monitoring.usecases import closing
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
    guard = (await world.store.watch("m")).guard
    assert (guard.state.failures.requests, guard.state.failures.theirs) == (500, 0)


async def test_the_guardrails_do_not_depend_on_the_batches(
    new_world: Make, flow: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = []
    part = asked(flow, 0, 300, failing=1)
    for size, at_most in ((300, 5_000), (300, 7), (31, 5_000)):
        monkeypatch.setattr(closing, "MOST_ROWS", at_most)
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


async def test_a_guardrail_says_no_more_of_a_version_that_has_left_and_holds_the_next(
    world: Any, flow: Make
) -> None:
    await on_trial(world)
    for at in range(10):
        await predict(world, asked(flow, at * 50, 50, failing=5))
    assert [it.challenger for it in world.told(Verdict)] == [2]

    standing = world.fleet.standings["m"]
    world.fleet.standings["m"] = replace(standing, generation=3, challenger=3, step=1)
    await predict(world, asked(flow, 500, 50))

    assert [it.challenger for it in world.told(Verdict)] == [2]
    guard = (await world.store.watch("m")).guard
    assert (guard.rollout_id, guard.challenger, guard.state.tripped) == (ROLLOUT, 3, None)
