"""Where a number should be, as people write it: `< 0.2` or `[1, 3]`."""

import re
import sys
from dataclasses import dataclass
from typing import Any

_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d{1,2})?"
_LIMIT = re.compile(rf"([<>]=?)\s*({_NUMBER})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Limit:
    """Where a number should be: from `low` to `high`, where either may be open."""

    low: float | None
    high: float | None
    strict: bool = False
    """Whether the bound itself is outside."""

    def holds(self, value: float) -> bool:
        """Return whether `value` is where it should be."""
        if self.strict:
            return (self.low is None or value > self.low) and (self.high is None or value < self.high)
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    @property
    def plain(self) -> str | list[float]:
        """What `parse_limit` reads as this limit."""
        if self.low is not None and self.high is not None:
            return [self.low, self.high]
        sign, bound = ("<", self.high) if self.low is None else (">", self.low)
        assert bound is not None  # one of them is there
        return f"{sign}{'' if self.strict else '='} {_text(bound)}"

    def __str__(self) -> str:
        return self.plain if isinstance(self.plain, str) else f"in [{self.low:g}, {self.high:g}]"


def parse_limit(value: Any) -> Limit:
    """Return the limit in a text such as `< 0.2`, or in a pair `[low, high]`.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, Limit):
        return value
    if isinstance(value, str) and (match := _LIMIT.fullmatch(value.strip())):
        sign, bound = match[1], float(match[2])
        low, high = (None, bound) if sign[0] == "<" else (bound, None)
        return Limit(low, high, strict=len(sign) == 1)
    if isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value)):
        low, high = map(float, value)
        if low > high:
            raise ValueError(f"{value!r} falls: write the lower bound first")
        return Limit(low, high)
    raise ValueError(f"{value!r} is no limit: write a comparison, like '< 0.2', or a range, like [1, 3]")


def _text(number: float) -> str:
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max
