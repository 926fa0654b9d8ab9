"""A live version is held to the accepted level, and one that is above it is told of and trained again."""

from collections.abc import Callable
from typing import Any

import numpy as np
from trimtab_core.watched import Drift, Reading
from trimtab_monitoring.usecases.entities import Alert, Arrivals, Command, Version
from trimtab_monitoring.usecases.ledger import Ledger
from trimtab_monitoring.usecases.loops import StageNews

Make = Callable[..., Any]


def accepting(world: Any, make_model: Make) -> Any:
    world.specs.models["m"] = make_model(monitoring={"window": 100, "accept": {"at_most": 1.0}})
    return world


def of_acceptance(world: Any) -> list[Drift]:
    return [it for it in world.drifts() if "above the accepted 1" in it.summary]


async def test_a_version_above_the_level_is_told_at_once_shown_trained_again_and_over_with_the_next(
    world: Any, flow: Make, make_model: Make
) -> None:
    await accepting(world, make_model).ready(1, 2)

    await world.live(flow(0, 300), flow(300, 70, error=3.0))

    (drift,) = of_acceptance(world)
    assert world.drifts() == [drift], "no window of it is full yet"
    assert (drift.kind, drift.version, drift.fault) == ("performance", 1, "")
    assert drift.severity > 1.5
    assert abs(drift.changed_ms - flow(300, 1).times[0]) < 10 * 60_000
    assert (await world.store.next_report()).from_ms == drift.from_ms
    told = [it for it in world.told(Reading) if it.name == "evidence_above_accepted"]
    assert [it.rows for it in told] == [100, 200, 300]
    assert told[-1] in (await world.store.health("m")).readings

    await world.retraining.answer(drift)
    loop = await world.store.find_loop(drift.episode)
    assert (loop.trigger, loop.state) == ("performance", "commanded")

    await world.live(flow(370, 20, version=2, generation=2))
    (over,) = [it for it in world.told(Alert) if it.resolved and drift.episode in it.occasion]
    assert "version 2 answers now" in over.sentence


async def test_an_episode_that_goes_on_is_answered_again_and_ends_when_the_level_is_kept(
    world: Any, flow: Make, make_model: Make
) -> None:
    await accepting(world, make_model).ready()
    await world.live(flow(0, 60, error=3.0))
    (drift,) = of_acceptance(world)
    await world.retraining.answer(drift)
    ended = StageNews("e/REFUSED", "m", 2, "run", drift.episode, "REFUSED", "", [], "worse", 6_000)
    await Ledger(world.store, world.clock).staged(ended)
    assert len(world.told(Command)) == 1

    await world.live(flow(60, 3_000, error=3.0))
    second = world.told(Command)[1]
    assert (second.episode, second.attempt) == (drift.episode, 2)

    await world.live(flow(3_060, 300))
    (over,) = [it for it in world.told(Alert) if it.resolved and drift.episode in it.occasion]
    assert "its newest labelled rows keep it" in over.sentence


async def test_the_level_is_held_alike_however_the_rows_came(
    new_world: Make, flow: Make, make_model: Make
) -> None:
    parts = [flow(0, 250), flow(250, 250, error=3.0)]
    plain, steps = (accepting(new_world(), make_model) for _ in range(2))
    await plain.ready()
    await plain.live(*parts)
    await steps.ready()
    for part in parts:
        await steps.store.take(Arrivals([part.predicted()], [part.labelled()]))
    for until in np.sort(np.random.default_rng(5).choice(499, 12, replace=False)):
        await steps.mark(parts[0].times[0] + int(until) * 60_000)
        await steps.close()
        steps.restart()
    await steps.mark(parts[-1].times[-1])
    await steps.close()

    assert len(of_acceptance(plain)) == 1
    assert steps.drifts() == plain.drifts()
    assert steps.decided(Reading) == plain.decided(Reading)
    assert (await steps.store.watch("m")).acceptance == (await plain.store.watch("m")).acceptance


async def test_a_level_that_is_no_longer_stated_is_no_longer_shown(
    world: Any, flow: Make, make_model: Make
) -> None:
    await accepting(world, make_model).ready()
    await world.live(flow(0, 100))
    world.specs.models["m"] = make_model()

    await world.live(flow(100, 10))

    shown = {it.name for it in (await world.store.health("m")).readings}
    assert "evidence_above_accepted" not in shown
    assert (await world.store.watch("m")).acceptance is None


async def test_a_version_that_has_no_reference_is_held_to_the_level_too(
    world: Any, flow: Make, make_model: Make
) -> None:
    accepting(world, make_model)
    await world.store.put_versions([Version("m", 1, None)])

    await world.live(flow(0, 250, error=3.0))

    assert world.drifts() == of_acceptance(world) != []
