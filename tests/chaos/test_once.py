"""Every row is one event, whatever is sent twice, replayed twice, fenced and killed."""

import asyncio
import json
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from trimtab import deadletters
from trimtab.deadletters import AGAIN, REPLAYED, WAITING, Query
from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import Resource
from trimtab_runtime import bus, records
from trimtab_runtime.admin import ensure_topics
from trimtab_runtime.records import Outgoing
from trimtab_runtime.testing import eventually
from trimtab_stack import ports
from trimtab_stack.environment import inherited

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

PARTITIONS = 2
ROWS = 2_000
BAD = 200


class Stream:
    """A source of its own, and the ingestion that lets its rows in."""

    def __init__(self, servers: str, producer: Any, directory: Path) -> None:
        self.name = f"trips-{uuid.uuid4().hex[:8]}"
        self.raw, self.events = (family.named(self.name).name for family in (topics.RAW, topics.EVENTS))
        self.servers = servers
        self.let_in: list[tuple[str, str]] = []
        """Row and record id of every event that was heard."""
        self._consumer = AIOKafkaConsumer(
            self.events,
            bootstrap_servers=servers,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        )
        self._producer = producer
        self._directory = directory
        self._processes: list[subprocess.Popen[bytes]] = []

    async def apply(self, generation: int, *, lowest: float) -> None:
        fields = {
            "id": {"type": "string", "unique_within": "2d"},
            "at": {"type": "timestamp"},
            "x": {"type": "number", "min": lowest},
        }
        spec = {
            "key": "id",
            "event_time": "at",
            "lateness": "3650d",
            "partitions": PARTITIONS,
            "fields": fields,
        }
        document = Struct()
        json_format.ParseDict({"kind": "Source", "metadata": {"name": self.name}, "spec": spec}, document)
        resource = Resource(kind="Source", name=self.name, generation=generation, document=document)
        await self._producer.send_and_wait(
            topics.SPECS.name, key=f"Source/{self.name}".encode(), value=topics.SPECS.encode(resource)
        )

    async def send(self, ids: list[str], *, x: float) -> None:
        """Send rows, every one of them twice."""
        rows = [
            (name.encode(), json.dumps({"id": name, "at": "2023-11-14T22:13:20Z", "x": x}).encode())
            for name in ids
        ]
        await records.send_all(
            self._producer, [Outgoing(self.raw, key, row) for key, row in rows + rows[::-1]]
        )

    def start(self) -> subprocess.Popen[bytes]:
        environ = inherited() | {
            "TRIMTAB_KAFKA_SERVERS": self.servers,
            "TRIMTAB_INGESTION_GRPC_ADDRESS": f"127.0.0.1:{ports.choose(set())}",
            "TRIMTAB_INGESTION_MAX_RECORDS": "50",
        }
        with (self._directory / f"ingestion-{len(self._processes)}.log").open("wb") as log:
            command = [sys.executable, "-m", "trimtab_ingestion"]
            self._processes.append(subprocess.Popen(command, env=environ, stdout=log, stderr=log))
        return self._processes[-1]

    async def fence(self) -> None:
        """Take every partition's transactions from whoever has them."""
        for partition in range(PARTITIONS):
            async with AIOKafkaProducer(
                bootstrap_servers=self.servers, transactional_id=f"ingestion/{self.raw}/{partition}"
            ):
                pass

    async def until(self, count: int) -> None:
        """Wait until there are so many events."""

        async def probe() -> bool:
            for batch in (await self._consumer.getmany(timeout_ms=200)).values():
                self.let_in += [
                    (json.loads(each.value)["id"], dict(each.headers)["ce_id"].decode())
                    for each in batch
                    if each.value
                ]
            return len(self.let_in) >= count

        await eventually(probe, what=f"{count} events")

    async def open(self) -> None:
        families = (topics.RAW, topics.EVENTS, topics.SEEN)
        own = [family.named(self.name, partitions=PARTITIONS) for family in families]
        await ensure_topics(self.servers, [*topics.STATIC, *own])
        await self._consumer.start()

    async def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        await self._consumer.stop()


@pytest.fixture
async def stream(kafka_servers: str, tmp_path: Path) -> AsyncIterator[Stream]:
    async with bus.open_producer(kafka_servers) as producer:
        stream = Stream(kafka_servers, producer, tmp_path)
        await stream.open()
        try:
            yield stream
        finally:
            await stream.close()


async def test_rows_sent_twice_and_letters_replayed_twice_are_events_once(stream: Stream) -> None:
    good, bad = [f"good-{n}" for n in range(ROWS)], [f"bad-{n}" for n in range(BAD)]
    last = [
        f"last-{n}" for n in range(20)
    ]  # some in each partition: what was sent before has been judged by then
    mine = Query(source=stream.name)
    await stream.apply(1, lowest=0)
    await stream.send(bad, x=-1)
    await stream.send(good, x=1)
    first = stream.start()
    await stream.until(1)
    await stream.fence()
    await stream.until(ROWS // 2)
    await stream.fence()
    await stream.until(ROWS)

    found = await deadletters.find(stream.servers, mine)
    assert Counter(each.state for each in found) == {WAITING: 2 * BAD}
    letters = [each.letter for each in found]
    some = letters[:40]
    await deadletters.replay(stream.servers, some)

    async def refused_again() -> bool:
        states = Counter(each.state for each in await deadletters.find(stream.servers, mine))
        return states == {AGAIN: len(some), WAITING: len(letters) - len(some)}

    await eventually(refused_again, what="letters that were refused again")
    await stream.apply(2, lowest=-1)
    replaying = [deadletters.replay(stream.servers, letters) for _ in range(2)]
    await asyncio.gather(*replaying)
    await stream.fence()
    await stream.until(ROWS + 1)
    first.kill()
    stream.start()
    await deadletters.replay(stream.servers, letters)
    await stream.send(last, x=1)
    await stream.until(ROWS + BAD + len(last))

    assert Counter(name for name, _ in stream.let_in) == Counter([*good, *bad, *last])
    by_id = {letter.id: json.loads(letter.payload)["id"] for letter in letters}
    assert {by_id.get(record) for name, record in stream.let_in if name in set(bad)} == set(bad)
    settled = await deadletters.find(stream.servers, mine)
    assert Counter(each.state for each in settled) == {REPLAYED: 2 * BAD}
