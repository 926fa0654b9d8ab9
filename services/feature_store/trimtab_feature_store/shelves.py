"""What waits to be archived, and how raw records become rows of a table.

A shelf only holds records; they are pressed into columns when it is flushed, off the
event loop.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from trimtab_contracts import topics
from trimtab_contracts.topics import Undecodable
from trimtab_core.specs import Source

from trimtab_feature_store import rows, tables

FLUSH_ROWS = 50_000
FLUSH_AFTER_MS = 2_000
RETRY_AFTER_MS = 1_000


@dataclass(frozen=True, slots=True)
class Pressed:
    """The rows among some records, the furthest watermark among them, and the records that hold no row."""

    rows: pa.RecordBatch
    watermark_ms: int | None = None
    refused: tuple[tuple[Any, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Press:
    """How the records of one topic become rows of one table."""

    table: str
    schema: pa.Schema
    press: Callable[[int, Sequence[Any]], Pressed]
    """Takes a partition and its raw records, in order."""


def event_press(source: Source) -> Press:
    """Return the press of a source's events."""
    table = tables.EventTable(source.spec)

    def press(partition: int, batch: Sequence[Any]) -> Pressed:
        found = rows.read(batch)
        return Pressed(table.batch(found.rows, partition), found.watermark_ms)

    return Press(tables.events_table(source.name), table.schema, press)


def _press_predictions(partition: int, batch: Sequence[Any]) -> Pressed:
    pressed, refused = [], []
    for record in batch:
        try:
            message = topics.PREDICTIONS.decode(record.value or b"")
            pressed.append(tables.predictions_batch(message, partition, record.offset))
        except (Undecodable, tables.Uneven) as error:
            refused.append((record, str(error)))
    whole = pa.Table.from_batches(pressed, schema=tables.PREDICTIONS_SCHEMA).combine_chunks().to_batches()
    # A table without rows has no batch either: a watermark alone is archived as nothing.
    nothing = pa.RecordBatch.from_pylist([], schema=tables.PREDICTIONS_SCHEMA)
    return Pressed(whole[0] if whole else nothing, refused=tuple(refused))


PREDICTIONS_PRESS = Press(tables.PREDICTIONS, tables.PREDICTIONS_SCHEMA, _press_predictions)


@dataclass(slots=True)
class Shelf:
    """The records of one topic that have been read and not archived yet."""

    topic: str
    held: dict[int, list[Any]] = field(default_factory=dict)
    since_ms: int | None = None
    not_before_ms: int = 0

    @property
    def records(self) -> int:
        """How many records wait."""
        return sum(map(len, self.held.values()))

    def put(self, partition: int, batch: Sequence[Any], now_ms: int) -> None:
        """Add records of one partition, in order."""
        self.held.setdefault(partition, []).extend(batch)
        self.since_ms = now_ms if self.since_ms is None else self.since_ms

    def is_due(self, now_ms: int, *, hurried: bool) -> bool:
        """Whether it should be flushed: it is full, or old, or somebody waits for it."""
        if self.since_ms is None or now_ms < self.not_before_ms:
            return False
        return hurried or self.records >= FLUSH_ROWS or now_ms - self.since_ms >= FLUSH_AFTER_MS

    def clear(self) -> None:
        """Forget what waits, because it was archived or because somebody else will read it again."""
        self.held = {}
        self.since_ms = None

    def failed(self, now_ms: int) -> None:
        """Keep what waits for another try, a little later."""
        self.not_before_ms = now_ms + RETRY_AFTER_MS
