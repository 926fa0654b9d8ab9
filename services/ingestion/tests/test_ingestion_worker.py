"""What becomes of a batch of raw records, and when ingestion moves event time on by itself."""

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from trimtab_contracts import topics
from trimtab_core.specs import parse
from trimtab_ingestion.consumers import Ingest
from trimtab_ingestion.heartbeat import due
from trimtab_ingestion.reading import Schemas
from trimtab_ingestion.usecases import Contracts, key_of
from trimtab_runtime import records
from trimtab_runtime.clock import from_timestamp, iso
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
    return Ingest(book, Contracts(), Schemas(), nothing, "raw.trips", 1)


async def nothing(topic: str, partition: int) -> AsyncIterator[list[Any]]:
    """Read a partition in which nothing lies."""
    return
    yield


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
    assert {name: metric.value for (_, name), metric in metrics(outputs).items()} == {
        "refused_share": 0.5, "refused_out_of_range": 1, "refused_malformed_json": 1, "events": 2, "delay_ms": 0,
    }  # fmt: skip


def test_what_is_told_of_a_batch_without_a_good_row_is_of_when_it_arrived(worker: Ingest) -> None:
    said = metrics(worker.process([raw(0, b"{rubbish", key="k", arrived_ms=NOW - 5_000)]))

    assert said["", "refused_share"].value == 1
    assert from_timestamp(said["", "refused_share"].window_to) == NOW - 5_000


def test_a_dead_letter_keeps_the_id_that_its_record_has_if_that_can_be_one(worker: Ingest) -> None:
    batch = [raw(offset, row(offset, x=-1)) for offset in range(4)]
    for record, name in zip(batch, (b"mine", b"", b"x" * 257, b"\xff"), strict=True):
        record.headers.append(("ce_id", name))

    letters = [
        topics.DEADLETTER.decode(each.value or b"") for each in to("deadletter", worker.process(batch))
    ]

    assert [letter.row_id for letter in letters] == [b"mine", b"", b"", b"\xff"]


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

    first, again = (
        Ingest(book, Contracts(), Schemas(), nothing, "raw.trips", 1).process(batch) for _ in range(2)
    )

    assert [(each.topic, each.key, each.value) for each in first] == [
        (each.topic, each.key, each.value) for each in again
    ]


def test_idle_partitions_are_moved_on_with_the_busy_ones(book: SpecBook, worker: Ingest) -> None:
    idle = Ingest(book, Contracts(), Schemas(), nothing, "raw.trips", 0)
    worker.process([raw(0, row(1))])

    moved = due(book, [worker, idle])

    assert [(each.topic, each.partition) for each in moved] == [("raw.trips", 1), ("raw.trips", 0)]
    origin = records.origin(SimpleNamespace(headers=moved[0].headers, timestamp=0))
    assert origin.event_time_ms == NOW - 60_000
    worker.process([mark(1, NOW)])
    idle.process([mark(0, NOW)])
    assert due(book, [worker, idle]) == []


def test_a_source_of_predictions_is_moved_on_by_who_makes_them_alone(book: SpecBook, worker: Ingest) -> None:
    worker.process([raw(0, row(1))])
    trips = book.source("trips")
    book.put(trips.model_copy(update={"spec": trips.spec.model_copy(update={"predictions_of": "minutes"})}))

    assert due(book, [worker]) == []


def test_a_row_sent_over_grpc_is_keyed_by_its_key_field(book: SpecBook) -> None:
    source = book.source("trips")

    assert key_of(source, b'{"id": 3.0}') == b"3"
    assert key_of(source, b'{"x": 3}') is None
    for rubbish in (b"{rubbish", b'{"id": "\xff"}', b'{"id": 1e999}', b'{"id": ' + b"[" * 20_000):
        assert key_of(source, rubbish) is None


def cleaning(**spec: Any) -> Ingest:
    fields = {
        "id": {"type": "integer"},
        "at": {"type": "timestamp"},
        "x": {"type": "number", "unit": "km", "sent_in": "mi", "max": 100, "nulls": [-200], "nullable": True},
        "name": {"type": "string", "trim": True, "default": "?"},
    }
    document = {"key": "id", "event_time": "at", "lateness": "1m", "fields": fields, **spec}
    book = SpecBook()
    book.put(parse("Source", {"metadata": {"name": "trips"}, "spec": document}))
    return Ingest(book, Contracts(), Schemas(), nothing, "raw.trips", 1)


def metrics(outputs: list[Outgoing]) -> dict[tuple[str, str], Any]:
    found = [topics.METRICS_QUALITY.decode(each.value or b"") for each in to("metrics.quality", outputs)]
    return {(metric.feature, metric.name): metric for metric in found}


def test_an_event_is_the_cleaned_row_and_what_cleaning_changed_is_counted() -> None:
    sent = [{**row(1, 10), "name": " a "}, {**row(2, -200)}, {**row(3, 90), "name": "b"}]
    outputs = cleaning().process([raw(at, each) for at, each in enumerate(sent)])

    assert [json.loads(event.value or b"") for event in to("events.trips", outputs)] == [
        {**row(1, 16.09344), "name": "a"},
        {**row(2), "x": None, "name": "?"},
    ]
    (letter,) = [topics.DEADLETTER.decode(each.value or b"") for each in to("deadletter", outputs)]
    assert json.loads(letter.payload) == sent[2]
    assert letter.reasons[0].message.startswith("x 144.8")
    said = metrics(outputs)
    assert {what: (metric.value, metric.rows) for what, metric in said.items() if what[0]} == {
        ("x", "cleaned_convert"): (2, 3),
        ("x", "cleaned_nulls"): (1, 3),
        ("name", "cleaned_trim"): (1, 3),
        ("name", "cleaned_default"): (1, 3),
    }
    assert said["x", "cleaned_nulls"].id == "raw.trips/1/2/x/cleaned_nulls"


def test_a_row_that_cleaning_does_not_change_goes_on_as_it_was_sent() -> None:
    worker = cleaning(unknown_fields="drop")
    sent = b'{ "id":1, "at": "%s", "x": null, "name": "a" }' % iso(NOW).encode()
    more = b'{"id":1, "at": "%s", "x": null, "name": "a", "more": 1}' % iso(NOW).encode()

    as_sent, without_more = to("events.trips", worker.process([raw(0, sent, key="1"), raw(1, more, key="1")]))

    assert as_sent.value == sent
    assert json.loads(without_more.value or b"") == json.loads(sent)


@pytest.mark.parametrize(("policy", "kept"), [("keep", True), ("drop", False), ("reject", None)])
def test_unknown_fields_go_by_the_policy(policy: str, kept: bool | None) -> None:
    outputs = cleaning(unknown_fields=policy).process([raw(0, {**row(1), "more": 1})])

    assert ["more" in json.loads(event.value or b"") for event in to("events.trips", outputs)] == (
        [] if kept is None else [kept]
    )
    letters = [topics.DEADLETTER.decode(each.value or b"") for each in to("deadletter", outputs)]
    assert [[reason.code for reason in letter.reasons] for letter in letters] == (
        [["unknown_field"]] if kept is None else []
    )


def test_an_expectation_is_told_for_each_window_and_alerts_once_until_it_holds_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fields = {
        "id": {"type": "integer"},
        "at": {"type": "timestamp"},
        "x": {"type": "number", "nullable": True, "expect": {"null_share": "< 0.5", "mean": [1, 3]}},
    }
    worker = cleaning(fields=fields, expect_rows=2, rules=["x < 10"])

    def window(first: int, *values: float | None) -> list[Outgoing]:
        rows = [{**row(at), "x": value} for at, value in enumerate(values)]
        return worker.process([raw(first + at, each) for at, each in enumerate(rows)])

    assert metrics(window(0, 2)).keys() == {
        ("", "refused_share"),
        ("", "delay_ms"),
        ("", "events"),
    }  # the window is open
    good = window(1, 2, 99)  # a row that is refused is none of the window's
    bad, still, well, again = (window(at, value, value) for at, value in ((3, 9), (5, 9), (7, 2), (9, 9)))

    mean = metrics(good)["x", "mean"]
    assert (mean.value, mean.low, mean.high, mean.held, mean.rows) == (2, 1, 3, True, 2)
    share = metrics(good)["x", "null_share"]
    assert (share.value, share.HasField("low"), share.high, share.held) == (0, False, 0.5, True)
    assert [metrics(each)["x", "mean"].held for each in (bad, still, well, again)] == [
        False,
        False,
        True,
        False,
    ]

    def alerts(outputs: list[Outgoing]) -> list[tuple[str, bool]]:
        told = [topics.ALERTS.decode(each.value or b"") for each in to("alerts", outputs)]
        return [(alert.occasion.removeprefix("raw.trips/1/"), alert.resolved) for alert in told]

    # Of what holds from the start it is said once: an alert may be left from a process before this one.
    assert sorted(alerts(good)) == [("x/mean", True), ("x/null_share", True)]
    fails, is_well = [("x/mean", False)], [("x/mean", True)]
    assert [alerts(each) for each in (bad, still, well, again)] == [fails, [], is_well, fails]
    alert = topics.ALERTS.decode(to("alerts", bad)[0].value or b"")
    assert (alert.subject, alert.kind, alert.id) == ("trips", "expectation", "raw.trips/1/4/x/mean")
    assert alert.sentence.startswith("mean of x is not in [1, 3]: it is 9 over 2 rows: look at what 'trips'")
    assert [record.getMessage() for record in caplog.records] == [
        "raw.trips/1: mean of x is not in [1, 3]: it is 9 over 2 rows"
    ] * 2


def test_a_changed_spec_begins_a_window_anew() -> None:
    fields = {"id": {"type": "integer"}, "at": {"type": "timestamp"}, "x": {"type": "number"}}
    expecting = {**fields, "x": {"type": "number", "expect": {"min": "> 0"}}}
    book = SpecBook()
    worker = Ingest(book, Contracts(), Schemas(), nothing, "raw.trips", 1)
    for generation, wanted in enumerate([fields, expecting, expecting], 1):
        spec = {"key": "id", "event_time": "at", "lateness": "1m", "fields": wanted, "expect_rows": 2}
        book.put(parse("Source", {"metadata": {"name": "trips"}, "spec": spec}), generation)
        outputs = worker.process([raw(generation, row(1))])
        assert metrics(outputs).keys() == {("", "refused_share"), ("", "delay_ms"), ("", "events")}

    assert metrics(worker.process([raw(9, row(1))]))["x", "min"].rows == 2


def test_a_later_version_of_a_source_is_a_source_of_its_own() -> None:
    fields = {"id": {"type": "integer"}, "at": {"type": "timestamp"}, "x": {"type": "number", "min": 5}}
    spec = {"version": 2, "key": "id", "event_time": "at", "lateness": "1m", "fields": fields}
    book = SpecBook()
    book.put(parse("Source", {"metadata": {"name": "trips"}, "spec": spec}))

    (event,) = to(
        "events.trips.v2",
        Ingest(book, Contracts(), Schemas(), nothing, "raw.trips.v2", 1).process([raw(0, row(1, 5))]),
    )

    assert dict(event.headers)["ce_id"].startswith(b"raw.trips")
