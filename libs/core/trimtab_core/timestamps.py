"""Times as people and machines write them, to milliseconds since the epoch, and back to hours and weekdays.

All of it is vectorised over batches and cheap for a single value. A text that is no
time becomes `NOT_A_TIME`; nothing here raises for bad data.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import floor
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

Millis = NDArray[np.int64]
CalendarFunction = Literal["hour", "weekday", "month"]

NOT_A_TIME = int(np.iinfo(np.int64).min)
"""What a text that is no time becomes."""

_FIRST, _LAST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
_STEP = timedelta(days=3)
"""No zone has left an offset and come back to it in less (Freetown, in 4 days of 1939, was the quickest)."""
_EPOCH = datetime(1970, 1, 1)
_MILLISECOND = timedelta(milliseconds=1)
_DAY = 86_400_000
EARLIEST_MS, LATEST_MS = -62_135_596_800_000, 253_402_300_799_999
"""The years 1 to 9999, as milliseconds."""

_TEXT = re.compile(
    r"\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?(Z|z|[+-]\d\d(:?[0-5]\d)?)?)?", re.ASCII
)
_SHORTEST, _LONGEST = 19, 35
"""Characters of `2018-01-31T18:05:00`, and with nine decimals and an offset."""
_DIGITS = [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18]
_MARKS = [4, 7, 13, 16]


def iso(ms: int) -> str:
    """Return `ms` since the epoch as RFC 3339 text, UTC."""
    moment = datetime.fromtimestamp(ms / 1000, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Zone:
    """A time zone as a table of its offsets, so that whole columns are converted at once."""

    def __init__(self, name: str) -> None:
        """Read the zone called `name` in the IANA database, from 1900 to 2100; beyond, the outermost offsets hold."""
        self.name = name
        starts, offsets = _transitions(name)
        self._starts, self._offsets = starts, offsets
        # The first local time at which an offset is sure: after a fold, the earlier offset holds until the fold is over.
        self._local_starts = starts + np.maximum(offsets, np.concatenate([offsets[:1], offsets[:-1]]))
        self._start_list: list[int] = starts.tolist()
        self._offset_list: list[int] = offsets.tolist()
        self._local_start_list: list[int] = self._local_starts.tolist()

    def to_utc(self, local_ms: Millis) -> Millis:
        """Return the instants of wall-clock times; of two that fit, the earlier."""
        place = np.searchsorted(self._local_starts, local_ms, side="right") - 1
        found: Millis = np.where(
            local_ms == NOT_A_TIME, NOT_A_TIME, local_ms - self._offsets[np.maximum(place, 0)]
        )
        return found

    def to_local(self, utc_ms: Millis) -> Millis:
        """Return the wall-clock times of instants."""
        place = np.searchsorted(self._starts, utc_ms, side="right") - 1
        found: Millis = utc_ms + self._offsets[np.maximum(place, 0)]
        return found

    def calendar(self, function: CalendarFunction, utc_ms: Millis) -> NDArray[np.float64]:
        """Return the hour (0-23), weekday (Monday is 0) or month (1-12) of instants, as the zone's clocks show it."""
        local = self.to_local(np.asarray(utc_ms, np.int64))
        if function == "hour":
            return (local // 3_600_000 % 24).astype(np.float64)
        if function == "weekday":
            return ((local // _DAY + 3) % 7).astype(np.float64)
        months = local.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
        return (months % 12 + 1).astype(np.float64)

    def calendar_at(self, function: CalendarFunction, utc_ms: int) -> int:
        """Return what `calendar` returns, for one instant and without arrays."""
        local = utc_ms + self._offset_list[max(bisect_right(self._start_list, utc_ms) - 1, 0)]
        if function == "hour":
            return local // 3_600_000 % 24
        if function == "weekday":
            return (local // _DAY + 3) % 7
        return (_EPOCH + timedelta(milliseconds=local)).month

    def instant(self, local_ms: int) -> int:
        """Return what `to_utc` returns, for one wall-clock time and without arrays."""
        return local_ms - self._offset_list[max(bisect_right(self._local_start_list, local_ms) - 1, 0)]


@lru_cache(maxsize=64)
def zone(name: str | None) -> Zone:
    """Return the zone called `name`, UTC if it is None; the same object each time."""
    return Zone(name or "UTC")


def parse_timestamps(values: Sequence[Any], where: Zone) -> Millis:
    """Return the instants that `values` name.

    A text is ISO 8601, a date or a date and time with `T` or a space between them; without an offset it is in the zone
    `where`. A number is milliseconds since the epoch. Parts of a millisecond are cut off.
    """
    kinds = set(map(type, values))
    if kinds == {str}:
        return _parse_texts(values, where)
    if str not in kinds:
        return np.array([parse_timestamp(value, where) for value in values], np.int64)
    found = np.full(len(values), NOT_A_TIME, np.int64)
    is_text = np.fromiter((type(value) is str for value in values), bool, len(values))
    found[is_text] = _parse_texts([value for value in values if type(value) is str], where)
    for at in np.flatnonzero(~is_text).tolist():
        found[at] = parse_timestamp(values[at], where)
    return found


def parse_timestamp(value: Any, where: Zone) -> int:
    """Return the instant that one value names, as `parse_timestamps` does."""
    if isinstance(value, str):
        if _TEXT.fullmatch(value) is None:
            return NOT_A_TIME
        try:
            moment = datetime.fromisoformat(value.upper())
        except ValueError:
            return NOT_A_TIME
        local = (moment.replace(tzinfo=None) - _EPOCH) // _MILLISECOND
        offset = moment.utcoffset()
        return where.instant(local) if offset is None else local - offset // _MILLISECOND
    if isinstance(value, int | float) and not isinstance(value, bool) and EARLIEST_MS <= value <= LATEST_MS:
        return floor(value)
    return NOT_A_TIME


def _parse_texts(texts: Sequence[str], where: Zone) -> Millis:
    """Parse the usual form, `2018-01-31 18:05:00` with or without decimals and offset, at once; the rest one by one."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    try:
        cells = np.array(texts, f"S{_LONGEST}").view(np.uint8).reshape(len(texts), _LONGEST)
    except UnicodeEncodeError:
        return np.array([parse_timestamp(text, where) for text in texts], np.int64)
    local, usual = _wall_clock(cells)
    usual &= (lengths >= _SHORTEST) & (lengths <= _LONGEST)
    if (lengths == _SHORTEST).all():
        found = where.to_utc(local)
    else:
        thousandths, offset, naive, understood = _tails(cells[:, _SHORTEST:], lengths - _SHORTEST)
        usual &= understood
        found = np.where(naive, where.to_utc(local + thousandths), local + thousandths - offset)
    for at in np.flatnonzero(~usual).tolist():
        found[at] = parse_timestamp(texts[at], where)
    return found


def _wall_clock(cells: NDArray[np.uint8]) -> tuple[Millis, NDArray[np.bool_]]:
    """Return the times in the first 19 characters, taken as UTC, and where they are well written."""
    digits = cells[:, _DIGITS] - np.uint8(ord("0"))
    usual = (digits <= 9).all(axis=1) & (cells[:, _MARKS] == np.frombuffer(b"--::", np.uint8)).all(axis=1)
    usual &= (cells[:, 10] == ord("T")) | (cells[:, 10] == ord(" "))
    pairs = (digits[:, 0::2].astype(np.int64) * 10 + digits[:, 1::2]).T
    century, decade, month, day, hour, minute, second = pairs
    year = century * 100 + decade
    months = (year - 1970) * 12 + month - 1
    first, after = (each.astype("datetime64[M]").astype("datetime64[D]") for each in (months, months + 1))
    usual &= (
        (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= (after - first).astype(np.int64))
    )
    usual &= (hour < 24) & (minute < 60) & (second < 60)
    seconds = (first.astype(np.int64) + day - 1) * 86_400 + hour * 3_600 + minute * 60 + second
    return seconds * 1_000, usual


def _tails(
    cells: NDArray[np.uint8], lengths: Millis
) -> tuple[Millis, Millis, NDArray[np.bool_], NDArray[np.bool_]]:
    """Read what follows the seconds: return thousandths, offset in ms, where there is none, and where it is well written."""
    digits = cells - np.uint8(ord("0"))
    is_digit = digits <= 9
    fraction = cells[:, 0] == ord(".")
    run = np.argmin(is_digit[:, 1:11], axis=1)
    padded = np.where(np.arange(1, 4) <= run[:, None], digits[:, 1:4], 0).astype(np.int64)
    thousandths = np.where(fraction, padded @ np.array([100, 10, 1]), 0)
    start = np.where(fraction, 1 + run, 0)
    rest = lengths - start
    places = np.minimum(start[:, None] + np.arange(6), cells.shape[1] - 1)
    sign, *figures = np.take_along_axis(digits, places, axis=1).astype(np.int64).T
    colon = figures.pop(2) == ord(":") - ord("0")
    hours, minutes = figures[0] * 10 + figures[1], figures[2] * 10 + figures[3]
    minus, plus, zulu = (sign == (ord(mark) - ord("0")) % 256 for mark in "-+Z")
    offset_read = (rest == 6) & (minus | plus) & colon & (hours < 24) & (minutes < 60)
    offset_read &= np.all([figure <= 9 for figure in figures], axis=0)
    offset = np.where(offset_read, (hours * 60 + minutes) * 60_000, 0)
    understood = (~fraction | (run > 0)) & ((rest == 0) | ((rest == 1) & zulu) | offset_read)
    return thousandths, np.where(minus, -offset, offset), rest == 0, understood


def _transitions(name: str) -> tuple[Millis, Millis]:
    """Return the instants from which each offset holds, and the offsets, in milliseconds."""
    where = ZoneInfo(name)

    def offset(at: datetime) -> timedelta:
        return at.astimezone(where).utcoffset() or timedelta()

    starts, offsets, at = [_FIRST], [offset(_FIRST)], _FIRST
    while at < _LAST:
        after = at + _STEP
        while offset(after) != offsets[-1]:
            low, high = max(at, starts[-1]), after
            while high - low > timedelta(seconds=1):
                middle = low + (high - low) / 2
                low, high = (middle, high) if offset(middle) == offsets[-1] else (low, middle)
            starts.append(high.replace(microsecond=0))
            offsets.append(offset(starts[-1]))
        at = after
    naive = [(start.replace(tzinfo=None) - _EPOCH) // _MILLISECOND for start in starts]
    return np.array(naive, np.int64), np.array([step // _MILLISECOND for step in offsets], np.int64)
