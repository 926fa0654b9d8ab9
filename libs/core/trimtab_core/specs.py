"""What a user declares: sources, feature views and models.

The same classes are the Python API and, through `schema()`, the JSON Schema that
editors complete. A spec that these classes accept needs no further check of its
form by any service.
"""

import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Final, Literal, Self, get_args
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from trimtab_core.durations import Rate, format_duration, parse_duration, parse_rate

API_VERSION: Final = "trimtab/v1"

Duration = Annotated[
    int,
    BeforeValidator(lambda value: parse_duration(value) if isinstance(value, str) else value),
    PlainSerializer(format_duration, return_type=str),
    Field(gt=0, description="a length of time such as 60s, 6h or 28d", json_schema_extra={"type": "string"}),
]
"""A length of time in milliseconds, written `60s`, `6h` or `28d`."""

PerTime = Annotated[
    Rate,
    BeforeValidator(lambda value: parse_rate(value) if isinstance(value, str) else value),
    PlainSerializer(str, return_type=str),
]
"""A rate, written `4 per 60d`."""

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=80)]
FieldName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=80)]

Place = tuple[str | int, ...]
"""Keys and indices from the top of a document."""

_shown = reprlib.Repr()
_shown.maxstring = 120


class Spec(BaseModel):
    """What all parts of a spec share: nothing unknown is let through, nothing changes later."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
    )

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        wrong = [
            InitErrorDetails(
                type=PydanticCustomError("unfit", "{said}", {"said": said}), loc=place, input=self
            )
            for place, said in self._disagreements()
        ]
        if wrong:
            raise ValidationError.from_exception_data(type(self).__name__, wrong)
        return self

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        """Yield what does not go together in a part whose values are right by themselves: where, and a sentence."""
        yield from ()


class Metadata(Spec):
    """Who a resource is."""

    name: Name
    owner: str | None = None
    description: str | None = None


class FieldSpec(Spec):
    """What one field of a source's rows may hold."""

    type: Literal["string", "integer", "number", "boolean", "timestamp"]
    nullable: bool = False
    unit: str | None = None
    timezone: str | None = None
    """For a timestamp written without an offset: the zone it was written in, such as `America/New_York`."""
    min: float | None = None
    max: float | None = None
    enum: tuple[str | int, ...] | None = None
    pattern: str | None = None
    unique_within: Duration | None = None
    """Within so much event time a value may come once; who repeats it is dropped and counted, and is no dead letter.

    It holds among the rows of one partition of raw.<source>: a repeat of a row has its key, and so lies in its partition.
    Which row is the first is the order in the partition. A null is no value.
    """

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        if self.timezone is not None:
            if self.type != "timestamp":
                yield (
                    ("timezone",),
                    f"{self.timezone!r} is for timestamps, and this field is a {self.type}: remove it",
                )
            elif not _is_zone(self.timezone):
                yield (
                    ("timezone",),
                    f"{self.timezone!r} is no known timezone: write one like Europe/Zurich",
                )
        if self.pattern is not None:
            if self.type != "string":
                yield (
                    ("pattern",),
                    f"{self.pattern!r} is for strings, and this field is a {self.type}: remove it",
                )
            elif fault := _pattern_fault(self.pattern):
                yield ("pattern",), f"{self.pattern!r} is no regular expression ({fault}): mend it"
        for name, bound in (("min", self.min), ("max", self.max)):
            if bound is not None and self.type not in ("integer", "number"):
                yield (name,), f"{bound!r} is for numbers, and this field is a {self.type}: remove it"
        if self.unique_within is not None and self.type in ("boolean", "timestamp"):
            yield (
                ("unique_within",),
                f"{format_duration(self.unique_within)!r} is for values that name a row, and this field is a "
                f"{self.type}: remove it",
            )
        if self.min is not None and self.max is not None and self.min > self.max:
            yield ("min",), f"{self.min!r} is over max, {self.max!r}: no value would pass; lower it"


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True


def _pattern_fault(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        return str(error)
    return ""


class SourceSpec(Spec):
    """A stream with a data contract."""

    key: FieldName
    event_time: FieldName
    lateness: Duration
    partitions: int = Field(default=2, ge=1, le=1024)
    unknown_fields: Literal["keep", "drop", "reject"] = "keep"
    fields: dict[FieldName, FieldSpec]

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        for role in ("key", "event_time"):
            name = getattr(self, role)
            if name not in self.fields:
                yield (role,), f"{name!r} is not among the fields: declare it, or name another"
                continue
            if self.fields[name].nullable:
                yield (
                    ("fields", name, "nullable"),
                    f"True will not do for the {role}, which every event needs: remove it",
                )
            if role == "event_time" and self.fields[name].type != "timestamp":
                yield (
                    ("fields", name, "type"),
                    f"{self.fields[name].type!r} is no type for the event_time: write timestamp",
                )


AggregateFunction = Literal["count", "sum", "mean", "stddev", "min", "max"]


class Aggregate(Spec):
    """Functions of one field over windows, over the rows that `where` lets through."""

    field: FieldName
    functions: tuple[AggregateFunction, ...] = Field(min_length=1)
    windows: tuple[Duration, ...] = Field(min_length=1)
    where: str | None = None
    """One comparison of a field with a number, such as `mph < 80`."""

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        if self.where is not None and WHERE.fullmatch(self.where.strip()) is None:
            yield (
                ("where",),
                f"{self.where!r} is no condition: write a field, one of < <= > >= == != and a number",
            )


WHERE = re.compile(r"([A-Za-z_]\w*)\s*(<=|>=|==|!=|<|>)\s*(-?\d+(?:\.\d+)?)")


class FeatureViewSpec(Spec):
    """Windowed aggregates of a source's events for each value of an entity."""

    source: Name
    entity: FieldName | None = None
    """The field whose values are told apart; without one the view has a single row for all events."""
    aggregates: tuple[Aggregate, ...] = Field(min_length=1)
    hop: Duration
    ttl: Duration

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        for number, aggregate in enumerate(self.aggregates):
            for index, window in enumerate(aggregate.windows):
                place = ("aggregates", number, "windows", index)
                if window % self.hop:
                    yield (
                        place,
                        f"{format_duration(window)!r} is no multiple of the hop, {format_duration(self.hop)}: "
                        "make it one, for values change at hop boundaries only",
                    )
                if window > self.ttl:
                    yield (
                        place,
                        f"{format_duration(window)!r} is longer than the ttl, {format_duration(self.ttl)}: "
                        "raise the ttl, for an entity is forgotten after it",
                    )
        columns = self.columns()
        for twice in sorted({column for column in columns if columns.count(column) > 1}):
            yield (
                ("aggregates",),
                f"{twice!r} is the name of two features: join their aggregates, or drop one",
            )

    def columns(self) -> tuple[str, ...]:
        """Names of the view's features, in order: `<field>_<function>_<window>`."""
        return tuple(
            f"{aggregate.field}_{function}_{format_duration(window)}"
            for aggregate in self.aggregates
            for function in aggregate.functions
            for window in aggregate.windows
        )


class LabelSpec(Spec):
    """Where the truth about a prediction comes from, and when at the latest."""

    source: Name
    on: FieldName
    """The field that both the model's source and the label's source carry."""
    value: FieldName
    within: Duration


class TrainerSpec(Spec):
    """How a candidate is made."""

    kind: Literal["linear", "random_forest", "hist_gradient_boosting"] = "hist_gradient_boosting"
    parameters: dict[str, float | int | str | bool] = {}
    window: Duration
    """How far back the training rows reach."""
    half_life: Duration | None = None
    """Rows this much older count half in the fit; without it all count the same."""
    holdout: float = Field(default=0.2, gt=0, lt=0.9)
    """The newest share of the rows, on which candidate and champion are compared."""
    seed: int = 0
    min_rows: int = Field(default=200, ge=10)
    max_rows: int | None = None
    timeout: Duration = parse_duration("15m")
    memory_mb: int = Field(default=4096, ge=256)

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        if self.max_rows is not None and self.max_rows < self.min_rows:
            yield (
                ("max_rows",),
                f"{self.max_rows} is under min_rows, {self.min_rows}: no run would start; raise it",
            )


MetricName = Literal["mae", "rmse", "log_loss", "error_rate"]


class GateSpec(Spec):
    """One condition on a candidate: absolute, against the champion, or on every slice."""

    metric: MetricName
    at_most: float | None = None
    versus: Literal["champion"] | None = None
    better_by: float = 0.0
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    slices: FieldName | None = None
    max_worse: float | None = None

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        kinds = {"at_most": self.at_most, "versus": self.versus, "slices": self.slices}
        given = [name for name, value in kinds.items() if value is not None]
        if len(given) != 1:
            yield (
                (),
                f"{' and '.join(given) or 'nothing'} is given, and a gate has exactly one of at_most, versus "
                "and slices: split it or complete it",
            )
        if (self.slices is None) != (self.max_worse is None):
            has, lacks = ("max_worse", "slices") if self.slices is None else ("slices", "max_worse")
            yield (has,), f"{getattr(self, has)!r} stands without {lacks}: give both or neither"


class RolloutSpec(Spec):
    """How an accepted candidate comes to serve."""

    strategy: Literal["immediate", "shadow", "canary"] = "canary"
    steps: tuple[Annotated[int, Field(ge=1, le=100)], ...] = (10, 50, 100)
    """Percent of the keys that the challenger answers at each step of a canary."""
    judge: MetricName | None = None
    """The loss that champion and challenger are compared on; by default mae or log_loss, by the task."""
    cap: float | None = Field(default=None, gt=0)
    """A row's loss counts at most this much, so that one monster row decides nothing."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    within: Duration = parse_duration("14d")
    approval: Literal["auto", "manual"] = "auto"

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        if list(self.steps) != sorted(set(self.steps)) or not self.steps:
            yield (
                ("steps",),
                f"{list(self.steps)} do not rise: write shares that grow, like [10, 50, 100]",
            )


class MonitoringSpec(Spec):
    """How closely live traffic is watched."""

    window: int = Field(default=500, ge=50)
    """Predictions a window."""
    false_alarms: PerTime = Rate(1, parse_duration("90d"))
    """The rate of alarms that is accepted while nothing has changed."""
    persistence: tuple[int, int] = (2, 3)
    """An alarm needs k of the last n windows over the threshold."""

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        k, n = self.persistence
        if not 1 <= k <= n:
            yield ("persistence",), f"{[k, n]} is no k of n: write two whole numbers, like [2, 3]"


DriftKind = Literal["data", "prediction", "performance"]
"""What is watched, and may call for a retrain."""


class RetrainSpec(Spec):
    """When drift becomes a retrain command."""

    on: tuple[DriftKind, ...] = ("data", "performance")
    cooldown: Duration = parse_duration("7d")
    at_most: PerTime = Rate(4, parse_duration("60d"))


_CAPS: dict[str, float] = {"error_rate": 1.0, "log_loss": 4.0}
"""What one row counts at most where the spec does not say; a label's own unit is for the user to cap."""


class ModelSpec(Spec):
    """A model that Trimtab trains, serves and watches."""

    task: Literal["regression", "binary"]
    source: Name
    features: tuple[str, ...] = Field(min_length=1)
    """`view.*`, `view.feature`, `request.field`, `hour(field)`, `weekday(field)` or `month(field)`."""
    label: LabelSpec
    trainer: TrainerSpec
    gates: tuple[GateSpec, ...] = ()
    rollout: RolloutSpec = RolloutSpec()
    monitoring: MonitoringSpec = MonitoringSpec()
    retrain: RetrainSpec = RetrainSpec()

    @property
    def judged_by(self) -> MetricName:
        """The metric that the rollout judge and the performance watch read."""
        return self.rollout.judge or ("mae" if self.task == "regression" else "log_loss")

    @property
    def cap(self) -> float:
        """The most that a row's loss counts, in the unit of `judged_by`."""
        return self.rollout.cap or _CAPS[self.judged_by]

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        fitting = ("mae", "rmse") if self.task == "regression" else ("log_loss", "error_rate")
        metrics: list[tuple[Place, str]] = [(("rollout", "judge"), self.judged_by)]
        metrics += [(("gates", index, "metric"), gate.metric) for index, gate in enumerate(self.gates)]
        for place, metric in metrics:
            if metric not in fitting:
                yield place, f"{metric!r} is not for {self.task}: write {' or '.join(fitting)}"
        if self.rollout.cap is None and self.judged_by not in _CAPS:
            yield (
                ("rollout", "cap"),
                f"it is missing: say how much one row's {self.judged_by} may count at most",
            )


class _Resource(Spec):
    apiVersion: Literal["trimtab/v1"] = API_VERSION  # noqa: N815 - the name users of this form know
    metadata: Metadata

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def key(self) -> str:
        """Kind/name, which is no other's."""
        return f"{type(self).__name__}/{self.name}"


class Source(_Resource):
    """A named source."""

    kind: Literal["Source"] = "Source"
    spec: SourceSpec


class FeatureView(_Resource):
    """A named feature view."""

    kind: Literal["FeatureView"] = "FeatureView"
    spec: FeatureViewSpec


class Model(_Resource):
    """A named model."""

    kind: Literal["Model"] = "Model"
    spec: ModelSpec


Resource = Annotated[Source | FeatureView | Model, Field(discriminator="kind")]

KINDS: dict[str, type[Source] | type[FeatureView] | type[Model]] = {
    "Source": Source,
    "FeatureView": FeatureView,
    "Model": Model,
}


def parse(kind: str, document: dict[str, Any]) -> Source | FeatureView | Model:
    """Build the resource of `kind` from plain data.

    Raises:
        pydantic.ValidationError: the document does not fit; `faults` says everything that is wrong.
        KeyError: there is no such kind.
    """
    return KINDS[kind].model_validate(document)


def to_document(resource: Source | FeatureView | Model) -> dict[str, Any]:
    """Return the resource as plain data that `parse` reads back as an equal resource."""
    return resource.model_dump(mode="json", exclude_none=True)


def kind_fault(kind: Any) -> str:
    """Return what is wrong with what a document says is its kind; nothing, if it is one."""
    if isinstance(kind, str) and kind in KINDS:
        return ""
    return f"{kind!r} is no kind of resource: write one of {', '.join(KINDS)}"


def faults(error: ValidationError, kind: str, document: Mapping[str, Any]) -> list[tuple[Place, str]]:
    """Return all that is wrong with a document that `parse` refused: each place, with value and remedy in a sentence.

    What goes together is looked at wherever its values can be read, whatever else is wrong.
    """
    wrong = error.errors(include_url=False)
    found = [(tuple(fault["loc"]), _sentence(fault)) for fault in wrong if not _follows(fault, wrong)]
    return list(dict.fromkeys([*found, *_all_disagreements(_readable(KINDS[kind], document), ())]))


def _all_disagreements(part: Spec, at: Place) -> Iterator[tuple[Place, str]]:
    """Yield what does not go together in a readable part at `at`, and in the parts below it."""
    for name, held in part.__dict__.items():
        below = held.items() if isinstance(held, dict) else enumerate(held) if isinstance(held, tuple) else ()
        for place, each in [((name,), held), *(((name, key), each) for key, each in below)]:
            if isinstance(each, Spec):
                yield from _all_disagreements(each, (*at, *place))
    with suppress(AttributeError):  # it asks for what could not be read
        for place, said in part._disagreements():
            yield (*at, *place), said


def _readable(kind: type[Spec], raw: Any) -> Spec:
    """Return a part with those of its fields that can be read; an attribute is missing where one cannot."""
    values: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        if isinstance(raw, Mapping) and name in raw:
            with suppress(ValidationError):
                values[name] = _read(field.annotation, field.metadata, raw[name])
        elif not field.is_required():
            values[name] = field.get_default(call_default_factory=True)
    part = kind.model_construct()
    part.__dict__.clear()
    part.__dict__.update(values)
    return part


def _read(annotation: Any, metadata: list[Any], raw: Any) -> Any:
    of = get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return _readable(annotation, raw)
    if of and isinstance(of[-1], type) and issubclass(of[-1], Spec) and isinstance(raw, Mapping):
        return {key: _readable(of[-1], each) for key, each in raw.items()}
    if of and isinstance(of[0], type) and issubclass(of[0], Spec) and isinstance(raw, list | tuple):
        return tuple(_readable(of[0], each) for each in raw)
    return TypeAdapter(Annotated[(annotation, *metadata)] if metadata else annotation).validate_python(raw)


def _follows(fault: Any, wrong: Sequence[Any]) -> bool:
    """Return whether a list is too short only because some of its items are wrong."""
    place = tuple(fault["loc"])
    return fault["type"] == "too_short" and any(
        each["loc"][: len(place)] == place and each["loc"] != place for each in wrong
    )


def _sentence(fault: Any) -> str:
    value, context = _shown.repr(fault["input"]), fault.get("ctx", {})
    match fault["type"]:
        case "missing":
            return "it is missing: add it"
        case "extra_forbidden":
            return f"there is no such key (its value is {value}): remove it, or mend its spelling"
        case "literal_error":
            return f"{value} is not allowed: write {context['expected']}"
        case "unfit" | "value_error":
            return str(context.get("said") or context["error"])
        case "string_pattern_mismatch":
            return f"{value} is no name of the form {context['pattern']}: change it"
        case _:
            return f"{value} will not do: {fault['msg'][:1].lower()}{fault['msg'][1:]}"
