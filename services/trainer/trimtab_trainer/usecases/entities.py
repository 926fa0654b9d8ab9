"""What the trainer speaks of: jobs, what becomes of them, and what they make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from trimtab_core.specs import Model
from trimtab_training.progress import Progress

REPRODUCE: Final = "reproduce"
RANKS: Final = {"manual": 0, "registered": 0, "schedule": 2, "new_rows": 2, REPRODUCE: 3}
"""Of what triggered a job; drift, of whatever kind, has rank 1."""
RANK_MS = 3_600_000
TESTS: Final = "tests.json"
"""What the behavioural tests are called in a job's folder, as they were applied when it began."""


class Status(StrEnum):
    """How far a run is."""

    QUEUED = "queued"
    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED: Final = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An artifact: where it is, what is in it (sha256, hex), and its size in bytes."""

    uri: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Part:
    """A version that is to be part of another."""

    version: int
    run_id: str
    weight: float
    """In the mean; those of all parts sum to 1."""
    model: StoredFile
    features: tuple[str, ...]
    texts: tuple[str, ...]
    task: str
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Registered:
    """A model that a person brings along, or has made of versions that there are: it is evaluated, and none is fitted."""

    model: StoredFile | None
    """None where it is made of parts."""
    reference: StoredFile | None = None
    """Rows that are usual for it; those of the training window, if there is none."""
    trained_to_ms: int | None = None
    """Event time of the newest row that it was fitted to, if that is known."""
    origin: str = ""
    """A file's name, or where in MLflow it is, or the versions."""
    parts: tuple[Part, ...] = ()
    """Versions that it is the mean of."""


@dataclass(frozen=True, slots=True)
class Command:
    """An order to train a candidate."""

    id: str
    model: str
    loop_id: str
    trigger: str
    as_of_ms: int
    registered: Registered | None = None
    changed_ms: int | None = None
    """Rows from here on are of the world that drifted, if drift ordered it."""


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
    registered: Registered | None = None
    changed_ms: int | None = None
    reproduces: str = ""
    """The run that this one makes once more; it gives no candidate, and is no news."""

    @property
    def turn_ms(self) -> int:
        """Its place in the queue: the least goes first.

        A person's order goes before drift's and that before what was merely due, as if a rank were an hour
        of waiting; so what waits is overtaken for so long at most.
        """
        return self.queued_at_ms + RANKS.get(self.trigger, 1) * RANK_MS


@dataclass(frozen=True, slots=True)
class Champion:
    """The live version, to be evaluated beside the candidate."""

    number: int
    model: StoredFile
    features: tuple[str, ...]
    trained_to_ms: int = 0
    """Event time of the newest row that it was fitted to."""
    recipe: str = ""
    """What its spec said a model is made of; empty of a version that is older than recipes."""
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
class Plan:
    """What of the window was fitted to, and how thoroughly that was judged; as `choosing` and `fitting` have it."""

    window: str = "history"
    changed_ms: int | None = None
    sentence: str = ""
    every: int = 1
    stretches: int = 3


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a run's outcome follows from, besides the rows, the software and the machine."""

    model: Model
    generation: int
    as_of_ms: int
    champion: Champion | None = None
    changed_ms: int | None = None
    definitions: Mapping[str, str] = field(default_factory=dict)
    """Digest of each spec that the rows follow from, by kind/name."""
    tables: tuple[tuple[str, int], ...] = ()
    """The versions to read the rows at; the newest, if it is none."""
    plan: Plan | None = None
    """How thoroughly to judge; by how long a fit takes, if it is not given."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One fact of a run and what it was when the run was made once more."""

    what: str
    before: str
    again: str
    outcome: bool = False
    """Whether it came out of the run; else it went into it."""

    @property
    def same(self) -> bool:
        """Whether it was the same again."""
        return self.before == self.again


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What came of making a run once more."""

    compared: tuple[Compared, ...]
    sentence: str

    @property
    def identical(self) -> bool:
        """Whether all that came out is the same."""
        outcomes = [each.same for each in self.compared if each.outcome]
        return bool(outcomes) and all(outcomes)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What the child process made; the paths lie in the job's folder."""

    model: Path
    reference: Path
    evaluation: Path
    evidence: Path
    features: tuple[str, ...]
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    """Of those metrics whose rows can tell."""
    rows: int
    trained_from_ms: int
    trained_to_ms: int
    parameters: Mapping[str, Any]
    environment: Mapping[str, str]
    latency: Mapping[str, Any] = field(default_factory=dict)
    """Of one row, as the message `Latency` has it."""
    tests: Sequence[Mapping[str, Any]] = ()
    """What each behavioural test said, as the message `GateResult` has it."""
    plan: Plan = field(default_factory=Plan)
    classes: tuple[str, ...] = ()
    """Of the label, if it is no number."""
    texts: tuple[str, ...] = ()
    """Features that are texts, beside the others."""
    cpu_s: float | None = None
    """How long its process computed."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a run offers."""

    model: StoredFile
    reference: StoredFile
    evaluation: StoredFile
    evidence: StoredFile
    fitted: Fitted
    training_set: TrainingSet
    recipe: Recipe
    parts: tuple[Part, ...] = ()
    """The versions that it is the mean of, if it is an ensemble."""


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
    reproduction: Reproduction | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """What somebody wrote on a run."""

    text: str
    by: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Told:
    """A job, the newest news of it in the form in which it was published, and how far its newest attempt is."""

    job: Job
    message: bytes
    progress: Progress | None = None
    log: StoredFile | None = None
    notes: tuple[Note, ...] = ()
