"""This process's own copy of what it follows, on disk: LMDB under the state directory.

It holds the newest record of every key of `specs`, `deployments` and `features.*`,
and the offset up to which each partition is in it. Both are written in one
transaction, so a copy never claims to hold what it does not; a restart reads on from
there, and with Kafka away it is all that is needed. Writing waits for the disk and is
done once a second; what a crash takes of the last second, Kafka still has.

Requests never read it: they are answered from memory, which is rebuilt from here at
the start. `put` and `save` belong to the event loop's thread.
"""

import asyncio
import hashlib
import logging
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
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
            raise Unavailable(f"the local copy in {directory} cannot be opened: {error}; delete it") from error
        self._pending: dict[tuple[bytes, bytes], bytes | None] = {}
        self._writing = threading.Lock()
        self._full = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write(self._take())
        with self._writing:
            self._store.close()

    def put(self, topic: str, partition: int, records: Sequence[Any]) -> None:
        """Take raw records, in order; they are kept once `save` has returned."""
        if self._full:
            return
        for record in records:
            place = (_RECORDS, _place(topic, record.key))
            if record.value is None:
                self._pending[place] = None
            else:
                trace = next((value.decode() for name, value in record.headers if name == "traceparent"), None)
                self._pending[place] = _pack(Stored(topic, partition, record.key, record.value, trace))
        self._pending[_OFFSETS, f"{topic}/{partition}".encode()] = _OFFSET.pack(records[-1].offset + 1)

    async def save(self) -> None:
        """Write what was put; on return it survives a crash of the machine."""
        if pending := self._take():
            await asyncio.to_thread(self._write, pending)

    def _take(self) -> dict[tuple[bytes, bytes], bytes | None]:
        pending, self._pending = self._pending, {}
        return pending

    def _write(self, pending: Mapping[tuple[bytes, bytes], bytes | None]) -> None:
        try:
            with self._writing, self._store.begin(write=True) as transaction:
                for (name, key), value in pending.items():
                    if value is None:
                        transaction.delete(key, db=self._databases[name])
                    else:
                        transaction.put(key, value, db=self._databases[name])
        except lmdb.MapFullError:
            self._full = True  # it stays what it is, whole and ageing; a restart reads on from its offsets
            log.error("the local copy is full and kept no further: raise TRIMTAB_SERVING_MIRROR_LIMIT_MB and restart")

    def records(self, topic: str) -> Iterator[Stored]:
        """Yield the newest record of each key of a topic, as last committed."""
        prefix = topic.encode() + b"\0"
        with self._store.begin() as transaction, transaction.cursor(self._databases[_RECORDS]) as cursor:
            if not cursor.set_range(prefix):
                return
            for key, value in cursor:
                if not key.startswith(prefix):
                    return
                yield _unpack(value)

    def offsets(self) -> Mapping[tuple[str, int], int]:
        """Return where each partition is to be read on from."""
        with self._store.begin() as transaction, transaction.cursor(self._databases[_OFFSETS]) as cursor:
            found = {}
            for key, value in cursor:
                topic, _, partition = key.decode().rpartition("/")
                found[topic, int(partition)] = _OFFSET.unpack(value)[0]
            return found


def _place(topic: str, key: bytes) -> bytes:
    """Return the key of a record here: short, whatever the length of its own."""
    return topic.encode() + b"\0" + hashlib.blake2b(key, digest_size=16).digest()
