"""The policy: one episode, one command; every refusal a sentence in the loop's row."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from trimtab_core.watched import Drift
from trimtab_monitoring import messages
from trimtab_monitoring.usecases.entities import Command
from trimtab_monitoring.usecases.ledger import Ledger
from trimtab_monitoring.usecases.loops import StageNews

Make = Callable[..., Any]
DAY = 86_400_000


def a_drift(episode: str, *, at_ms: int = 10 * DAY, kind: str = "data", model: str = "m") -> Drift:
    return Drift(
        episode=episode,
        model=model,
        version=1,
        kind=kind,  # type: ignore[arg-type]
        at_ms=at_ms,
        from_ms=at_ms - DAY,
        rows=100,
        score=0.4,
        threshold=0.2,
        severity=2.0,
        features=(),
        summary="it moved",
        report="",
        recorded_ms=4_000,
    )


def refused(loop_id: str, number: int = 2) -> StageNews:
    return StageNews(f"{loop_id}/REFUSED", "m", number, "run", loop_id, "REFUSED", "", [], "worse", 6_000)


async def test_a_command_says_since_when_the_world_is_another_also_through_its_messages(world: Any) -> None:
    drift = messages.drift(messages.drift_event(replace(a_drift("e"), changed_ms=7 * DAY)))
    await world.retraining.answer(drift)

    (command,) = world.told(Command)
    assert command.changed_ms == 7 * DAY
    assert messages.command(messages.retrain_command(command)) == command


async def test_an_episode_gives_one_command(world: Any) -> None:
    await world.retraining.answer(a_drift("e"))

    (command,) = world.told(Command)
    assert (command.loop_id, command.trigger, command.attempt) == ("e", "data", 1)
    assert command.as_of_ms == 10 * DAY
    loop = await world.store.find_loop("e")
    assert (loop.state, loop.command_id, loop.reason) == ("commanded", command.id, command.reason)


@pytest.mark.parametrize("seed", range(5))
async def test_repeated_reordered_and_replayed_events_give_one_command_an_episode(
    new_world: Make, seed: int
) -> None:
    world = new_world()
    events = [a_drift(f"e{at}", at_ms=(10 + 3 * at) * DAY) for at in range(3)] * 4
    random.Random(seed).shuffle(events)

    for event in events:
        await world.retraining.answer(event)
        if loop := next(iter(await world.store.loops("m", open_only=True)), None):
            await Ledger(world.store, world.clock).staged(refused(loop.id))

    episodes = [command.episode for command in world.told(Command)]
    assert len(episodes) == len(set(episodes)) >= 1
    assert len(await world.store.loops("m", open_only=False)) == 3


async def test_a_refusal_to_act_is_a_sentence_in_the_ledger(world: Any) -> None:
    await world.retraining.answer(a_drift("first"))

    await world.retraining.answer(a_drift("second", at_ms=11 * DAY))
    await world.retraining.answer(a_drift("third", kind="prediction"))

    busy, other = await world.store.find_loop("second"), await world.store.find_loop("third")
    assert (busy.state, busy.open) == ("declined", False)
    assert "in flight" in busy.reason
    assert "prediction drift does not call for a retrain" in other.reason
    assert len(world.told(Command)) == 1


async def test_an_unknown_model_is_refused(world: Any) -> None:
    with pytest.raises(KeyError):
        await world.retraining.answer(a_drift("e", model="nobody's"))


async def test_a_declined_episode_that_goes_on_gets_its_command_when_nothing_is_in_the_way(
    world: Any, flow: Make
) -> None:
    await world.ready()
    await world.live(flow(0, 300))
    async with world.store.begin("m") as unit:
        policy = unit.policy
    await world.live(flow(300, 300, shift=1.0))
    (drift,) = [it for it in world.drifts() if it.kind == "data"]
    await world.retraining.answer(a_drift("earlier", at_ms=drift.at_ms - DAY // 2))
    await Ledger(world.store, world.clock).staged(refused("earlier"))
    await world.retraining.answer(drift)
    assert (await world.store.find_loop(drift.episode)).state == "declined"
    assert policy.in_flight is None

    await world.live(flow(600, 6_000, shift=1.0))

    earlier, command = world.told(Command)
    assert (earlier.episode, command.episode, command.loop_id) == ("earlier", drift.episode, drift.episode)
    assert (
        command.as_of_ms - earlier.as_of_ms >= 2 * DAY
    )  # a cooldown of one day, doubled by the retrain that did not help
    assert (await world.store.find_loop(drift.episode)).state == "commanded"


async def test_a_second_attempt_is_a_loop_of_its_own(world: Any, flow: Make) -> None:
    await world.ready()
    await world.live(flow(0, 300), flow(300, 300, shift=1.0))
    (drift,) = [it for it in world.drifts() if it.kind == "data"]
    await world.retraining.answer(drift)
    await Ledger(world.store, world.clock).staged(refused(drift.episode))

    await world.live(flow(600, 6_000, shift=1.0))

    first, second = world.told(Command)
    assert (second.episode, second.attempt, second.loop_id) == (drift.episode, 2, second.id)
    assert (await world.store.find_loop(first.loop_id)).state == "refused"
    again = await world.store.find_loop(second.loop_id)
    assert (again.state, again.drift.episode) == ("commanded", drift.episode)


async def test_an_episode_whose_first_answer_is_still_to_come_is_not_decided_twice(
    world: Any, flow: Make
) -> None:
    await world.ready()

    await world.live(flow(0, 300), flow(300, 1_500, shift=1.0))

    assert world.told(Command) == []
    (drift,) = [it for it in world.drifts() if it.kind == "data"]
    await world.retraining.answer(drift)
    assert [it.as_of_ms for it in world.told(Command)] == [drift.at_ms]


async def test_a_dry_run_is_told_in_the_ledger_and_orders_nothing(world: Any, make_model: Make) -> None:
    spec = {"on": ["data"], "cooldown": "1d", "at_most": "3 per 10d"}
    world.specs.models["m"] = make_model(retrain={**spec, "dry_run": True})

    await world.retraining.answer(a_drift("e"))
    await world.retraining.answer(a_drift("soon", at_ms=10 * DAY + DAY // 2))

    assert world.told(Command) == []
    dry, soon = await world.store.find_loop("e"), await world.store.find_loop("soon")
    assert (dry.state, dry.open, dry.command_id) == ("dry_run", False, "")
    assert "a retrain would have been ordered: Data drift of severity 2.00" in dry.reason
    assert (soon.state, "The cooldown of m lasts" in soon.reason) == ("declined", True)

    world.specs.models["m"] = make_model(retrain=spec)
    await world.retraining.answer(a_drift("next", at_ms=10 * DAY + DAY // 2))

    (command,) = world.told(Command)
    assert (command.episode, command.attempt) == ("next", 1)


async def test_an_episode_that_had_its_dry_run_gets_a_command_once_it_is_meant(
    world: Any, flow: Make, make_model: Make
) -> None:
    spec = {"on": ["data"], "cooldown": "1d", "at_most": "3 per 10d"}
    world.specs.models["m"] = make_model(retrain={**spec, "dry_run": True})
    await world.ready()
    await world.live(flow(0, 300), flow(300, 300, shift=1.0))
    (drift,) = [it for it in world.drifts() if it.kind == "data"]
    await world.retraining.answer(drift)
    await world.live(flow(600, 3_000, shift=1.0))
    loop = await world.store.find_loop(drift.episode)
    assert (loop.state, world.told(Command)) == ("dry_run", [])

    world.specs.models["m"] = make_model(retrain=spec)
    await world.live(flow(3_600, 200, shift=1.0))

    (command,) = world.told(Command)
    assert (command.loop_id, command.attempt) == (drift.episode, 1)
    assert (await world.store.find_loop(drift.episode)).state == "commanded"


async def test_drift_that_has_become_severe_gets_its_command_within_the_cooldown(
    world: Any, flow: Make, make_model: Make
) -> None:
    world.specs.models["m"] = make_model(
        retrain={"on": ["data"], "cooldown": "90d", "at_most": "3 per 10d", "severe": 3}
    )
    await world.ready()
    await world.live(flow(0, 300), flow(300, 300, shift=1.0))
    (drift,) = [it for it in world.drifts() if it.kind == "data"]
    assert 1 < drift.severity < 3
    await world.retraining.answer(a_drift("earlier", at_ms=drift.at_ms - DAY // 2))
    await Ledger(world.store, world.clock).staged(
        StageNews("earlier/LIVE", "m", 2, "run", "earlier", "LIVE", "", [], "", 6_000)
    )
    await world.retraining.answer(drift)
    await world.live(flow(600, 300, shift=1.0))
    assert [it.episode for it in world.told(Command)] == ["earlier"]

    await world.live(flow(900, 300, shift=4.0))

    (_, command) = world.told(Command)
    assert (command.episode, "is severe" in command.reason) == (drift.episode, True)


async def test_each_change_of_what_stands_in_the_way_is_told_in_the_order_it_came(world: Any) -> None:
    await world.retraining.answer(a_drift("earlier", at_ms=10 * DAY - DAY // 2))
    await Ledger(world.store, world.clock).staged(refused("earlier"))
    await world.retraining.answer(a_drift("e"))
    async with world.store.begin("m") as unit:
        for hours, fault in ((1, ""), (2, "x is null"), (3, "x is null"), (4, ""), (60, ""), (61, "")):
            await world.retraining.look_again(unit, "e", 10 * DAY + hours * DAY // 24, fault)

    loop = await world.store.find_loop("e")
    assert [(it.cause, (it.at_ms - 10 * DAY) * 24 // DAY) for it in loop.decisions] == [
        ("cooldown", 0),
        ("quality", 2),
        ("cooldown", 4),
        ("called", 60),
    ]
    assert "x is null" in loop.decisions[1].sentence
    assert (loop.state, loop.reason) == ("commanded", loop.decisions[-1].sentence)
    told = await world.api.GetLoop(type("Request", (), {"id": "e"}), None)
    assert [it.cause for it in told.decisions] == ["cooldown", "quality", "cooldown", "called"]
    assert told.decisions[1].at.ToMilliseconds() == 10 * DAY + DAY // 12


async def test_why_an_episode_waits_for_another_attempt_is_told_and_its_command_keeps_its_reason(
    world: Any,
) -> None:
    await world.retraining.answer(a_drift("e"))
    await Ledger(world.store, world.clock).staged(refused("e"))
    before = await world.store.find_loop("e")
    async with world.store.begin("m") as unit:
        for at in range(30):
            await world.retraining.look_again(unit, "e", 10 * DAY + at, "" if at % 2 else "x is null")

    loop = await world.store.find_loop("e")
    assert (loop.state, loop.reason, loop.steps) == ("refused", before.reason, before.steps)
    assert [it.cause for it in loop.decisions] == ["quality", "cooldown"] * 10, "the newest are kept"
    assert loop.decisions[-1].at_ms == 10 * DAY + 29

    async with world.store.begin("m") as unit:
        await world.retraining.look_again(unit, "e", 13 * DAY, "")
    assert (await world.store.find_loop("e")).decisions[-1].cause == "called"
    again = await world.store.find_loop(world.told(Command)[-1].loop_id)
    assert (again.state, [it.cause for it in again.decisions]) == ("commanded", ["called"])
