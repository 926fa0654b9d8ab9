"""A source's data contract, compiled once and held against batches of rows.

A row is judged by itself and its time of arrival, never by other rows or a clock, so
a restart or a replay judges the same. Good rows pass at the speed of decoding; a bad
row is looked at again, field by field, so that all its faults are told at once.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab_core.durations import format_duration
from trimtab_core.specs import FieldSpec, SourceSpec
from trimtab_core.timestamps import NOT_A_TIME, parse_timestamps, zone

FUTURE_MS = 300_000
"""An event may be this far ahead of its arrival, for clocks differ; more is a fault."""
_LONGEST_VALUE = 200


class ReasonCode(StrEnum):
    """Why a row was refused."""

    MALFORMED_JSON = "malformed_json"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_FIELD = "missing_field"
    NULL_VALUE = "null_value"
    WRONG_TYPE = "wrong_type"
    OUT_OF_RANGE = "out_of_range"
    NOT_IN_ENUM = "not_in_enum"
    PATTERN_MISMATCH = "pattern_mismatch"
    BAD_TIMESTAMP = "bad_timestamp"
    UNKNOWN_FIELD = "unknown_field"
    LATE = "late"
    FUTURE = "future"
    WRONG_KEY = "wrong_key"


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that is wrong with a row."""

    code: ReasonCode
    field: str
    value: str
    message: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of a batch; every part has one entry a row, in order."""

    rows: list[dict[str, Any] | None]
    """The decoded row; None where it could not be decoded."""
    event_time_ms: NDArray[np.int64]
    """`NOT_A_TIME` where it could not be read."""
    keys: list[str | None]
    """The key field as text; None where there is none."""
    reasons: list[tuple[Reason, ...]]
    """Empty for a good row."""


class Contract:
    """The compiled contract of one source."""

    def __init__(self, spec: SourceSpec) -> None:
        """Compile `spec`."""
        self.spec = spec
        self._decode = msgspec.json.Decoder().decode
        self._fields = [_Field(name, field) for name, field in spec.fields.items()]
        self._by_name = {field.name: field for field in self._fields}
        self._zone = zone(spec.fields[spec.event_time].timezone)

    def check(self, payloads: Sequence[bytes], arrived_at_ms: NDArray[np.int64]) -> Checked:
        """Judge a batch of JSON rows that arrived at `arrived_at_ms` [rows]. Never raises for what is in them."""
        rows: list[dict[str, Any] | None] = []
        reasons: list[tuple[Reason, ...]] = []
        for payload in payloads:
            row, fault = self._row(payload)
            rows.append(row)
            reasons.append((fault,) if fault else ())
        decoded = [at for at, row in enumerate(rows) if row is not None]
        objects = [row for row in rows if row is not None]
        for index in self._suspects(objects):
            reasons[decoded[index]] = self.explain(objects[index])
        times = np.full(len(rows), NOT_A_TIME, np.int64)
        if objects:
            name = self.spec.event_time
            times[decoded] = parse_timestamps([row.get(name) for row in objects], self._zone)
        self._judge_times(rows, times, np.asarray(arrived_at_ms, np.int64), reasons)
        if self.spec.unknown_fields == "drop":
            rows = [
                None if row is None else {k: v for k, v in row.items() if k in self._by_name} for row in rows
            ]
        return Checked(rows, times, [_key(row, self.spec.key) for row in rows], reasons)

    def explain(self, row: Mapping[str, Any]) -> tuple[Reason, ...]:
        """Return everything that is wrong with a decoded row, its time of arrival aside."""
        found = [reason for field in self._fields if (reason := field.fault(row))]
        if self.spec.unknown_fields == "reject":
            found += [
                _reason(
                    ReasonCode.UNKNOWN_FIELD,
                    name,
                    row[name],
                    "is not in the contract: remove it, or add it to the spec",
                )
                for name in row
                if name not in self._by_name
            ]
        return tuple(found)

    def check_fields(self, row: Mapping[str, Any], fields: Collection[str]) -> tuple[Reason, ...]:
        """Return what is wrong with those of a row's fields that are named; the others may be absent."""
        return tuple(
            reason for field in self._fields if field.name in fields and (reason := field.fault(row))
        )

    def event_time_ms(self, row: Mapping[str, Any]) -> int:
        """Return the event time of one row; `NOT_A_TIME` if it cannot be read."""
        return int(parse_timestamps([row.get(self.spec.event_time)], self._zone)[0])

    def _row(self, payload: bytes) -> tuple[dict[str, Any] | None, Reason | None]:
        try:
            row = self._decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return None, _reason(
                ReasonCode.MALFORMED_JSON, "", payload, f"is no JSON ({error}): send a JSON object"
            )
        if not isinstance(row, dict):
            return None, _reason(
                ReasonCode.NOT_AN_OBJECT, "", row, "is no object: send a JSON object with the source's fields"
            )
        return row, None

    def _suspects(self, rows: Sequence[Mapping[str, Any]]) -> list[int]:
        """Return the places of the rows that some column check does not let through."""
        suspect = np.zeros(len(rows), bool)
        for field in self._fields:
            suspect |= field.suspects([row.get(field.name) for row in rows])
        if self.spec.unknown_fields == "reject":
            suspect |= np.array([not row.keys() <= self._by_name.keys() for row in rows], bool)
        return np.flatnonzero(suspect).tolist()

    def _judge_times(
        self,
        rows: Sequence[Any],
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


class _Field:
    """The checks of one field: quick for a column, telling for a value."""

    def __init__(self, name: str, spec: FieldSpec) -> None:
        self.name = name
        self._spec = spec
        self._low = -math.inf if spec.min is None else spec.min
        self._high = math.inf if spec.max is None else spec.max
        self._enum = None if spec.enum is None else frozenset(spec.enum)
        self._matches = re.compile(spec.pattern).fullmatch if spec.pattern else None
        self._zone = zone(spec.timezone)

    def suspects(self, values: list[Any]) -> NDArray[np.bool_]:
        """Return which of a column's values may be faulty; every faulty one is among them."""
        if self._spec.type in ("integer", "number"):
            return self._suspect_numbers(values)
        if self._spec.type == "timestamp":
            unread = parse_timestamps(values, self._zone) == NOT_A_TIME
            odd = np.array([type(value) is not str for value in values], bool)
            return np.asarray(unread | odd, bool)
        kind = str if self._spec.type == "string" else bool
        if self._enum is None and self._matches is None:
            return np.array([type(value) is not kind for value in values], bool)
        return np.array([type(value) is not kind or not self._allowed(value) for value in values], bool)

    def _suspect_numbers(self, values: list[Any]) -> NDArray[np.bool_]:
        plain = (int,) if self._spec.type == "integer" else (int, float)
        suspect = np.array([type(value) not in plain for value in values], bool)
        try:
            numbers = np.array(
                [0 if bad else value for value, bad in zip(values, suspect, strict=True)], np.float64
            )
        except OverflowError:
            return np.ones(len(values), bool)
        suspect |= ~((numbers >= self._low) & (numbers <= self._high))
        if self._enum is not None:
            suspect |= np.array([value not in self._enum for value in values], bool)
        return suspect

    def fault(self, row: Mapping[str, Any]) -> Reason | None:
        """Return what is wrong with the field of one row."""
        spec, value = self._spec, row.get(self.name)
        if self.name not in row:
            if spec.nullable:
                return None
            return _reason(
                ReasonCode.MISSING_FIELD,
                self.name,
                None,
                "is missing: send it, or make it nullable in the spec",
            )
        if value is None:
            if spec.nullable:
                return None
            return _reason(
                ReasonCode.NULL_VALUE,
                self.name,
                value,
                "is null: send a value, or make it nullable in the spec",
            )
        if not self._of_type(value):
            return _reason(ReasonCode.WRONG_TYPE, self.name, value, f"is no {spec.type}: send one")
        if spec.type == "timestamp":
            if int(parse_timestamps([value], self._zone)[0]) == NOT_A_TIME:
                return _reason(
                    ReasonCode.BAD_TIMESTAMP,
                    self.name,
                    value,
                    "is no time: send ISO 8601, like 2018-01-31T18:05:00Z",
                )
            return None
        if spec.type in ("integer", "number") and not self._low <= value <= self._high:
            return _reason(
                ReasonCode.OUT_OF_RANGE,
                self.name,
                value,
                f"is outside [{self._low:g}, {self._high:g}]: mend the producer",
            )
        if self._enum is not None and value not in self._enum:
            allowed = ", ".join(map(str, sorted(self._enum, key=str)))
            return _reason(
                ReasonCode.NOT_IN_ENUM, self.name, value, f"is none of {allowed}: send one of them"
            )
        if self._matches is not None and not self._matches(value):
            return _reason(
                ReasonCode.PATTERN_MISMATCH,
                self.name,
                value,
                f"does not match {spec.pattern}: mend the producer",
            )
        return None

    def _of_type(self, value: Any) -> bool:
        match self._spec.type:
            case "string":
                return isinstance(value, str)
            case "boolean":
                return isinstance(value, bool)
            case "timestamp":
                return isinstance(value, str | int | float) and not isinstance(value, bool)
            case "integer":
                return _is_number(value) and (isinstance(value, int) or value.is_integer())
            case "number":
                return _is_number(value)

    def _allowed(self, value: Any) -> bool:
        return (self._enum is None or value in self._enum) and (
            self._matches is None or bool(self._matches(value))
        )


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _key(row: Mapping[str, Any] | None, name: str) -> str | None:
    value = None if row is None else row.get(name)
    return None if value is None else entity_text(value)


def entity_text(value: Any) -> str:
    """Return a key's or an entity's value as the text that names it everywhere: 3 and 3.0 are the same."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _reason(code: ReasonCode, field: str, value: Any, said: str) -> Reason:
    shown = repr(value)
    if len(shown) > _LONGEST_VALUE:
        shown = shown[: _LONGEST_VALUE - 1] + "…"
    subject = f"{field} {shown}" if field else f"the record {shown}"
    return Reason(code, field, shown, f"{subject} {said}")
