"""From a retrain command to a candidate, whatever dies on the way.

A command makes one job. A job is held by lease: a trainer that dies lets it lapse and
another starts the job again. A run either succeeds, or fails with one sentence that
is news like any other. What it leans on may be away for a while; past its patience the
run fails with what it waited for, so that it does not hold up the runs behind it.
"""

import asyncio
import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from trimtab_core.specs import Model
from trimtab_runtime import telemetry
from trimtab_runtime.clock import Clock
from trimtab_runtime.errors import Rejected, Unavailable

log = logging.getLogger(__name__)


class Status(StrEnum):
    """How far a run is."""

    QUEUED = "queued"
    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Command:
    """An order to train a candidate."""

    id: str
    model: str
    loop_id: str
    trigger: str
    as_of_ms: int


@dataclass(frozen=True, slots=True)
class Job:
    """A command being carried out; the run's id is the job's."""

    run_id: str
    command_id: str
    model: str
    loop_id: str
    trigger: str
    as_of_ms: int
    traceparent: str | None
    queued_at_ms: int
    attempts: int = 0
    started_at_ms: int | None = None
    finished_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An artifact: where it is, what is in it (sha256, hex), and its size in bytes."""

    uri: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Champion:
    """The live version, to be evaluated beside the candidate."""

    number: int
    model: StoredFile
    features: tuple[str, ...]
    trained_to_ms: int = 0
    """Event time of the newest row that it was fitted to."""


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """A file of rows and what names them."""

    path: Path
    tables: tuple[tuple[str, int], ...]
    digest: str
    rows: int


@dataclass(frozen=True, slots=True)
class Fitted:
    """What the child process made; the paths lie in the job's folder."""

    model: Path
    reference: Path
    evaluation: Path
    features: tuple[str, ...]
    metrics: Mapping[str, float]
    rows: int
    trained_from_ms: int
    trained_to_ms: int
    parameters: Mapping[str, Any]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a run offers."""

    model: StoredFile
    reference: StoredFile
    evaluation: StoredFile
    fitted: Fitted
    training_set: TrainingSet
    champion_version: int
    model_generation: int
    seed: int


@dataclass(frozen=True, slots=True)
class News:
    """What became of a run."""

    job: Job
    status: Status
    at_ms: int
    error: str = ""
    candidate: Candidate | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """A job, and the newest news of it in the form in which it was published."""

    job: Job
    message: bytes


class Store(Protocol):
    """Keeps jobs, and with each change the news of it."""

    async def add(self, news: News) -> bool:
        """Queue a job; False if its command has one already."""
        ...

    async def claim(self, owner: str, *, now_ms: int, lease_ms: int) -> Job | None:
        """Take the oldest job that waits or whose lease has lapsed."""
        ...

    async def renew(self, job: Job, owner: str, *, until_ms: int) -> bool:
        """Hold the lease longer; False if the job is no longer `owner`'s, or is by now in another attempt."""
        ...

    async def record(self, news: News, owner: str) -> bool:
        """Store what became of a job; False, and nothing stored, if that attempt is no longer `owner`'s."""
        ...

    async def get(self, run_id: str) -> Told | None:
        """Return what was told last of a run."""
        ...

    async def list(self, model: str, limit: int) -> Sequence[Told]:
        """Return the newest runs of a model, or of all where it is empty."""
        ...


class Specs(Protocol):
    """What has been applied."""

    def model(self, name: str) -> Model:
        """Return a model, or raise `NotFound`."""
        ...

    def generation(self, resource: Model) -> int:
        """Return how often it has been changed."""
        ...


class Champions(Protocol):
    """What is live."""

    def champion(self, model: str) -> Champion | None:
        """Return a model's live version."""
        ...


class Features(Protocol):
    """Where training sets come from."""

    async def training_set(self, model: str, *, start_ms: int, end_ms: int, folder: Path) -> TrainingSet:
        """Write the labelled rows of [start, end), as known at its end, to a file in `folder`."""
        ...

    async def watermark_ms(self, model: str) -> int | None:
        """Return how far all that a model is trained on is archived, None if something of it is not at all."""
        ...


class Fitter(Protocol):
    """Trains in a process of its own."""

    async def fit(self, model: Model, rows: TrainingSet, champion: Champion | None, folder: Path) -> Fitted:
        """Train, export and evaluate; raises `RunFailed` with what went wrong."""
        ...


class Artifacts(Protocol):
    """Keeps files by digest."""

    def put(self, path: Path) -> StoredFile:
        """Store the file at `path`."""
        ...


class Jobs:
    """The trainer's work: take commands, do jobs."""

    def __init__(
        self, store: Store, specs: Specs, champions: Champions, features: Features, fitter: Fitter, artifacts: Artifacts,
        clock: Clock, *, owner: str, lease_ms: int, patience_ms: int, folder: Path,
    ) -> None:  # fmt: skip
        self._store = store
        self._specs = specs
        self._champions = champions
        self._features = features
        self._fitter = fitter
        self._artifacts = artifacts
        self._clock = clock
        self._owner = owner
        self._lease_ms = lease_ms
        self._patience_ms = patience_ms
        self._folder = folder
        self._wanted = asyncio.Event()

    async def order(self, command: Command) -> bool:
        """Queue a job for `command`; a command that has one is answered with it, and False.

        Raises:
            NotFound: there is no such model.
        """
        self._specs.model(command.model)
        job = Job(
            run_id="run-" + hashlib.sha256(command.id.encode()).hexdigest()[:16],
            command_id=command.id,
            model=command.model,
            loop_id=command.loop_id,
            trigger=command.trigger,
            as_of_ms=command.as_of_ms,
            traceparent=telemetry.traceparent(),
            queued_at_ms=self._clock.now_ms(),
        )
        added = await self._store.add(News(job, Status.QUEUED, job.queued_at_ms))
        self._wanted.set()
        return added

    async def work(self) -> None:
        """Do jobs, one after the other, until cancelled."""
        while True:
            self._wanted.clear()
            try:
                job = await self._store.claim(
                    self._owner, now_ms=self._clock.now_ms(), lease_ms=self._lease_ms
                )
                if job is not None:
                    await self._hold_and_do(job)
                    continue
            except Unavailable as error:
                log.warning("jobs wait: %s", error)
            with suppress(TimeoutError):  # look again then: another trainer's lease may have lapsed
                async with asyncio.timeout(1.0):
                    await self._wanted.wait()

    async def _hold_and_do(self, job: Job) -> None:
        """Do `job` for as long as the lease is held; a lost lease stops the work and says nothing."""
        doing = asyncio.ensure_future(self._do(job))  # noqa: TID251 - lives and ends within this call
        try:
            while not doing.done():
                await asyncio.wait([doing], timeout=self._lease_ms / 3000)
                if not doing.done() and not await self._renew(job):
                    log.warning("job %s went to another worker", job.run_id)
                    return
            await doing
        finally:
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)

    async def _renew(self, job: Job) -> bool:
        try:
            return await self._store.renew(job, self._owner, until_ms=self._clock.now_ms() + self._lease_ms)
        except Unavailable as error:
            log.warning("lease of %s is not renewed: %s", job.run_id, error)
            return True  # whether it was lost is decided when the outcome is recorded

    async def _do(self, job: Job) -> None:
        with telemetry.span("train", parent=job.traceparent, model=job.model, run=job.run_id):
            await self._store.record(self._news(job, Status.STARTED), self._owner)
            news = await self._outcome(job)
            while True:
                try:
                    if not await self._store.record(news, self._owner):
                        log.warning("run %s is another worker's by now: its outcome is dropped", job.run_id)
                    await asyncio.to_thread(_clear, self._folder_of(job), news.status)
                    return
                except Unavailable as error:
                    log.warning("outcome of %s waits: %s", job.run_id, error)
                    await asyncio.sleep(0.5)

    async def _outcome(self, job: Job) -> News:
        until_ms = self._clock.now_ms() + self._patience_ms
        while True:
            try:
                return replace(
                    self._news(job, Status.SUCCEEDED),
                    candidate=await self._train(job),
                    at_ms=self._clock.now_ms(),
                )
            except Unavailable as error:
                if self._clock.now_ms() >= until_ms:
                    waited = f"waited {self._patience_ms / 60_000:g} minutes: {error}"
                    log.warning("run %s failed: %s", job.run_id, waited)
                    return replace(self._news(job, Status.FAILED), error=waited)
                log.warning("run %s waits: %s", job.run_id, error)
                await asyncio.sleep(1.0)
            except Rejected as error:
                log.warning("run %s failed: %s", job.run_id, error)
                return replace(self._news(job, Status.FAILED), error=str(error))
            except Exception as error:  # the edge of the loop: a run's fault must not take the trainer down
                log.exception("run %s failed", job.run_id)
                return replace(self._news(job, Status.FAILED), error=f"{type(error).__name__}: {error}")

    async def _train(self, job: Job) -> Candidate:
        model = self._specs.model(job.model)
        champion = self._champions.champion(job.model)
        spec = model.spec.trainer
        folder = self._folder_of(job)
        await asyncio.to_thread(_begin, folder, job)
        rows = await self._features.training_set(
            job.model, start_ms=job.as_of_ms - spec.window, end_ms=job.as_of_ms, folder=folder
        )
        fitted = await self._fitter.fit(model, rows, champion, folder)
        put = self._artifacts.put
        return Candidate(
            model=await asyncio.to_thread(put, fitted.model),
            reference=await asyncio.to_thread(put, fitted.reference),
            evaluation=await asyncio.to_thread(put, fitted.evaluation),
            fitted=fitted,
            training_set=rows,
            champion_version=champion.number if champion else 0,
            model_generation=self._specs.generation(model),
            seed=spec.seed,
        )

    def _folder_of(self, job: Job) -> Path:
        return self._folder / f"{job.run_id}-{job.attempts}"

    def _news(self, job: Job, status: Status) -> News:
        return News(job, status, self._clock.now_ms())


def _begin(folder: Path, job: Job) -> None:
    """Make a job's folder, and remove those of its earlier attempts here, which ended without an outcome."""
    for earlier in range(1, job.attempts):
        shutil.rmtree(folder.with_name(f"{job.run_id}-{earlier}"), ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)


def _clear(folder: Path, status: Status) -> None:
    """Remove a job's files: all of one that succeeded, what is large of one whose log may be wanted."""
    if status is Status.SUCCEEDED:
        shutil.rmtree(folder, ignore_errors=True)
    for pattern in ("*.arrow", "*.onnx"):
        for file in folder.glob(pattern):
            file.unlink(missing_ok=True)
