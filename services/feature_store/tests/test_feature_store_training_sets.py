"""Training sets over tables in memory: nothing from the future, nothing twice, nothing that depends on storage."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from trimtab_contracts.ingestion.v1.ingestion_pb2 import TableLoad
from trimtab_core import specs
from trimtab_core.lookup import FROM_EVER, Change, Version
from trimtab_core.specs import Model, Source
from trimtab_feature_store.errors import BadWindow, NotArchivedYet
from trimtab_feature_store.historical import Historical, TrainingSet, Wanted, arrow_pieces, digest
from trimtab_feature_store.rows import Rows
from trimtab_feature_store.store import EVER_MS, DeltaStore, Piece
from trimtab_feature_store.tables import EventTable, events_table
from trimtab_feature_store.testing import MemoryStore
from trimtab_runtime import tablelog
from trimtab_runtime.clock import iso
from trimtab_runtime.errors import Rejected
from trimtab_runtime.reftables import NotLoaded, RefTables
from trimtab_runtime.specbook import SpecBook, UnknownModel

HOUR = 3_600_000
START = 420_000 * HOUR
FIELDS = {
    "id": {"type": "string"},
    "at": {"type": "timestamp"},
    "zone": {"type": "integer", "nullable": True},
    "mph": {"type": "number", "nullable": True},
}
CONTRACT = {"key": "id", "event_time": "at", "lateness": "2h", "partitions": 1}


@dataclass(frozen=True)
class Event:
    id: str
    at_ms: int
    zone: int | str | None = 1
    mph: float | None = None
    late_ms: int = 0


def a_book(views: dict[str, Any] | None = None, **changes: Any) -> SpecBook:
    model = {
        "task": "regression",
        "source": "asks",
        "features": ["speed.*", "city.id_count_4h", "request.zone", "hour(at)"],
        "label": {"source": "rides", "on": "id", "value": "mph", "within": "3h"},
        "trainer": {"kind": "linear", "window": "1d"},
        "rollout": {"cap": 60},
    }
    speed = {"field": "mph", "functions": ["count", "mean"], "windows": ["1h", "4h"]}
    city = {"field": "id", "functions": ["count"], "windows": ["4h"]}
    fold = {"source": "rides", "hop": "1h", "ttl": "1d"}
    book = SpecBook()
    for kind, name, spec in (
        ("Source", "asks", {**CONTRACT, "fields": FIELDS}),
        ("Source", "rides", {**CONTRACT, "fields": FIELDS}),
        ("FeatureView", "speed", {**fold, "entity": "zone", "aggregates": [speed]}),
        ("FeatureView", "city", {**fold, "aggregates": [city]}),
        *(("FeatureView", name, fold | view) for name, view in (views or {}).items()),
        ("Model", "m", model | changes),
    ):
        book.put(specs.parse(kind, {"metadata": {"name": name}, "spec": spec}))
    return book


class World:
    """An archive, in memory if no other is given, and what is asked of it."""

    def __init__(self, book: SpecBook | None = None, store: MemoryStore | DeltaStore | None = None) -> None:
        self.book = book or a_book()
        self.store = store or MemoryStore()
        self.waited_for: list[Sequence[str]] = []
        self.references = RefTables(self.book)
        self.references.update()
        self.historical = Historical(self.book, self.store, self, self.references)
        self._sent: dict[str, int] = {}

    @contextmanager
    def hurried(self, sources: Sequence[str]) -> Iterator[None]:
        self.waited_for.append(sources)
        yield

    def archive(self, source: str, events: Iterable[Event], watermark_ms: int = 0) -> None:
        events = list(events)
        spec: Source = self.book.source(source)
        first = self._sent.get(source, 0)
        self._sent[source] = first + len(events)
        payloads = [
            msgspec.json.encode({"id": e.id, "at": iso(e.at_ms), "zone": e.zone, "mph": e.mph})
            for e in events
        ]
        times = np.array([event.at_ms for event in events], np.int64)
        arrived = times + np.array([event.late_ms for event in events], np.int64)
        numbers = list(range(first, first + len(events)))
        table = EventTable(spec.spec)
        rows = table.batch(Rows(payloads, [f"raw/{n}" for n in numbers], times, arrived, numbers), 0)
        piece = Piece(f"events.{source}", 0, rows, first + len(events) - 1)
        marks = {0: watermark_ms} if watermark_ms else {}
        self.store.append(events_table(source), table.schema, [piece], marks)

    def load_zones(self, *versions: tuple[str, int, float]) -> None:
        changes = [Change(zone, since_ms, Version({"area": area})) for zone, since_ms, area in versions]
        load = tablelog.load_record("zones", TableLoad(loaded_ms=1, columns=["area"]))
        records = [*(tablelog.change_record("zones", change) for change in changes), load]
        self.references.apply("tables.zones", records)

    def make(self, start_ms: int, end_ms: int, **more: Any) -> TrainingSet:
        wanted = Wanted("m", start_ms, end_ms, more.pop("as_of_ms", EVER_MS), more.pop("wait_until_ms", 0))
        return asyncio.run(self.historical.training_set(replace(wanted, **more), patience_s=0.2))


@pytest.fixture
def world() -> World:
    return World()


def test_a_row_sees_completed_slots_of_its_window_and_its_own_fields(world: World) -> None:
    world.archive("rides", [Event(f"r{h}", START + h * HOUR + 5, zone=h % 2, mph=10.0 * h) for h in range(8)])
    world.archive("asks", [Event("a", START + 6 * HOUR + 30, zone=1)])
    world.archive("rides", [Event("a", START + 7 * HOUR, mph=33)])

    made = world.make(START, START + 10 * HOUR)

    assert made.rows.to_pylist() == [
        {
            "key": "a",
            "event_time_ms": START + 6 * HOUR + 30,
            "speed.mph_count_1h": 1,
            "speed.mph_count_4h": 2,
            "speed.mph_mean_1h": 50,
            "speed.mph_mean_4h": 40,
            "city.id_count_4h": 4,
            "request.zone": 1,
            "hour(at)": float((START // HOUR + 6) % 24),
            "label": 33,
        }
    ]
    assert (made.rows_without_label, set(made.versions)) == (0, {"events/asks", "events/rides"})


def test_an_entity_of_several_fields_is_joined_by_all_of_them_and_a_null_part_has_no_features() -> None:
    both = {
        "entity": ["zone", "mph"],
        "aggregates": [{"field": "id", "functions": ["count"], "windows": ["4h"]}],
    }
    world = World(a_book({"both": both}, features=["both.*"]))
    told = [(1, 5.0), (1, 5.0), (1, 6.0), (2, 5.0), (None, 5.0), (1, None)]
    world.archive("rides", [Event(f"r{at}", START, zone, mph) for at, (zone, mph) in enumerate(told)])
    asks = [Event(f"a{at}", START + HOUR, zone, mph) for at, (zone, mph) in enumerate(told)]
    world.archive("asks", asks)
    world.archive("rides", [Event(ask.id, START + 2 * HOUR, mph=1) for ask in asks])

    counts = world.make(START, START + 10 * HOUR).rows["both.id_count_4h"].to_pylist()

    assert counts == [2, 2, 1, 1, 0, 0]


def test_an_expression_is_computed_from_what_serving_would_have_seen() -> None:
    expected = "share = request.zone / speed.mph_mean_4h"
    world = World(a_book(features=["hour(at)", expected]))
    world.archive("rides", [Event("r", START, mph=10)])
    world.archive("asks", [Event("a", START + HOUR), Event("b", START + HOUR, zone=2)])
    world.archive("rides", [Event(key, START + 2 * HOUR, mph=1) for key in "ab"])

    rows = world.make(START, START + 10 * HOUR).rows

    assert rows.column_names == ["key", "event_time_ms", "hour(at)", expected, "label"]
    np.testing.assert_array_equal(rows[expected].to_numpy(), [0.1, np.nan])


def test_functions_of_texts_and_of_ends_are_answered_from_the_archive() -> None:
    ends = {"field": "mph", "functions": ["first", "last", "p50"], "windows": ["4h"], "where": "id != 'r1'"}
    told = {"field": "id", "functions": ["distinct_count"], "windows": ["4h"]}
    world = World(a_book({"all": {"aggregates": [ends, told]}}, features=["all.*"]))
    world.archive("rides", [Event(f"r{h % 3}", START + h * HOUR, mph=10.0 + h) for h in range(4)])
    world.archive("asks", [Event("a", START + 4 * HOUR)])
    world.archive("rides", [Event("a", START + 5 * HOUR, mph=33)])

    (row,) = world.make(START, START + 10 * HOUR).rows.to_pylist()

    assert (row["all.mph_first_4h"], row["all.mph_last_4h"], row["all.id_distinct_count_4h"]) == (10, 13, 3)
    assert row["all.mph_p50_4h"] == pytest.approx(12, rel=0.0101)


def test_what_had_not_arrived_when_a_row_was_asked_is_not_seen(world: World) -> None:
    world.archive("rides", [Event("r", START, mph=10, late_ms=2 * HOUR)])
    asks = [Event("early", START + HOUR), Event("later", START + 2 * HOUR + 1)]
    world.archive("asks", asks)
    world.archive("rides", [Event(ask.id, START + 3 * HOUR, zone=9, mph=1) for ask in asks])

    counts = world.make(START, START + 10 * HOUR).rows["speed.mph_count_4h"].to_pylist()

    assert counts == [0, 1]


def test_what_arrived_after_the_sets_own_time_is_not_seen(world: World) -> None:
    world.archive("asks", [Event("a", START + HOUR), Event("b", START + HOUR, late_ms=9 * HOUR)])
    world.archive(
        "rides", [Event("a", START + 2 * HOUR, mph=1, late_ms=3 * HOUR), Event("b", START + 2 * HOUR, mph=2)]
    )

    made = world.make(START, START + 10 * HOUR, as_of_ms=START + 4 * HOUR)
    later = world.make(START, START + 10 * HOUR, as_of_ms=START + 6 * HOUR)
    at_last = world.make(START, START + 10 * HOUR)

    assert (made.rows.num_rows, made.rows_without_label) == (0, 1)
    assert later.rows["key"].to_pylist() == ["a"]
    assert at_last.rows["key"].to_pylist() == ["a", "b"]


def test_a_label_counts_from_the_row_on_and_not_too_late(world: World) -> None:
    at = START + 5 * HOUR
    world.archive("asks", [Event(key, at) for key in ("before", "with", "in time", "too late", "null")])
    world.archive(
        "rides",
        [
            Event("before", at - 1, mph=1),
            Event("with", at, mph=2),
            Event("in time", at + 3 * HOUR, mph=3),
            Event("too late", at + 3 * HOUR + 1, mph=4),
            Event("null", at + HOUR, mph=None),
        ],
    )

    made = world.make(at, at + 1)

    assert dict(zip(made.rows["key"].to_pylist(), made.rows["label"].to_pylist(), strict=True)) == {
        "with": 2,
        "in time": 3,
    }
    assert made.rows_without_label == 3


def test_a_row_can_hold_its_own_label_and_yes_counts_as_one() -> None:
    own = {
        "features": ["request.zone"],
        "label": {"source": "rides", "on": "id", "value": "mph", "within": "1h"},
    }
    fields = {**FIELDS, "mph": {"type": "boolean", "nullable": True}}
    book = a_book(source="rides", task="binary", **own)
    book.put(specs.parse("Source", {"metadata": {"name": "rides"}, "spec": {**CONTRACT, "fields": fields}}))
    world = World(book)
    # The key comes again later, as a customer's does: each row has the label that it holds.
    world.archive("rides", [Event("a", START, mph=True), Event("b", START, mph=None)])
    world.archive("rides", [Event("a", START + HOUR, zone=2, mph=False)])

    made = world.make(START, START + 9 * HOUR)

    assert made.rows.select(["key", "request.zone", "label"]).to_pylist() == [
        {"key": "a", "request.zone": 1, "label": 1.0},
        {"key": "a", "request.zone": 2, "label": 0.0},
    ]
    assert made.rows_without_label == 1


def test_a_row_without_an_entity_is_nobodys(world: World) -> None:
    world.archive("rides", [Event("r", START, zone=None, mph=10), Event("s", START, zone=1, mph=10)])
    world.archive("asks", [Event("a", START + HOUR, zone=None)])
    world.archive("rides", [Event("a", START + 2 * HOUR, mph=1)])

    row = world.make(START, START + 9 * HOUR).rows.to_pylist()[0]

    assert (row["speed.mph_count_4h"], row["city.id_count_4h"]) == (0, 2)
    assert np.isnan(row["request.zone"])


def test_order_of_archiving_changes_nothing(world: World) -> None:
    other = World()
    rides = [Event(f"a{i}", START + i * HOUR // 7, zone=i % 3, mph=i / 3) for i in range(60)]
    asks = [Event(ride.id, ride.at_ms - 1, zone=1) for ride in rides]
    for event in rides:
        world.archive("rides", [event])
    world.archive("asks", asks)
    other.archive("asks", asks)
    other.archive("rides", rides)

    assert world.make(START, START + 9 * HOUR).digest == other.make(START, START + 9 * HOUR).digest
    assert world.make(START, START + 8 * HOUR).digest != other.make(START, START + 9 * HOUR).digest


def test_an_archive_with_nothing_in_it_gives_an_empty_set(world: World) -> None:
    made = world.make(START, START + HOUR)

    assert made.rows.num_rows == 0
    assert made.rows.column_names[-1] == "label"
    assert made.rows.schema.field("label").type == pa.float64()


def test_a_set_waits_until_the_archive_has_come_so_far(world: World) -> None:
    world.archive("asks", [], watermark_ms=START + HOUR)
    world.archive("rides", [], watermark_ms=START)

    with pytest.raises(NotArchivedYet, match="source 'rides' stands at"):
        world.make(START - HOUR, START, wait_until_ms=START + 1)
    world.make(START - HOUR, START, wait_until_ms=START)

    assert set(world.waited_for[0]) == {"asks", "rides"}


def test_a_request_that_means_nothing_is_refused(world: World) -> None:
    with pytest.raises(BadWindow):
        world.make(START, START)
    with pytest.raises(UnknownModel):
        world.make(START, START + 1, model="other")
    model = world.book.model("m")
    assert isinstance(model, Model)
    world.book.remove("FeatureView", "speed")
    with pytest.raises(Rejected, match="speed"):
        world.make(START, START + 1)


def test_a_stream_in_pieces_is_the_table() -> None:
    table = pa.table({"key": [f"k{i}" for i in range(5000)], "x": np.arange(5000.0)})
    pieces = list(arrow_pieces(table, size=10_000))

    assert max(map(len, pieces)) == 10_000
    assert pa.ipc.open_stream(b"".join(pieces)).read_all() == table


def test_a_digest_is_of_the_rows_and_not_of_how_they_lie() -> None:
    table = pa.table({"key": ["a", "bc", "d"], "x": [1.0, 2.0, np.nan]})
    pieces = pa.concat_tables([table.slice(0, 1), table.slice(1)])

    assert digest(table) == digest(pieces)
    assert digest(table) != digest(pa.table({"key": ["ab", "c", "d"], "x": [1.0, 2.0, np.nan]}))
    assert digest(table) != digest(table.slice(0, 2))


def test_the_watermark_is_that_of_the_source_furthest_behind(world: World) -> None:
    def watermark_ms() -> int | None:
        return asyncio.run(world.historical.watermark_ms("m"))

    assert watermark_ms() is None
    world.archive("rides", [Event("a", START + 5)], watermark_ms=START + 8 * HOUR)
    assert watermark_ms() is None, "the other source has nothing yet"
    world.archive("asks", [Event("a", START)], watermark_ms=START + 3 * HOUR)

    assert watermark_ms() == START + 3 * HOUR


async def test_a_training_set_is_the_same_at_its_versions_whatever_has_come_and_gone(tmp_path: Path) -> None:
    store = DeltaStore(tmp_path)
    world = World(store=store)
    world.archive("asks", [Event(f"a{n}", START + n * HOUR) for n in range(20)], START + 30 * HOUR)
    rides = [Event(f"a{n}", START + n * HOUR + 1, mph=float(n)) for n in range(20)]
    world.archive("rides", rides, START + 30 * HOUR)
    wanted = Wanted("m", START, START + 20 * HOUR, START + 30 * HOUR, 0)
    made = await world.historical.training_set(wanted, patience_s=5)
    world.archive("rides", [Event("a3", START + 3 * HOUR, mph=77.0)], START + 30 * HOUR)  # as a backfill does
    for table, version in made.versions.items():
        store.expire(table, "event_time_ms", START + 15 * HOUR)
        store.vacuum(table, 0, {version})
    again = Wanted("m", START, START + 20 * HOUR, START + 30 * HOUR, 0, made.versions)

    assert (await world.historical.training_set(again, patience_s=5)).digest == made.digest
    assert (await world.historical.training_set(wanted, patience_s=5)).digest != made.digest


def test_a_set_is_made_by_the_document_that_is_given(world: World) -> None:
    world.archive("asks", [Event("a", START + HOUR)])
    world.archive("rides", [Event("a", START + 2 * HOUR, mph=33)])
    applied = world.make(START, START + 10 * HOUR)
    was = world.book.model("m")
    document = was.model_copy(
        update={"spec": was.spec.model_copy(update={"features": was.spec.features[:1]})}
    )

    made = world.make(START, START + 10 * HOUR, document=document)

    assert made.rows.num_columns < applied.rows.num_columns
    assert made.rows["label"].to_pylist() == applied.rows["label"].to_pylist()


ZONES = {
    "parquet": "/zones.parquet",
    "key": "zone",
    "refresh": "1h",
    "fields": {"zone": {"type": "integer"}, "area": {"type": "number"}},
}


def a_world_with_zones() -> World:
    book = a_book(features=["zones[zone].area", "double = zones[zone].area * 2"])
    book.put(specs.parse("Table", {"metadata": {"name": "zones"}, "spec": ZONES}))
    world = World(book)
    world.archive("asks", [Event(f"a{h}", START + h * HOUR, zone=h % 3) for h in range(6)])
    world.archive("rides", [Event(f"a{h}", START + h * HOUR + 1, mph=1) for h in range(6)])
    return world


def test_a_row_sees_what_a_table_said_of_its_field_at_its_time_and_by_as_of() -> None:
    world = a_world_with_zones()
    versions = [("1", FROM_EVER, 5.0), ("1", START + 3 * HOUR, 7.0), ("2", START + 4 * HOUR, 9.0)]

    world.load_zones(*versions)
    made = world.make(START, START + 10 * HOUR)
    before = world.make(START, START + 10 * HOUR, as_of_ms=START + 5 * HOUR)

    assert [str(area) for area in made.rows["zones[zone].area"].to_pylist()] == [
        "nan", "5.0", "nan", "nan", "7.0", "9.0",
    ]  # fmt: skip
    assert made.rows["double = zones[zone].area * 2"][5].as_py() == 18
    assert made.versions["tables.zones"] == START + 4 * HOUR
    world.load_zones(("2", START + 6 * HOUR, 11.0))
    assert world.make(START, START + 10 * HOUR, as_of_ms=START + 5 * HOUR).digest == before.digest
    assert world.make(START, START + 10 * HOUR).versions["tables.zones"] == START + 6 * HOUR
    assert world.make(START, START + 1, as_of_ms=START).versions["tables.zones"] == 0


def test_a_row_ahead_of_as_of_sees_no_more_of_a_table_than_as_of() -> None:
    world = a_world_with_zones()
    world.load_zones(("1", FROM_EVER, 5.0), ("1", START + 4 * HOUR, 7.0))
    world.archive("asks", [Event("b", START + 5 * HOUR, zone=1, late_ms=-2 * HOUR)])
    world.archive("rides", [Event("b", START + 5 * HOUR + 1, mph=1, late_ms=-2 * HOUR)])

    made = world.make(START + 5 * HOUR, START + 6 * HOUR, as_of_ms=START + 3 * HOUR + 1)

    assert made.rows["zones[zone].area"].to_pylist() == [5]


def test_a_set_of_a_table_that_has_not_been_loaded_is_made_later() -> None:
    world = a_world_with_zones()

    with pytest.raises(NotLoaded, match="column 'area' of table 'zones' has not been loaded yet: ask again"):
        world.make(START, START + 10 * HOUR)


async def test_what_gates_group_by_is_beside_the_rows_and_no_part_of_what_names_them() -> None:
    plain, grouped = World(), World(a_book(gates=[{"fairness": "zone", "of": "mae", "max_difference": 1}]))
    for world in (plain, grouped):
        world.archive("asks", [Event("a", START), Event("b", START + 1, zone=None)], START + 9 * HOUR)
        rides = [Event("a", START + 10, mph=10), Event("b", START + 10, mph=20)]
        world.archive("rides", rides, START + 9 * HOUR)
    wanted = Wanted("m", START, START + HOUR, START + 8 * HOUR, START + 8 * HOUR)

    without = await plain.historical.training_set(wanted, patience_s=5)
    found = await grouped.historical.training_set(wanted, patience_s=5)

    assert found.rows["group:zone"].to_pylist() == ["1", "(none)"]
    assert digest(found.rows.drop_columns(["group:zone"])) == found.digest == without.digest


@pytest.mark.parametrize(("task", "classes"), [("multiclass", ["3", "1", "2"]), ("binary", ["1", "2"])])
def test_a_label_that_is_a_class_is_its_number_and_others_are_counted(task: str, classes: list[str]) -> None:
    label = {"source": "rides", "on": "id", "value": "zone", "within": "3h", "classes": classes}
    world = World(a_book(task=task, label=label))
    world.archive("asks", [Event(key, START) for key in ("a", "b", "c", "d")])
    world.archive("rides", [Event(key, START + HOUR, zone=zone) for zone, key in enumerate("abc", 1)])

    made = world.make(START, START + 9 * HOUR)

    known = {
        key: float(classes.index(zone)) for key, zone in zip("abc", "123", strict=True) if zone in classes
    }
    assert dict(zip(made.rows["key"].to_pylist(), made.rows["label"].to_pylist(), strict=True)) == known
    assert (made.rows_without_label, made.rows_of_other_classes) == (4 - len(known), 3 - len(known))
