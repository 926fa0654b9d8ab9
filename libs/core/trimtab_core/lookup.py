"""What a reference table says of a key as of a time, online and offline alike.

A table is loaded whole from time to time. Each load is made a few versions: rows that
are other than they were, each since a time that lies ahead when it is written, so that
every reader has it before it counts. So what a key is as of a time is a function of the
table's history alone, and nothing that has counted is ever taken back.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Row = Mapping[str, Any]

FROM_EVER: Final = -(2**62)
"""Since when a key's first row of the first load holds: before any event."""


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
    values: list[tuple[float, ...]]


class _Compiled(NamedTuple):
    """All timelines, and what a key is that has none; both of the same columns."""

    timelines: dict[str, _Timeline]
    nothing: tuple[float, ...]


class Lookup(History):
    """A history, and the columns that are read of it; one thread writes, and many may read."""

    def __init__(
        self, columns: Sequence[str] = (), versions: Mapping[str, Mapping[int, Version]] | None = None
    ) -> None:
        """Read `columns`, numbers or booleans, of `versions`."""
        super().__init__(versions)
        self.columns: tuple[str, ...] = ()
        self._compiled = _Compiled({}, ())
        self.extend(columns)

    def extend(self, columns: Sequence[str]) -> None:
        """Read more columns, behind those that are read already: these stay where they are."""
        self.columns += tuple(columns)
        timelines = {key: self._timeline(held) for key, held in self.versions.items()}
        self._compiled = _Compiled(timelines, self._nothing)

    def apply(self, change: Change) -> None:
        """Take in a change; the same again changes nothing."""
        super().apply(change)
        self._compiled.timelines[change.key] = self._timeline(self.versions[change.key])

    def values(self, keys: Sequence[str], at_ms: Sequence[int] | NDArray[np.int64]) -> Floats:
        """Return the columns [rows, columns] of each key as of each time; NaN where there is none."""
        timelines, nothing = self._compiled
        times = at_ms.tolist() if isinstance(at_ms, np.ndarray) else at_ms
        found = []
        for key, time_ms in zip(keys, times, strict=True):
            timeline = timelines.get(key)
            found.append(
                nothing if timeline is None else timeline.values[bisect_right(timeline.times, time_ms)]
            )
        return np.array(found, np.float64).reshape(len(found), len(nothing))

    @property
    def _nothing(self) -> tuple[float, ...]:
        return (np.nan,) * len(self.columns)

    def _timeline(self, versions: Mapping[int, Version]) -> _Timeline:
        """Compile what is known of a key: a column that a row lacks, because it came later, is what it was before."""
        times, values = sorted(versions), [self._nothing]
        for since in times:
            row, brings = versions[since].row, versions[since].brings
            if row is None:
                values.append(self._nothing)
                continue
            before = values[-1]
            now = tuple(
                _number(row[column]) if column in row else before[place]
                for place, column in enumerate(self.columns)
            )
            if brings:
                values = [self._with(earlier, now, brings) for earlier in values]
            values.append(now)
        return _Timeline(times, values)

    def _with(
        self, earlier: tuple[float, ...], now: tuple[float, ...], brings: Collection[str]
    ) -> tuple[float, ...]:
        """Return what was, but what it is now in the columns that a version brings."""
        told = zip(self.columns, earlier, now, strict=True)
        return tuple(new if column in brings else old for column, old, new in told)


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
    before = {since: version.row for since, version in held.items()}
    was = _as_of(before, at_ms, None)
    # A key whose rows all lie ahead stays what it is until then.
    now = _as_of(rows, at_ms, was) if rows else None
    if now != was:
        yield Change(key, at_ms, Version(now, brings))
    for since in sorted({since for since in (*before, *rows) if since > at_ms}):
        row = _as_of(rows, since, now)
        if since not in before or before[since] != row:
            yield Change(key, since, Version(row))


def _as_of(rows: Mapping[int, Row | None], time_ms: int, otherwise: Row | None) -> Row | None:
    due = [since for since in rows if since <= time_ms]
    return rows[max(due)] if due else otherwise


def _number(value: Any) -> float:
    """Return a value as a number; of what a column held when it was of another type, nothing is known."""
    return float(value) if isinstance(value, int | float) else np.nan
