"""What a user declares: sources, feature views, tables and models.

The same classes are the Python API and, through `schema()`, the JSON Schema that
editors complete. A spec that these classes accept needs no further check of its
form by any service.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Final, Literal, get_args
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from trimtab_core.conditions import compile_condition
from trimtab_core.drift import Kind
from trimtab_core.durations import Rate, Span, format_duration, parse_duration, parse_rate
from trimtab_core.gatespecs import CalibrationGateSpec as CalibrationGateSpec
from trimtab_core.gatespecs import FairnessGateSpec as FairnessGateSpec
from trimtab_core.gatespecs import LatencyGateSpec as LatencyGateSpec
from trimtab_core.gatespecs import SizeGateSpec as SizeGateSpec
from trimtab_core.limits import Limit, parse_limit
from trimtab_core.measures import Measure, of_numbers
from trimtab_core.metricnames import JUDGED
from trimtab_core.ranges import Range, parse_range
from trimtab_core.schedules import checked_schedule
from trimtab_core.specbase import FieldName as FieldName
from trimtab_core.specbase import Name as Name
from trimtab_core.specbase import Place as Place
from trimtab_core.specbase import Spec as Spec
from trimtab_core.specbase import shown_value
from trimtab_core.syntax import TextFault
from trimtab_core.testspecs import ContractTestSpec as ContractTestSpec
from trimtab_core.testspecs import FeatureTestSpec as FeatureTestSpec
from trimtab_core.testspecs import ModelTestSpec as ModelTestSpec
from trimtab_core.timestamps import NOT_A_TIME, parse_timestamp, zone
from trimtab_core.units import conversion

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

LEAST_WINDOW: Final = 50
"""Rows below which a window tells nothing of drift."""
_LEAST_SPAN: Final = parse_duration("1m")


def _window(value: Any) -> Any:
    if isinstance(value, str):
        value = Span(parse_duration(value))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    few = not isinstance(value, Span) and (type(value) is not int or value < LEAST_WINDOW)
    if few or (isinstance(value, Span) and value.ms < _LEAST_SPAN):
        said = f"{value} is no window: write {LEAST_WINDOW} or more predictions, or a minute or more, like 1d"
        raise PydanticCustomError("unfit", "{said}", {"said": said})
    return value


WindowSize = Annotated[
    int | Span,
    BeforeValidator(_window),
    PlainSerializer(lambda size: size if isinstance(size, int) else str(size)),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": LEAST_WINDOW},
                {"type": "string", "description": "a length of time such as 6h or 1d"},
            ]
        }
    ),
]
"""How many predictions, or how much event time: 500, or `1d`."""

Schedule = Annotated[str, AfterValidator(checked_schedule)]
"""Five fields of cron, in UTC."""

Bounds = Annotated[Limit, BeforeValidator(parse_limit), PlainSerializer(lambda limit: limit.plain)]
"""Where a number should be, written `< 0.2` or `[1, 3]`."""

Tried = Annotated[
    Range,
    BeforeValidator(parse_range),
    PlainSerializer(lambda tried: tried.plain),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {
                        "min": {"type": "number"},
                        "max": {"type": "number"},
                        "log": {"type": "boolean"},
                    },
                    "required": ["min", "max"],
                    "additionalProperties": False,
                },
                {"type": "array", "items": {"type": ["number", "string", "boolean"]}, "minItems": 1},
                {"type": ["number", "string", "boolean"]},
            ]
        }
    ),
]
"""What a search may try of a parameter: `{min: 0.01, max: 0.3, log: true}`, a list to choose from, or one value."""

Scalar = Annotated[
    bool | int | float | str,
    BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value),
]
"""A value as JSON has it; 3.0 is 3, for a document that travelled has every number as a double."""


def _class_name(value: Any) -> Any:
    if isinstance(value, bool):
        said = f"{value} is what YAML reads a bare yes or no as: write the text in quotes, like 'yes'"
        raise PydanticCustomError("unfit", "{said}", {"said": said})
    whole = isinstance(value, int | float) and float(value).is_integer()
    return str(int(value)) if whole else value


ClassName = Annotated[str, BeforeValidator(_class_name), Field(min_length=1, max_length=200)]
"""A value of a label as text; 3 and 3.0 are `3`."""

SourceName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*(\.v([2-9]|[1-9][0-9]+))?$", max_length=90)]
"""What names a source: `pickups`, or a later major version of it, `pickups.v2`."""

_FIELD_NAME: TypeAdapter[str] = TypeAdapter(FieldName)


class Metadata(Spec):
    """Who a resource is."""

    name: Name
    owner: str | None = None
    description: str | None = None


class Expect(Spec):
    """What a field is like over many rows; a window that is not warns, and refuses nothing."""

    null_share: Bounds | None = None
    """The share of the rows in which it is null or missing."""
    distinct: Bounds | None = None
    """How many different values it has."""
    mean: Bounds | None = None
    stddev: Bounds | None = None
    min: Bounds | None = None
    max: Bounds | None = None

    @property
    def limits(self) -> dict[str, Limit]:
        """What is expected, by the name of the statistic."""
        return {name: limit for name in type(self).model_fields if (limit := getattr(self, name)) is not None}


LIMITS: Final[Mapping[str, tuple[float, float]]] = {
    "integer": (-(2**63), 2**63 - 1),
    "number": (-sys.float_info.max, sys.float_info.max),
}
"""What a fold and an archive can hold; JSON knows no limit."""
NUMERIC: Final = ("integer", "number", "boolean")
"""Types of a field that can be a feature by itself."""
KEY_TYPES: Final = ("integer", "string")
"""Types of a field that rows of a table are looked up by."""
OF_NUMBERS = ("mean", "stddev", "min", "max")
"""Statistics that texts do not have."""
_PLAIN: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "timestamp": (str, int, float),
}


class FieldSpec(Spec):
    """What one field of a source's rows may hold, and how what is sent is cleaned first.

    Cleaning goes trim, nulls, default, conversion; `nulls` and `default` are written as the producer would send them,
    `min` and `max` in `unit`.
    """

    type: Literal["string", "integer", "number", "boolean", "timestamp"]
    nullable: bool = False
    trim: bool = False
    """Strip white space from a text; one of which nothing is left is null."""
    nulls: tuple[Scalar, ...] = ()
    """Values that mean null, such as -200 or `N/A`."""
    default: Scalar | None = None
    """What a missing value or a null becomes."""
    unit: str | None = None
    """What a number counts: any text, or with `sent_in` one of those that `trimtab_core.units` knows."""
    sent_in: str | None = None
    """The unit in which producers send it, where that is not `unit`: it is converted."""
    timezone: str | None = None
    """For a timestamp written without an offset: the zone it was written in, such as `America/New_York`."""
    min: float | None = None
    max: float | None = None
    enum: tuple[str | int, ...] | None = None
    pattern: str | None = None
    expect: Expect = Expect()
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
        for index, value in enumerate(self.nulls):
            if isinstance(value, bool):
                yield ("nulls", index), f"{value} cannot mean null: write a number or a text, or remove it"
        if self.trim and self.type not in ("string", "timestamp"):
            yield ("trim",), f"True is for texts, and this field is a {self.type}: remove it"
        if self.sent_in is not None:
            yield from self._conversion_faults(self.sent_in)
        if self.default is not None and (said := self._default_fault(self.default)):
            yield ("default",), f"{self.default!r} {said}"
        for name in OF_NUMBERS:
            limit = self.expect.limits.get(name)
            if limit is not None and self.type not in ("integer", "number"):
                yield (
                    ("expect", name),
                    f"{limit.plain!r} is for numbers, and this field is a {self.type}: remove it",
                )

    def _conversion_faults(self, sent_in: str) -> Iterator[tuple[Place, str]]:
        if self.type != "number":
            remedy = "write number" if self.type == "integer" else "remove it"
            yield ("sent_in",), f"{sent_in!r} is for numbers, and this field is a {self.type}: {remedy}"
        elif self.unit is None:
            yield ("sent_in",), f"{sent_in!r} stands without unit: say which unit it becomes"
        else:
            try:
                conversion(sent_in, self.unit)
            except ValueError as error:
                yield ("sent_in",), str(error)

    def _default_fault(self, value: bool | int | float | str) -> str:
        """Return why the default would itself be refused; nothing, if it would not."""
        if type(value) not in _PLAIN[self.type]:
            return f"is no {self.type}: write one"
        if self.type == "timestamp" and parse_timestamp(value, zone(None)) == NOT_A_TIME:
            return "is no time: write ISO 8601, like 2018-01-31T18:05:00Z"
        if isinstance(value, int | float) and self.type in LIMITS:
            number: float = value
            if self.sent_in is not None and self.unit is not None:
                with suppress(ValueError, OverflowError):  # of units that are a fault of their own
                    number = conversion(self.sent_in, self.unit).of(value)
            low, high = LIMITS[self.type]
            low, high = (
                low if self.min is None else max(low, self.min),
                high if self.max is None else min(high, self.max),
            )
            if not low <= number <= high:
                return f"is outside [{low:g}, {high:g}]: write one that the field allows"
        if self.enum is not None and value not in self.enum:
            return f"is none of {', '.join(map(str, self.enum))}: write one of them"
        if self.pattern is None or not isinstance(value, str) or _pattern_fault(self.pattern):
            return ""
        fits = re.fullmatch(self.pattern, value) is not None
        return "" if fits else f"does not match {self.pattern}: write one that does"


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


class Format(Spec):
    """How a source's records are written, where they do not say that they are JSON.

    Avro and Protobuf records without a schema of their own here begin with the id of one (the Confluent wire format),
    and it is asked of the schema registry.
    """

    type: Literal["json", "avro", "protobuf"] = "json"
    text: str | None = Field(default=None, alias="schema", min_length=1)
    """The schema by which all records are written: Avro's in JSON, or a .proto file."""
    message: str | None = None
    """The full name of the message that each record is, such as `shop.Order`."""

    @property
    def is_framed(self) -> bool:
        """Whether each record begins with the id of its schema."""
        return self.type != "json" and self.text is None

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        if self.text is not None and self.type == "json":
            yield ("schema",), "JSON is read without one: remove it, or write type: avro or type: protobuf"
        takes_message = self.type == "protobuf" and self.text is not None
        if self.message is not None and not takes_message:
            yield (
                ("message",),
                f"{self.message!r} is for a Protobuf schema that is written here: remove it, or write both",
            )
        if self.message is None and takes_message:
            yield ("message",), "it is missing: say which message of the schema each record is"


class SourceSpec(Spec):
    """A stream with a data contract."""

    version: int = Field(default=1, ge=1, le=9999)
    """The major version: one over 1 is a source of its own, `name.v2`, beside the one before."""
    key: FieldName
    event_time: FieldName
    predictions_of: Name | None = None
    """The model whose predictions are its events: serving writes one for each event that the model scores."""
    lateness: Duration
    keep: Duration | None = None
    """How far behind the watermark the archive keeps events, such as `400d`; for ever, if not given."""
    format: Annotated[
        Format, BeforeValidator(lambda value: {"type": value} if isinstance(value, str) else value)
    ] = Format()
    """How records are written: `json`, `avro` or `protobuf`, or with the schema written here. What says that it is JSON is."""
    partitions: int = Field(default=2, ge=1, le=1024)
    unknown_fields: Literal["keep", "drop", "reject"] = "keep"
    fields: dict[FieldName, FieldSpec]
    rules: tuple[str, ...] = ()
    """What every row keeps: conditions such as `dropoff_at >= pickup_at` or `payment == 'card' or tip == 0`."""
    expect_rows: int = Field(default=1000, ge=1, le=1_000_000)
    """How many rows of a partition, at the least, the fields' `expect` is held against at a time."""

    @property
    def shown(self) -> dict[str, FieldSpec]:
        """The fields as people are shown them: key, event time, the others by name; a document keeps no order."""
        names = sorted(self.fields, key=lambda name: (name != self.key, name != self.event_time, name))
        return {name: self.fields[name] for name in names}

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
            yield from self._cleaning_faults(role, name)
        if self.keep is not None and self.keep < self.lateness:
            yield (
                ("keep",),
                f"{format_duration(self.keep)!r} is shorter than the lateness, {format_duration(self.lateness)}: raise it, "
                "for events that come in time would not be kept",
            )
        for index, rule in enumerate(self.rules):
            if said := self._rule_fault(rule):
                yield ("rules", index), said

    def _cleaning_faults(self, role: str, name: str) -> Iterator[tuple[Place, str]]:
        """Yield what cleaning a field may not declare: records are keyed before they are cleaned, and are of some time."""
        field = self.fields[name]
        for key in ("trim", "nulls", "default", "sent_in") if role == "key" else ("default",):
            if (value := getattr(field, key)) != FieldSpec.model_fields[key].default:
                why = "by which its record is sent" if role == "key" else "which every event has of itself"
                yield ("fields", name, key), f"{value!r} will not do for the {role}, {why}: remove it"

    def _rule_fault(self, rule: str) -> str:
        """Return why a rule means nothing for these fields; nothing, if it does."""
        try:
            condition = compile_condition(rule, {name: field.type for name, field in self.fields.items()})
        except TextFault as fault:
            return str(fault)
        for pair in condition.compared:
            units = dict.fromkeys(unit for name in pair if (unit := self.fields[name].unit) is not None)
            if len(units) > 1:
                return f"{rule!r} compares {' with '.join(units)}: give both fields one unit"
        return ""


FUNCTIONS: Final = (
    "count", "sum", "mean", "stddev", "min", "max", "first", "last", "distinct_count", "rate",
)  # fmt: skip
"""What can be made of a field over a window, quantiles aside."""
COUNTING: Final = frozenset({"count", "distinct_count", "rate"})
"""Those of them that fit a field of any type; the others need numbers."""
_QUANTILE = "p[1-9][0-9]?"


def _function(value: Any) -> str:
    if isinstance(value, str) and (value in FUNCTIONS or re.fullmatch(_QUANTILE, value)):
        return value
    raise ValueError(
        f"{shown_value(value)} is no function: write one of {', '.join(FUNCTIONS)}, or a quantile such as p50 or p95"
    )


AggregateFunction = Annotated[
    str,
    BeforeValidator(_function),
    Field(json_schema_extra={"anyOf": [{"enum": list(FUNCTIONS)}, {"pattern": f"^{_QUANTILE}$"}]}),
]
"""`count`, `distinct_count`, `rate` in events a second, `p95` and so on; `docs/features.md` says what each is."""


class Aggregate(Spec):
    """Functions of one field over windows, over the rows that `where` lets through."""

    field: FieldName
    functions: tuple[AggregateFunction, ...] = Field(min_length=1)
    windows: tuple[Duration, ...] = Field(min_length=1)
    name: FieldName | None = None
    """What its features are called by in place of the field."""
    where: str | None = None
    """Under which condition a row counts, such as `payment == 'card' and mph < 80`; a null meets no comparison."""

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        if self.where is not None:
            try:
                compile_condition(self.where)
            except TextFault as fault:
                yield ("where",), str(fault)


def _entity(value: Any) -> Any:
    """Return one field by its name, several as a tuple, and none as None."""
    names = [value] if isinstance(value, str) else value
    if value is None or (isinstance(names, list | tuple) and _are_fields(names)):
        return None if value is None else names[0] if len(names) == 1 else tuple(names)
    raise ValueError(
        f"{shown_value(value)} is no entity: write a field, or a list of different fields like [pickup_zone, vendor]"
    )


def _are_fields(names: Sequence[Any]) -> bool:
    are_names = all(map(_FIELD_NAME.validator.isinstance_python, names))
    return are_names and 0 < len(set(names)) == len(names)


class FeatureViewSpec(Spec):
    """Windowed aggregates of a source's events for each value of an entity."""

    source: SourceName
    entity: Annotated[str | tuple[str, ...] | None, BeforeValidator(_entity)] = None
    """The field, or fields, whose values are told apart; without one the view has a single row for all events."""
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
                f"{twice!r} is the name of two features: give one of their aggregates a name, or drop it",
            )

    @property
    def entities(self) -> tuple[str, ...]:
        """The fields whose values together name an entity; none where the view has a single row."""
        if self.entity is None:
            return ()
        return (self.entity,) if isinstance(self.entity, str) else self.entity

    def columns(self) -> tuple[str, ...]:
        """Names of the view's features, in order: `<name or field>_<function>_<window>`."""
        return tuple(
            f"{aggregate.name or aggregate.field}_{function}_{format_duration(window)}"
            for aggregate in self.aggregates
            for function in aggregate.functions
            for window in aggregate.windows
        )


class PostgresQuery(Spec):
    """Rows that a query of a PostgreSQL gives."""

    query: str = Field(min_length=1)
    """One statement that reads; it runs in a transaction that may not write."""
    connection: Name
    """What ingestion's setting `connections` calls the server: an address and a password stand in no spec."""


_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://.+|/.+", re.DOTALL)


class TableSpec(Spec):
    """Reference data that changes slowly and is kept elsewhere: loaded whole from time to time, looked up by key."""

    parquet: str | None = None
    """The address of a file that fsspec can open, such as `s3://bucket/zones.parquet`, or an absolute path."""
    postgres: PostgresQuery | None = None
    key: FieldName
    """The field that rows are looked up by: an integer or a string, in one row at a time."""
    effective: FieldName | None = None
    """The timestamp since which a row holds; with it a key may have several rows, each since another time."""
    refresh: Duration
    """How often it is loaded."""
    fields: dict[FieldName, FieldSpec]
    """The columns that are read; others are left where they are."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What is kept of a row: its fields but those that say whose it is and since when."""
        return tuple(name for name in self.fields if name not in (self.key, self.effective))

    @property
    def features(self) -> tuple[str, ...]:
        """Those of the columns that can be features: numbers and booleans."""
        return tuple(name for name in self.columns if self.fields[name].type in NUMERIC)

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        if (self.parquet is None) == (self.postgres is None):
            given = "neither is" if self.parquet is None else "both are"
            yield ("parquet",), f"{given} given of parquet and postgres: a table is read from one of them"
        if self.parquet is not None and not _ADDRESS.fullmatch(self.parquet):
            yield (
                ("parquet",),
                f"{shown_value(self.parquet)} is no address: write one like s3://bucket/zones.parquet, or an absolute path",
            )
        for role, types in (("key", KEY_TYPES), ("effective", ("timestamp",))):
            if (name := getattr(self, role)) is not None:
                yield from self._role_faults(role, name, types)
        if self.effective == self.key:
            yield ("effective",), f"{self.effective!r} is the key too: name another field"
        if not self.columns:
            yield ("fields",), f"{list(self.fields)} hold nothing to look up: declare a column more"
        for name, field in self.fields.items():
            if field.unique_within is not None:
                yield ("fields", name, "unique_within"), _of_streams(format_duration(field.unique_within))
            for statistic, limit in field.expect.limits.items():
                yield ("fields", name, "expect", statistic), _of_streams(limit.plain)

    def _role_faults(self, role: str, name: str, types: Sequence[str]) -> Iterator[tuple[Place, str]]:
        if name not in self.fields:
            yield (role,), f"{name!r} is not among the fields: declare it, or name another"
            return
        if self.fields[name].type not in types:
            yield (
                ("fields", name, "type"),
                f"{self.fields[name].type!r} is no type for the {role}: write {' or '.join(types)}",
            )
        if self.fields[name].nullable:
            yield (
                ("fields", name, "nullable"),
                f"True will not do for the {role}, which every row needs: remove it",
            )


def _of_streams(shown: Any) -> str:
    return f"{shown!r} is for streams of rows, and a table is loaded whole: remove it"


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


Family = Literal["linear", "random_forest", "hist_gradient_boosting", "lightgbm", "xgboost", "neural_network"]
"""A family of models; `docs/training.md` says what each is for."""


class SearchSpec(Spec):
    """How `kind: auto` looks for a family and its parameters."""

    families: tuple[Family, ...] = ()
    """All that the trainer has, if none is named; of those that are, one that it lacks is left out."""
    trials: int = Field(default=40, ge=1, le=10_000)
    budget: Duration | None = None
    """Wall time after which no further trial begins; half of trainer.timeout if not given."""
    at_once: int = Field(default=4, ge=1, le=64)
    """So many trials are chosen together, and run side by side where there is a Ray cluster."""
    parameters: dict[Family, dict[str, Tried]] = {}
    """What to try in the place of, or beside, a family's own ranges."""

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        for at, family in enumerate(self.families):
            if family in self.families[:at]:
                yield ("families", at), f"{family} is named twice: remove one"
        for family in self.parameters:
            if self.families and family not in self.families:
                yield (
                    ("parameters", family),
                    f"{family} is not among the families, {', '.join(self.families)}: add it there, or remove this",
                )


class AfterDriftSpec(Spec):
    """When a candidate may be fitted to what came after a change alone."""

    min_rows: int | None = Field(default=None, ge=10)
    """So many labelled rows of the new world at least; a tenth of the rows, and `trainer.min_rows`, if it is not given."""


_LEAST_MEMORY_MB: Final = 512


class TrainerSpec(Spec):
    """How a candidate is made."""

    kind: Family | Literal["auto", "own"] = "hist_gradient_boosting"
    """`auto` searches for the family; `own` is a trainer that the user brings."""
    entry_point: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.-]*(:[A-Za-z_][\w.]*)?$")
    """Of `kind: own`, where the trainer is: `mypackage.module:Trainer`, or the name of an entry point of the group
    `trimtab.trainers`; the only one of them, if not given."""
    wheel: str | None = None
    """Of `kind: own`, the wheel that has it: a file beside this one, which `trimtab apply` sends and names by its digest.
    Without one, it is in a package that is installed where the trainer runs."""
    lock: str | None = None
    """Of `kind: own`, the requirements that the wheel runs with, each with its hashes; those of the trainer, if not given."""
    parameters: dict[str, float | int | str | bool] = {}
    search: SearchSpec | None = None
    """Of `kind: auto`."""
    class_weight: Literal["balanced"] | None = None
    """Whether the rows of a rare class weigh as much as those of a frequent one; answers stay probabilities of the world as it is."""
    window: Duration
    """How far back the training rows reach."""
    half_life: Duration | None = None
    """Rows this much older count half in the fit; without it all count the same."""
    holdout: float = Field(default=0.2, gt=0, lt=0.9)
    """The newest share of the rows, on which candidate and champion are compared."""
    seed: int = 0
    min_rows: int = Field(default=200, ge=10)
    max_rows: int | None = None
    after_drift: AfterDriftSpec = AfterDriftSpec()
    judging: Literal["auto", "full"] = "auto"
    """Whether the fits that only judge may see a part of the rows, where a fit takes long."""
    timeout: Duration = parse_duration("15m")
    memory_mb: int = 4096
    """What a run may hold, at least 512: what fits are made with takes half of that."""

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        yield from self._own_faults()
        if self.memory_mb < _LEAST_MEMORY_MB:
            yield (
                ("memory_mb",),
                f"{self.memory_mb} is too little for any fit, for what fits are made with takes half of {_LEAST_MEMORY_MB}: "
                f"write {_LEAST_MEMORY_MB} at least, or leave it out",
            )
        if self.max_rows is not None and self.max_rows < self.min_rows:
            yield (
                ("max_rows",),
                f"{self.max_rows} is under min_rows, {self.min_rows}: no run would start; raise it",
            )
        if self.kind == "auto" and self.parameters:
            yield (
                ("parameters",),
                f"{', '.join(self.parameters)} of which family? kind auto tries several: write "
                "search.parameters.FAMILY, or name a kind",
            )
        if self.kind != "auto" and self.search is not None:
            yield ("search",), f"kind {self.kind} is not searched for: write kind: auto, or remove search"
        if self.search and self.search.budget and self.search.budget >= self.timeout:
            budget, timeout = format_duration(self.search.budget), format_duration(self.timeout)
            yield (
                ("search", "budget"),
                f"{budget} leaves nothing of trainer.timeout, {timeout}, for the fits that follow: lower it, or raise that",
            )

    def _own_faults(self) -> Iterator[tuple[Place, str]]:
        given = {
            name: value
            for name in ("entry_point", "wheel", "lock")
            if (value := getattr(self, name)) is not None
        }
        if self.kind != "own":
            for name, value in given.items():
                yield (
                    (name,),
                    f"{value!r} is for kind: own, and this is {self.kind}: remove it, or write kind: own",
                )
            return
        if not given.keys() & {"entry_point", "wheel"}:
            yield ("kind",), "'own' stands without entry_point and wheel: say where your trainer is"
        if self.wheel is not None and not self.wheel.partition("@")[0].endswith(".whl"):
            yield (
                ("wheel",),
                f"{self.wheel!r} is no wheel: build one, with `python -m build --wheel`, and name its file",
            )
        if self.class_weight is not None:
            yield (
                ("class_weight",),
                f"{self.class_weight!r} is for Trimtab's own families: remove it, and weigh classes in your trainer",
            )
        if self.lock is not None and self.wheel is None:
            yield (
                ("lock",),
                f"{self.lock!r} stands without a wheel: name the wheel that runs with it, or remove it",
            )


PINNED: Final = re.compile(r"([^/\\]+)@sha256:([0-9a-f]{64})")


def pinned(name: str, digest: str) -> str:
    """Return how an applied spec names a file: by its name and what is in it."""
    return f"{name}@sha256:{digest}"


def unpinned(text: str) -> tuple[str, str]:
    """Return the name and the digest of a file that an applied spec names.

    Raises:
        ValueError: it names a path.
    """
    found = PINNED.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is a path: `trimtab apply` sends the file, and names it by its digest")
    return found[1], found[2]


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


AnyGateSpec = GateSpec | FairnessGateSpec | CalibrationGateSpec | LatencyGateSpec | SizeGateSpec


def _gate_of(value: Any) -> type[AnyGateSpec]:
    """Return which of the gates is meant, by the key that says what is measured."""
    if isinstance(value, AnyGateSpec):
        return type(value)
    keys: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
    if keys.get("metric") == "calibration_error":
        return CalibrationGateSpec
    by_key: Mapping[str, type[AnyGateSpec]] = {
        "fairness": FairnessGateSpec,
        "latency": LatencyGateSpec,
        "size": SizeGateSpec,
    }
    return next((kind for key, kind in by_key.items() if key in keys), GateSpec)


def _tag(kind: type[AnyGateSpec]) -> Tag:
    return Tag(f"<{kind.__name__}>")


OneGate = Annotated[
    Annotated[GateSpec, _tag(GateSpec)]
    | Annotated[FairnessGateSpec, _tag(FairnessGateSpec)]
    | Annotated[CalibrationGateSpec, _tag(CalibrationGateSpec)]
    | Annotated[LatencyGateSpec, _tag(LatencyGateSpec)]
    | Annotated[SizeGateSpec, _tag(SizeGateSpec)],
    Discriminator(lambda value: f"<{_gate_of(value).__name__}>"),
]


class ApprovalSpec(Spec):
    """Who has to approve a candidate that has passed its gates, before it may serve."""

    by: tuple[Name, ...] = Field(min_length=1)
    """Roles; who has one of them may approve or reject. Who has which is a setting of the registry."""
    approvers: int = Field(default=1, ge=1, le=20)
    """How many different people have to approve."""
    comment: bool = False
    """Whether an approval needs a comment."""
    expires: Duration | None = None
    """How long a candidate waits, by the wall clock, for people are waited for; then it is rejected."""


class ChecksSpec(Spec):
    """Which tools outside have to say that a candidate is well, after its gates and before people are asked."""

    required: tuple[Name, ...] = Field(min_length=1)
    """What they post, such as `smoke`: all have to be posted as passed."""
    by: tuple[Name, ...] = ()
    """Roles; who has one of them may post. Anybody may, if none is named."""
    expires: Duration | None = None
    """How long a candidate waits, by the wall clock; then it is rejected."""

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        for index, name in enumerate(self.required):
            if name in self.required[:index]:
                yield ("required", index), f"{name!r} is named twice: keep one of them"


def _checks(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return {"required": value}
    if value is None or isinstance(value, Mapping | ChecksSpec):
        return value
    said = f"{shown_value(value)} is not allowed: write names, like [smoke], or who posts them too, like {{required: [smoke], by: [ci]}}"
    raise PydanticCustomError("unfit", "{said}", {"said": said})


def _approval(value: Any) -> Any:
    if isinstance(value, Mapping):
        return ApprovalSpec.model_validate(value)  # of a union, each form would tell what is wrong with it
    if value in ("auto", "manual") or isinstance(value, ApprovalSpec):
        return value
    said = f"{shown_value(value)} is not allowed: write auto, manual or who approves, like {{by: [risk], approvers: 2}}"
    raise PydanticCustomError("unfit", "{said}", {"said": said})


MOST_ARMS = 8
"""Versions in one A/B test: each of them scores every request."""


def unfit_shares(shares: Sequence[int]) -> str:
    """Return what is wrong with shares of an A/B test that are none, too many, or more than everything."""
    return f"{list(shares)} share out {sum(shares)} % of the keys among {len(shares)} arms: give 1 to {MOST_ARMS} arms 100 % at most, like [30, 30]"


class GuardrailsSpec(Spec):
    """When a challenger is taken back without waiting for labels: requests that it fails or is slow at, and the champion is not."""

    failures: float = Field(default=0.01, ge=0, lt=1)
    """The share of requests that it may fail beyond the champion's."""
    slow: float = Field(default=0.05, ge=0, lt=1)
    """The share of requests that it may be slow at beyond the champion's."""
    latency: Duration | None = None
    """From how long on a run of a version is slow; if not given, that follows from the champion's runs."""
    slower: float = Field(default=3.0, ge=1)
    """A run is slow from so many times the champion's 99th percentile on."""
    least: Duration = parse_duration("10ms")
    """No run that is shorter is slow, whatever the champion's."""
    alpha: float = Field(default=0.01, gt=0, lt=0.5)
    """The chance that one within all this is taken back for it, over the whole rollout."""


class RolloutSpec(Spec):
    """How an accepted candidate comes to serve."""

    strategy: Literal["immediate", "shadow", "canary", "ab"] = "canary"
    steps: tuple[Annotated[int, Field(ge=1, le=100)], ...] = (10, 50, 100)
    """Percent of the keys that the challenger answers at each step of a canary."""
    shares: tuple[Annotated[int, Field(ge=1, le=100)], ...] = (50,)
    """Percent of the keys that each arm of an A/B test answers until it ends; the champion answers the rest."""
    judge: MetricName | None = None
    """The loss that champion and challenger are compared on; by default mae or log_loss, by the task."""
    cap: float | None = Field(default=None, gt=0)
    """A row's loss counts at most this much, so that one monster row decides nothing."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    within: Duration = parse_duration("14d")
    guardrails: GuardrailsSpec = GuardrailsSpec()
    checks: Annotated[ChecksSpec | None, BeforeValidator(_checks)] = None
    """What tools outside have to post: names like `[smoke]`, or with who may post them and until when."""
    approval: Annotated[ApprovalSpec | Literal["auto", "manual"], BeforeValidator(_approval)] = "auto"
    """Whether a candidate that has passed its gates waits for a person: `manual` for anybody, or for whom it says."""

    @property
    def ladder(self) -> tuple[int, ...]:
        """Percent of the keys that an accepted candidate answers, step by step, where its strategy lets it answer any."""
        return self.shares[:1] if self.strategy == "ab" else self.steps

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        if list(self.steps) != sorted(set(self.steps)) or not self.steps:
            yield (
                ("steps",),
                f"{list(self.steps)} do not rise: write shares that grow, like [10, 50, 100]",
            )
        if not 1 <= len(self.shares) <= MOST_ARMS or sum(self.shares) > 100:
            yield ("shares",), unfit_shares(self.shares)


class MonitoringSpec(Spec):
    """How closely live traffic is watched."""

    window: WindowSize = 500
    """Predictions a window; or a length of event time such as `1d`, in windows that begin at multiples of it, in UTC."""
    false_alarms: PerTime = Rate(1, parse_duration("90d"))
    """The rate of alarms that is accepted while nothing has changed."""
    persistence: tuple[int, int] = (2, 3)
    """An alarm needs k of the last n windows over the threshold."""
    labels_wanted: int | None = Field(default=None, ge=1)
    """So many predictions of a window at most are named on `labels.wanted`, to be labelled first; none are, if not given."""
    clear: float = Field(default=0.5, gt=0, lt=1)
    """An episode ends with a window that is as ordinary as this share of the windows are while nothing changes."""
    measures: dict[str, Measure] = Field(default_factory=dict)
    """How far a window is from the reference, by a feature, `prediction`, or all that are `numeric`, `categorical` or `text`: psi,
    ks, jensenshannon, hellinger, wasserstein, or distance, which is used unless another is named."""
    season: Duration | None = None
    """Compare features and answers with reference rows of the same phase of it, such as `7d`; with all, if not given."""
    slices: tuple[str, ...] = Field(default=(), max_length=8)
    """Features of few values, for each of which performance is told as well: a name, or `zone` for `request.zone`."""
    revise: Duration = parse_duration("7d")
    """How long after its end a window's published performance is still corrected by labels that come late."""

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        k, n = self.persistence
        if not 1 <= k <= n:
            yield ("persistence",), f"{[k, n]} is no k of n: write two whole numbers, like [2, 3]"
        for name, measure in self.measures.items():
            if of_numbers(measure) and name in ("categorical", "text"):
                yield (
                    ("measures", name),
                    f"{measure!r} is a measure of numbers: write psi, jensenshannon or hellinger",
                )


Severity = Literal["info", "warning", "critical"]


class AlertRule(Spec):
    """A limit on one of a model's metrics; whoever breaks it is told of."""

    metric: str
    """What `metrics.drift`, `.performance` and `.quality` call it, such as mae or null_share."""
    feature: str | None = None
    """Of this feature; each of them, and the model as a whole, if not given."""
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
        if self.metric not in JUDGED:
            yield (
                ("metric",),
                f"{self.metric!r} is not measured of a model: use one of {', '.join(sorted(JUDGED))}",
            )
        if self.above is None and self.below is None:
            yield (), "the rule has no limit: give it above, below or both"
        elif self.above is not None and self.below is not None and self.below > self.above:
            yield (
                ("below",),
                f"{self.below:g} is more than above, {self.above:g}: every value would break the rule",
            )


class AlertsSpec(Spec):
    """Who is told of a model's alerts, and of what besides drift and rollouts."""

    to: tuple[Name, ...] | None = None
    """Sinks, which are a setting of monitoring; all of them, if not given."""
    at_least: Severity = "info"
    """How serious an alert has to be."""
    rules: tuple[AlertRule, ...] = ()
    """Limits on the model's metrics."""


DriftKind = Literal["data", "prediction", "performance", "concept"]
"""What is watched, and may call for a retrain; `concept` is watched only where it does."""


class RetrainSpec(Spec):
    """When a model is trained again without being told to; all of it reads event time."""

    on: tuple[DriftKind, ...] = ("data", "performance")
    schedule: Schedule | None = None
    """When it is due whatever happens, as cron writes it and in UTC, such as `0 3 1 * *`."""
    new_rows: int | None = Field(default=None, ge=1)
    """So many rows, predicted and labelled since the live version's training set ended, and again each time so many more."""
    on_change: bool = True
    """Whether a change of what a model is made of (its trainer, features, label, source or task) trains it, once, at once."""
    cooldown: Duration = parse_duration("7d")
    at_most: PerTime = Rate(4, parse_duration("60d"))
    severe: float | None = Field(default=None, ge=1)
    """Drift of so many times what is usual does not wait for the cooldown; all drift does, if not given."""
    dry_run: bool = False
    """Whether it is only told what drift, schedule and new rows would have ordered."""


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
        """The fields of the source by whose values gates tell rows apart; they need be no features."""
        named = [
            gate.slices if isinstance(gate, GateSpec) else gate.fairness
            for gate in self.gates
            if isinstance(gate, GateSpec | FairnessGateSpec)
        ]
        return tuple(dict.fromkeys(name for name in named if name is not None))

    @property
    def slices(self) -> tuple[str, ...]:
        """The features by whose values performance is told, by the names under which rows carry them."""
        called = self._called()
        named = [
            name if "." in name or "(" in name or name in called else f"request.{name}"
            for name in self.monitoring.slices
        ]
        return tuple(dict.fromkeys(named))

    @property
    def judged_by(self) -> MetricName:
        """The metric that the rollout judge and the performance watch read."""
        return self.rollout.judge or ("mae" if self.task == "regression" else "log_loss")

    @property
    def cap(self) -> float:
        """The most that a row's loss counts, in the unit of `judged_by`."""
        return self.rollout.cap or CAPS[self.judged_by]

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
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
        for name in self.monitoring.measures:
            if name not in (*get_args(Kind), "prediction") and not self._has(name):
                yield (
                    ("monitoring", "measures", name),
                    f"{name!r} is no feature of the model: name one of them, prediction, numeric, categorical or text",
                )
        if self.rollout.cap is None and self.judged_by not in CAPS:
            yield (
                ("rollout", "cap"),
                f"it is missing: say how much one row's {self.judged_by} may count at most",
            )

    def _has(self, name: str) -> bool:
        """Return whether a feature is called `name`, or is the field of that name of the request."""
        return bool(self._called() & {name, f"request.{name}", f"{name.partition('.')[0]}.*"})

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
    """A named source; each major version is one of its own."""

    kind: Literal["Source"] = "Source"
    spec: SourceSpec

    @property
    def name(self) -> str:
        """What topics, tables and references call it: `pickups`, and from version 2 on `pickups.v2`."""
        return versioned(self.metadata.name, self.spec.version)


class FeatureView(_Resource):
    """A named feature view."""

    kind: Literal["FeatureView"] = "FeatureView"
    spec: FeatureViewSpec


class Table(_Resource):
    """A named table."""

    kind: Literal["Table"] = "Table"
    spec: TableSpec


class Model(_Resource):
    """A named model."""

    kind: Literal["Model"] = "Model"
    spec: ModelSpec


class ModelTest(_Resource):
    """Named tests of how a model behaves."""

    kind: Literal["ModelTest"] = "ModelTest"
    spec: ModelTestSpec


class ContractTest(_Resource):
    """Named examples of what a contract lets in and what not; `trimtab test` reads it, and it is never applied."""

    kind: Literal["ContractTest"] = "ContractTest"
    spec: ContractTestSpec


class FeatureTest(_Resource):
    """Named examples of what features come to; `trimtab test` reads it, and it is never applied."""

    kind: Literal["FeatureTest"] = "FeatureTest"
    spec: FeatureTestSpec


ProjectTest = ContractTest | FeatureTest
AnyResource = Source | FeatureView | Table | Model | ModelTest
Resource = Annotated[AnyResource, Field(discriminator="kind")]

KINDS: dict[str, type[AnyResource]] = {
    "Source": Source,
    "FeatureView": FeatureView,
    "Table": Table,
    "Model": Model,
    "ModelTest": ModelTest,
}


PROJECT_TESTS: dict[str, type[ProjectTest]] = {"ContractTest": ContractTest, "FeatureTest": FeatureTest}
"""Kinds of what stays in a project."""


def parse(kind: str, document: dict[str, Any]) -> AnyResource:
    """Build the resource of `kind` from plain data.

    Raises:
        pydantic.ValidationError: the document does not fit; `faults` says everything that is wrong.
        KeyError: there is no such kind.
    """
    return KINDS[kind].model_validate(document)


def gaps(model: Model) -> list[tuple[Place, str]]:
    """Return what a model's card lacks that only people know: where it goes, and a sentence."""
    card = model.spec.card or CardSpec()
    missing: list[tuple[Place, str]] = []
    if not model.metadata.owner:
        missing.append((("metadata", "owner"), "nobody is named: say who answers for the model"))
    if not card.purpose:
        missing.append((("spec", "card", "purpose"), "it is missing: say what the model is for"))
    if not card.intended_use:
        missing.append(
            (
                ("spec", "card", "intended_use"),
                "it is missing: say who uses it where, and where not to use it",
            )
        )
    if not card.limits:
        missing.append(
            (("spec", "card", "limits"), "none is named: say where the model is known to be wrong")
        )
    return missing


def to_document(resource: AnyResource) -> dict[str, Any]:
    """Return the resource as plain data that `parse` reads back as an equal resource."""
    return resource.model_dump(mode="json", exclude_none=True, by_alias=True)


def versioned(name: str, version: int) -> str:
    """Return what a version of a source is called."""
    return name if version == 1 else f"{name}.v{version}"


def called(document: Mapping[str, Any]) -> str:
    """Return the kind/name that a document means to have, whatever is wrong with it."""
    kind, metadata, spec = (document.get(part) for part in ("kind", "metadata", "spec"))
    name = str(metadata.get("name") if isinstance(metadata, Mapping) else None)
    version = spec.get("version") if kind == "Source" and isinstance(spec, Mapping) else None
    if isinstance(version, int) or (isinstance(version, float) and version.is_integer()):
        name = versioned(name, int(version))
    return f"{kind}/{name}"


def kind_fault(kind: Any) -> str:
    """Return what is wrong with what a document says is its kind; nothing, if it is one."""
    if isinstance(kind, str) and kind in KINDS:
        return ""
    if isinstance(kind, str) and kind in PROJECT_TESTS:
        return f"{kind!r} is for `trimtab test` alone: leave it in the project"
    return f"{kind!r} is no kind of resource: write one of {', '.join(KINDS)}"


def faults(error: ValidationError, kind: str, document: Mapping[str, Any]) -> list[tuple[Place, str]]:
    """Return all that is wrong with a document that `parse` refused: each place, with value and remedy in a sentence.

    What goes together is looked at wherever its values can be read, whatever else is wrong.
    """
    wrong = error.errors(include_url=False)
    found = [(_place(fault), _sentence(fault)) for fault in wrong if not _follows(fault, wrong)]
    return list(
        dict.fromkeys([*found, *_all_disagreements(_readable((KINDS | PROJECT_TESTS)[kind], document), ())])
    )


def _place(fault: Any) -> Place:
    """Return where a fault is; which of several forms a part was taken for is no place in the document."""
    return tuple(part for part in fault["loc"] if not str(part).startswith("<"))


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
        key = field.alias or name
        if isinstance(raw, Mapping) and key in raw:
            with suppress(ValidationError):
                values[name] = _read(field.annotation, field.metadata, raw[key])
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
    if of and of[0] == OneGate and isinstance(raw, list | tuple):
        return tuple(_readable(_gate_of(each), each) for each in raw)
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
    value, context = shown_value(fault["input"]), fault.get("ctx", {})
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
