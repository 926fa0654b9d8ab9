"""Gives the values of a file's rows the types that a source's contract asks for.

A text whose field is no string is read as what the field is; what cannot be read so
is left as it is, for the contract to judge: nothing is dropped or guessed here.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import msgspec
from trimtab_core.specs import FieldSpec, SourceSpec
from trimtab_core.timestamps import NOT_A_TIME, Zone, parse_timestamp, zone
from trimtab_runtime.errors import Rejected

from trimtab.files import Row

_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_COMMA = re.compile(r"[+-]?\d*,\d+", re.ASCII)
TRUTHS = {
    **dict.fromkeys(("true", "yes", "t", "y", "1"), True),
    **dict.fromkeys(("false", "no", "f", "n", "0"), False),
}
"""Texts, in lower case, that are read as booleans."""
SECONDS = "s"
"""The time format of a number that counts seconds since the epoch."""
_FAR_S = 1e12
"""Seconds that lie in no year that a time can have."""
_LONGEST = 20
"""Characters of the longest whole number that fits in 64 bits."""
_encode = msgspec.json.Encoder(decimal_format="number", enc_hook=str).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How the values of a file are to be read."""

    columns: Mapping[str, str] = dataclass_field(default_factory=dict)
    """The field that a column fills; `Date+Time` is two columns with a space between them."""
    nulls: Sequence[str] = ()
    """Texts and numbers that mean null; `field=-200` in that field only."""
    time_formats: Sequence[str] = ()
    """Formats as of strptime, or `s` for seconds since the epoch, of times that the contract cannot read."""
    decimal_comma: bool = False
    row_id: str = ""
    """The field that each row's id is put in, if any."""


class Typing:
    """Types the rows of one file for one source."""

    def __init__(self, spec: SourceSpec, reading: Reading) -> None:
        """Compile it.

        Raises:
            Rejected: a column is mapped to no field of the contract, or a time format is none.
        """
        self._spec = spec
        self._reading = reading
        known = ", ".join(spec.fields)
        for column, field in [*reading.columns.items(), *([("", reading.row_id)] if reading.row_id else [])]:
            if field not in spec.fields:
                raise Rejected(
                    f"{column or '--row-id'!r} is to fill {field!r}, which is no field of the source: name one of {known}"
                )
        for form in reading.time_formats:
            if form != SECONDS and not _is_format(form):
                raise Rejected(f"--time-format {form!r} is none: write one such as '%d/%m/%Y %H:%M'")
        self._joined = [
            (parts, field, self._reader(field))
            for column, field in reading.columns.items()
            if len(parts := column.split("+")) > 1
        ]
        self._places: dict[str, _Place] = {}

    def typed(self, row: Row, row_id: str) -> tuple[dict[str, Any], bytes]:
        """Return a row's fields and the JSON that is sent for it; as it stands in the file, if nothing in it changes."""
        if row.fields is None:
            return {}, row.line
        typed = self.fields(row.fields)
        if self._reading.row_id:
            typed[self._reading.row_id] = row_id
        return typed, row.line if row.line and typed == row.fields else _encode(typed)

    def fields(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a row, typed."""
        typed: dict[str, Any] = {}
        for column, value in values.items():
            place = self._places.get(column) or self._place(column)
            if not place.part:
                typed[place.field] = place.read(value)
        for parts, field, read in self._joined:
            if field not in typed and all(part in values for part in parts):
                texts = [values[part] for part in parts]
                typed[field] = None if None in texts else read(" ".join(str(text).strip() for text in texts))
        return typed

    def _place(self, column: str) -> "_Place":
        fields, columns = self._spec.fields, self._reading.columns
        names = (columns.get(column), column, field_name(column), plain_name(column))
        field = next((name for name in names if name in fields), column)
        part = any(column in parts and field in (column, whole) for parts, whole, _ in self._joined)
        place = self._places[column] = _Place(field, part, self._reader(field))
        return place

    def _reader(self, field: str) -> Callable[[Any], Any]:
        nulls = _nulls(field, self._reading.nulls)
        spec = self._spec.fields.get(field)
        convert = _converter(spec, self._reading)
        counts_seconds = (
            spec is not None and spec.type == "timestamp" and SECONDS in self._reading.time_formats
        )

        def read(value: Any) -> Any:
            if type(value) is str:
                if value.strip() in nulls:
                    return None
                value = convert(value)
                return None if type(value) in (int, float) and value in nulls else value
            if isinstance(value, datetime | date | time):
                return value.isoformat()
            if isinstance(value, Decimal):
                value = float(value)
            if type(value) in (int, float):
                if value in nulls:
                    return None
                return _millis(value) if counts_seconds else value
            return value

        return read


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a column's values go."""

    field: str
    part: bool
    """Whether it is but a part of a field."""
    read: Callable[[Any], Any]


def field_name(column: str) -> str:
    """Return a column's name as a field may be called: itself, or its letters and digits in lower case."""
    return column if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", column) else plain_name(column)


def plain_name(column: str) -> str:
    """Return a column's letters and digits in lower case, with underscores between."""
    plain = re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_") or "column"
    return plain if plain[0].isalpha() else f"c_{plain}"


def _nulls(field: str, given: Iterable[str]) -> frozenset[Any]:
    found: set[Any] = set()
    for text in given:
        name, equals, value = text.partition("=")
        if equals and name != field:
            continue
        value = value if equals else text
        found |= {value, float(value)} if _NUMBER.fullmatch(value) else {value}
    return frozenset(found)


def _converter(spec: FieldSpec | None, reading: Reading) -> Callable[[str], Any]:
    match spec.type if spec else "string":
        case "integer":
            return lambda text: _whole(number_of(text, reading.decimal_comma))
        case "number":
            return lambda text: number_of(text, reading.decimal_comma)
        case "boolean":
            return lambda text: TRUTHS.get(text.strip().lower(), text.strip() or None)
        case "timestamp":
            assert spec is not None
            return _Times(reading.time_formats, zone(spec.timezone))
        case _:
            return lambda text: text


def number_of(text: str, decimal_comma: bool) -> Any:
    """Return the number that a text is; the text itself if it is none that JSON can hold, None if it is empty."""
    plain = text.strip()
    if len(plain) <= _LONGEST and _INTEGER.fullmatch(plain) and -(2**63) <= (whole := int(plain)) < 2**64:
        return whole
    if decimal_comma and _COMMA.fullmatch(plain):
        plain = plain.replace(",", ".")
    if not plain:
        return None
    return number if _NUMBER.fullmatch(plain) and math.isfinite(number := float(plain)) else text


def _whole(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() and abs(value) < 2**63 else value


class _Times:
    """Reads a text as a time that the contract understands."""

    def __init__(self, formats: Sequence[str], where: Zone) -> None:
        self._formats = formats
        self._where = where

    def __call__(self, text: str) -> Any:
        plain = text.strip()
        if not plain:
            return None
        if parse_timestamp(plain, self._where) != NOT_A_TIME:
            return plain
        for form in self._formats:
            if (found := in_format(plain, form)) is not None:
                return found
        return int(plain) if len(plain) <= _LONGEST and _INTEGER.fullmatch(plain) else text


def in_format(text: str, form: str) -> str | int | None:
    """Return a text of a time format as ISO 8601, or as milliseconds since the epoch; None if it is not of it."""
    if form == SECONDS:
        return _millis(float(text)) if _NUMBER.fullmatch(text) and abs(float(text)) < _FAR_S else None
    try:
        return datetime.strptime(text, form).isoformat()
    except ValueError:
        return None


def _millis(seconds: float) -> Any:
    return round(seconds * 1000) if abs(seconds) < _FAR_S else seconds


def _is_format(form: str) -> bool:
    try:
        return datetime.strptime(datetime(2000, 1, 31, 18, 5, tzinfo=UTC).strftime(form), form).year > 0
    except ValueError:
        return False
