"""A change of the concept is seen in fewer rows than a window, where the spec watches it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from trimtab_core.watched import Reading
from trimtab_monitoring.usecases.entities import Alert, Arrivals, Command

Make = Callable[..., Any]


def watching(world: Any, make_model: Make) -> Any:
    retrain = {"on": ["performance", "concept"], "cooldown": "1d", "at_most": "3 per 10d"}
    world.specs.models["m"] = make_model(retrain=retrain)
    return world


async def test_a_change_is_told_before_the_window_that_shows_it_is_full(
    world: Any, flow: Make, make_model: Make
) -> None:
    await watching(world, make_model).ready()

    await world.live(flow(0, 400), flow(400, 60, error=3.0))

    (drift,) = world.drifts()
    assert drift.kind == "concept"
    assert drift.at_ms < flow(400, 60).times[-1]
    assert drift.severity > 1
    assert "mae of version 1 went from" in drift.summary
    assert abs(drift.changed_ms - flow(400, 1).times[0]) < 20 * 60_000
    assert drift.from_ms == drift.changed_ms
    loop = await world.store.find_loop(drift.episode)
    assert (loop.trigger, loop.open) == ("concept", True)
    assert (await world.store.next_report()).from_ms == drift.from_ms


async def test_one_change_gives_one_event_and_a_clear_window_of_performance_ends_it(
    world: Any, flow: Make, make_model: Make
) -> None:
    await watching(world, make_model).ready()

    await world.live(flow(0, 380), flow(380, 420, error=3.0), flow(800, 500))

    assert [it.kind for it in world.drifts()].count("concept") == 1
    ended = [it.sentence for it in world.told(Alert) if it.resolved]
    assert any("concept drift of version 1 is over: its newest window is as usual" in it for it in ended)


async def test_another_version_starts_afresh(world: Any, flow: Make, make_model: Make) -> None:
    await watching(world, make_model).ready(1, 2)

    await world.live(
        flow(0, 60, error=3.0),
        flow(60, 50, version=2, generation=2),
        flow(110, 60, version=2, error=3.0, generation=2),
    )

    assert [(it.kind, it.version) for it in world.drifts()] == [("concept", 1), ("concept", 2)]


async def test_a_change_may_be_told_without_a_retrain(world: Any, flow: Make, make_model: Make) -> None:
    world.specs.models["m"] = make_model(
        monitoring={"window": 100, "concept": True}, retrain={"on": ["data"]}
    )
    await world.ready()

    await world.live(flow(0, 400), flow(400, 60, error=3.0))

    (drift,) = world.drifts()
    await world.retraining.answer(drift)
    (alert,) = world.told(Alert)
    assert (drift.kind, alert.kind, alert.sentence) == ("concept", "drift", drift.summary)
    assert world.told(Command) == []
    loop = await world.store.find_loop(drift.episode)
    assert "concept drift does not call for a retrain of m: data does." in loop.reason


async def test_a_change_is_not_looked_for_where_the_spec_does_not_ask(world: Any, flow: Make) -> None:
    await world.ready()

    await world.live(flow(0, 400), flow(400, 60, error=3.0))

    assert world.drifts() == []
    assert (await world.store.watch("m")).concept.rows == 0


async def test_the_change_found_does_not_depend_on_how_the_rows_came(
    new_world: Make, flow: Make, make_model: Make
) -> None:
    parts = [flow(0, 250), flow(250, 250, error=1.2)]
    plain = watching(new_world(), make_model)
    await plain.ready()
    await plain.live(*parts)
    steps = watching(new_world(), make_model)
    await steps.ready()
    for part in parts:
        await steps.store.take(Arrivals([part.predicted()], [part.labelled()]))
    for until in np.sort(np.random.default_rng(5).choice(499, 25, replace=False)):
        await steps.mark(parts[0].times[0] + int(until) * 60_000)
        await steps.close()
        steps.restart()
    await steps.mark(parts[-1].times[-1])
    await steps.close()

    assert [it.kind for it in plain.drifts()].count("concept") == 1
    assert steps.drifts() == plain.drifts()
    assert steps.decided(Reading) == plain.decided(Reading)
    assert await steps.store.watch("m") == await plain.store.watch("m")
