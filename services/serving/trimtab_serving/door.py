"""The hot door: a threaded gRPC server, with errors, health and reflection.

The twin of `trimtab_runtime.rpc.serving` for handlers that are plain functions: the
threaded server answers nearly twice as many calls as the asyncio one. Handlers are
wrapped once, when they are added, so that a call pays for nothing here but a `try`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry.trace import SpanKind
from trimtab_runtime import rpc, telemetry
from trimtab_runtime.errors import TrimtabError, Unavailable

from trimtab_serving.pool import Pool

log = logging.getLogger(__name__)


@asynccontextmanager
async def serving(
    address: str,
    register: Callable[[Any], None],
    names: Sequence[str],
    *,
    threads: int,
    max_waiting: int,
    drain_s: float = 5.0,
) -> AsyncIterator[Callable[[bool], None]]:
    """Serve on `address` what `register` adds to the server it is given, beside health and reflection.

    Yields a function that sets readiness; the door opens as not ready. On the way
    out no new call is taken, and calls in flight have `drain_s` seconds to end.

    Raises:
        Unavailable: the address cannot be had.
    """
    pool: Any = Pool(threads)  # all that grpc asks of an executor
    server = grpc.server(
        pool,
        options=[*rpc.CHANNEL_OPTIONS, ("grpc.so_reuseport", 0)],
        maximum_concurrent_rpcs=max_waiting,
    )
    register(_Guarded(server))
    state = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)

    def set_ready(ready: bool) -> None:
        status = health_pb2.HealthCheckResponse
        for name in ("", *names):
            state.set(name, status.SERVING if ready else status.NOT_SERVING)

    set_ready(False)
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise Unavailable(
            f"cannot listen on {address}: another process has the port, or the address is not ours"
        ) from error
    server.start()
    try:
        yield set_ready
    finally:
        set_ready(False)
        await asyncio.to_thread(server.stop(drain_s).wait)
        await asyncio.to_thread(pool.close, drain_s)


class _Guarded:
    """Stands for the server while handlers are added, and wraps each of them."""

    def __init__(self, server: grpc.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Take no handler by a search through all: each is registered by its name below."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add a service's handlers."""
        self._server.add_registered_method_handlers(
            service, {name: _wrap(f"/{service}/{name}", handler) for name, handler in handlers.items()}
        )


def _wrap(method: str, handler: Any) -> Any:
    if handler.unary_unary is None:
        return handler
    behaviour = handler.unary_unary

    def call(request: Any, context: Any) -> Any:
        try:
            for key, value in context.invocation_metadata():
                if key == "traceparent":
                    with telemetry.span(method, parent=value, kind=SpanKind.SERVER):
                        return behaviour(request, context)
            return behaviour(request, context)
        except TrimtabError as error:
            context.abort(rpc.status_of(error), str(error))
        except NotImplementedError:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not offered by this server")
        except Exception:  # the edge: a fault of ours must not look like one of the caller's
            log.exception("%s failed", method)
            context.abort(
                grpc.StatusCode.INTERNAL, f"{method} failed by a fault of serving: its log tells more"
            )

    return grpc.unary_unary_rpc_method_handler(
        call, handler.request_deserializer, handler.response_serializer
    )
