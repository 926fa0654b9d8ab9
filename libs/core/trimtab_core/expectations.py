"""What a field is expected to be like over many rows: a batch that is not is told of, and nothing is refused.

A summary of some rows merges with that of others into the summary of all of them, so
batches add up whatever their sizes are. A window is closed at the end of the batch
that fills it; one that is open when its owner ends is lost.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab_core.limits import Limit
from trimtab_core.partials import EMPTY, MEAN, merge, reduce
from trimtab_core.specs import OF_NUMBERS, FieldSpec, SourceSpec


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """Some values of one field."""

    rows: int
    cell: NDArray[np.float64]
    """Those that are not null, as `partials` has them; only their count where moments are not wanted."""
    different: frozenset[Any] = frozenset()

    @classmethod
    def of(cls, values: Sequence[Any], *, numbers: bool, different: bool) -> "Summary":
        """Summarise a column; `numbers` and `different` say whether its moments and its different values are wanted."""
        there = [value for value in values if value is not None]
        kept = frozenset(there) if different else frozenset()
        if not numbers or not there:
            return cls(len(values), np.array([len(there), *EMPTY[MEAN:]]), kept)
        column = np.array(there, np.float64).reshape(-1, 1)
        with np.errstate(over="ignore", invalid="ignore"):  # what no float holds is within no limit
            return cls(len(values), reduce(column, np.zeros(1, np.intp))[0, 0], kept)

    def merge(self, other: "Summary") -> "Summary":
        """Return the summary of these values and `other`'s together."""
        with np.errstate(over="ignore", invalid="ignore"):
            cell = merge(self.cell, other.cell)
        return Summary(self.rows + other.rows, cell, self.different | other.different)

    def statistic(self, name: str) -> float | None:
        """Return a statistic that `Expect` names; None where there are too few values for one."""
        count, mean, m2, low, high = map(float, self.cell)
        match name:
            case "null_share":
                return 1 - count / self.rows if self.rows else None
            case "distinct":
                return float(len(self.different))
            case "stddev":
                return math.sqrt(m2 / (count - 1)) if count > 1 else None
            case _ if not count:
                return None
        return {"mean": mean, "min": low, "max": high}[name]


@dataclass(frozen=True, slots=True)
class Finding:
    """One statistic of one field over one window, beside what was expected."""

    field: str
    statistic: str
    value: float
    limit: Limit
    held: bool
    rows: int
    from_ms: int
    to_ms: int

    def __str__(self) -> str:
        verb = "is" if self.held else "is not"
        return f"{self.statistic} of {self.field} {verb} {self.limit}: it is {self.value:.6g} over {self.rows} rows"


class Expectations:
    """What one source's fields are expected to be like, and the rows seen of the window that is open."""

    def __init__(self, spec: SourceSpec) -> None:
        self._rows = spec.expect_rows
        self._fields = [_Expected(name, field) for name, field in spec.fields.items() if field.expect.limits]
        self._seen: dict[str, Summary] = {}
        self._from_ms = self._to_ms = 0

    def __bool__(self) -> bool:
        """Whether anything is expected at all."""
        return bool(self._fields)

    def add(self, rows: Sequence[Mapping[str, Any]], event_time_ms: NDArray[np.int64]) -> list[Finding]:
        """Take in rows that keep the contract; return what there is to say of the window, if they fill it."""
        if not self or not rows:
            return []
        first, last = int(event_time_ms.min()), int(event_time_ms.max())
        self._from_ms = min(self._from_ms, first) if self._seen else first
        self._to_ms = max(self._to_ms, last) if self._seen else last
        for field in self._fields:
            more = field.summary(rows)
            held = self._seen.get(field.name)
            self._seen[field.name] = more if held is None else held.merge(more)
        if self._seen[self._fields[0].name].rows < self._rows:
            return []
        found = [
            Finding(
                field.name, name, value, limit, limit.holds(value), summary.rows, self._from_ms, self._to_ms
            )
            for field in self._fields
            for name, limit in field.limits.items()
            if (value := (summary := self._seen[field.name]).statistic(name)) is not None
        ]
        self._seen = {}
        return found


class _Expected:
    def __init__(self, name: str, spec: FieldSpec) -> None:
        self.name = name
        self.limits = spec.expect.limits
        self._numbers = bool(self.limits.keys() & set(OF_NUMBERS))

    def summary(self, rows: Sequence[Mapping[str, Any]]) -> Summary:
        values = [row.get(self.name) for row in rows]
        return Summary.of(values, numbers=self._numbers, different="distinct" in self.limits)
