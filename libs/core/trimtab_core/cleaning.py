"""Cleaning that a contract declares: what a producer sends becomes what the contract speaks of.

Events and requests are cleaned by this same code, row by row, so a model is asked
what it was trained on. The order is trim, nulls, default, convert; judging comes after.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any

from trimtab_core.specs import FieldSpec, SourceSpec
from trimtab_core.units import conversion


class Operation(StrEnum):
    """What cleaning does to a value, in order."""

    TRIM = "trim"
    NULLS = "nulls"
    DEFAULT = "default"
    CONVERT = "convert"


_Step = Callable[[Any], Any]


class Cleaner:
    """The cleaning of one field, compiled once."""

    def __init__(self, name: str, spec: FieldSpec) -> None:
        self.name = name
        steps: list[tuple[Operation, _Step]] = []
        if spec.trim:
            steps.append((Operation.TRIM, _trimmed))
        if spec.nulls:
            steps.append((Operation.NULLS, _nullified(spec.nulls)))
        if spec.default is not None:
            steps.append((Operation.DEFAULT, _defaulted(spec.default)))
        if spec.sent_in is not None and spec.unit is not None and spec.sent_in != spec.unit:
            steps.append((Operation.CONVERT, _converted(spec.sent_in, spec.unit)))
        self._steps = steps

    def __bool__(self) -> bool:
        """Whether it does anything at all."""
        return bool(self._steps)

    def clean(self, row: dict[str, Any]) -> list[Operation]:
        """Clean the field in `row`, and return what changed it. Never raises for what is in the row."""
        sent = value = row.get(self.name)
        done: list[Operation] = []
        for operation, step in self._steps:
            made = step(value)
            if made is not value:
                done.append(operation)
                value = made
        if value is not sent:
            row[self.name] = value
        return done


def cleaners(spec: SourceSpec) -> list[Cleaner]:
    """Return what cleans the rows of a source: nothing for a field that declares no cleaning."""
    return [cleaner for name, field in spec.fields.items() if (cleaner := Cleaner(name, field))]


# A step gives back the very value that it was given where it changes nothing.


def _trimmed(value: Any) -> Any:
    if type(value) is not str:
        return value
    short = value.strip()
    return value if len(short) == len(value) and short else short or None


def _nullified(nulls: tuple[str | int | float, ...]) -> _Step:
    meant = frozenset(nulls)

    def step(value: Any) -> Any:
        return None if type(value) in (str, int, float) and value in meant else value

    return step


def _defaulted(default: str | int | float | bool) -> _Step:
    return lambda value: default if value is None else value


def _converted(sent_in: str, unit: str) -> _Step:
    convert = conversion(sent_in, unit).of

    def step(value: Any) -> Any:
        if type(value) not in (int, float):
            return value
        try:
            return convert(value)
        except OverflowError:  # an integer that no float holds is out of range as it is
            return value

    return step
