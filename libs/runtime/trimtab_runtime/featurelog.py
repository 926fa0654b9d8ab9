"""How a feature view's online state lies on its topic, features.<view>.

A record holds one slot of one entity's ring, or how far the fold of its partition
has come. The key names the place and the value the slot, so that the newest record
of a key is all there is to know: a reader may start anywhere before it, and may read
it twice. An entity lives in one partition, the same in keyed.<view> and here.
"""

from typing import NamedTuple
from zlib import crc32

import msgspec


class Key(NamedTuple):
    """What a record's key says: whose slot it is; entity None is the fold's progress."""

    generation: int
    entity: str | None
    index: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Key).decode


def key(generation: int, entity: str | None, index: int) -> bytes:
    """Return the key of a slot, or of the fold's progress where `entity` is None."""
    return _encode((generation, entity, index))


def parse_key(raw: bytes) -> Key:
    """Return what `key` wrote.

    Raises:
        msgspec.DecodeError: the bytes are no such key.
    """
    return _decode(raw)


def partition_of(entity: str, partitions: int) -> int:
    """Return the partition in which an entity lives."""
    return crc32(entity.encode()) % partitions
