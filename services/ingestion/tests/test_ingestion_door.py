"""The gRPC door by itself, over a Kafka that is a list: what is taken, when, and what is refused whole."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import pytest
from aiokafka.errors import KafkaTimeoutError
from trimtab_contracts import topics
from trimtab_contracts.ingestion.v1.ingestion_pb2 import IngestRequest
from trimtab_contracts.ingestion.v1.ingestion_pb2_grpc import IngestionStub, add_IngestionServicer_to_server
from trimtab_core.specs import parse
from trimtab_ingestion.grpc_api import IngestionApi
from trimtab_runtime import rpc
from trimtab_runtime.clock import ManualClock, iso
from trimtab_runtime.errors import NotFound, Rejected, Unavailable
from trimtab_runtime.specbook import SpecBook
from trimtab_stack import ports

NOW = 1_700_000_000_000
HUGE = b"x" * (topics.MOST_ROW_BYTES + 1)


class Producer:
    """A producer whose Kafka acknowledges when it is let to, and may be away."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, dict[str, bytes]]] = []
        self.acknowledging = asyncio.Event()
        self.acknowledging.set()
        self.away = False
        self.flushed = 0

    async def send(self, topic: str, *, value: bytes, headers: Any, **_: Any) -> Any:
        if self.away:
            raise KafkaTimeoutError
        self.sent.append((value, dict(headers)))

        async def acknowledged() -> None:
            await self.acknowledging.wait()

        return acknowledged()

    async def flush(self) -> None:
        self.flushed += 1


@pytest.fixture
def book() -> SpecBook:
    fields = {"id": {"type": "string"}, "at": {"type": "timestamp"}}
    spec = {"key": "id", "event_time": "at", "lateness": "1m", "fields": fields}
    book = SpecBook()
    book.put(parse("Source", {"metadata": {"name": "trips"}, "spec": spec}))
    return book


@pytest.fixture
async def producer() -> Producer:
    return Producer()


@pytest.fixture
def api(book: SpecBook, producer: Producer) -> IngestionApi:
    return IngestionApi(book, producer, ManualClock(NOW))


@pytest.fixture
async def stub(api: IngestionApi) -> AsyncIterator[Any]:
    address = f"127.0.0.1:{ports.choose()}"
    async with (
        rpc.serving(address, partial(add_IngestionServicer_to_server, api), [], drain_s=0),
        rpc.channel(address) as channel,
    ):
        yield IngestionStub(channel)


def request(*rows: bytes, **more: Any) -> IngestRequest:
    return IngestRequest(source=more.pop("source", "trips"), rows=rows, **more)


async def test_a_row_goes_on_with_its_id_and_its_arrival(api: IngestionApi, producer: Producer) -> None:
    await api.Ingest(request(b"{}", b"{}", ids=["a", ""], arrived_at_ms=[1000, -1000]), None)
    await api.Ingest(request(b"{}"), None)

    assert [headers for _, headers in producer.sent] == [
        {"ce_id": b"a", "content-type": b"application/json", "ce_arrivedat": iso(1000).encode()},
        {"content-type": b"application/json", "ce_arrivedat": iso(-1000).encode()},
        {"content-type": b"application/json", "ce_arrivedat": iso(NOW).encode()},
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"ids": ["a"]}, "ids has 1 entries for 2 rows: send one for each row, or none at all"),
        ({"arrived_at_ms": [1, 2, 3]}, "arrived_at_ms has 3 entries for 2 rows"),
        ({"ids": ["a", "é" * 129]}, r"ids\[1\] has 258 bytes and an id may have 256"),
        ({"arrived_at_ms": [1, 2**62]}, r"arrived_at_ms\[1\] is 4611686018427387904 and no time"),
    ],
)
async def test_a_request_that_cannot_be_taken_whole_is_not_taken_at_all(
    api: IngestionApi, producer: Producer, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(Rejected, match=said):
        await api.Ingest(request(b"{}", b"{}", **more), None)

    assert producer.sent == []


async def test_a_request_without_rows_waits_for_what_was_taken_before(
    api: IngestionApi, producer: Producer
) -> None:
    answer = await api.Ingest(request(), None)

    assert (answer.accepted, producer.flushed) == (0, 1)


async def test_a_stream_is_read_no_further_than_kafka_has_acknowledged(
    api: IngestionApi, producer: Producer
) -> None:
    read = 0

    async def requests() -> AsyncIterator[IngestRequest]:
        nonlocal read
        for _ in range(3):
            read += 1
            yield request(b"{}")

    producer.acknowledging.clear()
    async with asyncio.TaskGroup() as tasks:
        answer = tasks.create_task(api.IngestStream(requests(), None))
        for _ in range(20):
            await asyncio.sleep(0)
        assert (read, len(producer.sent)) == (1, 1)
        producer.acknowledging.set()

    assert (read, answer.result().accepted) == (3, 3)


async def test_a_stream_that_dies_half_way_keeps_what_was_acknowledged(stub: Any, producer: Producer) -> None:
    async def requests() -> AsyncIterator[IngestRequest]:
        yield request(b"1")
        yield request(b"2")
        while len(producer.sent) < 2:
            await asyncio.sleep(0)
        raise RuntimeError("the client died")

    with pytest.raises((grpc.RpcError, asyncio.CancelledError, RuntimeError)):
        await stub.IngestStream(requests(), wait_for_ready=True)

    assert [value for value, _ in producer.sent] == [b"1", b"2"]


@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        (request(b"2", HUGE), Rejected, r"rows\[1\] has 4194305 bytes"),
        (request(b"2", source="nosuch"), NotFound, "there is no source 'nosuch'"),
        (request(b"2", ids=["a", "b"]), Rejected, "ids has 2 entries for 1 rows"),
    ],
)
async def test_a_stream_ends_at_a_batch_that_is_refused_and_those_before_it_stay(
    stub: Any, producer: Producer, wrong: IngestRequest, kind: type[Rejected], said: str
) -> None:
    async def requests() -> AsyncIterator[IngestRequest]:
        for each in (request(b"1"), wrong):
            yield each
        await asyncio.Event().wait()  # whose message is on its way when a stream ends hears nothing of why

    with pytest.raises(grpc.RpcError) as raised:
        await stub.IngestStream(requests(), wait_for_ready=True)

    error = rpc.error_of(raised.value)
    assert type(error) is kind
    with pytest.raises(kind, match=said):
        raise error
    assert [value for value, _ in producer.sent] == [b"1"]


async def test_a_stream_that_meets_an_outage_says_so(stub: Any, producer: Producer) -> None:
    async def requests() -> AsyncIterator[IngestRequest]:
        yield request(b"1")
        while not producer.sent:
            await asyncio.sleep(0)
        producer.away = True
        yield request(b"2")

    with pytest.raises(grpc.RpcError) as raised:
        await stub.IngestStream(requests(), wait_for_ready=True)

    error = rpc.error_of(raised.value)
    assert isinstance(error, Unavailable)
    assert str(error).startswith("Kafka is away: KafkaTimeoutError")
