"""What the plots of an evaluation show, as tables of at most some hundred points.

They are of the rows that the figures beside them are of, and small whatever the rows
are, so that they can be kept with a version for as long as it is.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trimtab_core.evidence import CALIBRATION_BINS, by_rank, commonest
from trimtab_core.losses import Task, said_class

Floats = NDArray[np.float64]
Table = list[dict[str, Any]]

_POINTS: Final = 120
_DOTS: Final = 400
_BARS: Final = 40
_STRETCHES: Final = 30
_SPREAD: Final = 1.96
"""Standard errors on either side, of 95 % of a normal distribution."""
OTHER: Final = "(other)"
"""What the classes are called together that a table leaves out."""
_NEGATIVE_AND_POSITIVE: Final = ("0", "1")


def curves(
    task: Task,
    label: Floats,
    prediction: Floats,
    event_time_ms: NDArray[np.int64],
    classes: Sequence[str] = (),
) -> dict[str, Table]:
    """Return the tables of a task's plots by name; `classes` are the names of a label's classes in their order, if it has such.

    All: `calibration`, of classes that of the one that is said. Binary and multiclass: `confusion`. Binary: `roc` and `pr`,
    where there are labels of both kinds. Multiclass: `calibration_by_class`, of each class against the rest. Regression:
    `residuals` (label - prediction) as a histogram, `over_time`, and `points`, a sample of predictions and labels.
    """
    if task == "multiclass":
        said = said_class(prediction)
        return {
            "calibration": calibration((said == label).astype(np.float64), prediction.max(axis=1)),
            "calibration_by_class": _by_class(label, prediction, classes),
            "confusion": confusion(label, said, classes),
        }
    found = {"calibration": calibration(label, prediction)}
    if task == "regression":
        left = label - prediction
        return found | {
            "residuals": _histogram(left),
            "over_time": _over_time(left, event_time_ms),
            "points": _dots(label, prediction),
        }
    called = (prediction >= 0.5).astype(np.float64)
    found["confusion"] = confusion(label, called, classes or _NEGATIVE_AND_POSITIVE)
    if 0 < label.sum() < label.size:
        found |= _by_threshold(label, prediction)
    return found


def confusion(label: Floats, said: Floats, classes: Sequence[str]) -> Table:
    """Return for each class how many of its rows were said to be of which class, in the order of the table's rows.

    Of many classes those of most labels are told, and the others together.
    """
    _, kept = commonest(label, len(classes))
    kept, names = sorted(kept), [classes[each] for each in sorted(kept)]
    place = np.full(len(classes), len(kept))
    place[kept] = np.arange(len(kept))
    if len(kept) < len(classes):
        names.append(OTHER)
    at = place[label.astype(np.int64)] * len(names) + place[said.astype(np.int64)]
    counts = np.bincount(at, minlength=len(names) ** 2).reshape(len(names), -1)
    return [{"label": name, "said": row} for name, row in zip(names, counts.tolist(), strict=True)]


def _by_class(label: Floats, prediction: Floats, classes: Sequence[str]) -> Table:
    return [
        {"class": classes[each], **row}
        for each in commonest(label, len(classes))[1]
        for row in calibration((label == each).astype(np.float64), prediction[:, each])
    ]


def calibration(label: Floats, prediction: Floats) -> Table:
    """Return, for ten shares of the rows by what was predicted, the mean prediction and the mean label with its 95 % interval."""
    bins = by_rank(prediction, CALIBRATION_BINS)
    rows = np.bincount(bins)
    said, came = np.bincount(bins, prediction) / rows, np.bincount(bins, label) / rows
    spread = np.sqrt(np.bincount(bins, (label - came[bins]) ** 2) / np.maximum(rows - 1, 1) / rows) * _SPREAD
    columns = {"predicted": said, "label": came, "low": came - spread, "high": came + spread, "rows": rows}
    return _rows(columns)


def _by_threshold(label: Floats, prediction: Floats) -> dict[str, Table]:
    bins = by_rank(prediction, len(label))
    hits = np.cumsum(np.bincount(bins, label)[::-1])
    alarms = np.cumsum(np.bincount(bins, 1 - label)[::-1])
    at = np.unique(np.linspace(0, len(hits) - 1, min(len(hits), _POINTS)).astype(np.int64))
    recall = hits[at] / hits[-1]
    roc = _rows({"false positive rate": alarms[at] / alarms[-1], "true positive rate": recall})
    return {
        "roc": [{"false positive rate": 0.0, "true positive rate": 0.0}, *roc],
        "pr": _rows({"recall": recall, "precision": hits[at] / (hits[at] + alarms[at])}),
    }


def _histogram(left: Floats) -> Table:
    """Return how many residuals lie where; what is beyond the outermost percent counts in the outermost bars."""
    low, high = np.quantile(left, [0.005, 0.995])
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(np.clip(left, low, high), bins=_BARS, range=(low, high))
    return _rows({"from": edges[:-1], "to": edges[1:], "rows": counts})


def _over_time(left: Floats, event_time_ms: NDArray[np.int64]) -> Table:
    stretches = [
        each for each in np.array_split(np.arange(len(left)), min(_STRETCHES, len(left))) if each.size
    ]
    low, middle, high = np.array([np.quantile(left[each], [0.1, 0.5, 0.9]) for each in stretches]).T
    at = event_time_ms[[each[0] for each in stretches]]
    return _rows({"at_ms": at, "low": low, "median": middle, "high": high})


def _dots(label: Floats, prediction: Floats) -> Table:
    at = np.linspace(0, len(label) - 1, min(len(label), _DOTS)).astype(np.int64)
    return _rows({"predicted": prediction[at], "label": label[at]})


def _rows(columns: dict[str, Any]) -> Table:
    """Return columns as rows, with six digits of each number, which is more than a plot shows."""
    plain = {
        name: [each if isinstance(each, int) else float(f"{each:.6g}") for each in values.tolist()]
        for name, values in columns.items()
    }
    return [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]
