"""From what came to windows, readings and episodes: the same, however it came."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from trimtab_core.watched import Reading, Standing
from trimtab_monitoring.errors import NotCalibrated
from trimtab_monitoring.usecases.entities import Alert, Arrivals, Closed

HOUR = 3_600_000
Make = Callable[..., Any]


async def test_drift_gives_one_event_however_long_it_lasts(world: Any, flow: Make) -> None:
    await world.ready()

    await world.live(flow(0, 400), flow(400, 1_000, shift=1.0))

    (drift,) = [it for it in world.drifts() if it.kind == "data"]
    assert [it.feature for it in drift.features if it.drifted] == ["request.x"]
    assert drift.score > drift.threshold
    assert drift.rows == 100
    assert "request.x moved by" in drift.summary
    assert drift.report == f"/reports/m/{drift.episode}.html"
    loop = await world.store.find_loop(drift.episode)
    assert (loop.state, loop.open, loop.trigger) == ("triggered", True, "data")
    assert (await world.store.next_report()).episode in {it.episode for it in world.drifts()}
    assert any(alert.kind == "drift" for alert in world.told(Alert))


async def test_an_alert_is_over_when_its_drift_is_and_when_another_version_answers(
    world: Any, flow: Make
) -> None:
    await world.ready(1, 2)

    await world.live(flow(0, 300), flow(300, 600, shift=1.5), flow(900, 300))
    first, *_ = over = [it for it in world.told(Alert) if it.resolved]
    await world.live(flow(1_200, 600, shift=1.5), flow(1_800, 200, version=2, generation=3))

    raised = [it for it in world.told(Alert) if not it.resolved]
    ended = [it for it in world.told(Alert) if it.resolved]
    assert {it.occasion for it in raised} == {it.occasion for it in ended}
    assert len(raised) == len(ended) == len({it.id for it in ended}) > len(over) > 0
    assert "drift of version 1 is over: its newest window is as usual" in first.sentence
    assert "version 2 answers now" in ended[-1].sentence


async def test_a_stream_without_drift_gives_no_event(world: Any, flow: Make) -> None:
    await world.ready()

    await world.live(flow(0, 3_000, error=0.5))

    assert world.drifts() == []
    assert len([it for it in world.told(Reading) if it.name == "mae"]) == 30


async def test_worse_predictions_are_performance_drift(world: Any, flow: Make) -> None:
    await world.ready()

    await world.live(flow(0, 300), flow(300, 600, error=3.0))

    (drift,) = world.drifts()
    assert drift.kind == "performance"
    assert "mae of version 1 went from" in drift.summary
    assert drift.severity > 1


async def test_decisions_do_not_depend_on_how_the_rows_came(new_world: Make, flow: Make) -> None:
    parts = [flow(0, 350), flow(350, 650, shift=0.8, error=2.0)]
    plain = new_world()
    await plain.ready()
    await plain.live(*parts)
    rng = np.random.default_rng(3)

    for seed in range(3):
        shuffled = new_world()
        await shuffled.ready()
        arrivals = [(part, at) for part in parts for at in range(len(part.x))]
        for index in np.array_split(rng.permutation(len(arrivals)), 20 + seed):
            batch = [arrivals[at] for at in index]
            for part in parts:
                places = [at for it, at in batch if it is part]
                late = [int(at) for at in rng.permutation(len(part.x))[:50]]
                await shuffled.store.take(Arrivals([part.predicted(places)], [part.labelled(late)]))
        for part in parts:
            await shuffled.store.take(Arrivals(labelled=[part.labelled()]))
        for until in np.sort(rng.choice(1_000, 12, replace=False)):
            await shuffled.mark(parts[0].times[0] + int(until) * 60_000)
            await shuffled.close()
            if rng.random() < 0.5:
                shuffled.restart()
        await shuffled.mark(parts[-1].times[-1])
        await shuffled.close()

        assert shuffled.decided() == plain.decided()
        assert await shuffled.store.watch("m") == await plain.store.watch("m")


async def test_models_that_are_closed_together_are_decided_as_each_by_itself(
    new_world: Make, flow: Make
) -> None:
    alone, together = new_world(), new_world()
    own = 0
    for world in (alone, together):
        await world.ready(1, 2)
        for start in range(0, 900, 90):
            later = {"version": 2, "generation": 2} if start >= 720 else {}
            part = flow(start, 90, shift=1.5 if start >= 360 else 0.0, **later)
            await world.store.take(Arrivals([part.predicted()], [part.labelled()]))
            await world.mark(part.times[-1])
            if world is alone:
                await world.close()
                continue
            left = await world.closing.close_all(["m", "gone"])
            assert left in (["gone"], ["gone", "m"])
            own += "m" in left
            await world.close()

    assert 0 < own < 7  # where an episode opens or goes on, and nowhere else
    assert together.drifts() == alone.drifts() != []
    assert together.memory.told == alone.memory.told
    assert await together.store.watch("m") == await alone.store.watch("m")


async def test_monitors_that_take_turns_decide_as_one(new_world: Make, flow: Make) -> None:
    parts = [flow(0, 350), flow(350, 650, shift=0.8, error=2.0)]
    plain, shared = new_world(), new_world()
    for world in (plain, shared):
        await world.ready()
    await plain.live(*parts)
    other = new_world(shared.store)

    for part in parts:
        await shared.store.take(Arrivals([part.predicted()], [part.labelled()]))
    for turn, until in enumerate(range(25, 1_001, 25)):
        await shared.mark(parts[0].times[0] + (until - 1) * 60_000)
        await (shared, other, other)[turn % 3].close()

    assert shared.decided() == plain.decided()


async def test_what_comes_again_changes_nothing(world: Any, flow: Make) -> None:
    await world.ready()
    part = flow(0, 250)
    await world.live(part)
    before, watch = list(world.memory.told), await world.store.watch("m")

    await world.live(part)

    assert world.memory.told == before
    assert await world.store.watch("m") == watch


async def test_rows_without_a_label_are_counted_and_do_not_shorten_a_performance_window(
    world: Any, flow: Make
) -> None:
    await world.ready()
    part = flow(0, 300)
    part.labels[::2] = np.nan

    await world.live(part)

    health = await world.store.health("m")
    assert (health.watch.predictions, health.watch.labels, health.waiting) == (300, 150, 0)
    (mae,) = [it for it in world.told(Reading) if it.name == "mae"]
    assert mae.rows == 100
    assert mae.to_ms - mae.from_ms > 190 * 60_000


async def test_a_label_that_comes_too_late_is_no_label_even_if_it_is_there(world: Any, flow: Make) -> None:
    await world.ready()
    part = flow(0, 100)
    await world.store.take(Arrivals([part.predicted()], [part.labelled(after_ms=HOUR + 1)]))
    await world.mark(part.times[-1])

    await world.close()

    assert (await world.store.watch("m")).labels == 0


async def test_nothing_is_closed_before_labels_can_have_come(world: Any, flow: Make) -> None:
    await world.ready()
    part = flow(0, 120)
    await world.store.take(Arrivals([part.predicted()], [part.labelled()]))

    await world.mark(part.times[-1], labels_ms=part.times[59] + HOUR)
    await world.close()

    watch = await world.store.watch("m")
    assert (watch.closed_ms, watch.predictions) == (part.times[59], 60)
    assert [it.time_ms for it in world.told(Closed)] == [part.times[59]]


async def test_a_new_live_version_starts_its_windows_afresh(world: Any, flow: Make) -> None:
    await world.ready(1, 2)
    old, new = flow(0, 150), flow(150, 150, version=2, generation=3)

    await world.live(old, new)

    readings = [it for it in world.told(Reading) if it.name == "prediction_drift"]
    assert [(it.version, it.from_ms) for it in readings] == [(1, old.times[0]), (2, new.times[0])]
    watch = await world.store.watch("m")
    assert (watch.version, watch.data.rows, watch.predictions) == (2, 50, 300)


async def test_an_answer_of_the_old_version_after_the_swap_is_counted_and_not_windowed(
    world: Any, flow: Make
) -> None:
    await world.ready(1, 2)
    straggler = flow(170, 1)
    await world.store.take(Arrivals([straggler.predicted()]))

    await world.live(flow(150, 20, version=2, generation=3), flow(171, 30, version=2, generation=3))

    watch = await world.store.watch("m")
    assert (watch.predictions, watch.data.rows) == (51, 50)


async def test_what_comes_too_late_makes_no_window_longer_after_a_restart(world: Any, flow: Make) -> None:
    await world.ready()
    seen, late = [at for at in range(120) if at % 2], [at for at in range(120) if at % 2 == 0]
    part = flow(0, 240)
    await world.store.take(Arrivals([part.predicted(seen)], [part.labelled(seen)]))
    await world.mark(part.times[119])
    await world.close()
    await world.store.take(Arrivals([part.predicted(late)], [part.labelled(late)]))
    world.restart()

    rest = list(range(120, 240))
    await world.store.take(Arrivals([part.predicted(rest)], [part.labelled(rest)]))
    await world.mark(part.times[-1])
    await world.close()

    watch = await world.store.watch("m")
    assert (watch.predictions, watch.data.rows, watch.performance.rows) == (180, 80, 80)
    assert {reading.rows for reading in world.told(Reading)} == {100}


async def test_a_full_window_waits_for_its_calibration_and_then_is_judged(world: Any, flow: Make) -> None:
    part = flow(0, 120)
    await world.store.put_versions([(await _reference(world, 1))])
    await world.store.take(Arrivals([part.predicted()], [part.labelled()]))
    await world.mark(part.times[-1])

    with pytest.raises(NotCalibrated):
        await world.close()

    assert (await world.store.watch("m")).closed_ms == 0
    await world.ready()
    await world.close()
    assert (await world.store.watch("m")).closed_ms == part.times[-1]


async def test_a_version_nobody_knows_is_waited_for_only_while_its_deployment_may_come(
    world: Any, flow: Make
) -> None:
    part = flow(0, 120, version=9, generation=4)
    await world.store.take(Arrivals([part.predicted()], [part.labelled()]))
    await world.mark(part.times[-1])
    with pytest.raises(NotCalibrated):
        await world.close()

    world.fleet.standings["m"] = Standing("m", 5, 10)
    await world.close()

    assert (await world.store.watch("m")).predictions == 120
    assert world.decided(Reading) == []


async def test_new_settings_start_windows_afresh(world: Any, flow: Make, make_model: Make) -> None:
    await world.ready()
    await world.live(flow(0, 60))

    world.specs.models["m"] = make_model(monitoring={"window": 80, "false_alarms": "1 per 90d"})
    await world.ready()
    await world.live(flow(60, 80))

    (reading,) = [it for it in world.told(Reading) if it.name == "mae"]
    assert reading.rows == 80


async def test_a_long_absence_is_made_good_in_steps(
    world: Any, flow: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for door in ("closing", "estimating"):
        monkeypatch.setattr(f"trimtab_monitoring.usecases.{door}.MOST_ROWS", 70)
    await world.ready()

    await world.live(flow(0, 500))

    assert (await world.store.watch("m")).predictions == 500
    assert len(world.told(Closed)) == 8
    estimates = [it for it in world.told(Reading) if it.name == "estimated_mae"]
    assert [it.rows for it in estimates] == [100] * 5


async def test_nulls_are_readings_of_quality_where_there_are_any(world: Any, flow: Make) -> None:
    await world.ready()
    part = flow(0, 100)
    part.x[:30] = np.nan

    await world.live(replace(part, labels=part.labels))

    (share,) = [it for it in world.told(Reading) if it.subject == "quality"]
    assert (share.feature, share.value, share.threshold) == ("request.x", 0.3, 0.03)


async def _reference(world: Any, number: int) -> Any:
    from trimtab_monitoring.usecases.entities import StoredFile, Version

    return Version("m", number, StoredFile(f"/{number}", "", 0))


async def test_a_limit_on_a_metric_that_is_broken_is_an_alert_until_it_holds(
    world: Any, flow: Make, make_model: Make
) -> None:
    rules = [{"metric": "mae", "above": 1.0, "severity": "critical"}]
    world.specs.models["m"] = make_model(alerts={"rules": rules})
    await world.ready()

    await world.live(flow(0, 100), flow(100, 200, error=3.0), flow(300, 100))

    told = [alert for alert in world.told(Alert) if alert.kind == "rule"]
    assert [(alert.severity, alert.resolved) for alert in told] == [("critical", False), ("critical", True)]
    assert len({alert.occasion for alert in told}) == 1
    assert len({alert.id for alert in told}) == 2
    assert told[0].sentence.endswith("above 1.")
