"""Reads a version's reference; only child processes do, so the service itself carries no Arrow."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from trimtab_core.drift import Column

_FILE_MAGIC = b"ARROW1"


def read_reference(path: Path) -> dict[str, Column]:
    """Return the columns of an Arrow IPC file or stream: numbers, NaN where one is missing, and texts, empty where one is.

    Raises:
        ValueError: it is no such file.
    """
    content = path.read_bytes()
    reading = pa.ipc.open_file if content.startswith(_FILE_MAGIC) else pa.ipc.open_stream
    with reading(pa.BufferReader(content)) as reader:
        table = reader.read_all()
    found: dict[str, Column] = {}
    for field in table.schema:
        if (
            pa.types.is_integer(field.type)
            or pa.types.is_floating(field.type)
            or pa.types.is_boolean(field.type)
        ):
            found[field.name] = np.asarray(table[field.name].to_numpy(zero_copy_only=False), np.float64)
        elif pa.types.is_string(field.type):
            found[field.name] = np.asarray(
                table[field.name].fill_null("").to_numpy(zero_copy_only=False), object
            )
    return found
