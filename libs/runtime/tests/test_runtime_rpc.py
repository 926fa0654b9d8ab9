"""gRPC doors: errors, health, reflection and traces, over a real socket."""

import logging
import re
import socket
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiokafka.errors import KafkaTimeoutError, MessageSizeTooLargeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from trimtab_contracts.ingestion.v1.ingestion_pb2 import IngestRequest, IngestResponse
from trimtab_contracts.ingestion.v1.ingestion_pb2_grpc import (
    IngestionServicer,
    IngestionStub,
    add_IngestionServicer_to_server,
)
from trimtab_runtime import rpc, telemetry
from trimtab_runtime.errors import NotFound, Rejected, TrimtabError, Unavailable
from trimtab_stack import ports

NAMES = ["trimtab.ingestion.v1.Ingestion"]


class Door(IngestionServicer):
    def __init__(self) -> None:
        self.traces: list[str] = []

    async def Ingest(self, request: IngestRequest, context: Any) -> IngestResponse:
        self.traces.append(telemetry.trace_id())
        if request.source == "nosuch":
            raise NotFound("there is no source 'nosuch': apply its spec first")
        if request.source == "cut off":
            raise KafkaTimeoutError("no answer in 40 s")
        if request.source == "huge":
            raise MessageSizeTooLargeError("9000000 bytes")
        if request.source == "broken":
            raise ZeroDivisionError("division by zero")
        return IngestResponse(accepted=len(request.rows))

    async def IngestStream(self, requests: AsyncIterator[IngestRequest], context: Any) -> IngestResponse:
        return IngestResponse(accepted=sum([len(request.rows) async for request in requests]))


def free_address() -> str:
    return f"127.0.0.1:{ports.choose()}"


def test_a_limit_is_what_is_asked_for_within_reason() -> None:
    assert [rpc.limit(asked, unless=50, most=100) for asked in (0, 7, 1_000)] == [50, 7, 100]
    with pytest.raises(Rejected, match="limit -1 is below 0"):
        rpc.limit(-1, unless=50, most=100)


async def test_an_error_of_ours_crosses_the_wire_as_itself() -> None:
    address, door = free_address(), Door()
    async with (
        rpc.serving(address, partial(add_IngestionServicer_to_server, door), NAMES),
        rpc.channel(address) as channel,
    ):
        stub: Any = IngestionStub(channel)
        assert (await stub.Ingest(IngestRequest(source="s", rows=[b"1", b"2"]))).accepted == 2
        with pytest.raises(grpc.RpcError) as raised:
            await stub.Ingest(IngestRequest(source="nosuch"))

    error = rpc.error_of(raised.value)
    assert isinstance(error, NotFound)
    assert str(error) == "there is no source 'nosuch': apply its spec first"


@pytest.mark.parametrize(
    ("source", "kind", "sentence"),
    [
        ("cut off", Unavailable, "Kafka is away: KafkaTimeoutError('no answer in 40 s')"),
        ("huge", Rejected, "9000000 bytes): send less in it"),
        ("broken", TrimtabError, "ZeroDivisionError: division by zero; the log of the service has more"),
    ],
)
async def test_what_a_door_did_not_mean_to_raise_is_told_in_a_sentence(
    source: str, kind: type[TrimtabError], sentence: str
) -> None:
    address = free_address()
    async with (
        rpc.serving(address, partial(add_IngestionServicer_to_server, Door()), NAMES),
        rpc.channel(address) as channel,
    ):
        stub: Any = IngestionStub(channel)
        with pytest.raises(grpc.RpcError) as raised:
            await stub.Ingest(IngestRequest(source=source))

    error = rpc.error_of(raised.value)
    assert type(error) is kind
    assert str(error).endswith(sentence)


async def test_health_says_serving_only_once_it_is_ready() -> None:
    address = free_address()
    async with (
        rpc.serving(address, partial(add_IngestionServicer_to_server, Door()), NAMES) as set_ready,
        rpc.channel(address) as channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        before = await stub.Check(health_pb2.HealthCheckRequest())
        await set_ready(True)
        after = await stub.Check(health_pb2.HealthCheckRequest(service=NAMES[0]))

    assert before.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert after.status == health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def logs_as_before() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.mark.usefixtures("logs_as_before")
async def test_a_trace_goes_through_a_call(tmp_path: Path) -> None:
    telemetry.start("test", instance="test-0", trace_file=tmp_path / "spans.jsonl", otlp=False)
    address, door = free_address(), Door()
    async with (
        rpc.serving(address, partial(add_IngestionServicer_to_server, door), NAMES),
        rpc.channel(address) as channel,
    ):
        stub: Any = IngestionStub(channel)
        with telemetry.span("caller"):
            expected = telemetry.trace_id()
            await stub.Ingest(IngestRequest(source="s"))

    assert door.traces == [expected]
    assert (tmp_path / "spans.jsonl").read_text().count(expected) == 2


async def test_an_address_that_is_taken_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unavailable, match=f"cannot listen on {address}"):
            async with rpc.serving(address, partial(add_IngestionServicer_to_server, Door()), NAMES):
                pass


@pytest.mark.parametrize(
    ("addresses", "target"),
    [
        ("serving:50051", "serving:50051"),
        ("dns:///serving:50051", "dns:///serving:50051"),
        ("10.0.0.1:50051, 10.0.0.2:50051", "ipv4:10.0.0.1:50051,10.0.0.2:50051"),
        ("[::1]:50051,[::1]:50052", "ipv6:[::1]:50051,[::1]:50052"),
    ],
)
def test_one_address_or_several_of_a_kind_are_a_target(addresses: str, target: str) -> None:
    assert rpc.target_of(addresses) == target


@pytest.mark.parametrize(
    ("addresses", "odd"),
    [
        ("serving-0:50051,serving-1:50051", "serving-0:50051"),
        ("127.0.0.1:50051,localhost:50052", "localhost:50052"),
        ("127.0.0.1:50051,[::1]:50052", "[::1]:50052"),
        ("::1:50051,::1:50052", "::1:50051"),
        ("127.0.0.1:50051,127.0.0.1", "127.0.0.1"),
        ("127.0.0.1:50051,", ""),
    ],
)
def test_several_addresses_that_grpc_cannot_go_to_are_refused_with_the_remedy(
    addresses: str, odd: str
) -> None:
    with pytest.raises(
        Rejected, match=re.escape(f"{odd!r} cannot be one of several addresses, which are IP")
    ):
        rpc.blocking_channel(addresses)
