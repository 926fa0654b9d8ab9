"""The archive in memory: keeps the promises of `store.DeltaStore`, and nothing after the process."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from trimtab_feature_store.store import Piece, Reach, rows_wanted


@dataclass(frozen=True, slots=True)
class _Version:
    rows: pa.Table
    reached: Mapping[str, int]
    """The last offset of each piece's partition, by its `app_id`."""
    marks: Mapping[int, int]


class MemoryStore:
    """Tables as lists of versions."""

    def __init__(self) -> None:
        self._versions: dict[str, list[_Version]] = {}

    def append(
        self, table: str, schema: pa.Schema, pieces: Sequence[Piece], watermark_ms: Mapping[int, int]
    ) -> None:
        """Add what the table does not hold yet, and move its watermarks on."""
        versions = self._versions.setdefault(table, [_Version(schema.empty_table(), {}, {})])
        newest = versions[-1]
        batches, reached = [], dict(newest.reached)
        for piece in pieces:
            held = reached.get(piece.app_id, -1)
            if piece.last_offset > held:
                batches.append(piece.after(held))
                reached[piece.app_id] = piece.last_offset
        moved = {p: at for p, at in watermark_ms.items() if at > newest.marks.get(p, 0)}
        if batches or moved:
            more = pa.Table.from_batches(batches, schema=schema)
            rows = pa.concat_tables([newest.rows, more], promote_options="default")
            versions.append(_Version(rows, reached, {**newest.marks, **moved}))

    def reach(self, table: str, partitions: int) -> Reach:
        """Return how far the newest version of a table has come."""
        versions = self._versions.get(table, [])
        marks = versions[-1].marks if versions else {}
        return Reach(len(versions) - 1, {p: marks.get(p, 0) for p in range(partitions)})

    def offsets(self, table: str, version: int, topic: str, partitions: int) -> list[int]:
        """Return the last offset of each of a topic's partitions that a table's version holds, -1 where none."""
        reached = self._versions[table][version].reached if version >= 0 else {}
        return [reached.get(f"{topic}/{number}", -1) for number in range(partitions)]

    def read(
        self,
        table: str,
        columns: Sequence[str],
        *,
        version: int,
        start_ms: int,
        end_ms: int,
        arrived_by_ms: int | None = None,
        model: str | None = None,
    ) -> pa.Table:
        """Return `columns` of the rows that are asked for, at a table's version."""
        if version < 0:
            return pa.table({name: pa.nulls(0) for name in columns})
        found = self._versions[table][version].rows
        found = found.filter(rows_wanted(start_ms, end_ms, arrived_by_ms, model))
        there = [found[name] if name in found.column_names else pa.nulls(found.num_rows) for name in columns]
        return pa.table(dict(zip(columns, there, strict=True)))

    def scan(
        self, table: str, columns: Sequence[str], *, version: int, start_ms: int, end_ms: int
    ) -> Iterator[pa.RecordBatch]:
        """Yield what `read` returns, batch by batch."""
        yield from self.read(table, columns, version=version, start_ms=start_ms, end_ms=end_ms).to_batches()
