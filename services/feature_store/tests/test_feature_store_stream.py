"""Repartition and fold on plain records: whatever the order, the online state is what the events say."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimtab_contracts import topics
from trimtab_core.sketches import text_numbers
from trimtab_core.slots import FoldState, Layout
from trimtab_core.specs import FeatureView, Source, parse
from trimtab_feature_store import keyed
from trimtab_feature_store.errors import EventsNotArchivedYet
from trimtab_feature_store.fold import Fold, SeedOutgrown, ViewChanged
from trimtab_feature_store.keyed import BadRows, KeyedRows
from trimtab_feature_store.repartition import Repartition, SpecsApart
from trimtab_feature_store.seeding import Seeds
from trimtab_feature_store.shelves import event_press
from trimtab_feature_store.store import Piece
from trimtab_feature_store.testing import MemoryStore
from trimtab_runtime import featurelog, freshness, records
from trimtab_runtime.records import Outgoing
from trimtab_runtime.specbook import SpecBook

HOUR = 3_600_000
START = 400_000 * HOUR
PARTITIONS = 3


@dataclass
class Raw:
    """A record as aiokafka gives it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: records.Headers
    timestamp: int = 0


@dataclass
class Log:
    """Topics, as a transaction writes them and a group reads them."""

    topics: dict[tuple[str, int], list[Raw]] = field(default_factory=dict)

    def write(self, sent: Iterable[Outgoing]) -> None:
        for each in sent:
            part = self.topics.setdefault((each.topic, each.partition or 0), [])
            part.append(Raw(each.topic, each.partition or 0, len(part), each.key, each.value, each.headers))

    def read(self, topic: str, partition: int, start: int = 0) -> list[Raw]:
        return self.topics.get((topic, partition), [])[start:]

    def compact(self, topic: str) -> None:
        """Leave the newest record of each key."""
        for (name, _), records_there in self.topics.items():
            if name == topic:
                newest = {record.key: record for record in records_there}
                records_there[:] = [each for each in records_there if newest[each.key] is each]

    async def read_partition(
        self, topic: str, partition: int, *, offset: int = 0
    ) -> AsyncIterator[Sequence[Any]]:
        found = self.read(topic, partition, offset)
        for at in range(0, len(found), 7):
            yield found[at : at + 7]


def a_source(name: str = "rides", **changes: Any) -> Source:
    spec = {
        "key": "id",
        "event_time": "at",
        "lateness": "2h",
        "partitions": PARTITIONS,
        "fields": {
            "id": {"type": "string"},
            "at": {"type": "timestamp"},
            "zone": {"type": "integer", "nullable": True},
            "mph": {"type": "number", "nullable": True},
            "shared": {"type": "boolean", "nullable": True},
        },
    }
    found = parse("Source", {"metadata": {"name": name}, "spec": spec | changes})
    assert isinstance(found, Source)
    return found


def a_view(name: str = "speed", source: str = "rides", **changes: Any) -> FeatureView:
    spec = {
        "source": source,
        "entity": "zone",
        "aggregates": [
            {"field": "mph", "functions": ["count", "mean", "stddev", "max"], "windows": ["1h", "4h"], "where": "mph < 80"},
            {"field": "id", "functions": ["count"], "windows": ["4h"]},
            {"field": "shared", "functions": ["sum"], "windows": ["4h"]},
        ],
        "hop": "1h",
        "ttl": "8h",
    }  # fmt: skip
    found = parse("FeatureView", {"metadata": {"name": name}, "spec": spec | changes})
    assert isinstance(found, FeatureView)
    return found


@dataclass(frozen=True)
class Ride:
    zone: int | None
    at_ms: int
    mph: float | None = 10.0
    shared: bool | None = None


class Stage:
    """Both stages over a log in memory, with workers that can be thrown away."""

    def __init__(self, *views: FeatureView) -> None:
        self.book, self.upstream = SpecBook(), SpecBook()
        """What the fold has heard of the specs, and the repartition before it."""
        self.views = views or (a_view(),)
        for book in (self.book, self.upstream):
            for spec in (a_source(), *self.views):
                book.put(spec)
        self.log = Log()
        self.archive = MemoryStore()
        self.archive_stands_still = False
        self.sent = 0
        self._consumed: dict[tuple[str, int], int] = {}
        self._workers: dict[tuple[str, int], Repartition | Fold] = {}

    def send(self, ride: Ride, partition: int) -> None:
        self.sent += 1
        row = {"id": f"r{self.sent}", "at": "x", "zone": ride.zone, "mph": ride.mph, "shared": ride.shared}
        headers = records.row_headers(
            id=f"r{self.sent}", source="rides", event_time_ms=ride.at_ms, arrived_at_ms=ride.at_ms
        )
        self.log.write([Outgoing("events.rides", b"k", msgspec.json.encode(row), headers, partition)])

    def promise(self, time_ms: int, partitions: Iterable[int] = range(PARTITIONS)) -> None:
        for partition in partitions:
            headers = records.watermark_headers(
                source="rides", time_ms=time_ms, origin=partition, origins=PARTITIONS
            )
            self.log.write([Outgoing("events.rides", None, b"", headers, partition)])

    def change(self, spec: FeatureView | Source, generation: int = 2) -> None:
        for book in (self.book, self.upstream):
            book.put(spec, generation)

    def remove(self, kind: str, name: str) -> None:
        for book in (self.book, self.upstream):
            book.remove(kind, name)

    @contextmanager
    def hurried(self, sources: Sequence[str]) -> Iterator[None]:
        """Archive all that has been sent, as the archive does when somebody waits for it."""
        press = event_press(a_source())
        for partition in range(PARTITIONS):
            if not self.archive_stands_still and (batch := self.log.read("events.rides", partition)):
                pressed = press.press(partition, batch)
                piece = Piece("events.rides", partition, pressed.rows, batch[-1].offset)
                marks = {} if pressed.watermark_ms is None else {partition: pressed.watermark_ms}
                self.archive.append(press.table, press.schema, [piece], marks)
        yield

    def unopened(self, view: str, partition: int) -> Fold:
        seeds = Seeds(self.log.read_partition, self.archive, self, patience_s=0)
        return Fold(self.book, self.log.read_partition, seeds, f"keyed.{view}", partition)

    def fold(self, view: str, partition: int) -> Fold:
        fold = self.unopened(view, partition)
        self.log.write(asyncio.run(fold.restore()))
        return fold

    def forget_workers(self) -> None:
        self._workers.clear()

    def run(self, batch: int = 10_000) -> None:
        for topic in ("events.rides", *(f"keyed.{view.name}" for view in self.views)):
            for partition in range(PARTITIONS):
                self._drain(topic, partition, batch)

    def _drain(self, topic: str, partition: int, size: int) -> None:
        place = (topic, partition)
        while True:
            batch = self.log.read(topic, partition, self._consumed.get(place, 0))[:size]
            try:
                if place not in self._workers:
                    self._workers[place] = self._made(topic, partition)
                self.log.write(self._workers[place].process(batch))
            except (ViewChanged, SeedOutgrown):
                del self._workers[place]
                continue
            self._consumed[place] = self._consumed.get(place, 0) + len(batch)
            if not batch:
                return

    def _made(self, topic: str, partition: int) -> Repartition | Fold:
        if topic == "events.rides":
            return Repartition(self.upstream, topic, partition)
        return self.fold(topic.removeprefix("keyed."), partition)

    def state(self, view: FeatureView, generation: int = 1) -> FoldState:
        found = FoldState(Layout.of(view.spec, a_source().spec.lateness))
        for partition in range(PARTITIONS):
            featurelog.apply(found, self.log.read(f"features.{view.name}", partition), generation)
        return found

    def progress(self, generation: int, partition: int) -> int | None:
        state = FoldState(Layout.of(a_view().spec, a_source().spec.lateness))
        applied = featurelog.apply(state, self.log.read("features.speed", partition), generation)
        return applied.progress.least_ms() if applied.progress is not None else None

    def fates(self, view: str = "speed") -> list[tuple[featurelog.Key, bool]]:
        """Every key on the view's topic, and whether its last record is a value."""
        last = {
            record.key: record.value is not None
            for partition in range(PARTITIONS)
            for record in self.log.read(f"features.{view}", partition)
        }
        return [(featurelog.parse_key(key or b""), alive) for key, alive in last.items()]

    def watermarks(self, view: str = "speed") -> dict[int, int]:
        return {
            mark.partition: mark.time.seconds * 1000
            for mark in (topics.WATERMARKS.decode(raw.value or b"") for raw in self.log.read("watermarks", 0))
            if mark.name == view and mark.stage == "features"
        }


def naively(rides: Iterable[Ride], zone: int | None, at_ms: int) -> list[float]:
    """The view's features as a person would compute them from all events."""
    end = at_ms // HOUR * HOUR
    here = [ride for ride in rides if zone is None or ride.zone == zone]

    def window(hours: int) -> list[Ride]:
        return [ride for ride in here if end - hours * HOUR <= ride.at_ms < end]

    speeds = [[ride.mph for ride in window(h) if ride.mph is not None and ride.mph < 80] for h in (1, 4)]
    shares = [float(ride.shared) for ride in window(4) if ride.shared is not None]
    return [
        *(float(len(each)) for each in speeds),
        *(float(np.mean(each)) if each else np.nan for each in speeds),
        *(float(np.std(each, ddof=1)) if len(each) > 1 else np.nan for each in speeds),
        *(max(each) if each else np.nan for each in speeds),
        float(len(window(4))),
        float(sum(shares)),
    ]


RIDES = st.builds(
    Ride,
    zone=st.sampled_from([1, 2, 3, None]),
    at_ms=st.integers(START, START + 6 * HOUR),
    mph=st.one_of(st.none(), st.floats(0, 200)),
    shared=st.sampled_from([True, False, None]),
)


@settings(max_examples=40)
@given(
    rides=st.lists(st.tuples(RIDES, st.integers(0, PARTITIONS - 1)), max_size=40),
    batch=st.integers(1, 9),
    order=st.randoms(use_true_random=False),
)
def test_any_order_any_batches_and_any_restart_give_what_the_events_say(
    rides: list[tuple[Ride, int]], batch: int, order: Any
) -> None:
    stage = Stage(a_view(), a_view("city", entity=None))
    shuffled = list(rides)
    order.shuffle(shuffled)
    for ride, partition in shuffled:
        stage.send(ride, partition)
        if order.random() < 0.1:
            stage.promise(START - HOUR)
        if order.random() < 0.1:
            stage.run(batch)
            stage.forget_workers()
    stage.promise(START + 6 * HOUR)
    stage.promise(START + 6 * HOUR)
    stage.run(batch)

    speed, city = (stage.state(view) for view in stage.views)
    for at in (START + HOUR, START + 3 * HOUR + 1, START + 7 * HOUR):
        expected = [naively((ride for ride, _ in rides), zone, at) for zone in (1, 2, 3)]
        np.testing.assert_allclose(speed.values(["1", "2", "3"], at), expected, rtol=1e-9, atol=1e-7)
        everybody = naively((ride for ride, _ in rides), None, at)
        np.testing.assert_allclose(city.values([""], at), [everybody], rtol=1e-9, atol=1e-7)
    assert (
        stage.watermarks() == stage.watermarks("city") == dict.fromkeys(range(PARTITIONS), START + 6 * HOUR)
    )


@settings(max_examples=15)
@given(
    rides=st.lists(st.tuples(RIDES, st.integers(0, PARTITIONS - 1)), max_size=25),
    batch=st.integers(1, 9),
    order=st.randoms(use_true_random=False),
)
def test_texts_ends_and_sketches_come_over_the_topics_and_through_restarts(
    rides: list[tuple[Ride, int]], batch: int, order: Any
) -> None:
    view = a_view(
        entity=None,
        aggregates=[
            {"field": "mph", "functions": ["last", "p50"], "windows": ["4h"], "where": "shared or id in ['r1', 'r2']"},
            {"field": "id", "functions": ["distinct_count", "rate"], "windows": ["4h"]},
        ],
    )  # fmt: skip
    stage = Stage(view)
    for ride, partition in rides:
        stage.send(ride, partition)
        if order.random() < 0.2:
            stage.run(batch)
            stage.forget_workers()
    stage.run(batch)

    at = START + 4 * HOUR
    seen = [(f"r{number}", ride) for number, (ride, _) in enumerate(rides, 1) if START <= ride.at_ms < at]
    met = [
        (ride.at_ms, text_numbers([name])[0], ride.mph)
        for name, ride in seen
        if ride.mph is not None and (ride.shared or name in ("r1", "r2"))
    ]
    last, middle, distinct, rate = stage.state(view).values([""], at)[0].tolist()
    assert (distinct, rate) == (len(seen), len(seen) / (4 * 3600))
    if met:
        assert last == max(met)[2]
        assert middle == pytest.approx(
            sorted(mph for *_, mph in met)[(len(met) - 1) // 2], rel=0.0101, abs=1e-9
        )
    else:
        assert np.isnan([last, middle]).all()


def test_an_entity_of_several_fields_is_their_texts_together_and_a_null_part_is_nobody() -> None:
    view = a_view(entity=["zone", "shared"])
    stage = Stage(view)
    for zone, shared in ((1, True), (1, True), (1, False), (11, True), (1, None), (None, True)):
        stage.send(Ride(zone, START, shared=shared), 0)
    stage.run()

    state = stage.state(view)
    assert set(state.entities) == {'["1","True"]', '["1","False"]', '["11","True"]'}
    assert state.values(['["1","True"]', '["1","False"]', "1"], START + HOUR)[:, 0].tolist() == [2, 1, 0]


def test_a_condition_that_does_not_fit_the_source_yet_waits() -> None:
    aggregate = {"field": "mph", "functions": ["mean"], "windows": ["1h"], "where": "zone == 'east'"}
    stage = Stage(a_view(aggregates=[aggregate]))
    stage.send(Ride(1, START), 0)

    with pytest.raises(SpecsApart, match="the field is a number"):
        stage.run()


def test_a_watermark_is_the_least_of_all_inputs_and_says_so_once() -> None:
    stage = Stage()
    stage.promise(START, [0, 1])
    stage.run()
    assert stage.watermarks() == {}

    stage.promise(START - HOUR, [2])
    stage.run()
    stage.promise(START - HOUR, [0, 1, 2])
    stage.run()

    assert stage.watermarks() == dict.fromkeys(range(PARTITIONS), START - HOUR)
    assert len(stage.log.read("watermarks", 0)) == PARTITIONS


def test_what_is_on_the_topic_tells_how_far_the_fold_has_come() -> None:
    stage = Stage()
    stage.promise(START, [0, 1])
    stage.promise(START + HOUR, [2])
    stage.run()

    state = FoldState(Layout.of(a_view().spec, 2 * HOUR))
    progress = featurelog.apply(state, stage.log.read("features.speed", 1), 1).progress

    assert progress is not None
    assert dict(progress.watermark_ms) == {0: START, 1: START, 2: START + HOUR}
    assert progress.least_ms() == START


def test_an_entity_past_its_time_to_live_leaves_nothing_but_tombstones() -> None:
    stage = Stage()
    stage.send(Ride(1, START), 0)
    stage.send(Ride(1, START + 2 * HOUR), 0)
    stage.send(Ride(2, START + 9 * HOUR), 0)
    stage.promise(START + 9 * HOUR)
    stage.run()
    assert all(alive for _, alive in stage.fates())

    stage.promise(START + 11 * HOUR)
    stage.run()
    fates = {(key.entity, alive) for key, alive in stage.fates() if key.entity is not None}
    assert fates == {("1", False), ("2", True)}

    stage.forget_workers()
    stage.send(Ride(1, START + 12 * HOUR), 0)
    stage.run()
    assert stage.state(a_view()).values(["1"], START + 13 * HOUR)[0, 0] == 1


def test_a_changed_view_begins_with_what_the_archive_holds_and_an_unchanged_one_goes_on() -> None:
    stage = Stage()
    stage.send(Ride(1, START), 0)
    stage.run()
    stage.change(a_view(), generation=1)  # the same again, as a new object
    stage.send(Ride(1, START), 0)
    stage.promise(START)
    stage.run()
    assert stage.state(a_view()).values(["1"], START + HOUR)[0, 0] == 2

    changed = a_view(ttl="9h")
    stage.change(changed)
    stage.run()  # and no event comes
    assert stage.state(changed, generation=2).values(["1"], START + HOUR)[0, 0] == 2
    assert [stage.progress(generation=2, partition=p) for p in range(PARTITIONS)] == [START] * PARTITIONS

    stage.send(Ride(1, START), 0)
    stage.run()
    assert stage.state(changed, generation=2).values(["1"], START + HOUR)[0, 0] == 3
    assert stage.state(a_view(), generation=1).values(["1"], START + HOUR)[0, 0] == 2


def test_of_the_generations_before_two_stay_for_those_who_read_them_and_older_ones_leave_the_topic() -> None:
    stage = Stage()
    stage.send(Ride(1, START), 0)
    stage.run()
    for generation in (2, 3, 4):
        stage.change(a_view(ttl=f"{10 + generation}h"), generation)
        stage.run()

    assert {key.generation for key, alive in stage.fates() if alive and key.entity} == {2, 3, 4}


def test_what_a_worker_that_died_has_left_of_a_beginning_is_not_counted_twice() -> None:
    stage = Stage()
    for zone in (1, 2, 3):
        stage.send(Ride(zone, START), 0)
    stage.promise(START)
    stage.run()
    changed = a_view(ttl="9h")
    stage.change(changed)
    for partition in range(PARTITIONS):
        fold = stage.unopened("speed", partition)
        begun = asyncio.run(fold.restore())
        stage.log.write(begun[: len(begun) // 2])  # and then it dies
    stage.send(Ride(1, START), 0)
    stage.forget_workers()
    stage.run()

    found = stage.state(changed, generation=2).values(["1", "2", "3"], START + HOUR)[:, 0]
    assert found.tolist() == [2, 1, 1]


def test_a_fold_that_is_behind_the_one_before_it_waits_for_the_news() -> None:
    stage = Stage()
    stage.change(a_view(ttl="9h"))
    stage.run()
    stage.book.remove("FeatureView", "speed")
    stage.book.put(a_view(), generation=1)

    with pytest.raises(ViewChanged):
        stage.fold("speed", 0)


def test_a_view_waits_while_the_archive_stands_still_and_says_how_far_it_is_behind() -> None:
    stage = Stage()
    stage.archive_stands_still = True
    for _ in range(3):
        stage.send(Ride(1, START), 0)

    with pytest.raises(EventsNotArchivedYet, match="'rides' is 3 records behind"):
        stage.fold("speed", 0)


@settings(max_examples=60)
@given(
    rides=st.lists(st.tuples(RIDES, st.integers(0, PARTITIONS - 1)), min_size=5, max_size=30),
    batch=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_a_view_may_change_at_any_time_and_whoever_hears_of_it_first(
    rides: list[tuple[Ride, int]], batch: int, seed: int
) -> None:
    stage, order = Stage(), random.Random(seed)
    generation, changed = 1, a_view()
    for ride, partition in rides:
        stage.send(ride, partition)
        for chance, act in [
            (0.2, lambda: stage.promise(START - HOUR)),
            (0.3, lambda: stage.run(batch)),
            (0.1, stage.forget_workers),
        ]:
            if order.random() < chance:
                act()
        if order.random() < 0.2:
            generation, changed = generation + 1, a_view(ttl=f"{20 + generation}h")
        # The repartition may hear of it late: the fold takes its beginning again until it has.
        if order.random() < 0.3:
            stage.book.put(changed, generation)
        if order.random() < 0.3:
            stage.upstream.put(stage.book.view("speed"), stage.book.generation(changed))
    stage.change(changed, generation)
    stage.promise(START + 6 * HOUR)
    stage.run(batch)
    stage.run(batch)

    found = stage.state(changed, generation)
    for at in (START + HOUR, START + 3 * HOUR + 1, START + 7 * HOUR):
        expected = [naively((ride for ride, _ in rides), zone, at) for zone in (1, 2, 3)]
        np.testing.assert_allclose(found.values(["1", "2", "3"], at), expected, rtol=1e-9, atol=1e-7)
    assert stage.watermarks() == dict.fromkeys(range(PARTITIONS), START + 6 * HOUR)


def test_a_longer_lateness_keeps_the_state_though_the_topic_is_compacted() -> None:
    stage = Stage()
    for hour in range(12):
        stage.send(Ride(1, START + hour * HOUR), 0)
        stage.run()
    stage.change(a_source(lateness="4h"))
    for hour in range(12, 16):
        stage.send(Ride(1, START + hour * HOUR), 1)
        stage.run()
    at = START + 16 * HOUR
    assert stage.state(a_view()).values(["1"], at)[0, 1] == 4

    stage.log.compact("features.speed")
    stage.forget_workers()
    stage.send(Ride(1, START + 15 * HOUR), 0)
    stage.run()

    assert stage.state(a_view()).values(["1"], at)[0, 1] == 5


def test_a_fold_that_has_not_heard_of_a_change_waits_for_it() -> None:
    stage = Stage()
    stage.run()
    fold = stage.fold("speed", 0)
    rows = KeyedRows(2, 0, [0], ["1"], [START], ["a"], {})

    with pytest.raises(ViewChanged):
        fold.process([Raw("keyed.speed", 0, 0, None, next(keyed.encode(rows)), [])])


def test_rubbish_between_the_stages_is_a_dead_letter_and_the_fold_goes_on() -> None:
    stage = Stage()
    stage.send(Ride(1, START), 0)
    stage.run()
    uneven = msgspec.json.encode(KeyedRows(1, 0, [0], ["1"], [], [], {}))
    for value in (b"\xff", b"{}", uneven, b"", None):
        stage.log.write([Outgoing("keyed.speed", None, value, [], p) for p in range(PARTITIONS)])
    stage.send(Ride(1, START), 0)
    stage.run()

    assert stage.state(a_view()).values(["1"], START + HOUR)[0, 0] == 2
    assert len(stage.log.read("deadletter", 0)) == 3 * PARTITIONS


def test_a_row_that_fits_no_contract_harms_no_other() -> None:
    stage = Stage()
    stage.send(Ride(1, START), 0)
    for value in (b"{", b"[]", b'{"zone": 1, "mph": "fast"}', b'{"zone": 1.0, "mph": 20}'):
        headers = records.row_headers(id="x", source="rides", event_time_ms=START, arrived_at_ms=START)
        stage.log.write([Outgoing("events.rides", b"k", value, headers, 0)])
    stage.run()

    assert stage.state(a_view()).values(["1"], START + HOUR)[0, 0] == 2


def test_a_view_that_needs_a_field_not_heard_of_yet_waits() -> None:
    stage = Stage(a_view(aggregates=[{"field": "new", "functions": ["mean"], "windows": ["1h"]}]))
    stage.send(Ride(1, START), 0)

    with pytest.raises(SpecsApart, match="new"):
        stage.run()


def test_records_of_a_deleted_view_change_nothing() -> None:
    stage = Stage()
    stage.send(Ride(1, START), 0)
    stage.run()
    stage.remove("FeatureView", "speed")
    stage.log.write([Outgoing("keyed.speed", None, b"\xff", [], p) for p in range(PARTITIONS)])
    stage.forget_workers()
    stage.run()
    stage.remove("Source", "rides")
    stage.send(Ride(1, START), 0)
    stage.run()

    assert stage.log.read("deadletter", 0) == []


@pytest.mark.parametrize("size", [1, 2000, 2001, 9000])
def test_no_record_between_the_stages_is_too_large(size: int) -> None:
    rows = KeyedRows(
        1, 0, [0] * size, ["é" * 300] * size, list(range(size)), ["i"] * size, {"x": [None] * size}
    )
    parts = [keyed.decode(value) for value in keyed.encode(rows)]

    assert all(len(value) <= keyed.BYTES_A_RECORD for value in keyed.encode(rows))
    assert [at for part in parts for at in part.event_time_ms] == list(range(size))


def test_uneven_rows_are_no_rows() -> None:
    with pytest.raises(BadRows, match="lengths"):
        keyed.decode(
            msgspec.json.encode(KeyedRows(1, 0, [1, 2], ["a", "b"], [1, 2], ["x", "y"], {"f": [1.0]}))
        )


def test_an_entity_always_lives_in_the_same_partition() -> None:
    homes = [featurelog.partition_of(str(zone), PARTITIONS) for zone in range(1000)]

    assert homes == [featurelog.partition_of(str(zone), PARTITIONS) for zone in range(1000)]
    assert {homes.count(each) > 250 for each in range(PARTITIONS)} == {True}
    assert featurelog.partition_of("161", 4) == 2  # it is on disk: this may never change


def test_the_last_slot_of_a_transaction_says_when_its_oldest_event_was_produced() -> None:
    stage = Stage()
    stage.run()  # its folds have begun: what comes now is folded as it comes
    for hour, taken_ms in ((0, START + 900), (1, START + 50), (0, START + 400)):
        stage.send(Ride(7, START + hour * HOUR), 0)
        stage.log.read("events.rides", 0)[-1].timestamp = START + HOUR + taken_ms - START
    stage.send(Ride(7, START + HOUR, mph=None), 1)
    stage.log.read("events.rides", 1)[-1].timestamp = START + 40 * HOUR  # arrived, so it says, days before

    stage.run()

    told = [
        freshness.produced_ms(raw)
        for partition in range(PARTITIONS)
        for raw in stage.log.read("features.speed", partition)
        if featurelog.parse_key(raw.key or b"").entity is not None
    ]
    assert told == [None, START]
