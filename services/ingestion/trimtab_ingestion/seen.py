"""What of a partition of raw.<source> has been let in and may not come again; its topic is seen.<source>.

Two things come once: a value of a field that is `unique_within` a time, and a dead
letter that is replayed. Whatever is held here leaves as a record in the transaction
of the rows that it speaks of, a record for each transaction and lifetime, so a new
owner restores exactly what was let in, no more and no less. Order in the partition
decides which row is the first, and no clock does. A value is held as its digest.
"""

import heapq
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trimtab_contracts import topics
from trimtab_contracts.ingestion.v1.ingestion_pb2 import Seen as Message
from trimtab_contracts.ingestion.v1.ingestion_pb2 import SeenValues
from trimtab_core.contract import FUTURE_MS, entity_text
from trimtab_core.specs import SourceSpec
from trimtab_core.uniqueness import repeats, unique_fields
from trimtab_runtime.records import REPLAY_OF, Outgoing

from trimtab_ingestion.usecases import Judged

FOLLOWS = (topics.SEEN,)
ReadPartition = Callable[[str, int], AsyncIterator[Sequence[Any]]]
"""Yields the committed records of a topic's partition, up to its end."""

NO_LETTER = -1
REPLAYS_HELD_MS = 2 * (topics.DEADLETTER.retention_ms or 0)
"""Twice as long as letters are kept, for a segment of them outlives its retention."""
_DIGEST_BYTES = 16
_ROWS, _REPLAYS = b"rows/", b"replays/"


@dataclass(slots=True)
class _Note:
    """What one record holds."""

    held_from_ms: int
    """Event time for rows; the record's time for replays, whose rows are old, and for the values they brought."""
    values: dict[str, tuple[list[bytes], list[int]]] = field(default_factory=dict)
    """Digests and event times by field."""
    replayed: list[int] = field(default_factory=list)

    def add(self, name: str, digest: bytes, time_ms: int) -> None:
        digests, times = self.values.setdefault(name, ([], []))
        digests.append(digest)
        times.append(time_ms)

    def encode(self) -> bytes:
        values = [
            SeenValues(field=name, digests=b"".join(digests), event_time_ms=times)
            for name, (digests, times) in self.values.items()
        ]
        return topics.SEEN.encode(
            Message(values=values, replayed=self.replayed, held_from_ms=self.held_from_ms)
        )

    @classmethod
    def decode(cls, value: bytes) -> "_Note":
        told = topics.SEEN.decode(value)
        size = _DIGEST_BYTES
        values = {
            each.field: (
                [each.digests[at : at + size] for at in range(0, len(each.digests), size)],
                list(each.event_time_ms),
            )
            for each in told.values
        }
        return cls(told.held_from_ms, values, list(told.replayed))


class Seen:
    """The values and the replays that one partition has let in."""

    def __init__(self, source: str, partition: int) -> None:
        self._topic = topics.SEEN.named(source).name
        self._partition = partition
        self._times: dict[str, dict[bytes, tuple[int, ...]]] = {}
        self._replayed: set[int] = set()
        self._notes: dict[bytes, _Note] = {}
        self._by_age: dict[bytes, list[tuple[int, bytes]]] = {_ROWS: [], _REPLAYS: []}
        """Heaps of the notes' keys, oldest first."""

    async def restore(self, read_partition: ReadPartition) -> None:
        """Read back what was let in."""
        async for batch in read_partition(self._topic, self._partition):
            for record in batch:
                if record.value is None:
                    self._drop(record.key)
                else:
                    self._hold(record.key, _Note.decode(record.value))

    def let_in(
        self, spec: SourceSpec, rows: Sequence[Any], judged: Judged, replays: Mapping[int, int]
    ) -> tuple[NDArray[np.int64], list[Outgoing]]:
        """Return the places of the good rows that have not come before, and what must be written of them.

        `rows` are the raw records that were judged; `replays` are those of them that dead letters are sent again with.
        """
        good = judged.good
        unique = unique_fields(spec)
        if not len(good) or not (unique or replays):
            return good, []
        places, times = good.tolist(), judged.event_time_ms[good].tolist()
        columns = {name: [_digest(judged.rows[at], name) for at in places] for name in unique}
        new, replayed = _Note(max(times)), _Note(rows[-1].timestamp)
        if replays or any(self._may_repeat(name, column) for name, column in columns.items()):
            kept = self._one_by_one(places, times, unique, columns, replays, new, replayed)
        else:
            kept = good
            new.values = {
                name: ([each for each in column if each], times) for name, column in columns.items()
            }
        offset = b"%d" % rows[-1].offset
        notes = [(_ROWS + offset, new), (_REPLAYS + offset, replayed)]
        return kept, [self._write(key, note) for key, note in notes if note.values or note.replayed]

    def forget(self, spec: SourceSpec, watermark_ms: int, now_ms: int) -> list[Outgoing]:
        """Return the tombstones of what no row can repeat any more.

        Rows older than the watermark, less the lateness and what clocks may differ by, come no more.
        """
        held_ms = max(unique_fields(spec).values(), default=0) + spec.lateness + FUTURE_MS
        return [
            *self._forget(self._by_age[_ROWS], watermark_ms - held_ms),
            *self._forget(self._by_age[_REPLAYS], now_ms - REPLAYS_HELD_MS),
        ]

    def _may_repeat(self, name: str, column: Sequence[bytes | None]) -> bool:
        """Whether some value of a column may have come before; if not, all are there and none is."""
        values = set(column)
        return len(values) < len(column) or None in values or not values.isdisjoint(self._held(name))

    def _one_by_one(
        self,
        places: Sequence[int],
        times: Sequence[int],
        unique: Mapping[str, int],
        columns: Mapping[str, Sequence[bytes | None]],
        replays: Mapping[int, int],
        new: _Note,
        replayed: _Note,
    ) -> NDArray[np.int64]:
        """Note what is let in, and return its places."""
        kept = []
        come: dict[tuple[str, bytes], list[int]] = {}  # in this batch
        letters: set[int] = set()

        def before(name: str, digest: bytes) -> Iterable[int]:
            return (*self._held(name).get(digest, ()), *come.get((name, digest), ()))

        for number, (place, time_ms) in enumerate(zip(places, times, strict=True)):
            letter = replays.get(place)
            if letter is not None:
                if letter in self._replayed or letter in letters:
                    continue
                # Settled for ever, even if its values had come before.
                letters.add(letter)
                replayed.replayed.append(letter)
            values = [
                (name, digest) for name, column in columns.items() if (digest := column[number]) is not None
            ]
            if repeats(values, time_ms, unique, before):
                continue
            kept.append(place)
            for name, digest in values:
                come.setdefault((name, digest), []).append(time_ms)
                (new if letter is None else replayed).add(name, digest, time_ms)
        return np.array(kept, np.int64)

    def _held(self, name: str) -> dict[bytes, tuple[int, ...]]:
        return self._times.setdefault(name, {})

    def _write(self, key: bytes, note: _Note) -> Outgoing:
        self._hold(key, note)
        return Outgoing(self._topic, key, note.encode(), [], self._partition)

    def _hold(self, key: bytes, note: _Note) -> None:
        self._drop(key)
        self._notes[key] = note
        heapq.heappush(
            self._by_age[_REPLAYS if key.startswith(_REPLAYS) else _ROWS], (note.held_from_ms, key)
        )
        self._replayed.update(note.replayed)
        for name, (digests, times) in note.values.items():
            held = self._held(name)
            if len(set(digests)) == len(digests) and held.keys().isdisjoint(digests):
                held.update(zip(digests, zip(times, strict=True), strict=True))
                continue
            for digest, time_ms in zip(digests, times, strict=True):
                held[digest] = (*held.get(digest, ()), time_ms)

    def _forget(self, oldest: list[tuple[int, bytes]], until_ms: int) -> Iterable[Outgoing]:
        while oldest and oldest[0][0] < until_ms:
            _, key = heapq.heappop(oldest)
            if self._drop(key):
                yield Outgoing(self._topic, key, None, [], self._partition)

    def _drop(self, key: bytes) -> bool:
        note = self._notes.pop(key, None)
        if note is None:
            return False
        self._replayed.difference_update(note.replayed)
        for name, (digests, times) in note.values.items():
            held = self._held(name)
            for digest, time_ms in zip(digests, times, strict=True):
                rest = list(held.pop(digest))
                rest.remove(time_ms)
                if rest:
                    held[digest] = tuple(rest)
        return True


def replays(rows: Sequence[Any]) -> dict[int, int]:
    """Return the places of raw records that dead letters are sent again with, and the offset of each letter's own record.

    It is `NO_LETTER` where the header names no earlier record of the partition.
    """
    return {
        at: _letter_offset(record, value or b"")
        for at, record in enumerate(rows)
        for name, value in record.headers
        if name == REPLAY_OF
    }


def _letter_offset(record: Any, id: bytes) -> int:
    digits = id.removeprefix(f"{record.topic}/{record.partition}/".encode())
    # No more digits than its own offset has: int() of a million of them takes its time.
    if digits == id or not digits.isdigit() or len(digits) > len(str(record.offset)):
        return NO_LETTER
    return offset if (offset := int(digits)) < record.offset else NO_LETTER


def _digest(row: Mapping[str, Any] | None, name: str) -> bytes | None:
    value = None if row is None else row.get(name)
    if value is None:
        return None
    return blake2b(entity_text(value).encode(), digest_size=_DIGEST_BYTES).digest()
