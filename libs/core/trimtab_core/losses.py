"""What a wrong prediction costs, row by row, and what the rows come to.

A loss is never negative and lower is better, for every metric; a row that is not
a number is refused here, so nothing downstream has to ask.
"""

import math
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Task = Literal["regression", "binary", "multiclass"]
Metric = Literal["mae", "rmse", "log_loss", "error_rate"]

METRICS: Final[dict[Task, tuple[Metric, ...]]] = {
    "regression": ("mae", "rmse"),
    "binary": ("log_loss", "error_rate"),
    "multiclass": ("log_loss", "error_rate"),
}
LOWER_IS_BETTER: Final[dict[Metric, bool]] = {"mae": True, "rmse": True, "log_loss": True, "error_rate": True}

_SUREST = 1e-7
"""A probability is read as at least this far from 0 and 1, so that one sure mistake costs 16.1 and not infinity."""
ROUNDING: Final = 1e-6
"""So far beyond 0 and 1 a probability is still one: a forest's votes come to 1.0000001 in a graph of float32."""


def loss(metric: Metric, label: ArrayLike, prediction: ArrayLike) -> Floats:
    """Return the loss of each row.

    `mae` is the absolute and `rmse` the squared error, in the label's unit and its square; `log_loss` is in nats and
    `error_rate` is 0 or 1 with the threshold at 0.5: both read `label` as 0 or 1 and `prediction` as a probability.

    Where `prediction` is the probabilities [rows, classes] of more classes than two, `label` is the number of a class,
    and the class that was said is the most probable. One that the prediction has no column for was given no chance.

    Raises:
        ValueError: lengths differ, a row is not finite, or a row is not what the metric reads.
    """
    if metric not in LOWER_IS_BETTER:
        raise ValueError(f"metric {metric!r} is unknown: use one of {', '.join(LOWER_IS_BETTER)}")
    if np.ndim(prediction) == 2:
        return _of_classes(metric, _column("label", label), np.asarray(prediction, np.float64))
    truth, said = _column("label", label), _column("prediction", prediction)
    if truth.shape != said.shape:
        raise ValueError(f"label has {truth.size} rows and prediction {said.size}: pass one of each per row")
    if metric == "mae":
        return np.asarray(np.abs(truth - said))
    if metric == "rmse":
        return np.asarray((truth - said) ** 2)
    _must("label", truth, (truth == 0) | (truth == 1), "is neither 0 nor 1")
    _must("prediction", said, are_probabilities(said), "is no probability")
    if metric == "error_rate":
        return np.asarray((said >= 0.5) != (truth == 1), dtype=np.float64)
    sure = np.clip(said, _SUREST, 1 - _SUREST)
    return np.asarray(-np.where(truth == 1, np.log(sure), np.log1p(-sure)))


def said_class(probabilities: ArrayLike) -> Floats:
    """Return the number of the most probable class of each row of probabilities [rows, classes], the first of equals."""
    return np.asarray(np.argmax(probabilities, axis=1), np.float64)


def are_probabilities(said: Floats) -> NDArray[np.bool_]:
    """Return which values are probabilities, but for rounding."""
    return np.asarray((said >= -ROUNDING) & (said <= 1 + ROUNDING))


def answered(said: NDArray[Any]) -> NDArray[np.bool_]:
    """Return of which rows there is a prediction, of predictions [rows] or probabilities [rows, classes]: NaN is none."""
    found: NDArray[np.bool_] = np.isfinite(said if said.ndim == 1 else said[:, 0])
    return found


def _of_classes(metric: Metric, truth: Floats, said: Floats) -> Floats:
    if metric not in METRICS["multiclass"]:
        raise ValueError(
            f"metric {metric!r} is not of classes: use one of {', '.join(METRICS['multiclass'])}"
        )
    if len(truth) != len(said):
        raise ValueError(f"label has {truth.size} rows and prediction {len(said)}: pass one of each per row")
    _must("label", truth, (truth >= 0) & (truth == np.floor(truth)), "is no number of a class")
    for column in said.T:
        _must("prediction", column, np.isfinite(column), "is not a finite number")
        _must("prediction", column, are_probabilities(column), "is no probability")
    if metric == "error_rate":
        return np.asarray(said_class(said) != truth, np.float64)
    known = truth < said.shape[1]
    chance = np.zeros(len(truth))
    chance[known] = said[known, truth[known].astype(np.int64)]
    return np.asarray(-np.log(np.clip(chance, _SUREST, 1 - _SUREST)))


def aggregate(metric: Metric, losses: ArrayLike) -> float:
    """Return what the rows' losses come to: their mean, and for `rmse` the root of it.

    Raises:
        ValueError: there is no row, or one is not finite.
    """
    rows = _column("losses", losses)
    if rows.size == 0:
        raise ValueError(f"{metric} of no rows is undefined: pass at least one loss")
    mean = float(rows.mean())
    return math.sqrt(mean) if metric == "rmse" else mean


def as_loss(metric: Metric, value: float) -> float:
    """Return the mean loss of rows that come to `value`, as `aggregate` has it."""
    return value**2 if metric == "rmse" else value


def clip(losses: ArrayLike, cap: float) -> Floats:
    """Return the losses, none above `cap`.

    Raises:
        ValueError: `cap` is not positive, or a loss is not finite.
    """
    if not cap > 0:
        raise ValueError(f"cap {cap} is not positive: a capped loss needs room above zero")
    return np.minimum(_column("losses", losses), cap)


def rise_over_rest(losses: Floats, rows: NDArray[np.int64]) -> Floats:
    """Return how far the mean of each window of row numbers, along the last axis, is above that of all other rows."""
    sums = losses[rows].sum(axis=-1)
    return np.asarray(sums / rows.shape[-1] - (losses.sum() - sums) / (losses.size - rows.shape[-1]))


def _column(name: str, values: ArrayLike) -> Floats:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1:
        raise ValueError(f"{name} has {column.ndim} dimensions: pass a column")
    _must(name, column, np.isfinite(column), "is not a finite number")
    return column


def _must(name: str, column: Floats, good: NDArray[np.bool_], fault: str) -> None:
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(
            f"{name} {column[row]} in row {row} {fault}: drop such rows before asking for a loss"
        )
