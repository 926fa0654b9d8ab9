"""Windowed features of a source's events."""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, TypeAdapter

from trimtab_core.conditions import compile_condition
from trimtab_core.durations import format_duration
from trimtab_core.specs.base import FieldName, Place, Spec, shown_value
from trimtab_core.specs.values import Duration, SourceName
from trimtab_core.syntax import TextFault

_FIELD_NAME: TypeAdapter[str] = TypeAdapter(FieldName)


FUNCTIONS: Final = (
    "count", "sum", "mean", "stddev", "min", "max", "first", "last", "distinct_count", "rate",
)  # fmt: skip
"""What can be made of a field over a window, quantiles aside."""
COUNTING: Final = frozenset({"count", "distinct_count", "rate"})
"""Those of them that fit a field of any type; the others need numbers."""
_QUANTILE = "p[1-9][0-9]?"


def _function(value: Any) -> str:
    if isinstance(value, str) and (value in FUNCTIONS or re.fullmatch(_QUANTILE, value)):
        return value
    raise ValueError(
        f"{shown_value(value)} is no function: write one of {', '.join(FUNCTIONS)}, or a quantile such as p50 or p95"
    )


AggregateFunction = Annotated[
    str,
    BeforeValidator(_function),
    Field(json_schema_extra={"anyOf": [{"enum": list(FUNCTIONS)}, {"pattern": f"^{_QUANTILE}$"}]}),
]
"""`count`, `distinct_count`, `rate` in events a second, `p95` and so on; `docs/features.md` says what each is."""


class Aggregate(Spec):
    """Functions of one field over windows, over the rows that `where` lets through."""

    field: FieldName
    functions: tuple[AggregateFunction, ...] = Field(min_length=1)
    windows: tuple[Duration, ...] = Field(min_length=1)
    name: FieldName | None = None
    """What its features are called by in place of the field."""
    where: str | None = None
    """Under which condition a row counts, such as `payment == 'card' and mph < 80`; a null meets no comparison."""

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        if self.where is not None:
            try:
                compile_condition(self.where)
            except TextFault as fault:
                yield ("where",), str(fault)


def _entity(value: Any) -> Any:
    """Return one field by its name, several as a tuple, and none as None."""
    names = [value] if isinstance(value, str) else value
    if value is None or (isinstance(names, list | tuple) and _are_fields(names)):
        return None if value is None else names[0] if len(names) == 1 else tuple(names)
    raise ValueError(
        f"{shown_value(value)} is no entity: write a field, or a list of different fields like [pickup_zone, vendor]"
    )


def _are_fields(names: Sequence[Any]) -> bool:
    are_names = all(map(_FIELD_NAME.validator.isinstance_python, names))
    return are_names and 0 < len(set(names)) == len(names)


class FeatureViewSpec(Spec):
    """Windowed aggregates of a source's events for each value of an entity."""

    source: SourceName
    entity: Annotated[str | tuple[str, ...] | None, BeforeValidator(_entity)] = None
    """The field, or fields, whose values are told apart; without one the view has a single row for all events."""
    aggregates: tuple[Aggregate, ...] = Field(min_length=1)
    hop: Duration
    ttl: Duration

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        for number, aggregate in enumerate(self.aggregates):
            for index, window in enumerate(aggregate.windows):
                place = ("aggregates", number, "windows", index)
                if window % self.hop:
                    yield (
                        place,
                        f"{format_duration(window)!r} is no multiple of the hop, {format_duration(self.hop)}: "
                        "make it one, for values change at hop boundaries only",
                    )
                if window > self.ttl:
                    yield (
                        place,
                        f"{format_duration(window)!r} is longer than the ttl, {format_duration(self.ttl)}: "
                        "raise the ttl, for an entity is forgotten after it",
                    )
        columns = self.columns()
        for twice in sorted({column for column in columns if columns.count(column) > 1}):
            yield (
                ("aggregates",),
                f"{twice!r} is the name of two features: give one of their aggregates a name, or drop it",
            )

    @property
    def entities(self) -> tuple[str, ...]:
        """The fields whose values together name an entity; none where the view has a single row."""
        if self.entity is None:
            return ()
        return (self.entity,) if isinstance(self.entity, str) else self.entity

    def columns(self) -> tuple[str, ...]:
        """Names of the view's features, in order: `<name or field>_<function>_<window>`."""
        return tuple(
            f"{aggregate.name or aggregate.field}_{function}_{format_duration(window)}"
            for aggregate in self.aggregates
            for function in aggregate.functions
            for window in aggregate.windows
        )
