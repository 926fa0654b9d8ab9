"""This process's own copy of what it follows, on disk: LMDB under the state directory.

It holds the newest record of every key of `specs`, `deployments` and `features.*`,
and the offset up to which each partition is in it. Both are written in one
transaction, so a copy never claims to hold what it does not; a restart reads on from
there, and with Kafka away it is all that is needed. Writing waits for the disk: what
is wanted is written as it is heard, features once a second; what a crash takes of the
last second, Kafka still has.

Requests never read it: they are answered from memory, which is rebuilt from here at
the start. `put` and `save` belong to the event loop's thread.
"""

import asyncio
import hashlib
import logging
import struct
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple, Self

import lmdb
import msgspec
from trimtab_runtime.errors import Unavailable

log = logging.getLogger(__name__)

_OFFSET = struct.Struct("<q")
_OFFSETS, _RECORDS = b"offsets", b"records"


class Stored(NamedTuple):
    """A record as it was on its topic, as far as anyone here reads it."""

    topic: str
    partition: int
    key: bytes
    value: bytes
    traceparent: str | None = None


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Stored).decode


_Changes = dict[tuple[bytes, bytes], bytes | None]
"""By database and key; None deletes."""


class Mirror:
    """A compacted copy of topics, with offsets."""

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        """Open the copy in `directory`, or begin one.

        Raises:
            Unavailable: the files there cannot be opened.
        """
        directory.mkdir(parents=True, exist_ok=True)
        try:
            self._store = lmdb.open(str(directory), map_size=limit_bytes, max_dbs=2)
            self._databases = {name: self._store.open_db(name) for name in (_OFFSETS, _RECORDS)}
        except lmdb.Error as error:
            raise Unavailable(
                f"the local copy in {directory} cannot be opened: {error}; delete it"
            ) from error
        self._pending: _Changes = {}
        self._since_s = 0.0
        """When the first of what is pending was put, on the clock of `monotonic`."""
        self._ready: deque[tuple[float, _Changes]] = deque()
        """What is not on disk yet, in order, with the time of its first; whoever holds the lock writes all of it."""
        self._writing = threading.Lock()
        self._closed = False
        """Whether it is kept no further."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        with self._writing:
            self._store.close()

    def put(self, topic: str, partition: int, records: Sequence[Any]) -> None:
        """Take raw records, in order; they are kept once `save` has returned."""
        if self._closed:
            return
        if not self._pending:
            self._since_s = monotonic()
        for record in keyed(records):
            place = (_RECORDS, _place(topic, record.key))
            if record.value is None:
                self._pending[place] = None
            else:
                stored = Stored(topic, partition, record.key, record.value, traceparent_of(record))
                self._pending[place] = _pack(stored)
        self._pending[_OFFSETS, f"{topic}/{partition}".encode()] = _OFFSET.pack(records[-1].offset + 1)

    def begin_with(self, records: Sequence[Stored]) -> None:
        """Take records that come from elsewhere than their topics, which are read from their beginnings all the same.

        Raises:
            Unavailable: there is no room for them.
        """
        self._flush()
        with self._writing:
            self._write_one({(_RECORDS, _place(each.topic, each.key)): _pack(each) for each in records})
        if self._closed:
            raise Unavailable(
                f"the local copy has no room for {len(records)} records: free some, or raise TRIMTAB_SERVING_MIRROR_LIMIT_MB"
            )

    async def save(self) -> None:
        """Write what was put; on return it survives a crash of the machine."""
        if self._pending:
            self._make_ready()
            await asyncio.to_thread(self._write)

    def behind_s(self) -> float:
        """Return for how many seconds the copy has not held all that was put; 0 when it holds everything."""
        ready = tuple(self._ready)
        if not ready and not self._pending:
            return 0.0
        return monotonic() - (ready[0][0] if ready else self._since_s)

    def records(self, topic: str) -> list[Stored]:
        """Return the newest record of each key of a topic."""
        self._flush()
        prefix = topic.encode() + b"\0"
        found = []
        with self._store.begin() as transaction, transaction.cursor(self._databases[_RECORDS]) as cursor:
            at_one = cursor.set_range(prefix)
            while at_one and cursor.key().startswith(prefix):
                found.append(_unpack(cursor.value()))
                at_one = cursor.next()
        return found

    def offsets(self) -> Mapping[tuple[str, int], int]:
        """Return where each partition is to be read on from."""
        with self._store.begin() as transaction, transaction.cursor(self._databases[_OFFSETS]) as cursor:
            found = {}
            for key, value in cursor:
                topic, _, partition = key.decode().rpartition("/")
                found[topic, int(partition)] = _OFFSET.unpack(value)[0]
            return found

    def _flush(self) -> None:
        self._make_ready()
        self._write()

    def _make_ready(self) -> None:
        if self._pending:
            self._ready.append((self._since_s, self._pending))
            self._pending = {}

    def _write(self) -> None:
        with self._writing:
            while self._ready and not self._closed:
                self._write_one(self._ready[0][1])
                if not self._closed:
                    self._ready.popleft()

    def _write_one(self, changes: _Changes) -> None:
        try:
            with self._store.begin(write=True) as transaction:
                for (name, key), value in changes.items():
                    if value is None:
                        transaction.delete(key, db=self._databases[name])
                    else:
                        transaction.put(key, value, db=self._databases[name])
        except lmdb.Error as error:
            self._closed = True  # it stays what it is, whole and ageing; a restart reads on from its offsets
            log.error("the local copy is kept no further, make room for it and restart: %s", error)


def _place(topic: str, key: bytes) -> bytes:
    """Return the key of a record here: short, whatever the length of its own."""
    return topic.encode() + b"\0" + hashlib.blake2b(key, digest_size=16).digest()


def keyed(records: Sequence[Any]) -> list[Any]:
    """Return the records that have a key: of a compacted topic, no others mean anything."""
    return [record for record in records if record.key is not None]


def traceparent_of(record: Any) -> str | None:
    """Return the trace that a raw record belongs to."""
    return next((value.decode() for name, value in record.headers if name == "traceparent"), None)
