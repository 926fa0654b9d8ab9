"""In which partition Kafka's producers put a key, for many keys at once.

It says what `aiokafka.partitioner.DefaultPartitioner` says of each: murmur2, as the
Java producer has it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SEED, _M = 0x9747B28C, np.uint32(0x5BD1E995)


def partitions_of(keys: Sequence[bytes], partitions: int) -> NDArray[np.int32]:
    """Return the partition of each key."""
    lengths = np.fromiter(map(len, keys), np.int64, len(keys))
    found = np.empty(len(keys), np.uint32)
    for length in np.unique(lengths).tolist():
        places = np.flatnonzero(lengths == length)
        found[places] = _murmur2(b"".join([keys[at] for at in places.tolist()]), len(places), length)
    return ((found & np.uint32(0x7FFFFFFF)) % np.uint32(partitions)).astype(np.int32)


def _murmur2(joined: bytes, count: int, length: int) -> NDArray[np.uint32]:
    """Return the hashes of `count` keys of one length."""
    keys = np.frombuffer(joined, np.uint8).reshape(count, length)
    whole = length - length % 4
    words = np.ascontiguousarray(keys[:, :whole]).view("<u4")
    found = np.full(count, _SEED ^ length, np.uint32)
    for at in range(words.shape[1]):
        word = words[:, at] * _M
        word ^= word >> np.uint32(24)
        found = found * _M ^ word * _M
    if whole < length:
        for at in range(whole, length):
            found ^= keys[:, at].astype(np.uint32) << np.uint32(8 * (at - whole))
        found *= _M
    found ^= found >> np.uint32(13)
    found *= _M
    return found ^ found >> np.uint32(15)
