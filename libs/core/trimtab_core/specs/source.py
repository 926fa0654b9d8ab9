"""What a source's rows may hold, and how they are written and cleaned."""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field

from trimtab_core.conditions import compile_condition
from trimtab_core.durations import format_duration
from trimtab_core.limits import Limit
from trimtab_core.specs.base import FieldName, Name, Place, Spec
from trimtab_core.specs.values import Bounds, Duration, Scalar
from trimtab_core.syntax import TextFault
from trimtab_core.timestamps import NOT_A_TIME, parse_timestamp, zone
from trimtab_core.units import conversion


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
