"""Conditions on a candidate: one metric of it, fairness between groups, calibration, latency and size."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, PlainSerializer, Tag

from trimtab_core.fairness import OF_TASK, SHARES, Rate
from trimtab_core.findings import Unsure
from trimtab_core.specs.base import FieldName, Place, Spec, shown_value

_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")
_TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_SIZES = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def _read(value: Any, units: dict[str, float], like: str) -> float:
    match = _AMOUNT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match[2] not in units or float(match[1]) == 0:
        raise ValueError(
            f"{shown_value(value)} will not do: write a positive number and a unit ({', '.join(units)}), like {like}"
        )
    return float(match[1]) * units[match[2]]


def _written(value: float, units: dict[str, float]) -> str:
    """Return the text that is read as `value`, in the largest unit that needs no part of one."""
    for unit, size in sorted(units.items(), key=lambda each: -each[1]):
        if value >= size and abs(value / size - round(value / size)) < 1e-9:
            return f"{round(value / size)}{unit}"
    unit, size = min(units.items(), key=lambda each: each[1])
    return f"{value / size:.9f}".rstrip("0") + unit


Milliseconds = Annotated[
    float,
    BeforeValidator(lambda value: _read(value, _TIMES, "5ms") if isinstance(value, str) else value),
    PlainSerializer(lambda value: _written(value, _TIMES), return_type=str),
    Field(gt=0, json_schema_extra={"type": "string"}),
]
"""A short time, written `5ms` or `200us`."""

Bytes = Annotated[
    int,
    BeforeValidator(lambda value: round(_read(value, _SIZES, "50MB")) if isinstance(value, str) else value),
    PlainSerializer(lambda value: _written(value, _SIZES), return_type=str),
    Field(gt=0, json_schema_extra={"type": "string"}),
]
"""A size, written `50MB`."""

GroupField = Annotated[
    str,
    BeforeValidator(lambda value: value.removeprefix("request.") if isinstance(value, str) else value),
    Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=80),
]
"""A field of the model's source, written `gender` or `request.gender`."""


def group_column(field: str) -> str:
    """Return what a column of groups is called in a training set, where it is beside the features and can be none."""
    return f"group:{field}"


class FairnessSpec(Spec):
    """What groups of rows are compared by and, where it is limited, how far apart any two of them may be."""

    fairness: GroupField
    """The field whose values are the groups; it need be no feature."""
    of: Rate
    max_difference: float | None = Field(default=None, ge=0)
    """The most that the highest may be above the lowest."""
    min_ratio: float | None = Field(default=None, gt=0, le=1)
    """The least that the lowest may be of the highest."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """From which probability on a row is selected; of a multiclass task it is for the most probable class."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    min_rows: int = Field(default=100, ge=10)
    """Groups with fewer rows that count are left out of what is held to a limit."""

    @property
    def limited(self) -> bool:
        """Whether there is a limit to how far apart groups may be."""
        return self.max_difference is not None or self.min_ratio is not None

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        if self.max_difference is not None and self.min_ratio is not None:
            yield (
                (),
                "both are given of max_difference and min_ratio, and there is one limit: give one of them",
            )
        if self.min_ratio is not None and self.of == "mean_error":
            yield (
                ("min_ratio",),
                f"{self.min_ratio} of a mean_error, which may be 0, says nothing: write max_difference",
            )

    def task_disagreements(self, task: str) -> Iterator[tuple[Place, str]]:
        """Yield what does not go with a model's task."""
        if self.of not in (fitting := OF_TASK.get(task, ())):
            yield ("of",), f"{self.of!r} is not for {task}: {_or_remove(fitting)}"
        if self.threshold != 0.5 and (self.of not in SHARES[:3] or task == "multiclass"):
            why = (
                "and of classes the most probable one is selected"
                if task == "multiclass"
                else f"and this is of {self.of}"
            )
            yield (
                ("threshold",),
                f"{self.threshold} is for rates of what is selected from a probability on, {why}: remove it",
            )


class FairnessGateSpec(FairnessSpec):
    """No two groups of rows are further apart in a rate or loss than a limit, with confidence."""

    unsure: Unsure = "passes"
    """What becomes of a candidate where the rows do not tell."""

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        if not self.limited:
            yield (
                (),
                "neither is given of max_difference and min_ratio, and a gate has one limit: give one of them",
            )
        yield from super()._disagreements()


class CalibrationGateSpec(Spec):
    """Probabilities are what they say: the expected calibration error is at most a limit, with confidence.

    Of a multiclass task it is that of the class that is said.
    """

    metric: Literal["calibration_error"]
    at_most: float = Field(gt=0, lt=1)
    bins: int = Field(default=10, ge=2, le=100)
    """Of as many rows each."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    unsure: Unsure = "passes"

    def task_disagreements(self, task: str) -> Iterator[tuple[Place, str]]:
        """Yield what does not go with a model's task."""
        if task == "regression":
            yield ("metric",), f"'calibration_error' is of probabilities, so not for {task}: remove the gate"


class LatencyGateSpec(Spec):
    """One row takes the exported graph no longer than a limit, or than so many times what it takes the champion's."""

    latency: Literal["p50", "p99"]
    at_most: Milliseconds | None = None
    versus: Literal["champion"] | None = None
    max_ratio: float | None = Field(default=None, gt=0)

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        if (self.versus is None) != (self.max_ratio is None):
            has, lacks = ("max_ratio", "versus: champion") if self.versus is None else ("versus", "max_ratio")
            yield (has,), f"{getattr(self, has)!r} stands without {lacks}: give both or neither"
        elif (self.at_most is None) == (self.versus is None):
            given = "neither is" if self.at_most is None else "both are"
            yield (), f"{given} given of at_most and versus, and a gate has one limit: give one of them"

    def task_disagreements(self, task: str) -> Iterator[tuple[Place, str]]:
        """Yield what does not go with a model's task."""
        yield from ()


class SizeGateSpec(Spec):
    """The exported graph has at most so many bytes."""

    size: Literal["model"]
    at_most: Bytes

    def task_disagreements(self, task: str) -> Iterator[tuple[Place, str]]:
        """Yield what does not go with a model's task."""
        yield from ()


def _or_remove(fitting: tuple[str, ...]) -> str:
    return f"write {' or '.join(fitting)}" if fitting else "remove the gate"


MetricName = Literal["mae", "rmse", "log_loss", "error_rate"]


class GateSpec(Spec):
    """One condition on a candidate: absolute, against the champion, or on every slice."""

    metric: MetricName
    at_most: float | None = None
    versus: Literal["champion"] | None = None
    better_by: float = 0.0
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    slices: FieldName | None = None
    max_worse: float | None = None

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        kinds = {"at_most": self.at_most, "versus": self.versus, "slices": self.slices}
        given = [name for name, value in kinds.items() if value is not None]
        if len(given) != 1:
            yield (
                (),
                f"{' and '.join(given) or 'nothing'} is given, and a gate has exactly one of at_most, versus "
                "and slices: split it or complete it",
            )
        if (self.slices is None) != (self.max_worse is None):
            has, lacks = ("max_worse", "slices") if self.slices is None else ("slices", "max_worse")
            yield (has,), f"{getattr(self, has)!r} stands without {lacks}: give both or neither"


AnyGateSpec = GateSpec | FairnessGateSpec | CalibrationGateSpec | LatencyGateSpec | SizeGateSpec


def gate_of(value: Any) -> type[AnyGateSpec]:
    """Return which of the gates is meant, by the key that says what is measured."""
    if isinstance(value, AnyGateSpec):
        return type(value)
    keys: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
    if keys.get("metric") == "calibration_error":
        return CalibrationGateSpec
    by_key: Mapping[str, type[AnyGateSpec]] = {
        "fairness": FairnessGateSpec,
        "latency": LatencyGateSpec,
        "size": SizeGateSpec,
    }
    return next((kind for key, kind in by_key.items() if key in keys), GateSpec)


def _tag(kind: type[AnyGateSpec]) -> Tag:
    return Tag(f"<{kind.__name__}>")


OneGate = Annotated[
    Annotated[GateSpec, _tag(GateSpec)]
    | Annotated[FairnessGateSpec, _tag(FairnessGateSpec)]
    | Annotated[CalibrationGateSpec, _tag(CalibrationGateSpec)]
    | Annotated[LatencyGateSpec, _tag(LatencyGateSpec)]
    | Annotated[SizeGateSpec, _tag(SizeGateSpec)],
    Discriminator(lambda value: f"<{gate_of(value).__name__}>"),
]
