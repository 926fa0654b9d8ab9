"""Kafka records as Trimtab writes and reads them.

Every record carries CloudEvents attributes as `ce_` headers (Kafka binding, binary
mode), the loop's id as `ce_correlationid`, and W3C `traceparent`. A record of type
`trimtab.watermark` carries no row: it says that nothing at or before its `ce_time`
will follow in its partition.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray
from trimtab_contracts.topics import Encoding, Topic

from trimtab_runtime import telemetry
from trimtab_runtime.clock import iso, parse_iso

M = TypeVar("M", bound=Message)
Headers = list[tuple[str, bytes]]

CONTENT_TYPE = "content-type"
IS_JSON = (CONTENT_TYPE, b"application/json")
"""The header of a row that is JSON, whatever its source's format."""
REPLAY_OF = "ce_replayof"
"""The header of a dead letter's row that is sent again: the letter's id."""
WATERMARK_TYPE = "trimtab.watermark"
_WATERMARK = WATERMARK_TYPE.encode()
MOST_ID_BYTES = 256
"""Of a row's id, or what it says that it is; what goes along with every row must not outweigh it."""
_ISO_LENGTH = len("2020-01-01T00:00:00.000Z")
_LEAST, _MOST = (
    np.frombuffer(text, np.uint8) for text in (b"0000-00-00T00:00:00.000Z\0", b"9999-99-99T99:99:99.999Z\0")
)
"""Between them, byte by byte, is what `clock.iso` writes."""
_CONTENT_TYPES = {
    Encoding.ROW: b"application/json",
    Encoding.JSON: b"application/json",
    Encoding.BINARY: b"application/protobuf",
}


class Outgoing(msgspec.Struct, frozen=True):
    """A record to write."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Record(Generic[M]):
    """A record that was read: its message (None for a tombstone) and where it came from."""

    message: M
    topic: str
    partition: int
    offset: int
    key: bytes | None
    headers: dict[str, bytes]
    timestamp_ms: int

    @property
    def id(self) -> str:
        """The CloudEvents id, or the record's place where there is none."""
        found = self.headers.get("ce_id")
        return found.decode() if found else f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def traceparent(self) -> str | None:
        """The trace it belongs to."""
        found = self.headers.get("traceparent")
        return found.decode() if found else None


def headers(
    *,
    id: str,
    type: str,
    source: str,
    time_ms: int,
    subject: str = "",
    correlation: str = "",
    content_type: bytes = b"application/json",
    traceparent: str | None = None,
) -> Headers:
    """Return the headers of a record: CloudEvents attributes and the current trace, or the one given."""
    built: Headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", id.encode()),
        ("ce_type", type.encode()),
        ("ce_source", source.encode()),
        ("ce_time", iso(time_ms).encode()),
        (CONTENT_TYPE, content_type),
    ]
    if subject:
        built.append(("ce_subject", subject.encode()))
    if correlation:
        built.append(("ce_correlationid", correlation.encode()))
    if trace := traceparent or telemetry.traceparent():
        built.append(("traceparent", trace.encode()))
    return built


def outgoing(
    topic: Topic[M],
    message: M,
    *,
    key: str,
    id: str,
    source: str,
    time_ms: int,
    correlation: str = "",
    traceparent: str | None = None,
) -> Outgoing:
    """Return the record that carries `message` on `topic`."""
    return Outgoing(
        topic.name,
        key.encode(),
        topic.encode(message),
        headers(
            id=id,
            type=message.DESCRIPTOR.full_name,
            source=source,
            time_ms=time_ms,
            subject=key,
            correlation=correlation,
            content_type=_CONTENT_TYPES[topic.encoding],
            traceparent=traceparent,
        ),
    )


def row_headers(*, id: str, source: str, event_time_ms: int, arrived_at_ms: int) -> Headers:
    """Return the headers of a user's row; kept short, for there are many."""
    return rows_headers(
        [id], source, np.array([event_time_ms], np.int64), np.array([arrived_at_ms], np.int64)
    )[0]


def rows_headers(
    ids: Iterable[str], source: str, event_time_ms: NDArray[np.int64], arrived_at_ms: NDArray[np.int64]
) -> list[Headers]:
    """Return the headers of many rows of one source; all of one length."""
    from_source = ("ce_source", source.encode())
    return [
        [
            ("ce_specversion", b"1.0"),
            ("ce_id", row_id.encode()),
            ("ce_type", b"trimtab.row"),
            from_source,
            ("ce_time", time),
            ("ce_arrivedat", arrived),
        ]
        for row_id, time, arrived in zip(ids, _isos(event_time_ms), _isos(arrived_at_ms), strict=True)
    ]


def watermark_headers(*, source: str, time_ms: int, origin: int, origins: int) -> Headers:
    """Return the headers of a watermark that speaks for partition `origin` of `origins` of the input."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_type", _WATERMARK),
        ("ce_source", source.encode()),
        ("ce_time", iso(time_ms).encode()),
        ("ce_origin", f"{origin}/{origins}".encode()),
    ]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a row's headers, or a watermark's, say."""

    is_watermark: bool
    event_time_ms: int | None
    arrived_at_ms: int
    partition: int
    partitions: int


def origin(record: Any) -> Origin:
    """Read the headers of a raw aiokafka record of a row topic.

    A header that cannot be read counts as absent: `arrived_at` is then the time at
    which the broker took the record.
    """
    found = dict(record.headers)
    arrived_at_ms = _time(found.get("ce_arrivedat"))
    part, _, parts = found.get("ce_origin", b"0/1").partition(b"/")
    return Origin(
        is_watermark=found.get("ce_type") == _WATERMARK,
        event_time_ms=_time(found.get("ce_time")),
        arrived_at_ms=int(record.timestamp) if arrived_at_ms is None else arrived_at_ms,
        partition=int(part) if part.isdigit() else 0,
        partitions=int(parts) if parts.isdigit() else 1,
    )


def is_watermark(record: Any) -> bool:
    """Whether a raw aiokafka record of a row topic carries no row, but a promise."""
    return ("ce_type", _WATERMARK) in record.headers


def arrivals_ms(rows: Sequence[Any]) -> NDArray[np.int64]:
    """Return when raw aiokafka records of a row topic arrived, as `origin` says it of each, at a fraction of the cost."""
    return parse_times(
        [dict(record.headers).get("ce_arrivedat") for record in rows],
        np.array([record.timestamp for record in rows], np.int64),
    )


def parse_times(texts: Sequence[bytes | None], otherwise: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the instants that headers state, and `otherwise` where one cannot be read or is absent."""
    column = np.array(texts, f"S{len(_MOST)}")
    characters = column.view(np.uint8).reshape(len(texts), len(_MOST))
    if ((characters >= _LEAST) & (characters <= _MOST)).all():
        try:
            return column.astype(f"S{_ISO_LENGTH - 1}").astype("datetime64[ms]").astype(np.int64)
        except ValueError:
            pass  # one of them is no time: find out which
    read = [
        instead if (time_ms := _time(text)) is None else time_ms
        for text, instead in zip(texts, otherwise.tolist(), strict=True)
    ]
    return np.array(read, np.int64)


def ids(rows: Sequence[Any]) -> list[str]:
    """Return the ids of raw aiokafka records of a row topic: what each is called, or its place if it has no usable id."""
    return [row_id(row, dict(row.headers)) for row in rows]


def row_id(record: Any, headers: Mapping[str, bytes | None]) -> str:
    """Return what `ids` says of one record, whose headers have been read."""
    found = given_id(headers)
    return found.decode(errors="replace") if found else f"{record.topic}/{record.partition}/{record.offset}"


def given_id(headers: Mapping[str, bytes | None]) -> bytes:
    """Return what the headers of a row call it; nothing if they do not, or if that can be no id."""
    found = headers.get("ce_id") or b""
    return found if len(found) <= MOST_ID_BYTES else b""


def content_type(record: Any) -> str:
    """Return what a raw aiokafka record says that it is; nothing if it does not, or if that can be no content type."""
    found = dict(record.headers).get(CONTENT_TYPE) or b""
    return found.decode() if found.isascii() and len(found) <= MOST_ID_BYTES else ""


def is_json(record: Any) -> bool:
    """Whether a raw aiokafka record says that it is JSON."""
    return content_type(record).partition(";")[0].strip().lower() == "application/json"


def read(topic: Topic[M], record: Any) -> Record[M]:
    """Return the message in a raw aiokafka record.

    Raises:
        Undecodable: the value is no message of the topic.
    """
    return Record(
        message=topic.decode(record.value),
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key,
        headers=dict(record.headers),
        timestamp_ms=record.timestamp,
    )


async def send_all(producer: Any, records: Iterable[Outgoing] | Sequence[Outgoing]) -> None:
    """Send `records` in order and wait until Kafka has acknowledged every one."""
    waiting = [
        await producer.send(
            record.topic,
            value=record.value,
            key=record.key,
            headers=record.headers,
            partition=record.partition,
        )
        for record in records
    ]
    for future in waiting:
        await future


def _time(value: bytes | None) -> int | None:
    if not value:
        return None
    try:
        return parse_iso(value.decode())
    except ValueError:
        return None


def _isos(times_ms: NDArray[np.int64]) -> list[bytes]:
    """Return what `clock.iso` says of each."""
    texts = np.datetime_as_string(times_ms.view("datetime64[ms]"), timezone="UTC")
    return list(texts.astype(f"S{_ISO_LENGTH}").tolist())
