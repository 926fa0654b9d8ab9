"""Ingestion as it runs, on a real Kafka: whatever is sent ends up in one place, once."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import grpc
import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import MessageSizeTooLargeError
from trimtab_contracts import topics
from trimtab_contracts.ingestion.v1.ingestion_pb2 import DeadLetter, IngestRequest
from trimtab_contracts.ingestion.v1.ingestion_pb2_grpc import IngestionStub
from trimtab_runtime import bus, records, rpc
from trimtab_runtime.admin import administering
from trimtab_runtime.errors import NotFound, Rejected
from trimtab_runtime.follow import Follower
from trimtab_runtime.records import Outgoing
from trimtab_runtime.testing import eventually

pytestmark = pytest.mark.real
ROWS = 3000


@pytest.fixture
async def source(apply: Callable[..., Awaitable[str]]) -> str:
    """A source that has been applied."""
    return await apply()


@pytest.fixture
async def address(
    source: str, ingestion: Callable[..., AbstractAsyncContextManager[str]]
) -> AsyncIterator[str]:
    """Where a running ingestion answers."""
    async with ingestion() as address:
        yield address


async def test_every_row_sent_is_an_event_or_a_dead_letter_once(
    kafka_servers: str, source: str, address: str
) -> None:
    seen: list[tuple[str, str]] = []

    async def hear(topic: str, _: int, batch: Any) -> None:
        for record in batch:
            if topic == topics.DEADLETTER.name:
                letter = topics.DEADLETTER.decode(record.value)
                if letter.source == source:
                    seen.append(("bad", letter.payload.decode()))
            elif record.value:
                seen.append(("good", record.value.decode()))

    rows = [json.dumps({"id": str(n), "at": "2023-11-14T22:13:20Z", "x": n % 10 - 1}) for n in range(ROWS)]
    follower = Follower(kafka_servers, [topics.EVENTS.named(source).name, topics.DEADLETTER.name], hear)
    async with rpc.channel(address) as channel, asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follower.run())
        stub: Any = IngestionStub(channel)

        async def requests() -> AsyncIterator[IngestRequest]:
            for start in range(0, ROWS, 500):
                yield IngestRequest(source=source, rows=[row.encode() for row in rows[start : start + 500]])

        answer = await stub.IngestStream(requests(), wait_for_ready=True)
        assert answer.accepted == ROWS

        async def all_there() -> bool:
            return len(seen) >= ROWS

        await eventually(all_there, what="every row's outcome")
        following.cancel()

    assert sorted(payload for _, payload in seen) == sorted(rows)
    assert sum(kind == "bad" for kind, _ in seen) == ROWS // 10


@pytest.mark.usefixtures("address")
async def test_a_dead_letter_that_kafka_finds_too_large_is_cut_and_what_is_behind_it_comes_in(
    kafka_servers: str, source: str
) -> None:
    letters: list[DeadLetter] = []
    events: list[bytes] = []

    async def hear(topic: str, _: int, batch: Any) -> None:
        if topic == topics.DEADLETTER.name:
            letters.extend(topics.DEADLETTER.decode(record.value) for record in batch)
        else:
            events.extend(record.value for record in batch if record.value)

    async def both_are_there() -> bool:
        return len(events) == 1 and source in [letter.source for letter in letters]

    async def takes_small_letters_only() -> bool:
        letter = topics.DEADLETTER.encode(DeadLetter(source="large", payload=os.urandom(150_000)))
        async with bus.open_producer(kafka_servers) as asking:
            with suppress(MessageSizeTooLargeError):
                await asking.send_and_wait(topics.DEADLETTER.name, letter)
                return False
        return True

    large = topics.DEADLETTER.config | {"max.message.bytes": "100000"}
    async with administering(kafka_servers) as admin:
        await admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, topics.DEADLETTER.name, configs=large)]
        )
    await eventually(takes_small_letters_only, what="that the topic is as it was asked to be")
    good = json.dumps({"id": "1", "at": "2023-11-14T22:13:20Z", "x": 1}).encode()
    bad = json.dumps({"id": "1", "x": os.urandom(500_000).hex()}).encode()
    follower = Follower(kafka_servers, [topics.EVENTS.named(source).name, topics.DEADLETTER.name], hear)
    async with bus.open_producer(kafka_servers) as producer, asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follower.run())
        raw = topics.RAW.named(source).name
        await records.send_all(producer, [Outgoing(raw, b"1", value, [], 0) for value in (bad, good)])
        await eventually(both_are_there, what="the letter, and the event behind it")
        following.cancel()

    [letter] = [letter for letter in letters if letter.source == source]
    assert letter.payload == bad[:65_536]
    assert (letter.topic, letter.partition, letter.offset) == (raw, 0, 0)
    assert {reason.code for reason in letter.reasons} == {"missing_field", "wrong_type", "cut"}
    assert (
        f"only the first 65,536 of the {len(bad):,} bytes of its payload are kept"
        == letter.reasons[-1].message
    )


async def test_an_unknown_source_is_refused_with_the_remedy(address: str) -> None:
    async with rpc.channel(address) as channel:
        stub: Any = IngestionStub(channel)
        with pytest.raises(grpc.RpcError) as raised:
            await stub.Ingest(IngestRequest(source="nosuch", rows=[b"{}"]), wait_for_ready=True)

    error = rpc.error_of(raised.value)
    assert isinstance(error, NotFound)
    assert str(error).startswith("there is no source 'nosuch': apply its spec first")


async def test_a_row_too_large_for_a_record_is_refused_with_its_place_and_the_rest_of_its_request(
    source: str, address: str
) -> None:
    huge = b'{"id": "1", "note": "' + b"x" * topics.MOST_ROW_BYTES + b'"}'
    async with rpc.channel(address) as channel:
        stub: Any = IngestionStub(channel)
        with pytest.raises(grpc.RpcError) as raised:
            await stub.Ingest(IngestRequest(source=source, rows=[b"{}", huge]), wait_for_ready=True)

    error = rpc.error_of(raised.value)
    assert isinstance(error, Rejected)
    assert str(error).startswith(f"rows[1] has {len(huge)} bytes and a row may have 4194304")
