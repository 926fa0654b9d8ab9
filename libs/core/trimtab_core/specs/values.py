"""How the values that all specs share are written: lengths of time, rates, windows, limits and names."""

from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from trimtab_core.durations import Rate, Span, format_duration, parse_duration, parse_rate
from trimtab_core.limits import Limit, parse_limit
from trimtab_core.ranges import Range, parse_range
from trimtab_core.schedules import checked_schedule
from trimtab_core.specs.base import shown_value


def _unfit(said: str) -> PydanticCustomError:
    return PydanticCustomError("unfit", "{said}", {"said": said})


def _duration(value: Any) -> Any:
    if not isinstance(value, str):
        raise _unfit(
            f"{shown_value(value)} is no duration: write a positive number and a unit (ms, s, m, h or d), like 6h"
        )
    return parse_duration(value)


Duration = Annotated[
    int,
    BeforeValidator(_duration),
    PlainSerializer(format_duration, return_type=str),
    Field(gt=0, description="a length of time such as 60s, 6h or 28d", json_schema_extra={"type": "string"}),
]
"""A length of time in milliseconds, written `60s`, `6h` or `28d`."""


def _rate(value: Any) -> Any:
    if isinstance(value, str | Rate):
        return parse_rate(value) if isinstance(value, str) else value
    raise _unfit(
        f"{shown_value(value)} is no rate: write a positive count, 'per' and a duration, like '1 per 90d'"
    )


PerTime = Annotated[
    Rate,
    BeforeValidator(_rate),
    PlainSerializer(str, return_type=str),
]
"""A rate, written `4 per 60d`."""

LEAST_WINDOW: Final = 50
"""Rows below which a window tells nothing of drift."""
_LEAST_SPAN: Final = parse_duration("1m")


def _window(value: Any) -> Any:
    if isinstance(value, str):
        value = Span(parse_duration(value))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    few = not isinstance(value, Span) and (type(value) is not int or value < LEAST_WINDOW)
    if few or (isinstance(value, Span) and value.ms < _LEAST_SPAN):
        raise _unfit(
            f"{value} is no window: write {LEAST_WINDOW} or more predictions, or a minute or more, like 1d"
        )
    return value


WindowSize = Annotated[
    int | Span,
    BeforeValidator(_window),
    PlainSerializer(lambda size: size if isinstance(size, int) else str(size)),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": LEAST_WINDOW},
                {"type": "string", "description": "a length of time such as 6h or 1d"},
            ]
        }
    ),
]
"""How many predictions, or how much event time: 500, or `1d`."""


def _count(value: Any) -> Any:
    if isinstance(value, bool):
        raise _unfit(f"{value} is no whole number: write one")
    return value


Count = Annotated[int, BeforeValidator(_count), Field(ge=1)]
"""A whole number of at least 1; YAML's yes is none."""

MOST_WINDOWS: Final = 30
"""Windows that an alarm looks back on at most."""


def _k_of_n(value: Any) -> Any:
    parts = value if isinstance(value, list | tuple) else ()
    whole = [int(part) for part in parts if type(part) in (int, float) and float(part).is_integer()]
    if len(parts) != 2 or len(whole) != 2 or not 1 <= whole[0] <= whole[1] <= MOST_WINDOWS:
        raise _unfit(
            f"{shown_value(value)} is no k of n: write two whole numbers from 1 to {MOST_WINDOWS}, like [2, 3]"
        )
    return tuple(whole)


Persistence = Annotated[tuple[int, int], BeforeValidator(_k_of_n)]
"""So many windows of the last so many."""

Schedule = Annotated[str, AfterValidator(checked_schedule)]
"""Five fields of cron, in UTC."""

Bounds = Annotated[Limit, BeforeValidator(parse_limit), PlainSerializer(lambda limit: limit.plain)]
"""Where a number should be, written `< 0.2` or `[1, 3]`."""

Tried = Annotated[
    Range,
    BeforeValidator(parse_range),
    PlainSerializer(lambda tried: tried.plain),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {
                        "min": {"type": "number"},
                        "max": {"type": "number"},
                        "log": {"type": "boolean"},
                    },
                    "required": ["min", "max"],
                    "additionalProperties": False,
                },
                {"type": "array", "items": {"type": ["number", "string", "boolean"]}, "minItems": 1},
                {"type": ["number", "string", "boolean"]},
            ]
        }
    ),
]
"""What a search may try of a parameter: `{min: 0.01, max: 0.3, log: true}`, a list to choose from, or one value."""

Scalar = Annotated[
    bool | int | float | str,
    BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value),
]
"""A value as JSON has it; 3.0 is 3, for a document that travelled has every number as a double."""


def _class_name(value: Any) -> Any:
    if isinstance(value, bool):
        raise _unfit(f"{value} is what YAML reads a bare yes or no as: write the text in quotes, like 'yes'")
    whole = isinstance(value, int | float) and float(value).is_integer()
    return str(int(value)) if whole else value


ClassName = Annotated[str, BeforeValidator(_class_name), Field(min_length=1, max_length=200)]
"""A value of a label as text; 3 and 3.0 are `3`."""

SourceName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*(\.v([2-9]|[1-9][0-9]+))?$", max_length=90)]
"""What names a source: `pickups`, or a later major version of it, `pickups.v2`."""
