"""What comes of a source, from ingestion's metrics to alerts, on the real PostgreSQL."""

import json
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from trimtab_contracts import topics
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Metric
from trimtab_core.flow import HOUR_MS, Hour
from trimtab_monitoring import messages
from trimtab_monitoring.flowstore import PostgresFlows
from trimtab_monitoring.store import PostgresStore
from trimtab_monitoring.usecases.entities import Arrivals, Mark, predictions_stream
from trimtab_monitoring.usecases.flowing import QUIET_MS, Came, Flowing
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
        self.flowing = Flowing(self.flows, specs, self.clock)

    async def come(self, hour: int, events: int, *, place: int | None = None) -> None:
        at = BEGIN + hour * HOUR_MS
        place = hour if place is None else place
        await self.flowing.heard(Came("asks", 0, place, at, events, 0, at + HOUR_MS - 1))

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
        assert await unit.hours() == [Hour(BEGIN, 15)]


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


async def test_old_hours_are_forgotten(desk: Desk) -> None:
    await desk.come(0, 1)
    await desk.come(24 * 365, 1)

    await desk.flowing.look("asks")

    assert await desk.pool.fetchval("SELECT count(*) FROM flows") == 1


def test_only_what_ingestion_says_of_hours_is_counted() -> None:
    said = Metric(
        id="raw.asks/2/40/2023-11-14T22:00:00Z/events", model="asks", name="events", value=3, rows=5,
        window_from=to_timestamp(BEGIN), window_to=to_timestamp(BEGIN + 9),
    )  # fmt: skip

    assert messages.came(said) == Came("asks", 2, 40, BEGIN, 3, 2, BEGIN + 9)
    assert messages.came(Metric(id="raw.asks/2/40/duplicates", model="asks", name="duplicates")) is None
    assert "monitoring" in dict(topics.METRICS_QUALITY.readers)
