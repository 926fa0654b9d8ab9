"""The archive in memory: keeps the promises of `store.DeltaStore`, and nothing after the process."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from trimtab_feature_store.store import Piece, Reach, rows_wanted


class MemoryStore:
    """Tables as lists of versions."""

    def __init__(self) -> None:
        self.versions: dict[str, list[pa.Table]] = {}
        self._reached: dict[tuple[str, str], int] = {}
        self._marks: dict[str, dict[int, int]] = {}

    def append(
        self, table: str, schema: pa.Schema, pieces: Sequence[Piece], watermark_ms: Mapping[int, int]
    ) -> None:
        """Add what the table does not hold yet, and move its watermarks on."""
        versions = self.versions.setdefault(table, [schema.empty_table()])
        batches = []
        for piece in pieces:
            held = self._reached.get((table, piece.app_id), -1)
            batches.append(piece.after(held))
            self._reached[table, piece.app_id] = max(held, piece.last_offset)
        marks = self._marks.setdefault(table, {})
        moved = {p: at for p, at in watermark_ms.items() if at > marks.get(p, 0)}
        marks |= moved
        if moved or any(batch.num_rows for batch in batches):
            more = pa.Table.from_batches(batches, schema=schema)
            versions.append(pa.concat_tables([versions[-1], more], promote_options="default"))

    def reach(self, table: str, partitions: int) -> Reach:
        """Return how far the newest version of a table has come."""
        marks = self._marks.get(table, {})
        return Reach(len(self.versions.get(table, [])) - 1, {p: marks.get(p, 0) for p in range(partitions)})

    def offsets(self, table: str, version: int, topic: str, partitions: int) -> list[int]:
        """Return the last offset of each of a topic's partitions that a table's newest version holds, -1 where none."""
        return [self._reached.get((table, f"{topic}/{number}"), -1) for number in range(partitions)]

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
        found = self.versions[table][version]
        found = found.filter(rows_wanted(start_ms, end_ms, arrived_by_ms, model))
        there = [found[name] if name in found.column_names else pa.nulls(found.num_rows) for name in columns]
        return pa.table(dict(zip(columns, there, strict=True)))
