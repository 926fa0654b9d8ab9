"""What may stand in `trainer.parameters`, for a family whose library would let anything pass.

A name or a value that is not in a family's table is refused in a sentence, before anything is fitted.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from trimtab_core.specs import ModelSpec

from trimtab_training.errors import RunFailed


class Allowed(Protocol):
    """What one parameter may be."""

    def read(self, value: Any) -> Any:
        """Return the value as the library takes it, or None if it will not do."""
        ...

    def __str__(self) -> str:
        """Say what will do."""
        ...


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number; a spec travels as JSON, in which 200 and 200.0 are one number."""

    low: int
    high: int = 2**31 - 1

    def read(self, value: Any) -> Any:
        """Return it as an int."""
        is_whole = (
            not isinstance(value, bool) and isinstance(value, int | float) and value == math.floor(value)
        )
        return int(value) if is_whole and self.low <= value <= self.high else None

    def __str__(self) -> str:
        return f"a whole number {_between(self.low, self.high)}"


@dataclass(frozen=True, slots=True)
class Number:
    """A number; `over` is a bound that it may not reach itself."""

    low: float = 0.0
    high: float = math.inf
    over: float | None = None

    def read(self, value: Any) -> Any:
        """Return it as a float."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        is_over = self.over is None or value > self.over
        return float(value) if is_over and self.low <= value <= self.high else None

    def __str__(self) -> str:
        if self.over is None:
            return f"a number {_between(self.low, self.high)}"
        return f"a number over {self.over:g}" + (
            "" if math.isinf(self.high) else f" and at most {self.high:g}"
        )


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of some texts."""

    texts: tuple[str, ...]

    def read(self, value: Any) -> Any:
        """Return it as it is."""
        return value if value in self.texts else None

    def __str__(self) -> str:
        return f"one of {', '.join(self.texts)}"


def checked(spec: ModelSpec, table: Mapping[str, Allowed]) -> dict[str, Any]:
    """Return the spec's parameters as the library takes them.

    Raises:
        RunFailed: one is not in the table, or not what the table allows.
    """
    taken = {}
    for name, value in spec.trainer.parameters.items():
        if name not in table:
            raise RunFailed(
                f"trainer.parameters.{name} is no parameter of {spec.trainer.kind} here: name one of {', '.join(sorted(table))}"
            )
        taken[name] = table[name].read(value)
        if taken[name] is None:
            raise RunFailed(f"trainer.parameters.{name}: {value!r} will not do, write {table[name]}")
    return taken


def refused(spec: ModelSpec, error: Exception) -> RunFailed:
    """Return what the run ends with where a library will not fit with parameters that are each right by themselves."""
    said = str(error).strip().splitlines()[0]
    return RunFailed(
        f"{spec.trainer.kind} refuses trainer.parameters {spec.trainer.parameters} ({said}): change them, or leave them out"
    )


def _between(low: float, high: float) -> str:
    return f"of at least {low:g}" if high >= 2**31 - 1 else f"from {low:g} to {high:g}"
