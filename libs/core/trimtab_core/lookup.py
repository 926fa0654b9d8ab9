"""What a reference table says of a key as of a time, online and offline alike.

A table is loaded whole from time to time. Each load is made a few versions: rows that
are other than they were, each since a time that lies ahead when it is written, so that
every reader has it before it counts. So what a key is as of a time is a function of the
table's history alone, and nothing that has counted is ever taken back.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Row = Mapping[str, Any]

FROM_EVER: Final = -(2**62)
"""Since when a key's first row of the first load holds: before any event."""
_FEW = 16
"""Up to so many rows, one by one is quicker than together."""


@dataclass(frozen=True, slots=True)
class Version:
    """What a key is from a time on."""

    row: Row | None
    """Column by column; None if it is no more."""
    brings: frozenset[str] = frozenset()
    """Columns that the table did not have before: of those, this holds for all time before it as well."""


class Change(NamedTuple):
    """A version that a load adds to the history, or puts in the place of one that has not counted yet."""

    key: str
    since_ms: int
    version: Version


class History:
    """All versions of a table, by key and by the time since which they hold."""

    def __init__(self, versions: Mapping[str, Mapping[int, Version]] | None = None) -> None:
        self.versions: dict[str, Mapping[int, Version]] = dict(versions or {})

    def apply(self, change: Change) -> None:
        """Take in a change; the same again changes nothing."""
        self.versions[change.key] = {**self.versions.get(change.key, {}), change.since_ms: change.version}

    def newest_ms(self, until_ms: int) -> int:
        """Return since when the newest version holds that counts by a time; 0 where it is of the first load."""
        return max(
            (since for held in self.versions.values() for since in held if 0 < since <= until_ms), default=0
        )


class _Timeline(NamedTuple):
    """What a key is over time: before `times[0]` it is `values[0]`, from `times[n]` on `values[n + 1]`."""

    times: list[int]
    values: Floats


class Lookup(History):
    """A history, and the columns that are read of it; one thread writes, and many may read."""

    def __init__(
        self, columns: Sequence[str], versions: Mapping[str, Mapping[int, Version]] | None = None
    ) -> None:
        """Read `columns`, numbers or booleans, of `versions`."""
        super().__init__(versions)
        self.columns = tuple(columns)
        self._timelines = {key: self._timeline(held) for key, held in self.versions.items()}
        self._nothing = np.full(len(self.columns), np.nan)

    def apply(self, change: Change) -> None:
        """Take in a change; the same again changes nothing."""
        super().apply(change)
        self._timelines[change.key] = self._timeline(self.versions[change.key])

    def values(self, keys: Sequence[str], at_ms: Sequence[int] | NDArray[np.int64]) -> Floats:
        """Return the columns [rows, columns] of each key as of each time; NaN where there is none."""
        if len(keys) <= _FEW:
            found = [self._at(key, time_ms) for key, time_ms in zip(keys, at_ms, strict=True)]
            return np.array(found).reshape(len(keys), len(self.columns))
        codes: dict[str, int] = {}
        of_rows = np.array([codes.setdefault(key, len(codes)) for key in keys])
        together = np.argsort(of_rows, kind="stable")
        parts = np.split(together, np.cumsum(np.bincount(of_rows))[:-1])
        values, times = np.full((len(keys), len(self.columns)), np.nan), np.asarray(at_ms, np.int64)
        for key, rows in zip(codes, parts, strict=True):
            if (timeline := self._timelines.get(key)) is not None:
                values[rows] = timeline.values[np.searchsorted(timeline.times, times[rows], side="right")]
        return values

    def _at(self, key: str, time_ms: int) -> Floats:
        timeline = self._timelines.get(key)
        if timeline is None:
            return self._nothing
        found: Floats = timeline.values[bisect_right(timeline.times, time_ms)]
        return found

    def _timeline(self, versions: Mapping[int, Version]) -> _Timeline:
        """Compile what is known of a key: a column that a row lacks, because it came later, is what it was before."""
        times = sorted(versions)
        values = np.full((len(times) + 1, len(self.columns)), np.nan)
        for at, since in enumerate(times, start=1):
            row, brings = versions[since].row, versions[since].brings
            if row is not None:
                for place, column in enumerate(self.columns):
                    values[at, place] = _number(row[column]) if column in row else values[at - 1, place]
                    if column in brings:
                        values[:at, place] = values[at, place]
        return _Timeline(times, values)


def changes(
    history: History,
    wanted: Mapping[str, Mapping[int, Row]],
    *,
    kept: Collection[str],
    at_ms: int,
    brings: frozenset[str],
    is_first: bool,
) -> Iterator[Change]:
    """Yield what makes the history say from `at_ms` on what a load has found, and before it what it said already.

    Args:
        history: all versions so far.
        wanted: the rows that were found, by key and by the time since which each holds (`FROM_EVER` where none is said).
        kept: keys of which not all that is there can be read: those that are known stay what they were.
        at_ms: when what was found begins to count; later than every load before.
        brings: the columns that no load had before.
        is_first: whether nothing was loaded before: then rows hold since the times they say, and a key's first from ever.
    """
    for key, rows in wanted.items():
        if key in kept and key in history.versions:
            continue
        if is_first:
            first, *others = sorted(rows)
            yield Change(key, FROM_EVER, Version(rows[first]))
            yield from (Change(key, since, Version(rows[since])) for since in others)
        else:
            yield from _changed(key, history.versions.get(key, {}), rows, at_ms, brings)
    for key in history.versions.keys() - wanted.keys() - set(kept):
        yield from _changed(key, history.versions[key], {}, at_ms, frozenset())


def _changed(
    key: str, held: Mapping[int, Version], rows: Mapping[int, Row], at_ms: int, brings: frozenset[str]
) -> Iterator[Change]:
    was = _newest(held, at_ms)
    was_row = None if was is None else held[was].row
    # A key whose rows all lie ahead stays what it is until then.
    due = _newest(rows, at_ms)
    now = rows[due] if due is not None else was_row if rows else None
    if now != was_row:
        yield Change(key, at_ms, Version(now, brings))
    for since in sorted({since for since in (*held, *rows) if since > at_ms}):
        due = _newest(rows, since)
        row = now if due is None else rows[due]
        if since not in held or held[since].row != row:
            yield Change(key, since, Version(row))


def _newest(times: Iterable[int], until_ms: int) -> int | None:
    return max((time for time in times if time <= until_ms), default=None)


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)
