"""What the trainer does with commands, jobs and faults."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from trimtab_contracts.training.v1.training_pb2 import RetrainCommand
from trimtab_core.specs import Model, parse
from trimtab_runtime.clock import ManualClock
from trimtab_runtime.errors import NotFound, Unavailable
from trimtab_runtime.records import Record
from trimtab_runtime.specbook import SpecBook
from trimtab_runtime.testing import eventually
from trimtab_trainer import consumers
from trimtab_trainer.messages import to_message
from trimtab_trainer.recorded import Runs
from trimtab_trainer.testing import MemoryStore
from trimtab_trainer.usecases import jobs as running
from trimtab_trainer.usecases.entities import (
    ENDED,
    Champion,
    Command,
    Fitted,
    Recipe,
    Status,
    StoredFile,
    TrainingSet,
)
from trimtab_trainer.usecases.jobs import MOST_LOG_BYTES, MOST_LOST, Jobs
from trimtab_training.errors import RunFailed
from trimtab_training.progress import Progress, Stage, Tell
from trimtab_training.trials import Outcome, Trial, handed_over

DAY = 86_400_000


def a_model(**trainer: object) -> Model:
    spec = {
        "task": "regression",
        "source": "trips",
        "features": ["request.x"],
        "rollout": {"cap": 10},
        "label": {"source": "trips", "on": "id", "value": "y", "within": "1h"},
        "trainer": {"window": "30d", **trainer},
    }
    model = parse("Model", {"metadata": {"name": "m"}, "spec": spec})
    assert isinstance(model, Model)
    return model


class Features:
    def __init__(self, faults: list[Exception]) -> None:
        self.faults = faults
        self.asked: list[tuple[int, int]] = []

    async def training_set(self, recipe: Recipe, folder: Path) -> TrainingSet:
        self.asked.append((recipe.as_of_ms - recipe.model.spec.trainer.window, recipe.as_of_ms))
        if self.faults:
            raise self.faults.pop(0)
        for name in ("rows.arrow", "log"):
            (folder / name).write_text("")
        return TrainingSet(folder / "rows.arrow", (("events/trips", 7),), "digest", 100)

    async def watermark_ms(self, model: str) -> int | None:
        return None


class SlowOnce(Features):
    """Takes a minute to say that it has nothing, once."""

    def __init__(self, clock: ManualClock, fault: Exception) -> None:
        super().__init__([fault])
        self.clock = clock

    async def training_set(self, recipe: Recipe, folder: Path) -> TrainingSet:
        self.clock.advance(60_000 if self.faults else 0)
        return await super().training_set(recipe, folder)


class Fitter:
    def __init__(self, fault: Exception | None = None) -> None:
        self.fault = fault
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.release.set()
        self.cancelled = False
        self.fits = 0

    async def fit(self, recipe: Recipe, rows: TrainingSet, folder: Path, tell: Tell) -> Fitted:
        self.fits += 1
        (folder / "log").write_text("fitting\n")
        tell(Progress(Stage.FITTING, 2, 7))
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if self.fault:
            raise self.fault
        return Fitted(
            folder, folder, folder, folder, ("x",), {"mae": 1.5}, {"mae": (1.0, 2.0)}, 100, 0, 1,
            {"kind": "linear"}, {"python": "3"},
        )  # fmt: skip


class LongFits(Fitter):
    """Fits for an hour each time, and so often loses the cluster in the end."""

    def __init__(self, losses: int) -> None:
        super().__init__()
        self.losses = losses
        self.jobs: Jobs | None = None

    async def fit(self, recipe: Recipe, rows: TrainingSet, folder: Path, tell: Tell) -> Fitted:
        fitted = await super().fit(recipe, rows, folder, tell)
        self.jobs._clock.advance(3_600_000)  # type: ignore[union-attr]
        tell(Progress(Stage.WAITING, waits_for="a place"))
        if self.fits <= self.losses:
            raise Unavailable("the cluster was lost with the run")
        return fitted


class Artifacts:
    full = False
    outages = 0

    def put(self, path: Path) -> StoredFile:
        if path.name != "log" and self.outages:
            self.outages -= 1
            raise Unavailable("the bucket is away")
        if self.full and path.name == "log":
            raise OSError("no space left")
        return StoredFile(path.name, path.read_text() if path.is_file() else "", 3)


class NoChampions:
    def champion(self, model: str) -> Champion | None:
        return None


@pytest.fixture(autouse=True)
def hardly_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_PAUSE_S", 0.01)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def make_jobs(store: MemoryStore, tmp_path: Path) -> Callable[..., Jobs]:
    def make(
        *,
        faults: list[Exception] | None = None,
        slow: Exception | None = None,
        fitter: Any = None,
        lease_ms: int = 10_000,
        artifacts: Any = None,
        book: SpecBook | None = None,
        **trainer: object,
    ) -> Jobs:
        clock = ManualClock(DAY)
        if book is None:
            book = SpecBook()
            book.put(a_model(**trainer))
        features = SlowOnce(clock, slow) if slow else Features(faults or [])
        return Jobs(
            store, book, NoChampions(), features, fitter or Fitter(), artifacts or Artifacts(), Runs(store), clock,
            owner="me", lease_ms=lease_ms, patience_ms=60_000, folder=tmp_path,
        )  # fmt: skip

    return make


@asynccontextmanager
async def at_work(jobs: Jobs) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(jobs.work())
        yield
        task.cancel()


def a_command(id: str = "c1", model: str = "m") -> Command:
    return Command(id, model, "loop", "data", as_of_ms=100 * DAY)


def told(store: MemoryStore) -> list[Status]:
    return [news.status for news in store.published]


async def test_a_run_that_has_waited_too_long_for_its_rows_fails_and_lets_the_next_one_on(
    store: MemoryStore, make_jobs: Callable[..., Jobs]
) -> None:
    jobs = make_jobs(slow=Unavailable("trips is archived up to 1970-04-01"))
    async with at_work(jobs):
        await jobs.order(a_command("c1"))
        await jobs.order(a_command("c2"))

        async def finished() -> bool:
            return Status.SUCCEEDED in told(store)

        await eventually(finished, what="the second run")

    failed = next(news for news in store.published if news.status is Status.FAILED)
    assert failed.error == "waited 1 minutes: trips is archived up to 1970-04-01"


@pytest.mark.parametrize(
    ("losses", "outcome", "said"),
    [
        (MOST_LOST, Status.SUCCEEDED, ""),
        (
            MOST_LOST + 1,
            Status.FAILED,
            f"lost at work {MOST_LOST + 1} times, and not begun again: the cluster was lost with the run",
        ),
    ],
)
async def test_a_run_that_lost_its_cluster_after_a_long_fit_has_all_its_patience_left_but_not_for_ever(
    store: MemoryStore, make_jobs: Callable[..., Jobs], losses: int, outcome: Status, said: str
) -> None:
    fitter = LongFits(losses)
    jobs = fitter.jobs = make_jobs(fitter=fitter)
    async with at_work(jobs):
        await jobs.order(a_command())

        async def ended() -> bool:
            return told(store)[-1] in ENDED

        await eventually(ended)

    assert (store.published[-1].status, store.published[-1].error) == (outcome, said)


async def test_a_command_becomes_a_candidate(store: MemoryStore, make_jobs: Callable[..., Jobs]) -> None:
    jobs = make_jobs()
    async with at_work(jobs):
        await jobs.order(a_command())

        async def finished() -> bool:
            return told(store) == [Status.QUEUED, Status.STARTED, Status.SUCCEEDED]

        await eventually(finished)

    message = to_message(store.published[-1])
    assert message.candidate.metrics["mae"] == 1.5
    assert (message.candidate.intervals["mae"].low, message.candidate.intervals["mae"].high) == (1.0, 2.0)
    assert message.candidate.tables[0].version == 7
    assert message.loop_id == "loop"
    assert (message.cost.rows, message.cost.attempts, message.cost.HasField("cpu_seconds")) == (100, 1, False)
    assert not to_message(store.published[0]).HasField("cost")


async def log_of(store: MemoryStore) -> str | None:
    (run,) = await store.list("m", 10)
    return run.log.digest if run.log else None


def left_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("fault", [None, RunFailed("no")])
async def test_the_files_of_a_run_are_removed_and_its_log_is_kept(
    store: MemoryStore, make_jobs: Callable[..., Jobs], tmp_path: Path, fault: Exception | None
) -> None:
    jobs = make_jobs(fitter=Fitter(fault))
    async with at_work(jobs):
        await jobs.order(a_command())

        async def cleared() -> bool:
            return told(store)[-1] in ENDED and left_in(tmp_path) == []

        await eventually(cleared, what="the job's files to go")
    assert await log_of(store) == "fitting\n"


async def test_what_an_attempt_left_that_ended_without_an_outcome_is_removed_by_the_next(
    store: MemoryStore, make_jobs: Callable[..., Jobs], tmp_path: Path
) -> None:
    jobs = make_jobs()
    await jobs.order(a_command())
    lost = await store.claim("me, before I was killed", now_ms=0, lease_ms=1)
    assert lost
    (tmp_path / f"{lost.run_id}-1").mkdir()
    (tmp_path / f"{lost.run_id}-1" / "rows.arrow").write_text("many")

    async with at_work(jobs):

        async def cleared() -> bool:
            return told(store)[-1] is Status.SUCCEEDED and left_in(tmp_path) == []

        await eventually(cleared, what="the files of both attempts to go")


async def test_a_redelivered_command_changes_nothing(
    store: MemoryStore, make_jobs: Callable[..., Jobs]
) -> None:
    jobs = make_jobs()

    assert await jobs.order(a_command())
    assert not await jobs.order(a_command())

    assert told(store) == [Status.QUEUED]


async def hear(jobs: Jobs, model: str) -> None:
    """Take a command as it comes from Kafka."""
    [subscription] = consumers.subscriptions(jobs)
    await subscription.handler(
        [Record(RetrainCommand(id="c1", model=model), "commands.retrain", 0, 0, None, {}, 0)]
    )


async def test_a_command_for_an_unknown_model_is_refused(
    make_jobs: Callable[..., Jobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "_SETTLE_S", 0.2)
    with pytest.raises(NotFound, match="no model 'nosuch'"):
        await hear(make_jobs(), "nosuch")


class Behind(SpecBook):
    """Reads of a model after it was first asked for it."""

    def model(self, name: str) -> Model:
        try:
            return super().model(name)
        except NotFound:
            self.put(a_model())
            raise


async def test_a_command_that_outruns_its_model_waits_for_it(
    store: MemoryStore, make_jobs: Callable[..., Jobs]
) -> None:
    await hear(make_jobs(book=Behind()), "m")

    assert told(store) == [Status.QUEUED]


async def test_a_run_that_cannot_succeed_fails_with_its_sentence(
    store: MemoryStore, make_jobs: Callable[..., Jobs]
) -> None:
    jobs = make_jobs(fitter=Fitter(RunFailed("there are 3 labelled rows")))
    async with at_work(jobs):
        await jobs.order(a_command())

        async def failed() -> bool:
            return told(store)[-1] == Status.FAILED

        await eventually(failed)

    assert store.published[-1].error == "there are 3 labelled rows"


async def test_an_outage_is_waited_out(store: MemoryStore, make_jobs: Callable[..., Jobs]) -> None:
    jobs = make_jobs(faults=[Unavailable("the feature store is away")])
    async with at_work(jobs):
        await jobs.order(a_command())

        async def finished() -> bool:
            return told(store)[-1] == Status.SUCCEEDED

        await eventually(finished)

    assert Status.FAILED not in told(store)


async def test_a_lost_lease_stops_the_work_and_its_news(
    store: MemoryStore, make_jobs: Callable[..., Jobs]
) -> None:
    fitter = Fitter()
    fitter.release.clear()
    jobs = make_jobs(fitter=fitter, lease_ms=30)
    async with at_work(jobs):
        await jobs.order(a_command())
        await fitter.started.wait()
        store._leases[store.published[0].job.run_id] = ("another", 10**15)

        async def stopped() -> bool:
            return fitter.cancelled

        await eventually(stopped)

    assert told(store) == [Status.QUEUED, Status.STARTED]


async def test_a_run_that_is_cancelled_is_dropped_with_its_files_and_the_next_one_starts(
    store: MemoryStore, make_jobs: Callable[..., Jobs], tmp_path: Path
) -> None:
    fitter = Fitter()
    fitter.release.clear()
    jobs = make_jobs(fitter=fitter, lease_ms=30)
    async with at_work(jobs):
        await jobs.order(a_command("c1"))
        await jobs.order(a_command("c2"))
        await fitter.started.wait()
        first = store.published[0].job.run_id

        await store.cancel(first, by="ann", reason="wrong window", now_ms=DAY)

        async def dropped() -> bool:
            return fitter.cancelled and not any(name.startswith(first) for name in left_in(tmp_path))

        await eventually(dropped, what="the cancelled work to end")
        fitter.release.set()

        async def finished() -> bool:
            return told(store)[-1] is Status.SUCCEEDED

        await eventually(finished, what="the second run")

    cancelled = await store.get(first)
    assert cancelled and cancelled.log and cancelled.log.digest == "fitting\n"
    statuses = [news.status for news in store.published if news.job.run_id == first]
    assert statuses == [Status.QUEUED, Status.STARTED, Status.CANCELLED]


async def test_a_run_that_is_cancelled_while_it_waits_never_starts(
    store: MemoryStore, make_jobs: Callable[..., Jobs]
) -> None:
    jobs = make_jobs()
    await jobs.order(a_command("c1"))
    await store.cancel(store.published[0].job.run_id, by="ann", reason="", now_ms=DAY)
    async with at_work(jobs):
        await jobs.order(a_command("c2"))

        async def finished() -> bool:
            return told(store)[-1] is Status.SUCCEEDED

        await eventually(finished)

    assert told(store) == [
        Status.QUEUED,
        Status.CANCELLED,
        Status.QUEUED,
        Status.STARTED,
        Status.SUCCEEDED,
    ]


async def test_how_far_a_run_is_and_what_it_waits_for_is_stored_while_it_runs(
    store: MemoryStore, make_jobs: Callable[..., Jobs]
) -> None:
    fitter = Fitter()
    fitter.release.clear()
    faults: list[Exception] = [Unavailable("trips is behind")] * 10_000
    jobs = make_jobs(faults=faults, fitter=fitter, lease_ms=30)
    async with at_work(jobs):
        await jobs.order(a_command())

        async def progress() -> Progress | None:
            (run,) = await store.list("m", 10)
            return run.progress

        async def waiting() -> bool:
            return await progress() == Progress(Stage.WAITING, waits_for="trips is behind")

        await eventually(waiting)
        faults.clear()

        async def fitting() -> bool:
            return await progress() == Progress(Stage.FITTING, 2, 7)

        await eventually(fitting)
        fitter.release.set()

        async def finished() -> bool:
            return told(store)[-1] is Status.SUCCEEDED

        await eventually(finished)


async def test_of_a_log_that_is_too_long_the_end_is_kept(
    store: MemoryStore, make_jobs: Callable[..., Jobs]
) -> None:
    class Chatty(Fitter):
        async def fit(self, *given: Any) -> Fitted:
            fitted = await super().fit(*given)
            (given[2] / "log").write_text("x" * MOST_LOG_BYTES + "the end")
            return fitted

    jobs = make_jobs(fitter=Chatty())
    async with at_work(jobs):
        await jobs.order(a_command())

        async def finished() -> bool:
            return told(store)[-1] is Status.SUCCEEDED

        await eventually(finished)

    kept = await log_of(store)
    assert kept and kept.startswith("(7 bytes before this are left out)\nxxx") and kept.endswith("the end")


async def test_a_log_that_cannot_be_kept_costs_no_run_its_outcome(
    store: MemoryStore, make_jobs: Callable[..., Jobs]
) -> None:
    artifacts = Artifacts()
    artifacts.full = True
    jobs = make_jobs(artifacts=artifacts)
    async with at_work(jobs):
        await jobs.order(a_command())

        async def finished() -> bool:
            return told(store)[-1] is Status.SUCCEEDED

        await eventually(finished)

    assert await log_of(store) is None


class Searching(Fitter):
    """Tells two trials more than it was handed over, and then what `fault` says."""

    def __init__(self, *faults: Exception) -> None:
        super().__init__()
        self.faults = list(faults)
        self.handed_over: list[list[int]] = []

    async def fit(self, recipe: Recipe, rows: TrainingSet, folder: Path, tell: Tell) -> Fitted:
        earlier = [trial.number for trial in handed_over(folder)]
        self.handed_over.append(earlier)
        for number in (len(earlier), len(earlier) + 1):
            trial = Trial(number, "linear", {}, "mae", Outcome.COMPLETE, (1.0,), 0.1, 0.1)
            tell(Progress(Stage.SEARCHING, trial=number + 1, trials=9, ended=trial))
        self.fault = self.faults.pop(0) if self.faults else None
        return await super().fit(recipe, rows, folder, tell)


async def test_trials_are_kept_whatever_the_run_comes_to_and_not_tried_again_when_it_goes_on(
    store: MemoryStore, make_jobs: Callable[..., Jobs]
) -> None:
    fitter = Searching(Unavailable("the cluster is away"), RunFailed("it is no good"))
    jobs = make_jobs(fitter=fitter, kind="auto")
    async with at_work(jobs):
        await jobs.order(a_command())

        async def finished() -> bool:
            return told(store)[-1] is Status.FAILED

        await eventually(finished)

    assert fitter.handed_over == [[], [0, 1]]
    assert [trial.number for trial in await store.trials(store.published[0].job.run_id)] == [0, 1, 2, 3]


async def test_a_dead_trainers_search_is_taken_over_with_its_trials(
    store: MemoryStore, make_jobs: Callable[..., Jobs]
) -> None:
    dying, heir = Searching(), Searching()
    dying.release.clear()
    jobs = make_jobs(fitter=dying, kind="auto", lease_ms=60)
    async with at_work(jobs):
        await jobs.order(a_command())
        run_id = store.published[0].job.run_id

        async def kept() -> bool:
            return len(await store.trials(run_id)) == 2

        await eventually(kept)

    taking = make_jobs(fitter=heir, kind="auto", lease_ms=60)
    taking._clock.advance(1_000)  # type: ignore[attr-defined]
    async with at_work(taking):

        async def finished() -> bool:
            return told(store)[-1] is Status.SUCCEEDED

        await eventually(finished)

    assert heir.handed_over == [[0, 1]]


async def test_a_store_that_is_away_is_waited_for_and_nothing_is_fitted_again(
    store: MemoryStore, make_jobs: Callable[..., Jobs]
) -> None:
    artifacts, fitter = Artifacts(), Fitter()
    artifacts.outages = 1
    jobs = make_jobs(artifacts=artifacts, fitter=fitter)
    async with at_work(jobs):
        await jobs.order(a_command())

        async def finished() -> bool:
            return told(store)[-1] is Status.SUCCEEDED

        await eventually(finished)

    assert (artifacts.outages, fitter.fits) == (0, 1)
