"""A model whole: its label, its parts, and what has to go together among them."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Literal, get_args

from pydantic import Field

from trimtab_core.apart import APART
from trimtab_core.drift import Kind
from trimtab_core.labelling import HEAVIEST
from trimtab_core.losses import aggregate, as_loss
from trimtab_core.measures import Measure
from trimtab_core.metricnames import ESTIMATED, OF_LABELS, OF_TASK
from trimtab_core.specs.base import FieldName, Place, Spec
from trimtab_core.specs.gates import FairnessGateSpec, FairnessSpec, GateSpec, MetricName, OneGate
from trimtab_core.specs.monitoring import AcceptSpec, AlertRule, AlertsSpec, MonitoringSpec, RetrainSpec
from trimtab_core.specs.rollout import RolloutSpec
from trimtab_core.specs.trainer import TrainerSpec
from trimtab_core.specs.values import ClassName, Duration, SourceName
from trimtab_core.together import TOGETHER


class LabelSpec(Spec):
    """Where the truth about a prediction comes from, and when at the latest."""

    source: SourceName
    on: FieldName
    """The field that both the model's source and the label's source carry."""
    value: FieldName
    within: Duration
    classes: tuple[ClassName, ...] = ()
    """All values that the label of a multiclass task can have, as text; a prediction names them in this order.

    A binary label that is no number or boolean has two, of which the second is the positive one.
    """

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        for index, name in enumerate(self.classes):
            if name in self.classes[:index]:
                yield ("classes", index), f"{name!r} is named twice: drop one"


class CardSpec(Spec):
    """What only people know of a model, for its card; who owns it is in `metadata.owner`."""

    purpose: str | None = None
    """What it is for."""
    intended_use: str | None = None
    """By whom and where it is to be used, and where not."""
    limits: tuple[str, ...] = ()
    """What is known of where it is wrong, a sentence each."""


class ServingSpec(Spec):
    """How a model's versions answer."""

    cache: Duration | None = None
    """How long an answer is kept for requests with the very same features; none is, if not given. Of use to a slow model."""


class EvidenceSpec(Spec):
    """What is told of a candidate beyond what its gates read."""

    slices: tuple[str, ...] = ()
    """Features by whose values its metrics are told as well: a name, or `zone` for `request.zone`."""
    learning_curve: bool = False
    """Whether it is fitted to growing shares of the older rows too, which costs two fits."""


CAPS: dict[str, float] = {"error_rate": 1.0, "log_loss": 4.0}
"""What one row counts at most where the spec does not say; a label's own unit is for the user to cap."""

_NO_FEATURES = (*get_args(Kind), "prediction", "together")
"""What a measure can be asked for besides features."""


class ModelSpec(Spec):
    """A model that Trimtab trains, serves and watches."""

    task: Literal["regression", "binary", "multiclass"]
    source: SourceName
    features: tuple[str, ...] = Field(min_length=1)
    """`view.*`, `view.feature`, `request.field`, `text(request.field)`, `hour(field)`, `weekday(field)` or `month(field)`, `table[field].column`;
    or an expression of those with a name, such as `expected = request.distance / zone_speed.mph_mean_7d * 60`."""
    label: LabelSpec
    trainer: TrainerSpec
    score: tuple[Literal["request", "stream"], ...] = Field(default=("request",), min_length=1)
    """What is answered: `request`, whoever asks; `stream`, besides, every event of the source as it arrives, on `scores.<source>`."""
    gates: tuple[OneGate, ...] = ()
    rollout: RolloutSpec = RolloutSpec()
    monitoring: MonitoringSpec = MonitoringSpec()
    retrain: RetrainSpec = RetrainSpec()
    alerts: AlertsSpec = AlertsSpec()
    serving: ServingSpec = ServingSpec()
    evidence: EvidenceSpec | None = None
    card: CardSpec | None = None

    @property
    def groups(self) -> tuple[str, ...]:
        """The fields of the source by whose values gates and `monitoring.fairness` tell rows apart; they need be no features."""
        sliced = [
            gate.slices for gate in self.gates if isinstance(gate, GateSpec) and gate.slices is not None
        ]
        return tuple(dict.fromkeys([*sliced, *(each.fairness for each in self.fairness)]))

    @property
    def fairness(self) -> tuple[FairnessSpec, ...]:
        """What is watched of how alike groups are treated: what gates and `monitoring.fairness` ask, what has a limit first."""
        asked = [gate for gate in self.gates if isinstance(gate, FairnessGateSpec)]
        return tuple(sorted([*asked, *self.monitoring.fairness], key=lambda each: not each.limited))

    @property
    def slices(self) -> tuple[str, ...]:
        """The features by whose values performance is told, by the names under which rows carry them."""
        return tuple(dict.fromkeys(self._carried(name) for name in self.monitoring.slices))

    @property
    def rules(self) -> tuple[AlertRule, ...]:
        """The limits on its metrics, with features by the names under which rows carry them."""
        return tuple(
            rule if rule.feature is None else rule.model_copy(update={"feature": self._carried(rule.feature)})
            for rule in self.alerts.rules
        )

    @property
    def measures(self) -> dict[str, Measure]:
        """The measures that are asked for, of kinds, of `prediction` and of features by the names under which rows carry them."""
        return {
            name if name in _NO_FEATURES else self._carried(name): measure
            for name, measure in self.monitoring.measures.items()
            if measure != "correlation" and measure != "classifier"
        }

    @property
    def judged_by(self) -> MetricName:
        """The metric that the rollout judge and the performance watch read."""
        return self.rollout.judge or ("mae" if self.task == "regression" else "log_loss")

    @property
    def cap(self) -> float:
        """The most that a row's loss counts, in the unit of `judged_by`."""
        return self.rollout.cap or CAPS[self.judged_by]

    @property
    def most(self) -> float:
        """The most that a row's loss comes to, times what the row weighs."""
        return self.cap * (HEAVIEST if self.monitoring.labelled == "wanted" else 1)

    @property
    def accepted(self) -> AcceptSpec | None:
        """Up to where `judged_by` is accepted of a live version: as stated, or by the strictest gate on it that can be broken."""
        if self.monitoring.accept is not None:
            return self.monitoring.accept
        stated = [
            gate.at_most
            for gate in self.gates
            if isinstance(gate, GateSpec) and gate.metric == self.judged_by and gate.at_most is not None
        ]
        limits = [each for each in stated if each > 0 and as_loss(self.judged_by, each) < self.cap]
        return AcceptSpec(at_most=min(limits)) if limits else None

    @property
    def beside(self) -> tuple[str, ...]:
        """What is told of labelled predictions beside `judged_by`; nothing where those are the wanted ones, which are the hard ones."""
        if self.monitoring.labelled == "wanted":
            return ()
        return tuple(name for name in OF_TASK[self.task] if name != self.judged_by)

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        for faults in (
            self._task_faults, self._fairness_faults, self._label_faults, self._slice_faults, self._measure_faults,
            self._alert_faults, self._limit_faults,
        ):  # fmt: skip
            with suppress(AttributeError):  # it asks for what could not be read
                yield from faults()

    def _task_faults(self) -> Iterator[tuple[Place, str]]:
        """Yield what is not for the task."""
        if said := self._classes_fault():
            yield ("label", "classes"), said
        fitting = ("mae", "rmse") if self.task == "regression" else ("log_loss", "error_rate")
        metrics: list[tuple[Place, str]] = [(("rollout", "judge"), self.judged_by)]
        for index, gate in enumerate(self.gates):
            with suppress(AttributeError):  # it asks for what could not be read
                if isinstance(gate, GateSpec):
                    metrics.append((("gates", index, "metric"), gate.metric))
                else:
                    for place, said in gate.task_disagreements(self.task):
                        yield ("gates", index, *place), said
        for place, metric in metrics:
            if metric not in fitting:
                yield place, f"{metric!r} is not for {self.task}: write {' or '.join(fitting)}"
        if self.trainer.class_weight is not None and self.task == "regression":
            yield (
                ("trainer", "class_weight"),
                f"{self.trainer.class_weight!r} is for classes, and the task is regression: remove it",
            )

    def _label_faults(self) -> Iterator[tuple[Place, str]]:
        """Yield what labels of wanted rows alone cannot tell."""
        if self.monitoring.labelled == "wanted" and self.fairness:
            yield (
                ("monitoring", "labelled"),
                "fairness counts mistakes row by row, and of wanted rows those are the hard ones: drop it from gates and "
                "monitoring, or have labels for all rows",
            )

    def _slice_faults(self) -> Iterator[tuple[Place, str]]:
        """Yield why rows cannot be told apart by what is named."""
        slicing = {
            "evidence": self.evidence.slices if self.evidence else (),
            "monitoring": self.monitoring.slices,
        }
        for part, names in slicing.items():
            for index, name in enumerate(names):
                if not self._has(name):
                    yield (
                        (part, "slices", index),
                        f"{name!r} is no feature of the model: add request.{name} to features, or name one of them",
                    )
                elif name.startswith("text("):
                    yield (
                        (part, "slices", index),
                        f"{name!r} is of words, and a slice is of one value: name a feature of few values",
                    )

    def _measure_faults(self) -> Iterator[tuple[Place, str]]:
        """Yield why a measure is of nothing."""
        for name in [each for each in self.monitoring.measures if each not in _NO_FEATURES]:
            if not self._has(name):
                yield (
                    ("monitoring", "measures", name),
                    f"{name!r} is no feature of the model: name one of them, prediction, numeric, categorical, text or together",
                )
            elif self._carried(name) in self.monitoring.measures.keys() - {name}:
                yield (
                    ("monitoring", "measures", name),
                    f"{name!r} and {self._carried(name)!r} are one feature: drop one of them",
                )
        if self.monitoring.classifier and len(self.features) == 1 and not self.features[0].endswith(".*"):
            yield (
                ("monitoring", "measures", "together"),
                "a classifier tells two features apart or more, and the model has one: add a feature, or remove it",
            )

    def _alert_faults(self) -> Iterator[tuple[Place, str]]:
        """Yield the faults of all alert rules."""
        for index, rule in enumerate(self.alerts.rules):
            for place, said in self._rule_faults(rule):
                yield ("alerts", "rules", index, *place), said

    def _limit_faults(self) -> Iterator[tuple[Place, str]]:
        """Yield what is missing for losses to be held to limits, and limits that cannot be exceeded."""
        if self.rollout.cap is None and self.judged_by not in CAPS:
            yield (
                ("rollout", "cap"),
                f"it is missing: say how much one row's {self.judged_by} may count at most",
            )
        elif (accept := self.monitoring.accept) and as_loss(self.judged_by, accept.at_most) >= self.cap:
            yield (
                ("monitoring", "accept", "at_most"),
                f"{accept.at_most:g} cannot be exceeded, as a row's loss counts {self.cap:g} at most (rollout.cap): accept less",
            )

    def _fairness_faults(self) -> Iterator[tuple[Place, str]]:
        """Yield why groups that are named beside gates cannot be compared so."""
        for index, each in enumerate(self.monitoring.fairness):
            at: Place = ("monitoring", "fairness", index)
            for place, said in each.task_disagreements(self.task):
                yield (*at, *place), said
            named = [
                other for other in self.fairness if (other.fairness, other.of) == (each.fairness, each.of)
            ]
            if any(other.threshold != each.threshold for other in named):
                yield (
                    (*at, "threshold"),
                    f"the {each.of} of {each.fairness} is told from {each.threshold:g} on here and from another probability "
                    "elsewhere, and a figure has one name: give one threshold",
                )

    def _rule_faults(self, rule: AlertRule) -> Iterator[tuple[Place, str]]:
        """Yield why a rule could never be broken."""
        together = rule.metric == "drift" and rule.feature in (TOGETHER, APART)
        if together and rule.feature == APART and not self.monitoring.classifier:
            yield (
                ("feature",),
                f"{APART!r} is told by a classifier: set together: classifier in monitoring.measures",
            )
        if rule.feature is not None and not together and not self._has(rule.feature):
            yield ("feature",), f"{rule.feature!r} is no feature of the model: name one of them"
        if rule.metric not in (*OF_LABELS, *ESTIMATED):
            return
        judged = (self.judged_by, f"estimated_{self.judged_by}")
        measured = (*judged, *self.beside)
        if rule.metric not in measured:
            *others, last = measured
            yield (
                ("metric",),
                f"{rule.metric!r} is not measured of the model, which rollout.judge has judged by {self.judged_by}: write "
                f"{', '.join(others)} or {last}",
            )
        elif rule.metric in judged and (self.rollout.cap is not None or self.judged_by in CAPS):
            most = aggregate(self.judged_by, [self.cap])
            if rule.above is not None and rule.above >= most:
                yield (
                    ("above",),
                    f"{rule.metric} is never above {rule.above:g}, for rollout.cap lets a row count {self.cap:g} at most: "
                    f"write less than {most:g}",
                )

    def _has(self, name: str) -> bool:
        """Return whether a feature is called `name`, or is the field of that name of the request."""
        return bool(self._called() & {name, f"request.{name}", f"{name.partition('.')[0]}.*"})

    def _carried(self, name: str) -> str:
        """Return the name under which rows carry a feature that `_has` finds; of several together, how they are called."""
        short = not ("." in name or "(" in name or name in self._called() or name in (TOGETHER, APART))
        return f"request.{name}" if short else name

    def _called(self) -> set[str]:
        return {feature.partition(" = ")[0].strip() for feature in self.features}

    def _classes_fault(self) -> str:
        named = list(self.label.classes)
        if self.task == "multiclass" and len(named) < 3:
            return f"{named} are too few for multiclass: name all values that the label can have, three at the least"
        if self.task == "binary" and len(named) not in (0, 2):
            return f"{named} are no two classes: name the negative and the positive one, or write task: multiclass"
        if self.task == "regression" and named:
            return f"{named} are for a label that is a class: remove them, or write task: multiclass"
        return ""
