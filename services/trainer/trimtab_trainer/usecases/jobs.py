"""From a retrain command to a candidate, whatever dies on the way.

A command makes one job. A job is held by lease: a trainer that dies lets it lapse and
another starts the job again. A run either succeeds, or fails with one sentence that
is news like any other. What it leans on may be away for a while; past its patience the
run fails with what it waited for, so that it does not hold up the runs behind it, and a
run that loses what it leans on each time it is at work fails too. A run that is
cancelled has ended there and then; who is at it learns it by the lease, and drops the
work.
"""

import asyncio
import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from trimtab_core import specs
from trimtab_runtime import telemetry
from trimtab_runtime.clock import Clock
from trimtab_runtime.errors import Rejected, Unavailable
from trimtab_training.progress import Progress, Stage
from trimtab_training.trials import Trial, fingerprint, hand_over

from trimtab_trainer.usecases import recipes
from trimtab_trainer.usecases.entities import (
    REPRODUCE,
    TESTS,
    Candidate,
    Command,
    Fitted,
    Job,
    News,
    Recipe,
    Status,
    StoredFile,
    TrainingSet,
)
from trimtab_trainer.usecases.ports import Artifacts, Champions, Features, Fitter, Runs, Specs, Store

log = logging.getLogger(__name__)

MOST_LOG_BYTES = 1 << 20
MOST_LOST = 5
"""So often a run may lose at work what it leans on, each time with patience anew."""
_BEAT_S = 1.0
"""So often a lease is renewed at least, which is also how soon progress is seen and a cancelled run's work ends."""
_PAUSE_S = 1.0
"""Between one try and the next."""


@dataclass(slots=True)
class _Attempt:
    """A job at work here."""

    job: Job
    folder: Path
    progress: Progress = field(default_factory=lambda: Progress(Stage.WAITING))
    at_work: bool = False
    """Whether this try has come past what it reads, and is not waiting to store what came of it."""
    searches_for: str = ""
    trials: list[Trial] = field(default_factory=list)
    """Those that ended, and are not kept yet."""

    def tell(self, progress: Progress) -> None:
        """Remember how far it is, and a trial that ended; the next beat says so."""
        if progress.ended:
            self.trials.append(progress.ended)
        if progress.stage not in (Stage.WAITING, Stage.READING):
            self.at_work = True
        self.progress = replace(progress, ended=None)


class Jobs:
    """The trainer's work: take commands, do jobs."""

    def __init__(
        self, store: Store, specs: Specs, champions: Champions, features: Features, fitter: Fitter, artifacts: Artifacts,
        runs: Runs, clock: Clock, *, owner: str, lease_ms: int, patience_ms: int, folder: Path,
    ) -> None:  # fmt: skip
        self._store = store
        self._specs = specs
        self._champions = champions
        self._features = features
        self._fitter = fitter
        self._artifacts = artifacts
        self._runs = runs
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
            run_id=run_of(command.id),
            command_id=command.id,
            model=command.model,
            loop_id=command.loop_id,
            trigger=command.trigger,
            as_of_ms=command.as_of_ms,
            traceparent=telemetry.traceparent(),
            queued_at_ms=self._clock.now_ms(),
            registered=command.registered,
            changed_ms=command.changed_ms,
        )
        added = await self._store.add(News(job, Status.QUEUED, job.queued_at_ms))
        self._wanted.set()
        return added

    async def reproduce(self, run_id: str, *, id: str) -> str:
        """Queue a job that makes a run once more and compares; return the new run's id, the same for the same `id`.

        Raises:
            UnknownRun: there is none of the id.
            RunFailed: it gave nothing that could be compared.
        """
        run, now_ms = await self._runs.recorded(run_id), self._clock.now_ms()
        job = Job(
            run_id=run_of(id),
            command_id=id,
            model=run.recipe.model.name,
            loop_id="",
            trigger=REPRODUCE,
            as_of_ms=run.recipe.as_of_ms,
            traceparent=telemetry.traceparent(),
            queued_at_ms=now_ms,
            reproduces=run_id,
        )
        await self._store.add(News(job, Status.QUEUED, now_ms))
        self._wanted.set()
        return job.run_id

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
        """Do `job` for as long as it is ours; the work is dropped, and nothing said, when it is not."""
        attempt = _Attempt(job, self._folder / f"{job.run_id}-{job.attempts}")
        doing = asyncio.ensure_future(self._do(attempt))  # noqa: TID251 - lives and ends within this call
        try:
            while not doing.done():
                await asyncio.wait([doing], timeout=min(self._lease_ms / 3000, _BEAT_S))
                if not doing.done() and not await self._renew(attempt):
                    log.warning("run %s was cancelled, or is another worker's by now", job.run_id)
                    await _end(doing)
                    with suppress(Unavailable):
                        await self._keep_log(attempt)
                    return
            await doing
        finally:
            await _end(doing)
            await asyncio.to_thread(shutil.rmtree, attempt.folder, ignore_errors=True)

    async def _renew(self, attempt: _Attempt) -> bool:
        until_ms = self._clock.now_ms() + self._lease_ms
        try:
            held = await self._store.renew(
                attempt.job, self._owner, until_ms=until_ms, progress=attempt.progress
            )
            await self._keep_trials(attempt)
            return held
        except Unavailable as error:
            log.warning("lease of %s is not renewed: %s", attempt.job.run_id, error)
            return True  # whether it was lost is decided when the outcome is recorded

    async def _do(self, attempt: _Attempt) -> None:
        job = attempt.job
        with telemetry.span("train", parent=job.traceparent, model=job.model, run=job.run_id):
            if not await self._store.record(self._news(job, Status.STARTED), self._owner):
                return
            news = await self._outcome(attempt)
            while True:
                try:
                    await self._keep_trials(attempt)
                    await self._keep_log(attempt)
                    if not await self._store.record(news, self._owner):
                        log.warning("run %s is not ours by now: its outcome is dropped", job.run_id)
                    return
                except Unavailable as error:
                    log.warning("outcome of %s waits: %s", job.run_id, error)
                    await asyncio.sleep(0.5)

    async def _keep_trials(self, attempt: _Attempt) -> None:
        if ended := tuple(attempt.trials):
            await self._store.keep_trials(attempt.job, self._owner, ended, of=attempt.searches_for)
            attempt.trials = [trial for trial in attempt.trials if trial not in ended]

    async def _keep_log(self, attempt: _Attempt) -> None:
        """Keep what the attempt wrote; a log that cannot be kept costs no run its outcome."""
        try:
            if not await asyncio.to_thread(_shorten, path := attempt.folder / "log"):
                return
            stored = await asyncio.to_thread(self._artifacts.put, path)
        except (OSError, Unavailable) as error:
            log.warning("the log of %s is not kept: %s", attempt.job.run_id, error)
            return
        await self._store.keep_log(attempt.job, stored)

    async def _outcome(self, attempt: _Attempt) -> News:
        job, since_ms, lost = attempt.job, self._clock.now_ms(), 0
        while True:
            attempt.at_work = False
            try:
                made = await (self._again(attempt) if job.reproduces else self._train(attempt))
                return replace(made, at_ms=self._clock.now_ms())
            except Unavailable as error:
                if attempt.at_work:  # so it waits from now on
                    since_ms, lost = self._clock.now_ms(), lost + 1
                if lost > MOST_LOST or self._clock.now_ms() >= since_ms + self._patience_ms:
                    waited = f"waited {self._patience_ms / 60_000:g} minutes: {error}"
                    often = f"lost at work {lost} times, and not begun again: {error}"
                    why = often if attempt.at_work else waited
                    log.warning("run %s failed: %s", job.run_id, why)
                    return replace(self._news(job, Status.FAILED), error=why)
                await self._wait(attempt, error)
            except Rejected as error:
                log.warning("run %s failed: %s", job.run_id, error)
                return replace(self._news(job, Status.FAILED), error=str(error))
            except Exception as error:  # the edge of the loop: a run's fault must not take the trainer down
                log.exception("run %s failed", job.run_id)
                return replace(self._news(job, Status.FAILED), error=f"{type(error).__name__}: {error}")

    async def _train(self, attempt: _Attempt) -> News:
        job = attempt.job
        if job.changed_ms is None:  # what drift told before is as true of an order that does not know it
            job = replace(job, changed_ms=await self._store.last_change(job.model, job.as_of_ms))
        recipe = recipes.of_now(job, self._specs, self._champions)
        rows, fitted = await self._make(attempt, recipe)
        attempt.tell(Progress(Stage.STORING))
        candidate = Candidate(
            model=await self._stored(fitted.model, attempt),
            reference=await self._stored(fitted.reference, attempt),
            evaluation=await self._stored(fitted.evaluation, attempt),
            evidence=await self._stored(fitted.evidence, attempt),
            fitted=fitted,
            training_set=rows,
            recipe=recipe,
            parts=job.registered.parts if job.registered else (),
        )
        return replace(self._news(job, Status.SUCCEEDED), candidate=candidate)

    async def _again(self, attempt: _Attempt) -> News:
        """Make a run once more of what it was made of, and compare the two; nothing of it is kept but the comparison.

        Raises:
            RunFailed: it is no run that can be made again.
        """
        run = await self._runs.recorded(attempt.job.reproduces)
        now = recipes.definitions(run.recipe.model, self._specs)
        try:
            rows, fitted = await self._make(attempt, run.recipe)
        except Rejected as error:
            outcome = recipes.compared(run, now, None, str(error))
        else:
            again = await asyncio.to_thread(self._runs.made, run.recipe, rows, fitted)
            outcome = recipes.compared(run, now, again)
        return replace(self._news(attempt.job, Status.SUCCEEDED), reproduction=outcome)

    async def _make(self, attempt: _Attempt, recipe: Recipe) -> tuple[TrainingSet, Fitted]:
        await asyncio.to_thread(_begin, attempt.folder, attempt.job)
        job, spec, folder = attempt.job, recipe.model.spec.trainer, attempt.folder
        rows = await self._features.training_set(recipe, folder)
        await asyncio.to_thread(_leave, folder, self._specs.tests_of(job.model))
        attempt.tell(Progress(Stage.READING))
        if job.registered is not None or spec.kind == "own":
            await asyncio.to_thread(self._artifacts.bring, job.registered, spec, folder)
        elif spec.kind == "auto":
            await self._resume_search(attempt, fingerprint(rows.digest, recipe.model))
        return rows, await self._fitter.fit(recipe, rows, folder, attempt.tell)

    async def _resume_search(self, attempt: _Attempt, of: str) -> None:
        await self._keep_trials(attempt)
        attempt.searches_for = of
        earlier = await self._store.resume(attempt.job, self._owner, of=of)
        await asyncio.to_thread(hand_over, attempt.folder, earlier)

    async def _stored(self, path: Path, attempt: _Attempt) -> StoredFile:
        """Store a file; where that is away it is waited for here, for what was fitted need not be fitted again."""
        until_ms = self._clock.now_ms() + self._patience_ms
        while True:
            try:
                return await asyncio.to_thread(self._artifacts.put, path)
            except Unavailable as error:
                if self._clock.now_ms() >= until_ms:
                    attempt.at_work = False
                    raise
                await self._wait(attempt, error)

    async def _wait(self, attempt: _Attempt, error: Unavailable) -> None:
        log.warning("run %s waits: %s", attempt.job.run_id, error)
        attempt.tell(Progress(Stage.WAITING, waits_for=str(error)))
        await asyncio.sleep(_PAUSE_S)

    def _news(self, job: Job, status: Status) -> News:
        return News(job, status, self._clock.now_ms())


def run_of(command_id: str) -> str:
    """Return the id of a command's run."""
    return "run-" + hashlib.sha256(command_id.encode()).hexdigest()[:16]


def _begin(folder: Path, job: Job) -> None:
    """Make a job's folder, and remove those of its earlier attempts here, which ended without an outcome."""
    for earlier in range(1, job.attempts):
        shutil.rmtree(folder.with_name(f"{job.run_id}-{earlier}"), ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)


def _leave(folder: Path, tests: Sequence[specs.ModelTest]) -> None:
    """Leave a model's behavioural tests for the process that trains it."""
    if tests:
        (folder / TESTS).write_text(json.dumps([specs.to_document(test) for test in tests]))


async def _end(task: asyncio.Future[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _shorten(log: Path) -> bool:
    """Leave the end of a log that is too long; False if there is none."""
    if not log.exists():
        return False
    if (left_out := log.stat().st_size - MOST_LOG_BYTES) > 0:
        with log.open("rb") as file:
            file.seek(left_out)
            kept = file.read()
        log.write_bytes(b"(%d bytes before this are left out)\n" % left_out + kept)
    return True
