"""What goes on beside the watch: calibrations, reports, sweeps, and whose turn it is to be closed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from trimtab_contracts.monitoring.v1.monitoring_pb2 import GetModelHealthRequest
from trimtab_core.baseline import Calibration, Uncalibrated
from trimtab_core.watched import Row, Standing
from trimtab_monitoring.errors import NotCalibrated, Overwhelmed
from trimtab_monitoring.testing import MemoryHistory, MemoryStore
from trimtab_monitoring.usecases.calibrating import Calibrations
from trimtab_monitoring.usecases.entities import Alert, Arrivals, ReportOrder, StoredFile, Version
from trimtab_monitoring.usecases.history import START, Wanted
from trimtab_monitoring.usecases.reporting import Reports
from trimtab_monitoring.usecases.retention import Retention
from trimtab_monitoring.usecases.rounds import Rounds
from trimtab_runtime.errors import NotFound, Unavailable
from trimtab_runtime.testing import eventually

Make = Callable[..., Any]
DAY = 86_400_000


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(work)
        yield
        task.cancel()


class Printer:
    """Makes reports, or fails as it is told to."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault = fault
        self.made: list[tuple[str, int]] = []

    async def report(
        self, order: ReportOrder, rows: Sequence[Row], features: Sequence[str], reference: StoredFile
    ) -> None:
        self.made.append((order.episode, len(rows)))
        if self.fault:
            raise self.fault


async def test_a_version_is_calibrated_as_soon_as_a_deployment_names_it(world: Any) -> None:
    await world.store.put_versions([Version("m", n, StoredFile(f"/{n}", "", 0)) for n in (1, 2)])
    world.fleet.standings["m"] = Standing("m", 1, 1, challenger=2)
    settings = world.calibrations.settings(world.specs.model("m"))

    async def done() -> bool:
        return None not in [(await world.store.calibration("m", n, settings.key))[0] for n in (1, 2)]

    async with running(world.calibrations.work()):
        world.calibrations.prepare(["m", "nobody's"])
        await eventually(done, what="two calibrations")

    assert world.woken == ["m", "m"]


async def test_a_version_of_another_instances_model_is_left_to_that(world: Any) -> None:
    world.specs.models["n"] = world.specs.models["m"]
    await world.store.put_versions([Version(name, 1, StoredFile("/1", "", 0)) for name in "mn"])
    world.fleet.standings["n"] = Standing("n", 1, 1)
    ours = Calibrations(
        world.store, world.specs, world.fleet, world.desk, world.woken.append, owns="n".__eq__
    )

    async with running(ours.work()):
        ours.prepare(["m", "n"])
        await eventually(lambda: _found(bool(world.woken)), what="a calibration")

    settings = ours.settings(world.specs.model("m"))
    assert world.woken == ["n"]
    assert (await world.store.calibration("m", 1, settings.key))[0] is None
    assert (await world.store.calibration("n", 1, settings.key))[0] is not None


class Counting(MemoryStore):
    """Writes down which calibrations are read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[int] = []

    async def calibration(
        self, model: str, version: int, settings: str
    ) -> tuple[Calibration | Uncalibrated | None, int]:
        self.read.append(version)
        return await super().calibration(model, version, settings)


async def test_the_calibration_that_was_used_least_recently_makes_room_and_is_read_again(world: Any) -> None:
    store, settings = Counting(), world.calibrations.settings(world.specs.model("m"))
    found = await world.desk.calibrate(StoredFile("/1", "", 0), settings)
    for number in (1, 2, 3):
        await store.put_versions([Version("m", number, StoredFile("/1", "", 0), tuple(found.features))])
        await store.put_calibration("m", number, settings.key, found)
    room_for_two = round(2.5 * 2.5 * len(msgspec.json.encode(found)))
    kept = Calibrations(store, world.specs, world.fleet, world.desk, print, most_bytes=room_for_two)

    for number in (1, 2, 1, 3, 1, 2, 3):
        assert await kept.ready("m", number, settings, 1) == (found, found.features)

    assert store.read == [1, 2, 3, 2, 3]


async def test_a_calibration_larger_than_all_room_is_used_all_the_same(world: Any, flow: Make) -> None:
    await world.ready()
    await world.store.take(Arrivals([flow(0, 1).predicted()]))
    settings = world.calibrations.settings(world.specs.model("m"))
    kept = Calibrations(world.store, world.specs, world.fleet, world.desk, print, most_bytes=1)

    for _ in range(2):
        assert await kept.ready("m", 1, settings, 1) is not None


@pytest.mark.parametrize(
    "fault", [KeyError("no such file"), ValueError("not a reference"), Overwhelmed("it was killed")]
)
async def test_a_version_that_cannot_be_calibrated_is_closed_without_being_judged(
    world: Any, flow: Make, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> Any:
        raise fault

    monkeypatch.setattr("trimtab_monitoring.usecases.calibrating._AGAIN_S", 0.0)
    monkeypatch.setattr(world.desk, "calibrate", fail)
    await world.store.put_versions([Version("m", 1, StoredFile("/1", "", 0))])
    part = flow(0, 120)
    await world.store.take(Arrivals([part.predicted()], [part.labelled()]))
    await world.mark(part.times[-1])
    with pytest.raises(NotCalibrated):
        await world.close()

    async with running(world.calibrations.work()):
        await eventually(lambda: _found(world.woken), what="the calibration's end")
    await world.close()

    settings = world.calibrations.settings(world.specs.model("m"))
    assert isinstance((await world.store.calibration("m", 1, settings.key))[0], Uncalibrated)
    assert (await world.store.watch("m")).closed_ms == part.times[-1]
    (alert,) = world.told(Alert)
    assert (alert.kind, alert.resolved) == ("calibration", False)
    assert alert.sentence.startswith(
        "Version 1 is not watched, for nothing is known of what is usual for it: "
    )
    assert await _judged(world) == [alert.sentence]


@pytest.mark.parametrize("ends", ["it is calibrated", "another version answers"])
async def test_that_a_version_is_not_watched_is_an_alert_until_it_is_or_is_gone(
    world: Any, flow: Make, make_model: Make, ends: str
) -> None:
    settings = world.calibrations.settings(world.specs.model("m"))
    await world.store.put_versions([Version("m", 1, StoredFile("/1", "", 0))])
    await world.store.put_calibration("m", 1, settings.key, Uncalibrated("log\nit was killed."))

    await world.live(flow(0, 250))
    if ends == "it is calibrated":
        world.specs.models["m"] = make_model(monitoring={"window": 50})
        await world.ready(1)
        await world.live(flow(250, 100))
    else:
        await world.ready(2)
        await world.live(flow(250, 100, version=2, generation=2))

    raised, over = world.told(Alert)
    assert (raised.resolved, over.resolved, raised.occasion) == (False, True, over.occasion)
    assert raised.sentence.endswith("what is usual for it: it was killed.")
    assert over.sentence in (
        "Version 1 is calibrated, and watched.",
        "Version 1 has gone: version 2 answers now.",
    )
    assert (await world.store.watch("m")).blind is None


async def test_health_says_how_often_a_window_raises_a_false_alarm_and_what_cannot_be_done(
    world: Any, make_model: Make
) -> None:
    monitoring = {"window": 1_000, "false_alarms": "1 per 90d", "season": "365d"}
    world.specs.models["m"] = make_model(monitoring=monitoring)
    await world.store.put_versions([Version("m", 1, StoredFile("/1", "", 0))])
    assert await _judged(world) == ["Version 1 is being calibrated, and its windows wait for that."]
    await world.ready()

    rate, small, season = await _judged(world)

    assert rate == (
        "While nothing changes, each of 3 kinds of drift is told in one of 389 windows of 1,000 predictions of version 1: "
        "monitoring.false_alarms is 1 per 90d."
    )
    assert small.startswith(
        "The reference of version 1 is too small for windows of 1,000 predictions: data, prediction and performance drift"
    )
    assert season.startswith(
        "Of version 1: monitoring.season of 365d is not followed: the reference covers 49h"
    )


async def _judged(world: Any) -> list[str]:
    return list((await world.api.GetModelHealth(GetModelHealthRequest(model="m"), None)).judged)


async def _found(value: Any) -> Any:
    return value


@pytest.mark.parametrize("fault", [None, Unavailable("away"), ValueError("a bug")])
async def test_a_report_is_made_once_and_one_that_fails_stands_in_nobodys_way(
    world: Any, flow: Make, fault: Exception | None
) -> None:
    await world.ready()
    await world.live(flow(0, 200), flow(200, 300, shift=2.0))
    printer = Printer(fault)
    reports = Reports(world.store, printer)

    async with running(reports.work()):
        await eventually(lambda: _found(len(printer.made) == len(world.drifts())), what="the reports")
        reports.ordered()

    assert sorted(printer.made) == sorted((drift.episode, 100) for drift in world.drifts())
    assert await world.store.next_report() is None


async def test_a_report_about_rows_that_are_gone_is_let_go(world: Any, flow: Make) -> None:
    await world.ready()
    await world.live(flow(0, 200), flow(200, 300, shift=2.0))
    await world.store.forget("m", before_ms=10**15, at_most=10_000)
    printer = Printer()

    async with running(Reports(world.store, printer).work()):
        await eventually(lambda: _no_report(world), what="an empty queue")

    assert printer.made == []


async def _no_report(world: Any) -> bool:
    return not world.memory._tables.reports


def sweeper(world: Any) -> Retention:
    history = MemoryHistory(world.memory)
    return Retention(world.store, history, world.specs, keep_ms=2 * DAY, history_ms=400 * DAY)


async def test_a_sweep_keeps_readings_for_their_own_time(world: Any, flow: Make) -> None:
    await world.ready()
    await world.live(flow(0, 200), flow(200, 10, step_ms=DAY))
    history = MemoryHistory(world.memory)
    kept = await history.page(Wanted("m"), START, 1_000)

    await sweeper(world).sweep()
    assert await history.page(Wanted("m"), START, 1_000) == kept != []
    await Retention(world.store, history, world.specs, keep_ms=2 * DAY, history_ms=DAY).sweep()
    assert await history.page(Wanted("m"), START, 1_000) == []


async def test_a_sweep_keeps_what_is_young_and_what_a_window_still_needs(world: Any, flow: Make) -> None:
    await world.ready()
    early = flow(0, 130, step_ms=60_000)
    late = flow(130, 20, step_ms=DAY)
    await world.live(early)
    retention = sweeper(world)
    assert await retention.sweep() == 0

    await world.live(late)
    gone = await retention.sweep()

    assert (
        gone == 200
    )  # 100 predictions of the full window and their labels; the 30 after it are still needed
    assert (await world.store.health("m")).watch.data.rows == 50
    world.restart()
    await world.live(flow(150, 50, step_ms=DAY))
    assert (await world.store.watch("m")).data.rows == 0


async def test_a_sweep_is_of_ones_own_and_keeps_labels_that_another_instances_model_still_needs(
    world: Any, flow: Make, make_model: Make
) -> None:
    await world.ready()
    world.specs.models["slow"] = make_model("slow")
    part, late = flow(0, 100), flow(100, 50, step_ms=DAY)
    await world.store.take(Arrivals([part.predicted(model="slow")]))
    await world.live(part, late)
    history = MemoryHistory(world.memory)

    def sweep(*ours: str) -> Coroutine[Any, Any, int]:
        keeping: Any = {"keep_ms": 2 * DAY, "history_ms": 400 * DAY}
        return Retention(world.store, history, world.specs, **keeping, owns=ours.__contains__).sweep()

    stream = part.labelled().stream
    assert await sweep("slow") == await sweep(stream) == await sweep("slow", stream) == 0
    assert await sweep("m") == 100
    del world.specs.models["slow"]
    assert await sweep("m") == 0
    assert await sweep(stream) == 100


async def test_a_sweep_keeps_the_rows_of_a_report_that_is_still_to_be_made(world: Any, flow: Make) -> None:
    await world.ready()
    await world.live(flow(0, 200), flow(200, 300, shift=2.0), flow(500, 50, step_ms=DAY))
    retention, printer = sweeper(world), Printer()
    await retention.sweep()

    async with running(Reports(world.store, printer).work()):
        await eventually(lambda: _no_report(world), what="an empty queue")

    assert sorted(printer.made) == sorted((drift.episode, 100) for drift in world.drifts())
    assert await retention.sweep() > 0


class Door:
    """Closes as it is told to."""

    def __init__(self, **answers: list[Any]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.together: list[list[str]] = []

    async def close(self, model: str) -> bool:
        self.asked.append(model)
        answers = self.answers.get(model, [])
        answer = answers.pop(0) if answers else False
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)

    async def close_all(self, models: list[str]) -> list[str]:
        """Leave all to be closed by themselves, but for those of which nothing was said."""
        self.together.append(models)
        answer = self.answers["together"].pop(0) if self.answers.get("together") else None
        if isinstance(answer, Exception):
            raise answer
        return [model for model in models if model in self.answers]


async def test_a_model_is_closed_until_nothing_is_left_and_no_fault_holds_up_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trimtab_monitoring.usecases.rounds._BACKOFF_S", 0.0)
    door = Door(
        a=[True, True, False],
        b=[NotCalibrated("b", 1)],
        c=[NotFound("c")],
        d=[ValueError("a bug")],
        e=[Unavailable("away")],
    )
    rounds = Rounds()
    rounds.wake_all("abcdef")
    rounds.wake("a")

    async with running(rounds.work(door)):  # type: ignore[arg-type]
        await eventually(lambda: _found(door.asked.count("e") == 2), what="all closed")

    asked = {model: door.asked.count(model) for model in "abcdef"}
    assert asked == {"a": 3, "b": 1, "c": 1, "d": 1, "e": 2, "f": 0}
    assert door.together[0] == list("abcdef")


async def test_a_model_that_went_to_another_instance_is_not_gone_on_with() -> None:
    door = Door(a=[True, True], b=[True, True])
    rounds = Rounds("b".__eq__)
    rounds.wake_all("ab")

    async with running(rounds.work(door)):  # type: ignore[arg-type]
        await eventually(lambda: _found(door.asked.count("b") == 3), what="all of what is ours closed")

    assert door.asked.count("a") == 1


async def test_many_are_closed_together_and_a_fault_that_they_share_is_met_by_each_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trimtab_monitoring.usecases.rounds._BACKOFF_S", 0.0)
    models = [f"{number:03}" for number in range(450)]
    door = Door(together=[Unavailable("away"), ValueError("a bug")])
    rounds = Rounds()
    rounds.wake_all(models)

    async with running(rounds.work(door)):  # type: ignore[arg-type]
        await eventually(lambda: _found(len(door.together) == 4), what="all closed")

    first, second, third, last = door.together
    assert (first, second, third) == (models[:200], models[200:400], models[400:] + models[:150])
    assert last == models[150:200]
    assert sorted(door.asked) == second
