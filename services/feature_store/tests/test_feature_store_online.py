"""Online features of many views and entities at once: what each value is, and what is refused.

One contract for both homes of the slots: a process's memory and PostgreSQL.
"""

import asyncio
import threading
import uuid
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import numpy as np
import pytest
from trimtab_contracts import topics
from trimtab_contracts.features.v1.features_pb2 import GetOnlineFeaturesRequest, GetOnlineFeaturesResponse
from trimtab_core import specs
from trimtab_core.slots import FoldState, Layout
from trimtab_feature_store import online
from trimtab_feature_store.errors import BadQuestion, NotRead
from trimtab_feature_store.grpc_api import FeatureStoreApi
from trimtab_feature_store.inpostgres import InPostgres, StoredView
from trimtab_feature_store.online import Answer, Home, InMemory, OnlineViews
from trimtab_feature_store.slotstore import SlotStore, Undone
from trimtab_runtime import featurelog, freshness
from trimtab_runtime.clock import ManualClock
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.featurelog import Progress
from trimtab_runtime.freshness import Freshness
from trimtab_runtime.onlineview import Status
from trimtab_runtime.postgres import open_pool
from trimtab_runtime.specbook import SpecBook, UnknownView
from trimtab_runtime.testing import eventually
from trimtab_stack import ports

HOUR = 3_600_000
START = 420_000 * HOUR
NOW = 1_790_000_000_000


T = TypeVar("T")


class Raw:
    """A record as aiokafka gives it, once it has been given its offset."""

    def __init__(
        self, key: bytes | None, value: bytes | None, headers: Sequence[Any] = (), timestamp: int = NOW
    ) -> None:
        self.key, self.value, self.headers, self.timestamp = key, value, headers, timestamp
        self.offset = -1


class Topics:
    """The topics that processes read, one partition each."""

    def __init__(self) -> None:
        self._ends: dict[str, int] = {}

    def wrote(self, view: str, batch: Iterable[Raw]) -> list[Raw]:
        """Return `batch` with offsets, if it has none yet."""
        found = list(batch)
        for record in found:
            if record.offset < 0:
                record.offset = self._ends.get(view, 0)
                self._ends[view] = record.offset + 1
        return found


class ReadToTheEnd:
    """A follower that has caught up, or does once it is freed."""

    def __init__(self, *, stuck: bool = False) -> None:
        self.free, self.waiting = asyncio.Event(), 0
        self.start: dict[tuple[str, int], int] = {}
        if not stuck:
            self.free.set()

    def set_topics(self, topics: Sequence[str]) -> None:
        pass

    def begin_at(self, start: Mapping[tuple[str, int], int]) -> None:
        self.start |= start

    async def caught_up(self) -> None:
        self.waiting += 1
        await self.free.wait()


def a_view(name: str, **changes: Any) -> specs.FeatureView:
    spec = {
        "source": "rides",
        "hop": "1h",
        "ttl": "6h",
        "aggregates": [{"field": "mph", "functions": ["count", "mean"], "windows": ["4h"]}],
    }
    found = specs.parse("FeatureView", {"metadata": {"name": name}, "spec": spec | changes})
    assert isinstance(found, specs.FeatureView)
    return found


class Loop:
    """An event loop in a thread of its own, as the door's threads know one."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class World:
    """A process with two views of one source, read from records that are handed over."""

    def __init__(self, loop: Loop, home: Home, topics: Topics | None = None) -> None:
        fields = {
            "id": {"type": "string"},
            "at": {"type": "timestamp"},
            "zone": {"type": "integer"},
            "mph": {"type": "number"},
        }
        contract = {"key": "id", "event_time": "at", "lateness": "2h", "partitions": 1, "fields": fields}  # fmt: skip
        self.loop, self.home, self.topics = loop, home, topics or Topics()
        self.book, self.clock = SpecBook(), ManualClock(NOW)
        self.book.put(specs.parse("Source", {"metadata": {"name": "rides"}, "spec": contract}))
        self.book.put(a_view("speed", entity="zone"))
        self.book.put(a_view("city", hop="2h"))
        self.freshness = Freshness(self.clock, "feature_store-0")
        self.views = OnlineViews("", self.book, self.freshness, home)
        self.follow(ReadToTheEnd())

    def follow(self, follower: Any) -> None:
        self.views.follower = follower

    def slots(
        self, view: str, *events: tuple[str, int, float], until_ms: int = 0, generation: int = 1
    ) -> list[Raw]:
        spec = self.book.view(view).spec
        state = FoldState(Layout.of(spec, 2 * HOUR))
        entities, times, speeds = zip(*events, strict=True)
        folded = state.fold(entities, np.array(times), np.array(speeds)[:, None])
        batch = [
            Raw(
                featurelog.key(generation, entity, index),
                featurelog.slot_value(entity, slot, state.slot(entity, index)[1]),
            )
            for entity, slot, index in folded.changed
        ]
        progress = featurelog.progress_value(Progress({0: until_ms}, 1))
        return self.topics.wrote(view, [*batch, Raw(featurelog.key(generation, None, 0), progress)])

    def hear(
        self, view: str, *events: tuple[str, int, float], until_ms: int = 0, generation: int = 1
    ) -> list[Raw]:
        return self.records(view, self.slots(view, *events, until_ms=until_ms, generation=generation))

    def records(self, view: str, batch: Iterable[Raw]) -> list[Raw]:
        found = self.topics.wrote(view, batch)
        self.open(view)
        self.loop.run(self.views._hear(f"features.{view}", 0, found))
        return found

    def open(self, view: str) -> None:
        """Begin with a view, which is read as soon as somebody asks for it."""
        if view not in self.views._asked:
            plan = self.views.plan([f"{view}.*"])
            self.loop.run(self.views.follow(plan, patience_s=1.0))

    def ask(self, *features: str, at_ms: int, **entities: Sequence[str]) -> Answer:
        plan = self.views.plan(features)
        if self.views.lacks(plan):
            self.loop.run(self.views.follow(plan, patience_s=0.01))
        return self.views.read(plan, entities, at_ms)

    def mean(self, zone: str = "1", at_ms: int = START + HOUR) -> float:
        return float(self.ask("speed.mph_mean_4h", at_ms=at_ms, zone=[zone]).values[0, 0])


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.end()


@pytest.fixture
def pool(loop: Loop, postgres_dsn: str) -> Iterator[asyncpg.Pool]:
    with a_pool(loop, postgres_dsn, f"features_{uuid.uuid4().hex[:8]}") as pool:
        yield pool


@contextmanager
def a_pool(loop: Loop, dsn: str, schema: str) -> Iterator[asyncpg.Pool]:
    opening = open_pool(dsn, schema, package="trimtab_feature_store", size=2)
    pool = loop.run(opening.__aenter__())
    try:
        yield pool
    finally:
        loop.run(opening.__aexit__(None, None, None))


async def in_postgres(pool: asyncpg.Pool) -> InPostgres:
    return InPostgres(SlotStore(pool))


@pytest.fixture
def in_memory(loop: Loop) -> World:
    return World(loop, InMemory())


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.real)])
def world(request: pytest.FixtureRequest, loop: Loop) -> World:
    if request.param == "memory":
        return World(loop, InMemory())
    return World(loop, loop.run(in_postgres(request.getfixturevalue("pool"))))


@pytest.fixture
def processes(loop: Loop, pool: asyncpg.Pool) -> list[World]:
    """Two processes with one PostgreSQL."""
    topics = Topics()
    return [World(loop, loop.run(in_postgres(pool)), topics) for _ in range(2)]


def statuses(answer: Answer) -> list[list[str]]:
    return [[Status(each).name for each in row] for row in answer.statuses.tolist()]


def test_many_views_and_entities_are_read_at_one_time_each_as_of_its_own_boundary(world: World) -> None:
    until = START + 10 * HOUR
    world.hear("speed", ("1", START + 3 * HOUR, 10.0), ("2", START + 4 * HOUR, 30.0), until_ms=until)
    world.hear("city", ("", START + 3 * HOUR, 10.0), ("", START + 4 * HOUR, 30.0), until_ms=until)

    found = world.ask("city.mph_mean_4h", "speed.*", at_ms=START + 5 * HOUR + 7, zone=["2", "1"])

    assert found.names == ["city.mph_mean_4h", "speed.mph_count_4h", "speed.mph_mean_4h"]
    assert found.values.tolist() == [[10, 1, 30], [10, 1, 10]]  # the city's last boundary is an hour earlier
    assert statuses(found) == [["PRESENT"] * 3] * 2
    assert [(view.name, view.as_of_ms, view.watermark_ms) for view in found.views] == [
        ("city", START + 4 * HOUR, until),
        ("speed", START + 5 * HOUR, until),
    ]


def test_each_value_says_what_it_is(world: World) -> None:
    rides = ("new", START + 9 * HOUR, 1.0), ("quiet", START + 4 * HOUR, 1.0), ("old", START, 1.0)
    world.hear("speed", *rides, until_ms=START + 10 * HOUR - 1)
    asked = {"zone": ["new", "quiet", "old", "unknown"]}

    told = world.ask("speed.mph_count_4h", "speed.mph_mean_4h", at_ms=START + 10 * HOUR, **asked)

    assert statuses(told) == [
        ["PRESENT", "PRESENT"],
        ["PRESENT", "MISSING"],  # that there were none is known; their mean is not
        ["EXPIRED", "EXPIRED"],
        ["MISSING", "MISSING"],
    ]
    later = world.ask("speed.mph_mean_4h", at_ms=START + 11 * HOUR, **asked)
    assert statuses(later) == [["STALE"], ["EXPIRED"], ["EXPIRED"], ["MISSING"]]


def test_a_view_of_which_no_watermark_has_come_is_stale(world: World) -> None:
    batch = featurelog.slot_value("1", START // HOUR, np.array([[1.0, 5.0, 0.0, 5.0, 5.0]]))
    slot = START // HOUR
    world.records(
        "speed", [Raw(featurelog.key(1, "1", slot % Layout.of(a_view("x").spec, 2 * HOUR).ring), batch)]
    )

    found = world.ask("speed.mph_mean_4h", at_ms=START + HOUR, zone=["1"])

    assert (found.values.tolist(), statuses(found)) == ([[5.0]], [["STALE"]])
    assert found.views[0].watermark_ms is None


def test_a_view_without_an_entity_has_one_row_where_no_entity_is_given(world: World) -> None:
    world.hear("city", ("", START, 10.0), until_ms=START + 2 * HOUR)

    assert world.ask("city.mph_mean_4h", at_ms=START + 2 * HOUR).values.tolist() == [[10.0]]


def test_a_changed_view_answers_once_it_has_begun_and_the_one_before_until_then(world: World) -> None:
    def mean() -> Any:
        return world.ask("speed.mph_mean_4h", at_ms=START + HOUR, zone=["1"]).values.tolist()

    world.hear("speed", ("1", START, 10.0), until_ms=START + HOUR)
    assert mean() == [[10.0]]

    more = {"field": "mph", "functions": ["max", "count", "mean"], "windows": ["4h"]}
    world.book.put(a_view("speed", entity="zone", aggregates=[more]), generation=2)
    assert mean() == [[10.0]]
    world.views.update()
    assert mean() == [[10.0]]
    with pytest.raises(NotRead):
        world.ask("speed.mph_max_4h", at_ms=START + HOUR, zone=["1"])

    world.hear("speed", ("1", START, 70.0), generation=2)
    assert mean() == [[70.0]]
    assert world.ask("speed.mph_max_4h", at_ms=START + HOUR, zone=["1"]).values.tolist() == [[70.0]]


@pytest.mark.parametrize("change", [{"lateness": "9h"}, {"unknown_fields": "reject"}])
def test_a_source_that_changes_takes_nothing_from_its_views(world: World, change: dict[str, Any]) -> None:
    world.hear("speed", ("1", START, 10.0), until_ms=START + HOUR)
    before = world.ask("speed.*", at_ms=START + HOUR, zone=["1"])
    source = world.book.source("rides")
    document = specs.to_document(source)
    world.book.put(specs.parse("Source", {**document, "spec": document["spec"] | change}), generation=2)
    world.views.update()

    after = world.ask("speed.*", at_ms=START + HOUR, zone=["1"])
    assert (after.values.tolist(), statuses(after)) == (before.values.tolist(), statuses(before))
    assert after.views == before.views
    world.hear("speed", ("1", START, 30.0), until_ms=START + 2 * HOUR)
    assert world.ask("speed.mph_mean_4h", at_ms=START + HOUR, zone=["1"]).values.tolist() == [[30.0]]


def test_a_view_that_changes_its_entity_is_not_answered_by_the_one_before(world: World) -> None:
    world.hear("speed", ("1", START, 10.0), until_ms=START + HOUR)
    world.ask("speed.mph_mean_4h", at_ms=START + HOUR, zone=["1"])
    world.book.put(a_view("speed", entity="id"), generation=2)
    world.views.update()

    with pytest.raises(NotRead):
        world.ask("speed.mph_mean_4h", at_ms=START + HOUR, id=["1"])


@pytest.mark.parametrize(
    ("features", "entities", "said"),
    [
        ([], {}, "features is empty: name some"),
        (["speed"], {"zone": ["1"]}, "feature 'speed' is not understood: write view.column or view.*"),
        (["speed.mph"], {"zone": ["1"]}, "names column 'mph', which the view lacks: it has mph_count_4h, mph_mean_4h"),
        (["city.*", "city.mph_mean_4h"], {}, "feature 'city.mph_mean_4h' is asked for twice: drop one"),
        (["speed.*"], {}, "told apart by 'zone', and no entity column is called so (there are none): add one"),
        (["speed.*"], {"zones": ["1"]}, "no entity column is called so (there are zones): add one"),
        (["speed.*"], {"zone": ["1", "2"], "hour": ["1"]}, "different lengths (zone has 2, hour has 1)"),
        (["speed.*"], {"zone": ["1"] * 300_000}, "300000 rows of 2 features are more than the 500000 values"),
    ],
)  # fmt: skip
def test_rubbish_is_refused_in_a_sentence(
    world: World, features: list[str], entities: Mapping[str, list[str]], said: str
) -> None:
    with pytest.raises(BadQuestion) as refusal:
        world.ask(*features, at_ms=START, **entities)
    assert said in str(refusal.value)


def test_a_view_that_is_not_there_is_named(world: World) -> None:
    with pytest.raises(UnknownView, match="there is no feature view 'sped'"):
        world.ask("sped.*", at_ms=START)


def test_a_view_that_is_still_being_read_is_asked_for_again(world: World) -> None:
    world.follow(ReadToTheEnd(stuck=True))

    with pytest.raises(NotRead, match="'city' are still being read: ask again in a moment"):
        world.ask("city.*", at_ms=START)


@pytest.mark.parametrize(("threads", "waiters"), [(4, 3), (1, 1)])
async def test_questions_that_wait_for_a_first_read_leave_a_thread_to_the_others(
    in_memory: World, threads: int, waiters: int
) -> None:
    world = in_memory

    class Context:
        def time_remaining(self) -> None:
            return None

    async def all_wait() -> bool:
        return follower.waiting == waiters

    follower = ReadToTheEnd(stuck=True)
    world.follow(follower)
    nothing = cast(Any, None)
    api = FeatureStoreApi(
        world.views,
        nothing,
        nothing,
        nothing,
        nothing,
        nothing,
        world.clock,
        patience_s=60.0,
        threads=threads,
    )
    question, context = GetOnlineFeaturesRequest(features=["city.*"]), cast(Any, Context())
    async with asyncio.TaskGroup() as tasks:
        waiting = [
            tasks.create_task(asyncio.to_thread(api.GetOnlineFeatures, question, context))
            for _ in range(waiters)
        ]
        await eventually(all_wait, what="all that may wait")

        with pytest.raises(NotRead, match="'city' are still being read"):
            await asyncio.to_thread(api.GetOnlineFeatures, question, context)
        assert not any(each.done() for each in waiting)
        follower.free.set()

    assert all(list(each.result().names) == ["city.mph_count_4h", "city.mph_mean_4h"] for each in waiting)


def test_rubbish_on_the_topic_hides_nothing(world: World) -> None:
    world.records("city", [Raw(None, b"x"), Raw(b"no key", b"x"), Raw(featurelog.key(1, "", 0), b"\xff")])
    world.hear("city", ("", START, 10.0), until_ms=START + 2 * HOUR)

    assert world.ask("city.mph_mean_4h", at_ms=START + 2 * HOUR).values.tolist() == [[10.0]]


def test_freshness_is_of_what_came_since_the_view_was_asked_for(world: World) -> None:
    def heard(produced_ms: int, taken_ms: int) -> None:
        key = featurelog.key(1, None, 0)
        value = featurelog.progress_value(Progress({0: START}, 1))
        world.records("city", [Raw(key, value, [freshness.header(produced_ms)], taken_ms)])

    heard(NOW - 5, NOW - 1)  # before anybody asked
    assert world.ask("city.*", at_ms=START).views[0].freshness_ms is None

    for waited_ms in (100, 300, 40):
        world.clock.advance(1000)
        heard(world.clock.now_ms() - waited_ms, world.clock.now_ms())
    assert world.ask("city.*", at_ms=START).views[0].freshness_ms == 40
    [lag] = world.freshness.take()
    assert (lag.view, lag.notes, lag.p50_ms) == ("city", 3, 100)
    assert 290 < lag.p99_ms <= 300
    assert world.freshness.take() == []


async def test_how_fresh_a_view_is_is_published_when_there_is_news(
    in_memory: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []

    class Producer:
        async def send(self, topic: str, **record: Any) -> asyncio.Future[None]:
            sent.append(topics.METRICS_FEATURES.decode(record["value"]))
            done = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done

    monkeypatch.setattr(freshness, "PUBLISH_S", 0.0)
    in_memory.freshness.note("city", [Raw(b"k", b"v", [freshness.header(NOW - 70)])])

    async def is_told() -> bool:
        return len(sent) >= 2

    async with asyncio.TaskGroup() as tasks:
        publishing = tasks.create_task(in_memory.freshness.publish(topics.METRICS_FEATURES, Producer()))
        await eventually(is_told, what="two metrics")
        publishing.cancel()
    assert [(each.model, each.name, each.value, each.rows) for each in sent] == [
        ("city", "freshness_p50_ms", 70, 1),
        ("city", "freshness_p99_ms", 70, 1),
    ]
    assert sent[0].id.startswith("feature_store-0/city/freshness_p50_ms/")


def test_a_replays_arrivals_are_not_taken_for_times_of_the_wall_clock() -> None:
    taken = np.array([NOW, NOW + 10])

    assert freshness.oldest_ms(np.array([NOW - 500, NOW]), taken) == NOW - 500
    assert freshness.oldest_ms(np.array([START, START]), taken) == NOW
    assert freshness.oldest_ms(taken[:0], taken[:0]) is None


def test_the_statuses_are_those_of_the_message() -> None:
    assert {each.name: each.value for each in Status} == dict(GetOnlineFeaturesResponse.Status.items())
    assert online.MOST_VALUES * 8 < 64 * 2**20  # an answer fits a message


@pytest.mark.real
def test_a_process_that_is_started_again_goes_on_where_the_slots_were_left(
    processes: list[World],
) -> None:
    before, after = processes
    heard = before.hear("speed", ("1", START, 10.0), ("2", START, 20.0), until_ms=START + HOUR)
    expected = before.ask("speed.*", at_ms=START + HOUR, zone=["1", "2", "3"])

    found = after.ask("speed.*", at_ms=START + HOUR, zone=["1", "2", "3"])

    assert after.views.follower.start == {("features.speed", 0): heard[-1].offset + 1}
    np.testing.assert_array_equal(found.values, expected.values)
    assert (statuses(found), found.views) == (statuses(expected), expected.views)


@pytest.mark.real
def test_what_several_processes_hear_is_written_once_and_never_taken_back(
    processes: list[World], pool: asyncpg.Pool
) -> None:
    ahead, behind = processes

    def written() -> list[Any]:
        return ahead.loop.run(
            pool.fetch("SELECT index, slot, written, value, xmin::text FROM slots ORDER BY 1")
        )

    first = ahead.slots("speed", ("1", START, 10.0), until_ms=START + HOUR)
    second = ahead.slots("speed", ("1", START, 30.0), ("2", START, 5.0), until_ms=START + HOUR)
    behind.open("speed")
    ahead.records("speed", first)
    ahead.records("speed", second)
    there = written()

    behind.records("speed", first)
    behind.records("speed", second[:1])
    assert written() == there
    assert behind.mean() == 30
    behind.records("speed", second)
    ahead.records("speed", [*first, *second])
    assert written() == there


@pytest.mark.real
def test_a_value_is_dropped_by_each_process_once_its_watermark_has_passed_the_change(
    processes: list[World],
) -> None:
    writer, reader = processes
    first = writer.hear("speed", ("1", START, 10.0), until_ms=START + HOUR - 2)
    reader.open("speed")
    reader.records("speed", first)
    assert (writer.mean(), reader.mean()) == (10, 10)

    change = writer.hear("speed", ("1", START, 30.0), until_ms=START + HOUR)
    told = reader.ask("speed.mph_mean_4h", at_ms=START + HOUR, zone=["1"])
    assert (told.values.tolist(), statuses(told)) == ([[10]], [["STALE"]])
    assert writer.mean() == 30

    reader.records("speed", change)
    told = reader.ask("speed.mph_mean_4h", at_ms=START + HOUR, zone=["1"])
    assert (told.values.tolist(), statuses(told)) == ([[30]], [["PRESENT"]])


def test_a_value_is_not_kept_if_its_slots_changed_while_they_were_fetched(in_memory: World) -> None:
    first, second = (
        in_memory.slots("speed", ("1", START, mph), until_ms=START + HOUR) for mph in (10.0, 30.0)
    )
    fetched: list[bytes | None] = []

    def rings(*_: Any) -> list[Any]:
        fetched.append([first, second][len(fetched)][0].value)
        if len(fetched) == 1:
            view.apply(0, second)
        return fetched[-1:]

    view = StoredView(in_memory.book.view("speed"), in_memory.book.source("rides"), 1, rings, {})
    view.apply(0, first)
    for expected in (10, 30, 30):
        assert view.read(["1"], START + HOUR)[0][0, 1] == expected
    assert len(fetched) == 2


@pytest.mark.real
@pytest.mark.parametrize("entity", ["north", "n\x00rth", "ñ" * 5_000])
def test_a_tombstone_takes_all_of_an_entity_whatever_it_is_called(
    processes: list[World], pool: asyncpg.Pool, entity: str
) -> None:
    world, _ = processes
    rides = (entity, START, 10.0), (entity, START + HOUR, 20.0), ("1", START, 5.0)
    world.hear("speed", *rides, until_ms=START + 2 * HOUR)
    assert world.mean(entity, START + 2 * HOUR) == 15

    world.records("speed", [Raw(featurelog.key(1, entity, 0), None)])

    told = world.ask("speed.mph_mean_4h", at_ms=START + 2 * HOUR, zone=[entity, "1"])
    assert statuses(told) == [["MISSING"], ["PRESENT"]]
    assert world.loop.run(pool.fetchval("SELECT count(*) FROM slots")) == 1


@pytest.mark.real
def test_generations_that_have_been_left_are_deleted_and_whoever_still_answers_from_one_says_so(
    processes: list[World], pool: asyncpg.Pool
) -> None:
    moved, behind = processes
    moved.hear("speed", ("1", START, 10.0), until_ms=START + HOUR)
    behind.open("speed")
    changed = a_view("speed", entity="zone", ttl="7h")
    for world in processes:
        world.book.put(changed, generation=2)
    moved.views.update()
    moved.hear("speed", ("1", START, 70.0), until_ms=START + HOUR, generation=2)
    assert (moved.mean(), moved.views.whole()) == (70, {"speed": 2})

    home = cast(InPostgres, moved.home)
    tidying = asyncio.run_coroutine_threadsafe(home.tidy(moved.views.whole), moved.loop.loop)

    async def only_the_new_one() -> bool:
        held = asyncio.run_coroutine_threadsafe(pool.fetch("SELECT generation FROM slots"), moved.loop.loop)
        return [row[0] for row in await asyncio.wrap_future(held)] == [2]

    asyncio.run(eventually(only_the_new_one, what="the older generation to go"))
    tidying.cancel()
    with pytest.raises(NotRead):
        behind.mean()


class Gate:
    """A way to PostgreSQL that can be shut."""

    def __init__(self, dsn: str) -> None:
        self._to = urlsplit(dsn)
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._port = ports.choose()

    @property
    def dsn(self) -> str:
        who = self._to.netloc.rpartition("@")[0]
        return urlunsplit(self._to._replace(netloc=f"{who}@127.0.0.1:{self._port}"))

    async def lift(self) -> None:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self._port)

    async def shut(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._open:
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection(self._to.hostname, self._to.port)
        self._open |= {writer, forth}
        await asyncio.gather(self._copy(reader, forth), self._copy(back, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
        except OSError:
            pass
        writer.close()


@pytest.mark.real
def test_while_postgresql_is_away_questions_are_refused_in_a_sentence_and_what_was_heard_is_written_later(
    loop: Loop, postgres_dsn: str
) -> None:
    gate = Gate(postgres_dsn)
    loop.run(gate.lift())
    with a_pool(loop, gate.dsn, f"features_{uuid.uuid4().hex[:8]}") as pool:
        world = World(loop, loop.run(in_postgres(pool)))
        world.hear("speed", ("1", START, 10.0), ("2", START, 20.0), until_ms=START + HOUR)
        assert world.mean("1") == 10

        loop.run(gate.shut())
        news = world.slots("speed", ("2", START, 50.0), until_ms=START + 2 * HOUR)
        writing = asyncio.run_coroutine_threadsafe(world.views._hear("features.speed", 0, news), loop.loop)
        with pytest.raises(Unavailable, match=r"^PostgreSQL is away: \w+"):
            world.mean("2")
        with pytest.raises(Unavailable, match=r"^PostgreSQL is away: \w+"):
            world.ask("city.*", at_ms=START)
        assert world.mean("1") == 10  # as it was made before, and nothing has come since
        assert not writing.done()

        loop.run(gate.lift())
        writing.result(60)
        assert (world.mean("2"), world.mean("2", START + 2 * HOUR)) == (50, 50)
    loop.run(gate.shut())


@pytest.mark.real
def test_a_postgresql_that_was_put_back_is_not_written_on_to(
    processes: list[World], pool: asyncpg.Pool
) -> None:
    world, again = processes
    world.hear("speed", ("1", START, 10.0), until_ms=START + HOUR)
    world.loop.run(pool.execute("TRUNCATE views, positions, progress, slots"))

    with pytest.raises(Undone, match="up to offset 0, and had it up to 2: this process ends"):
        world.hear("speed", ("2", START, 20.0), until_ms=START + HOUR)

    again.open("speed")
    assert again.views.follower.start == {}
