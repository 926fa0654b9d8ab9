"""What monitoring will hold a version against: rows of its world, each with a prediction by a fit that has not seen it.

Where the world is known to have changed, the rows since then are its world, if they
fill two windows; if not, as many of the newest rows as the fit effectively saw, for
the losses of a world that it has forgotten would hide the next change.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from trimtab_core import losses
from trimtab_core.baseline import window_rows
from trimtab_core.specs import ModelSpec

from trimtab_training import classes, fitting, inputs
from trimtab_training.choosing import Window, within
from trimtab_training.families import Floats
from trimtab_training.fitting import FOLDS, Effort, Fit, Rows
from trimtab_training.inputs import pair

MOST_ROWS = 50_000
EXAMPLES = 8
_WINDOWS = 5
"""Monitoring calibrates by runs of windows where the reference fills so many, and more cautiously where not."""
_FEW_WINDOWS = 2
_BLOCKS = 10
"""Of each fold, where the world has changed: so that each fit has seen the new one."""


def place(spec: ModelSpec, rows: Rows, judged: slice, changed_ms: int | None, effort: Effort) -> slice:
    """Return the places of the reference, the newest rows among them.

    Where fits take long, the held-out rows do if they fill windows enough: their predictions are at hand.
    """
    window, size = window_rows(spec.monitoring.window, rows.event_time_ms), len(rows)
    if changed_ms is None:
        long = effort.every > 1 and size - judged.start >= _WINDOWS * window
        return slice(size - min(size - judged.start if long else size, MOST_ROWS), size)
    newer = size - int(np.searchsorted(rows.event_time_ms, changed_ms))
    if newer >= _FEW_WINDOWS * window:
        return slice(size - min(newer, MOST_ROWS), size)
    count = fitting.weights(spec, rows)
    # The size of Kish (1965): of rows that count alike, so many would say as much.
    effective = size if count is None else round(float(count.sum() ** 2 / np.square(count).sum()))
    return slice(size - min(max(effective, _WINDOWS * window), size, MOST_ROWS), size)


def unseen(
    spec: ModelSpec,
    rows: Rows,
    judged: slice,
    predictions: Floats,
    found: slice,
    window: Window,
    changed_ms: int | None,
    effort: Effort,
    fit: Fit,
) -> Floats:
    """Return for each row of the reference, at `found`, a prediction by a fit that has not seen it.

    The held-out rows have theirs, and the older ones are cut into blocks in time, each predicted by a fit to the others.
    Where the world has changed, the first fits to the held-out rows had not seen the new one: then all are
    predicted so, by fits that have.
    """
    said = np.full((len(rows), *predictions.shape[1:]), np.nan)
    if changed_ms is None:
        said[judged] = predictions
        if found.start >= judged.start:
            return said[found]
        places, folds = np.arange(found.start, judged.start), np.array_split(np.arange(judged.start), FOLDS)
    else:
        places = np.arange(found.start, found.stop)
        blocks = np.array_split(places, FOLDS * _BLOCKS)
        folds = [np.concatenate(blocks[at::FOLDS]) for at in range(FOLDS)]
    for fold in folds:
        asked = np.intersect1d(fold, places)
        if not asked.size:
            continue
        others = rows[np.setdiff1d(np.arange(len(rows) if changed_ms is not None else judged.start), fold)]
        seen = within(window, spec, others, changed_ms)
        said[asked] = fit(spec, effort.seen(others if seen is None else seen)).predict(rows.features[asked])
    return said[found]


def examples(rows: Rows) -> NDArray[np.int64]:
    """Return the places, among the rows of a reference, of those whose answers by the graph are kept with it."""
    return np.unique(np.linspace(0, len(rows), EXAMPLES, endpoint=False).astype(np.int64))


def columns(
    spec: ModelSpec, names: Sequence[str], texts: Sequence[str], rows: Rows, unseen: Floats
) -> dict[str, NDArray[Any]]:
    """Return the rows of a reference, with the prediction of each, column by column, as monitoring reads them."""
    numbers, words = pair(rows.features)
    return {
        **{name: numbers[:, at].astype(np.float64) for at, name in enumerate(names)},
        **{name: words[:, at] for at, name in enumerate(texts)},
        "prediction": classes.answers(unseen),
        "loss": losses.loss(spec.judged_by, rows.label, unseen),
        "event_time_ms": rows.event_time_ms,
    }


def write(
    path: Path,
    spec: ModelSpec,
    names: Sequence[str],
    texts: Sequence[str],
    rows: Rows,
    unseen: Floats,
    said: Floats,
) -> None:
    """Write the rows of a reference, with the prediction and the label of each, as an Arrow file.

    Of more classes than two the `probabilities` of all are there too, so that what a row without a label loses can be learnt.
    `said` is what the graph itself answers for its `examples`: whoever loads it can hold it to that. It stands in the
    schema's metadata, to six digits, which is what float32 has on any machine.
    """
    kept = {"rows": examples(rows).tolist(), "answers": _digits(said)}
    found: dict[str, Any] = columns(spec, names, texts, rows, unseen) | {"label": rows.label}
    if unseen.ndim == 2:
        found["probabilities"] = classes.lists(unseen)
    table = pa.table(found)
    inputs.write(path, table.replace_schema_metadata({"examples": json.dumps(kept)}))


def _digits(said: Floats) -> list[Any]:
    return [[float(f"{value:.6g}") for value in row] for row in said.reshape(len(said), -1).tolist()]
