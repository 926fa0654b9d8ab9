"""What becomes of a batch of raw records, and when ingestion moves event time on by itself."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from trimtab_contracts import topics
from trimtab_core.specs import parse
from trimtab_ingestion.consumers import Ingest
from trimtab_ingestion.heartbeat import due
from trimtab_ingestion.usecases import Contracts, key_of
from trimtab_runtime import records
from trimtab_runtime.clock import iso
from trimtab_runtime.records import Outgoing
from trimtab_runtime.specbook import SpecBook

NOW = 1_700_000_000_000


@pytest.fixture
def book() -> SpecBook:
    fields = {"id": {"type": "integer"}, "at": {"type": "timestamp"}, "x": {"type": "number", "min": 0}}
    spec = {"key": "id", "event_time": "at", "lateness": "1m", "partitions": 2, "fields": fields}
    book = SpecBook()
    book.put(parse("Source", {"metadata": {"name": "trips"}, "spec": spec}))
    return book


@pytest.fixture
def worker(book: SpecBook) -> Ingest:
    return Ingest(book, Contracts(), "raw.trips", 1)


def raw(offset: int, row: Any, *, key: str | None = None, arrived_ms: int = NOW) -> Any:
    value = row if isinstance(row, bytes) else json.dumps(row).encode()
    return SimpleNamespace(
        topic="raw.trips",
        partition=1,
        offset=offset,
        key=key.encode() if key is not None else str(row["id"]).encode() if isinstance(row, dict) else None,
        value=value,
        headers=[("ce_arrivedat", iso(arrived_ms).encode())],
        timestamp=NOW,
    )


def mark(offset: int, time_ms: int) -> Any:
    headers = records.watermark_headers(source="trips", time_ms=time_ms, origin=1, origins=2)
    return SimpleNamespace(
        topic="raw.trips", partition=1, offset=offset, key=None, value=b"", headers=headers, timestamp=NOW
    )


def row(id: int, x: float = 1.0, at_ms: int = NOW) -> dict[str, Any]:
    return {"id": id, "at": iso(at_ms), "x": x}


def to(topic: str, outputs: list[Outgoing]) -> list[Outgoing]:
    return [each for each in outputs if each.topic == topic]


def test_a_good_row_goes_on_unchanged_in_its_partition(worker: Ingest) -> None:
    record = raw(7, row(1))

    (event,) = to("events.trips", worker.process([record]))

    assert (event.key, event.value, event.partition) == (b"1", record.value, 1)
    origin = records.origin(SimpleNamespace(headers=event.headers, timestamp=0))
    assert (origin.event_time_ms, origin.arrived_at_ms) == (NOW, NOW)
    assert dict(event.headers)["ce_id"] == b"raw.trips/1/7"


def test_an_event_keeps_the_id_that_its_raw_record_has_if_that_can_be_one(worker: Ingest) -> None:
    batch = [raw(offset, row(offset)) for offset in range(4)]
    for record, name in zip(batch, (b"mine", b"", b"x" * 257, b"\xff"), strict=True):
        record.headers.append(("ce_id", name))

    events = to("events.trips", worker.process(batch))

    ids = [dict(event.headers)["ce_id"].decode() for event in events]
    assert ids == ["mine", "raw.trips/1/1", "raw.trips/1/2", "\ufffd"]


def test_a_bad_row_is_a_dead_letter_and_its_neighbours_go_on(worker: Ingest) -> None:
    outputs = worker.process(
        [raw(0, row(1)), raw(1, row(2, x=-1)), raw(2, b"{rubbish", key="k"), raw(3, row(3))]
    )

    assert [event.key for event in to("events.trips", outputs)] == [b"1", b"3"]
    letters = [topics.DEADLETTER.decode(each.value or b"") for each in to("deadletter", outputs)]
    assert [[reason.code for reason in letter.reasons] for letter in letters] == [
        ["out_of_range"],
        ["malformed_json"],
    ]
    assert letters[1].payload == b"{rubbish"
    (metric,) = to("metrics.quality", outputs)
    assert topics.METRICS_QUALITY.decode(metric.value or b"").value == 0.5


def test_a_record_that_is_not_keyed_by_the_sources_key_says_so(worker: Ingest) -> None:
    outputs = worker.process([raw(0, row(1), key="2")])

    (letter,) = [topics.DEADLETTER.decode(each.value or b"") for each in to("deadletter", outputs)]
    assert letter.reasons[0].code == "wrong_key"
    assert "'2'" in letter.reasons[0].message
    assert "'1'" in letter.reasons[0].message


def test_a_watermark_passes_in_order_and_is_reported(worker: Ingest) -> None:
    outputs = worker.process([raw(0, row(1)), mark(1, NOW + 5), raw(2, row(2))])

    kinds = [
        records.origin(SimpleNamespace(headers=each.headers, timestamp=0)).is_watermark
        for each in to("events.trips", outputs)
    ]
    assert kinds == [False, True, False]
    (report,) = to("watermarks", outputs)
    assert topics.WATERMARKS.decode(report.value or b"").partition == 1


def test_a_watermark_never_goes_back(worker: Ingest) -> None:
    worker.process([mark(0, NOW)])

    assert worker.process([mark(1, NOW - 1)]) == []


def test_the_same_batch_becomes_the_same(book: SpecBook) -> None:
    batch = [raw(0, row(1)), raw(1, row(2, x=-1)), mark(2, NOW)]

    first, again = (Ingest(book, Contracts(), "raw.trips", 1).process(batch) for _ in range(2))

    assert [(each.topic, each.key, each.value) for each in first] == [
        (each.topic, each.key, each.value) for each in again
    ]


def test_idle_partitions_are_moved_on_with_the_busy_ones(book: SpecBook, worker: Ingest) -> None:
    idle = Ingest(book, Contracts(), "raw.trips", 0)
    worker.process([raw(0, row(1))])

    moved = due(book, [worker, idle])

    assert [(each.topic, each.partition) for each in moved] == [("raw.trips", 1), ("raw.trips", 0)]
    origin = records.origin(SimpleNamespace(headers=moved[0].headers, timestamp=0))
    assert origin.event_time_ms == NOW - 60_000
    worker.process([mark(1, NOW)])
    idle.process([mark(0, NOW)])
    assert due(book, [worker, idle]) == []


def test_a_row_sent_over_grpc_is_keyed_by_its_key_field(book: SpecBook) -> None:
    source = book.source("trips")

    assert key_of(source, b'{"id": 3.0}') == b"3"
    assert key_of(source, b'{"x": 3}') is None
    for rubbish in (b"{rubbish", b'{"id": "\xff"}', b'{"id": 1e999}', b'{"id": ' + b"[" * 20_000):
        assert key_of(source, rubbish) is None
