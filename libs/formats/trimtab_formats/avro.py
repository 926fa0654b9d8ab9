"""Avro records, in binary and by the schema they were written with.

What an Avro library makes of a type is what msgspec writes as JSON, logical types
included; only records within records are looked at here.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from fastavro import parse_schema, schemaless_reader

from trimtab_formats.errors import BadSchema, Malformed
from trimtab_formats.rows import below, distinct, to_json

_RECORDS: Final = ("record", "error")
Nested = Mapping[str, "Nested"]
"""The fields of a record that are records themselves."""


@dataclass(frozen=True, slots=True)
class AvroDecoder:
    """Reads the records of one schema."""

    names: frozenset[str]
    schema: Any
    nested: Nested

    def decode(self, body: bytes) -> bytes:
        """Return the JSON row that a record is."""
        stream = BytesIO(body)
        try:
            row: Any = schemaless_reader(stream, self.schema, None)
            if self.nested:
                row = _flat(row, self.nested, "", {})
            made = to_json(row)
        except Exception as error:  # of what bytes can do to it, fastavro promises nothing
            raise Malformed(
                f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            ) from error
        if stream.tell() != len(body):
            raise Malformed(f"{len(body) - stream.tell()} bytes are left after its last field")
        return made


def compile_avro(references: Sequence[str], text: str) -> AvroDecoder:
    """Return what reads the records of the schema in `text`; `references` are texts of types that it names.

    Raises:
        BadSchema: it is none of a record, or something in it is wrong.
    """
    named: dict[str, Any] = {}
    try:
        for each in references:
            parse_schema(json.loads(each), named)
        schema: Any = parse_schema(json.loads(text), named)
    except Exception as error:  # of what texts can do to it, fastavro promises nothing
        raise BadSchema(f"{type(error).__name__}: {error}") from error
    if not isinstance(schema, dict) or schema.get("type") not in _RECORDS:
        raise BadSchema("it is none of a record, and a row has fields")
    nested = _nested(schema, named, frozenset())
    return AvroDecoder(distinct(_names(schema, named, nested, "")), schema, nested)


def _nested(record: Any, named: Mapping[str, Any], within: frozenset[str]) -> Nested:
    """Return which fields of a record give theirs to the row."""
    within = within | {record["name"]}
    return {
        field["name"]: _nested(inner, named, within)
        for field in record["fields"]
        if (inner := _record_of(field["type"], named)) is not None and inner["name"] not in within
    }


def _names(record: Any, named: Mapping[str, Any], nested: Nested, prefix: str) -> Iterator[str]:
    for field in record["fields"]:
        name = prefix + field["name"]
        if field["name"] in nested:
            inner = _record_of(field["type"], named)
            yield from _names(inner, named, nested[field["name"]], below(name))
        else:
            yield name


def _record_of(kind: Any, named: Mapping[str, Any]) -> Any:
    """Return the record that a field's type is, null aside; None if it is another type, or may be one."""
    if isinstance(kind, list):
        others = [each for each in kind if each != "null"]
        return _record_of(others[0], named) if len(others) == 1 else None
    if isinstance(kind, str):
        kind = named.get(kind)
    return kind if isinstance(kind, dict) and kind.get("type") in _RECORDS else None


def _flat(row: Mapping[str, Any], nested: Nested, prefix: str, into: dict[str, Any]) -> dict[str, Any]:
    """Put the fields of a record into the row; those of one that is null are missing."""
    for name, value in row.items():
        if name not in nested:
            into[prefix + name] = value
        elif value is not None:
            _flat(value, nested[name], below(prefix + name), into)
    return into
