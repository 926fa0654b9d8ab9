"""How good a window's predictions were by slice and by arm of a rollout, and what labels that come late change of it.

All figures are means told with their number of rows, so that windows and slices can be put together again (an `rmse`
by its square). However many values a feature has, a bounded number of slices is told and the rest
together, so their rows add up to those of the whole.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trimtab_core import evidence
from trimtab_core.drift import Column
from trimtab_core.losses import clip
from trimtab_core.sliced import Sliced, texts_of
from trimtab_core.specs import ModelSpec
from trimtab_core.trial import on_trial, said_beside, said_by
from trimtab_core.watched import ArmName, Published, Reading, Rise, Row
from trimtab_core.windows import (
    DataWindow,
    Extent,
    PerformanceWindow,
    Window,
    challenger_losses,
    champion_losses,
    columns,
    readable,
)
from trimtab_core.windows import weights as row_weights

Floats = NDArray[np.float64]

LABELLED: Final = "labelled_share"
_MOST_KNOWN: Final = 1_000
"""Values of a feature of which a reference's losses are kept at most."""
_SAME: Final = 1e-9
"""Figures so near are one: sums of the same rows differ in their last digits."""
MOST_NAMED: Final = 3
"""Slices that evidence names at most."""


class Usual(NamedTuple):
    """What the rows of a slice lost on average, clipped."""

    rows: int
    mean: float


class _Figure(NamedTuple):
    """What is a mean over rows; of a row that does not count the value is NaN."""

    name: str
    version: int
    arm: ArmName
    values: Floats
    weights: Floats | None = None
    """None where all rows weigh alike."""


def asked(model: str, window: DataWindow, features: Sequence[str], spec: ModelSpec) -> list[Reading]:
    """Return the share of a window's predictions that has a label, of all and by slice; its rows are the predictions.

    Where labels come for wanted rows alone it is of those.
    """
    figures = [_labelled(window.version, window.rows)]
    return list(_readings(model, window, figures, _sliced(window.rows, features, spec.slices)))


def measured(
    model: str, window: PerformanceWindow, features: Sequence[str], spec: ModelSpec
) -> list[Reading]:
    """Return what a window's predictions come to by slice and by arm, and what all do beside the metric that is judged.

    Arms are compared on the rows that both answered.
    """
    rows = [scored.row for scored in window.rows if scored.row is not None]
    found = _readings(
        model, window, _losses(window.version, rows, spec), _sliced(rows, features, spec.slices)
    )
    parts = [reading for reading in found if reading.arm or reading.slice]
    return [*_beside(model, window.version, window, rows, spec), *parts]


def told(window: Window, readings: Sequence[Reading], spec: ModelSpec) -> Published | None:
    """Return a window as what labels that come late may correct, once `readings` are told of it; None if nothing of it can be."""
    kinds = (LABELLED, spec.judged_by, *spec.beside)
    open_to_labels = tuple(reading for reading in readings if reading.name in kinds)
    if window.kind == "concept" or not open_to_labels:
        return None
    if window.kind == "data" and not any(row.lacks_label for row in window.rows):
        return None
    extent = window.covers
    return Published(window.kind, window.version, extent.after, extent.until, measure(spec), open_to_labels)


def measure(spec: ModelSpec) -> str:
    """Return what a model's losses are, as text."""
    of_wanted = ", of wanted rows" if spec.monitoring.labelled == "wanted" else ""
    return f"{spec.judged_by} <= {spec.cap:g}{of_wanted}"


def corrected(
    model: str, before: Published, rows: Sequence[Row], features: Sequence[str], spec: ModelSpec
) -> tuple[Published, list[Reading]]:
    """Return a window as its `rows` with their labels of now have it, and which of its readings that changed, as `revised` does.

    Slices are those that were told first.
    """
    names: dict[str, list[str]] = {}
    for reading in before.readings:
        if reading.slice and reading.slice not in names.setdefault(reading.feature, []):
            names[reading.feature].append(reading.slice)
    extent, sliced = before.readings[0], _sliced(rows, features, tuple(names), names)
    if before.kind == "data":
        return revised(before, _readings(model, extent, [_labelled(before.version, rows)], sliced))
    found = _readings(model, extent, _losses(before.version, rows, spec), sliced)
    return revised(before, [*found, *_beside(model, before.version, extent, rows, spec)])


def revised(before: Published, found: Iterable[Reading]) -> tuple[Published, list[Reading]]:
    """Return a window as it is `found` now, and which of its readings changed, each as the next revision of what was told."""
    held, changed = {reading.id: reading for reading in before.readings}, list[Reading]()
    for reading in found:
        was = held.get(reading.id)
        if (
            was is None
            or was.rows != reading.rows
            or not math.isclose(was.value or 0.0, reading.value or 0.0, rel_tol=_SAME)
        ):
            if was is not None:
                reading = replace(reading, threshold=was.threshold, revision=was.revision + 1)
            held[reading.id] = reading
            changed.append(reading)
    return replace(before, readings=tuple(held.values())), changed


def usual(column: Column, losses: Floats, cap: float) -> dict[str, Usual]:
    """Return what the rows of a reference lost, by the value that they have of a feature."""
    known = np.isfinite(losses)
    names, number = np.unique(texts_of(column[known]), return_inverse=True)
    clipped = clip(losses[known], cap)
    sliced = Sliced("", names.tolist(), number)
    found = {name: Usual(rows, mean) for name, rows, mean, _ in sliced.means(clipped, np.ones(clipped.size))}
    return dict(sorted(found.items(), key=lambda it: (-it[1].rows, it[0]))[:_MOST_KNOWN])


def risen(
    window: Window,
    features: Sequence[str],
    metric: str,
    mean: float,
    known: Mapping[str, Mapping[str, Usual]],
) -> tuple[Rise, ...]:
    """Return the slices of a window to which most of the rise of its losses is due, most first.

    `mean` is the mean loss that is usual of all rows, and `known` what is of slices; of one that is not known it is that mean.
    """
    if not isinstance(window, PerformanceWindow) or not known:
        return ()
    losses = window.losses
    rows = [scored.row for scored in window.rows if scored.row is not None]
    whole = float((losses - mean).sum())
    if len(rows) != len(losses) or whole <= 0:
        return ()
    found, weights = [], row_weights(rows)
    for sliced in _sliced(rows, features, tuple(known)):
        for name, count, now, weighs in sliced.means(losses / weights, weights):
            was = known[sliced.feature].get(name, Usual(0, mean)).mean
            share = weighs * (now - was) / whole
            found.append(Rise(sliced.feature, name, count, _figure(metric, was), _figure(metric, now), share))
    most = sorted((each for each in found if each.share > 0), key=lambda each: -each.share)
    return tuple(most[:MOST_NAMED])


def _labelled(version: int, rows: Sequence[Row]) -> _Figure:
    labelled = [np.nan if row.weight is None else float(row.label is not None) for row in rows]
    return _Figure(LABELLED, version, "", np.array(labelled))


def _losses(version: int, rows: Sequence[Row], spec: ModelSpec) -> list[_Figure]:
    """Return the losses of the live version and, where some were on trial, those of each, on the rows that it and the live one answered.

    The champion's, as an arm, are on the rows that any of them answered too. Of several rollouts it is the newest.
    """
    weights = row_weights(rows)
    mine = champion_losses(spec, rows) / weights
    found = [_Figure(spec.judged_by, version, "", mine, weights)]
    beside = said_beside(rows)
    versions = on_trial(rows, beside)
    if not versions:
        return found
    arms, any_of_them = list[_Figure](), np.zeros(len(rows), np.bool_)
    for number in versions:
        said = said_by(number, rows, beside)
        theirs = challenger_losses(spec.task, spec.judged_by, spec.cap, said) / weights
        both = np.isfinite(mine) & np.isfinite(theirs)
        any_of_them |= both
        arms.append(_Figure(spec.judged_by, number, "challenger", np.where(both, theirs, np.nan), weights))
    answered = np.where(any_of_them, mine, np.nan)
    return [*found, _Figure(spec.judged_by, version, "champion", answered, weights), *arms]


def _beside(
    model: str, version: int, window: Window | Reading, rows: Sequence[Row], spec: ModelSpec
) -> list[Reading]:
    """Return what all labelled rows come to beside the metric that is judged, none of them clipped."""
    label, said = readable(spec.task, rows) if spec.beside else (np.empty(0), np.empty(0))
    if not label.size:
        return []
    extent, found = _extent(window), evidence.figures(spec.task, label, said)
    return [
        Reading("performance", model, version, name, found[name], extent.from_ms, extent.to_ms, label.size)
        for name in spec.beside
        if name in found
    ]


def _readings(
    model: str, window: Window | Reading, figures: Sequence[_Figure], slicings: Sequence[Sliced]
) -> Iterator[Reading]:
    """Yield each figure of all rows and of each slice; `window` says of what time."""
    extent = _extent(window)
    for name, version, arm, values, weights in figures:
        ones = np.ones(len(values))
        weights = ones if weights is None else weights
        whole = Sliced("", ("",), np.zeros(len(values), np.int64))
        for sliced in (whole, *slicings):
            # Of all rows of a version it is the very mean that is judged.
            judged = sliced is whole and not arm
            for value, rows, mean, _ in sliced.means(
                *((values * weights, ones) if judged else (values, weights))
            ):
                yield Reading(
                    "performance", model, version, name, _figure(name, mean), extent.from_ms, extent.to_ms, rows,
                    feature=sliced.feature, arm=arm, slice=value,
                )  # fmt: skip


def _extent(window: Window | Reading) -> Extent | Reading:
    return window if isinstance(window, Reading) else window.covers


def _figure(name: str, mean: float) -> float:
    return math.sqrt(mean) if name == "rmse" else mean


def _sliced(
    rows: Sequence[Row], features: Sequence[str], wanted: Sequence[str], told: Mapping[str, Sequence[str]] = {}
) -> list[Sliced]:  # fmt: skip
    """Tell rows apart by each wanted feature that they carry: by the values `told`, or else by those of most rows."""
    present = [name for name in wanted if name in features]
    if not rows or not present:
        return []
    every = columns(rows, features)
    return [Sliced.of(name, texts_of(every[name]), told.get(name)) for name in present]
