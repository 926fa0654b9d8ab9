"""What the columns of a user's table seem to be: type, range, sentinels, form of times.

It looks at rows and proposes; nothing is certain. What it is unsure of, or left out
of a range, it says in a note that a person can check.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from datetime import date, datetime, time
from decimal import Decimal
from itertools import pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trimtab_core.timestamps import NOT_A_TIME, parse_timestamp, parse_timestamps, zone

from trimtab.typed import SECONDS, TRUTHS, field_name, in_format, number_of, plain_name

Floats = NDArray[np.float64]
Millis = NDArray[np.int64]

MOST_OF = 0.98
"""A column is what so much of it is; the rest is left to the contract to refuse."""
_NOTHING = frozenset({"na", "n/a", "nan", "null", "none", "?", "-", "--", "nil"})
_CLOCK = re.compile(r"\d{1,2}[:.]\d{2}([:.]\d{2})?", re.ASCII)
_DATES = (
    "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y-%m-%d", "%Y/%m/%d", "%Y%m%d",
    "%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%d %B %Y",
)  # fmt: skip
_CLOCKS = ("", "%H:%M:%S", "%H:%M", "%H.%M.%S", "%H.%M", "%I:%M:%S %p", "%I:%M %p", "%H:%M:%S.%f", "%H%M%S")
FORMATS = tuple(f"{day} {clock}".strip() for day, clock in product(_DATES, _CLOCKS))
_SECONDS, _MILLIS = (10**9 // 2, 4 * 10**9), (10**12 // 2, 4 * 10**12)
"""Between which a number may count seconds, or milliseconds, since 1970: about 1986 to 2096."""
_FEW = 20
_FAR = 20.0
"""So many times the usual spread away, a value is taken for a fault,"""
_FAULTS = 0.005
"""unless more than such a share of all is so far away."""
_LOOKED_AT = 2_000
_SENTENCE = 3
"""So many words a text has at the least, in half of the rows, of which each counts by itself."""
_A_KIND = 20
"""So many rows each value of a category has, on average."""
MOST_KINDS = 200


@dataclass(slots=True, eq=False)
class Column:
    """One column, as it seems to be."""

    name: str
    """In the file; `Date+Time` for two that are one."""
    field: str
    type: str
    rows: int
    nulls: int
    distinct: int
    unfit: int = 0
    """Values that are not of the type."""
    low: float | None = None
    high: float | None = None
    enum: tuple[str, ...] = ()
    null_texts: tuple[str, ...] = ()
    """What stands for nothing, sentinel numbers among it."""
    time_format: str = ""
    has_offset: bool = True
    numbers: Floats | None = None
    """Of a number or boolean, NaN where there is none."""
    times: Millis | None = None
    """Of a timestamp, `NOT_A_TIME` where there is none."""
    values: Sequence[Any] = ()
    notes: list[str] = dataclass_field(default_factory=list)

    @property
    def nullable(self) -> bool:
        """Whether some row has no value."""
        return self.nulls > 0

    @property
    def unique(self) -> bool:
        """Whether every row has a value of its own."""
        return self.nulls == 0 and self.distinct == self.rows

    @property
    def wordy(self) -> bool:
        """Whether it is of texts of several words each, and no category."""
        if self.type != "string" or self.is_category:
            return False
        there = [len(value.split()) for value in self.values if isinstance(value, str)]
        return len(there) > 0 and float(np.median(there)) >= _SENTENCE

    @property
    def is_category(self) -> bool:
        """Whether it is of a few texts that each mean something."""
        return self.type == "string" and 2 <= self.distinct <= min(
            MOST_KINDS, max(2, (self.rows - self.nulls) / _A_KIND)
        )


def columns(rows: Sequence[Mapping[str, Any]], *, decimal_comma: bool = False) -> list[Column]:
    """Return what the columns of `rows` seem to be, in their order."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    found = [_column(name, [row.get(name) for row in rows], decimal_comma) for name in names]
    return _distinct_fields(_joined([column for column in found if column is not None]))


def _column(name: str, raw: Sequence[Any], decimal_comma: bool) -> Column | None:
    values = [_plain(value) for value in raw]
    there = [value for value in values if value is not None]
    if any(map(is_nested, there)):
        return None
    distinct = len(set(there))
    column = Column(
        name, field_name(name), "string", len(values), len(values) - len(there), distinct, values=values
    )
    if not there:
        column.notes.append("empty in every row: say what it is, or drop it")
    elif all(type(value) is bool for value in there):
        _make_boolean(column, values)
    elif all(type(value) in (int, float) for value in there):
        _make_number(column, values)
    elif all(type(value) is str for value in there):
        _of_texts(column, values, decimal_comma)
    else:
        column.values = [None if value is None else str(value) for value in values]
    if column.type == "string" and distinct:
        _look_at_string(column)
    return column


def is_nested(value: Any) -> bool:
    """Whether it is no value of a column, but holds several, or bytes."""
    return isinstance(value, list | dict | bytes)


def _plain(value: Any) -> Any:
    """Return a value as JSON would have it."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value != "" else None


def _of_texts(column: Column, values: Sequence[str | None], decimal_comma: bool) -> None:
    """Find out what a column of texts is: yes or no, a number, a time, or texts indeed."""
    texts = [(value.strip() or None) if value else None for value in values]
    nothing = {text for text in texts if text is not None and text.lower() in _NOTHING}
    rest = [None if text in nothing else text for text in texts]
    there = [text for text in rest if text is not None]
    if not there:
        return
    as_texts, column.nulls = column.nulls, rest.count(None)
    lowered = {text.lower() for text in there}
    if lowered in ({"true", "false"}, {"yes", "no"}, {"t", "f"}, {"y", "n"}):
        _make_boolean(column, [None if text is None else TRUTHS[text.lower()] for text in rest])
    elif not any(len(text) > 1 and text[0] == "0" and text.isdigit() for text in there) and _most(
        type(number_of(text, decimal_comma)) is not str for text in there
    ):
        numbers = [None if text is None else number_of(text, decimal_comma) for text in rest]
        column.unfit = sum(type(number) is str for number in numbers)
        _make_number(column, [None if type(number) is str else number for number in numbers])
    elif not _make_time(column, rest):
        column.nulls = as_texts
        return
    column.null_texts = (*sorted(nothing), *column.null_texts)


def _most(good: Iterable[bool]) -> bool:
    answers = list(good)
    return sum(answers) >= MOST_OF * len(answers)


def _make_boolean(column: Column, values: Sequence[bool | None]) -> None:
    column.type = "boolean"
    column.numbers = np.array([math.nan if value is None else float(value) for value in values])


def _make_number(column: Column, values: Sequence[float | None]) -> None:
    numbers = np.array([math.nan if value is None else float(value) for value in values])
    there = numbers[~np.isnan(numbers)]
    whole = bool((there == np.floor(there)).all())
    if whole and re.search(r"time|date|stamp|(^|_)(at|ts)$", column.name.lower()):
        for (low, high), form in ((_SECONDS, SECONDS), (_MILLIS, "")):
            if there.min() >= low and there.max() <= high:
                column.type, column.time_format = "timestamp", form
                scale = 1000 if form else 1
                column.times = np.where(np.isnan(numbers), NOT_A_TIME, np.nan_to_num(numbers) * scale).astype(
                    np.int64
                )
                return
    column.type, column.numbers = "integer" if whole else "number", numbers
    sentinels = _sentinels(there)
    for value in sentinels:
        count = int((there == value).sum())
        column.notes.append(
            f'{value:g} stands in {count:,} rows and looks like "unknown": it is made null on the way in'
        )
    column.null_texts = tuple(f"{value:g}" for value in sentinels)
    column.nulls += int(np.isin(there, sentinels).sum())
    column.numbers = np.where(np.isin(numbers, sentinels), math.nan, numbers)
    rest = there[~np.isin(there, sentinels)]
    if len(rest) and not (whole and column.distinct > column.rows / 2 and column.rows > _FEW):
        _bound(column, rest)


def _sentinels(there: Floats) -> list[float]:
    """Return the lowest and the highest value where it is a code for "unknown": frequent, round, and by itself."""
    found = []
    for extreme in {float(there.min()), float(there.max())}:
        rest = there[there != extreme]
        count = len(there) - len(rest)
        if len(rest) < 10 or count < max(3, len(there) / 1000) or not _is_code(extreme):
            continue
        spread = float(np.quantile(rest, 0.99) - np.quantile(rest, 0.01)) or abs(float(rest[0])) or 1.0
        gap = float(np.abs(rest - extreme).min())
        if (extreme < 0 <= rest.min()) or gap > 2 * spread:
            found.append(extreme)
    return sorted(found)


def _is_code(value: float) -> bool:
    """Whether people write such a number for "unknown": -1, 99, 999, -9, -999, -200, ..."""
    if value >= 0:
        return bool(re.fullmatch(r"99+", f"{value:.15g}"))
    return value == -1 or value % 100 == 0 or bool(re.fullmatch(r"-9+", f"{value:.15g}"))


def _bound(column: Column, there: Floats) -> None:
    """Set a range that is wider than what was seen, but for values so far away that they must be faults."""
    low, high = (float(np.quantile(there, share)) for share in (0.01, 0.99))
    spread = high - low or float(np.ptp(there)) or abs(high) or 1.0
    usual = there[(there >= low - _FAR * spread) & (there <= high + _FAR * spread)]
    faults = len(there) - len(usual)
    if faults > _FAULTS * len(there):
        usual, faults = there, 0
    if faults:
        far = max(there, key=lambda value: abs(value - (low + high) / 2))
        column.notes.append(
            f"{faults:,} values are far away, like {far:g}: those rows are refused; widen it if they are right"
        )
    seen_low, seen_high = float(usual.min()), float(usual.max())
    if set(usual.tolist()) <= {0.0, 1.0}:
        column.low, column.high = 0.0, 1.0
        return
    column.low = 0.0 if seen_low >= 0 else -_rounded_up(-seen_low + spread / 2)
    column.high = 0.0 if seen_high <= 0 else _rounded_up(seen_high + spread / 2)
    negative = int((usual < 0).sum())
    if 0 < negative < 0.02 * len(usual):
        column.notes.append(f"negative in {negative:,} rows: if that should never be, write min: 0")


def _rounded_up(value: float) -> float:
    """Return the next of 1, 2, 5, 10, 20, 50, ... that is not under `value`."""
    scale = 10.0 ** math.floor(math.log10(value))
    return next(step * scale for step in (1, 2, 5, 10) if step * scale >= value)


def _make_time(column: Column, texts: Sequence[str | None]) -> bool:
    """Make the column a timestamp if most of its texts are times of one form; return whether they are."""
    there = [text for text in texts if text is not None]
    looked_at = there[:: max(1, len(there) // _LOOKED_AT)]
    iso = parse_timestamps(looked_at, zone(None)) != NOT_A_TIME
    if _most(iso.tolist()):
        moments: list[str | int | None] = list(texts)
    else:
        fitting = [
            form for form in FORMATS if in_format(looked_at[0], form) or in_format(looked_at[-1], form)
        ]
        fitting = [form for form in fitting if _most(in_format(text, form) is not None for text in looked_at)]
        if not fitting:
            return False
        read = {form: [None if text is None else in_format(text, form) for text in texts] for form in fitting}
        column.time_format = min(fitting, key=lambda form: _goes_back(read[form]))
        moments = read[column.time_format]
        if len(fitting) > 1:
            other = next(form for form in fitting if form != column.time_format)
            column.notes.append(
                f"read as {column.time_format}; {other} would fit too: look at a date you know"
            )
    column.type = "timestamp"
    column.times = np.array([parse_timestamp(moment, zone(None)) for moment in moments], np.int64)
    column.unfit = int((column.times == NOT_A_TIME).sum()) - sum(text is None for text in texts)
    column.has_offset = (
        bool(re.search(r"[Zz]$|[+-]\d\d(:?\d\d)?$", there[0][10:])) or "%z" in column.time_format
    )
    return True


def _goes_back(moments: Sequence[str | int | None]) -> int:
    times = [str(moment) for moment in moments if moment is not None]
    return sum(after < before for before, after in pairwise(times))


def _look_at_string(column: Column) -> None:
    counts = Counter(value for value in column.values if value is not None)
    if column.rows >= 50 and 2 <= len(counts) <= min(_FEW, column.rows / 20):
        column.enum = tuple(sorted(counts))


def _joined(found: list[Column]) -> list[Column]:
    """Join a column of dates with the first one of times of day, if there are such."""
    for day in found:
        clock = next((each for each in found if each.type == "string" and _is_clock(each)), None)
        if clock is None or day.type != "timestamp" or not _is_dates(day):
            continue
        texts = [
            f"{first} {second}" if first is not None and second is not None else None
            for first, second in zip(map(_text, day.values), map(_text, clock.values), strict=True)
        ]
        whole = Column(
            f"{day.name}+{clock.name}",
            plain_name(f"{day.name} {clock.name}"),
            "string",
            day.rows,
            texts.count(None),
            len(set(texts)),
            values=texts,
        )
        if _make_time(whole, texts):
            found[found.index(day)] = whole
            found.remove(clock)
            return found
    return found


def _text(value: Any) -> str | None:
    return None if value is None else str(value).strip()


def _is_dates(column: Column) -> bool:
    assert column.times is not None
    times = column.times[column.times != NOT_A_TIME]
    return bool((times % 86_400_000 == 0).all())


def _is_clock(column: Column) -> bool:
    texts = [str(value).strip() for value in column.values if value is not None]
    return bool(texts) and _most(_CLOCK.fullmatch(text) is not None for text in texts)


def _distinct_fields(found: list[Column]) -> list[Column]:
    seen: Counter[str] = Counter()
    for column in found:
        seen[column.field] += 1
        if seen[column.field] > 1:
            column.field = f"{column.field}_{seen[column.field]}"
    return found
