"""What is watched of a model: the rows that closings take, what is remembered between two, and what they tell.

Plain frozen data, so that a store can write it down whole and read it back equal, and a
history in memory is watched as live traffic is. Times are milliseconds since the epoch;
`_ms` of data is event time, `recorded_ms` the wall clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Self

from trimtab_core.episodes import DriftKind, EpisodeState
from trimtab_core.fairwatch import FairState
from trimtab_core.guardrails import GuardSpec, GuardState, Which
from trimtab_core.judge import JudgeSpec, JudgeState
from trimtab_core.losses import Metric
from trimtab_core.policy import DriftSignal
from trimtab_core.quality import Fault
from trimtab_core.specs import Severity

Outcome = Literal["ADVANCE", "PROMOTE", "ROLL_BACK", "UNDECIDED"]
Subject = Literal["drift", "performance", "quality"]
ArmName = Literal["", "champion", "challenger"]


class Said(NamedTuple):
    """What one more version on trial said of a row; None if it had no answer."""

    version: int
    answer: float | None
    probabilities: tuple[float | None, ...] | None = None
    took_us: int = 0
    """How long it ran, at the first row of a request; 0 at the others, or where it could not be asked."""


class Others(NamedTuple):
    """Of a row in an A/B test of several versions: with how many it began, and what those beside the challenger said."""

    arms: int
    said: tuple[Said, ...]


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
    key: str = ""
    """By which its label is found."""
    others: bytes | None = None
    """`Others` as JSON; None where there are none."""
    weight: float | None = 1.0
    """What its loss counts; None where labels come for wanted rows alone, and it is none."""

    @property
    def lacks_label(self) -> bool:
        """Whether it has no label, and is to have one."""
        return self.label is None and self.weight is not None


class Asked(NamedTuple):
    """A request of a rollout, by its first row; 0 or None microseconds are those of a version that could not be asked."""

    at_ms: int
    id: str
    challenger_version: int
    champion: float
    challenger: float | None
    champion_us: int
    challenger_us: int | None
    others: bytes | None = None
    """As in `Row`."""


class Scored(NamedTuple):
    """A labelled prediction and its loss, clipped."""

    at_ms: int
    id: str
    loss: float
    """Times what the row weighs."""
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

    def signal(self, model: str, fault: str = "") -> DriftSignal:
        """Return it as the retrain policy reads it; `fault` says what is wrong with the data, if anything is."""
        return DriftSignal(
            model, self.id, self.trigger, self.at_ms / 1000, quality_fault=fault, summary=self.summary
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """A rollout as the judge remembers it, or one arm of it."""

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
class Ahead:
    """How far predictions are taken in whose labels may still come, and the window of them that is being filled."""

    reached_ms: int = 0
    version: int = 0
    generation: int = 0
    rows: Series = Series()
    settings: str = ""


@dataclass(frozen=True, slots=True)
class Doubt:
    """How the newest labelled rows of a version disagree with what was expected of them; empty if they agree."""

    version: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Breach:
    """A limit on a metric that is broken."""

    windows: int
    """For so many in a row; of one that was told, as many as it took."""
    severity: Severity
    """With which it was, or will be, told."""
    told: bool = False


@dataclass(frozen=True, slots=True)
class Blind:
    """A version whose windows are not judged, for it has no calibration."""

    version: int
    since_ms: int
    """Where its first window began."""
    sentence: str


@dataclass(frozen=True, slots=True)
class Guard:
    """A version on trial as its guardrails remember it."""

    challenger: int
    spec: GuardSpec
    state: GuardState = field(default_factory=GuardState)
    tripped_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Guards:
    """A rollout as its guardrails remember it: all versions with which it began, over the same requests."""

    rollout_id: str
    from_ms: int
    """Requests before it are taken in, or were none of the rollout's."""
    after_id: str = ""
    """Of the requests at that time, those up to here too."""
    arms: tuple[Guard, ...] = ()
    said_at_step: int | None = None
    """The step that the last verdict of a guardrail spoke about."""


@dataclass(frozen=True, slots=True)
class Paired:
    """What two versions lost on the labelled rows that both answered: the mean difference, and a confidence sequence of it."""

    rows: int
    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Earning:
    """What is known of what the live version loses, and of what the one before it lost."""

    version: int = 0
    generation: int = 0
    before: int = 0
    before_mean: float | None = None
    """Of its last labelled rows; None if they were too few."""
    before_rows: int = 0
    """How many those were."""
    paired: Paired | None = None
    rows: int = 0
    labelled: int = 0
    total: float = 0.0
    """Of the labelled rows' losses."""
    even_total: float | None = None
    """The same at the row with which they were as many as those of the version before; None until then."""
    last_rows: int = 0
    last_total: float = 0.0
    """Of the last full window of labelled rows."""
    filling_rows: int = 0
    filling_total: float = 0.0
    """Of the labelled rows after it."""
    filling_ms: int = 0
    """When those begin, where windows are by time."""
    told: int = 0
    """How many predictions there were when it was told last."""
    weighed: bool = False
    """Whether it was said if the live version is clearly worse than the one before."""


class Bet(NamedTuple):
    """What one bet against the accepted level has come to."""

    wealth: float = 0.0
    """Of its begins at all rows so far, together."""
    best: float = 0.0
    """Of that begin which is worth most."""
    from_ms: int = 0
    """That begin's row."""
    rows: int = 0
    total: float = 0.0
    """What was tested before it: rows, and their losses."""


@dataclass(frozen=True, slots=True)
class Accept:
    """What a version's labelled rows are tested against: that their mean loss is at most `level`, in the unit of the loss."""

    metric: Metric
    level: float
    cap: float
    alpha: float

    @property
    def needed(self) -> float:
        """The evidence at which a version is said to be above the level."""
        return 1 / self.alpha


@dataclass(frozen=True, slots=True)
class Acceptance:
    """How the live version stands by the accepted level."""

    held_to: Accept
    version: int = 0
    generation: int = 0
    rows: int = 0
    """Labelled, since it was tested from the beginning."""
    total: float = 0.0
    """Of their losses."""
    from_ms: int = 0
    """The first of them."""
    evidence: float = 1.0
    bets: tuple[Bet, ...] = ()
    episode: str = ""
    """Open since the evidence was enough."""
    stretch: int = 0
    """Rows since the standing was told last, or the episode opened."""
    stretch_ms: int = 0
    """The first of them."""
    stretch_to_ms: int = 0
    """The last of them."""
    stretch_total: float = 0.0
    """Of their losses."""
    kept: int = 0
    """The newest stretches in a row that kept the level, while an episode is open."""


@dataclass(frozen=True, slots=True)
class Watch:
    """All that is remembered of a model between two closings."""

    closed_ms: int = 0
    """Everything at or before it is joined and windowed."""
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
    guards: Guards | None = None
    earning: Earning = Earning()
    predictions: int = 0
    labels: int = 0
    fresh: Fresh = Fresh()
    ahead: Ahead = Ahead()
    doubt: Doubt = Doubt()
    breaches: Mapping[str, Breach] = field(default_factory=dict)
    """Limits on metrics that are broken, by what names the rule and the feature."""
    faults: Mapping[str, Fault] = field(default_factory=dict)
    """What is bad of the data of the newest window, by place."""
    blind: Blind | None = None
    """The version of the newest window, if it cannot be judged."""
    fairness: Mapping[str, FairState] = field(default_factory=dict)
    """What is known of each gate of fairness, by its name."""
    acceptance: Acceptance | None = None
    """None where no level is accepted."""
    put_off: Due | None = None
    """The newest of what was due while data was bad, which is asked again once it is well."""
    others: tuple[Trial, ...] = ()
    """The further arms of an A/B test of several versions, beside that of `trial`."""
    judged_ms: int = 0
    """Where the judge of rollouts has taken in rows that are not closed yet, up to where."""

    @property
    def judged_to(self) -> int:
        """Everything at or before it was taken in by the judge of rollouts."""
        return max(self.judged_ms, self.closed_ms)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All arms of the newest rollout."""
        return (self.trial, *self.others) if self.trial is not None else ()

    def judging(self, trials: Sequence[Trial]) -> Self:
        """Return the watch with these arms of the newest rollout."""
        return replace(self, trial=trials[0] if trials else None, others=tuple(trials[1:]))


class Arm(NamedTuple):
    """A version on trial."""

    version: int
    share: int
    """Percent of the keys that it answers."""
    loop_id: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What is wanted of a model, as `deployments` tells; 0 and "" stand for none."""

    model: str
    generation: int
    champion: int
    challenger: int = 0
    rollout_id: str = ""
    step: int = 0
    """Of an A/B test of several versions how many have left it."""
    steps: tuple[int, ...] = ()
    loop_id: str = ""
    arms: tuple[Arm, ...] = ()
    """Those still in an A/B test of several versions."""

    @property
    def on_trial(self) -> tuple[Arm, ...]:
        """The versions that are judged."""
        if self.arms or not self.rollout_id or not self.steps:
            return self.arms
        return (Arm(self.challenger, self.steps[self.step], self.loop_id),)

    @property
    def began(self) -> int:
        """With how many versions the rollout began, which share its alpha."""
        return len(self.arms) + self.step if self.arms else 1


@dataclass(frozen=True, slots=True)
class Reading:
    """One number of one window; None where it is not known, and then `unknown` says why."""

    subject: Subject
    model: str
    version: int
    name: str
    value: float | None
    from_ms: int
    to_ms: int
    rows: int
    feature: str = ""
    threshold: float | None = None
    arm: ArmName = ""
    """Whose answers it is of, where two versions gave one; it is then of the rows that both answered."""
    slice: str = ""
    """The value that its rows have of `feature`, or of `slice_of`; none if it is of all rows."""
    revision: int = 0
    """How often it was corrected by labels that came late."""
    low: float | None = None
    high: float | None = None
    """Between which it is with 95 % confidence, where that is known; of an estimate, where the realised one will be; of an
    expectation, where it should be."""
    unknown: str = ""
    held: bool | None = None
    """Of an expectation: whether it was there all the time."""
    slice_of: str = ""
    """The feature whose value `slice` is, where that is not `feature`."""

    @property
    def sliced_by(self) -> str:
        """The feature whose value `slice` is; none if it is of all rows."""
        return (self.slice_of or self.feature) if self.slice else ""

    @property
    def id(self) -> str:
        """The same for the same window, however often it is computed."""
        part = f"/{self.arm}/{self.slice}" if self.arm or self.slice else ""
        if self.slice_of:
            part = f"/{self.arm}/{self.slice_of}/{self.slice}"
        return f"{self.model}/{self.version}/{self.from_ms}-{self.to_ms}/{self.name}/{self.feature}{part}"


@dataclass(frozen=True, slots=True)
class Published:
    """A window that was told, and may have to be corrected: its rows are those of its version after one place up to another."""

    kind: Literal["data", "performance", "fairness"]
    version: int
    after: Place
    until: Place
    measure: str
    """Of what its figures are; a spec that came to mean another cannot correct it."""
    readings: tuple[Reading, ...]
    """As they were told last."""
    looks: int = 0
    """How often it has been looked at again."""


@dataclass(frozen=True, slots=True)
class Rise:
    """How much worse a slice has become, or how far the feature that moved most has moved in it."""

    feature: str
    slice: str
    rows: int
    usual: float
    """0 of a distance."""
    value: float
    share: float
    """Of the rise of all rows; of distances, of what the feature's slices weigh: their rows by the square of `value` without its noise."""


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
    fault: str = ""
    """What was bad of the data when it opened, so that it is answered alike whenever it is heard."""
    slices: tuple[Rise, ...] = ()
    """Where slices are watched: those to which most of the rise is due, or that moved most."""
    scale: str = ""
    """What `severity` is measured against, where that is not what is usual."""

    def signal(self, now_ms: int, fault: str = "", severity: float | None = None) -> DriftSignal:
        """Return it as the retrain policy reads it at an event time: as severe as it is then, or was when it was told.

        `fault` says what is wrong with the data then.
        """
        now = self.severity if severity is None else severity
        return DriftSignal(self.model, self.episode, self.kind, now_ms / 1000, now, fault, scale=self.scale)


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
    guardrail: Which | Literal[""] = ""
    """That was tripped; the evidence is then for that, and the rows are requests."""
