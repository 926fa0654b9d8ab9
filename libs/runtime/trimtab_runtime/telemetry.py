"""Traces and structured logs.

A trace goes through Kafka in the `traceparent` header and through gRPC in the
metadata of that name; no span stays open across a wait. Spans go to an OTLP
collector where `OTEL_EXPORTER_OTLP_ENDPOINT` names one, and to a file of JSON lines
where a trace file is configured.
"""

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.trace import Link, Span, SpanContext, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_PROPAGATOR = TraceContextTextMapPropagator()
_TRACER = trace.get_tracer("trimtab")


class FileSpanExporter(SpanExporter):
    """Writes each finished span as one JSON line."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", buffering=1)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append `spans`."""
        for span in spans:
            context, parent = span.context, span.parent
            self._file.write(
                json.dumps(
                    {
                        "trace_id": f"{context.trace_id:032x}",
                        "span_id": f"{context.span_id:016x}",
                        "parent_id": f"{parent.span_id:016x}" if parent else None,
                        "links": [f"{link.context.trace_id:032x}" for link in span.links],
                        "service": span.resource.attributes.get("service.name"),
                        "name": span.name,
                        "start_ns": span.start_time,
                        "end_ns": span.end_time,
                        "status": span.status.status_code.name,
                        "attributes": dict(span.attributes or {}),
                    }
                )
                + "\n"
            )
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Close the file."""
        self._file.close()


class _Seldom(logging.Filter):
    """Lets each logger of a library say one thing a second: with a broker away, aiokafka says a hundred."""

    def __init__(self, library: str) -> None:
        super().__init__()
        self._library = library
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is written."""
        if record.name.partition(".")[0] != self._library:
            return True
        if record.created - self._last.get(record.name, 0.0) < 1.0:
            return False
        self._last[record.name] = record.created
        return True


def start(service: str, *, instance: str, trace_file: Path | None, otlp: bool) -> None:
    """Set up logs on standard error and the exporters of spans, once a process."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_trace,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    handler.addFilter(_Seldom("aiokafka"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("aiokafka", "faust", "httpx", "mode", "kafka"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    provider = TracerProvider(
        resource=Resource.create({"service.name": service, "service.instance.id": instance})
    )
    if otlp:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    if trace_file is not None:
        provider.add_span_processor(SimpleSpanProcessor(FileSpanExporter(trace_file)))
    trace.set_tracer_provider(provider)


@contextmanager
def span(
    name: str,
    *,
    parent: str | None = None,
    link: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    **attributes: str | int,
) -> Iterator[Span]:
    """Open a span; `parent` and `link` are `traceparent` texts, as stored or received.

    Without a parent the span continues the current one, or starts a trace.
    """
    links = [Link(context) for context in [_span_context(link)] if context.is_valid]
    with _TRACER.start_as_current_span(
        name, context=_context(parent), links=links, kind=kind, attributes=attributes
    ) as opened:
        yield opened


def traceparent() -> str | None:
    """Return the current span's `traceparent`, to send or to store with work that goes on later."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get("traceparent")


def trace_id(parent: str | None = None) -> str:
    """Return the trace id in `parent`, or the current one, as 32 hex digits; empty if there is none."""
    context = _span_context(parent) if parent else trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""


def _context(parent: str | None) -> Context | None:
    return _PROPAGATOR.extract({"traceparent": parent}) if parent else None


def _span_context(parent: str | None) -> SpanContext:
    context = _context(parent)
    return trace.get_current_span(context).get_span_context() if context else trace.INVALID_SPAN_CONTEXT


def _add_trace(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if found := trace_id():
        event["trace_id"] = found
    return event
