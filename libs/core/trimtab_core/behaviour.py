"""Holds a model's answers to what its tests expect: golden rows, invariance, direction.

A test changes features and not rows: what else hangs on the same field stays as it is,
so that one cause is looked at. Answers are those of the graph that would serve.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab_core.features import TextFeature, are_words
from trimtab_core.findings import Finding
from trimtab_core.losses import said_class
from trimtab_core.specs.tests import (
    Change,
    Direction,
    Features,
    Golden,
    Invariance,
    ModelTestSpec,
    class_fault,
    step,
    value_fault,
)  # fmt: skip

Matrix = NDArray[np.float32]
Texts = NDArray[np.object_]
Answers = NDArray[np.float64]
Predict = Callable[[Matrix, Texts], Answers]
"""Answers [rows], or probabilities [rows, classes], for features [rows, features] and texts [rows, texts]."""

MOST_ROWS = 10_000
"""So many held-out rows are looked at, the newest."""
_ROUNDING = 1e-6
"""Relative to an answer, what is no difference."""


class Unfit(ValueError):
    """A test is not of this model: it names a feature or a class that the model has not, or gives a feature what it cannot be."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A model, and rows of what it takes."""

    names: Sequence[str]
    """Of the features that are numbers."""
    texts: Sequence[str]
    """Of those that are texts."""
    classes: Sequence[str]
    """Of its label; none where that is a number."""
    rows: tuple[Matrix, Texts]
    """The held-out ones."""
    predict: Predict

    def place(self, name: str) -> tuple[bool, int]:
        """Return whether a feature is a text, and its column.

        Raises:
            Unfit: the model does not have it.
        """
        short = name.partition(" = ")[0]
        for are_texts, names in ((False, self.names), (True, self.texts)):
            for at, each in enumerate(names):
                if each.partition(" = ")[0] == short:
                    return are_texts, at
        raise Unfit(f"it names {name!r}, which is no feature of the model")

    def looked_at(self, answers: Answers, of: str | None) -> Answers:
        """Return the probability of the class `of`, or the answer itself."""
        if answers.ndim == 2:
            return answers if of is None else answers[:, self.classes.index(of)]
        return 1 - answers if of is not None and of == self.classes[0] else answers


def behave(spec: ModelTestSpec, asked: Asked) -> Iterator[tuple[str, Finding]]:
    """Yield what each test found, by its name."""
    cases: list[Golden | Invariance | Direction] = [*spec.golden, *spec.invariance, *spec.direction]
    for case in cases:
        try:
            if (fault := class_fault(case, asked.classes)) is not None:
                raise Unfit(fault[1])
            found = _golden(case, asked) if isinstance(case, Golden) else _changed(case, asked)
        except Unfit as error:
            found = Finding(False, None, 0.0, None, None, f"{case.name!r} cannot be run: {error}.")
        yield case.name, found


def _golden(case: Golden, asked: Asked) -> Finding:
    answers = asked.predict(*_rows([case.features], asked))
    if isinstance(case.answer, str):
        return _class(case.name, case.answer, answers, asked)
    said = float(asked.looked_at(answers, case.of)[0])
    off = abs(said - case.answer)
    passed = bool(off <= case.within + _ROUNDING * max(abs(case.answer), 1.0))
    what = "answered" if case.of is None else f"given a probability of {case.of} of"
    sentence = (
        f"Golden row {case.name!r} is {what} {said:.6g}, {'and' if passed else 'but'} {case.answer:.6g} within "
        f"{case.within:.4g} is expected."
    )
    return Finding(passed, off if np.isfinite(off) else None, case.within, None, None, sentence)


def _class(name: str, expected: str, answers: Answers, asked: Asked) -> Finding:
    chances = answers if answers.ndim == 2 else np.column_stack([1 - answers, answers])
    said = asked.classes[int(said_class(chances)[0])]
    passed = bool(said == expected and np.isfinite(chances).all())
    sentence = f"Golden row {name!r} is said to be {said} ({chances[0].max():.4g}), {'and' if passed else 'but'} {expected} is expected."
    return Finding(passed, float(not passed), 0.0, None, None, sentence)


def _changed(case: Invariance | Direction, asked: Asked) -> Finding:
    held_out = (asked.rows[0][-MOST_ROWS:], asked.rows[1][-MOST_ROWS:])
    rows = _rows(case.rows, asked) if case.rows else held_out
    answers = asked.looked_at(asked.predict(*rows), case.of)
    most, worst, said = np.full(len(answers), -np.inf), "", ""
    for values in product(*(_each(change) for change in case.change.values())):
        named = dict(zip(case.change, values, strict=True))
        before, after = _most(answers, asked.looked_at(asked.predict(*_with(rows, named, asked)), case.of))
        wrong = _wrong(case, before, after)
        wrong = np.where(np.isfinite(wrong), wrong, np.inf)
        if wrong.max() > most.max():
            at = int(wrong.argmax())
            worst = f"from {before[at]:.6g} to {after[at]:.6g} with {_told(rows, at, named, asked)}"
        most = np.maximum(most, wrong)
    limit = case.at_most if isinstance(case, Invariance) else case.within
    size = np.abs(answers if answers.ndim == 1 else answers.max(axis=1))
    broken = most > limit + _ROUNDING * np.maximum(size, 1.0)
    count, share = int(broken.sum()), float(broken.mean())
    passed = share <= case.violations
    what = f"changes by more than {limit:.4g}" if isinstance(case, Invariance) else f"gets {case.never}"
    looked_at = "the answer" if case.of is None else f"the probability of {case.of}"
    said = f"{case.name!r}: {looked_at} {what} on {count} of {len(answers)} rows ({share:.1%})"
    said += f", most {worst}" if count else ""
    how = "which meets" if passed else "which misses"
    return Finding(
        passed, share, case.violations, None, None, f"{said}, {how} the limit of {case.violations:.1%}."
    )


def _most(before: Answers, after: Answers) -> tuple[Answers, Answers]:
    """Return both as they are; of probabilities [rows, classes], for each row the class that changes most."""
    if before.ndim == 1:
        return before, after
    at = np.abs(after - before).argmax(axis=1)[:, None]
    return np.take_along_axis(before, at, 1)[:, 0], np.take_along_axis(after, at, 1)[:, 0]


def _wrong(case: Invariance | Direction, before: Answers, after: Answers) -> Answers:
    """Return how far each answer went the way it may not go."""
    if isinstance(case, Invariance):
        return np.asarray(np.abs(after - before))
    return before - after if case.never == "less" else after - before


def _rows(rows: Sequence[Features], asked: Asked) -> tuple[Matrix, Texts]:
    numbers = np.full((len(rows), len(asked.names)), np.nan, np.float32)
    texts = np.full((len(rows), len(asked.texts)), "", object)
    for at, row in enumerate(rows):
        for name, value in row.items():
            is_text, place = asked.place(name)
            if fault := value_fault(name, value, text=is_text, change=False):
                raise Unfit(fault)
            if is_text:
                texts[at, place] = _seen(asked.texts[place], value)
            else:
                numbers[at, place] = np.nan if value is None else float(value)
    return numbers, texts


def _seen(name: str, value: Any) -> str:
    """Return a text as a model is shown it."""
    return TextFeature(name, "", are_words(name)).read(value)


def _each(change: Change) -> Sequence[Any]:
    return change if isinstance(change, tuple) else (change,)


def _with(rows: tuple[Matrix, Texts], change: Mapping[str, Any], asked: Asked) -> tuple[Matrix, Texts]:
    numbers, texts = rows[0].copy(), rows[1].copy()
    for name, value in change.items():
        is_text, at = asked.place(name)
        if fault := value_fault(name, value, text=is_text, change=True):
            raise Unfit(fault)
        if is_text:
            texts[:, at] = _seen(asked.texts[at], value)
        elif isinstance(value, str) and (stepped := step(value)) is not None:
            sign, by = stepped
            numbers[:, at] = (
                numbers[:, at] * by if sign == "*" else numbers[:, at] + (by if sign == "+" else -by)
            )
        else:
            numbers[:, at] = np.nan if value is None else float(value)
    return numbers, texts


def _told(rows: tuple[Matrix, Texts], at: int, change: Mapping[str, Any], asked: Asked) -> str:
    told = []
    for name, value in change.items():
        is_text, place = asked.place(name)
        was = repr(str(rows[1][at, place])) if is_text else f"{rows[0][at, place]:.6g}"
        stepped = isinstance(value, str) and not is_text
        became = f"changed by {value}" if stepped else f"set to {repr(value) if is_text else value}"
        told.append(f"{name} {was} {became}")
    return ", ".join(told)
