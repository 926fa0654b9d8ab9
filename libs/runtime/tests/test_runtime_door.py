"""The threaded door takes plain handlers and coroutines side by side, and tells a failure of either."""

import asyncio
import socket
import threading
import weakref
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
from trimtab_runtime import door, rpc
from trimtab_runtime.errors import NotFound, Overloaded, Rejected, Unavailable
from trimtab_runtime.testing import eventually


class Servicer(FeatureStoreServicer):
    """Answers some calls on a thread, and some on the event loop that it was made on."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.begun, self.cancelled = asyncio.Event(), False
        self.held, self.release = threading.Event(), threading.Event()
        self.answered: list[str] = []
        self.attempts: list[str] = []

    def GetOnlineFeatures(self, request: Any, context: Any) -> messages.GetOnlineFeaturesResponse:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        (name,) = request.features
        if name == "hold":
            self.held.set()
            assert self.release.wait(60)
        self.answered.append(name)
        metadata = dict(context.invocation_metadata())
        self.attempts.append(metadata.get("grpc-previous-rpc-attempts", "0"))
        return messages.GetOnlineFeaturesResponse(names=request.features)

    async def GetArchiveWatermark(self, request: Any, context: Any) -> messages.GetArchiveWatermarkResponse:
        assert asyncio.get_running_loop() is self.loop
        if request.model == "broken":
            raise ZeroDivisionError
        if request.model == "slow":
            await self._wait()
        raise NotFound(f"there is no model {request.model!r}")

    async def GetHistoricalFeatures(
        self, request: Any, context: Any
    ) -> AsyncIterator[messages.HistoricalFeatures]:
        assert context.time_remaining() > 0
        for number in range(3):
            await asyncio.sleep(0)
            yield messages.HistoricalFeatures(arrow=bytes([number]))
        if request.model == "slow":
            await self._wait()
        if request.model:
            raise NotFound("no more of it")

    async def _wait(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


@pytest.fixture
async def servicer() -> Servicer:
    return Servicer()


@pytest.fixture
async def store(tmp_path: Path, servicer: Servicer) -> AsyncIterator[Any]:
    where, add = f"unix:{tmp_path}/door", partial(add_FeatureStoreServicer_to_server, servicer)
    async with (
        door.serving(where, add, ["trimtab.features.v1.FeatureStore"], threads=1, max_waiting=6) as set_ready,
        grpc.aio.insecure_channel(where) as channel,
    ):
        set_ready(True)
        yield FeatureStoreStub(channel)
        servicer.release.set()


def ask(store: Any, name: str, timeout: float = 60) -> Any:
    """Begin a call that takes a thread."""
    return store.GetOnlineFeatures(messages.GetOnlineFeaturesRequest(features=[name]), timeout=timeout)


async def full(store: Any, servicer: Servicer) -> list[Any]:
    """Have the only thread held, and as many calls wait for it as may."""
    held = [ask(store, "hold")]
    await asyncio.to_thread(servicer.held.wait, 60)
    while len(held) < 40:
        held.append(ask(store, str(len(held))))

    async def those_too_many_are_refused() -> bool:
        return sum(call.done() for call in held) == 33

    await eventually(those_too_many_are_refused)
    return held


async def test_calls_that_wait_hold_no_thread_of_those_that_do_not(store: Any) -> None:
    waiting = [store.GetArchiveWatermark(messages.GetArchiveWatermarkRequest(model="slow")) for _ in range(5)]

    answer = await store.GetOnlineFeatures(messages.GetOnlineFeaturesRequest(features=["a"]), timeout=60)

    assert list(answer.names) == ["a"]
    for call in waiting:
        call.cancel()


async def test_a_stream_is_yielded_piece_by_piece_and_its_failure_told(store: Any) -> None:
    whole = [
        part.arrow
        async for part in store.GetHistoricalFeatures(messages.GetHistoricalFeaturesRequest(), timeout=60)
    ]
    assert whole == [b"\0", b"\1", b"\2"]

    broken = store.GetHistoricalFeatures(messages.GetHistoricalFeaturesRequest(model="m"), timeout=60)
    assert [(await broken.read()).arrow for _ in range(3)] == whole
    with pytest.raises(grpc.RpcError, match="no more of it"):
        await broken.read()


class Part:
    """An answer that can be seen to be let go."""


async def test_a_stream_keeps_no_answer_that_it_has_sent(tmp_path: Path) -> None:
    given, alive = weakref.WeakSet[Part](), list[int]()

    def part() -> Part:
        given.add(made := Part())
        return made

    async def parts(request: bytes, context: Any) -> AsyncIterator[Part]:
        for _ in range(20):
            yield part()
            alive.append(len(given))

    def add(server: Any) -> None:
        handler = grpc.unary_stream_rpc_method_handler(parts, bytes, lambda part: b"part")
        server.add_registered_method_handlers("parts", {"Parts": handler})

    where = f"unix:{tmp_path}/parts"
    async with (
        door.serving(where, add, [], threads=1, max_waiting=6),
        grpc.aio.insecure_channel(where) as channel,
    ):
        heard = [part async for part in channel.unary_stream("/parts/Parts")(b"", timeout=60)]

    assert len(heard) == len(alive) == 20
    assert max(alive) <= 2


@pytest.mark.parametrize(
    ("model", "code", "said"),
    [
        ("gone", grpc.StatusCode.NOT_FOUND, "there is no model 'gone'"),
        ("broken", grpc.StatusCode.INTERNAL, "failed by a fault of ours"),
    ],
)
async def test_what_a_coroutine_fails_with_is_told(store: Any, model: str, code: Any, said: str) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        await store.GetArchiveWatermark(messages.GetArchiveWatermarkRequest(model=model), timeout=60)

    assert failure.value.code() is code
    assert said in str(failure.value.details())


@pytest.mark.parametrize("kind", ["a call", "a stream"])
async def test_a_coroutine_whose_caller_has_gone_is_cancelled(
    store: Any, servicer: Servicer, kind: str
) -> None:
    if kind == "a call":
        call = store.GetArchiveWatermark(messages.GetArchiveWatermarkRequest(model="slow"))
    else:
        call = store.GetHistoricalFeatures(messages.GetHistoricalFeaturesRequest(model="slow"))
    async with asyncio.timeout(60):
        await servicer.begun.wait()

    call.cancel()

    async def is_cancelled() -> bool:
        return servicer.cancelled

    await eventually(is_cancelled, what="the coroutine cancelled")


async def test_a_call_too_many_is_refused_at_once_and_told_when_to_come_again(
    store: Any, servicer: Servicer
) -> None:
    calls = await full(store, servicer)

    with pytest.raises(grpc.RpcError) as raised:
        await next(call for call in calls if call.done())
    known = rpc.error_of(raised.value)
    assert isinstance(known, Overloaded)
    assert str(known) == "6 requests wait already: send it again, later and slower, or add instances"
    assert 0.05 <= known.retry_after_s <= 7.5
    assert dict(raised.value.trailing_metadata())["grpc-retry-pushback-ms"] == str(
        round(known.retry_after_s * 1000)
    )

    servicer.release.set()
    assert len([call for call in calls if await call.code() is grpc.StatusCode.OK]) == 7
    assert len(servicer.answered) == 7


async def test_our_clients_come_again_when_they_are_told(
    store: Any, servicer: Servicer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = asyncio.Event()
    pause = door.random.uniform

    def told(least: float, most: float) -> float:
        if most == 1.5:
            servicer.loop.call_soon_threadsafe(refused.set)
        return pause(least, most)

    calls = await full(store, servicer)
    monkeypatch.setattr(door.random, "uniform", told)
    async with rpc.channel(f"unix:{tmp_path}/door") as channel:
        mine = ask(FeatureStoreStub(channel), "mine")
        async with asyncio.timeout(60):
            await refused.wait()
        servicer.release.set()

        assert list((await mine).names) == ["mine"]

    assert servicer.attempts[servicer.answered.index("mine")] != "0"
    await asyncio.gather(*calls, return_exceptions=True)


async def test_what_nobody_waits_for_any_longer_is_not_worked_on(store: Any, servicer: Servicer) -> None:
    held = ask(store, "hold")
    await asyncio.to_thread(servicer.held.wait, 60)

    for name, seconds in (("late", 0.02), ("later", 0.3)):
        with pytest.raises(grpc.RpcError) as raised:
            await ask(store, name, timeout=seconds)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    servicer.release.set()
    await held
    await ask(store, "after")

    assert "late" not in servicer.answered
    assert servicer.answered[-1] == "after"


async def test_what_is_no_request_is_told_so(store: Any, tmp_path: Path) -> None:
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/door") as channel:
        for method, sent, code, said in (
            (
                "GetOnlineFeatures",
                b"\xff\xff",
                grpc.StatusCode.INVALID_ARGUMENT,
                "cannot be read: make it by",
            ),
            ("GetArchiveWatermark", b"\xff", grpc.StatusCode.INVALID_ARGUMENT, "cannot be read: make it by"),
            ("GetOfflineFeatures", b"", grpc.StatusCode.UNIMPLEMENTED, "Method not found"),
        ):
            with pytest.raises(grpc.RpcError, match=said) as raised:
                await channel.unary_unary(f"/trimtab.features.v1.FeatureStore/{method}")(sent, timeout=60)
            assert raised.value.code() is code

        silent = channel.stream_unary("/trimtab.features.v1.FeatureStore/GetOnlineFeatures")(timeout=60)
        await silent.done_writing()
        with pytest.raises(grpc.RpcError, match="takes one request, and none came"):
            await silent


async def test_calls_whose_callers_went_away_keep_nobody_from_being_served(
    store: Any, servicer: Servicer, tmp_path: Path
) -> None:
    held = ask(store, "hold")
    await asyncio.to_thread(servicer.held.wait, 60)
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/door") as channel:
        begin = channel.stream_unary("/trimtab.features.v1.FeatureStore/GetOnlineFeatures")
        gone = [begin(timeout=60) for _ in range(3)]
        await asyncio.gather(*(call.wait_for_connection() for call in gone))
        for call in gone:
            call.cancel()
    waiting = [ask(store, str(number)) for number in range(3)]
    held.cancel()
    servicer.release.set()

    for call in waiting:
        await call
    for number in range(20):  # as many as might have waited before
        await ask(store, f"after {number}")


async def test_a_door_that_closes_lets_calls_end_and_cuts_off_those_that_do_not(tmp_path: Path) -> None:
    where, slow = f"unix:{tmp_path}/closing", Servicer()
    add = partial(add_FeatureStoreServicer_to_server, slow)
    async with grpc.aio.insecure_channel(where) as channel:
        store, silent = (
            FeatureStoreStub(channel),
            channel.stream_unary("/trimtab.features.v1.FeatureStore/GetOnlineFeatures"),
        )
        async with door.serving(where, add, [], threads=1, max_waiting=6, drain_s=5.0) as set_ready:
            set_ready(True)
            held = ask(store, "hold")
            await asyncio.to_thread(slow.held.wait, 60)
            never = silent(timeout=60)
            await never.wait_for_connection()
            asyncio.get_running_loop().call_later(0.1, slow.release.set)

        assert list((await held).names) == ["hold"]
        with pytest.raises((grpc.RpcError, asyncio.CancelledError)):
            await never
        with pytest.raises(grpc.RpcError) as raised:
            await ask(store, "late", timeout=5)
        assert raised.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


async def test_a_call_that_is_stuck_outlives_its_door_and_harms_nobody(tmp_path: Path) -> None:
    where, slow = f"unix:{tmp_path}/stuck", Servicer()
    add = partial(add_FeatureStoreServicer_to_server, slow)
    async with grpc.aio.insecure_channel(where) as channel:
        async with door.serving(where, add, [], threads=1, max_waiting=6, drain_s=0.1):
            calls = [ask(FeatureStoreStub(channel), "hold")]
            await asyncio.to_thread(slow.held.wait, 60)
            calls.append(ask(FeatureStoreStub(channel), "waits"))

        for call in calls:
            with pytest.raises((grpc.RpcError, asyncio.CancelledError)):
                await call
        slow.release.set()  # and it says something after all

        async def it_has_ended() -> bool:
            return "hold" in slow.answered

        await eventually(it_has_ended)


async def test_a_message_that_is_too_large_is_refused_in_a_sentence(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "MESSAGE_LIMIT", 1000)

    with pytest.raises(grpc.RpcError) as raised:
        await ask(store, "x" * 2000)

    error = rpc.error_of(raised.value)
    assert type(error) is Rejected
    assert str(error) == "the request has 2,003 bytes, and 1,000 is the most: send fewer rows at once"


async def test_an_answer_that_is_too_large_for_the_client_is_no_overload(store: Any, tmp_path: Path) -> None:
    options = [("grpc.max_receive_message_length", 100)]
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/door", options=options) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            await ask(FeatureStoreStub(channel), "x" * 200)

    error = rpc.error_of(raised.value)
    assert type(error) is Rejected
    assert str(error).endswith("send, or ask for, less at once")


def test_an_address_that_somebody_listens_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unavailable, match=f"cannot listen on {address}: Address already in use"):
            door.check_free(address)

    door.check_free(address)
