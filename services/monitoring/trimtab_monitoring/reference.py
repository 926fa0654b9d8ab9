"""Reads a version's reference; only child processes do, so the service itself carries no Arrow."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_FILE_MAGIC = b"ARROW1"


def read_reference(path: Path) -> dict[str, Floats]:
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
