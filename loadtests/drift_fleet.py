"""What a monitored prediction costs monitoring, and what it costs it that many models are watched.

The same predictions and labels are spread over few models and over many: records of the prediction log are read and stored
in a real PostgreSQL, and every model that was woken is closed, as the service does it, in one process on one core. The
calibration of each version lies in PostgreSQL and is held by the service's own cache. Kafka's part is left out, and
PostgreSQL's is counted with ours.
"""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

import asyncpg
import numpy as np
import psutil
from threadpoolctl import threadpool_limits
from trimtab_contracts import topics
from trimtab_contracts.serving.v1.serving_pb2 import PredictionBatch
from trimtab_core.baseline import Calibration, Settings, calibrate, learn_losses
from trimtab_core.specs import FeatureView, Model, Source, Table
from trimtab_core.watched import Standing
from trimtab_monitoring import messages
from trimtab_monitoring.store import PostgresStore
from trimtab_monitoring.usecases.arriving import Gathering
from trimtab_monitoring.usecases.calibrating import Calibrations
from trimtab_monitoring.usecases.closing import Closing
from trimtab_monitoring.usecases.entities import (
    Mark,
    StoredFile,
    Version,
    events_stream,
    predictions_stream,
)
from trimtab_monitoring.usecases.retraining import Retraining
from trimtab_monitoring.usecases.rounds import TOGETHER
from trimtab_runtime.clock import SystemClock
from trimtab_runtime.postgres import open_pool
from trimtab_stack import ports
from trimtab_stack.postgres import Postgres

HOUR = 3_600_000
BEGIN = 1_700_000_000_000 // HOUR * HOUR
FEATURES = ("request.a", "request.b", "request.c", "request.d", "request.e")
AT_ONCE = 100
"""Rows that a record of the prediction log holds at most: what serving flushes of a model at a time."""
LABELS = "truths/id/y"
HELD_OUT = 20_000


class Case(NamedTuple):
    """So many models, predictions of each before a closing, closings, and predictions that fill a window."""

    models: int
    rows: int
    waves: int
    window: int = 500

    @property
    def windows(self) -> int:
        """How many windows each model fills."""
        return self.rows * self.waves // self.window


class Cost(NamedTuple):
    """CPU time of a prediction, in microseconds."""

    stored: float
    """Read, and put into PostgreSQL with its label."""
    closed: float
    """Joined, windowed and judged."""

    @property
    def whole(self) -> float:
        """Both."""
        return self.stored + self.closed


class World:
    """Monitoring's parts, with so many models that are applied."""

    def __init__(self, pool: asyncpg.Pool, models: int, window: int) -> None:
        fields = {"id": {"type": "string"}, "at": {"type": "timestamp"}, "y": {"type": "number"}}
        fields |= {name.removeprefix("request."): {"type": "number"} for name in FEATURES}
        source = {"key": "id", "event_time": "at", "lateness": "1h", "fields": fields}
        spec = {
            "task": "regression",
            "source": "asks",
            "features": list(FEATURES),
            "trainer": {"window": "30d"},
            "label": {"source": "truths", "on": "id", "value": "y", "within": "1h"},
            "rollout": {"cap": 10},
            "monitoring": {"window": window},
        }
        names = [f"m{at:05}" for at in range(models)]
        self.models: dict[str, Model] = {name: resource(Model, name, spec) for name in names}
        self.views: dict[str, FeatureView] = {}
        self.tables: dict[str, Table] = {}
        self.sources: dict[str, Source] = {
            name: resource(Source, name, source) for name in ("asks", "truths")
        }
        self.store, clock = PostgresStore(pool), SystemClock()
        self._pool = pool
        self.calibrations = Calibrations(self.store, self, self, self, lambda _: None)
        self.closing = Closing(
            self.store, self, self, self.calibrations, Retraining(self.store, self, clock), clock,
            reports=Path("/reports"), silent_ms=HOUR,
        )  # fmt: skip

    def model(self, name: str) -> Model:
        """Return a model."""
        return self.models[name]

    def source(self, name: str) -> Source:
        """Return a source."""
        return self.sources[name]

    def standing(self, name: str) -> Standing | None:
        """Return where a model stands: no rollout is on."""
        return Standing(name, 1, 1)

    async def calibrate(self, _: StoredFile, settings: Settings) -> Calibration:
        """Return what all versions have: their references are alike."""
        columns = reference()
        return replace(calibrate(columns, settings), estimator=learn_losses(columns, settings))

    async def file(self) -> None:
        """Put a calibration of each version into the store, as it is there before a version answers."""
        file = StoredFile("/reference", "", 0)
        await self.store.put_versions([Version(name, 1, file, FEATURES) for name in self.models])
        first = next(iter(self.models.values()))
        settings = self.calibrations.settings(first)
        await self.store.put_calibration(first.name, 1, settings.key, await self.calibrate(file, settings))
        await self._pool.execute(
            "INSERT INTO calibrations (model, version, settings, calibration)"
            " SELECT name, version, settings, calibration FROM calibrations, unnest($1::text[]) AS name",
            list(self.models)[1:],
        )

    async def close(self) -> None:
        """Close all models, as `Rounds` does."""
        names = list(self.models)
        for at in range(0, len(names), TOGETHER):
            some = names[at : at + TOGETHER]
            for name in await self.closing.close_all(some) if len(some) > 1 else some:
                while await self.closing.close(name):
                    pass


def resource(kind: Any, name: str, spec: dict[str, Any]) -> Any:
    return kind.model_validate({"metadata": {"name": name}, "spec": spec})


def reference() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    columns = {name: rng.normal(size=HELD_OUT) for name in FEATURES}
    columns["prediction"] = columns[FEATURES[0]]
    columns["loss"] = np.abs(rng.normal(0, 0.5, HELD_OUT))
    columns["event_time_ms"] = BEGIN - np.arange(HELD_OUT, 0, -1, dtype=np.float64) * 60_000.0
    return columns


def log_of(models: Sequence[str], rows: int, at_ms: int, rng: np.random.Generator) -> list[bytes]:
    """Return so many predictions of each model, as records of the prediction log."""
    found = []
    for model in models:
        for first in range(0, rows, AT_ONCE):
            count = min(AT_ONCE, rows - first)
            values = rng.normal(size=(count, len(FEATURES)))
            ids = [f"{model}-{at_ms}-{first + at}" for at in range(count)]
            batch = PredictionBatch(
                model=model, instance="s", id=ids[0], champion_version=1, generation=1, ids=ids, keys=ids,
                event_time_ms=np.sort(at_ms + rng.integers(0, HOUR // 4, count)).tolist(),
                champion=values[:, 0].tolist(), answered_ms=[at_ms] * count, latency_us=[100] * count,
                feature_names=FEATURES, features=values.ravel().tolist(),
            )  # fmt: skip
            found.append(batch.SerializeToString())
    return found


def gathered(records: Sequence[bytes], errors: np.random.Generator, until_ms: int) -> Gathering:
    """Return what intake makes of records, with a label for each, and marks that let all of it be closed."""
    found = Gathering()
    for record in records:
        batch = topics.PREDICTIONS.decode(record)
        found.predicted.append(messages.predicted(batch))
        found.mark(Mark(predictions_stream(batch.model), batch.instance, 0, 1, until_ms))
        truths = np.array(batch.champion) + errors.normal(0, 0.5, len(batch.keys))
        for key, time_ms, truth in zip(batch.keys, batch.event_time_ms, truths.tolist(), strict=True):
            found.label(LABELS, key, time_ms + HOUR // 2, truth)
    found.mark(Mark(events_stream("truths"), "", 0, 1, until_ms + HOUR))
    return found


def cpu_s(postgres: psutil.Process) -> float:
    """Return the CPU seconds that we and PostgreSQL took so far."""
    main = postgres.cpu_times()
    spent = process_time() + main.user + main.system + main.children_user + main.children_system
    for process in postgres.children(recursive=True):
        times = process.cpu_times()
        spent += times.user + times.system
    return spent


async def _cost(postgres: Postgres, case: Case) -> Cost:
    models, rows, waves, window = case
    server, rng = psutil.Process(postgres.process.pid), np.random.default_rng(0)
    schema = f"monitoring_{uuid.uuid4().hex[:8]}"
    async with open_pool(postgres.dsn, schema=schema, package="trimtab_monitoring") as pool:
        world = World(pool, models, window)
        await world.file()  # a version is calibrated once, and apart
        stored = closed = 0.0
        for wave in range(waves):
            at_ms = BEGIN + wave * HOUR
            records = log_of(list(world.models), rows, at_ms, rng)
            began = cpu_s(server)
            for first in range(0, len(records), 5_000):  # what one poll brings at most
                some = gathered(records[first : first + 5_000], rng, at_ms + HOUR // 2)
                await world.store.take(some.arrivals())
            between = cpu_s(server)
            await world.close()
            stored, closed = stored + between - began, closed + cpu_s(server) - between
        counted = await pool.fetchval("SELECT sum((watch->>'labels')::int) FROM models")
        if counted != models * rows * waves:
            raise SystemExit(
                f"{counted} of {models * rows * waves} predictions were closed with their labels"
            )
        judged = await pool.fetchval("SELECT count(*) FROM history WHERE name = 'mae'")
        if judged != models * case.windows:
            raise SystemExit(f"{judged} windows were judged, and {models * case.windows} are full")
    scale = 1e6 / (models * rows * waves)
    return Cost(stored * scale, closed * scale)


def costs(directory: Path, cases: Sequence[Case]) -> list[Cost]:
    """Return what a prediction costs in each case."""
    postgres = Postgres(directory / "postgres", ports.choose())
    postgres.start()
    try:
        with threadpool_limits(1):  # as monitoring does
            return [asyncio.run(_cost(postgres, case)) for case in cases]
    finally:
        postgres.stop()
