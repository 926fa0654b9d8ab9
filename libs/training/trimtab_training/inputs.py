"""What a model is shown of some rows: numbers, and beside them texts.

Rows without texts are a plain matrix; `Inputs` stands in its place where there are
some, and is cut into rows alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from trimtab_core.features import are_words

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Inputs:
    """Numbers float32 [rows, numbers], NaN where one is missing, and texts [rows, texts], empty where one is missing."""

    numbers: Matrix
    texts: NDArray[np.object_]
    words: tuple[bool, ...]
    """Of each text: whether it is words of which each counts by itself, and not a category."""

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, places: Any) -> "Inputs":
        return Inputs(self.numbers[places], self.texts[places], self.words)


def given(inputs: Matrix | Inputs) -> dict[str, Any]:
    """Return what a graph is given, by the name of its input."""
    if isinstance(inputs, Inputs):
        return {"features": inputs.numbers, "texts": inputs.texts}
    return {"features": inputs}


def pair(inputs: Matrix | Inputs) -> tuple[Matrix, NDArray[np.object_]]:
    """Return the numbers and the texts of some rows; of rows without texts no column of those."""
    if isinstance(inputs, Inputs):
        return inputs.numbers, inputs.texts
    return inputs, np.empty((len(inputs), 0), object)


def names(table: pa.Table, *, beside: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Return the features of a training set that are numbers, and those that are texts; columns `beside` them are none."""
    others = {"key", "event_time_ms", "label", *beside}
    features = [name for name in table.column_names if name not in others]
    texts = [name for name in features if pa.types.is_string(table.schema.field(name).type)]
    return [name for name in features if name not in texts], texts


def of(table: pa.Table, numbers: Sequence[str], texts: Sequence[str]) -> Matrix | Inputs:
    """Return some features of a training set as a model is shown them."""
    matrix = np.empty((table.num_rows, len(numbers)), np.float32)
    for at, name in enumerate(numbers):
        matrix[:, at] = as_seen(table[name])
    if not texts:
        return matrix
    columns = np.empty((table.num_rows, len(texts)), object)
    for at, name in enumerate(texts):
        columns[:, at] = as_seen(table[name])
    return Inputs(matrix, columns, tuple(map(are_words, texts)))


def write(path: Path, table: pa.Table) -> None:
    """Write a table as an Arrow file."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def as_seen(column: Any) -> NDArray[Any]:
    """Return a column as a model sees it: a number no finer than float32, a text not null."""
    if pa.types.is_string(column.type):
        return np.asarray(column.fill_null("").to_numpy(), object)
    return column.to_numpy().astype(np.float32).astype(np.float64)  # type: ignore[no-any-return]
