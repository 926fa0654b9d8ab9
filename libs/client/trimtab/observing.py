"""Asking monitoring for metrics and reports: as a part of `Trimtab`, and for code without an event loop.

    with Observer.connect() as observer:
        frame = observer.metrics("trip-minutes", names=["mae"]).pandas()
        hours = observer.metrics(source="pickups").pandas()

A watch goes on where it was when monitoring, or the way to it, was away for a while: no
metric is missed, and none comes twice.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypedDict, Unpack

import grpc
import pyarrow as pa
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.timestamp_pb2 import Timestamp
from trimtab_contracts.monitoring.v1 import monitoring_pb2 as monitoring
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Metric
from trimtab_contracts.monitoring.v1.monitoring_pb2_grpc import MonitoringStub
from trimtab_runtime import telemetry
from trimtab_runtime.clock import from_timestamp, to_timestamp
from trimtab_runtime.errors import Unavailable

from trimtab import finding
from trimtab.calling import failure
from trimtab.datasets import Rows

PATIENCE_S: Final = 60.0
"""How long a watch waits for a monitoring that is away."""
_AGAIN_S: Final = 0.5
_REPORT_S: Final = 660.0
_TYPES: Final = {
    FieldDescriptor.CPPTYPE_STRING: pa.string(),
    FieldDescriptor.CPPTYPE_DOUBLE: pa.float64(),
    FieldDescriptor.CPPTYPE_INT32: pa.int32(),
    FieldDescriptor.CPPTYPE_INT64: pa.int64(),
    FieldDescriptor.CPPTYPE_BOOL: pa.bool_(),
}


class Filters(TypedDict, total=False):
    """Which metrics of a model, or of a source, are asked for; what is left out, or empty, excludes nothing."""

    source: str
    """Whose metrics are asked for where no model is named."""
    names: Sequence[str]
    features: Sequence[str]
    """An empty one stands for the model as a whole."""
    arms: Sequence[str]
    """`champion` or `challenger`; an empty one stands for the rows of all."""
    slices: Sequence[str]
    """Values of the feature; an empty one stands for the rows of all."""
    slices_of: Sequence[str]
    """The features whose values the slices are."""
    version: int
    subject: str
    """`drift`, `performance` or `quality`: the topic is `metrics.` and it."""
    since_ms: int | None
    """Event time, milliseconds since the epoch, at or after which the window ends."""
    until_ms: int | None
    """And before which it does."""


@dataclass(frozen=True, slots=True)
class Metrics(Rows):
    """Metrics, in order of time: a row each, with a column for each field of the message; null where it has no value."""

    messages: tuple[Metric, ...] = field(repr=False)
    _table: pa.Table = field(repr=False)

    @classmethod
    def of(cls, messages: Iterable[Metric]) -> Self:
        """Return messages as a table."""
        held = tuple(messages)
        columns = {each.name: _column(each, held) for each in Metric.DESCRIPTOR.fields}
        return cls(held, pa.table(columns))


@dataclass(frozen=True, slots=True)
class Report:
    """Evidently's report of rows of a version beside its reference."""

    version: int
    rows: int
    first_ms: int
    """Event time of the oldest row."""
    last_ms: int
    html: bytes = field(repr=False)
    json: bytes = field(repr=False)

    @classmethod
    def of(cls, parts: Iterable[monitoring.MakeReportResponse]) -> Self:
        """Put a report together."""
        about = monitoring.MakeReportResponse.About()
        html, text = bytearray(), bytearray()
        for part in parts:
            about.MergeFrom(part.about)
            html += part.html
            text += part.json
        first_ms, last_ms = from_timestamp(about.first), from_timestamp(about.last)
        return cls(about.version, about.rows, first_ms, last_ms, bytes(html), bytes(text))


class Observing:
    """A part of `Trimtab`; what it asks of monitoring about metrics and reports."""

    _monitoring: Any

    async def metrics(self, model: str = "", *, limit: int = 0, **filters: Unpack[Filters]) -> Metrics:
        """Return the newest `limit` metrics of a model, or of a source, that match, or all of them, in order of event time.

        Raises:
            NotFound: there is no such model or source.
            Rejected: both are named.
        """
        request = monitoring.QueryRequest(filter=_filter(model, filters), limit=limit)
        return Metrics.of(
            [metric async for part in self._monitoring.stream("Query", request) for metric in part.metrics]
        )

    async def watch_metrics(
        self, model: str = "", *, patience_s: float = PATIENCE_S, **filters: Unpack[Filters]
    ) -> AsyncIterator[Metric]:
        """Yield metrics of a model, or of a source, that match as they are told, for ever; with `since_ms`, first what there is.

        A metric that is revised comes again, under the same id.

        Raises:
            NotFound: there is no such model or source.
            Rejected: both are named.
            Unavailable: monitoring has been away for longer than `patience_s`.
        """
        position = _Position(model, filters, patience_s)
        while True:
            try:
                async for answer in self._monitoring.stream("Watch", position.request()):
                    for metric in position.heard(answer):
                        yield metric
                position.lost(Unavailable("monitoring ended the watch"))
            except Unavailable as error:
                position.lost(error)
            await asyncio.sleep(_AGAIN_S)

    async def report(
        self,
        model: str,
        *,
        since_ms: int | None = None,
        until_ms: int | None = None,
        rows: int = 0,
        episode: str = "",
    ) -> Report:
        """Return a report of the newest `rows` (10,000, if 0) predictions of the live version in [since, until).

        With an `episode` of drift, or its loop, which has the same id, it is the one that was made when that began.

        Raises:
            NotFound: there is nothing to report of, or no such episode.
            Rejected: an episode is named, and times or rows as well.
        """
        request = _report_request(model, since_ms, until_ms, rows, episode)
        stream = self._monitoring.stream("MakeReport", request, timeout=_REPORT_S)
        return Report.of([part async for part in stream])


class Observer:
    """Asks monitoring without an event loop; any thread may, and several at once.

    Failures are `Rejected` (the request is wrong) or `Unavailable` (try again later).
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub: Any = MonitoringStub(channel)

    @classmethod
    @contextmanager
    def connect(cls, addresses: str | None = None) -> Iterator[Self]:
        """Open a channel to monitoring: host:port, or several IP addresses with ports and commas between.

        Without them it is the Trimtab that the environment's variables name, or else the stack in TRIMTAB_DIR, `.trimtab`.

        Raises:
            Rejected: they are several, and not all IP addresses of one version.
            Unavailable: there is none.
        """
        with finding.channel("monitoring", addresses) as channel:
            yield cls(channel)

    def metrics(self, model: str = "", *, limit: int = 0, **filters: Unpack[Filters]) -> Metrics:
        """Return what `Trimtab.metrics` does."""
        request = monitoring.QueryRequest(filter=_filter(model, filters), limit=limit)
        return Metrics.of(metric for part in self._stream("Query", request) for metric in part.metrics)

    def watch_metrics(
        self, model: str = "", *, patience_s: float = PATIENCE_S, **filters: Unpack[Filters]
    ) -> Iterator[Metric]:
        """Yield what `Trimtab.watch_metrics` does."""
        position = _Position(model, filters, patience_s)
        while True:
            try:
                for answer in self._stream("Watch", position.request()):
                    yield from position.heard(answer)
                position.lost(Unavailable("monitoring ended the watch"))
            except Unavailable as error:
                position.lost(error)
            time.sleep(_AGAIN_S)

    def report(
        self,
        model: str,
        *,
        since_ms: int | None = None,
        until_ms: int | None = None,
        rows: int = 0,
        episode: str = "",
    ) -> Report:
        """Return what `Trimtab.report` does."""
        request = _report_request(model, since_ms, until_ms, rows, episode)
        return Report.of(self._stream("MakeReport", request, timeout=_REPORT_S))

    def _stream(self, method: str, request: Any, **options: Any) -> Iterator[Any]:
        parent = telemetry.traceparent()
        metadata = [] if parent is None else [("traceparent", parent)]
        call = getattr(self._stub, method)(request, metadata=metadata, **options)
        try:
            yield from call
        except grpc.RpcError as error:
            raise failure("monitoring", error) from error
        finally:
            call.cancel()


class _Position:
    """Where a watch stands, and since when it hears nothing."""

    def __init__(self, model: str, filters: Filters, patience_s: float) -> None:
        self._request = monitoring.WatchRequest(filter=_filter(model, filters))
        self._patience_s = patience_s
        self._heard_s = time.monotonic()

    def request(self) -> monitoring.WatchRequest:
        """Return what goes on from here."""
        return self._request

    def heard(self, answer: monitoring.WatchResponse) -> Sequence[Metric]:
        """Return what an answer tells, and stand behind it."""
        self._request.after = answer.position
        self._heard_s = time.monotonic()
        return answer.metrics

    def lost(self, error: Unavailable) -> None:
        """Raise `error` if monitoring has been away for too long."""
        if time.monotonic() - self._heard_s > self._patience_s:
            raise error


def _filter(model: str, filters: Filters) -> monitoring.MetricFilter:
    since_ms, until_ms = filters.get("since_ms"), filters.get("until_ms")
    return monitoring.MetricFilter(
        model=model,
        source=filters.get("source", ""),
        names=filters.get("names", ()),
        features=filters.get("features", ()),
        arms=filters.get("arms", ()),
        slices=filters.get("slices", ()),
        slices_of=filters.get("slices_of", ()),
        version=filters.get("version", 0),
        subject=filters.get("subject", ""),
        since=None if since_ms is None else to_timestamp(since_ms),
        until=None if until_ms is None else to_timestamp(until_ms),
    )


def _report_request(
    model: str, since_ms: int | None, until_ms: int | None, rows: int, episode: str
) -> monitoring.MakeReportRequest:
    return monitoring.MakeReportRequest(
        model=model,
        since=None if since_ms is None else to_timestamp(since_ms),
        until=None if until_ms is None else to_timestamp(until_ms),
        rows=rows,
        episode=episode,
    )


def _column(field: FieldDescriptor, messages: Sequence[Any]) -> pa.Array:
    """Return a field of messages as a column; what is neither a plain value nor a time is JSON."""
    values = [
        getattr(message, field.name) if not field.has_presence or message.HasField(field.name) else None
        for message in messages
    ]
    if field.message_type is Timestamp.DESCRIPTOR:
        times = [None if value is None else from_timestamp(value) for value in values]
        return pa.array(times, pa.timestamp("ms", tz="UTC"))
    if field.is_repeated or field.cpp_type not in _TYPES:
        said = [json_format.MessageToDict(message, preserving_proto_field_name=True) for message in messages]
        return pa.array([json.dumps(each.get(field.name)) for each in said], pa.string())
    return pa.array(values, _TYPES[field.cpp_type])
