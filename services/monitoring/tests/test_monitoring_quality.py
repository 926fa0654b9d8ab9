"""Bad data is not drift: it is told with its field and its origin, and nothing is trained while it stands."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from trimtab_core.specs import to_document
from trimtab_core.watched import Reading, Standing
from trimtab_monitoring import messages
from trimtab_monitoring.usecases.entities import Alert, Arrivals, Command, Version
from trimtab_monitoring.usecases.skew import Skewed, Skews

Make = Callable[..., Any]


async def _asked(world: Any, part: Any, *, missing: int = 0) -> None:
    """Let traffic come in which every `missing`-th row lacks x; the model answers 0 to those."""
    predicted = part.predicted()
    if missing:
        features, champion = list(predicted.features), list(predicted.champion)
        for at in range(0, len(features), missing):
            features[at] = np.array([np.nan, np.frombuffer(features[at])[1]]).tobytes()
            champion[at] = 0.0
        predicted = replace(predicted, features=features, champion=champion)
    await world.store.take(Arrivals([predicted], [part.labelled()]))
    await world.mark(part.times[-1])
    await world.close()
    for drift in world.drifts():
        await world.retraining.answer(drift)


def _quality(world: Any) -> list[Alert]:
    return [it for it in world.told(Alert) if it.kind == "quality" and it.severity == "warning"]


async def test_a_field_that_goes_missing_is_an_alert_and_orders_no_retrain(world: Any, flow: Make) -> None:
    await world.ready()

    await _asked(world, flow(0, 400))
    await _asked(world, flow(400, 600), missing=3)

    (alert,) = _quality(world)
    assert "request.x is missing in 34.0% of 100 predictions" in alert.sentence
    assert "field 'x' of source 'asks' (which names no owner)" in alert.sentence
    assert {it.kind for it in world.drifts()} >= {"data", "performance"}, "it looks like drift"
    assert world.told(Command) == []
    assert messages.health("m", 1, await world.store.health("m")).faults[0] == alert.sentence
    for drift in world.drifts():
        loop = await world.store.find_loop(drift.episode)
        if drift.kind != "prediction":
            assert loop.state == "declined"
            assert "The data of m is faulty" in loop.reason and "request.x is missing" in loop.reason


async def test_a_shift_within_what_is_possible_is_drift_and_orders_one(world: Any, flow: Make) -> None:
    await world.ready()

    await _asked(world, flow(0, 400))
    await _asked(world, flow(400, 600, shift=1.5))

    assert _quality(world) == []
    assert len(world.told(Command)) == 1


async def test_an_episode_that_outlasts_the_fault_is_looked_at_again(world: Any, flow: Make) -> None:
    await world.ready()

    await _asked(world, flow(0, 300))
    await _asked(world, flow(300, 400, shift=1.5), missing=3)
    assert world.told(Command) == []
    await _asked(world, flow(700, 400, shift=1.5))

    raised, over = _quality(world)
    assert (raised.resolved, over.resolved, raised.occasion) == (False, True, over.occasion)
    assert over.sentence == "request.x is missing no more often than is usual."
    (command,) = world.told(Command)
    assert command.as_of_ms > over.at_ms or command.trigger == "data"


async def test_what_was_due_while_data_was_bad_is_asked_again_once_it_is_well(
    world: Any, flow: Make, make_model: Make
) -> None:
    world.specs.models["m"] = make_model(retrain={"on": [], "schedule": "0 3 * * *", "cooldown": "1h"})
    await world.ready()
    start = flow(0, 1).times[0]

    await _asked(world, flow(0, 100), missing=3)
    await _asked(world, flow(100, 1_000), missing=3)
    assert world.told(Command) == []
    await _asked(world, flow(1_100, 250))

    (command,) = world.told(Command)
    assert command.trigger == "schedule"
    assert command.as_of_ms > start + 1_100 * 60_000
    assert (await world.store.find_loop(command.loop_id)).state == "commanded"


@pytest.mark.parametrize("ends", ["it holds", "nobody expects it"])
async def test_a_source_whose_expectation_does_not_hold_stands_in_the_way(
    world: Any, flow: Make, make_source: Make, ends: str
) -> None:
    await world.ready()
    truths = make_source("truths")
    expected = to_document(truths)
    expected["spec"]["fields"]["y"]["expect"] = {"mean": "< 3"}
    world.specs.sources["truths"] = type(truths).model_validate(expected)
    place = "events.truths/0/y/mean"
    said = Alert("a", "truths", "warning", "expectation", "mean of y is not < 3.", 1, place)
    await world.memory.alerts.remember(said, [], 0)

    await _asked(world, flow(0, 400))
    await _asked(world, flow(400, 300, shift=1.5))
    assert world.told(Command) == []
    (drift,) = [it for it in world.drifts() if it.kind == "data"]
    assert "truths: mean of y is not < 3." in (await world.store.find_loop(drift.episode)).reason

    if ends == "it holds":
        await world.memory.alerts.remember(replace(said, id="b", at_ms=2, resolved=True), [], 0)
    else:
        world.specs.sources["truths"] = truths
    await _asked(world, flow(700, 200, shift=1.5))
    assert len(world.told(Command)) == 1


async def test_faults_survive_a_restart_and_end_with_their_version(world: Any, flow: Make) -> None:
    await world.ready(1, 2)

    await _asked(world, flow(0, 250), missing=3)
    world.restart()
    await _asked(world, flow(250, 150), missing=3)
    assert [it.resolved for it in _quality(world)] == [False]
    await _asked(world, flow(400, 200, version=2, generation=3))

    assert [it.resolved for it in _quality(world)] == [False, True]
    assert "version 2 answers now" in _quality(world)[-1].sentence


async def test_faults_end_with_their_version_though_the_next_has_nothing_to_be_held_against(
    world: Any, flow: Make
) -> None:
    await world.ready()
    await _asked(world, flow(0, 400), missing=3)
    assert [it.resolved for it in _quality(world)] == [False]
    await world.store.put_versions([Version("m", 2, reference=None)])
    world.fleet.standings["m"] = Standing("m", 3, 2)

    await _asked(world, flow(400, 200, version=2, generation=3))

    assert [it.resolved for it in _quality(world)] == [False, True]
    assert (await world.store.watch("m")).faults == {}


async def test_skew_of_the_newest_window_is_told_and_stands_in_the_way_until_it_is_gone(
    world: Any, flow: Make
) -> None:
    class Archive:
        found: list[Skewed] | None = None
        asked: list[tuple[int, int]] = []

        async def audit(self, model: str, *, since_ms: int, until_ms: int) -> list[Skewed] | None:
            self.asked.append((since_ms, until_ms))
            return self.found

    archive = Archive()
    skews = Skews(world.store, world.specs, archive, world.clock, every_s=1)
    assert not await skews.look("m"), "no window has been judged"
    await world.ready()
    part = flow(0, 250)
    await _asked(world, part)

    assert not await skews.look("m"), "the archive has not come so far"
    archive.found = [Skewed("request.x", 100, 0, 5, 1), Skewed("request.z", 100, 1, 0, 0)]
    assert await skews.look("m")
    assert not await skews.look("m"), "it was audited"
    assert archive.asked == [(part.times[100], part.times[199] + 1)] * 2

    (alert,) = [it for it in world.told(Alert) if it.kind == "skew"]
    assert "another request.x than the archive says in 6.0% of 100 predictions" in alert.sentence
    assert alert.sentence.endswith("It is field 'x' of source 'asks' (which names no owner).")
    assert [it.value for it in world.told(Reading) if it.name == "skew_share"] == [0.06, 0.01]
    await world.memory.alerts.remember(alert, [], 0)
    await _asked(world, flow(250, 250, shift=1.5))
    assert world.told(Command) == []

    archive.found = [Skewed("request.x", 100, 0, 0, 0)]
    assert await skews.look("m")
    over = [it for it in world.told(Alert) if it.kind == "skew"][-1]
    assert (over.resolved, over.occasion) == (True, alert.occasion)
    await world.memory.alerts.remember(over, [], 0)
    await _asked(world, flow(500, 100, shift=1.5))
    assert len(world.told(Command)) == 1
