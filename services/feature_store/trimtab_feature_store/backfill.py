"""Rows of files, straight to the archive: judged as ingestion judges them, and kept where events are kept.

A part of a file is taken whole, once, or not at all. One that holds rows which the
contract refuses is not taken: its sender sends those to raw.<source>, where they
become dead letters like any others, and leaves them out.
"""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from trimtab_core.contract import Checked, Reason, compile_contract
from trimtab_core.specs import Source
from trimtab_core.uniqueness import unique_fields
from trimtab_runtime.partitioner import partitions_of
from trimtab_runtime.specbook import SpecBook

from trimtab_feature_store.errors import BadPart, OtherPart, SentBefore
from trimtab_feature_store.filling import Filled, Part
from trimtab_feature_store.rows import Rows
from trimtab_feature_store.store import EVER_MS, Tables
from trimtab_feature_store.tables import EventTable, column_of, events_table

_ID_DIGITS = 16


class Fills(Tables, Protocol):
    """The tables, and what a backfill does to them; each call blocks."""

    def fill(self, table: str, schema: pa.Schema, part: Part) -> Filled:
        """Add a part of a file, unless the table has come past its beginning; say how far the file has come then."""
        ...

    def filled(self, table: str, file: str) -> int:
        """Return the row of a file up to which a table has it; 0 if it has none of it."""
        ...


@dataclass(frozen=True, slots=True)
class Sent:
    """A part of a file as it is sent."""

    file: str
    after: int
    until: int
    numbers: Sequence[int]
    payloads: Sequence[bytes]
    arrived_at_ms: Sequence[int]


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a part."""

    until: int
    repeats: int
    refused: Sequence[tuple[int, Sequence[Reason]]]
    """Numbers of the rows that the contract refuses; if there are some, nothing was taken."""
    newest_ms: int | None
    """Event time of the newest row in the archive, looked up where no row was sent."""


class Backfill:
    """Takes files into the archive, a part at a time, off the event loop."""

    def __init__(self, book: SpecBook, store: Fills) -> None:
        self._book = book
        self._store = store
        self._one = threading.Lock()

    async def take(self, name: str, sent: Sent) -> Taken:
        """Take a part of a file of source `name`, or return what the contract refuses of it.

        Without rows and `until`, return how far the file has come.

        Raises:
            UnknownSource: there is no such source.
            BadPart: the part contradicts itself.
            OtherPart: it does not begin where what was taken of the file ends.
            SentBefore: its rows came over the source's topic.
            ArchiveConflict, Unavailable: the table does not take it.
        """
        return await asyncio.to_thread(self._alone, self._book.source(name), sent)

    def _alone(self, source: Source, sent: Sent) -> Taken:
        # Held by the thread: that of a caller who has gone is still at work when the same part comes again.
        with self._one:
            return self._take(source, sent)

    def _take(self, source: Source, sent: Sent) -> Taken:
        table = events_table(source.name)
        come = self._store.filled(table, sent.file)
        if not sent.until:
            return Taken(come, 0, (), self._newest_ms(source))
        _check(sent)
        if come >= sent.until:
            return Taken(come, 0, (), None)
        if come != sent.after:
            raise OtherPart(source.name, sent.after, come)
        arrived = np.array(sent.arrived_at_ms, np.int64)
        checked = compile_contract(source.spec).check(sent.payloads, arrived)
        if any(checked.reasons):
            told = zip(sent.numbers, checked.reasons, strict=True)
            return Taken(come, 0, [(number, why) for number, why in told if why], None)
        columns = EventTable(source.spec)
        keys = [(key or "").encode() for key in checked.keys]
        partitions = partitions_of(keys, source.spec.partitions)
        rows = columns.batch(_rows(sent, checked, arrived), partitions)
        if not come and self._holds_any(source, rows):
            raise SentBefore(source.name)
        within = {column_of(name): ms for name, ms in unique_fields(source.spec).items()}
        part = Part(sent.file, sent.after, sent.until, rows, within)
        filled = self._store.fill(table, columns.schema, part)
        if filled.until != sent.until:
            raise OtherPart(source.name, sent.after, filled.until)
        return Taken(filled.until, filled.repeats, (), None)

    def _holds_any(self, source: Source, rows: pa.RecordBatch) -> bool:
        """Whether the archive holds a row by the id of one of these."""
        if not rows.num_rows:
            return False
        times = pc.min_max(rows["event_time_ms"]).as_py()
        held = self._held(source, ["id"], times["min"], times["max"] + 1)
        return bool(pc.any(pc.is_in(held["id"].cast(pa.string()), value_set=rows["id"])).as_py())

    def _newest_ms(self, source: Source) -> int | None:
        newest: int | None = pc.max(self._held(source, ["event_time_ms"], -EVER_MS, EVER_MS)[0]).as_py()
        return newest

    def _held(self, source: Source, columns: Sequence[str], start_ms: int, end_ms: int) -> pa.Table:
        table = events_table(source.name)
        version = self._store.reach(table, source.spec.partitions).version
        return self._store.read(table, columns, version=version, start_ms=start_ms, end_ms=end_ms)


def _check(sent: Sent) -> None:
    rows = len(sent.payloads)
    if not len(sent.numbers) == len(sent.arrived_at_ms) == rows:
        counts = f"{len(sent.numbers)} numbers and {len(sent.arrived_at_ms)} arrivals for {rows} rows"
        raise BadPart(f"there are {counts}: send one of each for each row")
    if any(later <= sooner for sooner, later in zip(sent.numbers, sent.numbers[1:], strict=False)):
        raise BadPart("numbers do not rise: send the rows in the order of the file")
    if rows and not sent.after < sent.numbers[0] <= sent.numbers[-1] <= sent.until:
        raise BadPart(
            f"rows {sent.numbers[0]} to {sent.numbers[-1]} are not behind {sent.after} and up to {sent.until}: send the "
            "part that was meant"
        )
    if not sent.file or sent.until <= sent.after:
        raise BadPart(
            f"a part of file {sent.file!r} from {sent.after} to {sent.until} is none: name a file and rows"
        )


def _rows(sent: Sent, checked: Checked, arrived: NDArray[np.int64]) -> Rows:
    ids = [f"{sent.file[:_ID_DIGITS]}/{number}" for number in sent.numbers]
    return Rows(list(checked.payloads(sent.payloads)), ids, checked.event_time_ms, arrived, [0] * len(ids))
