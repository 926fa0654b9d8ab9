"""Records of any format as JSON: what each becomes, why it does not, and what is waited for."""

import json
import struct
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import fastavro
import pytest
from trimtab_contracts import topics
from trimtab_core.specs import Format, parse
from trimtab_formats.errors import BadSchema
from trimtab_formats.schemas import Reference
from trimtab_ingestion.consumers import Ingest
from trimtab_ingestion.reading import Schemas
from trimtab_ingestion.schemaregistry import Registered
from trimtab_ingestion.usecases import Contracts
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.records import IS_JSON, Outgoing
from trimtab_runtime.specbook import SpecBook

NOW = 1_700_000_000_000
FIELDS = [
    {"name": "id", "type": "string"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "x", "type": "double"},
]
AVRO = {"type": "record", "name": "Trip", "fields": FIELDS}
GROWN = {**AVRO, "fields": [{"name": "note", "type": ["null", "string"]}, *FIELDS]}
PROTO = 'syntax = "proto3"; message Trip { string id = 1; int64 at = 2; double x = 3; }'


FIELDS_OF_EVENT = {"id": {"type": "string"}, "at": {"type": "timestamp"}, "x": {"type": "number", "min": 0}}


class Registry:
    """A schema registry that is asked by id, and may be away."""

    def __init__(self) -> None:
        self.schemas: dict[int, Any] = {}
        self.asked: list[int] = []
        self.is_away = False

    def register(self, id: int, schema: Any, type: str = "AVRO", *references: Reference) -> None:
        text = schema if isinstance(schema, str) else json.dumps(schema)
        self.schemas[id] = Registered(type, text, references)

    async def schema(self, id: int) -> Registered | None:
        self.asked.append(id)
        if self.is_away:
            raise Unavailable("the schema registry is away")
        if isinstance(found := self.schemas.get(id), BadSchema):
            raise found
        return found


class Source:
    """A source of some format, with the worker of a partition."""

    def __init__(self, format: Any, registry: Any = None, **spec: Any) -> None:
        self.spec = {"key": "id", "event_time": "at", "lateness": "1m", "fields": FIELDS_OF_EVENT, **spec}
        self.book = SpecBook()
        self.generation = 0
        self.apply(format)
        self.worker = Ingest(self.book, Contracts(), Schemas(registry), nothing, "raw.trips", 0)
        self.offset = 0

    def apply(self, format: Any) -> None:
        self.generation += 1
        source = parse("Source", {"metadata": {"name": "trips"}, "spec": {**self.spec, "format": format}})
        self.book.put(source, self.generation)

    async def send(self, *values: Any) -> list[Outgoing]:
        batch = [value if isinstance(value, SimpleNamespace) else raw(value) for value in values]
        for record in batch:
            self.offset += 1
            record.offset = self.offset
        await self.worker.prepare(batch)
        return self.worker.process(batch)


async def nothing(topic: str, partition: int) -> Any:
    """Read a partition in which nothing lies."""
    return
    yield


def raw(value: bytes | None, *, key: str = "a", headers: Any = ()) -> SimpleNamespace:
    return SimpleNamespace(
        topic="raw.trips", partition=0, key=key.encode(), value=value, headers=tuple(headers), timestamp=NOW
    )


def avro(schema: Any = AVRO, **row: Any) -> bytes:
    stream = BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), {"id": "a", "at": NOW, "x": 1.5, **row})
    return stream.getvalue()


def proto(id: str = "a") -> bytes:
    at = NOW
    varint = bytearray()
    while at > 0x7F:
        varint.append(at & 0x7F | 0x80)
        at >>= 7
    body = b"\x0a" + bytes([len(id)]) + id.encode() + b"\x10" + bytes([*varint, at])
    return body + b"\x19" + struct.pack("<d", 1.5)


def framed(schema_id: int, body: bytes) -> bytes:
    return b"\0" + struct.pack(">i", schema_id) + body


def events(outputs: list[Outgoing]) -> list[Any]:
    return [json.loads(each.value or b"") for each in outputs if each.topic == "events.trips"]


def letters(outputs: list[Outgoing]) -> list[Any]:
    return [topics.DEADLETTER.decode(each.value or b"") for each in outputs if each.topic == "deadletter"]


def reasons(outputs: list[Outgoing]) -> list[tuple[str, str]]:
    return [(reason.code, reason.message) for letter in letters(outputs) for reason in letter.reasons]


EVENT = {"id": "a", "at": "2023-11-14T22:13:20Z", "x": 1.5}


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.register(7, AVRO)
    registry.register(8, GROWN)
    registry.register(9, PROTO, "PROTOBUF")
    return registry


@pytest.mark.parametrize(
    ("format", "value", "event"),
    [
        ({"type": "avro", "schema": json.dumps(AVRO)}, avro(), EVENT),
        ({"type": "protobuf", "schema": PROTO, "message": "Trip"}, proto(), {**EVENT, "at": NOW}),
        ("avro", framed(7, avro()), EVENT),
        ("protobuf", framed(9, b"\0" + proto()), {**EVENT, "at": NOW}),
        ("protobuf", framed(9, b"\x02\0" + proto()), {**EVENT, "at": NOW}),
    ],
)
async def test_a_record_of_each_format_is_the_row_that_it_says(
    registry: Registry, format: Any, value: bytes, event: dict[str, Any]
) -> None:
    assert events(await Source(format, registry).send(value)) == [event]


@pytest.mark.parametrize("format", ["json", "avro", {"type": "avro", "schema": json.dumps(AVRO)}, "protobuf"])
@pytest.mark.parametrize("said", [b"application/json", b"Application/JSON; charset=utf-8"])
async def test_a_record_that_says_it_is_json_is_json_and_no_registry_is_asked(
    format: Any, said: bytes
) -> None:
    payload = json.dumps(EVENT).encode()

    outputs = await Source(format).send(raw(payload, headers=[("content-type", said)]))

    assert [each.value for each in outputs if each.topic == "events.trips"] == [payload]


async def test_the_contract_judges_what_was_decoded(registry: Registry) -> None:
    outputs = await Source("avro", registry).send(
        framed(7, avro(x=-1.0)),
        raw(framed(7, avro()), key="b"),
        framed(7, avro(x=float("nan"))),
        framed(7, avro()),
    )

    assert [[code for code, _ in reasons([each])] for each in outputs if each.topic == "deadletter"] == [
        ["out_of_range"], ["wrong_key"], ["null_value"],
    ]  # fmt: skip
    assert events(outputs) == [EVENT]


async def test_what_cannot_be_decoded_is_a_dead_letter_with_its_bytes_and_its_neighbours_go_on(
    registry: Registry,
) -> None:
    good = framed(7, avro())
    bad = [
        good[:-1],
        good + b"x",
        b"",
        None,
        b"\0\0\0",
        json.dumps(EVENT).encode(),
        framed(-1, b""),
        framed(7, b""),
    ]

    outputs = await Source("avro", registry).send(good, *bad, good)

    assert events(outputs) == [EVENT, EVENT]
    assert [letter.payload for letter in letters(outputs)] == [each or b"" for each in bad]
    told = reasons(outputs)
    assert {code for code, _ in told} == {"malformed_record"}
    assert "is no Avro record of schema 7 (EOFError" in told[0][1]
    assert (
        "is no Avro record of schema 7 (1 bytes are left after its last field): mend the producer"
        in told[1][1]
    )
    assert "names no schema (it begins with byte 0x7b" in told[5][1]
    assert "if it is JSON say so by the header content-type: application/json" in told[5][1]


async def test_a_row_that_is_too_large_as_json_for_a_record_is_a_dead_letter() -> None:
    many = {**AVRO, "fields": [*FIELDS, {"name": "many", "type": {"type": "array", "items": "int"}}]}
    source = Source({"type": "avro", "schema": json.dumps(many)})
    value = avro(many, many=[1] * 2_200_000)

    outputs = await source.send(value, avro(many, many=[]))

    ((code, said),) = reasons(outputs)
    assert (code, len(events(outputs))) == ("malformed_record", 1)
    assert "bytes as JSON and a row may have 4194304: send a reference to what is large" in said
    assert letters(outputs)[0].payload == value


@pytest.mark.parametrize("format", ["json", {"type": "avro", "schema": json.dumps(AVRO)}])
async def test_a_row_in_json_that_is_too_large_for_a_record_is_a_dead_letter_wherever_it_comes_from(
    format: Any,
) -> None:
    most = json.dumps({**EVENT, "note": ""}).encode()
    value = most.replace(b'""', b'"' + b"x" * (topics.MOST_ROW_BYTES - len(most)) + b'"')
    larger = value.replace(b"xx", b"xxx", 1)
    source = Source(format, fields={**FIELDS_OF_EVENT, "note": {"type": "string", "nullable": True}})

    outputs = await source.send(*(raw(each, headers=[IS_JSON]) for each in (larger, value)))

    [letter] = letters(outputs)
    assert [(reason.code, reason.field) for reason in letter.reasons[:1]] == [("malformed_record", "")]
    assert letter.reasons[0].message == (
        f"the record {larger[:60]!r}… has 4194305 bytes as JSON and a row may have 4194304: send a reference to what is large"
    )
    assert [len(each["note"]) for each in events(outputs)] == [value.count(b"x") - 1]


async def test_bare_bytes_of_another_schema_are_a_dead_letter_too() -> None:
    for sent_as, called in (
        ({"type": "avro", "schema": json.dumps(AVRO)}, "Avro"),
        ({"type": "protobuf", "schema": PROTO, "message": "Trip"}, "Protobuf"),
    ):
        ((code, said),) = reasons(await Source(sent_as).send(b"\xff\xff"))

        assert code == "malformed_record"
        assert f"is no {called} record of the schema in the source's format (" in said


async def test_a_schema_that_cannot_be_had_for_good_makes_dead_letters(registry: Registry) -> None:
    registry.register(10, "{}", "JSON")
    registry.register(11, '"string"')
    registry.schemas[12] = BadSchema("it refers to 'x', which is not there")

    told = reasons(
        await Source("avro", registry).send(*[framed(number, b"") for number in (6, 9, 10, 11, 12)])
    )

    assert {code for code, _ in told} == {"unknown_schema"}
    for (_, message), said in zip(
        told,
        [
            "was written with schema 6, which the schema registry does not know: register it there, and replay",
            "schema 9, which is PROTOBUF where the source's format is avro",
            "schema 10, which is JSON where",
            "schema 11, which cannot be compiled (it is none of a record",
            "schema 12, which cannot be compiled (it refers to 'x', which is not there)",
        ],
        strict=True,
    ):
        assert said in message


async def test_a_letter_of_an_unknown_schema_is_let_in_when_it_is_replayed_after_the_schema_has_come(
    registry: Registry,
) -> None:
    source = Source("avro", registry)
    (letter,) = letters(await source.send(framed(20, avro())))

    registry.register(20, AVRO)
    again = raw(letter.payload, headers=[("ce_replayof", letter.id.encode())])

    assert events(await source.send(again)) == [EVENT]


async def test_a_letter_keeps_what_its_record_said_it_is(registry: Registry) -> None:
    source = Source("avro", registry)

    outputs = await source.send(
        raw(b"{}", headers=[IS_JSON]), framed(7, avro(x=-1.0)), raw(b"", headers=[("content-type", b"\xff")])
    )

    assert [letter.content_type for letter in letters(outputs)] == ["application/json", "", ""]


async def test_a_schema_is_asked_for_once_and_needed_no_more(registry: Registry) -> None:
    source = Source("avro", registry)
    await source.send(framed(7, avro()), framed(8, avro(GROWN, note="new")), framed(7, avro()))
    registry.is_away = True

    assert len(events(await source.send(framed(7, avro()), framed(8, avro(GROWN, note=None))))) == 2
    assert registry.asked == [7, 8]


@pytest.mark.parametrize(("policy", "note"), [("keep", True), ("drop", False), ("reject", None)])
async def test_what_a_schema_has_grown_by_goes_by_the_contract(
    registry: Registry, policy: str, note: bool | None
) -> None:
    source = Source("avro", registry, unknown_fields=policy)

    outputs = await source.send(framed(8, avro(GROWN, note="new")))

    assert ["note" in event for event in events(outputs)] == ([] if note is None else [note])
    assert [code for code, _ in reasons(outputs)] == (["unknown_field"] if note is None else [])


async def test_a_registry_that_is_away_is_waited_for(registry: Registry) -> None:
    source = Source("avro", registry)
    registry.is_away = True
    with pytest.raises(Unavailable, match="the schema registry is away"):
        await source.send(framed(7, avro()))

    registry.is_away = False
    assert events(await source.send(framed(7, avro()))) == [EVENT]


async def test_without_the_address_of_a_registry_nothing_is_lost_and_the_setting_is_named() -> None:
    with pytest.raises(Unavailable, match="set TRIMTAB_INGESTION_SCHEMA_REGISTRY_URL, or give the schema"):
        await Source("avro").send(framed(7, avro()))


async def test_a_source_that_is_gone_is_waited_for_until_its_partition_is_taken_away() -> None:
    source = Source("json")
    source.book.remove("Source", "trips")

    with pytest.raises(Unavailable, match="the source 'trips' is gone"):
        await source.worker.prepare([raw(b"{}")])


async def test_another_schema_in_the_spec_reads_from_the_next_batch_on() -> None:
    source = Source({"type": "protobuf", "schema": PROTO, "message": "Trip"})
    await source.send(proto())
    source.apply({"type": "protobuf", "schema": PROTO.replace("x = 3", "y = 3"), "message": "Trip"})

    ((code, said),) = reasons(await source.send(proto()))

    assert (code, said.startswith("x None is missing")) == ("missing_field", True)


async def test_a_schema_that_is_no_schema_holds_the_partition_back() -> None:
    with pytest.raises(Unavailable, match="the schema in the source's format cannot be compiled here"):
        await Schemas().reader(Format(type="avro", schema="{"), [])
