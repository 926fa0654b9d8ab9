"""The Confluent wire format: which schema of a schema registry a record was written by.

A zero byte, the schema's id as four bytes, big-endian, and the record. Of Protobuf, the
path to its message in the schema's file stands before the record (`read_path`).
"""

from trimtab_formats.errors import Malformed

MAGIC = 0
HEAD_BYTES = 5
_MOST_SHIFT = 28
_MOST_DEPTH = 100


def split(value: bytes) -> tuple[int, bytes]:
    """Return the schema's id, and what follows it.

    Raises:
        Malformed: no id stands there.
    """
    if len(value) < HEAD_BYTES:
        raise Malformed(f"it has {len(value)} bytes, and a schema's id needs {HEAD_BYTES}")
    if value[0] != MAGIC:
        raise Malformed(f"it begins with byte 0x{value[0]:02x}, and one with a schema's id begins with 0x00")
    schema_id = int.from_bytes(value[1:HEAD_BYTES], "big", signed=True)
    if schema_id < 0:
        raise Malformed(f"the id of its schema would be {schema_id}")
    return schema_id, value[HEAD_BYTES:]


def read_path(body: bytes) -> tuple[tuple[int, ...], bytes]:
    """Return the place of a record's message, an index for each level of nesting, and the record itself.

    Raises:
        Malformed: no such path stands there.
    """
    if body[:1] == b"\0":  # the first message of the file is most often meant, and written so
        return (0,), body[1:]
    depth, at = _zigzag(body, 0)
    if not 0 < depth <= _MOST_DEPTH:
        raise Malformed(f"its message is said to lie {depth} levels deep")
    path = []
    for _ in range(depth):
        index, at = _zigzag(body, at)
        path.append(index)
    return tuple(path), body[at:]


def _zigzag(body: bytes, at: int) -> tuple[int, int]:
    """Return the number that stands at a place, and the place after it."""
    number = shift = 0
    while True:
        if at >= len(body) or shift > _MOST_SHIFT:
            raise Malformed("it ends within the path to its message, or that is none")
        byte = body[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at
