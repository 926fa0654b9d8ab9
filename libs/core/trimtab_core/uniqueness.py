"""What may come once within a time: the rule of `unique_within`, for whoever lets rows in."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from trimtab_core.specs import SourceSpec

V = TypeVar("V")


def unique_fields(spec: SourceSpec) -> dict[str, int]:
    """Return the fields whose values may come once, and within how many milliseconds of event time."""
    return {name: each.unique_within for name, each in spec.fields.items() if each.unique_within}


def repeats(
    values: Iterable[tuple[str, V]],
    time_ms: int,
    within: Mapping[str, int],
    times_of: Callable[[str, V], Iterable[int]],
) -> bool:
    """Return whether a row repeats one that was let in: a value of some field has come too near in time.

    Args:
        values: the fields that have one, and theirs.
        time_ms: the row's event time.
        within: as `unique_fields` says.
        times_of: tells the event times of the rows with a field's value that were let in before.
    """
    return any(
        abs(time_ms - other) <= within[name] for name, value in values for other in times_of(name, value)
    )
