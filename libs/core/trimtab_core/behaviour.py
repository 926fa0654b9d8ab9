"""Holds a model's answers to what its tests expect: golden rows, invariance, direction.

A test changes features and not rows: what else hangs on the same field stays as it is,
so that one cause is looked at. Answers are those of the graph that would serve.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab_core.findings import Finding
from trimtab_core.testspecs import Change, Direction, Features, Golden, Invariance, ModelTestSpec, step

Matrix = NDArray[np.float32]
Answers = NDArray[np.float64]
Predict = Callable[[Matrix], Answers]
"""Answers [rows] for features [rows, features]."""

MOST_ROWS = 10_000
"""So many held-out rows are looked at, the newest."""
_ROUNDING = 1e-6
"""Relative to an answer, what is no difference."""


class UnknownFeature(ValueError):
    """A test names a feature that the model does not have."""

    def __init__(self, name: str) -> None:
        super().__init__(f"it names {name!r}, which is no feature of the model")


def behave(
    spec: ModelTestSpec, names: Sequence[str], rows: Matrix, predict: Predict
) -> Iterator[tuple[str, Finding]]:
    """Yield what each test found, by its name; `rows` are the held-out ones, of the features `names`."""
    places = {name.partition(" = ")[0]: at for at, name in enumerate(names)}
    held_out = rows[-MOST_ROWS:]
    cases: list[Golden | Invariance | Direction] = [*spec.golden, *spec.invariance, *spec.direction]
    for case in cases:
        try:
            match case:
                case Golden():
                    found = _golden(case, places, predict)
                case Invariance() | Direction():
                    given = _matrix(case.rows, places) if case.rows else held_out
                    found = _changed(case, places, given, predict)
        except UnknownFeature as error:
            found = Finding(False, None, 0.0, None, None, f"{case.name!r} cannot be run: {error}.")
        yield case.name, found


def _golden(case: Golden, places: Mapping[str, int], predict: Predict) -> Finding:
    said = float(predict(_matrix([case.features], places))[0])
    off = abs(said - case.answer)
    passed = bool(off <= case.within + _ROUNDING * max(abs(case.answer), 1.0))
    sentence = (
        f"Golden row {case.name!r} is answered {said:.6g}, {'and' if passed else 'but'} {case.answer:.6g} within "
        f"{case.within:.4g} is expected."
    )
    return Finding(passed, off if np.isfinite(off) else None, case.within, None, None, sentence)


def _changed(
    case: Invariance | Direction, places: Mapping[str, int], rows: Matrix, predict: Predict
) -> Finding:
    before = predict(rows)
    most, worst, said = np.full(len(rows), -np.inf), "", ""
    for values in product(*(_each(change) for change in case.change.values())):
        named = dict(zip(case.change, values, strict=True))
        after = predict(_with(rows, places, named))
        wrong = _wrong(case, before, after)
        wrong = np.where(np.isfinite(wrong), wrong, np.inf)
        if wrong.max() > most.max():
            at = int(wrong.argmax())
            worst = f"from {before[at]:.6g} to {after[at]:.6g} with {_told(rows[at], places, named)}"
        most = np.maximum(most, wrong)
    limit = case.at_most if isinstance(case, Invariance) else case.within
    broken = most > limit + _ROUNDING * np.maximum(np.abs(before), 1.0)
    count, share = int(broken.sum()), float(broken.mean())
    passed = share <= case.violations
    what = f"changes by more than {limit:.4g}" if isinstance(case, Invariance) else f"gets {case.never}"
    said = f"{case.name!r}: the answer {what} on {count} of {len(rows)} rows ({share:.1%})"
    said += f", most {worst}" if count else ""
    how = "which meets" if passed else "which misses"
    return Finding(
        passed, share, case.violations, None, None, f"{said}, {how} the limit of {case.violations:.1%}."
    )


def _wrong(case: Invariance | Direction, before: Answers, after: Answers) -> Answers:
    """Return how far each answer went the way it may not go."""
    if isinstance(case, Invariance):
        return np.asarray(np.abs(after - before))
    return before - after if case.never == "less" else after - before


def _matrix(rows: Sequence[Features], places: Mapping[str, int]) -> Matrix:
    matrix = np.full((len(rows), len(places)), np.nan, np.float32)
    for at, row in enumerate(rows):
        for name, value in row.items():
            matrix[at, _place(name, places)] = np.nan if value is None else float(value)
    return matrix


def _each(change: Change) -> Sequence[Any]:
    return change if isinstance(change, tuple) else (change,)


def _with(rows: Matrix, places: Mapping[str, int], change: Mapping[str, Any]) -> Matrix:
    changed = rows.copy()
    for name, value in change.items():
        at = _place(name, places)
        if isinstance(value, str) and (stepped := step(value)) is not None:
            sign, by = stepped
            changed[:, at] = (
                changed[:, at] * by if sign == "*" else changed[:, at] + (by if sign == "+" else -by)
            )
        else:
            changed[:, at] = np.nan if value is None else float(value)
    return changed


def _place(name: str, places: Mapping[str, int]) -> int:
    short = name.partition(" = ")[0]
    if short not in places:
        raise UnknownFeature(name)
    return places[short]


def _told(row: Matrix, places: Mapping[str, int], change: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {row[_place(name, places)]:.6g} {f'changed by {value}' if isinstance(value, str) else f'set to {value}'}"
        for name, value in change.items()
    )
