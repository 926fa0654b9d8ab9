"""A small world to be watched: one model, its reference, and traffic made to order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from trimtab_core.baseline import Calibration, Settings, calibrate, learn_losses
from trimtab_core.metricnames import BY_SUBJECT
from trimtab_core.specs import FeatureView, Model, Source, Table
from trimtab_core.watched import Drift, Reading, Standing
from trimtab_monitoring.grpc_api import MonitoringApi
from trimtab_monitoring.testing import MemoryStore
from trimtab_monitoring.usecases.alerting import Alerting
from trimtab_monitoring.usecases.calibrating import Calibrations
from trimtab_monitoring.usecases.closing import Closing
from trimtab_monitoring.usecases.entities import (
    Arrivals,
    Closed,
    Labelled,
    Mark,
    News,
    Predicted,
    StoredFile,
    Version,
    events_stream,
    predictions_stream,
)
from trimtab_monitoring.usecases.ports import Store
from trimtab_monitoring.usecases.retraining import Retraining
from trimtab_runtime.clock import ManualClock

HOUR = 3_600_000
BEGIN = 1_700_000_000_000 // HOUR * HOUR
STEP = 60_000
FEATURES = ("request.x", "request.z")
Floats = NDArray[np.float64]


def a_source(name: str = "asks", *, partitions: int = 2) -> Source:
    fields = {
        "id": {"type": "string"}, "at": {"type": "timestamp"}, "x": {"type": "number"}, "z": {"type": "number"},
        "y": {"type": "number"},
    }  # fmt: skip
    spec = {"key": "id", "event_time": "at", "lateness": "1h", "partitions": partitions, "fields": fields}
    return Source.model_validate({"metadata": {"name": name}, "spec": spec})


def a_model(name: str = "m", *, source: str = "asks", labels: str = "truths", **spec: Any) -> Model:
    defaults: dict[str, Any] = {
        "task": "regression",
        "source": source,
        "features": list(FEATURES),
        "label": {"source": labels, "on": "id", "value": "y", "within": "1h"},
        "trainer": {"window": "30d"},
        "rollout": {"steps": [10, 50, 100], "cap": 10, "within": "2d"},
        "monitoring": {"window": 100, "false_alarms": "1 per 90d"},
        "retrain": {"on": ["data", "performance"], "cooldown": "1d", "at_most": "3 per 10d"},
    }
    return Model.model_validate({"metadata": {"name": name}, "spec": defaults | spec})


def a_reference(rows: int = 3_000, *, seed: int = 7) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    columns = {name: rng.normal(size=rows) for name in FEATURES}
    columns["prediction"] = columns["request.x"] * 2
    columns["loss"] = np.abs(rng.normal(0, 0.5, rows))
    columns["event_time_ms"] = BEGIN - 30 * 24 * HOUR + np.arange(rows) * float(STEP)
    return columns


@dataclass
class Traffic:
    """Predictions and what came true, row by row in order of time."""

    start: int
    x: Floats
    labels: Floats
    version: int = 1
    generation: int = 1
    challenger_version: int = 0
    rollout_id: str = ""
    challenger: Floats | None = None
    others: Sequence[bytes] | None = None
    step_ms: int = STEP
    took_us: tuple[int, int] | None = None
    """How long champion and challenger ran for each row, each a request."""

    @cached_property
    def times(self) -> list[int]:
        return [BEGIN + (self.start + at) * self.step_ms for at in range(len(self.x))]

    def predicted(self, places: Sequence[int] | None = None, *, model: str = "m") -> Predicted:
        chosen = range(len(self.x)) if places is None else places
        z = np.random.default_rng(self.start).normal(size=len(self.x))
        return Predicted(
            model=model,
            version=self.version,
            challenger_version=self.challenger_version,
            rollout_id=self.rollout_id,
            generation=self.generation,
            feature_names=FEATURES,
            ids=[f"p{self.start + at:06}" for at in chosen],
            keys=[f"k{self.start + at}" for at in chosen],
            event_time_ms=[self.times[at] for at in chosen],
            champion=[2 * float(self.x[at]) for at in chosen],
            challenger=None if self.challenger is None else [float(self.challenger[at]) for at in chosen],
            features=[np.array([self.x[at], z[at]]).tobytes() for at in chosen],
            champion_us=self.took_us and [self.took_us[0]] * len(chosen),
            challenger_us=self.took_us and [self.took_us[1]] * len(chosen),
            others=None if self.others is None else [self.others[at] for at in chosen],
        )

    def labelled(self, places: Sequence[int] | None = None, *, after_ms: int = 30_000) -> Labelled:
        chosen = range(len(self.x)) if places is None else places
        known = [at for at in chosen if np.isfinite(self.labels[at])]
        return Labelled(
            "truths/id/y",
            [f"k{self.start + at}" for at in known],
            [self.times[at] + after_ms for at in known],
            [float(self.labels[at]) for at in known],
        )


def traffic(
    start: int, rows: int, *, shift: float = 0.0, error: float = 0.5, seed: int = 1, **more: Any
) -> Traffic:
    rng = np.random.default_rng((seed, start))
    x = rng.normal(shift, 1, rows)
    return Traffic(start, x, 2 * x + rng.normal(0, error, rows), **more)


class Fleet:
    """What is wanted to serve, as a test sets it."""

    def __init__(self) -> None:
        self.standings: dict[str, Standing] = {"m": Standing("m", 1, 1)}

    def standing(self, model: str) -> Standing | None:
        return self.standings.get(model)


@dataclass
class Specs:
    models: dict[str, Model] = field(default_factory=lambda: {"m": a_model()})
    sources: dict[str, Source] = field(default_factory=lambda: {"asks": a_source()})
    views: dict[str, FeatureView] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)

    def model(self, name: str) -> Model:
        return self.models[name]

    def source(self, name: str) -> Source:
        return self.sources[name]


class Desk:
    """Calibrates at once, from the references that a test filed; what rows lose it learns where that is asked for."""

    def __init__(self, *, learns: bool = False) -> None:
        self._learns = learns
        self.files: dict[str, dict[str, Floats]] = {"/1": a_reference(), "/2": a_reference(seed=8)}
        self._made: dict[tuple[str, str], Calibration] = {}

    async def calibrate(self, reference: StoredFile, settings: Settings) -> Calibration:
        place = (reference.uri, settings.key)
        if place not in self._made:
            columns = self.files[reference.uri]
            learnt = learn_losses(columns, settings) if self._learns else None
            self._made[place] = calibrate(columns, settings, estimator=learnt)
        return self._made[place]


_DESK = Desk()


class World:
    """Monitoring on a store, driven by hand."""

    def __init__(self, store: Store | None = None, *, desk: Desk = _DESK) -> None:
        self.memory = MemoryStore()
        self.store: Store = store or self.memory
        self.specs, self.fleet, self.clock = Specs(), Fleet(), ManualClock(5_000)
        self.desk = desk
        self.retraining = Retraining(self.store, self.specs, self.clock)
        self.restart()

    def restart(self) -> None:
        """Forget all that a process holds in memory."""
        self.woken: list[str] = []
        self.calibrations = Calibrations(self.store, self.specs, self.fleet, self.desk, self.woken.append)
        self.closing = Closing(
            self.store, self.specs, self.fleet, self.calibrations, self.retraining, self.clock,
            reports=Path("/reports"), silent_ms=60_000,
        )  # fmt: skip

    @property
    def api(self) -> MonitoringApi:
        """The gRPC door, without a history and reports."""
        alerting = Alerting(self.memory.alerts, self.specs, {}, self.clock)
        return MonitoringApi(self.store, self.specs, self.fleet, self.calibrations, alerting, None, None)  # type: ignore[arg-type]

    async def ready(self, *numbers: int) -> None:
        """Have versions known and calibrated, 1 alone if none is named."""
        for number in numbers or (1,):
            version = Version("m", number, StoredFile(f"/{number}", "", 0))
            await self.store.put_versions([version])
            settings = self.calibrations.settings(self.specs.model("m"))
            found = await self.desk.calibrate(version.reference, settings)  # type: ignore[arg-type]
            await self.store.put_calibration("m", number, settings.key, found)

    async def mark(self, until_ms: int, *, labels_ms: int | None = None) -> None:
        """Let predictions and, an hour later, labels be complete up to `until_ms`."""
        reached = until_ms + HOUR if labels_ms is None else labels_ms
        await self.store.take(
            Arrivals(
                marks=[
                    Mark(predictions_stream("m"), "s", 0, 1, until_ms),
                    Mark(events_stream("truths"), "", 0, 1, reached),
                ]
            )
        )

    async def close(self) -> None:
        """Close all that can be closed."""
        while await self.closing.close("m"):
            pass

    async def live(self, *parts: Traffic) -> None:
        """Let traffic come, with its labels, and close it."""
        for part in parts:
            await self.store.take(Arrivals([part.predicted()], [part.labelled()]))
            await self.mark(part.times[-1])
            await self.close()

    def told(self, kind: type[News] | Any) -> list[Any]:
        """Return the news of one kind."""
        return [news for news in self.memory.told if isinstance(news, kind)]

    def decided(self, kind: Any = object) -> list[Any]:
        """Return the news that follows from the rows alone: not how far it is, nor estimates, which read what labels had come."""
        estimates = [it for it in self.told(Reading) if it.name.startswith("estimated_")]
        return [it for it in self.told(kind) if not isinstance(it, Closed) and it not in estimates]

    def drifts(self) -> list[Drift]:
        return self.told(Drift)


@pytest.fixture
def world() -> Iterator[World]:
    """A world whose metrics, when it ends, have names that `docs/metrics.md` explains."""
    found = World()
    yield found
    told = {(reading.subject, reading.name) for reading in found.told(Reading)}
    known = {(subject, name) for subject, names in BY_SUBJECT.items() for name in names}
    assert told <= known, "a new name goes into trimtab_core.metricnames and docs/metrics.md"


@pytest.fixture(scope="session")
def learning_desk() -> Desk:
    return Desk(learns=True)


@pytest.fixture
def new_world() -> Callable[..., World]:
    return World


@pytest.fixture
def flow() -> Callable[..., Traffic]:
    """Make traffic: `flow(start, rows, shift=, error=, ...)`."""
    return traffic


@pytest.fixture
def make_model() -> Callable[..., Model]:
    return a_model


@pytest.fixture
def make_source() -> Callable[..., Source]:
    return a_source


@pytest.fixture
def reference() -> dict[str, Floats]:
    return a_reference()
