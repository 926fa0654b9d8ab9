"""The archive's Delta tables, below data_dir/delta.

What is appended and how far its topic has been read are one commit: each commit
carries the last offset of every partition in it as an application transaction, so a
row is archived once however often it is appended. How far in event time a partition
has come is kept the same way, so a version of a table says what it is complete for.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from trimtab_runtime.errors import Unavailable

from trimtab_feature_store.errors import ArchiveConflict

log = logging.getLogger(__name__)

EVER_MS = 2**62
"""Later than any event."""
_COMPACT_EVERY = 256
"""Commits after which small files are joined; the files of older versions stay, for runs name versions."""
_COMPACT_BYTES = 64 * 2**20
_FOR_EVER = {"delta.logRetentionDuration": "interval 36500 days"}
"""A version that a run was trained on can be read again, years later."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of one partition of a topic, in the order of their `offset` column, and the last offset they reach."""

    topic: str
    partition: int
    rows: pa.RecordBatch
    last_offset: int

    @property
    def app_id(self) -> str:
        """Name of the application transaction that says how far this partition has been archived."""
        return _app_id(self.topic, self.partition)

    def after(self, offset: int) -> pa.RecordBatch:
        """Return the rows past `offset`."""
        return self.rows.filter(pc.greater(self.rows["offset"], offset))


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a table's version has come in event time, by partition of its topic."""

    version: int
    watermark_ms: Mapping[int, int]

    def least(self) -> int:
        """Return the event time that every partition has passed; 0 if one has none."""
        return min(self.watermark_ms.values(), default=0)


class Tables(Protocol):
    """What is asked of the archive, here and in memory; each call blocks."""

    def reach(self, table: str, partitions: int) -> Reach:
        """Return how far the newest version of a table has come."""
        ...

    def offsets(self, table: str, version: int, topic: str, partitions: int) -> list[int]:
        """Return the last offset of each of a topic's partitions that a table's version holds, -1 where none."""
        ...

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
        """Return columns of the rows with event time in [start, end), that arrived by a time, or are of a model."""
        ...

    def scan(
        self, table: str, columns: Sequence[str], *, version: int, start_ms: int, end_ms: int
    ) -> Iterator[pa.RecordBatch]:
        """Yield columns of the rows with event time in [start, end), batch by batch."""
        ...


class Flushing(Protocol):
    """What can be told that somebody waits for the archive."""

    def hurried(self, sources: Sequence[str]) -> AbstractContextManager[None]:
        """Flush the events of `sources` at once, as long as the context is open."""
        ...


class DeltaStore:
    """Appends to and reads the tables; each call blocks, so call it from a thread.

    Appends to one table must not overlap in one process; those of other processes may.
    """

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir.absolute() / "delta"
        self._writing: dict[str, DeltaTable] = {}

    def append(
        self, table: str, schema: pa.Schema, pieces: Sequence[Piece], watermark_ms: Mapping[int, int]
    ) -> None:
        """Add those rows of `pieces` that the table does not hold yet, and move its watermarks on.

        Raises:
            ArchiveConflict: a column's type is not the one it had.
            Unavailable: the table cannot be written now.
        """
        try:
            handle = self._writing.get(table) or self._made(table, schema)
            self._writing[table] = handle
            _check_types(table, handle, schema)
            before = handle.version()
            while not _appended(handle, schema, pieces, watermark_ms):
                handle.update_incremental()
            if handle.version() // _COMPACT_EVERY > before // _COMPACT_EVERY:
                _compact(table, handle)
        except (DeltaError, OSError) as error:
            self._writing.pop(table, None)
            raise Unavailable(f"table {table} cannot be written: {error}") from error

    def reach(self, table: str, partitions: int) -> Reach:
        """Return how far the newest version of a table has come; version -1 if there is no such table."""
        handle = self._open(table, None)
        if handle is None:
            return Reach(-1, dict.fromkeys(range(partitions), 0))
        return Reach(
            handle.version(),
            {number: handle.transaction_version(_mark(number)) or 0 for number in range(partitions)},
        )

    def offsets(self, table: str, version: int, topic: str, partitions: int) -> list[int]:
        """Return the last offset of each of a topic's partitions that a table's version holds, -1 where none."""
        handle = self._open(table, version) if version >= 0 else None
        if handle is None:
            return [-1] * partitions
        held = [handle.transaction_version(_app_id(topic, number)) for number in range(partitions)]
        return [-1 if offset is None else offset for offset in held]

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
        """Return `columns` of the rows with event time in [start, end), at a table's version.

        Only those that arrived by a time, or are of a model, if that is given. A column that the table does not
        have is null.
        """
        handle = self._open(table, version) if version >= 0 else None
        if handle is None:
            return pa.table({name: pa.nulls(0) for name in columns})
        wanted = rows_wanted(start_ms, end_ms, arrived_by_ms, model)
        with _reading(table):
            dataset = handle.to_pyarrow_dataset()
            there = [name for name in dict.fromkeys(columns) if name in dataset.schema.names]
            found = dataset.to_table(columns=there, filter=wanted)
        return _with_all(found, columns)

    def scan(
        self, table: str, columns: Sequence[str], *, version: int, start_ms: int, end_ms: int
    ) -> Iterator[pa.RecordBatch]:
        """Yield what `read` would return, batch by batch, with all `columns` in their order."""
        handle = self._open(table, version) if version >= 0 else None
        if handle is None:
            return
        with _reading(table):
            dataset = handle.to_pyarrow_dataset()
            there = [name for name in columns if name in dataset.schema.names]
            wanted = rows_wanted(start_ms, end_ms, None, None)
            for batch in dataset.to_batches(columns=there, filter=wanted):
                yield _with_all(batch, columns).select(columns)

    def _made(self, table: str, schema: pa.Schema) -> DeltaTable:
        path = self._folder / table
        path.mkdir(parents=True, exist_ok=True)
        return DeltaTable.create(str(path), schema, mode="ignore", configuration=_FOR_EVER)

    def _open(self, table: str, version: int | None) -> DeltaTable | None:
        with _reading(table):
            try:
                return DeltaTable(str(self._folder / table), version=version)
            except TableNotFoundError:
                return None


@contextmanager
def _reading(table: str) -> Iterator[None]:
    try:
        yield
    except (DeltaError, OSError, pa.ArrowException) as error:
        raise Unavailable(f"table {table} cannot be read: {error}") from error


def rows_wanted(start_ms: int, end_ms: int, arrived_by_ms: int | None, model: str | None) -> pc.Expression:
    """Return the condition that the rows of a `read` meet."""
    wanted = (pc.field("event_time_ms") >= start_ms) & (pc.field("event_time_ms") < end_ms)
    if arrived_by_ms is not None:
        wanted &= pc.field("arrived_at_ms") <= arrived_by_ms
    if model is not None:
        wanted &= pc.field("model") == model
    return wanted


def _with_all(found: Any, columns: Sequence[str]) -> Any:
    """Return a table or a batch with those of `columns` that it lacks, of nulls."""
    for name in columns:
        if name not in found.schema.names:
            found = found.append_column(name, pa.nulls(found.num_rows))
    return found


def _appended(
    handle: DeltaTable, schema: pa.Schema, pieces: Sequence[Piece], watermark_ms: Mapping[int, int]
) -> bool:
    """Commit what `handle` has not seen; False if another process committed first and it must look again.

    Check and commit are of one version of the table, for only then does Delta refuse a
    transaction that was committed in between.
    """
    batches, reached = [], dict[str, int]()
    for piece in pieces:
        held = handle.transaction_version(piece.app_id)
        held = -1 if held is None else held
        held = max(held, reached.get(piece.app_id, -1))
        if piece.last_offset > held:
            batches.append(piece.after(held))
            reached[piece.app_id] = piece.last_offset
    for partition, time_ms in watermark_ms.items():
        if time_ms > (handle.transaction_version(_mark(partition)) or 0):
            reached[_mark(partition)] = time_ms
    if not reached:
        return True
    try:
        write_deltalake(
            handle,
            pa.Table.from_batches(batches, schema=schema),
            mode="append",
            schema_mode="merge",
            commit_properties=CommitProperties(
                app_transactions=[Transaction(name, value) for name, value in reached.items()]
            ),
        )
    except CommitFailedError:
        return False
    return True


def _compact(table: str, handle: DeltaTable) -> None:
    try:
        handle.optimize.compact(target_size=_COMPACT_BYTES)
    except DeltaError as error:
        log.info("table %s is compacted another time: %s", table, error)


def _app_id(topic: str, partition: int) -> str:
    return f"{topic}/{partition}"


def _mark(partition: int) -> str:
    return f"watermark/{partition}"


def _check_types(table: str, handle: DeltaTable, schema: pa.Schema) -> None:
    held = {field.name: field.type for field in pa.schema(handle.schema().to_arrow())}
    for field in schema:
        if field.name in held and held[field.name] != field.type:
            raise ArchiveConflict(table, field.name, str(held[field.name]), str(field.type))
