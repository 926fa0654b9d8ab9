"""Tables as they are loaded, without Kafka: what changed is written, once, and what cannot be read changes nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trimtab_contracts import topics
from trimtab_contracts.ingestion.v1.ingestion_pb2 import TableLoad
from trimtab_core import specs
from trimtab_core.lookup import FROM_EVER, History, Lookup
from trimtab_ingestion import loading, tablesources
from trimtab_ingestion.errors import BadConnections, TableAway, TableUnfit
from trimtab_ingestion.loader import RETRY_MS, Loader
from trimtab_runtime import tablelog
from trimtab_runtime.clock import ManualClock
from trimtab_runtime.errors import TrimtabError
from trimtab_runtime.records import Outgoing
from trimtab_runtime.specbook import SpecBook

NOW, LEAD, HOUR = 1_700_000_000_000, 10_000, 3_600_000
FIELDS: dict[str, Any] = {
    "zone": {"type": "integer"},
    "area": {"type": "number", "min": 0},
    "airport": {"type": "boolean", "nullable": True},
}


def a_table(**changes: Any) -> specs.Table:
    spec = {"parquet": "/zones.parquet", "key": "zone", "refresh": "1h", "fields": FIELDS, **changes}
    return specs.Table.model_validate({"metadata": {"name": "zones"}, "spec": spec})


def a_row(zone: Any, area: Any, **more: Any) -> dict[str, Any]:
    return {"zone": zone, "area": area, "airport": None, **more}


class Raw:
    def __init__(self, sent: Outgoing) -> None:
        self.key, self.value = sent.key, sent.value


class World:
    """A table that holds `rows`, a loader of it, and a topic that keeps what the loader writes."""

    def __init__(self, **changes: Any) -> None:
        self.clock = ManualClock(NOW)
        self.rows: list[dict[str, Any]] | TrimtabError = []
        self.topic: list[Raw] = []
        self.book = SpecBook()
        self.apply(1, **changes)
        self.restart()

    def apply(self, generation: int, **changes: Any) -> None:
        self.book.put(a_table(**changes), generation)

    def restart(self) -> None:
        self.loader = Loader(
            self.book, self._read, self._read_back, self.clock, "tables.zones", lead_ms=LEAD, start=_at_once
        )
        assert asyncio.run(self.loader.restore()) == []

    def tick(self) -> list[Outgoing]:
        out = self.loader.process([])
        self.topic += [Raw(each) for each in out if each.topic == "tables.zones"]
        return out

    def load(self, *rows: dict[str, Any], after_ms: int = HOUR) -> list[Outgoing]:
        """Let the table be `rows`, and load it when it is due."""
        self.rows = list(rows)
        self.clock.advance(after_ms)
        assert self.tick() == []
        return self.tick()

    @property
    def history(self) -> Lookup:
        lookup = Lookup(("area", "airport"))
        tablelog.apply(lookup, self.topic)
        return lookup

    def area(self, zone: str, at_ms: int) -> float:
        return float(self.history.values([zone], [at_ms])[0, 0])

    def _read(self, spec: specs.TableSpec) -> list[dict[str, Any]]:
        if isinstance(self.rows, TrimtabError):
            raise self.rows
        return [dict(row) for row in self.rows]

    async def _read_back(self, topic: str, partition: int) -> AsyncIterator[Sequence[Any]]:
        yield self.topic


def _at_once(work: Callable[[], Any]) -> "Future[Any]":
    done: Future[Any] = Future()
    try:
        done.set_result(work())
    except TrimtabError as error:
        done.set_exception(error)
    return done


def on(topic: topics.Topic[Any], out: Sequence[Outgoing]) -> list[Any]:
    return [topic.decode(each.value or b"") for each in out if each.topic == topic.name]


def keys(out: Sequence[Outgoing]) -> list[bytes | None]:
    return [each.key for each in out if each.topic == "tables.zones"]


LOAD = b"[null,0]"


def test_the_first_load_holds_from_ever_and_only_what_changes_is_written_after_it() -> None:
    world = World()

    assert keys(world.load(a_row(1, 5.0), a_row(2, 7.0))) == [
        b'["1",%d]' % FROM_EVER,
        b'["2",%d]' % FROM_EVER,
        LOAD,
    ]
    assert keys(world.load(a_row(1, 5.0), a_row(2, 7.0))) == [LOAD]
    changed = world.load(a_row(1, 6.0), a_row(2, 7.0))

    effective = world.clock.now_ms() + LEAD
    assert keys(changed) == [b'["1",%d]' % effective, LOAD]
    assert [world.area("1", at) for at in (0, effective - 1, effective)] == [5, 5, 6]
    assert world.area("2", effective) == 7


def test_a_row_that_goes_is_no_more_from_its_load_on_and_one_that_comes_was_not_before() -> None:
    world = World()
    world.load(a_row(1, 5.0))
    world.load(a_row(2, 7.0))
    gone = world.clock.now_ms() + LEAD
    world.load(a_row(1, 5.0), a_row(2, 7.0))
    back = world.clock.now_ms() + LEAD

    assert [str(world.area("1", at)) for at in (gone - 1, gone, back - 1, back)] == [
        "5.0",
        "nan",
        "nan",
        "5.0",
    ]
    assert [str(world.area("2", at)) for at in (gone - 1, gone)] == ["nan", "7.0"]


def test_a_table_is_due_when_its_refresh_has_passed_or_its_spec_is_another() -> None:
    world = World()
    world.load(a_row(1, 5.0), after_ms=0)

    world.clock.advance(HOUR - 1)
    assert (world.tick(), world.tick()) == ([], [])
    world.apply(2, refresh="2h")
    assert (world.tick(), keys(world.tick())) == ([], [LOAD])
    world.clock.advance(HOUR + 1)
    assert (world.tick(), world.tick()) == ([], [])


def test_a_loader_that_is_restarted_goes_on_where_the_other_was() -> None:
    world = World()
    world.load(a_row(1, 5.0))
    world.clock.advance(HOUR)
    world.tick()  # what it has begun dies with it
    world.restart()

    assert keys(world.load(a_row(1, 6.0), after_ms=0)) == [b'["1",%d]' % (world.clock.now_ms() + LEAD), LOAD]
    world.restart()
    assert (world.tick(), world.tick()) == ([], [])


def test_a_clock_that_goes_back_does_not_bring_versions_out_of_order() -> None:
    world = World()
    world.load(a_row(1, 5.0))
    world.load(a_row(1, 6.0))
    newest = world.clock.now_ms() + LEAD
    world.apply(2)
    world.load(a_row(1, 7.0), after_ms=-HOUR)

    assert [world.area("1", at) for at in (newest, newest + 1)] == [6, 7]


def test_what_was_read_too_long_ago_is_read_again() -> None:
    world = World()
    world.load(a_row(1, 5.0))
    world.rows = [a_row(1, 6.0)]
    world.clock.advance(HOUR)
    world.tick()
    world.clock.advance(LEAD)

    assert (world.tick(), world.tick()) == ([], [])
    assert keys(world.tick()) == [b'["1",%d]' % (world.clock.now_ms() + LEAD), LOAD]


def test_a_table_that_is_away_stays_what_it_was_and_there_is_one_alert_until_it_is_well_again() -> None:
    world = World()
    world.load(a_row(1, 5.0))

    def fail(error: TrimtabError) -> list[str]:
        world.rows = error
        world.clock.advance(max(HOUR, RETRY_MS))
        world.tick()
        return [alert.sentence for alert in on(topics.ALERTS, world.tick())]

    (alert,) = fail(TableAway("the server is down: start it"))
    assert alert == "table 'zones' cannot be loaded, and stays what it was: the server is down: start it"
    assert fail(TableAway("the server is down: start it")) == []
    world.restart()
    assert fail(TableAway("it is still down: start it")) == []
    assert len(fail(TableUnfit("there is no column 'area': add it"))) == 1
    assert world.area("1", world.clock.now_ms() + HOUR) == 5

    (over,) = on(topics.ALERTS, world.load(a_row(1, 5.0)))
    assert (over.resolved, over.sentence) == (True, "table 'zones' is loaded again")
    assert on(topics.ALERTS, world.load(a_row(1, 6.0))) == []
    assert len(fail(TableAway("the server is down: start it"))) == 1


def test_a_failure_is_tried_again_before_the_refresh() -> None:
    world = World(refresh="7d")
    world.rows = TableAway("the server is down: start it")
    assert (world.tick(), keys(world.tick())) == ([], [LOAD])

    world.clock.advance(RETRY_MS - 1)
    assert (world.tick(), world.tick()) == ([], [])
    assert len(keys(world.load(a_row(1, 5.0), after_ms=1))) == 2


def test_a_bad_row_is_a_dead_letter_once_and_its_key_stays_what_it_was() -> None:
    world = World()
    world.load(a_row(1, 5.0), a_row(2, 7.0))

    out = world.load(a_row(1, -5.0), a_row(2, 8.0), a_row(None, 1.0))

    letters = on(topics.DEADLETTER, out)
    assert [letter.payload for letter in letters] == [
        b'{"zone":1,"area":-5.0,"airport":null}',
        b'{"zone":null,"area":1.0,"airport":null}',
    ]
    assert letters[0].reasons[0].message == "area -5.0 is outside [0, 1.79769e+308]: mend the producer"
    assert {metric.name: metric.value for metric in on(topics.METRICS_QUALITY, out)} == {
        "refused_share": pytest.approx(2 / 3),
        "load_failed": 0,
    }
    effective = world.clock.now_ms() + LEAD
    assert (world.area("1", effective), world.area("2", effective)) == (5, 8)

    world.restart()
    assert on(topics.DEADLETTER, world.load(a_row(1, -5.0), a_row(2, 8.0), a_row(None, 1.0))) == []
    again = world.load(a_row(1.0, -6.0), a_row(2, 8.0))
    assert world.area("1", world.clock.now_ms() + LEAD) == 5
    assert [letter.payload for letter in on(topics.DEADLETTER, again)] == [
        b'{"zone":1.0,"area":-6.0,"airport":null}'
    ]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([a_row(1, 5.0), a_row(1.0, 6.0)], "zone '1' is in two rows: keep one of them"),
        ([], "0 of its 0 rows are refused: no more than 1000 may be, and one at least must be good"),
        ([a_row(1, -1.0)], "1 of its 1 rows are refused; the first: area -1.0 is outside"),
    ],
)
def test_what_is_no_table_is_refused_whole(rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(TableUnfit, match=said.replace(".", r"\.").replace("[", r"\[")):
        loading.judged(a_table().spec, rows)


def test_more_refused_rows_than_a_load_may_have_refuse_the_load() -> None:
    rows = [a_row(zone, -1.0 if zone else 1.0) for zone in range(loading.MOST_REFUSED + 2)]

    with pytest.raises(TableUnfit, match="1001 of its 1002 rows are refused"):
        loading.judged(a_table().spec, rows)


SINCE = {**FIELDS, "since": {"type": "timestamp"}}


def test_rows_that_say_since_when_hold_since_then_in_the_first_load_and_not_before_it_later() -> None:
    world = World(effective="since", fields=SINCE)
    later = NOW + 10 * HOUR
    world.load(a_row(1, 1.0, since=NOW - HOUR), a_row(1, 2.0, since=NOW), a_row(1, 3.0, since=later))

    assert [world.area("1", at) for at in (0, NOW - 1, NOW, later - 1, later)] == [1, 1, 2, 2, 3]

    world.load(a_row(1, 9.0, since=NOW - 2 * HOUR), a_row(1, 4.0, since=later + 1))
    effective = world.clock.now_ms() + LEAD
    times = (0, NOW, effective - 1, effective, later, later + 1)
    assert [world.area("1", at) for at in times] == [1, 2, 2, 9, 9, 4]


def test_a_row_that_only_lies_ahead_leaves_what_is_until_then() -> None:
    world = World(effective="since", fields=SINCE)
    world.load(a_row(1, 1.0, since=NOW))
    later = NOW + 10 * HOUR
    world.load(a_row(1, 2.0, since=later))

    assert [world.area("1", at) for at in (later - 1, later)] == [1, 2]


def test_a_column_that_is_new_holds_for_all_time_before_it_too() -> None:
    narrow = {name: field for name, field in FIELDS.items() if name != "airport"}
    world = World(fields=narrow)
    world.load({"zone": 1, "area": 5.0})
    world.load({"zone": 1, "area": 6.0})
    world.apply(2)
    world.load(a_row(1, 7.0, airport=True), a_row(2, 1.0, airport=False))
    effective = world.clock.now_ms() + LEAD

    assert world.history.values(["1", "1"], [0, effective]).tolist() == [[5, 1], [7, 1]]
    world.load(a_row(1, 7.0, airport=False), a_row(3, 1.0, airport=True))
    assert world.history.values(["1", "1"], [0, effective]).tolist() == [[5, 1], [7, 1]]
    assert str(world.history.values(["3"], [effective])[0, 1]) == "nan"


def test_a_row_too_large_for_a_record_fails_its_load() -> None:
    fields = {**FIELDS, "note": {"type": "string", "nullable": True}}
    world = World(fields=fields)

    world.load(a_row(1, 5.0, note="x" * topics.MOST_ROW_BYTES))

    newest = tablelog.apply(History(), world.topic)
    assert newest is not None
    assert newest.fault.startswith("the row of '1' has more than 4194304 bytes")


def test_a_parquet_file_is_read_as_json_would_have_it(tmp_path: Path) -> None:
    at = pa.array([0, 1_500], pa.timestamp("ms", "UTC"))
    columns = {
        "zone": [1, 2],
        "area": pa.array([1.5, float("nan")]),
        "cost": pa.array([1, None], pa.decimal128(10, 2)),
        "at": at,
        "other": ["x", "y"],
    }
    pq.write_table(pa.table(columns), tmp_path / "zones.parquet")
    fields = {name: {"type": "number"} for name in ("area", "cost")} | {
        "zone": {"type": "integer"},
        "at": {"type": "timestamp"},
    }

    found = tablesources.read(a_table(parquet=f"file://{tmp_path}/zones.parquet", fields=fields).spec, {})

    assert found == [
        {"zone": 1, "area": 1.5, "cost": 1.0, "at": "1970-01-01T00:00:00+00:00"},
        {"zone": 2, "area": None, "cost": None, "at": "1970-01-01T00:00:01.500000+00:00"},
    ]


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        (
            {"parquet": "/nowhere/zones.parquet"},
            TableAway,
            "/nowhere/zones.parquet is not there: write the file",
        ),
        (
            {"parquet": "nosuch://zones"},
            TableAway,
            "nosuch://zones cannot be read: ValueError: Protocol not known",
        ),
        ({}, TableUnfit, "is no Parquet file"),
        (
            {"parquet": None, "postgres": {"query": "select 1", "connection": "warehouse"}},
            TableUnfit,
            r"'warehouse' is not among those of TRIMTAB_INGESTION_CONNECTIONS \(other\): set its address there",
        ),
        (
            {"parquet": None, "postgres": {"query": "select 1", "connection": "other"}},
            TableUnfit,
            "^the address of connection 'other' is none: mend it in TRIMTAB_INGESTION_CONNECTIONS$",
        ),
    ],
)
def test_why_a_table_cannot_be_read_is_said_with_the_remedy(
    tmp_path: Path, changes: dict[str, Any], error: type[TrimtabError], said: str
) -> None:
    (tmp_path / "zones.parquet").write_text("rubbish")
    spec = a_table(**{"parquet": f"{tmp_path}/zones.parquet"} | changes).spec

    with pytest.raises(error, match=said):
        tablesources.read(spec, {"other": "postgresql://ann:secret#word@db:x/y"})


def test_a_column_that_the_file_lacks_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"zone": [1]}), tmp_path / "zones.parquet")

    with pytest.raises(
        TableUnfit, match="has no column 'area', and the spec declares it; there are zone: add"
    ):
        tablesources.read(a_table(parquet=f"{tmp_path}/zones.parquet").spec, {})


def test_connections_are_read_from_the_setting_and_a_bad_one_is_not_shown() -> None:
    assert tablesources.connections(" a=postgresql://h/x?a=b  b=postgres://u:p@h1,h2/y\n") == {
        "a": "postgresql://h/x?a=b",
        "b": "postgres://u:p@h1,h2/y",
    }
    with pytest.raises(BadConnections, match="at place 2: write that") as raised:
        tablesources.connections("a=postgresql://h/x mysql://ann:secret@h")
    assert "secret" not in str(raised.value)


def test_a_load_says_how_it_went() -> None:
    world = World()
    world.load(a_row(1, 5.0), after_ms=5)

    assert tablelog.apply(History(), world.topic) == TableLoad(
        generation=1,
        loaded_ms=NOW + 5,
        effective_ms=NOW + 5 + LEAD,
        rows=1,
        columns=["airport", "area"],
        tried_ms=NOW + 5,
    )
