"""Online features of many views and entities at once: what each value is, and what is refused."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pytest
from trimtab_contracts import topics
from trimtab_contracts.features.v1.features_pb2 import GetOnlineFeaturesRequest, GetOnlineFeaturesResponse
from trimtab_core import specs
from trimtab_core.slots import FoldState, Layout
from trimtab_feature_store import online
from trimtab_feature_store.errors import BadQuestion, NotRead
from trimtab_feature_store.grpc_api import FeatureStoreApi
from trimtab_feature_store.online import Answer, OnlineViews
from trimtab_runtime import featurelog, freshness
from trimtab_runtime.clock import ManualClock
from trimtab_runtime.featurelog import Progress
from trimtab_runtime.freshness import Freshness
from trimtab_runtime.onlineview import Status
from trimtab_runtime.specbook import SpecBook, UnknownView
from trimtab_runtime.testing import eventually

HOUR = 3_600_000
START = 420_000 * HOUR
NOW = 1_790_000_000_000


class Raw:
    """A record as aiokafka gives it."""

    def __init__(
        self, key: bytes | None, value: bytes | None, headers: Sequence[Any] = (), timestamp: int = NOW
    ) -> None:
        self.key, self.value, self.headers, self.timestamp = key, value, headers, timestamp


class ReadToTheEnd:
    """A follower that has caught up, or does once it is freed."""

    def __init__(self, *, stuck: bool = False) -> None:
        self.free, self.waiting = asyncio.Event(), 0
        if not stuck:
            self.free.set()

    def set_topics(self, topics: Sequence[str]) -> None:
        pass

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


class World:
    """Two views of one source, read from records that are handed over."""

    def __init__(self) -> None:
        fields = {
            "id": {"type": "string"},
            "at": {"type": "timestamp"},
            "zone": {"type": "integer"},
            "mph": {"type": "number"},
        }
        contract = {"key": "id", "event_time": "at", "lateness": "2h", "partitions": 1, "fields": fields}  # fmt: skip
        self.book, self.clock = SpecBook(), ManualClock(NOW)
        self.book.put(specs.parse("Source", {"metadata": {"name": "rides"}, "spec": contract}))
        self.book.put(a_view("speed", entity="zone"))
        self.book.put(a_view("city", hop="2h"))
        self.freshness = Freshness(self.clock, "feature_store-0")
        self.views = OnlineViews("", self.book, self.freshness)
        self.follow(ReadToTheEnd())

    def follow(self, follower: Any) -> None:
        self.views.follower = follower

    def hear(
        self, view: str, *events: tuple[str, int, float], until_ms: int = 0, generation: int = 1
    ) -> None:
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
        self.records(view, [*batch, Raw(featurelog.key(generation, None, 0), progress)])

    def records(self, view: str, batch: Iterable[Raw]) -> None:
        asyncio.run(self.views._hear(f"features.{view}", 0, list(batch)))

    def ask(self, *features: str, at_ms: int, **entities: Sequence[str]) -> Answer:
        plan = self.views.plan(features)
        if self.views.lacks(plan):
            asyncio.run(self.views.follow(plan, patience_s=0.01))
        return self.views.read(plan, entities, at_ms)


@pytest.fixture
def world() -> World:
    return World()


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
    world: World, threads: int, waiters: int
) -> None:
    class Context:
        def time_remaining(self) -> None:
            return None

    async def all_wait() -> bool:
        return follower.waiting == waiters

    follower = ReadToTheEnd(stuck=True)
    world.follow(follower)
    api = FeatureStoreApi(
        world.views,
        cast(Any, None),
        cast(Any, None),
        cast(Any, None),
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
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []

    class Producer:
        async def send(self, topic: str, **record: Any) -> asyncio.Future[None]:
            sent.append(topics.METRICS_FEATURES.decode(record["value"]))
            done = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done

    monkeypatch.setattr(freshness, "PUBLISH_S", 0.0)
    world.freshness.note("city", [Raw(b"k", b"v", [freshness.header(NOW - 70)])])

    async def is_told() -> bool:
        return len(sent) >= 2

    async with asyncio.TaskGroup() as tasks:
        publishing = tasks.create_task(world.freshness.publish(topics.METRICS_FEATURES, Producer()))
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
