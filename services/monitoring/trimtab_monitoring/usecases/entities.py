"""The words of monitoring: what comes in, what is remembered, what is told.

What is remembered is plain frozen data, so a store can write it down whole and read
it back equal. Times are milliseconds since the epoch; `_ms` of data is event time,
`recorded_ms` and the steps of a loop are the wall clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from trimtab_core.episodes import DriftKind, EpisodeState
from trimtab_core.judge import JudgeSpec, JudgeState
from trimtab_core.specs import Model

Severity = Literal["info", "warning", "critical"]
Outcome = Literal["ADVANCE", "PROMOTE", "ROLL_BACK", "UNDECIDED"]
Subject = Literal["drift", "performance", "quality"]


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

    @classmethod
    def of(cls, model: Model) -> "LabelStream":
        """Return the one that a model's spec names."""
        label = model.spec.label
        return cls(label.source, label.on, label.value, label.within, label.classes)

    @property
    def name(self) -> str:
        """The name under which its labels are kept; models that agree on it share them."""
        named = f"{self.source}/{self.on}/{self.value}"
        return f"{named}/class" if self.classes else named


class Row(NamedTuple):
    """A prediction and what became of it; `label` is None if none came in time."""

    at_ms: int
    id: str
    version: int
    generation: int
    challenger_version: int
    rollout_id: str
    champion: float
    challenger: float | None
    features: bytes
    label: float | None
    champion_probabilities: bytes | None = None
    challenger_probabilities: bytes | None = None


class Scored(NamedTuple):
    """A labelled prediction and its loss, clipped."""

    at_ms: int
    id: str
    loss: float


@dataclass(frozen=True, slots=True)
class Series:
    """A window being filled: how many rows it has, and the first of them."""

    rows: int = 0
    first_ms: int = 0
    first_id: str = ""


@dataclass(frozen=True, slots=True)
class Fresh:
    """How many labelled rows a version was not fitted to because they are newer; version 0 stands for none counted."""

    version: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Due:
    """A retrain that is due without drift. What names the occasion is its loop's id too."""

    trigger: Literal["schedule", "new_rows"]
    id: str
    at_ms: int
    summary: str


@dataclass(frozen=True, slots=True)
class Trial:
    """A rollout as the judge remembers it."""

    rollout_id: str
    generation: int
    """Of the deployment under which its first row was scored."""
    challenger: int
    first_ms: int
    spec: JudgeSpec
    state: JudgeState = field(default_factory=JudgeState)
    decided_ms: int | None = None
    said_at_step: int | None = None
    """The step that the last verdict spoke about."""

    @property
    def deadline_ms(self) -> int:
        """The longest wait's end."""
        return self.first_ms + round(self.spec.within_s * 1000)


@dataclass(frozen=True, slots=True)
class Watch:
    """All that is remembered of a model between two closings."""

    closed_ms: int = 0
    """Everything at or before it is joined, windowed and judged."""
    version: int = 0
    """The live version, as the newest closed rows tell."""
    generation: int = 0
    settings: str = ""
    """Of the windows that are being filled."""
    data: Series = Series()
    performance: Series = Series()
    episodes: Mapping[DriftKind, EpisodeState] = field(default_factory=dict)
    trial: Trial | None = None
    predictions: int = 0
    labels: int = 0
    fresh: Fresh = Fresh()


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
class Standing:
    """What is wanted of a model, as `deployments` tells; 0 and "" stand for none."""

    model: str
    generation: int
    champion: int
    challenger: int = 0
    rollout_id: str = ""
    step: int = 0
    steps: tuple[int, ...] = ()
    loop_id: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """One number of one window."""

    subject: Subject
    model: str
    version: int
    name: str
    value: float
    from_ms: int
    to_ms: int
    rows: int
    feature: str = ""
    threshold: float | None = None

    @property
    def id(self) -> str:
        """The same for the same window, however often it is computed."""
        return f"{self.model}/{self.version}/{self.from_ms}-{self.to_ms}/{self.name}/{self.feature}"


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """What the evidence says of one feature."""

    feature: str
    score: float
    p_value: float
    drifted: bool


@dataclass(frozen=True, slots=True)
class Drift:
    """An episode has opened, with its evidence."""

    episode: str
    model: str
    version: int
    kind: DriftKind
    at_ms: int
    from_ms: int
    rows: int
    score: float
    threshold: float
    severity: float
    features: tuple[FeatureDrift, ...]
    summary: str
    report: str
    recorded_ms: int
    changed_ms: int | None = None
    """Where the first window began that was over; None in what was kept before it was told."""


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


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge says of a challenger."""

    id: str
    model: str
    rollout_id: str
    step: int
    challenger: int
    generation: int
    outcome: Outcome
    rows: int
    mean_difference: float
    evidence: float
    alpha: float
    sentence: str
    at_ms: int
    recorded_ms: int


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
    kind: str
    """Of the alerts; all kinds, if empty."""
    until_ms: int
    """By the wall clock."""
    actor: str
    reason: str

    def holds(self, alert: Alert) -> bool:
        """Whether it is about an alert."""
        return self.subject == alert.subject and self.kind in ("", alert.kind)


@dataclass(frozen=True, slots=True)
class Closed:
    """A model's predictions at or before a time are closed."""

    model: str
    time_ms: int


News = Reading | Drift | Verdict | Command | Alert | Closed
"""All that monitoring tells."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What a gate found."""

    gate: str
    passed: bool
    value: float
    limit: float
    low: float | None
    high: float | None
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


@dataclass(frozen=True, slots=True)
class Health:
    """What a screen shows of a model."""

    watch: Watch
    waiting: int
    """Predictions that are stored and not yet closed."""
    readings: Sequence[Reading]
