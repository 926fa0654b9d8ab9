"""What serving takes from a version's reference: rows to explain against, and examples to hold the graph to.

The trainer records beside the rows what the graph answered for some of them when it
was exported; a graph that answers something else here is not the one that was judged.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from trimtab_core.arrow import table_of

from trimtab_serving.errors import CannotServe

_BACKGROUND = 100
"""Rows that are kept for explanations, evenly spread."""
_SPREAD, _SIZE = 1e-3, 1e-4
"""What an answer may differ by for rounding, of the spread and of the largest of those recorded."""


class Rows(NamedTuple):
    """Features float32 [rows, features], and texts [rows, texts]."""

    numbers: NDArray[np.float32]
    words: NDArray[np.object_]


class Reference(NamedTuple):
    """What is kept of one; all of it is empty where a version has none."""

    background: Rows
    examples: Rows
    answers: NDArray[np.float64]
    """Of the examples [rows, values], as recorded; of size 0 where nobody recorded any."""


def read(name: str, features: Sequence[str], texts: Sequence[str], content: bytes | None) -> Reference:
    """Read an Arrow IPC stream or file with a column for each feature.

    Raises:
        CannotServe: it is none; `name` is what the fault calls the version.
    """
    if content is None:
        nothing = Rows(np.empty((0, len(features)), np.float32), np.empty((0, len(texts)), object))
        return Reference(nothing, nothing, np.empty((0, 1)))
    try:
        table = table_of(content)
        kept = json.loads((table.schema.metadata or {}).get(b"examples", '{"rows": [], "answers": []}'))
        spread = np.unique(np.linspace(0, len(table), _BACKGROUND, endpoint=False).astype(np.int64))
        return Reference(
            _rows(table, spread if len(table) else [], features, texts),
            _rows(table, kept["rows"], features, texts),
            np.array(kept["answers"], np.float64, ndmin=2),
        )
    except (pa.ArrowException, KeyError, IndexError, ValueError, TypeError) as error:
        raise CannotServe(f"the reference of {name} cannot be read: {error}; train it again") from error


def hold(name: str, said: NDArray[np.float32], recorded: NDArray[np.float64]) -> None:
    """Hold what a graph said of the examples to what is recorded.

    Raises:
        CannotServe: it differs by more than rounding.
    """
    answers = said.reshape(len(recorded), -1)
    if answers.shape != recorded.shape:
        raise CannotServe(
            f"{name} gives {answers.shape[1]} numbers a row and its record says {recorded.shape[1]}: train it again"
        )
    limit = _SPREAD * float(recorded.std()) + _SIZE * float(np.abs(recorded).max())
    worst = np.unravel_index(np.abs(answers - recorded).argmax(), answers.shape)
    if not abs(answers[worst] - recorded[worst]) <= limit:
        raise CannotServe(
            f"{name} gives {answers[worst]:.6g} where its record says {recorded[worst]:.6g}: "
            "its file is not the one that was judged, or its engine answers otherwise; train it again"
        )


def _rows(
    table: pa.Table, places: NDArray[np.int64] | list[int], features: Sequence[str], texts: Sequence[str]
) -> Rows:
    some = table.take(pa.array(places, pa.int64()))
    numbers = np.empty((len(some), len(features)), np.float32)
    words = np.empty((len(some), len(texts)), object)
    for at, each in enumerate(features):
        numbers[:, at] = some[each].to_numpy().astype(np.float32)
    for at, each in enumerate(texts):
        words[:, at] = some[each].to_pylist()
    return Rows(numbers, words)
