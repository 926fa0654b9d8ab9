"""What becomes of Protobuf records: every type, presence, messages of a file, imports, and bytes that are none."""

import base64
import json
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from trimtab_formats.errors import BadSchema, Malformed
from trimtab_formats.protobuf import compile_framed, compile_message
from trimtab_formats.protoc import ProtoFile, compile_files
from trimtab_formats.schemas import Reference, compile_schema

MONEY = 'syntax = "proto3"; package common; message Money { string currency = 1; int64 units = 2; }'
ORDER = """
syntax = "proto3";
package shop;
import "common/money.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
enum Kind { NONE = 0; DAY = 1; }
message Other { int32 x = 1; }
message Order {
  map<string, int64> counts = 1;
  message Line { string sku = 1; message Part { bool whole = 1; } }
  string id = 2;
  google.protobuf.Timestamp at = 3;
  double amount = 4;
  optional double tip = 5;
  Kind kind = 6;
  google.protobuf.StringValue note = 7;
  common.Money fare = 8;
  repeated Kind kinds = 9;
  oneof pay { string cash = 10; int32 card = 11; }
  bytes raw = 12;
  Order before = 13;
  map<bool, common.Money> by_flag = 14;
  google.protobuf.Struct free = 15;
  google.protobuf.Duration took = 16;
  repeated Line lines = 17;
  uint64 big = 18;
  Nothing nothing = 19;
}
message Nothing {}
"""


@pytest.fixture(scope="module")
def file() -> ProtoFile:
    return compile_files({"common/money.proto": MONEY}, ORDER)


def message(file: ProtoFile, name: str = "shop.Order", **fields: Any) -> Message:
    made: Message = GetMessageClass(file.pool.FindMessageTypeByName(name))(**fields)
    return made


def read(file: ProtoFile, **fields: Any) -> Any:
    body = message(file, **fields).SerializeToString()
    return json.loads(compile_message(file, "shop.Order").decode(body))


EMPTY = {
    "id": "",
    "amount": 0,
    "kind": "NONE",
    "kinds": [],
    "raw": "",
    "big": 0,
    "counts": {},
    "by_flag": {},
    "lines": [],
}


@pytest.mark.parametrize(
    ("fields", "becomes"),
    [
        ({}, {}),
        ({"amount": 1.5, "big": 2**64 - 1}, {"amount": 1.5, "big": 2**64 - 1}),
        ({"amount": float("nan")}, {"amount": None}),
        ({"at": {"seconds": 1_700_000_000, "nanos": 123_456_789}}, {"at": "2023-11-14T22:13:20.123456Z"}),
        ({"took": {"seconds": 1, "nanos": 500_000_000}}, {"took": 1.5}),
        ({"tip": 0}, {"tip": 0}),
        ({"note": {"value": ""}}, {"note": ""}),
        ({"kind": 1, "kinds": [1, 0, 7]}, {"kind": "DAY", "kinds": ["DAY", "NONE", 7]}),
        ({"card": 0}, {"card": 0}),
        ({"raw": b"\0\xff"}, {"raw": "AP8="}),
        ({"fare": {"units": 3}}, {"fare_currency": "", "fare_units": 3}),
        ({"counts": {"a": 2}}, {"counts": {"a": 2}}),
        ({"by_flag": {True: {"units": 4}}}, {"by_flag": {"true": {"currency": "", "units": 4}}}),
        ({"free": {"a": [1, None, "x"]}}, {"free": {"a": [1, None, "x"]}}),
        ({"lines": [{"sku": "s"}]}, {"lines": [{"sku": "s"}]}),
        ({"before": {"id": "b"}}, {"before": {**EMPTY, "id": "b"}}),
        ({"nothing": {}}, {"nothing": {}}),
    ],
)
def test_each_type_becomes_what_json_has_and_what_was_not_set_is_missing(
    file: ProtoFile, fields: dict[str, Any], becomes: dict[str, Any]
) -> None:
    assert read(file, **fields) == EMPTY | becomes


def test_a_record_says_which_message_of_its_file_it_is(file: ProtoFile) -> None:
    decoder = compile_framed(file)

    def decode(path: bytes, name: str, **fields: Any) -> Any:
        return json.loads(decoder.decode(path + message(file, name, **fields).SerializeToString()))

    assert decode(b"\0", "shop.Other", x=3) == decode(b"\x02\0", "shop.Other", x=3) == {"x": 3}
    assert decode(b"\x02\x02", "shop.Order", id="a")["id"] == "a"
    # The entries of a map, which only the compiler knows as messages, are counted by some clients.
    for line in (b"\x04\x02\x02", b"\x04\x02\0"):
        assert decode(line, "shop.Order.Line", sku="s") == {"sku": "s"}
    assert decode(b"\x06\x02\x02\0", "shop.Order.Line.Part", whole=True) == {"whole": True}
    for path in (b"\x02\x08", b"\x04\0\0", b"\x04\x02\x06", b"\x02\x01"):
        with pytest.raises(Malformed, match="the schema has no message at"):
            decoder.decode(path)


def test_a_schema_may_be_a_descriptor_as_some_clients_register_it(file: ProtoFile) -> None:
    described = compile_files({}, MONEY).proto
    described.name = "money-as-its-client-calls-it.proto"
    top = base64.b64encode(file.proto.SerializeToString()).decode()
    below = base64.b64encode(described.SerializeToString()).decode()
    body = message(file, id="a", fare={"units": 3}).SerializeToString()

    for text, money in ((top, MONEY), (ORDER, below), (top, below)):
        decoder = compile_schema(
            "protobuf", text, [Reference("common/money.proto", money)], message="shop.Order"
        )
        assert json.loads(decoder.decode(body))["fare_units"] == 3


def test_bytes_that_are_no_record_of_the_schema_are_malformed(file: ProtoFile) -> None:
    decoder = compile_message(file, "shop.Order")
    whole = message(file, id="abc", at={"seconds": 1}, amount=2.0).SerializeToString()
    too_late = message(file, at={"seconds": 2**60}).SerializeToString()

    for body in (whole[:-1], b"\xff\xff", b"\x12\x02\xff\xff", too_late):
        with pytest.raises(Malformed):
            decoder.decode(body)


def test_an_old_record_is_read_by_a_schema_that_has_grown_and_a_new_one_by_the_old() -> None:
    old = 'syntax = "proto3"; message Ride { string id = 1; }'
    new = 'syntax = "proto3"; message Ride { string id = 1; optional int32 zone = 2; }'
    body = message(compile_files({}, new), "Ride", id="a", zone=3).SerializeToString()

    assert json.loads(compile_schema("protobuf", old, message="Ride").decode(body)) == {"id": "a"}
    assert json.loads(compile_schema("protobuf", new, message="Ride").decode(b"\x0a\x01a")) == {"id": "a"}


def test_two_schemas_may_define_the_same_name_differently() -> None:
    one, other = (
        compile_schema("protobuf", f'syntax = "proto3"; message Ride {{ {field} = 1; }}', message="Ride")
        for field in ("int32 a", "int32 b")
    )

    assert (one.decode(b"\x08\1"), other.decode(b"\x08\1")) == (b'{"a":1}', b'{"b":1}')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("message", r"^line 1:8: Expected message name.$"),
        ('syntax = "proto3"; message A { B b = 1; }', r'line 1:32: "B" is not defined'),
        ('syntax = "proto3"; import "gone.proto"; message A {}', r"gone.proto: File not found"),
        ('syntax = "proto3"; message B {}', "it has no message 'A'"),
        (
            'syntax = "proto3"; message A { B b = 1; int32 b_c = 2; } message B { int32 c = 1; }',
            "two of its fields are called 'b_c' in a row",
        ),
    ],
)
def test_a_schema_that_makes_no_rows_is_refused_with_why(text: str, said: str) -> None:
    with pytest.raises(BadSchema, match=said):
        compile_schema("protobuf", text, message="A")


def test_an_import_is_no_folder_of_another() -> None:
    for paths in (("a.proto", "a.proto/b.proto"), ("a.proto/b.proto", "a.proto")):
        with pytest.raises(BadSchema, match="and another import by a path within it"):
            compile_schema("protobuf", ORDER, [Reference(path, MONEY) for path in paths])


@pytest.mark.parametrize(
    "path", ["../up.proto", "/etc/up.proto", "", "a/../../up.proto", "new\nline.proto", "x" * 300]
)
def test_an_import_lies_nowhere_but_beside_the_schema(path: str) -> None:
    with pytest.raises(BadSchema, match="which is no path below its own"):
        compile_schema("protobuf", ORDER, [Reference(path, MONEY)])
