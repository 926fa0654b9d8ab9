"""What the trainer speaks of: jobs, what becomes of them, and what they make."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

RANKS: Final = {"manual": 0, "schedule": 2, "new_rows": 2}
"""Of what triggered a job; drift, of whatever kind, has rank 1."""
RANK_MS = 3_600_000


class Status(StrEnum):
    """How far a run is."""

    QUEUED = "queued"
    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED: Final = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})


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

    @property
    def turn_ms(self) -> int:
        """Its place in the queue: the least goes first.

        A person's order goes before drift's and that before what was merely due, as if a rank were an hour
        of waiting; so what waits is overtaken for so long at most.
        """
        return self.queued_at_ms + RANKS.get(self.trigger, 1) * RANK_MS


class Stage(StrEnum):
    """What a run is at."""

    WAITING = "waiting"
    READING = "reading"
    FITTING = "fitting"
    EVALUATING = "evaluating"
    EXPORTING = "exporting"
    STORING = "storing"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: which of its fits, and which iteration of it where the kind of model has any, both from 1."""

    stage: Stage
    fit: int = 0
    fits: int = 0
    iteration: int = 0
    iterations: int = 0
    waits_for: str = ""
    """A sentence, if what it needs is not there yet."""


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
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """A file of rows and what names them."""

    path: Path
    tables: tuple[tuple[str, int], ...]
    digest: str
    rows: int
    rows_of_other_classes: int = 0
    """That are not in it, for the model's spec does not name their label."""


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
    classes: tuple[str, ...] = ()
    """Of the label, if it is no number."""
    texts: tuple[str, ...] = ()
    """Features that are texts, beside the others."""


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
    cancelled_by: str = ""
    cancel_reason: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """A job, the newest news of it in the form in which it was published, and how far its newest attempt is."""

    job: Job
    message: bytes
    progress: Progress | None = None
    log: StoredFile | None = None
