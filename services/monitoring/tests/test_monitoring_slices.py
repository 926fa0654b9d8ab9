"""Windows by time, slices, arms and late labels, from what came to what is told."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from trimtab_core.watched import Drift, Reading
from trimtab_monitoring import messages
from trimtab_monitoring.news import outgoing
from trimtab_monitoring.testing import MemoryHistory
from trimtab_monitoring.usecases.entities import Alert, Arrivals, Closed, LabelStream
from trimtab_monitoring.usecases.retention import Retention

HOUR = 3_600_000
DAY = 24 * HOUR
Make = Callable[..., Any]


def told(world: Any, name: str, **which: Any) -> list[Reading]:
    return [
        it
        for it in world.told(Reading)
        if it.name == name and all(getattr(it, key) == value for key, value in which.items())
    ]


def decided(world: Any) -> list[Any]:
    return [it for it in world.memory.told if isinstance(it, Drift | Alert)]


async def test_windows_by_time_are_told_by_their_bounds_when_they_are_closed(
    world: Any, flow: Make, make_model: Make
) -> None:
    world.specs.models["m"] = make_model(monitoring={"window": "2h", "false_alarms": "1 per 90d"})
    await _calibrate(world, 120, 50)

    await world.live(flow(0, 200), flow(200, 41))

    first, *_ = readings = told(world, "mae", arm="", slice="")
    assert [(it.from_ms - first.from_ms, it.to_ms - first.from_ms, it.rows) for it in readings] == [
        (0, 2 * HOUR, 120),
        (2 * HOUR, 4 * HOUR, 120),
    ]
    assert all(it.threshold is not None for it in readings)


async def test_windows_by_time_decide_the_same_however_the_rows_came(
    new_world: Make, flow: Make, make_model: Make
) -> None:
    parts = [flow(0, 350), flow(350, 450, shift=0.9, error=2.5)]
    outcomes = []
    for step in (800, 49):
        world = new_world()
        world.specs.models["m"] = make_model(
            monitoring={"window": "2h", "slices": ["x"]}, retrain={"on": ["data", "performance", "concept"]}
        )
        await _calibrate(world, 120, 50)
        for part in parts:
            await world.store.take(Arrivals([part.predicted()], [part.labelled()]))
        for until in range(step, 801, step):
            await world.mark(parts[0].times[0] + until * 60_000)
            await world.close()
            if until % 2:
                world.restart()
        await world.mark(parts[-1].times[-1])
        await world.close()
        told = [it for it in world.memory.told if not isinstance(it, Closed)]
        outcomes.append([it for it in told if not (isinstance(it, Reading) and "estimated" in it.name)])

    assert outcomes[1] == outcomes[0]
    assert {it.kind for it in outcomes[0] if isinstance(it, Drift)} >= {"data", "performance", "concept"}


async def test_slices_and_arms_are_told_and_an_episode_names_where_the_loss_rose(
    world: Any, flow: Make, make_model: Make
) -> None:
    world.specs.models["m"] = make_model(
        monitoring={"window": 100, "slices": ["x"], "false_alarms": "1 per 90d"}
    )
    reference = dict(world.desk.files["/1"])
    world.desk = type(world.desk)()
    reference["request.x"] = np.round(np.clip(reference["request.x"], -1, 1))
    world.desk.files["/1"] = reference
    await world.ready()
    quiet, loud = flow(0, 100), flow(100, 400, challenger_version=2, rollout_id="r", generation=2)
    for part in (quiet, loud):
        part.x = np.round(np.clip(part.x, -1, 1))
        part.labels = 2 * part.x + 0.5
    loud.labels[loud.x == 1] += 4
    loud.challenger = loud.labels

    await world.live(quiet, loud)

    first = told(world, "mae", feature="request.x", arm="", from_ms=quiet.times[0])
    assert {it.slice for it in first} == {"-1", "0", "1"}
    assert sum(it.rows for it in first) == 100
    arms = {
        (it.arm, it.version, it.value)
        for it in told(world, "mae", slice="", from_ms=loud.times[100])
        if it.arm
    }
    assert {(arm, version) for arm, version, _ in arms} == {("champion", 1), ("challenger", 2)}
    assert ("challenger", 2, 0.0) in arms
    (drift,) = [it for it in world.drifts() if it.kind == "performance"]
    assert (drift.slices[0].feature, drift.slices[0].slice) == ("request.x", "1")
    assert "It rose most in request.x 1 (" in drift.summary
    assert messages.drift(messages.drift_event(drift)) == drift
    held = (await world.store.health("m")).readings
    assert {it.arm for it in held} == {"", "champion", "challenger"}
    assert not any(it.slice for it in held)


async def test_drift_is_told_of_slices_and_of_a_version_on_trial_once_that_is_calibrated(
    world: Any, flow: Make, make_model: Make
) -> None:
    world.specs.models["m"] = make_model(
        monitoring={"window": 400, "slices": ["x"], "false_alarms": "1 per 90d"}
    )
    older = world.desk.files["/1"] | {
        "request.x": np.round(np.clip(world.desk.files["/1"]["request.x"], -1, 1))
    }
    world.desk = type(world.desk)()
    world.desk.files |= {"/1": older, "/2": older | {"request.x": np.clip(older["request.x"] + 1, -1, 1)}}
    await world.ready()
    parts = [
        flow(start, 400, shift=1.0, challenger_version=2, rollout_id="r", generation=2) for start in (0, 400)
    ]
    for part in parts:
        part.x = np.round(np.clip(part.x, -1, 1))
        part.challenger = 2 * part.x

    await world.live(parts[0])
    early = [it for it in world.told(Reading) if it.subject == "drift"]
    await world.ready(2)
    await world.live(parts[1])
    late = [it for it in world.told(Reading) if it.subject == "drift" and it not in early]

    assert not any(it.arm for it in early), "nobody waits for it"
    for found in (early, late):
        by_slice = {(it.name, it.feature, it.slice_of, it.slice) for it in found if it.slice}
        assert by_slice == {
            (name, feature, "request.x", part)
            for name, feature in (("drift", "request.z"), ("prediction_drift", ""))
            for part in ("0", "1")
        }
        assert all(it.rows >= 50 and it.threshold is None for it in found if it.slice or it.arm)
    assert len({it.id for it in [*early, *late]}) == len(early) + len(late)
    far = {(it.arm, it.version): it.value for it in late if it.arm and it.feature == "request.x"}
    assert far.keys() == {("champion", 1), ("challenger", 2)}
    assert far["champion", 1] > 0.4 > far["challenger", 2]
    held = [it for it in (await world.store.health("m")).readings if it.subject == "drift"]
    assert {it.arm for it in held} == {"", "champion", "challenger"}
    assert not any(it.slice for it in held)

    await world.live(flow(400 * 2, 400, version=2, generation=3))
    assert {it.version for it in world.told(Reading) if it.from_ms > late[0].to_ms} == {2}


async def test_labels_that_come_late_revise_what_was_published_and_no_decision(
    world: Any, flow: Make
) -> None:
    await world.ready()
    part = flow(0, 300)
    whole = part.labels.copy()
    part.labels[:100:2] = np.nan
    await world.live(part)
    before, watch = decided(world), await world.store.watch("m")
    (published,) = told(world, "labelled_share", value=0.5)

    part.labels = whole + 50  # so wrong that a window of them would be drift
    await world.store.take(Arrivals(labelled=[part.labelled(range(0, 60, 2), after_ms=3 * HOUR)]))
    await world.live(flow(20_000, 1))

    revised = [it for it in world.told(Reading) if it.revision]
    assert {(it.name, it.revision, it.rows) for it in revised} == {
        ("labelled_share", 1, 100),
        *((name, 1, 130) for name in ("mae", "rmse", "mean_error", "r2")),
    }
    assert next(it for it in revised if it.name == "labelled_share").value == 0.8
    assert {it.id for it in revised} <= {it.id for it in world.told(Reading) if not it.revision}
    assert revised[0].id == published.id
    assert decided(world) == before
    assert (await world.store.watch("m")).episodes == watch.episodes


async def test_a_correction_takes_the_place_of_what_is_shown_of_the_newest_window(
    world: Any, flow: Make
) -> None:
    await world.ready()
    part = flow(0, 100)
    whole = part.labels.copy()
    part.labels[::2] = np.nan
    await world.live(part)
    part.labels = whole
    await world.store.take(Arrivals(labelled=[part.labelled()]))

    await world.live(flow(20_000, 1))

    (share,) = [it for it in (await world.store.health("m")).readings if it.name == "labelled_share"]
    assert (share.value, share.revision) == (1.0, 1)


@pytest.mark.parametrize("monitoring", [{}, {"slices": ["x"]}])
async def test_labels_that_come_late_are_missed_no_more_and_none_is_counted_twice(
    world: Any, flow: Make, make_model: Make, monitoring: dict[str, Any]
) -> None:
    world.specs.models["m"] = make_model(monitoring={"window": 100, "revise": "4d"} | monitoring)
    await world.ready()
    part = flow(0, 240)
    whole = part.labels.copy()
    part.labels[:120:2] = np.nan
    await world.live(part)
    seen = [await counts(world)]
    part.labels = whole

    for days, late in ((1, 10), (2, 30), (5, 60), (6, 60)):
        labels = part.labelled(range(0, 2 * late, 2), after_ms=2 * HOUR)
        await world.store.take(Arrivals(labelled=[labels]))
        await world.live(flow(days * 1_440, 1))
        seen.append(await counts(world))

    assert seen == [(240, 60), (241, 50), (242, 30), (243, 0), (244, 0)]


async def counts(world: Any) -> tuple[int, int]:
    found = await world.api.GetModelHealth(type("Request", (), {"model": "m"}), None)
    return found.predictions, found.unlabelled


async def test_a_window_is_corrected_for_the_stated_time_and_its_rows_are_kept_for_that(
    world: Any, flow: Make, make_model: Make
) -> None:
    world.specs.models["m"] = make_model(monitoring={"window": 100, "revise": "4d"})
    await world.ready()
    history = MemoryHistory(world.memory)
    retention = Retention(world.store, history, world.specs, keep_ms=HOUR, history_ms=400 * 24 * HOUR)
    part = flow(0, 200)
    whole = part.labels.copy()
    part.labels[:100:2] = np.nan
    await world.live(part)

    for days, revisions in ((1, 1), (2, 2), (3, 2), (5, 3), (6, 3)):
        part.labels = whole
        await world.store.take(Arrivals(labelled=[part.labelled(range(0, 10 * days, 2), after_ms=HOUR * 2)]))
        await world.live(flow(days * 1_440, 1))
        await retention.sweep()
        assert max(it.revision for it in told(world, "labelled_share")) == revisions, days

    assert await world.store.published_from("m") is None
    assert not world.memory.joined("m", LabelStream.of(world.specs.model("m")), 0, part.times[149])


async def test_a_window_of_which_the_spec_measures_something_else_by_now_is_left_as_it_is(
    world: Any, flow: Make, make_model: Make
) -> None:
    await world.ready()
    part = flow(0, 100)
    part.labels[:] = np.nan
    await world.live(part)
    world.specs.models["m"] = make_model(rollout={"cap": 99, "judge": "rmse"})

    part.labels = part.x
    await world.store.take(Arrivals(labelled=[part.labelled()]))
    await world.live(flow(20_000, 1))

    assert not any(it.revision for it in world.told(Reading))
    assert await world.store.published_from("m") is None


def test_a_reading_says_its_slice_arm_and_revision_on_the_topic() -> None:
    reading = Reading(
        "performance",
        "m",
        2,
        "mae",
        1.5,
        0,
        10,
        7,
        feature="request.zone",
        arm="challenger",
        slice="7",
        revision=3,
    )

    message = messages.metric(reading)

    assert (message.feature, message.slice, message.arm, message.revision) == (
        "request.zone",
        "7",
        "challenger",
        3,
    )
    (record,) = outgoing([reading])
    assert record.topic == "metrics.performance"
    moved = replace(reading, subject="drift", name="drift", feature="request.x", slice_of="request.zone")
    assert messages.metric(moved).slice_of == "request.zone"
    assert moved.id == "m/2/0-10/drift/request.x/challenger/request.zone/7"


async def _calibrate(world: Any, *sizes: int) -> None:
    """Have version 1 calibrated for windows of some numbers of rows."""
    await world.ready()
    base = world.calibrations.settings(world.specs.model("m"))
    for rows in sizes:
        settings = base.of_rows(rows)
        version = await world.store.version("m", 1)
        await world.store.put_calibration(
            "m", 1, settings.key, await world.desk.calibrate(version.reference, settings)
        )
