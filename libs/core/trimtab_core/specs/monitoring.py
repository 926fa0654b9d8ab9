"""How a model is watched, who is told, and what trains it again."""

import math
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from trimtab_core.durations import Rate, parse_duration
from trimtab_core.measures import Measure, OfSeveral, of_categories, of_numbers
from trimtab_core.metricnames import BELOW_0, OF_FEATURES, RULED, UP_TO_1
from trimtab_core.specs.base import Name, Place, Spec
from trimtab_core.specs.gates import FairnessSpec
from trimtab_core.specs.values import Count, Duration, Persistence, PerTime, Schedule, WindowSize


class AcceptSpec(Spec):
    """The level of the judged metric up to which a live version is accepted, which its labelled rows are tested against."""

    at_most: float = Field(gt=0)
    """Of `rollout.judge`, as gates write it; rows count at most `rollout.cap`."""
    alpha: float = Field(default=0.01, gt=0, lt=0.5)
    """The chance that a version which always keeps the level is ever said not to."""


class MonitoringSpec(Spec):
    """How closely live traffic is watched."""

    window: WindowSize = 500
    """Predictions a window; or a length of event time such as `1d`, in windows that begin at multiples of it, in UTC."""
    false_alarms: PerTime = Rate(1, parse_duration("90d"))
    """The rate of alarms that is accepted while nothing has changed."""
    persistence: Persistence = (2, 3)
    """An alarm needs k of the last n windows over the threshold."""
    labels_wanted: Count | None = None
    """So many predictions of a window at most are named on `labels.wanted`, to be labelled first; none are, if not given."""
    labelled: Literal["all", "wanted"] = "all"
    """Which predictions get a label: all that can, or those that `labels.wanted` names, whose losses then count by the chance that
    each had to be asked for; a label of any other counts for nothing."""
    concept: bool = False
    """Whether losses are watched for a change row by row too; they are besides where `retrain.on` names concept, which also trains."""
    clear: float = Field(default=0.5, gt=0, lt=1)
    """An episode ends with a window that is as ordinary as this share of the windows are while nothing changes."""
    measures: dict[str, Literal[Measure, OfSeveral]] = Field(default_factory=dict)
    """How far a window is from the reference, by a feature, `prediction`, or all that are `numeric`, `categorical` or `text`: psi,
    ks, jensenshannon, hellinger, wasserstein, kl_div, TVD, ed, or distance, which is used unless another is named. Of `together`: correlation, or classifier, which
    is told beside it."""
    season: Duration | None = None
    """Compare features and answers with reference rows of the same phase of it, such as `7d`; with all, if not given."""
    slices: tuple[str, ...] = Field(default=(), max_length=8)
    """Features of few values, for each of which performance is told as well: a name, or `zone` for `request.zone`."""
    fairness: tuple[FairnessSpec, ...] = Field(default=(), max_length=20)
    """Groups that are compared on labelled predictions, as gates of fairness write it; without a limit they are told of, and nothing
    alerts. Gates of fairness are watched besides."""
    accept: AcceptSpec | None = None
    """Up to which level of the judged metric a live version is accepted; if not given, that of a gate `at_most` on it, if there is one."""
    revise: Duration = parse_duration("7d")
    """How long after its end a window's published performance is still corrected by labels that come late."""

    @property
    def classifier(self) -> bool:
        """Whether features together are told apart by a classifier too."""
        return self.measures.get("together") == "classifier"

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        if self.labelled == "wanted" and self.labels_wanted is None:
            yield (
                ("labelled",),
                "no label is wanted, so none would ever come: say how many are a window, such as labels_wanted: 20, or remove this",
            )
        for name, measure in self.measures.items():
            if measure == "correlation" or measure == "classifier":
                if name != "together":
                    yield (
                        ("measures", name),
                        f"{measure!r} is of features together: write together: {measure}",
                    )
                continue
            if name == "together":
                yield (
                    ("measures", name),
                    f"{measure!r} is a measure of one feature: write correlation or classifier, or request.together if that is a feature",
                )
            if of_numbers(measure) and name in ("categorical", "text"):
                yield (
                    ("measures", name),
                    f"{measure!r} is a measure of numbers: write psi, jensenshannon, hellinger, kl_div or TVD",
                )
            if of_categories(measure) and name == "numeric":
                yield (
                    ("measures", name),
                    f"{measure!r} is a measure of categories: write psi, jensenshannon, hellinger, kl_div, ks, wasserstein or ed",
                )


Severity = Literal["info", "warning", "critical"]


class AlertRule(Spec):
    """A limit on one of a model's metrics; whoever breaks it is told of."""

    metric: str
    """What `metrics.drift`, `.performance` and `.quality` call it, such as mae or null_share."""
    feature: str | None = None
    """Of this feature, by its name, or `zone` for `request.zone`; of each of them, if not given."""
    above: float | None = None
    """Broken above it."""
    below: float | None = None
    """Broken below it."""
    windows: int = Field(default=1, ge=1, le=1_000)
    """So many windows in a row have to break it."""
    severity: Severity = "warning"

    @property
    def limit(self) -> str:
        """The limit in words."""
        parts = (("above", self.above), ("below", self.below))
        return " or ".join(f"{word} {value:g}" for word, value in parts if value is not None)

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        if self.metric not in RULED:
            yield (
                ("metric",),
                f"{self.metric!r} is no metric that a rule can limit: use one of {', '.join(sorted(RULED))}; skew, limits of "
                "fairness and guardrails of rollouts raise alerts of their own",
            )
        elif self.feature is not None and self.metric not in OF_FEATURES:
            yield ("feature",), f"{self.metric!r} is of the model as a whole, and of no feature: remove it"
        least = -math.inf if self.metric in BELOW_0 else 0.0
        most = 1.0 if self.metric in UP_TO_1 else math.inf
        if self.above is not None and not least <= self.above < most:
            yield (
                ("above",),
                f"{self.metric} is {_always(self.above < least)} above {self.above:g}: {_range(least, most)}",
            )
        if self.below is not None and not least < self.below <= most:
            yield (
                ("below",),
                f"{self.metric} is {_always(self.below > least)} below {self.below:g}: {_range(least, most)}",
            )
        if self.above is None and self.below is None:
            yield (), "the rule has no limit: give it above, below or both"
        elif self.above is not None and self.below is not None and self.below > self.above:
            yield (
                ("below",),
                f"{self.below:g} is more than above, {self.above:g}: every value would break the rule",
            )


def _always(yes: bool) -> str:
    return "always" if yes else "never"


def _range(least: float, most: float) -> str:
    if most == math.inf:
        return "write a limit above 0"
    return f"write a limit between 0 and {most:g}" if least == 0 else f"write a limit below {most:g}"


class AlertsSpec(Spec):
    """Who is told of a model's alerts, and of what besides drift and rollouts."""

    to: tuple[Name, ...] | None = None
    """Sinks, which are a setting of monitoring; all of them, if not given."""
    at_least: Severity = "info"
    """How serious an alert has to be."""
    rules: tuple[AlertRule, ...] = ()
    """Limits on the model's metrics."""


DriftKind = Literal["data", "prediction", "performance", "concept"]
"""What is watched, and may call for a retrain; `concept` is watched only where it does, or `monitoring.concept` asks for it."""


class RetrainSpec(Spec):
    """When a model is trained again without being told to; all of it reads event time."""

    on: tuple[DriftKind, ...] = ("data", "performance")
    schedule: Schedule | None = None
    """When it is due whatever happens, as cron writes it and in UTC, such as `0 3 1 * *`."""
    new_rows: Count | None = None
    """So many rows, predicted and labelled since the live version's training set ended, and again each time so many more."""
    on_change: bool = True
    """Whether a change of what a model is made of (its trainer, features, label, source or task) trains it, once, at once."""
    cooldown: Duration = parse_duration("7d")
    at_most: PerTime = Rate(4, parse_duration("60d"))
    severe: float | None = Field(default=None, ge=1)
    """Drift of so many times what is usual does not wait for the cooldown; all drift does, if not given."""
    dry_run: bool = False
    """Whether it is only told what drift, schedule and new rows would have ordered."""
