"""The threaded door takes plain handlers and coroutines side by side, and tells a failure of either."""

import asyncio
import socket
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from trimtab_contracts.features.v1 import features_pb2 as messages
from trimtab_contracts.features.v1.features_pb2_grpc import (
    FeatureStoreServicer,
    FeatureStoreStub,
    add_FeatureStoreServicer_to_server,
)
from trimtab_runtime import door
from trimtab_runtime.errors import NotFound, Unavailable
from trimtab_runtime.testing import eventually


class Servicer(FeatureStoreServicer):
    """Answers some calls on a thread, and some on the event loop that it was made on."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.begun, self.cancelled = asyncio.Event(), False

    def GetOnlineFeatures(self, request: Any, context: Any) -> messages.GetOnlineFeaturesResponse:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return messages.GetOnlineFeaturesResponse(names=request.features)

    async def GetArchiveWatermark(self, request: Any, context: Any) -> messages.GetArchiveWatermarkResponse:
        assert asyncio.get_running_loop() is self.loop
        if request.model == "broken":
            raise ZeroDivisionError
        if request.model == "slow":
            self.begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        raise NotFound(f"there is no model {request.model!r}")

    async def GetHistoricalFeatures(
        self, request: Any, context: Any
    ) -> AsyncIterator[messages.HistoricalFeatures]:
        assert context.time_remaining() > 0
        for number in range(3):
            await asyncio.sleep(0)
            yield messages.HistoricalFeatures(arrow=bytes([number]))
        if request.model:
            raise NotFound("no more of it")


@pytest.fixture
async def servicer() -> Servicer:
    return Servicer()


@pytest.fixture
async def store(tmp_path: Path, servicer: Servicer) -> AsyncIterator[Any]:
    where, add = f"unix:{tmp_path}/door", partial(add_FeatureStoreServicer_to_server, servicer)
    async with (
        door.serving(
            where, add, ["trimtab.features.v1.FeatureStore"], threads=1, max_waiting=64
        ) as set_ready,
        grpc.aio.insecure_channel(where) as channel,
    ):
        set_ready(True)
        yield FeatureStoreStub(channel)


async def test_calls_that_wait_hold_no_thread_of_those_that_do_not(store: Any) -> None:
    waiting = [store.GetArchiveWatermark(messages.GetArchiveWatermarkRequest(model="slow")) for _ in range(5)]

    answer = await store.GetOnlineFeatures(messages.GetOnlineFeaturesRequest(features=["a"]), timeout=10)

    assert list(answer.names) == ["a"]
    for call in waiting:
        call.cancel()


async def test_a_stream_is_yielded_piece_by_piece_and_its_failure_told(store: Any) -> None:
    whole = [
        part.arrow
        async for part in store.GetHistoricalFeatures(messages.GetHistoricalFeaturesRequest(), timeout=10)
    ]
    assert whole == [b"\0", b"\1", b"\2"]

    broken = store.GetHistoricalFeatures(messages.GetHistoricalFeaturesRequest(model="m"), timeout=10)
    assert [(await broken.read()).arrow for _ in range(3)] == whole
    with pytest.raises(grpc.RpcError, match="no more of it"):
        await broken.read()


@pytest.mark.parametrize(
    ("model", "code", "said"),
    [
        ("gone", grpc.StatusCode.NOT_FOUND, "there is no model 'gone'"),
        ("broken", grpc.StatusCode.INTERNAL, "failed by a fault of ours"),
    ],
)
async def test_what_a_coroutine_fails_with_is_told(store: Any, model: str, code: Any, said: str) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        await store.GetArchiveWatermark(messages.GetArchiveWatermarkRequest(model=model), timeout=10)

    assert failure.value.code() is code
    assert said in str(failure.value.details())


async def test_a_coroutine_whose_caller_has_gone_is_cancelled(store: Any, servicer: Servicer) -> None:
    call = store.GetArchiveWatermark(messages.GetArchiveWatermarkRequest(model="slow"))
    async with asyncio.timeout(60):
        await servicer.begun.wait()

    call.cancel()

    async def is_cancelled() -> bool:
        return servicer.cancelled

    await eventually(is_cancelled, what="the coroutine cancelled")


def test_an_address_that_somebody_listens_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unavailable, match=f"cannot listen on {address}: Address already in use"):
            door.check_free(address)

    door.check_free(address)
