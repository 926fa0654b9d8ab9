"""What a search may try of a parameter, as people write it.

`{min: 0.01, max: 0.3, log: true}` is a stretch of numbers, `[gini, entropy]` a choice,
and a value alone is that value every time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

_FORM = "write {min: 0.01, max: 0.3}, with log: true if its size matters more than its value, or a list to choose from"


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers from `low` to `high`, or one of `choices` where there are any."""

    low: float | int = 0
    high: float | int = 0
    log: bool = False
    """Whether as many tries lie between 1 and 10 as between 10 and 100."""
    choices: tuple[bool | int | float | str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether it is of integers, as one whose two ends are."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def plain(self) -> Any:
        """What `parse_range` reads as this range."""
        if self.choices:
            return list(self.choices) if len(self.choices) > 1 else self.choices[0]
        return {"min": self.low, "max": self.high} | ({"log": True} if self.log else {})


def parse_range(value: Any) -> Range:
    """Return the range that a mapping, a list or a single value names.

    Ends of 3.0 are 3, for a document that travelled has every number as a double; a choice of 1.0 stays one, for who
    fits knows whether that is a count or a share.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, Range):
        return value
    if isinstance(value, Mapping):
        return _between(value)
    choices = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not choices:
        raise ValueError(f"an empty list leaves nothing to try: {_FORM}")
    if not all(isinstance(each, bool | int | str) or _is_finite(each) for each in choices):
        raise ValueError(f"{value!r} is no range of a parameter: {_FORM}")
    if len(set(map(repr, choices))) < len(choices):
        raise ValueError(f"{value!r} names a choice twice: leave one out")
    return Range(choices=choices)


def _between(value: Mapping[str, Any]) -> Range:
    low: Any = value.get("min")
    high: Any = value.get("max")
    log = value.get("log")
    if value.keys() - {"min", "max", "log"} or not (_is_finite(low) and _is_finite(high)):
        raise ValueError(f"{dict(value)!r} is no range of a parameter: {_FORM}")
    if low >= high:
        raise ValueError(f"min {low} is not under max {high}: write the lower first, or the value alone")
    if log not in (None, True, False):
        raise ValueError(f"log: {log!r} is neither true nor false")
    if log and low <= 0:
        raise ValueError(f"min {low} has no logarithm: raise it above 0, or leave log out")
    if float(low).is_integer() and float(high).is_integer():
        low, high = int(low), int(high)
    return Range(low, high, bool(log))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
