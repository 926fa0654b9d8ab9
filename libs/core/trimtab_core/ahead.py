"""What is said of predictions before their labels have come.

A full window is estimated once and never again: the realised metric comes later, under
its own name. Then what was expected of the same rows is held against what they lost, and
while those disagree, or a drift that labels have shown stands, an estimate is unknown.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trimtab_core import estimation, labelling, windows
from trimtab_core.baseline import Calibration, Settings, Uncalibrated
from trimtab_core.episodes import DriftKind, EpisodeState
from trimtab_core.estimation import Estimate, Unknown
from trimtab_core.specs import ModelSpec
from trimtab_core.timestamps import iso
from trimtab_core.watched import Ahead, Doubt, Reading, Row, Watch
from trimtab_core.windows import DataWindow, Partial

Floats = NDArray[np.float64]

_REALISED: Final[tuple[DriftKind, ...]] = ("concept", "performance")
_OLD: Final = (
    "it was calibrated before what rows lose was learnt with it: a change of `monitoring` calibrates it anew"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A prediction whose label would tell much."""

    row: Row
    chance: float
    """Of being asked for, of all rows of its window."""
    weight: float
    """By which its loss counts among those that were asked for, so that their mean is the window's on average."""
    expected: float | None
    """What it is expected to lose, where that can be said."""


def fill(
    ahead: Ahead, partial: Sequence[Row], rows: Sequence[Row], until_ms: int, settings: Settings
) -> tuple[Ahead, list[Row], list[DataWindow]]:
    """Take in predictions up to `until_ms`; return the rows of the window being filled, and the windows that are full.

    They are the windows of `data`, earlier.
    """
    unlabelled = np.full(len(rows), np.nan)
    filled, left, full = windows.fill(
        _alone(ahead), _partial(ahead, partial), rows, unlabelled, settings.full,
        every_ms=settings.every_ms, closed_ms=until_ms,
    )  # fmt: skip
    after = replace(
        ahead, reached_ms=until_ms, version=filled.version, generation=filled.generation, rows=filled.data
    )
    return after, left.data, [each for each in full if isinstance(each, DataWindow)]


def restore(ahead: Ahead, rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the window being filled, from predictions that hold at least those."""
    return windows.restore(_alone(ahead), rows, np.full(len(rows), np.nan)).data


def are_held(ahead: Ahead, rows: Sequence[Row]) -> bool:
    """Whether these are the rows of the window being filled."""
    return _partial(ahead, rows).matches(_alone(ahead))


def closable(spec: ModelSpec, ahead: Ahead, until_ms: int) -> int:
    """Return up to when rows can be closed that are complete, with their labels, up to `until_ms`.

    Where labels come for wanted rows alone, they cannot before it is known which those are: before the window that is being filled.
    """
    if spec.monitoring.labelled == "all":
        return until_ms
    return min(until_ms, ahead.rows.first_ms - 1 if ahead.rows.rows else ahead.reached_ms)


def _partial(ahead: Ahead, rows: Sequence[Row]) -> Partial:
    return Partial(list(rows), data_after=ahead.rows.after)


def _alone(ahead: Ahead) -> Watch:
    return Watch(version=ahead.version, generation=ahead.generation, data=ahead.rows)


def estimated(
    model: str,
    window: DataWindow,
    features: Sequence[str],
    calibration: Calibration | Uncalibrated,
    settings: Settings,
    watch: Watch,
) -> Reading:
    """Estimate the metric of a window of predictions."""
    found = _estimated(window, features, calibration, watch)
    rows, name = window.rows, f"estimated_{settings.metric}"
    place = (model, window.version, name)
    times = (window.covers.from_ms, window.covers.to_ms, len(rows))
    if isinstance(found, Unknown):
        return Reading(
            "performance", *place, None, *times, unknown=f"Unknown of version {window.version}: {found.why}."
        )
    return Reading("performance", *place, found.value, *times, low=found.low, high=found.high)


def can_be_read(features: Sequence[str], calibration: Calibration) -> bool:
    """Whether rows that carry `features` have all that what a version loses was learnt from."""
    estimator = calibration.estimator
    return estimator is None or estimator.known.keys() <= set(features)


def _estimated(
    window: DataWindow, features: Sequence[str], calibration: Calibration | Uncalibrated, watch: Watch
) -> Estimate | Unknown:
    if isinstance(calibration, Uncalibrated):
        return Unknown(calibration.why)
    if calibration.estimator is None:
        return Unknown(_OLD)
    if (standing := _standing(window.version, watch.episodes)) is not None:
        return Unknown(standing)
    if watch.doubt.version == window.version and watch.doubt.why:
        return Unknown(watch.doubt.why)
    return estimation.estimate(calibration.estimator, windows.said(window.rows, features))


def _standing(version: int, episodes: Mapping[DriftKind, EpisodeState]) -> str | None:
    """Return in a sentence which drift that labels have shown stands; None if there is none."""
    for kind in _REALISED:
        state = episodes.get(kind, EpisodeState())
        if state.episode is not None and state.version == str(version):
            since = iso(round((state.opened_at or 0.0) * 1000))[:16]
            return f"its {kind} drift of {since} stands, so what rows lose is not what it was"
    return None


def doubt(
    window: DataWindow, losses: Floats, features: Sequence[str], calibration: Calibration, before: Doubt
) -> Doubt:
    """Hold what was expected of a window against what its rows have lost, clipped, NaN without a label."""
    if calibration.estimator is None:
        return before
    why = estimation.disagreement(calibration.estimator, windows.said(window.rows, features), losses)
    if why is None:
        return before
    over = f" ({iso(window.rows[0].at_ms)[:16]} to {iso(window.end[0])[:16]})"
    return Doubt(window.version, why + over if why else "")


def wanted(
    model: str,
    window: DataWindow,
    features: Sequence[str],
    calibration: Calibration | Uncalibrated,
    count: int,
) -> list[Wanted]:
    """Choose at most `count` rows of a window to be labelled: by what they are expected to lose, and some at random."""
    estimator = calibration.estimator if isinstance(calibration, Calibration) else None
    expected = np.full(len(window.rows), np.nan)
    if estimator is not None and (estimator.chances or estimator.trees):
        expected = estimation.expected(estimator, windows.said(window.rows, features))
    chance = labelling.chances(expected, count)
    weight = labelling.weights(chance)
    named = f"{model}/{window.version}/{window.end}"
    seed = int.from_bytes(hashlib.sha256(named.encode()).digest()[:8])
    return [
        Wanted(
            window.rows[at],
            float(chance[at]),
            float(weight[at]),
            float(expected[at]) if np.isfinite(expected[at]) else None,
        )
        for at in labelling.drawn(chance, seed).tolist()
    ]
