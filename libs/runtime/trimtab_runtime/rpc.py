"""gRPC doors and clients: errors to statuses, health, reflection, trace context.

A servicer raises `Rejected` or `Unavailable` and knows no status; the one table here
turns them into codes, and back again on the client's side. What it did not mean to
raise is logged, and told as a fault of the service.
"""

import ipaddress
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry.trace import SpanKind

from trimtab_runtime import telemetry
from trimtab_runtime.errors import Conflict, Fault, NotFound, Overloaded, Rejected, TrimtabError, Unavailable

log = logging.getLogger(__name__)

Detail = TypeVar("Detail", bound=Message)
Metadata = tuple[tuple[str, str | bytes], ...]

STATUSES: dict[type[TrimtabError], grpc.StatusCode] = {
    NotFound: grpc.StatusCode.NOT_FOUND,
    Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Rejected: grpc.StatusCode.INVALID_ARGUMENT,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    TrimtabError: grpc.StatusCode.INTERNAL,
}
MESSAGE_LIMIT = 64 * 1024 * 1024
_RETRIED = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [
                {"service": "trimtab.serving.v1.Prediction"},
                {"service": "trimtab.features.v1.FeatureStore", "method": "GetOnlineFeatures"},
            ],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5},
}
"""What met a dying instance, and only looks things up, is asked of another, and what met a full one again when it says;
calls that change things are the caller's to repeat. gRPC draws each pause at random and never goes past a call's deadline."""
CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    # All faults of a project are told at once, and a status travels as metadata, which gRPC else cuts at 8 KiB.
    ("grpc.max_metadata_size", 1024 * 1024),
    ("grpc.absolute_max_metadata_size", 2 * 1024 * 1024),
]
CLIENT_OPTIONS = [
    *CHANNEL_OPTIONS,
    ("grpc.service_config", json.dumps(_RETRIED)),
    ("grpc.per_rpc_retry_buffer_size", 8 * 1024 * 1024),  # a larger request is not repeated
]
"""Of a channel to our services, synchronous or not."""
_DETAILS_KEY = "grpc-status-details-bin"
"""Where gRPC's clients in all languages look for a google.rpc.Status: faults are in it as BadRequest, a pause as RetryInfo."""
_PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""Where gRPC's own retries look for the pause."""
_TOO_LARGE = "larger than max"
"""What gRPC says of a message."""
_CUT_OFF = "Internal error from Core"
"""What gRPC's asynchronous client says when the other side ends a stream that it still sends on; the status is lost."""


def status_of(error: TrimtabError) -> grpc.StatusCode:
    """Return the status that an error of ours becomes: that of its nearest ancestor in the table."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def error_of(error: grpc.RpcError) -> TrimtabError:
    """Return the error of ours that a failed call stands for."""
    code, details = error.code(), error.details() or "no details"
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if _TOO_LARGE in details:
            return Rejected(f"{details}: send, or ask for, less at once")
        pause = _unpacked(error, RetryInfo()).retry_delay.ToTimedelta().total_seconds()
        return Overloaded(details, retry_after_s=pause) if pause else Overloaded(details)
    if details == _CUT_OFF:
        return Unavailable("the other side ended the stream: ask again what was not answered")
    known = _error(code, details)
    if isinstance(known, Rejected):
        known.faults = tuple(_faults(error))
    return known


def error_by_number(number: int, details: str) -> TrimtabError:
    """Return the error of ours that a status stands for, by gRPC's number of it."""
    return _error(
        next((code for code in grpc.StatusCode if code.value[0] == number), grpc.StatusCode.UNKNOWN), details
    )


def _error(code: grpc.StatusCode, details: str) -> TrimtabError:
    for kind, status in STATUSES.items():
        if status is code:
            return kind(details)
    if code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        return Unavailable(f"no answer in time: {details}")
    return TrimtabError(f"the other side failed ({code.name}): {details}")


def _faults(error: grpc.RpcError) -> list[Fault]:
    bad = _unpacked(error, BadRequest())
    places = [(*found.field.partition(":"), found.description) for found in bad.field_violations]
    return [Fault(resource, path, sentence) for resource, _, path, sentence in places]


def _unpacked(error: grpc.RpcError, detail: Detail) -> Detail:
    """Return the detail of a status that is of the kind of `detail`; it as it is, where there is none."""
    metadata: Any = error.trailing_metadata()
    for key, value in metadata or ():
        if key == _DETAILS_KEY:
            for packed in Status.FromString(value).details:
                packed.Unpack(detail)
    return detail


def details_of(error: TrimtabError) -> Metadata:
    """Return the trailing metadata that carries what a refusal says besides its sentence: its faults, or a pause."""
    detail: BadRequest | RetryInfo
    found: Metadata = ()
    if isinstance(error, Overloaded):
        detail = RetryInfo()
        detail.retry_delay.FromMicroseconds(round(error.retry_after_s * 1e6))
        found = ((_PUSHBACK_KEY, str(round(error.retry_after_s * 1000))),)
    elif isinstance(error, Rejected) and error.faults:
        detail = BadRequest()
        for fault in error.faults:
            detail.field_violations.add(field=f"{fault.resource}:{fault.path}", description=fault.sentence)
    else:
        return ()
    packed = Packed()
    packed.Pack(detail)
    status = Status(code=status_of(error).value[0], message=str(error), details=[packed])
    return (*found, (_DETAILS_KEY, status.SerializeToString()))


def _outcome(error: Exception, method: str) -> tuple[grpc.StatusCode, str, Metadata]:
    """Return the status, the sentence and the metadata that a call of `method` ends with."""
    if isinstance(error, grpc.RpcError):
        error = error_of(error)
    if isinstance(error, TrimtabError):
        return status_of(error), str(error), details_of(error)
    if isinstance(error, MessageSizeTooLargeError):
        return (
            grpc.StatusCode.INVALID_ARGUMENT,
            f"Kafka takes no record of this size ({error}): send less in it",
            (),
        )
    if isinstance(error, KafkaError):
        log.warning("%s: Kafka is away: %r", method, error)
        return grpc.StatusCode.UNAVAILABLE, f"Kafka is away: {error!r}", ()
    log.error("%s failed", method, exc_info=error)
    return grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}; the log of the service has more", ()


class Errors(grpc.aio.ServerInterceptor):
    """Runs each call in a span of the caller's trace and turns what it raises into a status."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler of one method."""
        handler = await continuation(details)
        if handler is None or details.method.startswith(("/grpc.health", "/grpc.reflection")):
            return handler
        parent = str(dict(details.invocation_metadata).get("traceparent") or "") or None
        if handler.response_streaming:
            wrapped = _streaming(handler.unary_stream or handler.stream_stream, details.method, parent)
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
        else:
            wrapped = _unary(handler.unary_unary or handler.stream_unary, details.method, parent)
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
        return make(wrapped, handler.request_deserializer, handler.response_serializer)


def _unary(behaviour: Callable[..., Any], method: str, parent: str | None) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> Any:
        with telemetry.span(method, parent=parent, kind=SpanKind.SERVER):
            try:
                return await behaviour(request, context)
            except Exception as error:  # the edge of a call
                await context.abort(*_outcome(error, method))

    return call


def _streaming(behaviour: Callable[..., Any], method: str, parent: str | None) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        with telemetry.span(method, parent=parent, kind=SpanKind.SERVER):
            try:
                async for answer in behaviour(request, context):
                    yield answer
            except Exception as error:  # the edge of a call
                await context.abort(*_outcome(error, method))

    return call


def limit(asked: int, *, unless: int, most: int) -> int:
    """Return how many a request asks for at most: `unless` it says, where it is 0, and never more than `most`.

    Raises:
        Rejected: it is below 0.
    """
    if asked < 0:
        raise Rejected(f"limit {asked} is below 0: ask for some, or leave it out for {unless:,}")
    return min(asked or unless, most)


@asynccontextmanager
async def serving(
    address: str, register: Callable[[grpc.aio.Server], None], names: Sequence[str], *, drain_s: float = 5.0
) -> AsyncIterator[Callable[[bool], Awaitable[None]]]:
    """Serve on `address` what `register` adds to the server, beside health and reflection.

    Yields a function that sets readiness; the door opens as not ready. On the way
    out, calls in flight have `drain_s` seconds to end.

    Raises:
        Unavailable: the address cannot be had.
    """
    server = grpc.aio.server(interceptors=[Errors()], options=[*CHANNEL_OPTIONS, ("grpc.so_reuseport", 0)])
    register(server)
    state = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)

    async def set_ready(ready: bool) -> None:
        status = (
            health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in ("", *names):
            await state.set(name, status)

    await set_ready(False)
    bind(server, address)
    await server.start()
    try:
        yield set_ready
    finally:
        await set_ready(False)
        await server.stop(drain_s)


def bind(server: Any, address: str) -> None:
    """Have a server, of threads or of a loop, listen on `address`.

    Raises:
        Unavailable: it cannot.
    """
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise Unavailable(
            f"cannot listen on {address}: another process has the port, or the address is not ours"
        ) from error


def _traced(details: Any) -> Any:
    parent = telemetry.traceparent()
    if parent is None:
        return details
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    metadata["traceparent"] = parent
    return details._replace(metadata=metadata)


def channel(addresses: str) -> grpc.aio.Channel:
    """Open a channel to a service; `addresses` are one, or several as `target_of` takes them.

    Raises:
        Rejected: they are several, and not all IP addresses of one version.
    """
    # One interceptor a kind: grpc.aio files an object under the first kind that it is.
    return grpc.aio.insecure_channel(
        target_of(addresses), options=CLIENT_OPTIONS, interceptors=[_UnaryCalls(), _StreamCalls()]
    )


def blocking_channel(addresses: str) -> grpc.Channel:
    """Open a channel for code without an event loop, which any thread may use; else as `channel` does."""
    return grpc.insecure_channel(target_of(addresses), options=CLIENT_OPTIONS)


def target_of(addresses: str) -> str:
    """Return where a channel goes: to one address, or to each of several in turn, which are IP addresses with commas between.

    A name is looked up by gRPC, and may stand for several addresses; it has no way to take several names.

    Raises:
        Rejected: they are several, and not all IPv4 or all IPv6.
    """
    parts = [part.strip() for part in addresses.split(",")]
    if len(parts) == 1:
        return parts[0]
    kind = _kind(parts[0])
    for part in parts:
        if not kind or _kind(part) != kind:
            raise Rejected(
                f"{part!r} cannot be one of several addresses, which are IP addresses with their ports, all IPv4 or all IPv6 in "
                "brackets: give one name that has an address for each instance, such as serving:50051"
            )
    return f"{kind}:{','.join(parts)}"


def _kind(address: str) -> str:
    """Return `ipv4` or `ipv6` as an IP address with a port is one; nothing if it is none."""
    host, _, port = address.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        version = ipaddress.ip_address(host.strip("[]")).version
    except ValueError:
        return ""
    return f"ipv{version}" if port.isdigit() and is_bracketed == (version == 6) else ""


class _UnaryCalls(grpc.aio.UnaryUnaryClientInterceptor):
    """Sends the current trace along with calls of one answer."""

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(_traced(details), request)


class _StreamCalls(grpc.aio.UnaryStreamClientInterceptor):
    """Sends the current trace along with calls that stream their answer."""

    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(_traced(details), request)
