"""The hot door: a threaded gRPC server, with errors, health and reflection.

The twin of `trimtab_runtime.rpc.serving` for handlers that are plain functions. Those of
one request and one answer are `trimtab_runtime.unary`'s, which answers more than four
times as many calls as gRPC's asyncio server does; the rest is `grpc.server`'s. Handlers are wrapped once, when they are added.

What it lets in it answers: while `max_waiting` calls wait for a thread, one more is told
at once when to come back, and one whose deadline has passed before its turn came is not
worked on. A stream in both directions has a thread of its own, reads one request,
answers it, and reads the next, so answers come in order and no more is held than one.

A servicer may have handlers that are coroutines too, for calls that wait: those run
on the event loop of whoever opened the door, and wait in threads of their own.
"""

import asyncio
import inspect
import logging
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry.trace import SpanKind

from trimtab_runtime import rpc, telemetry
from trimtab_runtime.errors import Overloaded, Rejected, TrimtabError, Unavailable
from trimtab_runtime.pool import Pool, working_until
from trimtab_runtime.unary import Context, Ending, Method, Unary

log = logging.getLogger(__name__)

_WAITING = 32
"""Calls of coroutines that wait at once; more of them queue."""
_STREAMS = 64
"""Streams in both directions that are open at once."""
_REST = 8
"""Calls at once of health."""
_QUEUED = 1024
"""Calls that wait for one of those threads; beyond them gRPC itself refuses, with no word of when to come back."""
_LET_IN = ("grpc.max_receive_message_length", 2 * rpc.MESSAGE_LIMIT)
"""More than is taken, so that what is too large can be told so in a sentence."""
_PAUSE_S = (0.05, 5.0)
"""The least and the most that one is told to wait."""


@asynccontextmanager
async def serving(
    address: str,
    register: Callable[[Any], None],
    names: Sequence[str],
    *,
    threads: int | Pool,
    max_waiting: int,
    drain_s: float = 5.0,
    shares_port: bool = False,
) -> AsyncIterator[Callable[[bool], None]]:
    """Serve on `address` what `register` adds to the server it is given, beside health and reflection.

    Yields a function that sets readiness; the door opens as not ready. On the way
    out no new call is taken, and calls in flight have `drain_s` seconds to end. Where it
    `shares_port`, other processes may listen there too, and the kernel spreads connections.

    Raises:
        Unavailable: the address cannot be had.
    """
    pool = threads if isinstance(threads, Pool) else Pool(threads)
    rest = ThreadPoolExecutor(_REST, "door-rest")
    server = grpc.server(
        rest,
        options=[*rpc.CHANNEL_OPTIONS, _LET_IN, ("grpc.so_reuseport", int(shares_port))],
        maximum_concurrent_rpcs=_WAITING + _STREAMS + _REST + _QUEUED,
    )
    unary = Unary(server, pool, max_waiting, partial(_refusal, pool, max_waiting))
    waiting = ThreadPoolExecutor(_WAITING, "door-waiting")  # threads are begun as they are needed
    streams = _Streams()
    register(_Guarded(server, unary, _Loop(asyncio.get_running_loop(), waiting), streams))
    state = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)

    def set_ready(ready: bool) -> None:
        status = health_pb2.HealthCheckResponse
        for name in ("", *names):
            state.set(name, status.SERVING if ready else status.NOT_SERVING)

    set_ready(False)
    rpc.bind(server, address)
    server.start()
    unary.open()
    try:
        yield set_ready
    finally:
        set_ready(False)
        await asyncio.to_thread(server.stop(drain_s).wait)
        await asyncio.to_thread(pool.close, drain_s)
        for threaded in (rest, waiting, streams.threads):
            threaded.shutdown(wait=False, cancel_futures=True)


def _refusal(pool: Pool, most: int) -> Ending:
    """Say when to come again, to a call that comes while too many wait."""
    pause = min(max(pool.waited_ns / 1e9, _PAUSE_S[0]), _PAUSE_S[1])
    return _ending(
        "a call",
        Overloaded(
            f"{most} requests wait already: send it again, later and slower, or add instances",
            retry_after_s=pause * random.uniform(1, 1.5),  # or all would be back at once
        ),
    )


class _Streams:
    """Threads of streams in both directions, and room for so many."""

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(_STREAMS + 1, "door-stream")  # one is there to refuse
        self._room = threading.Semaphore(_STREAMS)

    def admitted(self, behaviour: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """Return a handler that refuses a stream too many."""

        def call(requests: Any, context: Any) -> Iterator[Any]:
            if not self._room.acquire(blocking=False):
                raise Overloaded(
                    f"{_STREAMS} streams are open already: close one, or send calls of one request",
                    retry_after_s=1.0,
                )
            try:
                yield from behaviour(map(_let_in, requests), context)
            finally:
                self._room.release()

        return call


def _on(threads: ThreadPoolExecutor, behaviour: Any) -> Any:
    """Return a handler that runs on `threads`."""
    behaviour.experimental_thread_pool = threads
    return behaviour


def check_free(address: str) -> None:
    """Raise `Unavailable` where somebody listens on `address`, a host:port, already, or it is none of ours."""
    host, _, port = address.rpartition(":")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that ended are nobody's
            tried.bind(where)
    except OSError as error:
        raise Unavailable(f"cannot listen on {address}: {error.strerror or error}") from error


class _Loop:
    """Lets plain handlers stand for coroutines: they run on the event loop, and a thread waits for them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: ThreadPoolExecutor) -> None:
        self._loop = loop
        self.threads = threads

    def unary(self, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        """Return a handler that answers what the coroutine function `behaviour` does."""
        return lambda request, context: _Waiting(self._loop, context).until(behaviour(request, context))

    def stream(self, behaviour: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        """Return a handler that yields what the asynchronous generator `behaviour` does."""
        end = object()

        def call(request: Any, context: Any) -> Iterator[Any]:
            waiting, answers = _Waiting(self._loop, context), behaviour(request, context)

            async def following() -> Any:
                return await anext(answers, end)

            while (answer := waiting.until(following())) is not end:
                yield answer

        return call


class _Waiting:
    """A thread's waiting for the coroutines of one call, one after the other, of nobody's interest once its caller has gone."""

    __slots__ = ("_future", "_has_gone", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, context: Any) -> None:
        self._loop = loop
        self._future: Future[Any] | None = None
        # Said once a call: gRPC keeps what it is to call back until the call has ended, and a future keeps its answer.
        self._has_gone = not context.add_callback(self._leave)

    def until(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Return what `work` does on the loop."""
        self._future = future = asyncio.run_coroutine_threadsafe(work, self._loop)
        if self._has_gone:  # looked at after the future is there for whoever leaves meanwhile
            future.cancel()
        return future.result()

    def _leave(self) -> None:
        self._has_gone = True
        if self._future is not None:
            self._future.cancel()


class _Guarded:
    """Stands for the server while handlers are added, and wraps each of them."""

    def __init__(self, server: grpc.Server, unary: Unary, loop: _Loop, streams: _Streams) -> None:
        self._server = server
        self._unary = unary
        self._loop = loop
        self._streams = streams

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Take no handler by a search through all: each is registered by its name below."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add a service's handlers."""
        rest = {}
        for name, handler in handlers.items():
            method = f"/{service}/{name}"
            if handler.unary_unary is not None and not inspect.iscoroutinefunction(handler.unary_unary):
                self._unary.add(Method(method, _answering(method, handler), partial(_ending, method)))
            else:
                rest[name] = self._wrap(method, handler)
        self._server.add_registered_method_handlers(service, rest)

    def _wrap(self, method: str, handler: Any) -> Any:
        coders = (_reading(handler.request_deserializer), handler.response_serializer)
        loop, streams = self._loop, self._streams
        if inspect.isasyncgenfunction(handler.unary_stream):
            streaming = _on(loop.threads, _streaming(method, loop.stream(handler.unary_stream)))
            return grpc.unary_stream_rpc_method_handler(streaming, *coders)
        if handler.stream_stream is not None:
            both = _on(streams.threads, _streaming(method, streams.admitted(handler.stream_stream)))
            return grpc.stream_stream_rpc_method_handler(both, *coders)
        if inspect.iscoroutinefunction(handler.unary_unary):
            waiting = _on(loop.threads, _unary(method, loop.unary(handler.unary_unary)))
            return grpc.unary_unary_rpc_method_handler(waiting, *coders)
        return handler


def _reading(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return what reads a request, or makes a refusal of one that cannot be read: gRPC's own has no remedy in it."""

    def reading(message: bytes) -> Any:
        if len(message) > rpc.MESSAGE_LIMIT:
            return Rejected(
                f"the request has {len(message):,} bytes, and {rpc.MESSAGE_LIMIT:,} is the most: send fewer rows at once"
            )
        try:
            return read(message)
        except DecodeError:
            return Rejected("the request cannot be read: make it by the service's .proto")

    return reading


def _let_in(request: Any) -> Any:
    """Return a request as it was read, or raise the refusal that it was read as."""
    if isinstance(request, Rejected):
        raise request
    return request


def _answering(method: str, handler: Any) -> Callable[[bytes, Context], bytes]:
    """Return how a plain handler of one request answers, from bytes to bytes."""
    read, behaviour, write = (
        _reading(handler.request_deserializer),
        handler.unary_unary,
        handler.response_serializer,
    )

    def answer(message: bytes, context: Context) -> bytes:
        if context.time_remaining() <= 0:  # that its caller has gone may not have been heard yet
            raise _TooLate
        working_until(context.time_remaining)
        request = _let_in(read(message))
        for key, value in context.invocation_metadata():
            if key == "traceparent":
                with telemetry.span(method, parent=str(value), kind=SpanKind.SERVER):
                    return bytes(write(behaviour(request, context)))
        answered: bytes = write(behaviour(request, context))
        return answered

    return answer


class _TooLate(Exception):
    """A call's turn comes after its deadline."""


def _unary(method: str, behaviour: Callable[..., Any]) -> Callable[..., Any]:
    def call(request: Any, context: Any) -> Any:
        working_until(context.time_remaining)
        metadata = dict(context.invocation_metadata())
        try:
            with telemetry.span(method, parent=metadata.get("traceparent"), kind=SpanKind.SERVER):
                return behaviour(_let_in(request), context)
        except Exception as error:  # the edge of a call
            _abort(method, context, error)

    return call


def _streaming(method: str, behaviour: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    def call(request: Any, context: Any) -> Iterator[Any]:
        working_until(context.time_remaining)
        metadata = dict(context.invocation_metadata())
        try:
            with telemetry.span(method, parent=metadata.get("traceparent"), kind=SpanKind.SERVER):
                yield from behaviour(_let_in(request), context)
        except Exception as error:  # the edge of a call
            if not context.is_active():
                return  # the caller has gone, and nobody is to be told
            _abort(method, context, error)

    return call


def _abort(method: str, context: Any, error: Exception) -> None:
    """End a call of `grpc.server` as an error of it is to be told."""
    ending = _ending(method, error)
    context.set_trailing_metadata(ending.metadata)
    context.abort(ending.code, ending.sentence)


def _ending(method: str, error: Exception) -> Ending:
    """Return the status that `error` stands for; a fault of ours must not look like one of the caller's."""
    if isinstance(error, TrimtabError):
        return Ending(rpc.status_of(error), str(error), rpc.details_of(error))
    if isinstance(error, _TooLate):
        return Ending(
            grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline had passed before the request's turn came"
        )
    if isinstance(error, NotImplementedError):
        return Ending(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not offered by this server")
    if isinstance(error, CancelledError):
        return Ending(grpc.StatusCode.CANCELLED, f"{method} was cancelled by its caller")
    log.error("%s failed", method, exc_info=error)
    return Ending(
        grpc.StatusCode.INTERNAL, f"{method} failed by a fault of ours: the log of the service has more"
    )
