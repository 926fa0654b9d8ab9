"""How far parts of a window have moved: its slices, and what the versions of a rollout see of it.

All of it is told and nothing is judged by it. Each is held against its own: a slice against the rows of that slice in the
version's reference, a version on trial against what that one was trained on.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from trimtab_core import slicing, windows
from trimtab_core.baseline import Calibration
from trimtab_core.drift import Reference, score
from trimtab_core.sliced import Moved
from trimtab_core.specs import LEAST_WINDOW
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
    """Return the slices of a window in which a column has moved further than the `whole` of it, the weightiest first.

    Twice what noise alone makes of rows so few is taken off the squares of all distances: of few rows and many values it is more than its
    share. What is left weighs by its rows.
    """
    thresholds = calibration.prediction if column == "prediction" else calibration.data
    if not isinstance(window, DataWindow) or thresholds is None or column not in thresholds.nulls:
        return ()
    noise = thresholds.nulls[column].median ** 2
    found, total = list[Rise](), defaultdict[str, float](float)
    for feature, _, each in _moved(window, features, calibration, {column: calibration.references[column]}):
        beyond = each.distance**2 - 2 * noise * thresholds.window * each.unsure
        weight = each.rows * max(beyond, 0.0)
        total[feature] += weight
        if beyond > max(whole**2 - 2 * noise, 0.0):
            found.append(Rise(feature, each.slice, each.rows, 0.0, each.distance, weight))
    found = [replace(each, share=each.share / total[each.feature]) for each in found]
    return tuple(sorted(found, key=lambda it: -it.share * total[it.feature])[: slicing.MOST_NAMED])


def by_arm(
    model: str,
    window: DataWindow,
    features: Sequence[str],
    calibration: Calibration,
    arms: Sequence[tuple[DataWindow, Calibration]],
) -> Iterator[Reading]:
    """Yield how far the rows that a version on trial answered too are from its own reference, and its answers from its own answers.

    `arms` are the window as each of them answered it, where its calibration is known. The champion's, as an arm, are on the rows that
    any of them answered. Of a reference what the rows do not carry is left out, as the features together are.
    """
    enough = [(each, known) for each, known in arms if len(each.rows) >= LEAST_WINDOW]
    answered = {row.id for each, _ in enough for row in each.rows}
    for each, known in enough:
        yield from _arm(model, each, "challenger", features, known)
    if answered:
        rows = [row for row in window.rows if row.id in answered]
        yield from _arm(
            model, replace(window, rows=rows, extent=window.covers), "champion", features, calibration
        )


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
    model: str, window: DataWindow, arm: ArmName, features: Sequence[str], calibration: Calibration
) -> Iterator[Reading]:
    columns, season = windows.columns(window.rows, features), calibration.prediction.season
    phases = season.phases_of(columns["event_time_ms"]) if season else None
    for name, reference in calibration.references.items():
        if name in columns:
            moved = score(reference, reference.bins(columns[name]), phases)
            yield _reading(model, window, window.version, name, moved, len(window.rows), arm=arm)


def _reading(
    model: str, window: DataWindow, version: int, column: str, moved: float, rows: int, **of: Any
) -> Reading:
    name, feature = ("prediction_drift", "") if column == "prediction" else ("drift", column)
    extent = window.covers
    return Reading("drift", model, version, name, moved, extent.from_ms, extent.to_ms, rows, feature, **of)
