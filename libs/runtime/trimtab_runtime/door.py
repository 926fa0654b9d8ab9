"""The hot door: a threaded gRPC server, with errors, health and reflection.

The twin of `trimtab_runtime.rpc.serving` for handlers that are plain functions: the
threaded server answers nearly twice as many calls as the asyncio one. Handlers are
wrapped once, when they are added, so that a call pays for nothing here but a `try`.

A servicer may have handlers that are coroutines too, for calls that wait: those run
on the event loop of whoever opened the door, and wait in threads of their own.
"""

import asyncio
import inspect
import logging
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry.trace import SpanKind

from trimtab_runtime import rpc, telemetry
from trimtab_runtime.errors import TrimtabError, Unavailable
from trimtab_runtime.pool import Pool, working_until

log = logging.getLogger(__name__)

_WAITING = 32
"""Calls of coroutines that wait at once; more of them queue."""


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
    pool: Any = threads if isinstance(threads, Pool) else Pool(threads)  # all that grpc asks of an executor
    server = grpc.server(
        pool,
        options=[*rpc.CHANNEL_OPTIONS, ("grpc.so_reuseport", int(shares_port))],
        maximum_concurrent_rpcs=max_waiting,
    )
    waiting = ThreadPoolExecutor(_WAITING, "door-waiting")  # threads are begun as they are needed
    register(_Guarded(server, _Loop(asyncio.get_running_loop(), waiting)))
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
    try:
        yield set_ready
    finally:
        set_ready(False)
        await asyncio.to_thread(server.stop(drain_s).wait)
        await asyncio.to_thread(pool.close, drain_s)
        waiting.shutdown(wait=False, cancel_futures=True)


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
        return lambda request, context: self._wait(behaviour(request, context), context)

    def stream(self, behaviour: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        """Return a handler that yields what the asynchronous generator `behaviour` does."""
        end = object()

        def call(request: Any, context: Any) -> Iterator[Any]:
            answers = behaviour(request, context)

            async def following() -> Any:
                return await anext(answers, end)

            while (answer := self._wait(following(), context)) is not end:
                yield answer

        return call

    def _wait(self, work: Coroutine[Any, Any, Any], context: Any) -> Any:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        if not context.add_callback(future.cancel):  # of nobody's interest once the caller has gone
            future.cancel()
        return future.result()


class _Guarded:
    """Stands for the server while handlers are added, and wraps each of them."""

    def __init__(self, server: grpc.Server, loop: _Loop) -> None:
        self._server = server
        self._loop = loop

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Take no handler by a search through all: each is registered by its name below."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add a service's handlers."""
        self._server.add_registered_method_handlers(
            service,
            {name: _wrap(f"/{service}/{name}", handler, self._loop) for name, handler in handlers.items()},
        )


def _wrap(method: str, handler: Any, loop: _Loop) -> Any:
    coders = (handler.request_deserializer, handler.response_serializer)
    if inspect.isasyncgenfunction(handler.unary_stream):
        streaming: Any = _streaming(method, loop.stream(handler.unary_stream))
        streaming.experimental_thread_pool = loop.threads
        return grpc.unary_stream_rpc_method_handler(streaming, *coders)
    if handler.unary_unary is None:
        return handler
    if inspect.iscoroutinefunction(handler.unary_unary):
        waiting: Any = _unary(method, loop.unary(handler.unary_unary))
        waiting.experimental_thread_pool = loop.threads
        return grpc.unary_unary_rpc_method_handler(waiting, *coders)
    return grpc.unary_unary_rpc_method_handler(_unary(method, handler.unary_unary), *coders)


def _unary(method: str, behaviour: Callable[..., Any]) -> Callable[..., Any]:
    def call(request: Any, context: Any) -> Any:
        working_until(context.time_remaining)
        try:
            for key, value in context.invocation_metadata():
                if key == "traceparent":
                    with telemetry.span(method, parent=value, kind=SpanKind.SERVER):
                        return behaviour(request, context)
            return behaviour(request, context)
        except Exception as error:  # the edge of a call
            _abort(method, context, error)

    return call


def _streaming(method: str, behaviour: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    def call(request: Any, context: Any) -> Iterator[Any]:
        working_until(context.time_remaining)
        metadata = dict(context.invocation_metadata())
        try:
            with telemetry.span(method, parent=metadata.get("traceparent"), kind=SpanKind.SERVER):
                yield from behaviour(request, context)
        except Exception as error:  # the edge of a call
            _abort(method, context, error)

    return call


def _abort(method: str, context: Any, error: Exception) -> None:
    """End a call with the status that `error` stands for; a fault of ours must not look like one of the caller's."""
    if isinstance(error, TrimtabError):
        context.abort(rpc.status_of(error), str(error))
    if isinstance(error, NotImplementedError):
        context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not offered by this server")
    if isinstance(error, CancelledError):
        context.abort(grpc.StatusCode.CANCELLED, f"{method} was cancelled by its caller")
    log.error("%s failed", method, exc_info=error)
    context.abort(
        grpc.StatusCode.INTERNAL, f"{method} failed by a fault of ours: the log of the service has more"
    )
