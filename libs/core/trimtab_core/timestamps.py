"""Times as people and machines write them, to milliseconds since the epoch, and back to hours and weekdays.

All of it is vectorised over batches and cheap for a single value. A text that is no
time becomes `NOT_A_TIME`; nothing here raises for bad data.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

Millis = NDArray[np.int64]
CalendarFunction = Literal["hour", "weekday", "month"]

NOT_A_TIME = np.iinfo(np.int64).min
"""What a text that is no time becomes."""
_FIRST, _LAST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
_DAY = 86_400_000


class Zone:
    """A time zone as a table of its offsets, so that whole columns are converted at once."""

    def __init__(self, name: str) -> None:
        """Read the zone called `name` in the IANA database, from 1900 to 2100."""
        self.name = name
        starts, offsets = _transitions(name)
        self._starts = starts
        self._offsets = offsets
        # The first local time at which an offset is sure: after a fold, the earlier offset holds until the fold is over.
        self._local_starts = starts + np.maximum(offsets, np.concatenate([offsets[:1], offsets[:-1]]))

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


@lru_cache(maxsize=64)
def zone(name: str | None) -> Zone:
    """Return the zone called `name`, UTC if it is None; the same object each time."""
    return Zone(name or "UTC")


def parse_timestamps(values: Sequence[Any], where: Zone) -> Millis:
    """Return the instants that `values` name.

    A text is ISO 8601, with `T` or a space between date and time; without an offset it
    is in the zone `where`. A number is milliseconds since the epoch.
    """
    try:
        texts = np.array(values, dtype="datetime64[ms]") if _all_plain(values) else None
    except ValueError:
        texts = None
    if texts is not None:
        return where.to_utc(np.where(np.isnat(texts), NOT_A_TIME, texts.astype(np.int64)))
    return np.array([_parse_one(value, where) for value in values], np.int64)


def _all_plain(values: Sequence[Any]) -> bool:
    """Whether all are texts of digits alone, the form that numpy reads at once."""
    return len(values) > 0 and all(
        isinstance(value, str) and len(value) == 19 and value[4] == "-" for value in values
    )


def _parse_one(value: Any, where: Zone) -> int:
    if isinstance(value, bool) or value is None:
        return int(NOT_A_TIME)
    if isinstance(value, int | float):
        return int(value) if abs(value) < 2**53 else int(NOT_A_TIME)
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return int(NOT_A_TIME)
    naive = moment.replace(tzinfo=UTC)
    if moment.tzinfo is None:
        return int(where.to_utc(np.array([_millis(naive)], np.int64))[0])
    return _millis(moment)


def _millis(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _transitions(name: str) -> tuple[Millis, Millis]:
    """Return the instants from which each offset holds, and the offsets, in milliseconds."""
    where = ZoneInfo(name)

    def offset(at: datetime) -> timedelta:
        return at.astimezone(where).utcoffset() or timedelta()

    starts, offsets, at = [_FIRST], [offset(_FIRST)], _FIRST
    while at < _LAST:
        after = at + timedelta(days=7)
        if offset(after) != offsets[-1]:
            low, high = at, after
            while high - low > timedelta(seconds=1):
                middle = low + (high - low) / 2
                low, high = (middle, high) if offset(middle) == offsets[-1] else (low, middle)
            starts.append(high.replace(microsecond=0))
            offsets.append(offset(after))
        at = after
    return (
        np.array([_millis(start) for start in starts], np.int64),
        np.array([step // timedelta(milliseconds=1) for step in offsets], np.int64),
    )
