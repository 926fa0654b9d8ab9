"""The words of monitoring beside those of what it watches: what comes in, what is kept, what is told.

What is remembered is plain frozen data, so a store can write it down whole and read
it back equal. Times are milliseconds since the epoch; `_ms` of data is event time,
`recorded_ms` and the steps of a loop are the wall clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from trimtab_core.losses import Task
from trimtab_core.measured import Gate as Gate
from trimtab_core.specs import Model
from trimtab_core.watched import Drift, Reading, Verdict, Watch
from trimtab_core.worth import Gain

Severity = Literal["info", "warning", "critical"]


@dataclass(frozen=True, slots=True)
class Predicted:
    """Predictions of one model by one serving instance, column by column; all columns are equally long."""

    model: str
    version: int
    challenger_version: int
    rollout_id: str
    generation: int
    feature_names: tuple[str, ...]
    ids: Sequence[str]
    keys: Sequence[str]
    event_time_ms: Sequence[int]
    champion: Sequence[float]
    challenger: Sequence[float] | None
    features: Sequence[bytes]
    """One row's features each, float64 in the order of `feature_names`."""
    champion_probabilities: Sequence[bytes] | None = None
    """Of a multiclass task: one row's chances each, float64 in the order of the classes."""
    challenger_probabilities: Sequence[bytes] | None = None
    text_names: tuple[str, ...] = ()
    texts: Sequence[bytes] | None = None
    """One row's features that are texts each, a JSON list in the order of `text_names`."""
    champion_us: Sequence[int] | None = None
    """How long the champion and the challenger ran, at the first row of a request; 0 elsewhere, or of one that was not asked."""
    challenger_us: Sequence[int] | None = None
    others: Sequence[bytes] | None = None
    """Of an A/B test of several versions: what each row's `watched.Others` are, as JSON."""

    @property
    def carries(self) -> tuple[str, ...]:
        """The features of each row: numbers, and then texts."""
        return self.feature_names + self.text_names


@dataclass(frozen=True, slots=True)
class Labelled:
    """Labels of one label stream, column by column."""

    stream: str
    keys: Sequence[str]
    event_time_ms: Sequence[int]
    values: Sequence[float]
    classes: Sequence[str] | None = None
    """Of a stream of classes: their names; the values are then not numbers."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far one writer has come in one of the partitions of a stream."""

    stream: str
    instance: str
    partition: int
    partitions: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What is stored together."""

    predicted: Sequence[Predicted] = ()
    labelled: Sequence[Labelled] = ()
    marks: Sequence[Mark] = ()


def predictions_stream(model: str) -> str:
    """Return the name under which marks speak of a model's predictions."""
    return f"predictions/{model}"


def events_stream(source: str) -> str:
    """Return the name under which marks speak of a source's events."""
    return f"events/{source}"


@dataclass(frozen=True, slots=True)
class LabelStream:
    """A source's events as labels: which field names the prediction, which holds the truth, and how late it may be."""

    source: str
    on: str
    value: str
    within_ms: int
    classes: tuple[str, ...] = ()
    """What the label can be, if it is no number: a row's label is then the number of its class."""
    late_ms: int = 0
    """So long after `within` the only label of a key still counts."""
    wanted: bool = False
    """Whether labels come for the predictions alone that are to be labelled first: what others have is then none."""

    @classmethod
    def of(cls, model: Model) -> "LabelStream":
        """Return the one that a model's spec names."""
        label, wanted = model.spec.label, model.spec.monitoring.labelled == "wanted"
        return cls(label.source, label.on, label.value, label.within, label.classes, wanted=wanted)

    @property
    def name(self) -> str:
        """The name under which its labels are kept; models that agree on it share them."""
        named = f"{self.source}/{self.on}/{self.value}"
        return f"{named}/class" if self.classes else named


def group_stream(model: Model, group: str) -> LabelStream:
    """Return the stream that tells of which group a prediction is: the event that it was asked for, read as a label."""
    return LabelStream(model.spec.source, model.spec.label.on, group, 0, (group,))


def streams_of(model: Model) -> list[LabelStream]:
    """Return what a model reads of events: its labels, and those groups whose fairness is watched that are no features."""
    named = [asked.fairness for asked in model.spec.fairness]
    beside = [group for group in dict.fromkeys(named) if f"request.{group}" not in model.spec.features]
    return [LabelStream.of(model), *(group_stream(model, group) for group in beside)]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An artifact: where it is, what is in it (sha256, hex), and its size in bytes."""

    uri: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Version:
    """A version as monitoring needs it."""

    model: str
    number: int
    reference: StoredFile | None
    features: tuple[str, ...] = ()
    """In the order in which predictions carry them; empty until one came."""
    trained_to_ms: int | None = None
    """Event time of the newest row that it was fitted to, if it is known."""


@dataclass(frozen=True, slots=True)
class ReportOrder:
    """A report to be made: the rows of a version from one place in its order to another."""

    episode: str
    model: str
    version: int
    labels: LabelStream
    from_ms: int
    to_ms: int
    path: str
    task: Task | None = None
    """None of an order from before it was told; its labels are not shown."""

    @classmethod
    def of(cls, model: Model, drift: Drift) -> "ReportOrder":
        """Return the one of the window with which an episode of drift began."""
        return cls(
            drift.episode, model.name, drift.version, LabelStream.of(model), drift.from_ms, drift.at_ms, drift.report,
            model.spec.task,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Command:
    """An order to train a candidate."""

    id: str
    model: str
    loop_id: str
    trigger: str
    episode: str
    attempt: int
    reason: str
    requested_by: str
    as_of_ms: int
    at_ms: int
    changed_ms: int | None = None
    """Rows from here on are of the world that drifted, if drift ordered it."""


@dataclass(frozen=True, slots=True)
class Alert:
    """What a person should look at."""

    id: str
    subject: str
    severity: Severity
    kind: str
    """Of `KINDS`, or of a service that is newer than this one."""
    sentence: str
    at_ms: int
    occasion: str = ""
    """What an alert and the news that it is over have in common; without it, it is never over by itself."""
    resolved: bool = False
    """Whether this is the news that it is over."""

    @property
    def place(self) -> str:
        """The occasion, or the alert alone."""
        return self.occasion or self.id


@dataclass(frozen=True, slots=True)
class Delivery:
    """An alert on its way to a sink."""

    sink: str
    alert: Alert
    attempts: int = 0
    """How often the sink was tried in vain."""


@dataclass(frozen=True, slots=True)
class HeldAlert:
    """An alert as it stands."""

    alert: Alert
    resolved_ms: int | None
    """When it was over; None while it is not."""
    waiting: tuple[str, ...]
    """The sinks that are still to be told of something about it."""
    fault: str
    """Why the newest try to tell one of them failed, if it did."""


@dataclass(frozen=True, slots=True)
class Silence:
    """A time during which nobody is told of some alerts."""

    id: int
    subject: str
    """A name, or of several a pattern as a shell has it, in which `*` stands for anything."""
    kind: str
    """Of the alerts; all kinds, if empty."""
    until_ms: int
    """By the wall clock."""
    actor: str
    reason: str

    def holds(self, alert: Alert) -> bool:
        """Whether it is about an alert."""
        return self.is_of(alert.subject) and self.kind in ("", alert.kind)

    def is_of(self, subject: str) -> bool:
        """Whether it is about a subject."""
        return fnmatchcase(subject, self.subject)


@dataclass(frozen=True, slots=True)
class Closed:
    """A model's predictions at or before a time are closed."""

    model: str
    time_ms: int


@dataclass(frozen=True, slots=True)
class WantedLabel:
    """A prediction that is to be labelled, of a window of `rows` predictions."""

    model: str
    version: int
    id: str
    key: str
    at_ms: int
    prediction: float
    expected: float | None
    """What it is expected to lose, where that can be said."""
    chance: float
    """Of being asked for."""
    from_ms: int
    to_ms: int
    rows: int
    weight: float | None = None
    """What its loss counts among the rows of the window that are to be labelled; None in what was told before that was kept."""


News = Reading | Drift | Verdict | Command | Alert | Closed | WantedLabel
"""All that monitoring tells."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took, however it ended."""

    wall_s: float
    cpu_s: float | None
    """None where it gave no candidate."""
    rows: int
    """That were fitted to."""
    attempts: int


@dataclass(frozen=True, slots=True)
class Decided:
    """What the policy answered to a loop's trigger, from an event time on."""

    at_ms: int
    cause: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Loop:
    """One pass from trigger to outcome."""

    id: str
    model: str
    trigger: str = ""
    state: str = "triggered"
    open: bool = True
    drift: Drift | None = None
    reason: str = ""
    decisions: tuple[Decided, ...] = ()
    """The newest answers of the policy, oldest first: one each time its cause changed."""
    command_id: str = ""
    run_id: str = ""
    version: int = 0
    rollout_id: str = ""
    """Of its trial, once it is on."""
    gates: tuple[Gate, ...] = ()
    verdict: Verdict | None = None
    outcome: str = ""
    traceparent: str | None = None
    as_of_ms: int | None = None
    settled_ms: int | None = None
    steps: Mapping[str, int] = field(default_factory=dict)
    cost: Cost | None = None
    gain: Gain | None = None
    """What its version has bought since it is live."""
    worse: bool = False
    """Whether its version was found to lose clearly more than the one before."""
    live_closed_ms: int | None = None
    """How far the model's predictions were closed when its version went live."""
    taken_back_ms: int | None = None
    """When its version was taken back that had been live, in event time."""


@dataclass(frozen=True, slots=True)
class Health:
    """What a screen shows of a model."""

    watch: Watch
    waiting: int
    """Predictions that are stored and not yet closed."""
    readings: Sequence[Reading]
