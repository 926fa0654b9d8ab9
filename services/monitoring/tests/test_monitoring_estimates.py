"""How well a model does is told before its labels come, or why not; and which labels would tell most."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from trimtab_core.watched import Reading, Watch
from trimtab_monitoring.usecases.entities import (
    Alert,
    Arrivals,
    LabelStream,
    StoredFile,
    Version,
    WantedLabel,
)

Make = Callable[..., Any]


@pytest.fixture
def world(new_world: Make, learning_desk: Any) -> Any:
    return new_world(desk=learning_desk)


def estimates(world: Any) -> list[Reading]:
    return [it for it in world.told(Reading) if it.name == "estimated_mae"]


async def predict(world: Any, part: Any) -> None:
    """Let predictions come whose labels may take an hour yet."""
    await world.store.take(Arrivals([part.predicted()]))
    await world.mark(part.times[-1], labels_ms=part.times[0])
    await world.close()


async def test_a_window_is_estimated_before_its_labels_come_and_never_again(world: Any, flow: Make) -> None:
    await world.ready()
    part = flow(0, 250)

    await predict(world, part)
    before = estimates(world)
    assert world.decided() == []
    await world.live(part)

    assert estimates(world) == before
    assert [(it.from_ms, it.to_ms, it.rows) for it in before] == [
        (part.times[0], part.times[99], 100), (part.times[100], part.times[199], 100),
    ]  # fmt: skip
    realised = [it for it in world.told(Reading) if it.name == "mae"]
    for estimate, real in zip(before, realised, strict=True):
        assert estimate.low < real.value < estimate.high
        assert estimate.low < estimate.value < estimate.high
    shown = (await world.store.health("m")).readings
    assert {"mae", "estimated_mae"} <= {it.name for it in shown}


async def test_a_limit_on_an_estimate_is_told_before_labels_come_and_an_unknown_one_changes_nothing(
    world: Any, flow: Make, make_model: Make
) -> None:
    rules = [{"metric": "estimated_mae", "above": 0.01}, {"metric": "labelled_share", "below": 0.6}]
    world.specs.models["m"] = make_model(alerts={"rules": rules})
    await world.ready()
    half = flow(0, 100)
    half.labels[::2] = np.nan

    await predict(world, half)
    (told,) = world.told(Alert)
    assert told.sentence.startswith("The estimated_mae of version 1 is ")
    await world.live(half, flow(100, 200, error=3.0), flow(300, 100, error=3.0))

    assert estimates(world)[-1].value is None
    assert [(it.sentence.split()[1], it.resolved) for it in world.told(Alert) if it.kind == "rule"] == [
        ("estimated_mae", False), ("labelled_share", False), ("labelled_share", True),
    ]  # fmt: skip


async def test_monitors_that_take_turns_or_begin_again_fill_the_same_windows(
    new_world: Make, learning_desk: Any, flow: Make
) -> None:
    part, plain, one = flow(0, 250), new_world(desk=learning_desk), new_world(desk=learning_desk)
    other = new_world(one.store, desk=learning_desk)
    for world in (plain, one):
        await world.ready()
        await world.store.take(Arrivals([part.predicted()]))
    for until, turn in ((30, one), (99, other), (130, one), (180, other), (249, one)):
        await turn.mark(part.times[until], labels_ms=part.times[0])
        await turn.close()
        if turn is other:
            other.restart()
    await predict(plain, part)

    assert estimates(one) == estimates(plain)
    assert (await one.store.watch("m")).ahead == (await plain.store.watch("m")).ahead


async def test_labels_that_belie_an_estimate_make_the_next_unknown_until_they_agree(
    world: Any, flow: Make
) -> None:
    await world.ready()

    await world.live(flow(0, 100, error=1.0))
    await predict(world, flow(100, 100))
    await world.live(flow(100, 100), flow(200, 100))

    first, doubted, believed = estimates(world)
    assert first.value is not None
    assert (doubted.value, doubted.low, doubted.threshold) == (None, None, None)
    assert "Unknown of version 1: the newest 100 rows with labels have a mae of" in doubted.unknown
    assert believed.value is not None


async def test_while_a_drift_that_labels_have_shown_stands_estimates_are_unknown(
    world: Any, flow: Make
) -> None:
    await world.ready()

    await world.live(flow(0, 300, error=3.0), flow(300, 100))

    assert any(it.kind == "performance" for it in world.drifts())
    assert "performance drift" in estimates(world)[-1].unknown
    assert estimates(world)[-1].value is None


async def test_a_version_on_trial_is_estimated_by_what_it_answered_and_nothing_waits_for_its_calibration(
    world: Any, flow: Make
) -> None:
    await world.ready()
    part = flow(0, 200, challenger_version=2, rollout_id="r")
    part.challenger = 2 * part.x + 1

    await predict(world, part)
    assert [(it.version, it.arm) for it in estimates(world)] == [(1, ""), (1, "")]
    world.memory.told.clear()
    await world.ready(1, 2)
    later = flow(200, 100, challenger_version=2, rollout_id="r")
    later.challenger = 2 * later.x
    await predict(world, later)

    mine, theirs = estimates(world)
    assert (mine.version, mine.arm, theirs.version, theirs.arm) == (1, "", 2, "challenger")
    assert theirs.low < theirs.value < theirs.high
    assert (theirs.from_ms, theirs.to_ms, theirs.rows) == (mine.from_ms, mine.to_ms, 100)
    assert theirs in (await world.store.health("m")).readings


async def test_a_version_without_a_reference_is_unknown(world: Any, flow: Make) -> None:
    await world.store.put_versions([Version("m", 1, None)])

    await predict(world, flow(0, 100))

    (told,) = estimates(world)
    assert told.value is None
    assert "no reference of held-out rows" in told.unknown


async def test_a_watch_from_before_estimates_begins_where_it_is_closed(world: Any, flow: Make) -> None:
    await world.ready()
    old, new = flow(0, 100), flow(100, 100)
    async with world.store.begin("m") as unit:
        await unit.save_watch(Watch(closed_ms=old.times[-1]))
    await world.store.take(Arrivals([old.predicted()]))

    await predict(world, new)

    assert [it.from_ms for it in estimates(world)] == [new.times[0]]


async def test_windows_wait_for_their_calibration_and_are_then_estimated(world: Any, flow: Make) -> None:
    await world.store.put_versions([Version("m", 1, StoredFile("/1", "", 0))])
    await predict(world, flow(0, 120))
    assert estimates(world) == []

    await world.ready()
    await world.close()

    assert len(estimates(world)) == 1


async def test_labels_are_asked_for_where_the_spec_says_how_many(
    world: Any, flow: Make, make_model: Make
) -> None:
    world.specs.models["m"] = make_model(
        monitoring={"window": 100, "false_alarms": "1 per 90d", "labels_wanted": 10}
    )
    await world.ready()
    part = flow(0, 200)
    await predict(world, part)

    asked = world.told(WantedLabel)
    assert len(asked) == 20
    assert {it.from_ms for it in asked} == {part.times[0], part.times[100]}
    for each in asked:
        at = int(each.id[1:])
        assert (each.key, each.at_ms, each.prediction) == (f"k{at}", part.times[at], 2 * part.x[at])
        assert 0.05 <= each.chance <= 1
        assert each.expected is not None
        assert each.expected > 0

    labels = part.labelled([int(each.id[1:]) for each in asked[:4]])
    await world.store.take(Arrivals(labelled=[labels]))
    left = await world.store.wanted("m", _labels(world), 100)
    assert [it.id for it in left] == sorted((it.id for it in asked[4:]), reverse=True)
    assert await world.store.wanted("m", _labels(world), 3) == left[:3]


async def test_labels_are_asked_for_at_random_where_nothing_is_expected(
    world: Any, flow: Make, make_model: Make
) -> None:
    world.specs.models["m"] = make_model(
        monitoring={"window": 100, "false_alarms": "1 per 90d", "labels_wanted": 10}
    )
    await world.store.put_versions([Version("m", 1, None)])

    await predict(world, flow(0, 100))

    asked = world.told(WantedLabel)
    assert [it.expected for it in asked] == [None] * 10
    assert [it.chance for it in asked] == pytest.approx([0.1] * 10)


def _labels(world: Any) -> LabelStream:
    return LabelStream.of(world.specs.model("m"))


def uneven(part: Any, *, times: float = 1.0) -> Any:
    """Let one row in nine be off by ten times as much as the others."""
    rng = np.random.default_rng(part.start)
    scale = np.where(np.abs(part.x) > 1.6, 2.0, 0.2) * times
    part.labels = 2 * part.x + rng.normal(size=part.x.size) * scale
    return part


def truth(part: Any) -> float:
    return float(np.abs(part.labels - 2 * part.x).mean())


async def test_labels_of_wanted_rows_alone_tell_how_all_do_and_when_that_changes(
    new_world: Make, learning_desk: Any, flow: Make, make_model: Make
) -> None:
    held = uneven(flow(900_000, 3_000))
    columns = {
        "request.x": held.x,
        "request.z": np.random.default_rng(9).normal(size=3_000),
        "prediction": 2 * held.x,
    }
    desk = type(learning_desk)(learns=True)
    desk.files["/1"] = columns | {
        "loss": np.abs(held.labels - 2 * held.x), "event_time_ms": np.array(held.times, float)
    }  # fmt: skip
    world = new_world(desk=desk)
    world.specs.models["m"] = make_model(
        monitoring={
            "window": 100, "persistence": [1, 1], "labels_wanted": 20, "labelled": "wanted",
            "accept": {"at_most": 0.5}, "false_alarms": "1 per 90d",
        },
        rollout={"cap": 10}, retrain={"on": ["concept"]},
    )  # fmt: skip
    await world.ready()
    quiet, worse = uneven(flow(0, 1_050)), uneven(flow(1_050, 500), times=2.5)

    await world.live(quiet)

    asked = {it.id for it in world.told(WantedLabel)}
    assert len(asked) == 10 * 20
    hard = np.array([f"p{at:06}" in asked for at in range(1_050)])
    assert truth(quiet) < 0.4 < 0.55 < np.abs(quiet.labels - 2 * quiet.x)[hard].mean()
    realised = [it for it in world.told(Reading) if it.name == "mae" and not it.slice]
    assert [it.rows for it in realised] == [100] * 2
    assert np.mean([it.value for it in realised]) == pytest.approx(truth(quiet), rel=0.15)
    assert world.drifts() == []
    shares = [it for it in world.told(Reading) if it.name == "labelled_share" and not it.slice]
    assert [(it.value, it.rows) for it in shares] == [(1.0, 20)] * 10
    watch = await world.store.watch("m")
    assert watch.closed_ms == quiet.times[1_000] - 1, (
        "of the last fifty rows it is not known which are wanted"
    )
    assert (watch.labels, watch.predictions) == (200, 1_000)

    await world.live(worse)

    assert {"performance", "concept"} <= {it.kind for it in world.drifts()}
    assert any("above the accepted 0.5" in it.summary for it in world.drifts())
    newest = [it for it in world.told(Reading) if it.name == "mae" and not it.slice][-1]
    assert newest.value == pytest.approx(truth(worse), rel=0.3)
