"""Predictions of classes as the columns of the files that a run writes.

Beside `prediction`, the number of the most probable class, stand the `probabilities`
of all, in the order of the spec's `label.classes`. Of other tasks there is `prediction`
alone.
"""

from typing import Any

import pyarrow as pa
from trimtab_core import losses

from trimtab_training.families import Floats


def answers(said: Floats) -> Floats:
    """Return one number a row: the prediction itself, or the number of the most probable class."""
    return losses.said_class(said) if said.ndim == 2 else said


def evaluated(predictions: Floats, champion: Floats | None) -> dict[str, Any]:
    """Return what candidate and champion said of the judged rows; null where the champion was not asked."""
    rows = len(predictions)
    found: dict[str, Any] = {"prediction": pa.array(answers(predictions))}
    if champion is None:
        found["champion_prediction"] = pa.nulls(rows, pa.float64())
    else:
        found["champion_prediction"] = pa.array(answers(champion), mask=~losses.answered(champion))
    if predictions.ndim == 2:
        found["probabilities"] = lists(predictions)
        if champion is not None:
            found["champion_probabilities"] = lists(champion)
    return found


def lists(matrix: Floats) -> Any:
    """Return probabilities [rows, classes] as a column of lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
