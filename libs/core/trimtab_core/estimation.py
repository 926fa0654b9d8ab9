"""How well a version does on rows that have no label yet, or why that cannot be said.

Learnt from the version's own held-out rows alone, each judged by what was learnt from
the others. The rows asked about may differ from those in what is asked, not in what
comes of it: a change of the concept shows in no estimate. Where an assumption is seen
to fail there is a sentence and no number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trimtab_core import boosting
from trimtab_core.boosting import Trees
from trimtab_core.calibration import LOSS_TOLERANCE
from trimtab_core.isotonic import Curve, rising
from trimtab_core.losses import METRICS, Metric, aggregate, are_probabilities, clip, loss
from trimtab_core.reliability import calibration_error

Floats = NDArray[np.float64]
Columns = Mapping[str, NDArray[Any]]

CONFIDENCE: Final = 0.95
FEWEST_ROWS: Final = 500
"""Held-out rows below which nothing is learnt."""
MOST_OUTSIDE: Final = 0.1
"""Rows of a window of which a feature may be outside of what the version's reference has seen."""
_MOST_ROWS: Final = 20_000
_FOLDS: Final = 5
_BINS: Final = 10
_BOUNDS: Final = 1.96
_DISBELIEF: Final = 2.58
"""Standard errors, of 99 % confidence, beyond which a realised metric says that an estimate was wrong."""
_FEWEST_REALISED: Final = 30
_LEVEL: Final = Curve((0.0,), (0.0,))


@dataclass(frozen=True, slots=True)
class Known:
    """What the reference has seen of a feature that is a number."""

    low: float
    high: float
    missing: bool


@dataclass(frozen=True, slots=True)
class Estimator:
    """What a row is expected to lose.

    Of classes, `chances` are the curves that make a probability what came true where it was said, one for each class and
    one alone, that of the positive class, where there are two. Of numbers, `trees` tell the loss.
    """

    metric: Metric
    cap: float
    unknown: str = ""
    """Why nothing can be estimated for this version, in a sentence; empty if it can."""
    rows: int = 0
    """Held-out rows that it was learnt from."""
    chances: tuple[Curve, ...] = ()
    trees: Trees | None = None
    beyond: float = 0.0
    """What held-out rows lost on average beyond what was expected of them by what had not seen them."""
    variance: Curve = _LEVEL
    """Of a row's loss about what is expected, by what is expected."""
    excess: float = 1.0
    """How many times the variance of a window's mean was that of independent rows: what windows have in common is in it."""
    edges: tuple[float, ...] = ()
    """Of what is expected, between bins of as many held-out rows each."""
    known: Mapping[str, Known] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric as it is expected to be, with the bounds between which the realised one will be in 19 of 20 windows."""

    value: float
    low: float
    high: float
    rows: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """Why there is no estimate, in one sentence."""

    why: str


def fit(
    columns: Columns, features: Sequence[str], *, metric: Metric, cap: float, window: int, seed: int = 0
) -> Estimator:
    """Learn from held-out rows, in order of time, what rows lose.

    `columns` hold the features, `prediction`, `loss`, and of classes `label`, and of more than two the `probabilities`
    [rows, classes]. The estimate is, of classes, confidence-based performance estimation (CBPE), and of numbers direct loss
    estimation (DLE), both as NannyML describes them; DLE reads numbers and the prediction, no texts.
    """
    unable = Estimator(metric, cap)
    of_classes = metric in METRICS["binary"]
    if of_classes and "label" not in columns:
        return _why(
            unable, "its reference holds no labels, as of versions made before they were kept: train it again"
        )
    rows = _newest_rows(columns)
    held = {name: column[rows] for name, column in columns.items()}
    losses = clip(held["loss"], cap)
    if losses.size < FEWEST_ROWS:
        return _why(
            unable, f"it has {losses.size} held-out rows, and to know what rows lose takes {FEWEST_ROWS}"
        )
    names = [name for name in features if held[name].dtype != object]
    asked = [*names, "prediction"]
    said = _crossed(unable, held, asked)
    if not np.isfinite(said).all():
        return _why(unable, "some predictions in its reference are no probabilities: train it again")
    off = losses - said
    error, chance = calibration_error(off, said, bins=_BINS, confidence=CONFIDENCE, seed=seed)
    limit = LOSS_TOLERANCE * float(losses.mean())
    if error - chance > limit:
        return _why(
            unable,
            f"on its own held-out rows what is expected to be lost is off by {error:.3g}, and chance explains {chance:.3g} of "
            f"that, where {limit:.3g}, a tenth of the mean loss, is let pass: {_blame(of_classes)}",
        )
    variance = rising(said, np.square(off))
    return replace(
        _learn(unable, held, asked),
        rows=losses.size,
        beyond=float(off.mean()),
        variance=variance,
        excess=_excess(off, variance(said), window),
        edges=tuple(np.quantile(said, np.linspace(0, 1, _BINS + 1)[1:-1]).tolist()),
        known={name: _known(held[name]) for name in names},
    )


def foreseen(estimator: Estimator, columns: Columns) -> Floats:
    """Return what each held-out row that `fit` learns from was expected to lose by what had not seen it, NaN of the others.

    Of an estimator that can tell nothing it is NaN of all rows.
    """
    found = np.full(len(columns["loss"]), np.nan)
    if not estimator.unknown:
        rows = _newest_rows(columns)
        held = {name: column[rows] for name, column in columns.items()}
        found[rows] = _crossed(
            Estimator(estimator.metric, estimator.cap), held, [*estimator.known, "prediction"]
        )
    return found


def expected(estimator: Estimator, columns: Columns) -> Floats:
    """Return what each row is expected to lose, at most the cap; NaN where there is no prediction that can be read.

    Raises:
        KeyError: a column is missing that was there when the estimator was learnt.
    """
    said = columns["prediction"]
    if estimator.trees is not None:
        found = np.clip(estimator.trees(columns), 0.0, estimator.cap)
        return np.where(np.isfinite(said), found, np.nan)
    matrix = columns["probabilities"] if len(estimator.chances) > 1 else said[:, None]
    readable = (np.isfinite(matrix) & are_probabilities(matrix)).all(axis=1)
    found = np.full(len(said), np.nan)
    found[readable] = _expected_of_classes(estimator, matrix[readable])
    return found


def estimate(estimator: Estimator, columns: Columns) -> Estimate | Unknown:
    """Estimate the metric of a window of rows."""
    if estimator.unknown:
        return Unknown(estimator.unknown)
    for name, known in estimator.known.items():
        share = _outside(known, columns[name])
        if share > MOST_OUTSIDE:
            return Unknown(
                f"{name} is outside of what the version's reference has seen in {share:.0%} of the window's rows, and nothing is "
                f"known of what it does there; up to {MOST_OUTSIDE:.0%} is let pass"
            )
    said = expected(estimator, columns)
    said = said[np.isfinite(said)]
    if said.size < len(columns["prediction"]) / 2:
        return Unknown(
            f"only {said.size} of the window's {len(columns['prediction'])} predictions can be read"
        )
    mean, error = _mean(estimator, said)
    means = np.clip(mean + np.array([0, -1, 1]) * _BOUNDS * error, 0.0, estimator.cap)
    value, low, high = (aggregate(estimator.metric, [each]) for each in means)
    return Estimate(value, low, high, said.size)


def disagreement(estimator: Estimator, columns: Columns, losses: Floats) -> str | None:
    """Return in a sentence how what rows have lost disagrees with what was expected of the same rows; empty if it agrees.

    `losses` are clipped, NaN where a row has no label; None where too few have one to tell.
    """
    if estimator.unknown:
        return None
    said = expected(estimator, columns)
    both = np.isfinite(said) & np.isfinite(losses)
    if both.sum() < _FEWEST_REALISED:
        return None
    mean, error = _mean(estimator, said[both])
    realised = float(losses[both].mean())
    if abs(realised - mean) <= _DISBELIEF * error:
        return ""
    was, would = (aggregate(estimator.metric, [each]) for each in (realised, mean))
    return f"the newest {both.sum()} rows with labels have a {estimator.metric} of {was:.3g}, where {would:.3g} had been expected"


def _why(unable: Estimator, sentence: str) -> Estimator:
    return replace(unable, unknown=sentence)


def _blame(of_classes: bool) -> str:
    return (
        "its probabilities do not say how often it is right"
        if of_classes
        else "its features do not say how far it is off"
    )


def _newest_rows(columns: Columns) -> NDArray[np.int64]:
    """Return the places of the newest rows that have a loss, a prediction and, where there are labels, a label."""
    asked = [columns[name] for name in ("loss", "prediction", "label") if name in columns]
    return np.flatnonzero(np.isfinite(asked).all(axis=0))[-_MOST_ROWS:]


def _crossed(unable: Estimator, held: Columns, asked: Sequence[str]) -> Floats:
    """Return what each row is expected to lose, by what was learnt from the other folds."""
    said = np.full(len(held["loss"]), np.nan)
    for fold in np.array_split(np.arange(said.size), _FOLDS):
        others = {name: np.delete(column, fold, axis=0) for name, column in held.items()}
        learnt = _learn(unable, others, asked)
        said[fold] = expected(learnt, {name: column[fold] for name, column in held.items()})
    return said


def _learn(unable: Estimator, held: Columns, asked: Sequence[str]) -> Estimator:
    metric, cap = unable.metric, unable.cap
    if metric not in METRICS["binary"]:
        return replace(unable, trees=boosting.boost(held, asked, clip(held["loss"], cap)))
    label = held["label"]
    if "probabilities" not in held:
        return replace(unable, chances=(rising(held["prediction"], label),))
    by_class = enumerate(held["probabilities"].T)
    curves = (rising(chance, (label == number).astype(np.float64)) for number, chance in by_class)
    return replace(unable, chances=tuple(curves))


def _expected_of_classes(estimator: Estimator, said: Floats) -> Floats:
    """Return the mean loss of each row [rows, classes or 1] over what it may be, by chances that came true."""
    chances = np.column_stack(
        [curve(column) for curve, column in zip(estimator.chances, said.T, strict=True)]
    )
    if said.shape[1] == 1:
        chances, answer = np.hstack([1 - chances, chances]), said[:, 0]
    else:
        total = chances.sum(axis=1, keepdims=True)
        chances, answer = np.where(total > 0, chances / np.where(total > 0, total, 1), said), said
    found = np.zeros(len(said))
    for number, chance in enumerate(chances.T):
        lost = loss(estimator.metric, np.full(len(said), float(number)), answer)
        found += chance * clip(lost, estimator.cap)
    return found


def _mean(estimator: Estimator, said: Floats) -> tuple[float, float]:
    """Return what rows lose on average, and the standard error of that.

    It is of the rows' own noise and of what was learnt: what is known of a bin of losses is known from the held-out
    rows in it, so rows that all fall where there were few are known worse.
    """
    variance = estimator.variance(said)
    bins = np.searchsorted(estimator.edges, said)
    shares = np.bincount(bins, minlength=_BINS) / said.size
    weighed = np.bincount(bins, variance, _BINS) / said.size
    learnt = float((shares * weighed).sum()) * _BINS / estimator.rows
    error = np.sqrt(estimator.excess * (float(variance.mean()) / said.size + learnt))
    return float(said.mean()) + estimator.beyond, float(error)


def _excess(off: Floats, variance: Floats, window: int) -> float:
    """Return how many times the variance of window means of `off` is that of independent rows, at least once."""
    size = min(window, off.size // _FOLDS)
    sums = np.cumsum(np.concatenate([[0.0], off, off[:size]]))
    means = (sums[size:] - sums[:-size])[: off.size] / size
    alone = float(variance.mean()) / size
    return max(1.0, float(np.square(means).mean()) / alone) if alone else 1.0


def _known(column: Floats) -> Known:
    numbers = column[np.isfinite(column)]
    low, high = (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 0.0)
    return Known(low, high, numbers.size < column.size)


def _outside(known: Known, column: Floats) -> float:
    numbers = np.isfinite(column)
    outside = numbers & ((column < known.low) | (column > known.high))
    return float((outside | (~numbers & (not known.missing))).mean())
