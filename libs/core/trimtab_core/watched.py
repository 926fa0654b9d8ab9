"""What is watched of a model: the rows that closings take, what is remembered between two, and what they tell.

Plain frozen data, so that a store can write it down whole and read it back equal, and a
history in memory is watched as live traffic is. Times are milliseconds since the epoch;
`_ms` of data is event time, `recorded_ms` the wall clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from trimtab_core.episodes import DriftKind, EpisodeState
from trimtab_core.judge import JudgeSpec, JudgeState
from trimtab_core.policy import DriftSignal

Outcome = Literal["ADVANCE", "PROMOTE", "ROLL_BACK", "UNDECIDED"]
Subject = Literal["drift", "performance", "quality"]
Arm = Literal["", "champion", "challenger"]


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
    texts: bytes | None = None
    """A JSON list of those features that are texts, in order; None if there are none."""


class Scored(NamedTuple):
    """A labelled prediction and its loss, clipped."""

    at_ms: int
    id: str
    loss: float
    row: Row | None = None
    """What it is of, where more than its loss may be asked."""


Place = tuple[int, str]
"""Where a row stands in the order in which rows are taken: its time, and then its id."""


@dataclass(frozen=True, slots=True)
class Series:
    """A window being filled: how many rows it has, and the first of them."""

    rows: int = 0
    first_ms: int = 0
    first_id: str = ""
    after: Place = (0, "")
    """Up to where rows are of the window before it, or of another version."""


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

    def signal(self, model: str) -> DriftSignal:
        """Return it as the retrain policy reads it."""
        return DriftSignal(model, self.id, self.trigger, self.at_ms / 1000, summary=self.summary)


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
    concept: Series = Series()
    episodes: Mapping[DriftKind, EpisodeState] = field(default_factory=dict)
    trial: Trial | None = None
    predictions: int = 0
    labels: int = 0
    fresh: Fresh = Fresh()


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
    arm: Arm = ""
    """Whose answers it is of, where two versions gave one; it is then of the rows that both answered."""
    slice: str = ""
    """The value of `feature` that its rows have; none if it is of all rows."""
    revision: int = 0
    """How often it was corrected by labels that came late."""

    @property
    def id(self) -> str:
        """The same for the same window, however often it is computed."""
        part = f"/{self.arm}/{self.slice}" if self.arm or self.slice else ""
        return f"{self.model}/{self.version}/{self.from_ms}-{self.to_ms}/{self.name}/{self.feature}{part}"


@dataclass(frozen=True, slots=True)
class Published:
    """A window that was told, and may have to be corrected: its rows are those of its version after one place up to another."""

    kind: Literal["data", "performance"]
    version: int
    after: Place
    until: Place
    measure: str
    """Of what its losses are; a spec that came to mean another cannot correct it."""
    readings: tuple[Reading, ...]
    """As they were told last."""
    looks: int = 0
    """How often it has been looked at again."""


@dataclass(frozen=True, slots=True)
class Rise:
    """How much worse a slice has become."""

    feature: str
    slice: str
    rows: int
    usual: float
    value: float
    share: float
    """Of the rise of all rows."""


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
    slices: tuple[Rise, ...] = ()
    """Of `performance`, where slices are watched: those to which most of the rise is due."""

    def signal(self, now_ms: int) -> DriftSignal:
        """Return it as the retrain policy reads it at an event time."""
        return DriftSignal(self.model, self.episode, self.kind, now_ms / 1000, self.severity)


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
