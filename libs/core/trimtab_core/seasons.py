"""Phases of a season: which reference rows a window is held against where it is compared with its like.

All times are milliseconds since the epoch, from which seasons are counted, in UTC.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from trimtab_core.durations import format_duration

Counts = NDArray[np.int64]

MOST_PHASES: Final = 48
FEWEST_ROWS: Final = 100
"""Reference rows that a phase has at least, on average."""

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_FEWEST_SEASONS: Final = 2


@dataclass(frozen=True, slots=True)
class Season:
    """A season of `length_ms`, cut into phases of equal length."""

    length_ms: int
    phases: int

    @classmethod
    def of(cls, length_ms: int, at_ms: NDArray[np.float64] | None) -> Self:
        """Return a season with the finest phases that these times allow: parts of an hour or of a day that fit into those, or whole days.

        Raises:
            ValueError: there are no times, they cover less than two seasons, or too few rows, which it says.
        """
        asked = f"monitoring.season of {format_duration(length_ms)} is not followed"
        if at_ms is None or len(at_ms) == 0:
            raise ValueError(f"{asked}: the reference does not tell its rows' times, train the version again")
        covers = int(at_ms.max() - at_ms.min())
        if covers < _FEWEST_SEASONS * length_ms:
            hours = (
                format_duration(covers // 3_600_000 * 3_600_000) if covers >= 3_600_000 else "less than 1h"
            )
            raise ValueError(f"{asked}: the reference covers {hours}, and two seasons are needed")
        for phases in range(min(MOST_PHASES, len(at_ms) // FEWEST_ROWS), 1, -1):
            if length_ms % phases == 0 and _fits(length_ms // phases):
                return cls(length_ms, phases)
        raise ValueError(
            f"{asked}: {len(at_ms)} reference rows are too few to tell phases apart, or it has no phases that fit into days"
        )

    def phases_of(self, at_ms: NDArray[np.float64] | NDArray[np.int64]) -> Counts:
        """Return the number of each time's phase, from 0."""
        since = np.asarray(at_ms, np.int64) % self.length_ms
        return since * self.phases // self.length_ms


def _fits(phase_ms: int) -> bool:
    if phase_ms < _HOUR_MS:
        return _HOUR_MS % phase_ms == 0
    return phase_ms % _HOUR_MS == 0 and (_DAY_MS % phase_ms == 0 or phase_ms % _DAY_MS == 0)
