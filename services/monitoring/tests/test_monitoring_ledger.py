"""The loop ledger: one row a loop, from what is told in whatever order."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from trimtab_core.policy import Answer, Futile, PolicyState, command_id
from trimtab_core.watched import Verdict
from trimtab_monitoring import messages
from trimtab_monitoring.usecases import loops
from trimtab_monitoring.usecases.entities import Alert, Command, Gate, Loop
from trimtab_monitoring.usecases.ledger import Ledger
from trimtab_monitoring.usecases.loops import RunNews, Stage, StageNews

Make = Callable[..., Any]
PERSON = Command("c", "m", "c", "manual", "", 1, "please", "ann", as_of_ms=500, at_ms=1_000)
GATE = Gate("mae at most 6", True, 3.0, 6.0, None, None, "fine")


def run(state: Any, at_ms: int, error: str = "") -> RunNews:
    return RunNews(f"run/{state}", "run", "c", "c", "m", "manual", state, 500, at_ms, error)


def stage(stage: Stage, at_ms: int, sentence: str = "because", generation: int = 0) -> StageNews:
    return StageNews(
        f"m/1/{stage}/{generation}", "m", 1, "run", "c", stage, "r" if stage == "ON_TRIAL" else "", [GATE], sentence, at_ms
    )  # fmt: skip


@pytest.fixture
def ledger(world: Any) -> Ledger:
    return Ledger(world.store, world.clock)


async def test_a_loop_that_a_person_asked_for_is_told_from_command_to_live(
    world: Any, ledger: Ledger
) -> None:
    await ledger.commanded(PERSON)
    seen = [(await world.store.find_loop("c")).state]
    for news in (run("training", 2_000), run("gating", 3_000)):
        await ledger.ran(news)
        seen.append((await world.store.find_loop("c")).state)
    for news in (stage("ACCEPTED", 4_000), stage("ON_TRIAL", 5_000), stage("LIVE", 6_000)):
        await ledger.staged(news)
        seen.append((await world.store.find_loop("c")).state)

    assert seen == ["commanded", "training", "gating", "loading", "on_trial", "live"]
    loop = await world.store.find_loop("c")
    assert (loop.open, loop.trigger, loop.run_id, loop.version, loop.gates) == (
        False,
        "manual",
        "run",
        1,
        (GATE,),
    )
    assert (loop.reason, loop.outcome, loop.settled_ms) == ("please", "Version 1 is live: because", 500)
    assert loop.steps == {
        "commanded": 1_000, "training": 2_000, "gating": 3_000, "loading": 4_000, "on_trial": 5_000, "live": 6_000,
    }  # fmt: skip


async def test_the_order_in_which_topics_are_heard_does_not_matter(new_world: Make) -> None:
    ends = set()
    stages = [stage("ACCEPTED", 4_000), stage("ON_TRIAL", 5_000), stage("LIVE", 6_000)]
    for places in itertools.permutations(range(4)):
        world = new_world()
        ledger = Ledger(world.store, world.clock)
        told: list[Callable[[], Any]] = [
            lambda ledger=ledger: ledger.commanded(PERSON),
            lambda ledger=ledger: ledger.ran(run("training", 2_000)),
            lambda ledger=ledger: ledger.ran(run("gating", 3_000)),
            lambda ledger=ledger: _in_turn(ledger, stages),
        ]
        for place in places:
            await told[place]()
            await told[place]()
        loop = await world.store.find_loop("c")
        ends.add((loop.state, loop.open, loop.reason, loop.run_id, tuple(sorted(loop.steps.items()))))

    assert len(ends) == 1


async def _in_turn(ledger: Ledger, stages: list[StageNews]) -> None:
    for news in stages:
        await ledger.staged(news)


async def test_a_failed_run_ends_its_loop(world: Any, ledger: Ledger) -> None:
    await ledger.commanded(PERSON)
    await ledger.ran(run("failed", 2_000, error="no rows"))
    await ledger.ran(run("training", 1_500))

    loop = await world.store.find_loop("c")
    assert (loop.state, loop.open, loop.outcome) == ("failed", False, "The run failed: no rows")


async def test_a_cancelled_run_ends_its_loop_and_frees_the_policy_without_a_back_off(
    world: Any, ledger: Ledger
) -> None:
    async with world.store.begin("m") as unit:
        await unit.save_policy(
            PolicyState(last_command_at=1.0, commands=(1.0,), in_flight="c", futile={"data": Futile(1, 0.5)})
        )
    await ledger.commanded(PERSON)
    await ledger.ran(replace(run("cancelled", 2_000), cancelled_by="ann", cancel_reason="wrong window"))
    await ledger.ran(run("training", 1_500))

    loop = await world.store.find_loop("c")
    assert (loop.state, loop.open) == ("cancelled", False)
    assert loop.outcome == "The run was cancelled by ann: wrong window"
    async with world.store.begin("m") as unit:
        policy = unit.policy
    assert (policy.in_flight, policy.failures, policy.commands) == (None, 1, (1.0,))


@pytest.mark.parametrize("awaiting", ["AWAITING_CHECKS", "AWAITING_APPROVAL"])
async def test_a_version_that_waits_for_others_rests_and_goes_on(
    world: Any, ledger: Ledger, awaiting: Stage
) -> None:
    await ledger.staged(stage(awaiting, 4_000))
    waiting = await world.store.find_loop("c")
    await ledger.staged(stage("ACCEPTED", 5_000))
    going = await world.store.find_loop("c")
    await ledger.staged(stage("REJECTED", 6_000))

    assert (waiting.state, waiting.open) == (awaiting.lower(), False)
    assert (going.state, going.open, going.outcome) == ("loading", True, "")
    assert (await world.store.find_loop("c")).state == "refused"


async def test_a_rollback_raises_one_alert_and_settles_at_the_verdict(world: Any, ledger: Ledger) -> None:
    verdict = Verdict(
        "v", "m", "r", 0, 1, 2, "ROLL_BACK", 9, -1.0, 0.1, 0.05, "worse", at_ms=900, recorded_ms=4_500
    )
    await ledger.staged(stage("ON_TRIAL", 4_000))
    async with world.store.begin("m") as unit:
        await unit.put_loop(loops.judged(await unit.loop("c"), verdict))
    for _ in range(2):
        await ledger.staged(stage("ROLLED_BACK", 5_000))

    loop = await world.store.find_loop("c")
    assert (loop.state, loop.settled_ms) == ("rolled_back", 900)
    (alert,) = world.told(Alert)
    assert (alert.kind, alert.subject) == ("rollback", "m")


@pytest.mark.parametrize(("end", "failures"), [("LIVE", 0), ("REFUSED", 1), ("ROLLED_BACK", 1)])
async def test_the_policy_learns_whether_the_retrain_helped(
    world: Any, ledger: Ledger, end: Stage, failures: int
) -> None:
    given = command_id("e", 1)
    async with world.store.begin("m") as unit:
        answers = (Answer("e", 1, given),)
        await unit.save_policy(
            PolicyState(last_command_at=1.0, commands=(1.0,), in_flight=given, answers=answers)
        )
        await unit.put_loop(Loop("c", "m", "data", state="gating", command_id=given, as_of_ms=500))

    await ledger.staged(stage(end, 5_000))

    async with world.store.begin("m") as unit:
        policy = unit.policy
    assert (policy.in_flight, policy.failures, policy.last_outcome_at) == (None, failures, 0.5)


async def test_a_trial_that_a_person_ends_says_nothing_of_retraining(world: Any, ledger: Ledger) -> None:
    ended = replace(stage("ROLLED_BACK", 5_000, "the canary was ended by ann"), person="ann")
    given = command_id("e", 1)
    async with world.store.begin("m") as unit:
        await unit.save_policy(PolicyState(in_flight=given, answers=(Answer("e", 1, given),)))
        await unit.put_loop(Loop("c", "m", "data", state="on_trial", command_id=given, as_of_ms=500))

    await ledger.staged(ended)

    loop = await world.store.find_loop("c")
    assert (loop.state, loop.outcome) == (
        "cancelled",
        "Version 1 was taken off its trial: the canary was ended by ann",
    )
    async with world.store.begin("m") as unit:
        assert (unit.policy.in_flight, unit.policy.failures) == (None, 0)
    assert world.told(Alert) == []


async def test_a_live_version_that_a_person_rolls_back_is_rolled_back(world: Any, ledger: Ledger) -> None:
    await ledger.staged(stage("LIVE", 4_000))
    await ledger.staged(replace(stage("ROLLED_BACK", 5_000), person="ann"))

    assert (await world.store.find_loop("c")).state == "rolled_back"
    assert len(world.told(Alert)) == 1


@pytest.mark.parametrize("person", ["ann", ""])
async def test_a_live_version_that_is_taken_back_did_not_help_and_says_when(
    world: Any, ledger: Ledger, person: str
) -> None:
    given = command_id("e", 1)
    async with world.store.begin("m") as unit:
        before = {"data": Futile(2, 1.0)}
        answers = (Answer("e", 1, given, severity=3.0),)
        await unit.save_policy(PolicyState(in_flight=given, answers=answers, futile=before))
        await unit.save_watch(replace(unit.watch, closed_ms=7_000))
        await unit.put_loop(Loop("c", "m", "data", state="on_trial", command_id=given, as_of_ms=500))
    await ledger.staged(stage("LIVE", 4_000))
    async with world.store.begin("m") as unit:
        assert unit.policy.failures == 0
        await unit.save_watch(replace(unit.watch, closed_ms=9_000))

    for _ in range(2):
        await ledger.staged(replace(stage("ROLLED_BACK", 5_000), person=person))

    loop = await world.store.find_loop("c")
    assert (loop.state, loop.settled_ms, loop.taken_back_ms) == ("rolled_back", 500, 2_500)
    told = messages.loop(loop)
    assert (told.taken_back_at.ToMilliseconds(), told.settled_at.ToMilliseconds()) == (2_500, 500)
    async with world.store.begin("m") as unit:
        assert (unit.policy.futile, unit.policy.answers[0].helped) == ({"data": Futile(3, 3.0)}, False)
    await ledger.staged(stage("LIVE", 6_000, generation=5))
    async with world.store.begin("m") as unit:
        assert unit.policy.failures == 3, "it is decided once"


async def test_a_version_that_was_replaced_and_fails_a_later_trial_had_helped(
    world: Any, ledger: Ledger
) -> None:
    given = command_id("e", 1)
    async with world.store.begin("m") as unit:
        await unit.save_policy(PolicyState(in_flight=given, answers=(Answer("e", 1, given),)))
        await unit.put_loop(Loop("c", "m", "data", state="on_trial", command_id=given, as_of_ms=500))
    for at, name in enumerate(("LIVE", "LIVE", "ACCEPTED", "ON_TRIAL", "ROLLED_BACK")):
        await ledger.staged(stage(name, 4_000 + at, generation=at))  # type: ignore[arg-type]

    loop = await world.store.find_loop("c")
    assert (loop.state, loop.taken_back_ms, loop.steps["live"]) == ("rolled_back", None, 4_000)
    async with world.store.begin("m") as unit:
        assert (unit.policy.failures, unit.policy.answers[0].helped) == (0, True)


async def test_what_belongs_to_no_loop_is_not_written_down(world: Any, ledger: Ledger) -> None:
    await ledger.staged(StageNews("x", "m", 1, "", "", "LIVE", "", [], "", 1))

    assert await world.store.loops("", open_only=False) == []
