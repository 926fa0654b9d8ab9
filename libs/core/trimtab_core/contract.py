"""A source's data contract, or a table's, compiled once and held against batches of rows.

A row is cleaned as the contract declares and then judged by itself and its time of
arrival, never by other rows or a clock, so a restart or a replay judges the same.
Good rows pass at the speed of decoding; a bad row is looked at again, field by field,
so that all its faults are told at once.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from reprlib import Repr
from types import MappingProxyType
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab_core.cleaning import Cleaner, Operation, cleaners
from trimtab_core.columns import Columns
from trimtab_core.conditions import compile_condition
from trimtab_core.durations import format_duration
from trimtab_core.specs import LIMITS, FieldSpec, SourceSpec
from trimtab_core.syntax import one_line
from trimtab_core.timestamps import (
    EARLIEST_MS,
    LATEST_MS,
    NOT_A_TIME,
    parse_timestamp,
    parse_timestamps,
    zone,
)

FUTURE_MS = 300_000
"""An event may be this far ahead of its arrival, for clocks differ; more is a fault."""
_LONGEST_VALUE = 200
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What it is to be told that bytes are no JSON."""
_TYPES: Final[Mapping[str, frozenset[type]]] = {
    "string": frozenset({str}),
    "boolean": frozenset({bool}),
    "integer": frozenset({int, float}),
    "number": frozenset({int, float}),
    "timestamp": frozenset({str, int, float}),
}
_encode = msgspec.json.Encoder().encode
_SHORT: Final = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = _LONGEST_VALUE


class ReasonCode(StrEnum):
    """Why a row was refused."""

    MALFORMED_JSON = "malformed_json"
    NOT_AN_OBJECT = "not_an_object"
    MALFORMED_RECORD = "malformed_record"
    UNKNOWN_SCHEMA = "unknown_schema"
    MISSING_FIELD = "missing_field"
    NULL_VALUE = "null_value"
    WRONG_TYPE = "wrong_type"
    OUT_OF_RANGE = "out_of_range"
    NOT_IN_ENUM = "not_in_enum"
    PATTERN_MISMATCH = "pattern_mismatch"
    BAD_TIMESTAMP = "bad_timestamp"
    UNKNOWN_FIELD = "unknown_field"
    BROKEN_RULE = "broken_rule"
    LATE = "late"
    FUTURE = "future"
    WRONG_KEY = "wrong_key"
    WRONG_REPLAY = "wrong_replay"


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that is wrong with a row."""

    code: ReasonCode
    field: str
    value: str
    message: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of a batch; every list and array has one entry a row, in order."""

    rows: list[dict[str, Any] | None]
    """The decoded row, cleaned; None where it could not be decoded."""
    event_time_ms: NDArray[np.int64]
    """`NOT_A_TIME` where it could not be read."""
    keys: list[str | None]
    """The key field as text; None where there is none."""
    reasons: list[tuple[Reason, ...]]
    """Empty for a good row."""
    changed: frozenset[int]
    """Places of the rows that are no longer what was sent: cleaned, or rid of unknown fields."""
    cleaned: Mapping[tuple[str, Operation], int]
    """How many rows each cleaning of a field has changed, where it changed any."""

    def payloads(self, sent: Sequence[bytes]) -> Sequence[bytes]:
        """Return the good rows as the JSON that they are now: what was sent, where that was not changed."""
        if not (changed := {at for at in self.changed if not self.reasons[at]}):
            return sent
        return [
            _encode(row) if at in changed else payload
            for at, (row, payload) in enumerate(zip(self.rows, sent, strict=True))
        ]


class Contract:
    """The compiled contract of one source."""

    def __init__(self, spec: SourceSpec) -> None:
        """Compile `spec`."""
        self.spec = spec
        self._decode = msgspec.json.Decoder().decode
        self._fields = [_Field(name, field) for name, field in spec.fields.items()]
        self._rules = [_Rule(rule, spec.fields) for rule in spec.rules]
        self._known = spec.fields.keys()
        self.cleaners = cleaners(spec)
        """What a row goes through before it is judged."""
        self._zone = zone(spec.fields[spec.event_time].timezone)

    def check(
        self,
        payloads: Sequence[bytes],
        arrived_at_ms: NDArray[np.int64],
        unreadable: Mapping[int, Reason] = MappingProxyType({}),
    ) -> Checked:
        """Judge a batch of JSON rows that arrived at `arrived_at_ms` [rows]. Never raises for what is in them.

        `unreadable` are the places of those that could not be made JSON, and why.
        """
        rows, faults = self._decoded(payloads, unreadable)
        reasons: list[tuple[Reason, ...]] = [()] * len(rows)
        for at, fault in faults.items():
            reasons[at] = (fault,)
        changed, cleaned = self._clean(rows)
        objects = [{} if row is None else row for row in rows]
        times = parse_timestamps([row.get(self.spec.event_time) for row in objects], self._zone)
        for at in self._suspects(objects, times):
            if at not in faults:
                reasons[at] = self.explain(objects[at])
        self._judge_times(objects, times, np.asarray(arrived_at_ms, np.int64), reasons)
        if self.spec.unknown_fields == "drop":
            for at, row in enumerate(rows):
                if row is not None and not row.keys() <= self._known:
                    rows[at] = {name: value for name, value in row.items() if name in self._known}
                    changed.add(at)
        keys = _keys([row.get(self.spec.key) for row in objects])
        return Checked(rows, times, keys, reasons, frozenset(changed), cleaned)

    def explain(self, row: Mapping[str, Any]) -> tuple[Reason, ...]:
        """Return everything that is wrong with a decoded and cleaned row, its time of arrival aside."""
        found = [reason for field in self._fields if (reason := field.fault(row))]
        if self.spec.unknown_fields == "reject":
            said = "is not in the contract: remove it, or add it to the spec"
            unknown = [name for name in row if name not in self._known]
            found += [_reason(ReasonCode.UNKNOWN_FIELD, name, row[name], said) for name in unknown]
        return (*found, *self._broken_rules(row, self._known - {reason.field for reason in found}))

    def check_fields(self, row: Mapping[str, Any], fields: Collection[str]) -> tuple[Reason, ...]:
        """Return what is wrong with those of a cleaned row's fields that are named; the others may be absent.

        A rule counts if all its fields are named.
        """
        found = [reason for field in self._fields if field.name in fields and (reason := field.fault(row))]
        if self._rules:
            found += self._broken_rules(row, set(fields) - {reason.field for reason in found})
        return tuple(found)

    def _broken_rules(self, row: Mapping[str, Any], sound: Collection[str]) -> list[Reason]:
        """Return the rules about `sound` fields that a row breaks."""
        return [
            reason
            for rule in self._rules
            if all(name in sound for name in rule.fields) and (reason := rule.fault(row))
        ]

    def _clean(
        self, rows: Sequence[dict[str, Any] | None]
    ) -> tuple[set[int], Counter[tuple[str, Operation]]]:
        """Clean the rows in place; return the places of those that it changed, and how many each cleaning did."""
        changed: set[int] = set()
        counts: Counter[tuple[str, Operation]] = Counter()
        for cleaner in self.cleaners:
            for at, row in enumerate(rows):
                if row is not None and (done := cleaner.clean(row)):
                    changed.add(at)
                    for operation in done:
                        counts[cleaner.name, operation] += 1
        return changed, counts

    def event_time_ms(self, row: Mapping[str, Any]) -> int:
        """Return the event time of one row; `NOT_A_TIME` if it cannot be read."""
        return parse_timestamp(row.get(self.spec.event_time), self._zone)

    def _decoded(
        self, payloads: Sequence[bytes], unreadable: Mapping[int, Reason]
    ) -> tuple[list[dict[str, Any] | None], dict[int, Reason]]:
        """Return the rows, None where there is none, and what is wrong there."""
        if not unreadable:
            with suppress(*UNDECODABLE):
                rows = list(map(self._decode, payloads))
                if set(map(type, rows)) <= {dict}:
                    return rows, {}
        found = [
            (None, unreadable[at]) if at in unreadable else self._row(payload)
            for at, payload in enumerate(payloads)
        ]
        faults = {at: fault for at, (_, fault) in enumerate(found) if fault is not None}
        return [row for row, _ in found], faults

    def _row(self, payload: bytes) -> tuple[dict[str, Any] | None, Reason | None]:
        try:
            row = self._decode(payload)
        except UNDECODABLE as error:
            said = f"is no JSON ({error}): send a JSON object"
            return None, _reason(ReasonCode.MALFORMED_JSON, "", payload[:_LONGEST_VALUE], said)
        if not isinstance(row, dict):
            said = "is no object: send a JSON object with the source's fields"
            return None, _reason(ReasonCode.NOT_AN_OBJECT, "", row, said)
        return row, None

    def _suspects(self, rows: Sequence[Mapping[str, Any]], times: NDArray[np.int64]) -> list[int]:
        """Return the places of the rows that some column check does not let through."""
        suspect = times == NOT_A_TIME
        for field in self._fields:
            if field.name != self.spec.event_time:
                suspect |= field.suspects([row.get(field.name) for row in rows])
        if self.spec.unknown_fields == "reject":
            suspect |= np.array([not row.keys() <= self._known for row in rows], bool)
        for rule in self._rules:
            suspect |= rule.broken(rows)
        found: list[int] = np.flatnonzero(suspect).tolist()
        return found

    def _judge_times(
        self,
        rows: Sequence[Mapping[str, Any]],
        times: NDArray[np.int64],
        arrived: NDArray[np.int64],
        reasons: list[tuple[Reason, ...]],
    ) -> None:
        name, lateness = self.spec.event_time, self.spec.lateness
        readable = times != NOT_A_TIME
        behind = np.where(readable, arrived - np.where(readable, times, 0), 0)
        for at in np.flatnonzero(behind > lateness).tolist():
            said = f"is later than the lateness of {format_duration(lateness)}: send it sooner, or raise the lateness"
            reasons[at] = (*reasons[at], _reason(ReasonCode.LATE, name, rows[at].get(name), said))
        for at in np.flatnonzero(behind < -FUTURE_MS).tolist():
            said = (
                "is more than 5 minutes after it arrived: set the producer's clock, or the field's timezone"
            )
            reasons[at] = (*reasons[at], _reason(ReasonCode.FUTURE, name, rows[at].get(name), said))


def compile_contract(spec: SourceSpec) -> Contract:
    """Return the compiled contract of a source."""
    return Contract(spec)


class RowContract:
    """The compiled contract of a table's rows: cleaned and judged as a source's are, but for their times."""

    def __init__(self, fields: Mapping[str, FieldSpec]) -> None:
        """Compile `fields`."""
        self._cleaners = [Cleaner(name, field) for name, field in fields.items()]
        self._fields = [_Field(name, field) for name, field in fields.items()]

    def check(self, rows: Sequence[dict[str, Any]]) -> dict[int, tuple[Reason, ...]]:
        """Clean rows in place, and return what is wrong with those that are faulty, by their places."""
        for cleaner in filter(None, self._cleaners):
            for row in rows:
                cleaner.clean(row)
        suspect = np.zeros(len(rows), bool)
        for field in self._fields:
            suspect |= field.suspects([row.get(field.name) for row in rows])
        found = {
            at: tuple(reason for field in self._fields if (reason := field.fault(rows[at])))
            for at in np.flatnonzero(suspect).tolist()
        }
        return {at: reasons for at, reasons in found.items() if reasons}


class _Field:
    """The checks of one field: quick for a column, telling for a value."""

    def __init__(self, name: str, spec: FieldSpec) -> None:
        self.name = name
        self._spec = spec
        lowest, highest = LIMITS.get(spec.type, (-math.inf, math.inf))
        self._low = lowest if spec.min is None else max(spec.min, lowest)
        self._high = highest if spec.max is None else min(spec.max, highest)
        self._types = _TYPES[spec.type]
        self._enum = None if spec.enum is None else frozenset(spec.enum)
        self._matches = re.compile(spec.pattern).fullmatch if spec.pattern else None
        self._zone = zone(spec.timezone)
        self._sound = _sound(spec, self._low, self._high)

    def suspects(self, values: list[Any]) -> NDArray[np.bool_]:
        """Return which of a column's values may be faulty; every faulty one is among them."""
        if set(map(type, values)) <= self._types:
            return self._odd(values)
        right = np.fromiter((type(value) in self._types for value in values), bool, len(values))
        suspect = ~right
        if self._spec.nullable:
            suspect &= np.fromiter((value is not None for value in values), bool, len(values))
        suspect[right] = self._odd([value for value in values if type(value) in self._types])
        return suspect

    def _odd(self, values: list[Any]) -> NDArray[np.bool_]:
        """Return which values, all of the right type, look faulty; a few good ones may."""
        odd = np.zeros(len(values), bool)
        if self._spec.type == "timestamp":
            odd = parse_timestamps(values, self._zone) == NOT_A_TIME
        if self._spec.type in ("integer", "number"):
            try:
                numbers = np.array(values, np.float64)
            except OverflowError:
                return ~odd
            # 2**63 - 1 is no float: values that near the limit are looked at again, by themselves.
            odd = ~((numbers >= self._low) & (numbers <= self._high) & (np.abs(numbers) != 2.0**63))
            if self._spec.type == "integer":
                odd |= numbers != np.floor(numbers)
        if self._enum is not None and not self._enum.issuperset(values):
            odd |= np.fromiter((value not in self._enum for value in values), bool, len(values))
        if self._matches is not None:
            unmatched = {value for value in set(values) if not self._matches(value)}
            if unmatched:
                odd |= np.fromiter((value in unmatched for value in values), bool, len(values))
        return odd

    def fault(self, row: Mapping[str, Any]) -> Reason | None:
        """Return what is wrong with the field of one row."""
        value = row.get(self.name)
        bounds = self._sound.get(type(value))
        if bounds is not None and bounds[0] <= value <= bounds[1]:
            return None
        told = self._judge(value) if value is not None or not self._spec.nullable else None
        if told is None:
            return None
        code, said = told
        if self.name not in row:
            code, said = ReasonCode.MISSING_FIELD, "is missing: send it, or make it nullable in the spec"
        return _reason(code, self.name, value, said)

    def _judge(self, value: Any) -> tuple[ReasonCode, str] | None:
        spec = self._spec
        if value is None:
            return ReasonCode.NULL_VALUE, "is null: send a value, or make it nullable in the spec"
        if not self._of_type(value):
            return ReasonCode.WRONG_TYPE, f"is no {spec.type}: send one"
        if spec.type == "timestamp" and parse_timestamp(value, self._zone) == NOT_A_TIME:
            return ReasonCode.BAD_TIMESTAMP, "is no time: send ISO 8601, like 2018-01-31T18:05:00Z"
        if spec.type in LIMITS and not self._low <= value <= self._high:
            return ReasonCode.OUT_OF_RANGE, f"is outside [{self._low:g}, {self._high:g}]: mend the producer"
        if self._enum is not None and value not in self._enum:
            allowed = ", ".join(map(str, sorted(self._enum, key=str)))
            return ReasonCode.NOT_IN_ENUM, f"is none of {allowed}: send one of them"
        if self._matches is not None and not self._matches(value):
            return ReasonCode.PATTERN_MISMATCH, f"does not match {spec.pattern}: mend the producer"
        return None

    def _of_type(self, value: Any) -> bool:
        match self._spec.type:
            case "string":
                return isinstance(value, str)
            case "boolean":
                return isinstance(value, bool)
            case "timestamp":
                return isinstance(value, str) or _is_number(value)
            case "integer":
                return _is_number(value) and (isinstance(value, int) or value.is_integer())
            case "number":
                return _is_number(value)


def _sound(spec: FieldSpec, low: float, high: float) -> dict[type, tuple[Any, Any]]:
    """Return, of some types, between which values each one is right: most rows need no other look."""
    if spec.enum is not None or spec.pattern:
        return {}
    match spec.type:
        case "boolean":
            return {bool: (False, True)}
        case "integer":
            return {int: (low, high)}
        case "number":
            return {int: (low, high), float: (low, high)}
        case "timestamp":
            return {int: (EARLIEST_MS, LATEST_MS)}
    return {}


class _Rule:
    """One condition that all rows keep."""

    def __init__(self, text: str, fields: Mapping[str, FieldSpec]) -> None:
        self._text = one_line(text)
        self._types = {name: field.type for name, field in fields.items()}
        self._specs = fields
        condition = compile_condition(text, self._types)
        self.fields, self._broken = condition.fields, condition.broken

    def broken(self, rows: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
        """Return which rows break it; a value that is faulty by itself breaks nothing more."""
        if not rows:
            return np.zeros(0, bool)
        values = {name: self._sound(name, [row.get(name) for row in rows]) for name in self.fields}
        return self._broken(Columns(self._specs, values))

    def _sound(self, name: str, values: list[Any]) -> list[Any]:
        kind = self._types[name]
        types, bounds = _TYPES[kind], LIMITS.get(kind)
        if set(map(type, values)) <= types and (
            bounds is None or (bounds[0] <= min(values) and max(values) <= bounds[1])
        ):
            return values
        low, high = bounds or (-math.inf, math.inf)
        return [
            value if type(value) in types and (bounds is None or low <= value <= high) else None
            for value in values
        ]

    def fault(self, row: Mapping[str, Any]) -> Reason | None:
        """Return what is wrong with a row whose fields are each right by themselves."""
        if not self.broken([row])[0]:
            return None
        first, *rest = self.fields
        others = " and ".join(f"{name} is {_shown(row.get(name))}" for name in rest)
        said = f"breaks the rule {self._text}{f', where {others}' if others else ''}: mend the producer"
        return _reason(ReasonCode.BROKEN_RULE, first, row.get(first), said)


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _keys(values: list[Any]) -> list[str | None]:
    if set(map(type, values)) <= {str}:
        return values
    scalar = (str, int, float)
    return [entity_text(value) if isinstance(value, scalar) else None for value in values]


def entity_text(value: Any) -> str:
    """Return a key's or an entity's value as the text that names it everywhere: 3 and 3.0 are the same."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def entity_key(values: Sequence[Any]) -> str | None:
    """Return the text by which an entity of one, several or no fields is known; None if a part is null.

    Of one value it is its text, of several the JSON array of their texts, and of none nothing.
    """
    if any(value is None for value in values):
        return None
    if len(values) == 1:
        return entity_text(values[0])
    return _encode([entity_text(value) for value in values]).decode() if values else ""


def _reason(code: ReasonCode, field: str, value: Any, said: str) -> Reason:
    shown = _shown(value)
    field = field[:_LONGEST_VALUE]
    subject = f"{field} {shown}" if field else f"the record {shown}"
    return Reason(code, field, shown, f"{subject} {said}")


def _shown(value: Any) -> str:
    shown = _SHORT.repr(value)
    return shown if len(shown) <= _LONGEST_VALUE else shown[: _LONGEST_VALUE - 1] + "…"
