"""Avro and Protobuf with a real schema registry: what producers send with schema ids becomes events, once, whatever is away."""

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from io import BytesIO
from typing import Any

import fastavro
import httpx
import pytest
from google.protobuf.message_factory import GetMessageClass
from trimtab import deadletters
from trimtab_contracts import topics
from trimtab_contracts.ingestion.v1.ingestion_pb2 import DeadLetter, IngestRequest
from trimtab_contracts.ingestion.v1.ingestion_pb2_grpc import IngestionStub
from trimtab_formats.protoc import compile_files
from trimtab_runtime import bus, rpc
from trimtab_runtime.pipeline import read_partition
from trimtab_runtime.testing import eventually
from trimtab_stack.testing import ApicurioRegistry

pytestmark = pytest.mark.real

AT = "2023-11-14T22:13:20Z"
AVRO = {
    "type": "record",
    "name": "Trip",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "at", "type": "string"},
        {"name": "x", "type": "double"},
    ],
}
GROWN = {**AVRO, "fields": [{"name": "note", "type": ["null", "string"], "default": None}, *AVRO["fields"]]}
BASE = 'syntax = "proto3"; package base; message Size { double x = 1; }'
PROTO = 'syntax = "proto3"; import "base/size.proto"; message Other {} message Trip { string id = 1; string at = 2; base.Size size = 3; }'


class Producer:
    """Registers schemas and sends records as Confluent's serializers do, and reads what has become of them."""

    def __init__(self, servers: str, registry: str, source: str) -> None:
        self.servers, self.registry, self.source = servers, registry, source

    async def register(self, schema: str, subject: str = "", **rest: Any) -> int:
        """Return the id that a schema gets."""
        subject = subject or f"raw.{self.source}-value"
        async with httpx.AsyncClient(timeout=60) as client:
            answer = await client.post(
                f"{self.registry}/subjects/{subject}/versions", json={"schema": schema, **rest}
            )
        answer.raise_for_status()
        return int(answer.json()["id"])

    async def send(self, *records: tuple[str, bytes], partition: int = 0) -> None:
        """Send keys and values."""
        async with bus.open_producer(self.servers) as producer:
            for key, value in records:
                topic = topics.RAW.named(self.source).name
                await producer.send_and_wait(topic, key=key.encode(), value=value, partition=partition)

    async def events(self, *ids: str) -> list[Any]:
        """Wait until these have come in, and nothing else; return them in their order."""

        async def there() -> list[Any]:
            found = [
                json.loads(each.value)
                async for each in self._all(topics.EVENTS.named(self.source, partitions=2))
                if each.value
            ]
            return sorted(found, key=lambda row: str(row["id"])) if len(found) >= len(ids) else []

        found = await eventually(there, what=f"the events {ids}") if ids else await there()
        assert [row["id"] for row in found] == sorted(ids)
        return found

    async def letters(self) -> list[DeadLetter]:
        """Return the dead letters of the source so far."""
        found = [topics.DEADLETTER.decode(each.value) async for each in self._all(topics.DEADLETTER)]
        return [letter for letter in found if letter.source == self.source]

    async def _all(self, topic: Any) -> Any:
        for partition in range(topic.partitions):
            async for batch in read_partition(self.servers, topic.name, partition):
                for record in batch:
                    yield record


def avro(schema_id: int, id: str, schema: Any = AVRO, **row: Any) -> tuple[str, bytes]:
    stream = BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), {"id": id, "at": AT, "x": 1.5, **row})
    return id, b"\0" + struct.pack(">i", schema_id) + stream.getvalue()


@pytest.fixture
def run(
    ingestion: Callable[..., AbstractAsyncContextManager[str]], schema_registry: ApicurioRegistry
) -> Callable[[], AbstractAsyncContextManager[str]]:
    """Run ingestion with the registry's address."""
    return lambda: ingestion(schema_registry_url=schema_registry.url)


async def test_avro_by_schema_ids_comes_in_beside_json_and_a_letter_once_its_schema_is_there(
    kafka_servers: str,
    schema_registry: ApicurioRegistry,
    apply: Callable[..., Awaitable[str]],
    run: Callable[[], AbstractAsyncContextManager[str]],
) -> None:
    name = await apply(format="avro")
    producer = Producer(kafka_servers, schema_registry.url, name)
    first = await producer.register(json.dumps(AVRO))
    to_come = first + 1  # ids are given out in order

    async with run() as address, rpc.channel(address) as channel:
        stub: Any = IngestionStub(channel)
        rows = [b'{"id": "json", "at": "%s", "x": 2}' % AT.encode()]
        await stub.Ingest(IngestRequest(source=name, rows=rows), wait_for_ready=True)
        await producer.send(avro(first, "a"), avro(to_come, "b", GROWN, note="new"), avro(first, "c"))
        found = await producer.events("a", "c", "json")
        (letter,) = await producer.letters()
        assert [row["x"] for row in found] == [1.5, 1.5, 2]
        assert [reason.code for reason in letter.reasons] == ["unknown_schema"]
        assert f"schema {to_come}, which the schema registry does not know" in letter.reasons[0].message

        assert await producer.register(json.dumps(GROWN)) == to_come
        await deadletters.replay(kafka_servers, [letter, letter])
        await producer.send(avro(to_come, "d", GROWN, note=None))
        found = await producer.events("a", "b", "c", "d", "json")

    assert found[1] == {"id": "b", "at": AT, "x": 1.5, "note": "new"}
    assert len(await producer.letters()) == 1


async def test_a_registry_that_is_killed_is_waited_for_where_a_schema_is_new_and_nowhere_else(
    kafka_servers: str,
    schema_registry: ApicurioRegistry,
    apply: Callable[..., Awaitable[str]],
    run: Callable[[], AbstractAsyncContextManager[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    fields = {"id": {"type": "string"}, "at": {"type": "timestamp"}, "size_x": {"type": "number"}}
    name = await apply(format="protobuf", fields=fields)
    producer = Producer(kafka_servers, schema_registry.url, name)
    subject = f"size-{producer.source}"
    await producer.register(BASE, subject, schemaType="PROTOBUF")
    reference = {"name": "base/size.proto", "subject": subject, "version": 1}
    known, new = [
        await producer.register(f"{PROTO}{more}", schemaType="PROTOBUF", references=[reference])
        for more in ("", " message M {}")
    ]
    file = compile_files({"base/size.proto": BASE}, PROTO)
    trip = file.pool.FindMessageTypeByName("Trip")

    def record(schema_id: int, id: str) -> tuple[str, bytes]:
        message = GetMessageClass(trip)(id=id, at=AT, size={"x": 1.5})
        return id, b"\0" + struct.pack(">i", schema_id) + b"\x02\x02" + message.SerializeToString()

    async def held_back() -> bool:
        return "is held back" in caplog.text and "does not answer" in caplog.text

    async with run():
        await producer.send(record(known, "a"))
        await producer.events("a")
        schema_registry.kill()
        try:
            await producer.send(record(new, "b"), record(known, "c"), partition=1)
            await eventually(held_back, what="a partition that is held back")
            await producer.send(record(known, "d"))
            await producer.events("a", "d")
        finally:
            await asyncio.to_thread(schema_registry.start)
        found = await producer.events("a", "b", "c", "d")

    assert found[1] == {"id": "b", "at": AT, "size_x": 1.5}
    assert await producer.letters() == []
