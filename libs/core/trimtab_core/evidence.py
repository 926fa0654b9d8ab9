"""How good predictions were on rows that the model had not seen, and how sure that is.

Every figure comes with the bounds of its 95 % interval, by the bootstrap over contiguous
units of rows (`bootstrap`), or without bounds where the rows cannot tell. A figure that
the rows do not have, such as the area under the ROC curve where all labels are one, is
left out. Its cost is bounded: however many rows there are, at most 512 units are drawn.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trimtab_core import bootstrap
from trimtab_core.losses import Task, loss, said_class

Floats = NDArray[np.float64]

CONFIDENCE: Final = 0.95
CALIBRATION_BINS: Final = 10
LEAST_ROWS: Final = 30
"""A slice of fewer rows is told by nothing but their number."""
MOST_SLICES: Final = 24
MOST_CLASSES: Final = 24
MISSING: Final = "missing"
AREAS: Final = ("roc_auc", "average_precision")
OF_CLASS: Final = ("precision", "recall", "f1", *AREAS, "ece")
"""What is told of each class against the rest."""
_SHARES: Final = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
_MOST_UNITS: Final = 512
_ROUNDS: Final = 1_000
_SLICE_ROUNDS: Final = 400
_SCORE_BINS: Final = 128
"""So many shares of the rows, by score, are told apart where a curve's area is drawn; the area itself tells all apart."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure and its interval, which may not be known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Slice:
    """How good predictions were on some of the rows."""

    of: str
    rows: int
    measures: Mapping[str, Measure]


@dataclass(frozen=True, slots=True)
class Sliced:
    """The slices that a column makes, largest first, and how many smaller ones are not told."""

    by: str
    slices: tuple[Slice, ...]
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class _Sums:
    """What is summed up over the rows of each unit, [sums, units], and what sums come to: figures by name."""

    units: Floats
    names: tuple[str, ...]
    of: bootstrap.Statistic


@dataclass(frozen=True, slots=True)
class _Units:
    """Which rows are drawn together."""

    starts: NDArray[np.int64]
    rows: int

    def sums(self, *of_rows: Floats) -> Floats:
        """Return the sums over each unit, [columns, units]."""
        return np.add.reduceat(np.stack(of_rows), self.starts, axis=1)

    def by_bin(self, bin_of: NDArray[np.int64], bins: int, weights: Floats) -> Floats:
        """Return the sums of each bin over each unit, [bins, units]; no table of rows and bins is made for it."""
        unit_of = np.repeat(np.arange(len(self.starts)), np.diff(np.append(self.starts, self.rows)))
        place = bin_of * len(self.starts) + unit_of
        sums = np.bincount(place, weights, minlength=bins * len(self.starts))
        return sums.reshape(bins, -1).astype(np.float64)


def measures(
    task: Task, label: Floats, prediction: Floats, *, seed: int = 0, rounds: int = _ROUNDS
) -> dict[str, Measure]:
    """Return each figure that the rows have, by name; the rows are in time order.

    Regression: `mae`, `rmse`, `r2`, and `mape` (a share) where no label is 0 and all are of one sign.
    Binary: `log_loss`, `error_rate`, `brier`, `ece` (expected calibration error over ten bins of as many rows each),
    `roc_auc`, `average_precision`, and `precision`, `recall` and `f1` of a threshold at 0.5.
    Multiclass, of probabilities [rows, classes]: `log_loss` and `error_rate`; `brier`, summed over the classes; `ece` of the
    class that is said (Guo et al. 2017); `balanced_accuracy`, the mean recall of the classes that labels have; and `f1_macro`,
    the mean F1 of those that labels or predictions have.

    Raises:
        ValueError: lengths differ, there is no row, or one is not finite or not what the task reads.
    """
    if label.size == 0:
        raise ValueError("there is no row to measure by: pass at least one")
    units = _Units(bootstrap.starts(label.size, _MOST_UNITS), label.size)
    if task == "binary":
        return _binary(label, prediction, prediction >= 0.5, units, seed, rounds)
    of_task = _classes if task == "multiclass" else _regression
    return _measured(of_task(label, prediction, units), seed, rounds)


def figures(task: Task, label: Floats, prediction: Floats) -> dict[str, float]:
    """Return each figure of `measures` without its interval, and of regression also `mean_error`, prediction less label.

    Raises:
        ValueError: as `measures` does.
    """
    if label.size == 0:
        raise ValueError("there is no row to measure by: pass at least one")
    units = _Units(np.zeros(1, np.int64), label.size)
    if task == "binary":
        sums = _probabilities(label, prediction, prediction >= 0.5, units)
    else:
        sums = (_classes if task == "multiclass" else _regression)(label, prediction, units)
    found = dict(zip(sums.names, _value(sums).tolist(), strict=True))
    if task == "regression":
        found["mean_error"] = float((prediction - label).mean())
    elif task == "binary" and 0 < label.sum() < label.size:
        found |= zip(AREAS, areas(label, prediction), strict=True)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def by_class(label: Floats, prediction: Floats, classes: Sequence[str], *, seed: int = 0) -> Sliced:
    """Return how good probabilities [rows, classes] are of each class against the rest, those of most labels first.

    A row is of the class that is the most probable one. A class of fewer than `LEAST_ROWS` labels is told by their number alone.
    """
    units, said = _Units(bootstrap.starts(label.size, _MOST_UNITS), label.size), said_class(prediction)
    rows, told = commonest(label, len(classes))

    def of(each: int) -> Slice:
        found: Mapping[str, Measure] = {}
        if rows[each] >= LEAST_ROWS:
            truth = (label == each).astype(np.float64)
            every = _binary(truth, prediction[:, each], said == each, units, seed, _SLICE_ROUNDS)
            found = {name: every[name] for name in OF_CLASS if name in every}
        return Slice(classes[each], int(rows[each]), found)

    return Sliced("class", tuple(of(each) for each in told), left_out=len(classes) - len(told))


def commonest(label: Floats, classes: int) -> tuple[NDArray[np.int64], list[int]]:
    """Return how many labels each class has, and the numbers of at most `MOST_CLASSES` of them, of most labels first."""
    rows = np.bincount(label.astype(np.int64), minlength=classes)[:classes]
    return rows, np.argsort(-rows, kind="stable")[:MOST_CLASSES].tolist()


def areas(label: Floats, prediction: Floats) -> tuple[float, float]:
    """Return the area under the ROC curve, where a tie counts half, and the average precision."""
    bin_of = by_rank(prediction, label.size)
    halves = [np.bincount(bin_of, each)[::-1, None].astype(np.float64) for each in (label, 1 - label)]
    roc, precision = _areas(*halves)[:, 0].tolist()
    return roc, precision


def sliced(
    task: Task, label: Floats, prediction: Floats, by: str, column: NDArray[Any], *, seed: int = 0
) -> Sliced:
    """Return how good predictions were by the value of a column; see `slice_names`."""
    kinds, number = np.unique(slice_names(column), return_inverse=True)
    rows = np.bincount(number)
    largest = np.argsort(-rows, kind="stable")[:MOST_SLICES]

    def told(each: int) -> Slice:
        inside = number == each
        found: Mapping[str, Measure] = {}
        if rows[each] >= LEAST_ROWS:
            found = measures(task, label[inside], prediction[inside], seed=seed, rounds=_SLICE_ROUNDS)
        return Slice(str(kinds[each]), int(rows[each]), found)

    return Sliced(by, tuple(told(each) for each in largest), left_out=len(kinds) - len(largest))


def slice_names(column: NDArray[Any]) -> NDArray[np.str_]:
    """Return the name of the slice that each row is in: its value; or the quartile of its value, of broken numbers of many values."""
    if column.dtype.kind == "f":
        known = column[np.isfinite(column)]
        if (known != np.floor(known)).any() and np.unique(known).size > MOST_SLICES:
            edges = np.unique(np.quantile(known, [0, 0.25, 0.5, 0.75, 1]))
            at = np.clip(np.searchsorted(edges, column, side="right") - 1, 0, len(edges) - 2)
            called = np.array([f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)])
            return np.where(np.isfinite(column), called[at], MISSING)
    return np.array([_called(each) for each in column.tolist()])


def _called(value: Any) -> str:
    if value is None or value != value:  # what is not itself is no number
        return MISSING
    return f"{value:g}" if isinstance(value, float) else str(value)


def by_rank(values: Floats, bins: int) -> NDArray[np.int64]:
    """Return for each value which of at most `bins` shares of as many rows it is in; equal values are in one."""
    order = np.sort(values)
    edges = np.unique(
        order[np.linspace(0, len(order), min(bins, len(order)), endpoint=False).astype(np.int64)]
    )
    return np.searchsorted(edges, values, side="right") - 1


def _value(sums: _Sums) -> Floats:
    return sums.of(sums.units.sum(axis=1, keepdims=True))[:, 0]


def _measured(sums: _Sums, seed: int, rounds: int) -> dict[str, Measure]:
    value = _value(sums)
    spread = bootstrap.bounds(sums.units, sums.of, value, _SHARES, seed=seed, rounds=rounds)
    return {
        name: Measure(at, *(None if np.isnan(bound) else float(bound) for bound in ends))
        for name, at, ends in zip(sums.names, value.tolist(), spread, strict=True)
        if np.isfinite(at)
    }


def _binary(
    label: Floats, prediction: Floats, called: NDArray[np.bool_], units: _Units, seed: int, rounds: int
) -> dict[str, Measure]:
    """Return the figures of probabilities, of which those `called` are taken for positive."""
    found = _measured(_probabilities(label, prediction, called, units), seed, rounds)
    found |= _measured(_curves(label, prediction, units), seed, rounds)
    if "roc_auc" in found:
        for name, value in zip(AREAS, areas(label, prediction), strict=True):
            found[name] = _moved(found[name], value)
    return found


def _regression(label: Floats, prediction: Floats, units: _Units) -> _Sums:
    absolute, squared = loss("mae", label, prediction), loss("rmse", label, prediction)
    centred = label - label.mean()
    relative = [absolute / np.abs(label)] if (label > 0).all() or (label < 0).all() else []

    def of(sums: Floats) -> Floats:
        rows, lost, square, total, total_of_squares, *rest = sums
        spread = total_of_squares - total**2 / rows
        r2 = np.where(spread > 0, 1 - square / np.where(spread > 0, spread, 1), np.nan)
        return np.stack([lost / rows, np.sqrt(square / rows), r2, *(each / rows for each in rest)])

    names = ("mae", "rmse", "r2", *(["mape"] if relative else []))
    return _Sums(
        units.sums(np.ones_like(label), absolute, squared, centred, centred**2, *relative), names, of
    )


def _classes(label: Floats, prediction: Floats, units: _Units) -> _Sums:
    """The figures of probabilities [rows, classes] and labels that are the numbers of classes."""
    lost = [loss("log_loss", label, prediction), loss("error_rate", label, prediction)]
    width = max(prediction.shape[1], int(label.max()) + 1)
    prediction = np.pad(prediction, ((0, 0), (0, width - prediction.shape[1])))
    said, rows = said_class(prediction), np.ones_like(label)
    right = (said == label).astype(np.float64)
    chance = prediction[np.arange(label.size), label.astype(np.int64)]
    square = (prediction**2).sum(axis=1) - 2 * chance + 1
    of_class = [
        units.by_bin(number.astype(np.int64), width, each)
        for number, each in ((label, right), (label, rows), (said, rows))
    ]
    sums = [units.sums(rows, *lost, square), _gaps(right, prediction.max(axis=1), units), *of_class]
    ends = np.cumsum([len(each) for each in sums])[:-1]

    def of(all_sums: Floats) -> Floats:
        (rows, *lost), off, hits, labels, called = np.split(all_sums, ends)
        gap = np.abs(off).sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            recall, f1 = hits / labels, 2 * hits / (labels + called)
        return np.stack([*(each / rows for each in (*lost, gap)), np.nanmean(recall, 0), np.nanmean(f1, 0)])

    names = ("log_loss", "error_rate", "brier", "ece", "balanced_accuracy", "f1_macro")
    return _Sums(np.concatenate(sums), names, of)


def _probabilities(label: Floats, prediction: Floats, called: NDArray[np.bool_], units: _Units) -> _Sums:
    said = called.astype(np.float64)
    columns = [
        np.ones_like(label),
        loss("log_loss", label, prediction),
        np.abs(said - label),
        (label - prediction) ** 2,
        said * label,
        said,
        label,
    ]

    def of(sums: Floats) -> Floats:
        rows, log_loss, wrong, square, hits, called, positives = sums[: len(columns)]
        gap = np.abs(sums[len(columns) :]).sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = [hits / called, hits / positives, 2 * hits / (called + positives)]
        return np.stack([log_loss / rows, wrong / rows, square / rows, *shares, gap / rows])

    names = ("log_loss", "error_rate", "brier", "precision", "recall", "f1", "ece")
    return _Sums(np.concatenate([units.sums(*columns), _gaps(label, prediction, units)]), names, of)


def _gaps(label: Floats, prediction: Floats, units: _Units) -> Floats:
    """Return prediction less label, summed by bin of a calibration error over each unit."""
    bins = by_rank(prediction, CALIBRATION_BINS)
    return units.by_bin(bins, CALIBRATION_BINS, prediction - label)


def _curves(label: Floats, prediction: Floats, units: _Units) -> _Sums:
    bin_of = by_rank(prediction, _SCORE_BINS)
    halves = [units.by_bin(bin_of, _SCORE_BINS, each)[::-1] for each in (label, 1 - label)]
    return _Sums(np.concatenate(halves), AREAS, lambda sums: _areas(*np.split(sums, 2)))


def _areas(positives: Floats, negatives: Floats) -> Floats:
    """Return both areas from positives and negatives by score, highest first, [scores, draws]: [2, draws]."""
    hits, alarms = np.cumsum(positives, axis=0), np.cumsum(negatives, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        below = alarms[-1] - alarms + negatives / 2
        roc = (positives * below).sum(axis=0) / (hits[-1] * alarms[-1])
        precision = np.where(positives > 0, hits / (hits + alarms), 0.0)
        average = np.where(alarms[-1] > 0, (positives * precision).sum(axis=0) / hits[-1], np.nan)
    return np.stack([roc, average])


def _moved(measure: Measure, value: float) -> Measure:
    """Return a measure at `value`, with its interval as far around it."""
    if measure.low is None or measure.high is None:
        return Measure(value)
    by = value - measure.value
    return Measure(value, max(measure.low + by, 0.0), min(measure.high + by, 1.0))
