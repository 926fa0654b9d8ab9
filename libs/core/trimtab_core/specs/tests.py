"""What a user expects, as written: of a model's answers, of what a contract lets in, of what features come to.

A `ModelTest` travels with `apply` and is a gate; a `ContractTest` and a `FeatureTest`
are for `trimtab test` alone, and stay in the project.
"""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from trimtab_core.specs.base import Name, Place, Spec, shown_value
from trimtab_core.timestamps import NOT_A_TIME, parse_timestamp, zone

_STEP = re.compile(r"([+*-])\s*(\d+(?:\.\d+)?)")

CaseName = Annotated[str, Field(min_length=1, max_length=120)]
Value = float | bool | str | None
"""Of a feature, a number or a text; null is a value that is missing."""


def step(text: str) -> tuple[str, float] | None:
    """Return the sign and the number of a change such as `+1`, `-0.5` or `*1.1`; None if it is none."""
    match = _STEP.fullmatch(text.strip())
    return None if match is None else (match[1], float(match[2]))


Change = Value | Annotated[tuple[Value, ...], Field(min_length=1)]
"""What a feature becomes: a value, or of a number `+1`, `-1` or `*1.1` of what it is, or each of a list of these in turn."""

Features = dict[str, Value]
"""Values by a feature's name; one that is not named is missing."""


class Golden(Spec):
    """These inputs have this answer."""

    name: CaseName
    features: Features = Field(min_length=1)
    answer: float | str
    """A number, or the name of the class that is said."""
    of: str | None = None
    """The class whose probability the number is."""
    within: float = Field(default=0.0, ge=0)

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        if isinstance(self.answer, str) and (self.of is not None or self.within):
            key = "of" if self.of is not None else "within"
            yield (
                (key,),
                f"{shown_value(getattr(self, key))} is of a number, and the answer is the class {self.answer!r}: remove it",
            )


class _Changed(Spec):
    name: CaseName
    of: str | None = None
    """The class whose probability is looked at; where there are more than two and none is named, the one that changes most."""
    change: dict[str, Change] = Field(min_length=1)
    rows: tuple[Features, ...] = ()
    """The rows that are changed; the held-out ones, if none are given."""
    violations: float = Field(default=0.0, ge=0, lt=1)
    """The share of the rows that may break it."""


class Invariance(_Changed):
    """This change of the inputs may not change the answer by more than so much."""

    at_most: float = Field(default=0.0, ge=0)


class Direction(_Changed):
    """With this change of the inputs, never less of the answer, or never more."""

    never: Literal["less", "more"]
    within: float = Field(default=0.0, ge=0)
    """So much the wrong way is let pass."""


def value_fault(name: str, value: Value, *, text: bool, change: bool) -> str:
    """Return why a value is none of a feature, which is a text or a number; nothing, if it is one."""
    if text:
        if value is None or isinstance(value, str):
            return ""
        return f"{shown_value(value)} is a number, and {name!r} is a text: write a text, or null"
    if not isinstance(value, str) or (change and step(value) is not None):
        return ""
    if change:
        return (
            f"{shown_value(value)} is no change of {name!r}, a number: write a number or null to set it to, '+1', '-1' or "
            "'*1.1', or a list of these"
        )
    return f"{shown_value(value)} is a text, and {name!r} is a number: write a number, or null"


def class_fault(case: "Golden | Invariance | Direction", classes: Sequence[str]) -> tuple[Place, str] | None:
    """Return what a test says of classes that a model of these has not, or leaves unsaid, and where; of no classes give none."""
    if case.of is not None and case.of not in classes:
        remedy = f"name one of {', '.join(classes)}" if classes else "remove it, for the label is a number"
        return ("of",), f"{case.of!r} is no class of the model: {remedy}"
    if isinstance(case, Golden):
        if isinstance(case.answer, str) and case.answer not in classes:
            remedy = f"write one of {', '.join(classes)}" if classes else "write a number"
            return ("answer",), f"{case.answer!r} is no class of the model: {remedy}"
        if isinstance(case.answer, float) and case.of is None and len(classes) > 2:
            return (
                "answer",
            ), f"{case.answer:g} of which class? Write of: CLASS, or the class that is said, in quotes"
    if isinstance(case, Direction) and case.of is None and len(classes) > 2:
        return (
            (),
            f"{case.name!r} says nothing of a class: write of: CLASS, whose probability may not get {case.never}",
        )
    return None


def _instant(value: str) -> str:
    if parse_timestamp(value, zone(None)) == NOT_A_TIME:
        raise ValueError(f"{shown_value(value)} is no time: write one such as 2020-03-15T12:00:00Z")
    return value


Instant = Annotated[str, AfterValidator(_instant)]
"""RFC 3339, such as `2020-03-15T12:00:00Z`."""


class ExampleEvent(Spec):
    """An event, and what the contract is to make of it."""

    name: CaseName
    event: dict[str, Any]
    arrived_at: Instant | None = None
    """When it happened, if not given: neither late nor early."""
    refused: tuple[str, ...] = ()
    """Every reason for which it is to be refused: a code, or code and field like `out_of_range distance`."""
    becomes: dict[str, Any] = {}
    """Fields as they are to be once the row has been cleaned."""

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        if self.refused and self.becomes:
            yield (
                ("becomes",),
                f"{shown_value(self.becomes)} is of a row that is let in: drop it, or drop refused",
            )


class ContractTestSpec(Spec):
    """Events that a source's contract lets in, and events that it refuses."""

    source: str
    events: tuple[ExampleEvent, ...] = Field(min_length=1)


class Expected(Spec):
    """What a view's features are to be of an entity at a time."""

    at: Instant
    entity: dict[str, str | int | float | bool] = {}
    """The value of each field that tells the view's entities apart."""
    values: dict[str, float | None] = Field(min_length=1)
    """By the feature's name in the view; null is one that is not known."""
    within: float = Field(default=1e-9, ge=0)
    """Relative, and absolute below 1."""


class FeatureTestSpec(Spec):
    """Events of a view's source, and what the features come to."""

    view: Name
    events: tuple[dict[str, Any], ...] = ()
    """Rows with the fields that the view reads; the others may be left out."""
    expect: tuple[Expected, ...] = Field(min_length=1)


class ModelTestSpec(Spec):
    """What a model's answers must be like; each of them is a gate for every candidate that is trained from then on."""

    model: Name
    golden: tuple[Golden, ...] = ()
    invariance: tuple[Invariance, ...] = ()
    direction: tuple[Direction, ...] = ()

    @property
    def named(self) -> Iterator[tuple[Place, tuple[str, ...]]]:
        """Yield where features are named, and which."""
        for kind in ("golden", "invariance", "direction"):
            for index, case in enumerate(getattr(self, kind)):
                if isinstance(case, Golden):
                    yield (kind, index, "features"), tuple(case.features)
                    continue
                yield (kind, index, "change"), tuple(case.change)
                for at, row in enumerate(case.rows):
                    yield (kind, index, "rows", at), tuple(row)

    def disagreements(
        self, texts: Set[str], numbers: Set[str], classes: Sequence[str]
    ) -> Iterator[tuple[Place, str]]:
        """Yield what does not go with a model of these features and classes, and where; of features it has not, nothing."""
        for kind in ("golden", "invariance", "direction"):
            for index, case in enumerate(getattr(self, kind)):
                at: Place = (kind, index)
                if (fault := class_fault(case, classes)) is not None:
                    yield (*at, *fault[0]), fault[1]
                if isinstance(case, Golden):
                    rows: list[tuple[Place, Mapping[str, Change]]] = [((*at, "features"), case.features)]
                else:
                    rows = [((*at, "rows", number), row) for number, row in enumerate(case.rows)]
                    rows.insert(0, ((*at, "change"), case.change))
                for place, row in rows:
                    for name, held in row.items():
                        short, change = name.partition(" = ")[0], place[-1] == "change"
                        text = short in texts
                        for value in held if isinstance(held, tuple) else (held,):
                            known = text or short in numbers
                            if known and (said := value_fault(name, value, text=text, change=change)):
                                yield (*place, name), said

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        seen: set[str] = set()
        for kind in ("golden", "invariance", "direction"):
            for index, case in enumerate(getattr(self, kind)):
                if case.name in seen:
                    yield (kind, index, "name"), f"{case.name!r} names two tests: give one another name"
                seen.add(case.name)
