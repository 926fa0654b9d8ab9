"""PostgreSQL home of the online features: the newest record of each key of features.<view>.

A batch of a partition and the offset behind it are one transaction, which holds the
partition's row of `positions`. Of several processes that come with the same records
the first one writes them, the others find them written; so each is written once, in
the topic's order, and whoever has called `write` knows that all of it is here.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import asyncpg
import msgspec
from google.protobuf.message import DecodeError
from trimtab_runtime import featurelog
from trimtab_runtime.errors import TrimtabError
from trimtab_runtime.featurelog import Progress
from trimtab_runtime.postgres import Connection, outages

from trimtab_feature_store.errors import NotRead

_ANSWER_S = 5.0
"""A PostgreSQL that does not answer for so long is away, for whoever asks for features."""
_WRITE_S = 60.0
_LONGEST = 200
"""Bytes of an entity that is a key as it is; an index takes no key of more than some 2,700."""
_DELETED_AT_ONCE = 10_000

_RINGS = """
SELECT oldest, ARRAY(SELECT value FROM slots WHERE view = $1 AND generation = $2 AND entity = ANY($3) ORDER BY written)
FROM views WHERE view = $1
"""
_HOLD = """
INSERT INTO positions (view, partition, next) VALUES ($1, $2, 0)
ON CONFLICT (view, partition) DO UPDATE SET next = positions.next RETURNING next
"""
_FORGET = """
DELETE FROM slots USING unnest($2::bigint[], $3::bytea[]) AS gone (generation, entity)
WHERE slots.view = $1 AND slots.generation = gone.generation AND slots.entity = gone.entity
"""
_PUT = """
INSERT INTO slots (view, generation, entity, index, slot, written, value)
SELECT $1, * FROM unnest($2::bigint[], $3::bytea[], $4::int[], $5::bigint[], $6::bigint[], $7::bytea[])
ON CONFLICT (view, generation, entity, index)
DO UPDATE SET slot = excluded.slot, written = excluded.written, value = excluded.value
"""
_DELETE = """
DELETE FROM slots WHERE ctid = ANY(ARRAY(SELECT ctid FROM slots WHERE view = $1 AND generation < $2 LIMIT $3))
"""


_BEGUN_AGAIN = "DELETE FROM progress WHERE view = $1 AND generation = $2 AND partition = $3"
_MOVED_ON = """
INSERT INTO progress (view, generation, partition, value) VALUES ($1, $2, $3, $4)
ON CONFLICT (view, generation, partition) DO UPDATE SET value = excluded.value
"""


class Undone(TrimtabError):
    """PostgreSQL has less of a topic than this process has written to it: it is another, or was put back."""

    def __init__(self, view: str, partition: int, held: int, written: int) -> None:
        super().__init__(
            f"PostgreSQL holds features.{view}/{partition} up to offset {held}, and had it up to {written}: "
            "this process ends, and begins again from what is there"
        )


@dataclass(frozen=True, slots=True)
class Found:
    """What is there of a view."""

    next: Mapping[int, int]
    """By partition, the offset from which on its topic has not been written yet."""
    progress: Mapping[int, Mapping[int, Progress]]
    """By generation and partition, how far the fold has come."""


class SlotStore:
    """The slots of all views, in the feature store's schema."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._written: dict[tuple[str, int], int] = {}

    async def open(self, view: str) -> Found:
        """Return what is there of a view, and make a place for it if that is nothing.

        Raises:
            Unavailable: PostgreSQL is away.
        """
        async with self._connection(_ANSWER_S) as connection, connection.transaction():
            await connection.execute("INSERT INTO views (view) VALUES ($1) ON CONFLICT DO NOTHING", view)
            # The positions come first: what is read after them holds at least as much as they say.
            positions = await connection.fetch("SELECT partition, next FROM positions WHERE view = $1", view)
            rows = await connection.fetch(
                "SELECT generation, partition, value FROM progress WHERE view = $1", view
            )
        progress: dict[int, dict[int, Progress]] = {}
        for generation, partition, value in rows:
            progress.setdefault(generation, {})[partition] = featurelog.read_progress(value)
        return Found(dict(map(tuple, positions)), progress)

    async def rings(self, view: str, generation: int, entities: Sequence[str]) -> Sequence[bytes]:
        """Return the slots of some entities, as the topic has them, the newest of a place in the ring last.

        Raises:
            NotRead: the generation is gone, and whoever asks will hear of the next.
            Unavailable: PostgreSQL is away.
        """
        names = list(map(_name, entities))
        async with self._connection(_ANSWER_S) as connection:
            row = await connection.fetchrow(_RINGS, view, generation, names)
        if row is None or row[0] > generation:
            raise NotRead(view)
        found: Sequence[bytes] = row[1]
        return found

    async def write(self, view: str, partition: int, records: Sequence[Any]) -> None:
        """Take in records of a partition of a view's topic, in order; those that are here already change nothing.

        Raises:
            Undone: PostgreSQL has lost what was here.
            Unavailable: PostgreSQL is away.
        """
        place, end = (view, partition), records[-1].offset + 1
        async with self._connection(_WRITE_S) as connection, connection.transaction():
            held = await connection.fetchval(_HOLD, view, partition)
            if held < self._written.get(place, 0):
                raise Undone(view, partition, held, self._written[place])
            if held < end:
                changes = _Changes.of([each for each in records if each.offset >= held])
                await changes.write(connection, view, partition)
                await connection.execute(
                    "UPDATE positions SET next = $3 WHERE view = $1 AND partition = $2", view, partition, end
                )
        self._written[place] = end

    async def keep(self, view: str, generation: int) -> None:
        """Delete the generations of a view before one.

        Raises:
            Unavailable: PostgreSQL is away.
        """
        async with self._connection(_WRITE_S) as connection:
            await connection.execute(
                "UPDATE views SET oldest = $2 WHERE view = $1 AND oldest < $2", view, generation
            )
            await connection.execute(
                "DELETE FROM progress WHERE view = $1 AND generation < $2", view, generation
            )
            while await connection.execute(_DELETE, view, generation, _DELETED_AT_ONCE) != "DELETE 0":
                pass

    @asynccontextmanager
    async def _connection(self, within_s: float) -> AsyncIterator[Connection]:
        with outages():
            async with asyncio.timeout(within_s), self._pool.acquire() as connection:
                yield connection


@dataclass(slots=True)
class _Changes:
    """What some records come to: the last of each key, in columns of `slots`."""

    slots: dict[tuple[int, bytes], dict[int, tuple[int, int, bytes]]] = field(default_factory=dict)
    """Of generation and entity, by index: slot, offset and value."""
    forgotten: set[tuple[int, bytes]] = field(default_factory=set)
    progress: dict[int, bytes | None] = field(default_factory=dict)
    """By generation; None where it is begun once more."""

    @classmethod
    def of(cls, records: Sequence[Any]) -> "_Changes":
        """Read records; one that cannot be read changes nothing, and whoever answers from it says so."""
        done = cls()
        for record in records:
            with suppress(msgspec.DecodeError, DecodeError):
                done._take(featurelog.parse_key(record.key), record)
        return done

    def _take(self, key: featurelog.Key, record: Any) -> None:
        if key.entity is None:
            if record.value is not None:
                featurelog.read_progress(record.value)
            self.progress[key.generation] = record.value
            return
        owner = (key.generation, _name(key.entity))
        if record.value is None:
            self.slots.pop(owner, None)
            self.forgotten.add(owner)
        else:
            slot = featurelog.read_slot(record.value)
            self.slots.setdefault(owner, {})[key.index] = (slot.slot, record.offset, record.value)

    async def write(self, connection: Connection, view: str, partition: int) -> None:
        if self.forgotten:
            await connection.execute(_FORGET, view, *map(list, zip(*self.forgotten, strict=True)))
        rows = [(*owner, index, *slot) for owner, ring in self.slots.items() for index, slot in ring.items()]
        if rows:
            await connection.execute(_PUT, view, *map(list, zip(*rows, strict=True)))
        for generation, value in self.progress.items():
            if value is None:
                await connection.execute(_BEGUN_AGAIN, view, generation, partition)
            else:
                await connection.execute(_MOVED_ON, view, generation, partition, value)


def _name(entity: str) -> bytes:
    """Return what an entity is called in a key."""
    name = entity.encode()
    return name if len(name) <= _LONGEST else b"\x00" + sha256(name).digest()
