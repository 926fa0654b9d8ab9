"""What is due without drift: the same commands at the same event times, however it comes."""

from collections.abc import Callable
from typing import Any

import pytest
from trimtab_monitoring.usecases.entities import Arrivals, Command, StoredFile, Version
from trimtab_monitoring.usecases.ledger import Ledger
from trimtab_monitoring.usecases.loops import StageNews

Make = Callable[..., Any]
MINUTE, HOUR = 60_000, 3_600_000


def due_world(new_world: Make, make_model: Make, **retrain: Any) -> Any:
    world = new_world()
    world.specs.models["m"] = make_model(retrain={"cooldown": "30m", "at_most": "9 per 10d", **retrain})
    return world


async def trained(world: Any, number: int, to_ms: int) -> None:
    file = StoredFile(f"/{number}", "", 0)
    await world.store.put_versions([Version("m", number, file, trained_to_ms=to_ms)])
    await world.ready(number)


async def ended(world: Any, command: Command, stage: Any = "LIVE") -> None:
    news = StageNews(f"{command.id}/{stage}", "m", 2, "run", command.loop_id, stage, "", [], "", 6_000)
    await Ledger(world.store, world.clock).staged(news)


def told(world: Any) -> list[tuple[str, int, str]]:
    return [(it.trigger, it.as_of_ms, it.id) for it in world.told(Command)]


@pytest.mark.parametrize("cuts", [(60, 90, 200), (60, 61, 119, 120, 121, 200)])
async def test_a_schedule_gives_a_command_as_of_its_instant_however_the_rows_come(
    new_world: Make, make_model: Make, flow: Make, cuts: tuple[int, ...]
) -> None:
    world = due_world(new_world, make_model, schedule="0 */2 * * *")
    await world.ready()
    whole = flow(0, 200)
    instant = -(-whole.times[60] // (2 * HOUR)) * 2 * HOUR
    await world.store.take(_arrivals(whole))

    for cut in cuts:
        await world.mark(whole.times[cut - 1])
        world.restart()
        await world.close()

    (command,) = world.told(Command)
    assert (command.trigger, command.as_of_ms, command.requested_by) == (
        "schedule",
        instant,
        "retrain policy",
    )
    loop = await world.store.find_loop(command.loop_id)
    assert (loop.state, loop.trigger, loop.command_id) == ("commanded", "schedule", command.id)
    again = due_world(new_world, make_model, schedule="0 */2 * * *")
    await again.ready()
    await again.live(flow(0, 60), flow(60, 140))
    assert told(again) == told(world)


async def test_a_schedule_that_is_set_makes_up_for_nothing_that_was_before_the_first_closing(
    new_world: Make, make_model: Make, flow: Make
) -> None:
    world = due_world(new_world, make_model, schedule="0 * * * *")
    await world.ready()

    await world.live(flow(0, 200))

    assert told(world) == []


async def test_an_instant_within_the_cooldown_or_a_loop_is_a_sentence_in_the_ledger(
    new_world: Make, make_model: Make, flow: Make
) -> None:
    world = due_world(new_world, make_model, schedule="0 * * * *", cooldown="150m")
    await world.ready()
    await world.live(flow(0, 10), flow(10, 60))
    (first,) = world.told(Command)
    await world.live(flow(70, 60))
    await ended(world, first)
    await world.live(flow(130, 60), flow(190, 60))

    assert [it.as_of_ms - first.as_of_ms for it in world.told(Command)] == [0, 3 * HOUR]
    declined = [it for it in await world.store.loops("m", open_only=False) if it.state == "declined"]
    assert ["in flight" in it.reason for it in declined] == [True, False]
    assert "cooldown of m lasts 0.5 hours more" in declined[1].reason


@pytest.mark.parametrize("cuts", [(300,), (49, 50, 51, 300), (100, 200, 300)])
async def test_so_many_newly_labelled_rows_give_a_command_as_of_the_last_of_them(
    new_world: Make, make_model: Make, flow: Make, cuts: tuple[int, ...]
) -> None:
    world = due_world(new_world, make_model, new_rows=50)
    whole = flow(0, 300)
    whole.labels[::2] = float("nan")
    await trained(world, 1, whole.times[20])
    await world.store.take(_arrivals(whole))

    for cut in cuts:
        await world.mark(whole.times[cut - 1])
        world.restart()
        await world.close()

    (command,) = world.told(Command)
    assert (command.trigger, command.as_of_ms) == ("new_rows", whole.times[119])
    assert "50 rows labelled since version 1 was trained" in command.reason
    declined = [it for it in await world.store.loops("m", open_only=False) if it.state == "declined"]
    assert [it.trigger for it in declined] == ["new_rows"]


async def test_a_version_that_is_live_anew_is_counted_from_where_its_own_training_ended(
    new_world: Make, make_model: Make, flow: Make
) -> None:
    world = due_world(new_world, make_model, new_rows=100)
    await trained(world, 1, flow(0, 1).times[0])
    await trained(world, 2, flow(70, 1).times[0])
    await world.live(flow(0, 90))

    await world.live(flow(90, 90, version=2, generation=2))

    assert [(it.trigger, it.as_of_ms) for it in world.told(Command)] == [("new_rows", flow(170, 1).times[0])]


async def test_a_version_of_unknown_training_is_not_counted(
    new_world: Make, make_model: Make, flow: Make
) -> None:
    world = due_world(new_world, make_model, new_rows=10)
    await world.ready()

    await world.live(flow(0, 100))

    assert told(world) == []


def _arrivals(part: Any) -> Any:
    return Arrivals([part.predicted()], [part.labelled()])
