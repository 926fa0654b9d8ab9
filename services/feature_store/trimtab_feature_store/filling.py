"""Rows of a file in a source's table: where they stand, and which of them had come before.

They stand before everything that came on the source's topic: their offsets are
negative, and count up from the first row that ever came from a file. A part of a
file is appended with how far that file has come, so it is appended once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from trimtab_core.uniqueness import repeats

FIRST_OFFSET = -(2**62)
ROWS_OF_FILES = "backfill"
"""Name of the application transaction that says how many rows of files a table holds."""

_Value = tuple[int, object]
"""A partition, and a field's value there."""
Held = Callable[[Sequence[str], int, int], pa.Table]
"""Reads columns of the rows that a table holds with event time in [start, end)."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a file, in its order; their offsets are not given yet."""

    file: str
    after: int
    """The file's row behind which it begins."""
    until: int
    """The row that it ends with."""
    rows: pa.RecordBatch
    within: Mapping[str, int]
    """Columns whose values may come once, and within which event time."""

    @property
    def app_id(self) -> str:
        """Name of the application transaction that says how far the file has come."""
        return file_id(self.file)

    def placed(self, taken: int, held: Held) -> pa.RecordBatch:
        """Return the rows that repeat none, neither of the part nor of what the table holds, behind `taken` others."""
        rows = self.rows.filter(pa.array(_first(self.rows, self.within, held))) if self.within else self.rows
        offsets = np.arange(rows.num_rows, dtype=np.int64) + (FIRST_OFFSET + taken)
        at = rows.schema.get_field_index("offset")
        return rows.set_column(at, rows.schema.field(at), pa.array(offsets))


@dataclass(frozen=True, slots=True)
class Filled:
    """How far a file has come, and how many rows of a part repeated others."""

    until: int
    repeats: int = 0


def file_id(file: str) -> str:
    """Return the name of the application transaction that says how far a file has come."""
    return f"{ROWS_OF_FILES}/{file}"


def _first(rows: pa.RecordBatch, within: Mapping[str, int], held: Held) -> NDArray[np.bool_]:
    """Return which rows are the first with their values, among those of their partition."""
    kept, suspect = np.ones(rows.num_rows, np.bool_), np.zeros(rows.num_rows, np.bool_)
    if not rows.num_rows:
        return kept
    times = pc.min_max(rows["event_time_ms"]).as_py()
    come: dict[tuple[str, _Value], list[int]] = {}
    for name, ms in within.items():
        values = rows[name]
        there = held([name, "partition", "event_time_ms"], times["min"] - ms, times["max"] + ms + 1)
        there = there.filter(pc.is_in(there[name].cast(values.type), value_set=values.drop_null()))
        for value, partition, time_ms in zip(*(each.to_pylist() for each in there.columns), strict=True):
            come.setdefault((name, (partition, value)), []).append(time_ms)
        counts = pc.value_counts(values.drop_null())
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        odd = pa.concat_arrays([twice, there[name].cast(values.type).combine_chunks()])
        suspect |= pc.is_in(values, value_set=odd).to_numpy(zero_copy_only=False)

    def before(name: str, value: _Value) -> Iterable[int]:
        return come.get((name, value), ())

    suspects = rows.filter(pa.array(suspect)).to_pylist()
    for at, row in zip(np.flatnonzero(suspect).tolist(), suspects, strict=True):
        values_of = [(name, (row["partition"], row[name])) for name in within if row[name] is not None]
        kept[at] = not repeats(values_of, row["event_time_ms"], within, before)
        if kept[at]:
            for each in values_of:
                come.setdefault(each, []).append(row["event_time_ms"])
    return kept
