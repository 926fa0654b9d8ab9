"""What becomes of Avro records: every type, the writer's schema, and bytes that are none."""

import json
import uuid
from datetime import UTC, date, datetime, time
from decimal import Decimal
from io import BytesIO
from typing import Any

import fastavro
import pytest
from trimtab_formats.errors import BadSchema, Malformed
from trimtab_formats.schemas import Decoder, Reference, compile_schema

AT = datetime(2023, 11, 14, 22, 13, 20, 123456, UTC)


def record(*fields: Any, name: str = "Ride") -> dict[str, Any]:
    """The schema of a record; a field is a pair of name and type."""
    return {"type": "record", "name": name, "fields": [{"name": name, "type": kind} for name, kind in fields]}


def logical(kind: str, of: str, **rest: Any) -> dict[str, Any]:
    return {"type": of, "logicalType": kind, **rest}


def avro(schema: Any, row: dict[str, Any]) -> bytes:
    stream = BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), row)
    return stream.getvalue()


def decoder(schema: Any, *references: Any) -> Decoder:
    named = [Reference(each["name"], json.dumps(each)) for each in references]
    return compile_schema("avro", json.dumps(schema), named)


def read(schema: Any, row: dict[str, Any]) -> Any:
    return json.loads(decoder(schema).decode(avro(schema, row)))


PLACE = record(("city", "string"), ("zone", ["null", "int"]), name="Place")


@pytest.mark.parametrize(
    ("kind", "value", "becomes"),
    [
        ("null", None, None),
        ("boolean", True, True),
        ("int", -3, -3),
        ("long", 2**62, 2**62),
        ("double", 1.5, 1.5),
        ("float", 0.5, 0.5),
        ("double", float("nan"), None),
        ("double", float("-inf"), None),
        ("string", "Zürich", "Zürich"),
        ("bytes", b"\0\xff", "AP8="),
        ({"type": "fixed", "name": "F", "size": 2}, b"ab", "YWI="),
        ({"type": "enum", "name": "E", "symbols": ["DAY", "NIGHT"]}, "NIGHT", "NIGHT"),
        (["null", "int"], None, None),
        (["null", "int"], 7, 7),
        ({"type": "array", "items": PLACE}, [{"city": "a", "zone": 1}], [{"city": "a", "zone": 1}]),
        ({"type": "map", "values": "int"}, {"a": 1}, {"a": 1}),
        (logical("timestamp-millis", "long"), AT, "2023-11-14T22:13:20.123000Z"),
        (logical("timestamp-micros", "long"), AT, "2023-11-14T22:13:20.123456Z"),
        (logical("local-timestamp-millis", "long"), AT.replace(tzinfo=None), "2023-11-14T22:13:20.123000"),
        (logical("date", "int"), date(2023, 11, 14), "2023-11-14"),
        (logical("time-millis", "int"), time(22, 13), "22:13:00"),
        (logical("decimal", "bytes", precision=6, scale=2), Decimal("1234.50"), 1234.5),
        (logical("uuid", "string"), uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (logical("nobodys-own", "string"), "as it is", "as it is"),
    ],
)
def test_each_type_becomes_what_json_has(kind: Any, value: Any, becomes: Any) -> None:
    assert read(record(("x", kind)), {"x": value}) == {"x": becomes}


def test_a_record_in_a_record_gives_its_fields_to_the_row() -> None:
    schema = record(("id", "int"), ("from", PLACE), ("to", ["null", "Place"]), ("via", ["Place", "null"]))
    place = {"city": "Zürich", "zone": None}

    row = read(schema, {"id": 1, "from": place, "to": None, "via": {"city": "Bern", "zone": 3}})

    assert row == {"id": 1, "from_city": "Zürich", "from_zone": None, "via_city": "Bern", "via_zone": 3}
    assert decoder(schema).names == {
        *("id", "from_city", "from_zone", "to_city", "to_zone", "via_city", "via_zone"),
    }


def test_a_record_within_itself_or_beside_another_type_stays_an_object() -> None:
    inner = {"id": 2, "next": None, "either": "text"}
    schema = record(("id", "int"), ("next", ["null", "Ride"]), ("either", ["string", PLACE]))
    row = {"id": 1, "next": inner, "either": {"city": "a", "zone": 1}}

    assert read(schema, row) == row


def test_types_of_other_schemas_are_found_by_name() -> None:
    schema = record(("at", "Place"), ("other", {"type": "array", "items": "Place"}))
    place = {"city": "a", "zone": 1}
    body = avro(
        record(("at", PLACE), ("other", {"type": "array", "items": "Place"})), {"at": place, "other": []}
    )

    assert json.loads(decoder(schema, PLACE).decode(body)) == {"at_city": "a", "at_zone": 1, "other": []}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "JSONDecodeError: Expecting property name"),
        ("3", "TypeError"),
        ('"string"', "it is none of a record"),
        ("[]", "it is none of a record"),
        (json.dumps(record(("x", "Nope"))), "UnknownType: Nope"),
        (json.dumps(record(("x", "int"), ("x", "int"))), "two of its fields are called 'x'"),
        (json.dumps(record(("x", PLACE), ("x_zone", "int"))), "two of its fields are called 'x_zone'"),
    ],
)
def test_a_schema_that_makes_no_rows_is_refused_with_why(text: str, said: str) -> None:
    with pytest.raises(BadSchema, match=said):
        compile_schema("avro", text)


SCHEMA = record(("id", "string"), ("x", "double"), ("at", logical("timestamp-millis", "long")))
BODY = avro(SCHEMA, {"id": "ab", "x": 1.0, "at": AT})


@pytest.mark.parametrize(
    "body",
    [
        *(BODY[:size] for size in range(len(BODY))),
        BODY + b"x",
        b"\xff" * 40,
        b"\x02\xff" + BODY[3:],
        BODY[:-6] + b"\xfe" * 8 + b"\x01",
    ],
)
def test_bytes_that_are_no_record_of_the_schema_are_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        decoder(SCHEMA).decode(body)


def test_records_are_read_by_the_schema_they_were_written_with() -> None:
    grown = record(("id", "string"), ("note", ["null", "string"]), ("x", "double"))

    assert read(grown, {"id": "a", "note": "new", "x": 1.0}) == {"id": "a", "note": "new", "x": 1.0}
    with pytest.raises(Malformed):
        decoder(SCHEMA).decode(avro(grown, {"id": "a", "note": "new", "x": 1.0}))
