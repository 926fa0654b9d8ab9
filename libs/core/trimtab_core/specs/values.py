"""How the values that all specs share are written: lengths of time, rates, windows, limits and names."""

from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from trimtab_core.durations import Rate, Span, format_duration, parse_duration, parse_rate
from trimtab_core.limits import Limit, parse_limit
from trimtab_core.ranges import Range, parse_range
from trimtab_core.schedules import checked_schedule

Duration = Annotated[
    int,
    BeforeValidator(lambda value: parse_duration(value) if isinstance(value, str) else value),
    PlainSerializer(format_duration, return_type=str),
    Field(gt=0, description="a length of time such as 60s, 6h or 28d", json_schema_extra={"type": "string"}),
]
"""A length of time in milliseconds, written `60s`, `6h` or `28d`."""

PerTime = Annotated[
    Rate,
    BeforeValidator(lambda value: parse_rate(value) if isinstance(value, str) else value),
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
        said = f"{value} is no window: write {LEAST_WINDOW} or more predictions, or a minute or more, like 1d"
        raise PydanticCustomError("unfit", "{said}", {"said": said})
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
        said = f"{value} is what YAML reads a bare yes or no as: write the text in quotes, like 'yes'"
        raise PydanticCustomError("unfit", "{said}", {"said": said})
    whole = isinstance(value, int | float) and float(value).is_integer()
    return str(int(value)) if whole else value


ClassName = Annotated[str, BeforeValidator(_class_name), Field(min_length=1, max_length=200)]
"""A value of a label as text; 3 and 3.0 are `3`."""

SourceName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*(\.v([2-9]|[1-9][0-9]+))?$", max_length=90)]
"""What names a source: `pickups`, or a later major version of it, `pickups.v2`."""
