"""Lengths of time and rates as people write them: `90d`, `2h`, `1 per 90d`.

Inside Trimtab an instant is an integer of milliseconds since the epoch, UTC, and
a length of time an integer of milliseconds; nothing else is passed between rooms.
"""

import re
from dataclasses import dataclass

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_RATE = re.compile(r"(\d+)\s+per\s+(\S+)")


def parse_duration(text: str) -> int:
    """Return the milliseconds of a text such as `250ms`, `60s`, `15m`, `6h` or `28d`.

    Raises:
        ValueError: the text is no duration, or is not longer than nothing.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or float(match[1]) == 0:
        raise ValueError(
            f"{text!r} is no duration: write a positive number and a unit (ms, s, m, h or d), like 6h"
        )
    return round(float(match[1]) * _UNITS[match[2]])


def format_duration(milliseconds: int) -> str:
    """Return the shortest text that `parse_duration` reads as `milliseconds`."""
    for unit, size in sorted(_UNITS.items(), key=lambda item: -item[1]):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


@dataclass(frozen=True, slots=True)
class Span:
    """A length of time where a number would be read as a count: `1d`."""

    ms: int

    def __str__(self) -> str:
        return format_duration(self.ms)


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in so long: `4 per 60d`."""

    count: int
    per_ms: int

    def __str__(self) -> str:
        return f"{self.count} per {format_duration(self.per_ms)}"


def parse_rate(text: str) -> Rate:
    """Return the rate that a text such as `1 per 90d` states.

    Raises:
        ValueError: the text is no rate, or its count is not positive.
    """
    match = _RATE.fullmatch(text.strip())
    if match is None or int(match[1]) == 0:
        raise ValueError(
            f"{text!r} is no rate: write a positive count, 'per' and a duration, like '1 per 90d'"
        )
    return Rate(int(match[1]), parse_duration(match[2]))
