"""Reads a version's reference; only child processes do, so the service itself carries no Arrow."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from trimtab_core.arrow import table_of
from trimtab_core.drift import Column


def read_reference(path: Path) -> dict[str, Column]:
    """Return the columns of an Arrow IPC file or stream: numbers, NaN where one is missing, and texts, empty where one is.

    A column of lists of the same length is a matrix [rows, length].

    Raises:
        ValueError: it is no such file.
    """
    table = table_of(path.read_bytes())
    found: dict[str, Column] = {}
    for field in table.schema:
        if (
            pa.types.is_integer(field.type)
            or pa.types.is_floating(field.type)
            or pa.types.is_boolean(field.type)
        ):
            found[field.name] = np.asarray(table[field.name].to_numpy(zero_copy_only=False), np.float64)
        elif pa.types.is_fixed_size_list(field.type):
            numbers = table[field.name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            found[field.name] = np.asarray(numbers, np.float64).reshape(-1, field.type.list_size)
        elif pa.types.is_string(field.type):
            found[field.name] = np.asarray(
                table[field.name].fill_null("").to_numpy(zero_copy_only=False), object
            )
    return found
