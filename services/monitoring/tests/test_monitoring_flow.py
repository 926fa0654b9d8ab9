"""What comes of a source, from ingestion's metrics to alerts, on the real PostgreSQL."""

import itertools
import json
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from trimtab_contracts import topics
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Metric
from trimtab_core.flow import HOUR_MS, Hour
from trimtab_core.metricnames import OF_AN_HOUR
from trimtab_core.specs import Expect
from trimtab_core.watched import Reading
from trimtab_monitoring import messages
from trimtab_monitoring.errors import BadQuestion
from trimtab_monitoring.flowstore import PostgresFlows
from trimtab_monitoring.historystore import PostgresHistory
from trimtab_monitoring.store import PostgresStore
from trimtab_monitoring.usecases.entities import Arrivals, Mark, predictions_stream
from trimtab_monitoring.usecases.flowing import QUIET_MS, Came, Figure, Flowing
from trimtab_monitoring.usecases.history import History, Wanted
from trimtab_runtime.clock import ManualClock, to_timestamp
from trimtab_runtime.postgres import open_pool

pytestmark = pytest.mark.real

BEGIN = 1_700_000_000_000 // HOUR_MS * HOUR_MS
Make = Callable[..., Any]


class Desk:
    def __init__(self, pool: Any, specs: Any) -> None:
        self.pool = pool
        self.flows = PostgresFlows(pool)
        self.store = PostgresStore(pool)
        self.clock = ManualClock(5_000)
        self.readings = PostgresHistory(pool)
        self.history = History(self.readings, specs)
        self.flowing = Flowing(self.flows, self.readings, specs, self.clock, history_ms=30 * 24 * HOUR_MS)

    async def come(self, hour: int, events: int, *, place: int | None = None) -> None:
        at = BEGIN + hour * HOUR_MS
        place = hour if place is None else place
        await self.flowing.heard([Came("asks", 0, place, at, events, 0, at + HOUR_MS - 1)], [])

    async def say(
        self, hour: int, name: str, value: float, *, place: int, partition: int = 0, **more: Any
    ) -> None:
        at = BEGIN + hour * HOUR_MS
        given: dict[str, Any] = {"field": "", "rows": 10} | more
        said = Figure(
            source="asks", partition=partition, place=place, hour_ms=at, name=name, value=value, **given
        )
        await self.flowing.heard([], [said])

    async def found(self, **wanted: Any) -> list[Reading]:
        pages = self.history.query(Wanted(source="asks", **wanted))
        return [reading async for page in pages for reading in page]

    async def alerts(self) -> list[tuple[str, bool]]:
        rows = await self.pool.fetch("SELECT value FROM outbox WHERE topic = 'alerts' ORDER BY sequence")
        return [(it["kind"], it.get("resolved", False)) for it in (json.loads(row["value"]) for row in rows)]


@pytest.fixture
async def desk(postgres_dsn: str, world: Any) -> AsyncIterator[Desk]:
    schema = f"monitoring_{uuid.uuid4().hex[:8]}"
    async with open_pool(postgres_dsn, schema, package="trimtab_monitoring") as pool:
        yield Desk(pool, world.specs)
        async with pool.acquire() as connection:
            await connection.execute(f'DROP SCHEMA "{schema}" CASCADE')


async def test_what_is_told_again_is_counted_once(desk: Desk) -> None:
    for place, events in [(3, 10), (9, 5), (9, 5), (3, 10)]:
        await desk.come(0, events, place=place)

    async with desk.flows.begin("asks") as unit:
        assert await unit.hours(BEGIN - 1) == [Hour(BEGIN, 15)]
        assert await unit.hours(BEGIN) == []


async def test_of_a_source_that_is_deleted_between_two_looks_nothing_is_told(
    desk: Desk, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hour in range(24 * 7):
        await desk.come(hour, 100)
    monkeypatch.delitem(world.specs.sources, "asks")

    await desk.flowing.look("asks")

    assert not await desk.pool.fetch("SELECT value FROM outbox")


async def test_an_unusual_hour_is_told_once_and_over_when_hours_are_usual_again(desk: Desk) -> None:
    for hour in range(24 * 7):
        await desk.come(hour, 100)
    await desk.flowing.look("asks")
    for hour, events in enumerate([900, 100, 100, 100, 100], start=24 * 7):
        await desk.come(hour, events)
        await desk.flowing.look("asks")
        await desk.flowing.look("asks")

    assert await desk.alerts() == [("volume", False), ("volume", True)]
    said = await desk.pool.fetch("SELECT value FROM outbox WHERE topic = 'metrics.quality' ORDER BY sequence")
    assert {json.loads(row["value"])["name"] for row in said} == {"events_an_hour", "repeats_an_hour"}


async def test_an_hour_that_was_unusual_and_is_over_is_told_however_late_the_look_comes(desk: Desk) -> None:
    unusual, last = {24 * 7 + 3: 900, 24 * 51: 900}, 24 * 51 + 6
    for hours in (range(24 * 7), range(24 * 7, last)):
        at = [BEGIN + hour * HOUR_MS for hour in hours]
        came = [
            Came("asks", 0, hour, ms, unusual.get(hour, 100), 0, ms + HOUR_MS - 1)
            for hour, ms in zip(hours, at, strict=True)
        ]
        await desk.flowing.heard(came, [])
        await desk.flowing.look("asks")
    await desk.flowing.look("asks")

    rows = await desk.pool.fetch("SELECT topic, value FROM outbox ORDER BY sequence")
    said = [json.loads(row["value"]) for row in rows if row["topic"] == "alerts"]
    since = [f"asks/volume/{BEGIN + hour * HOUR_MS}" for hour in unusual]
    assert [(it["occasion"], it.get("resolved", False)) for it in said] == [
        *itertools.product(since, (False, True))
    ]
    assert said[0]["sentence"].startswith("900 events came of source 'asks' in the hour of ")
    told = [json.loads(row["value"]) for row in rows if row["topic"] == "metrics.quality"]
    ids = [it["id"] for it in told if it["name"] == "events_an_hour"]
    assert len(ids) == len(set(ids)) == last - 2, "each hour is told once"


async def test_refused_rows_and_delay_are_judged_by_the_hour_and_the_commonest_reason_is_named(
    desk: Desk, make_source: Make
) -> None:
    for hour in range(24 * 5):
        await desk.come(hour, 100)
        await desk.say(hour, "delay_ms", 5_000.0, place=hour, rows=100)
    await desk.flowing.look("asks")
    for hour in range(24 * 5, 24 * 5 + 2):
        await desk.come(hour, 100)
        await desk.say(hour, "delay_ms", 90_000.0, place=hour, rows=100)
        for name, share in (("refused_share", 0.4), ("refused_late", 0.1), ("refused_out_of_range", 0.3)):
            await desk.say(hour, name, share, place=hour, rows=100)
        await desk.flowing.look("asks")
    await desk.come(24 * 5 + 3, 100)
    await desk.flowing.look("asks")

    rows = await desk.pool.fetch("SELECT value FROM outbox WHERE topic = 'alerts' ORDER BY sequence")
    said = [json.loads(row["value"]) for row in rows]
    begun = {
        it["kind"]: it["sentence"]
        for it in said
        if not it.get("resolved") and it["kind"] in ("refused", "delay")
    }
    assert begun["refused"].startswith("40 rows of source 'asks' were refused in the hour of ")
    assert begun["refused"].endswith("shows them. 30 of them are out_of_range.")
    assert begun["delay"].startswith("Events of source 'asks' arrived 90 s after their time")
    told = {(it.name, it.threshold) for it in await desk.found(since_ms=BEGIN + 24 * 5 * HOUR_MS)}
    assert {("refused_an_hour", 0.0), ("hourly_delay_ms", 5_000.0)} <= told
    assert {name for name, _ in told} <= {"events_an_hour", "repeats_an_hour", *OF_AN_HOUR.values()}


async def test_a_source_is_silent_only_if_those_asked_go_on_and_nothing_is_on_its_way(desk: Desk) -> None:
    for hour in range(24 * 7):
        await desk.come(hour, 100)
    await desk.flowing.look("asks")

    async def asked(hour: int) -> None:
        mark = Mark(predictions_stream("m"), "s", 0, 1, BEGIN + hour * HOUR_MS)
        await desk.store.take(Arrivals(marks=[mark]))
        await desk.flowing.look("asks")

    heard_ms = await desk.pool.fetchval(
        "SELECT (extract(epoch FROM max(heard_at)) * 1000)::bigint FROM flows"
    )
    desk.clock.advance(heard_ms + QUIET_MS // 2 - desk.clock.now_ms())
    await asked(24 * 7 + 5)
    assert await desk.alerts() == [], "it may be on its way"
    desk.clock.advance(2 * QUIET_MS)
    await asked(24 * 7 + 5)
    assert await desk.alerts() == [("silence", False)]

    await desk.come(24 * 7 + 5, 100)
    await desk.flowing.look("asks")
    assert ("silence", True) in await desk.alerts()


async def test_old_hours_are_forgotten_and_readings_later(desk: Desk) -> None:
    await desk.come(0, 1)
    await desk.say(0, "delay_ms", 1.0, place=0)
    await desk.come(2, 1)
    await desk.flowing.look("asks")
    assert [(it.name, it.from_ms) for it in await desk.found(names=("hourly_delay_ms",))] == [
        ("hourly_delay_ms", BEGIN)
    ]

    await desk.come(24 * 365, 1)
    await desk.flowing.look("asks")

    assert await desk.pool.fetchval("SELECT count(*) FROM flows") == 1
    assert await desk.pool.fetchval("SELECT count(*) FROM hourly") == 0
    assert [it.from_ms for it in await desk.found(until_ms=BEGIN + 24 * HOUR_MS)] == []


async def test_the_largest_number_there_is_is_told_and_ends_nothing(desk: Desk) -> None:
    huge = sys.float_info.max
    await desk.come(0, 30)
    for partition, (name, value) in itertools.product(
        range(3), [("max", huge), ("min", -huge), ("mean", huge)]
    ):
        await desk.say(0, name, value, partition=partition, place=1, field="x", rows=1_000)

    await desk.come(2, 1)
    await desk.flowing.look("asks")

    told = {it.name: it.value for it in await desk.found(until_ms=BEGIN + HOUR_MS + 1)}
    assert (told["hourly_max"], told["hourly_min"]) == (huge, -huge)
    assert told["hourly_mean"] > 1e200


async def test_an_hour_is_told_once_with_what_was_said_in_it_by_all_partitions(desk: Desk) -> None:
    await desk.come(0, 30)
    for partition, place, share in [(0, 1, 0.5), (0, 4, 0.1), (1, 2, 0.0), (0, 1, 0.5)]:
        await desk.say(0, "refused_share", share, partition=partition, place=place)
    await desk.say(0, "null_share", 0.1, place=3, field="x", rows=30, high=0.2, held=True)
    await desk.say(0, "null_share", 0.5, place=9, field="x", rows=10, high=0.2, held=False)
    for name, place in itertools.product(("min", "max", "mean"), (5, 6)):
        await desk.say(0, name, float(place), place=place, field="x")
    await desk.flowing.look("asks")
    assert await desk.found() == [], "it is not over before an event is newer by the lateness"

    await desk.come(2, 1)
    await desk.flowing.look("asks")
    await desk.flowing.look("asks")

    told = {(it.name, it.feature): it for it in await desk.found(until_ms=BEGIN + HOUR_MS + 1)}
    assert {place: (it.value, it.rows) for place, it in told.items()} == {
        ("events_an_hour", ""): (30.0, 30),
        ("repeats_an_hour", ""): (0.0, 0),
        ("refused_an_hour", ""): (6.0, 30),
        ("hourly_null_share", "x"): (pytest.approx(0.2), 40),
        ("hourly_min", "x"): (5.0, 20),
        ("hourly_max", "x"): (6.0, 20),
        ("hourly_mean", "x"): (5.5, 20),
    }
    nulls = told["hourly_null_share", "x"]
    assert (nulls.low, nulls.high, nulls.held) == (None, 0.2, False)
    said = await desk.pool.fetch("SELECT value FROM outbox WHERE topic = 'metrics.quality' ORDER BY sequence")
    ids = [json.loads(row["value"])["id"] for row in said]
    assert len(ids) == len(set(ids)), "no hour is told twice"
    assert {it.id for it in await desk.found()} == set(ids), "what is found is what was told"


async def test_a_source_is_watched_by_position_and_is_no_model_of_its_name(desk: Desk) -> None:
    await desk.come(0, 3)
    watch = desk.history.watch(Wanted(source="asks", names=("events_an_hour",)), None)
    assert await anext(watch) == ([], 0)
    await desk.come(2, 1)
    await desk.flowing.look("asks")
    position = await desk.readings.position("source:asks", None)

    (told,), at = await anext(watch)

    assert (told.value, told.from_ms, at <= position) == (3.0, BEGIN, True)
    await watch.aclose()  # type: ignore[attr-defined]
    assert await desk.readings.positions(["asks", "source:asks"]) == {"source:asks": position}
    with pytest.raises(BadQuestion, match="model 'm' and source 'asks' are two things"):
        await anext(desk.history.query(Wanted("m", source="asks")))


def test_only_what_ingestion_says_of_hours_is_counted() -> None:
    said = Metric(
        id="raw.asks/2/40/2023-11-14T22:00:00Z/events", model="asks", name="events", value=3, rows=5,
        window_from=to_timestamp(BEGIN), window_to=to_timestamp(BEGIN + 9),
    )  # fmt: skip

    assert messages.came(said) == Came("asks", 2, 40, BEGIN, 3, 2, BEGIN + 9)
    assert messages.came(Metric(id="raw.asks/2/40/duplicates", model="asks", name="duplicates")) is None
    refused = Metric(
        id="raw.asks/2/40/refused_share", model="asks", name="refused_share", value=0.5, rows=8,
        window_from=to_timestamp(BEGIN - 9), window_to=to_timestamp(BEGIN + 9),
    )  # fmt: skip
    assert messages.figure(refused) == Figure("asks", 2, 40, BEGIN, "refused_share", "", 8, 0.5)
    late = Metric(
        id="raw.asks/2/40/refused_late", model="asks", name="refused_late", value=2, rows=8,
        window_from=to_timestamp(BEGIN - 9), window_to=to_timestamp(BEGIN + 9),
    )  # fmt: skip
    assert messages.figure(late) == Figure("asks", 2, 40, BEGIN, "refused_late", "", 8, 0.25)
    own = Metric(id="asks/1/9-9/null_share/x", model="asks", name="null_share", rows=8)
    member = Metric(id="asks/5/1/9-9/null_share/x", model="asks/5", name="null_share", rows=8)
    table = Metric(id="tables.asks/9/refused_share", model="asks", name="refused_share", rows=8)
    assert [messages.figure(it) for it in (said, own, member, table)] == [None] * 4
    assert set(Expect.model_fields) < OF_AN_HOUR.keys()
    assert "monitoring" in dict(topics.METRICS_QUALITY.readers)
