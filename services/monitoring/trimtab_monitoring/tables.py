"""Arrow files: a version's reference, and the rows of a window."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trimtab_monitoring.usecases.entities import Row

Floats = NDArray[np.float64]

_FILE_MAGIC = b"ARROW1"


def read_columns(path: Path) -> dict[str, Floats]:
    """Return the numeric columns of an Arrow IPC file or stream, missing values as NaN.

    Raises:
        ValueError: it is no such file.
    """
    content = path.read_bytes()
    reading = pa.ipc.open_file if content.startswith(_FILE_MAGIC) else pa.ipc.open_stream
    with reading(pa.BufferReader(content)) as reader:
        table = reader.read_all()
    return {
        field.name: np.asarray(table[field.name].to_numpy(zero_copy_only=False), np.float64)
        for field in table.schema
        if pa.types.is_integer(field.type)
        or pa.types.is_floating(field.type)
        or pa.types.is_boolean(field.type)
    }


def write_rows(path: Path, rows: Sequence[Row], features: Sequence[str]) -> None:
    """Write the features of `rows` with `prediction` and `label`."""
    matrix = np.frombuffer(b"".join(row.features for row in rows)).reshape(len(rows), -1)
    columns = dict(zip(features, matrix.T, strict=True))
    columns["prediction"] = np.array([row.champion for row in rows])
    columns["label"] = np.array([np.nan if row.label is None else row.label for row in rows])
    table = pa.table(columns)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
