"""How far parts of a window have moved: its slices, and what the versions of a rollout see of it.

All of it is told and nothing is judged by it. Each is held against its own: a slice against the rows of that slice in the
version's reference, a version on trial against what that one was trained on.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab_core import slicing, windows
from trimtab_core.baseline import Calibration
from trimtab_core.drift import Column, Reference, score
from trimtab_core.sliced import Moved
from trimtab_core.specs import LEAST_WINDOW
from trimtab_core.trial import said_by
from trimtab_core.watched import ArmName, Reading, Rise
from trimtab_core.windows import DataWindow, Window


def by_slice(
    model: str, window: DataWindow, features: Sequence[str], calibration: Calibration
) -> Iterator[Reading]:
    """Yield how far each feature and the answers have moved in each slice that has rows enough, here and in the reference."""
    for feature, column, found in _moved(window, features, calibration, calibration.references):
        yield _reading(
            model, window, window.version, column, found.distance, found.rows, slice=found.slice, slice_of=feature
        )  # fmt: skip


def furthest(
    window: Window, features: Sequence[str], column: str, whole: float, calibration: Calibration
) -> tuple[Rise, ...]:
    """Return the slices of a window in which a column has moved further than the `whole` of it, the weightiest first."""
    if not isinstance(window, DataWindow) or column not in calibration.references:
        return ()
    moved = list(_moved(window, features, calibration, {column: calibration.references[column]}))
    total = defaultdict[str, float](float)
    for feature, _, each in moved:
        total[feature] += each.weight
    found = [
        Rise(feature, each.slice, each.rows, 0.0, each.distance, each.weight / total[feature])
        for feature, _, each in sorted(moved, key=lambda it: -it[2].weight)
        if each.distance > whole
    ]
    return tuple(found[: slicing.MOST_NAMED])


def by_arm(
    model: str,
    window: DataWindow,
    features: Sequence[str],
    calibration: Calibration,
    on_trial: Mapping[int, Calibration],
) -> Iterator[Reading]:
    """Yield how far the rows that a version on trial answered too are from its own reference, and its answers from its own answers.

    `on_trial` has those versions of which that is known. The champion's, as an arm, are on the rows that any of them answered. Of a
    reference what the rows do not carry is left out, as the features together are.
    """
    columns, any_of_them = windows.columns(window.rows, features), np.zeros(len(window.rows), np.bool_)
    versions, beside = slicing.on_trial(window.rows)
    for number in versions:
        if number not in on_trial:
            continue
        said = [row.challenger for row in said_by(number, window.rows, beside)]
        answers = np.array([np.nan if each is None else each for each in said])
        answered = np.isfinite(answers)
        if answered.sum() >= LEAST_WINDOW:
            any_of_them |= answered
            theirs = columns | {"prediction": answers}
            yield from _arm(model, window, "challenger", number, on_trial[number], theirs, answered)
    if any_of_them.any():
        yield from _arm(model, window, "champion", window.version, calibration, columns, any_of_them)


def _moved(
    window: DataWindow, features: Sequence[str], calibration: Calibration, references: Mapping[str, Reference]
) -> Iterator[tuple[str, str, Moved]]:
    """Yield the feature that makes slices, one of the `references`, and how far that has moved in one of them."""
    if not calibration.sliced:
        return
    columns = windows.columns(window.rows, features)
    bins_of = cache(lambda name: references[name].bins(columns[name]))
    for feature, known in calibration.sliced.items():
        if feature in columns:
            for name, found in known.moved(columns[feature], references, bins_of):
                yield feature, name, found


def _arm(
    model: str, window: DataWindow, arm: ArmName, version: int, calibration: Calibration,
    columns: Mapping[str, Column], answered: NDArray[np.bool_],
) -> Iterator[Reading]:  # fmt: skip
    season, rows = calibration.prediction.season, int(answered.sum())
    phases = season.phases_of(columns["event_time_ms"][answered]) if season else None
    for name, reference in calibration.references.items():
        if name in columns:
            moved = score(reference, reference.bins(columns[name][answered]), phases)
            yield _reading(model, window, version, name, moved, rows, arm=arm)


def _reading(
    model: str, window: DataWindow, version: int, column: str, moved: float, rows: int, **of: Any
) -> Reading:
    name, feature = ("prediction_drift", "") if column == "prediction" else ("drift", column)
    extent = window.covers
    return Reading("drift", model, version, name, moved, extent.from_ms, extent.to_ms, rows, feature, **of)
