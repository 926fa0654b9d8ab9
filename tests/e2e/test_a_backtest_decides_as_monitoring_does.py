"""The same rows through monitoring's own use cases on PostgreSQL and through a backtest: the same alarms, commands and verdicts.

Runs are the backtest's own, and a registry of one model does what gates and verdicts say;
rows come as the prediction log has them, and references as the trainer files them.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trimtab import project
from trimtab.backtest import history, strategies
from trimtab.backtest.history import Events, History, Project
from trimtab.backtest.living import Life
from trimtab.backtest.shelf import Shelf
from trimtab.backtest.strategies import Wishes
from trimtab.backtest.workbench import Candidate, Workbench
from trimtab_contracts.serving.v1.serving_pb2 import PredictionBatch
from trimtab_core import gating
from trimtab_core.baseline import Calibration, Settings
from trimtab_core.losses import said_class
from trimtab_core.specs import FeatureView, Model, Source
from trimtab_core.watched import Standing
from trimtab_monitoring import messages
from trimtab_monitoring.errors import NotCalibrated
from trimtab_monitoring.reference import read_reference
from trimtab_monitoring.store import PostgresStore
from trimtab_monitoring.usecases.calibrating import Calibrations
from trimtab_monitoring.usecases.closing import Closing
from trimtab_monitoring.usecases.entities import (
    Arrivals,
    Labelled,
    LabelStream,
    Loop,
    Mark,
    StoredFile,
    Version,
    events_stream,
    predictions_stream,
)
from trimtab_monitoring.usecases.ledger import Ledger
from trimtab_monitoring.usecases.loops import RunNews, StageNews
from trimtab_monitoring.usecases.ports import Store
from trimtab_monitoring.usecases.retraining import Retraining
from trimtab_runtime.clock import ManualClock
from trimtab_runtime.postgres import open_pool
from trimtab_training import making, reference

pytestmark = pytest.mark.real

HOUR, DAY = 3_600_000, 86_400_000
BEGIN = 1_700_000_000_000 // DAY * DAY
PER_DAY, DAYS, CHANGES = 240, 8, 5
STEP, FROM = 6 * HOUR, BEGIN + 3 * DAY
SPEC = """
kind: Source
metadata: {name: rides}
spec:
  key: id
  event_time: at
  lateness: 1h
  fields:
    id: {type: string}
    at: {type: timestamp}
    x: {type: number}
    z: {type: number}
    y: {type: string}
---
kind: Model
metadata: {name: ride}
spec:
  task: TASK
  source: rides
  features: [request.x, request.z]
  label: {source: rides, on: id, value: y, within: 1h, classes: [CLASSES]}
  trainer: {kind: linear, window: 3d, half_life: 12h, min_rows: 100}
  gates: [{metric: log_loss, versus: champion}]
  rollout: {strategy: canary, steps: [50, 100], judge: log_loss, cap: 4, within: 2d}
"""
TWO, THREE = ("low", "high"), ("low", "middle", "high")
CASES = {
    "two classes, by concept and the accepted level": (
        TWO,
        """
  monitoring: {window: 60, false_alarms: 1 per 20d, accept: {at_most: 0.8}}
  retrain: {on: [concept, performance], cooldown: 12h, at_most: 9 per 10d, new_rows: 900}
""",
    ),
    "three classes, in windows by time, on a schedule": (
        THREE,
        """
  monitoring: {window: 1d, false_alarms: 1 per 30d, persistence: [1, 1]}
  retrain: {on: [performance], cooldown: 12h, at_most: 9 per 10d, schedule: "0 12 * * 6"}
""",
    ),
}


def a_project(classes: tuple[str, ...], rest: str) -> Project:
    task = "multiclass" if len(classes) > 2 else "binary"
    document = SPEC.replace("TASK", task).replace("CLASSES", ", ".join(classes))
    return Project.of(project.parse(document + rest).resources)


def a_history(made: Project) -> History:
    """Rows of a world in which y follows x, and on one day turns to follow z."""
    rng, classes = np.random.default_rng(5), made.model.spec.label.classes
    count = PER_DAY * DAYS
    at_ms = BEGIN + np.arange(count) * (DAY // PER_DAY) + rng.integers(0, 60_000, count)
    x, z, noise = rng.normal(0, 2, count), rng.normal(0, 2, count), rng.normal(0, 0.5, count)
    y = np.where(at_ms < BEGIN + CHANGES * DAY, x, z) + noise
    edges = np.quantile(y, np.arange(1, len(classes)) / len(classes))
    said = [classes[number] for number in np.searchsorted(edges, y)]
    columns = {"id": [f"r{at}" for at in range(count)], "x": x.tolist(), "z": z.tolist(), "y": said}
    return history.history(made, {"rides": Events(at_ms, columns)})


class Specs:
    """What is applied."""

    def __init__(self, made: Project) -> None:
        self.models, self.sources = {made.model.name: made.model}, dict(made.sources)
        self.views, self.tables = dict[str, FeatureView](), dict[str, Any]()

    def model(self, name: str) -> Model:
        return self.models[name]

    def source(self, name: str) -> Source:
        return self.sources[name]


class Desk:
    """Calibrates by what the backtest has worked out already, for which the reference's columns have to be the same."""

    def __init__(self, bench: Workbench) -> None:
        self.held: dict[str, tuple[Candidate, dict[str, Any]]] = {}
        """Versions by where their references are, with the columns by which the backtest calibrates them."""
        self._spec = bench.model.spec

    async def calibrate(self, reference: StoredFile, settings: Settings) -> Calibration:
        candidate, columns = self.held[reference.uri]
        read = read_reference(Path(reference.uri))
        for name, column in columns.items():
            np.testing.assert_array_equal(read[name], column, name)
        found = candidate.calibration(self._spec, settings)
        assert found is not None
        return found


class Live:
    """Monitoring, step by step, with the backtest's fits for a trainer and a registry of one model."""

    def __init__(self, store: Store, made: Project, bench: Workbench, folder: Path) -> None:
        self._store, self._bench, self._history, self._folder = store, bench, bench.history, folder
        self._model, self._spec = made.model, made.model.spec
        self._versions: dict[int, Candidate] = {}
        self._standing = Standing("ride", generation=2, champion=1)
        clock, specs = ManualClock(0), Specs(made)
        self._retraining = Retraining(store, specs, clock)
        self._ledger = Ledger(store, clock)
        self._desk = Desk(bench)
        self._woken = asyncio.Event()
        self._calibrations = Calibrations(store, specs, self, self._desk, lambda _: self._woken.set())
        self._closing = Closing(
            store, specs, self, self._calibrations, self._retraining, clock, reports=folder, silent_ms=60_000
        )

    def standing(self, _: str) -> Standing:
        """Return what is wanted of the model."""
        return self._standing

    async def live(self) -> None:
        """Live from the first version on to the end of history."""
        first = self._bench.candidate(FROM, None)
        assert isinstance(first, Candidate)
        await self._register(1, first)
        ends = range(FROM + STEP, BEGIN + DAYS * DAY + 1, STEP)
        places = np.searchsorted(self._history.at_ms, [FROM, *ends]).tolist()
        async with asyncio.TaskGroup() as tasks:
            calibrating = tasks.create_task(self._calibrations.work())
            for (start, stop), end_ms in zip(pairwise(places), ends, strict=True):
                await self._step(start, stop, end_ms)
            calibrating.cancel()

    async def _step(self, start: int, stop: int, end_ms: int) -> None:
        """Let rows be answered as things stand and their labels come, and see to all that follows."""
        await self._store.take(
            Arrivals(
                [self._predicted(start, stop)],
                [self._labelled(start, stop)],
                [
                    Mark(predictions_stream("ride"), "s", 0, 1, int(self._history.at_ms[stop - 1])),
                    Mark(events_stream("rides"), "", 0, 1, end_ms),
                ],
            )
        )
        await self._close()
        for loop in await self._store.loops("ride", open_only=True):
            if loop.drift is not None and loop.state == "triggered":
                await self._retraining.answer(loop.drift)
        for loop in await self._store.loops("ride", open_only=True):
            if loop.state == "commanded":
                await self._run(loop)
        while (said := await self._said()) is not None:
            await self._obey(said)
            await self._close()

    async def _close(self) -> None:
        """Close all that can be closed; a window that waits for its calibration has it worked out."""
        more = True
        while more:
            self._woken.clear()
            try:
                more = await self._closing.close("ride")
            except NotCalibrated:
                await self._woken.wait()

    def _predicted(self, start: int, stop: int) -> Any:
        stands, classes = self._standing, self._spec.label.classes
        of_many = classes if len(classes) > 2 else ()
        batch = PredictionBatch(
            model="ride", id=f"s/{start}", champion_version=stands.champion, generation=stands.generation,
            challenger_version=stands.challenger, rollout_id=stands.rollout_id,
            ids=[f"{at:06}" for at in range(start, stop)], keys=[f"r{at}" for at in range(start, stop)],
            event_time_ms=self._history.at_ms[start:stop].tolist(), feature_names=self._history.names,
            features=self._history.numbers[start:stop].ravel().tolist(), classes=of_many,
        )  # fmt: skip
        for name in ("champion", "challenger"):
            if version := getattr(stands, name):
                answers = self._versions[version].answers(start, stop)
                if of_many:
                    getattr(batch, f"{name}_probabilities").extend(answers.ravel().tolist())
                getattr(batch, name).extend((said_class(answers) if of_many else answers).tolist())
        return messages.predicted(batch)

    def _labelled(self, start: int, stop: int) -> Labelled:
        classes, label = self._spec.label.classes, self._history.label[start:stop]
        keys, times = [f"r{at}" for at in range(start, stop)], self._history.at_ms[start:stop].tolist()
        names = [classes[int(value)] for value in label]
        return Labelled(LabelStream.of(self._model).name, keys, times, label.tolist(), names)

    async def _register(self, number: int, found: Candidate) -> None:
        """Let a version be known, with its reference."""
        self._versions[number] = found
        seen, unseen = making.referred(self._spec, found.rows, found.judged, found.shipped, self._bench.fit)
        path, names = self._folder / f"{number}.arrow", self._history.names
        self._desk.held[str(path)] = found, reference.columns(self._spec, names, (), seen, unseen)
        said = found.shipped.final.predict(seen.features[:1])
        reference.write(path, self._spec, names, (), seen, unseen, said)
        version = Version("ride", number, StoredFile(str(path), "", 0), trained_to_ms=found.trained_to_ms)
        await self._store.put_versions([version])

    async def _run(self, loop: Loop) -> None:
        """Make the candidate that was ordered, hold it to its gates, and begin its rollout."""
        assert loop.as_of_ms is not None
        changed_ms = loop.drift.changed_ms if loop.drift else None
        found = self._bench.candidate(loop.as_of_ms, changed_ms)
        assert isinstance(found, Candidate)
        number, stands = max(self._versions) + 1, self._standing
        run_id, trigger, as_of_ms = str(number), loop.trigger, loop.as_of_ms
        await self._ledger.ran(
            RunNews(run_id, run_id, loop.command_id, loop.id, "ride", trigger, "gating", as_of_ms, 0)
        )
        if gating.failed(self._bench.gates(found, self._versions[stands.champion], stands.champion)):
            self._versions[number] = found
            await self._stage(loop, number, "REJECTED")
            return
        await self._register(number, found)
        generation = stands.generation + 1
        self._standing = replace(
            stands, generation=generation, challenger=number, rollout_id=f"ride/{number}/{generation}", step=0,
            steps=self._spec.rollout.ladder, loop_id=loop.id,
        )  # fmt: skip
        await self._stage(loop, number, "ON_TRIAL")

    async def _said(self) -> Loop | None:
        """Return the loop on trial, if the judge has said something of it that is still to be done."""
        loop = await self._store.find_loop(self._standing.loop_id) if self._standing.challenger else None
        verdict = loop and loop.verdict
        return loop if verdict and verdict.step == self._standing.step and verdict.rollout_id else None

    async def _obey(self, loop: Loop) -> None:
        stands, verdict = self._standing, loop.verdict
        assert verdict is not None
        generation = stands.generation + 1
        if verdict.outcome == "ADVANCE":
            self._standing = replace(stands, generation=generation, step=stands.step + 1)
            return
        won = verdict.outcome == "PROMOTE"
        self._standing = Standing("ride", generation, stands.challenger if won else stands.champion)
        await self._stage(loop, stands.challenger, "LIVE" if won else "ROLLED_BACK")

    async def _stage(self, loop: Loop, number: int, stage: Any) -> None:
        news_id, rollout_id = f"{number}/{stage}", self._standing.rollout_id
        await self._ledger.staged(
            StageNews(news_id, "ride", number, str(number), loop.id, stage, rollout_id, [], "", 0)
        )


@pytest.fixture
async def store(postgres_dsn: str) -> AsyncIterator[Store]:
    async with open_pool(
        postgres_dsn, f"monitoring_{uuid.uuid4().hex[:8]}", package="trimtab_monitoring"
    ) as pool:
        yield PostgresStore(pool)


@pytest.mark.timeout(900)  # each lives twice
@pytest.mark.parametrize("case", CASES)
async def test_a_backtest_decides_as_monitoring_does(store: Store, case: str, tmp_path: Path) -> None:
    made = a_project(*CASES[case])
    found, shelf = a_history(made), Shelf()
    wishes = Wishes(("on_drift",), from_ms=FROM, step_ms=STEP)
    life = strategies.run(made, found, wishes, shelf=shelf).lives["on_drift"]

    bench = Workbench(made.model, made.sources["rides"], found, shelf=shelf)
    await Live(store, made, bench, tmp_path).live()

    loops = await store.loops("ride", open_only=False)
    assert decided(life) == written(loops)


def decided(life: Life) -> Any:
    drifts = {each.drift.episode: replace(each.drift, report="", recorded_ms=0) for each in life.alarms}
    commands = {
        each.command_id: (each.trigger, each.as_of_ms, each.reason, each.version, each.outcome, each.verdict)
        for each in life.retrains
    }
    declined = {each.drift.episode: each.said for each in life.alarms if not each.commands}
    return drifts, commands, declined


def written(loops: list[Loop]) -> Any:
    drifts = {
        loop.drift.episode: replace(loop.drift, report="", recorded_ms=0) for loop in loops if loop.drift
    }
    commands = {
        loop.command_id: (
            loop.trigger,
            loop.as_of_ms,
            loop.reason,
            loop.version,
            "open" if loop.open else loop.state,
            loop.verdict and replace(loop.verdict, recorded_ms=0),
        )
        for loop in loops
        if loop.command_id
    }
    declined = {loop.id: loop.reason for loop in loops if loop.drift and loop.state == "declined"}
    return drifts, commands, declined
