"""How a reference table's history lies on its topic, tables.<table>.

A record holds what one key is since one time, or how the newest load went. All records
of a table lie in one partition, and those of a load end with the load's own: who has
read that has read what it brought.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from trimtab_contracts import topics
from trimtab_contracts.ingestion.v1.ingestion_pb2 import TableLoad, TableRecord, TableRow
from trimtab_core.lookup import Change, History, Version

from trimtab_runtime.records import Outgoing


class Key(msgspec.Struct, frozen=True, array_like=True):
    """What a record's key says; key None is the newest load's."""

    key: str | None
    since_ms: int


_encode = msgspec.json.Encoder().encode
_decode_key = msgspec.json.Decoder(Key).decode
_decode_row = msgspec.json.Decoder(dict[str, Any]).decode
_LOAD_KEY = _encode(Key(None, 0))


def change_record(table: str, change: Change) -> Outgoing:
    """Return the record that holds a change of a table's history."""
    row = "" if change.version.row is None else _encode(change.version.row).decode()
    record = TableRecord(row=TableRow(row=row, brings=sorted(change.version.brings)))
    key = _encode(Key(change.key, change.since_ms))
    return Outgoing(topics.TABLES.named(table).name, key, record.SerializeToString(), [], 0)


def load_record(table: str, load: TableLoad) -> Outgoing:
    """Return the record that holds how the newest load of a table went."""
    value = TableRecord(load=load).SerializeToString()
    return Outgoing(topics.TABLES.named(table).name, _LOAD_KEY, value, [], 0)


def apply(history: History, records: Iterable[Any]) -> TableLoad | None:
    """Take raw records of a table's topic into `history`, and return the newest load's among them.

    Raises:
        ValueError, google.protobuf.message.DecodeError: one of them is no such record.
    """
    load = None
    for record in records:
        place, message = _decode_key(record.key), TableRecord.FromString(record.value)
        if place.key is None:
            load = message.load
            continue
        row = _decode_row(message.row.row) if message.row.row else None
        version = Version(row, frozenset(message.row.brings))
        history.apply(Change(place.key, place.since_ms, version))
    return load
