"""What the use cases need of the world."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from trimtab_core.specs import FeatureView, Model, ModelTest, Source, Table, TrainerSpec
from trimtab_training.progress import Progress
from trimtab_training.trials import Trial

from trimtab_trainer.usecases.entities import (
    Champion,
    Fitted,
    Job,
    News,
    Note,
    Recipe,
    Registered,
    StoredFile,
    Told,
    TrainingSet,
)


class Store(Protocol):
    """Keeps jobs, and with each change the news of it."""

    async def add(self, news: News) -> bool:
        """Queue a job; False if its command has one already."""
        ...

    async def claim(self, owner: str, *, now_ms: int, lease_ms: int) -> Job | None:
        """Take the job whose turn it is, of those that wait or whose lease has lapsed."""
        ...

    async def last_change(self, model: str, as_of_ms: int) -> int | None:
        """Return since when the world is another, as the newest order that knew it said up to `as_of_ms`; None if none did."""
        ...

    async def renew(self, job: Job, owner: str, *, until_ms: int, progress: Progress) -> bool:
        """Hold the lease longer, and say how far the job is.

        False if it was cancelled, is no longer `owner`'s, or is by now in another attempt.
        """
        ...

    async def record(self, news: News, owner: str) -> bool:
        """Store what became of a job; False, and nothing stored, if it was cancelled or that attempt is no longer `owner`'s."""
        ...

    async def cancel(self, run_id: str, *, by: str, reason: str, now_ms: int) -> Told:
        """End a run that has not ended, whoever is at it; one that was cancelled before stays as it is.

        Raises:
            UnknownRun: there is none of the id.
            RunEnded: it has succeeded or failed.
        """
        ...

    async def keep_log(self, job: Job, log: StoredFile) -> None:
        """Name the log of a job's attempt; that of an older attempt changes nothing."""
        ...

    async def resume(self, job: Job, owner: str, *, of: str) -> Sequence[Trial]:
        """Return the trials that earlier attempts ended of a search for `of`, in order, and forget those for anything else.

        Nothing is forgotten by an attempt that the job is no longer with.
        """
        ...

    async def keep_trials(self, job: Job, owner: str, trials: Sequence[Trial], *, of: str) -> None:
        """Keep trials that ended; of an attempt that the job is no longer with nothing is kept."""
        ...

    async def trials(self, run_id: str) -> Sequence[Trial]:
        """Return the trials of a run, in order."""
        ...

    async def note(self, run_id: str, note: Note) -> Told:
        """Add a note to a run; `UnknownRun` if there is none of the id."""
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

    def tests_of(self, model: str) -> Sequence[ModelTest]:
        """Return the behavioural tests of a model, by name."""
        ...

    @property
    def sources(self) -> Mapping[str, Source]:
        """All sources by name."""
        ...

    @property
    def views(self) -> Mapping[str, FeatureView]:
        """All feature views by name."""
        ...

    @property
    def tables(self) -> Mapping[str, Table]:
        """All reference tables by name."""
        ...


class Champions(Protocol):
    """What is live."""

    def champion(self, model: str) -> Champion | None:
        """Return a model's live version."""
        ...


class Deployed(Protocol):
    """What is wanted of models."""

    def numbers(self, model: str) -> tuple[int, int]:
        """Return the numbers of a model's champion and challenger, 0 for none."""
        ...


class Features(Protocol):
    """Where training sets come from."""

    async def training_set(self, recipe: Recipe, folder: Path) -> TrainingSet:
        """Write the labelled rows of the recipe's window, as known at its end, to a file in `folder`."""
        ...

    async def watermark_ms(self, model: str) -> int | None:
        """Return how far all that a model is trained on is archived, None if something of it is not at all."""
        ...


class Fitter(Protocol):
    """Trains in a process of its own."""

    async def fit(
        self, recipe: Recipe, rows: TrainingSet, folder: Path, tell: Callable[[Progress], None]
    ) -> Fitted:
        """Train, export and evaluate, and tell how far that is; raises `RunFailed` with what went wrong."""
        ...


class Recorded(Protocol):
    """A run that succeeded, as it is on record."""

    @property
    def recipe(self) -> Recipe:
        """What it was made of."""
        ...

    def facts(self) -> Mapping[str, str]:
        """Return what else went into it: dataset, parameters, seed, environment."""
        ...

    def outcomes(self) -> Mapping[str, str]:
        """Return what came out of it: digests and metrics."""
        ...


class Runs(Protocol):
    """Runs that gave a candidate."""

    async def recorded(self, run_id: str) -> Recorded:
        """Return one as it is on record; raises `UnknownRun`, or `RunFailed` where it gave nothing."""
        ...

    def made(self, recipe: Recipe, rows: TrainingSet, fitted: Fitted) -> Recorded:
        """Return what has just been made as it would be on record."""
        ...


class Artifacts(Protocol):
    """Keeps files by digest."""

    def put(self, path: Path) -> StoredFile:
        """Store the file at `path`."""
        ...

    def find(self, digest: str) -> StoredFile:
        """Return what is stored by a digest, or raise `NotFound`."""
        ...

    def bring(self, registered: Registered | None, trainer: TrainerSpec, folder: Path) -> None:
        """Put what a user brought along into a job's folder: the model that is judged in the place of a fit, or else their trainer."""
        ...
