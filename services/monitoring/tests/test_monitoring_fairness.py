"""Groups of a model's gates and of `monitoring.fairness`, watched on what it answers: they are features, or fields beside them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from trimtab_core.watched import Reading
from trimtab_monitoring.usecases.entities import Alert, Arrivals, Labelled, group_stream, streams_of

Make = Callable[..., Any]
GATE = {"fairness": "g", "of": "mae", "max_difference": 0.5, "min_rows": 60}


async def _asked(world: Any, part: Any, *, worse: float, known: bool = True) -> None:
    """Let traffic come of which every other row is of group b, whose errors are larger by `worse`."""
    part.labels[1::2] += worse
    stream = group_stream(world.specs.model("m"), "g")
    groups = ["a", "b"] * (len(part.x) // 2)
    keys = [f"k{part.start + at}" for at in range(len(part.x))]
    said = Labelled(stream.name, keys, part.times, [np.nan] * len(keys), groups)
    await world.store.take(Arrivals([part.predicted()], [part.labelled(), *([said] if known else [])]))
    await world.mark(part.times[-1])
    await world.close()


async def test_groups_that_are_no_features_are_read_from_the_events_and_a_broken_limit_is_told(
    world: Any, flow: Make, make_model: Make
) -> None:
    world.specs.models["m"] = make_model(gates=[GATE])
    await world.ready(1, 2)

    await _asked(world, flow(0, 300), worse=0.0)
    assert [it for it in world.told(Alert) if it.kind == "fairness"] == []
    await _asked(world, flow(300, 600), worse=3.0)

    (alert,) = [it for it in world.told(Alert) if it.kind == "fairness"]
    assert alert.sentence.startswith("The mae of version 1 is further apart between g than its limit allows")
    readings = {
        it.feature: it
        for it in (await world.store.health("m")).readings
        if it.feature.startswith("request.g")
    }
    assert readings["request.g=b"].value > readings["request.g=a"].value + 2
    assert readings["request.g=b"].low < readings["request.g=b"].value < readings["request.g=b"].high
    assert (readings["request.g"].name, readings["request.g"].threshold) == ("mae_difference", 0.5)

    world.restart()
    await _asked(world, flow(900, 300), worse=0.0)
    _, over = [it for it in world.told(Alert) if it.kind == "fairness"]
    assert (over.resolved, over.occasion) == (True, alert.occasion)
    assert over.sentence.startswith("Version 1 keeps the limit again: The mae is")


async def test_a_group_that_is_a_feature_is_read_from_the_prediction(
    world: Any, flow: Make, make_model: Make
) -> None:
    model = make_model(gates=[GATE | {"fairness": "z"}])
    world.specs.models["m"] = model
    await world.ready()
    assert [stream.name for stream in streams_of(model)] == ["truths/id/y"]

    part = flow(0, 200)
    predicted = part.predicted()
    kinds = [
        np.array([np.frombuffer(each)[0], at % 2]).tobytes() for at, each in enumerate(predicted.features)
    ]
    object.__setattr__(predicted, "features", kinds)
    await world.store.take(Arrivals([predicted], [part.labelled()]))
    await world.mark(part.times[-1])
    await world.close()

    told = {it.feature: it.rows for it in world.told(Reading) if it.name == "mae" and it.feature}
    assert told == {"request.z=0": 50, "request.z=1": 50}


async def test_labels_that_come_late_revise_the_figures_of_groups_and_their_difference_and_no_decision(
    world: Any, flow: Make, make_model: Make
) -> None:
    world.specs.models["m"] = make_model(gates=[GATE, GATE | {"max_difference": 0.7}])  # of the same figures
    await world.ready(1, 2)
    part = flow(0, 200)
    late = part.labels.copy()
    late[1::2] += 5.0
    part.labels[20:100:4] = part.labels[21:100:4] = np.nan
    await _asked(world, part, worse=0.0)
    told = {it.id: it for it in world.told(Reading) if it.feature.startswith("request.g")}
    watch = await world.store.watch("m")

    part.labels = late
    await world.store.take(Arrivals(labelled=[part.labelled(after_ms=3 * 3_600_000)]))
    await world.live(flow(20_000, 1))

    revised = {it.feature: it for it in world.told(Reading) if it.revision and it.id in told}
    assert {name: it.rows for name, it in revised.items()} == {
        "request.g=a": 70, "request.g=b": 70, "request.g": 140,
    }  # fmt: skip
    of_b = revised["request.g=b"]
    assert of_b.low < of_b.value < of_b.high and of_b.value > told[of_b.id].value + 1
    assert revised["request.g"].value > told[revised["request.g"].id].value + 1
    assert {(it.revision, it.threshold) for it in revised.values()} == {(1, None), (1, 0.5)}
    assert (await world.store.watch("m")).fairness == watch.fairness
    shown = (await world.store.health("m")).readings
    assert {it.id for it in revised.values()} <= {it.id for it in shown if it.revision}


async def test_rows_of_no_known_group_say_nothing_and_hold_nothing_up(
    world: Any, flow: Make, make_model: Make
) -> None:
    world.specs.models["m"] = make_model(gates=[GATE])
    await world.ready()

    await _asked(world, flow(0, 300), worse=5.0, known=False)

    assert [it for it in world.told(Reading) if it.feature.startswith("request.g")] == []
    assert (await world.store.watch("m")).closed_ms > 0


async def test_an_alert_of_a_gate_that_is_no_more_is_over(world: Any, flow: Make, make_model: Make) -> None:
    world.specs.models["m"] = make_model(gates=[GATE])
    await world.ready()
    await _asked(world, flow(0, 600), worse=3.0)

    world.specs.models["m"] = make_model()
    await _asked(world, flow(600, 100), worse=3.0)

    raised, over = [it for it in world.told(Alert) if it.kind == "fairness"]
    assert (raised.occasion, over.resolved) == (over.occasion, True)
    assert (await world.store.watch("m")).fairness == {}


async def test_groups_that_no_gate_names_are_watched_too_and_alert_where_they_have_a_limit(
    world: Any, flow: Make, make_model: Make
) -> None:
    free = {"fairness": "g", "of": "mae"}
    world.specs.models["m"] = make_model(monitoring={"fairness": [free, free | {"of": "mean_error"}]})
    await world.ready(1, 2)
    await _asked(world, flow(0, 600), worse=3.0)

    told = {(it.name, it.feature): it for it in world.told(Reading) if it.feature.startswith("request.g")}
    assert set(told) == {
        *(("mae", f"request.g={name}") for name in "ab"), ("mae_difference", "request.g"),
        *(("mean_error", f"request.g={name}") for name in "ab"), ("mean_error_difference", "request.g"),
    }  # fmt: skip
    apart = told["mae_difference", "request.g"]
    assert apart.low is not None and apart.low < apart.value < apart.high
    assert (apart.value > 2, apart.threshold) == (True, None)
    assert [it for it in world.told(Alert) if it.kind == "fairness"] == []

    limited = free | {"max_difference": 0.5, "min_rows": 60}
    world.specs.models["m"] = make_model(monitoring={"fairness": [free, limited]})
    await _asked(world, flow(900, 600), worse=3.0)

    newest = [it for it in world.told(Reading) if it.name == "mae_difference"][-1]
    assert newest.threshold == 0.5
    ids = [it.id for it in world.told(Reading)]
    assert len(ids) == len(set(ids)), "the same figures are told once"
    (alert,) = [it for it in world.told(Alert) if it.kind == "fairness"]
    assert "further apart between g than its limit allows" in alert.sentence
