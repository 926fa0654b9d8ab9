"""The history of readings: what is found, in which order, and who is told of news."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from trimtab_contracts.monitoring.v1.monitoring_pb2 import MakeReportRequest
from trimtab_core.watched import Drift, Reading
from trimtab_monitoring.errors import BadQuestion, NothingToReport
from trimtab_monitoring.grpc_api import MonitoringApi
from trimtab_monitoring.historystore import PostgresHistory
from trimtab_monitoring.store import PostgresStore
from trimtab_monitoring.testing import MemoryHistory, MemoryStore
from trimtab_monitoring.usecases.entities import Arrivals, Loop, StoredFile, Version
from trimtab_monitoring.usecases.history import START, History, HistoryStore, Wanted
from trimtab_monitoring.usecases.ondemand import OnDemand
from trimtab_monitoring.usecases.ports import Store
from trimtab_runtime.errors import NotFound, Unavailable
from trimtab_runtime.postgres import open_pool

Make = Callable[..., Any]


@dataclass
class Books:
    """A store, and the history that is kept of what is told through it."""

    store: Store
    history: HistoryStore

    async def tell(self, *readings: Reading, model: str = "m") -> None:
        async with self.store.begin(model) as unit:
            await unit.tell(readings)

    async def found(self, wanted: Wanted, *, limit: int = 100) -> list[Reading]:
        return [reading for _, reading in await self.history.page(wanted, START, limit)]


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.real)])
async def books(request: pytest.FixtureRequest) -> AsyncIterator[Books]:
    if request.param == "memory":
        memory = MemoryStore()
        yield Books(memory, MemoryHistory(memory))
        return
    dsn, schema = request.getfixturevalue("postgres_dsn"), f"monitoring_{uuid.uuid4().hex[:8]}"
    async with open_pool(dsn, schema, package="trimtab_monitoring") as pool:
        yield Books(PostgresStore(pool), PostgresHistory(pool))
        async with pool.acquire() as connection:
            await connection.execute(f'DROP SCHEMA "{schema}" CASCADE')


def reading(at: int, name: str = "mae", value: float = 1.0, **more: Any) -> Reading:
    given: dict[str, Any] = {"subject": "performance", "model": "m", "version": 1, "rows": 10, **more}
    return Reading(name=name, value=value, from_ms=at - 5, to_ms=at, **given)


def drift(at: int, feature: str, **more: Any) -> Reading:
    return reading(at, "drift", subject="drift", feature=feature, threshold=0.3, **more)


async def test_readings_come_in_order_of_time_and_each_filter_excludes_the_others(books: Books) -> None:
    told = [reading(20), drift(20, "x"), drift(20, "y"), reading(10), reading(30, version=2)]
    for each in told:
        await books.tell(each)
    await books.tell(reading(15, model="n"), model="n")

    assert [it.to_ms for it in await books.found(Wanted("m"))] == [10, 20, 20, 20, 30]
    assert await books.found(Wanted("m", names=("mae",))) == [told[3], told[0], told[4]]
    assert await books.found(Wanted("m", features=("x", "z"))) == [told[1]]
    assert await books.found(Wanted("m", features=("",), version=1)) == [told[3], told[0]]
    assert await books.found(Wanted("m", subject="drift")) == [told[1], told[2]]
    assert await books.found(Wanted("m", since_ms=10, until_ms=20)) == [told[3]]
    assert await books.found(Wanted("gone")) == []

    arm, part, of_arm = (
        reading(40, **more)
        for more in ({"arm": "champion"}, {"feature": "z", "slice": "7"}, {"arm": "champion", "feature": "z", "slice": "7"})
    )  # fmt: skip
    await books.tell(arm, part, of_arm)
    assert await books.found(Wanted("m", arms=("champion",), slices=("",))) == [arm]
    assert await books.found(Wanted("m", slices=("7", "8"))) == sorted([part, of_arm], key=lambda it: it.id)
    assert await books.found(Wanted("m", slices=("7",), arms=("", "challenger"))) == [part]

    moved = drift(50, "x", slice="7", slice_of="z")
    await books.tell(moved, drift(50, "x", slice="7", slice_of="w"))
    assert moved in (held := await books.found(Wanted("m", subject="drift", slices=("7",))))
    assert len(held) == 2
    assert await books.found(Wanted("m", subject="drift", slices_of=("z",))) == [moved]
    assert await books.found(Wanted("m", slices_of=("z",), arms=("",))) == [part, moved]
    assert await books.found(Wanted("m", features=("x",), slices_of=("x",))) == []


async def test_of_a_reading_that_is_told_again_the_newest_revision_alone_is_kept_and_is_news(
    books: Books,
) -> None:
    await books.tell(reading(10), reading(20))
    position = await books.history.position("m", None)

    await books.tell(reading(10, value=2.0), reading(10, value=3.0))

    assert [(it.to_ms, it.value) for it in await books.found(Wanted("m"))] == [(10, 3.0), (20, 1.0)]
    assert [it for _, it in await books.history.told("m", position, 10)] == [reading(10, value=3.0)]


async def test_the_newest_so_many_are_found_in_order_and_a_page_goes_on_where_one_ended(books: Books) -> None:
    told = [reading(at) for at in (10, 20, 30)] + [drift(30, "x")]
    await books.tell(*told)

    place = await books.history.before_newest(Wanted("m"), 3)
    first = await books.history.page(Wanted("m"), place, 2)
    rest = await books.history.page(Wanted("m"), first[-1][0], 2)

    assert [reading for _, reading in first + rest] == [told[1], *sorted(told[2:], key=lambda it: it.id)]
    assert await books.history.before_newest(Wanted("m"), 4) == START
    assert await books.history.before_newest(Wanted("m", names=("mae",)), 1) == (20, told[1].id)


async def test_positions_rise_as_readings_are_told_and_say_where_a_time_begins(books: Books) -> None:
    assert await books.history.position("m", None) == 0
    assert await books.history.positions(["m", "n"]) == {}
    await books.tell(reading(10))
    await books.tell(reading(20))
    last = await books.history.position("m", None)

    since = await books.history.position("m", 20)
    assert [it.to_ms for _, it in await books.history.told("m", since, 10)] == [20]
    assert await books.history.position("m", 99) == last, "what is told then is still to come"
    assert await books.history.positions(["m", "n"]) == {"m": last}
    assert [at for at, _ in await books.history.told("m", 0, 10)][-1] == last


async def test_old_readings_are_forgotten_and_no_others(books: Books) -> None:
    await books.tell(reading(10), reading(20), reading(30))
    await books.tell(reading(10, model="n"), model="n")

    assert await books.history.forget("m", before_ms=20, at_most=10) == 1
    assert await books.history.forget("m", before_ms=20, at_most=10) == 0

    assert [it.to_ms for it in await books.found(Wanted("m"))] == [20, 30]
    assert len(await books.found(Wanted("n"))) == 1


async def test_what_is_undone_is_not_told(books: Books) -> None:
    async def undone() -> None:
        async with books.store.begin("m") as unit:
            await unit.tell([reading(10)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await undone()

    assert await books.found(Wanted("m")) == []


@asynccontextmanager
async def asked(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Books, History, asyncio.TaskGroup]]:
    """Have a history whose news are looked for without a pause, and tasks that end with it."""
    monkeypatch.setattr("trimtab_monitoring.usecases.history._LOOK_S", 0.0)
    books = Books(world.memory, MemoryHistory(world.memory))
    history = History(books.history, world.specs)
    async with asyncio.TaskGroup() as tasks:
        looking = tasks.create_task(history.work())
        yield books, history, tasks
        looking.cancel()


async def _next(watch: AsyncIterator[Any]) -> Any:
    return await anext(watch)


async def _failure(watch: AsyncIterator[Any]) -> BaseException:
    with pytest.raises(Unavailable) as caught:
        await anext(watch)
    return caught.value


async def test_all_pages_of_a_query_come_or_the_newest_of_them(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab_monitoring.usecases.history._PAGE", 3)
    async with asked(world, monkeypatch) as (books, history, _):
        await books.tell(*(reading(at) for at in range(10, 20)))

        newest = [[it.to_ms for it in page] async for page in history.query(Wanted("m"), 4)]
        assert newest == [[16, 17, 18], [19]]
        assert [len(page) async for page in history.query(Wanted("m"))] == [3, 3, 3, 1]
        with pytest.raises(BadQuestion, match="limit -1 is below 0"):
            await anext(history.query(Wanted("m"), -1))
        with pytest.raises(BadQuestion, match="subject 'speed' is none of drift, performance, quality"):
            await anext(history.watch(Wanted("m", subject="speed"), None))


async def test_every_watcher_hears_what_it_asked_for_from_where_it_asked(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asked(world, monkeypatch) as (books, history, tasks):
        await books.tell(reading(10), reading(20))
        async with (
            aclosing(history.watch(Wanted("m"), None)) as now,
            aclosing(history.watch(Wanted("m", since_ms=20), None)) as since,
            aclosing(history.watch(Wanted("m", names=("drift",)), None)) as drifts,
        ):
            assert [(await anext(each))[0] for each in (now, since, drifts)] == [[], [], []]
            assert (await anext(since))[0] == [reading(20)]
            waiting = [tasks.create_task(_next(each)) for each in (now, since, drifts)]
            await books.tell(reading(30))
            assert [(await each)[0] for each in waiting[:2]] == [[reading(30)]] * 2

            await books.tell(drift(40, "x"))

            found, position = await waiting[2]
            assert found == [drift(40, "x")]
        await books.tell(reading(50))
        async with aclosing(history.watch(Wanted("m"), position)) as again:
            await anext(again)
            assert (await anext(again))[0] == [reading(50)], "nothing is lost, and nothing comes twice"
        assert history._ears == {}, "who has gone costs nothing"


async def test_a_quiet_watch_says_so_and_ends_with_the_monitor(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab_monitoring.usecases.history._BEAT_S", 0.01)
    async with AsyncExitStack() as stack:
        books, history, tasks = await stack.enter_async_context(asked(world, monkeypatch))
        await books.tell(reading(10))
        watch = await stack.enter_async_context(aclosing(history.watch(Wanted("m"), None)))
        assert await anext(watch) == await anext(watch) == ([], 1)
        monkeypatch.setattr("trimtab_monitoring.usecases.history._BEAT_S", 60.0)
        waiting = tasks.create_task(_failure(watch))
        ending = tasks.create_task(history.work())
        await asyncio.sleep(0)
        ending.cancel()
        assert str(await waiting) == "this monitor ends: watch again from the last position"


async def test_a_watch_waits_behind_news_that_were_forgotten_before_it_read_them(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab_monitoring.usecases.history._BEAT_S", 0.01)
    async with AsyncExitStack() as stack:
        books, history, _ = await stack.enter_async_context(asked(world, monkeypatch))
        await books.tell(reading(10), reading(20))
        watch = await stack.enter_async_context(aclosing(history.watch(Wanted("m"), 0)))
        assert await anext(watch) == ([], 0)
        await history._look()
        await books.history.forget("m", before_ms=99, at_most=10)

        assert await anext(watch) == ([], 2)


class Drawer:
    """Says what it was asked to draw."""

    async def draw(
        self, task: str, labels: Any, rows: Any, features: Any, reference: StoredFile
    ) -> tuple[bytes, bytes]:
        said = f"{task} on {labels.value}: {len(rows)} rows of {features} beside {reference.uri}"
        return said.encode(), b"{}"

    async def drawn(self, path: str) -> tuple[bytes, bytes] | None:
        return (path.encode(), b"{}") if path.startswith("/reports") else None


async def test_a_report_is_of_the_newest_rows_of_the_live_version(world: Any, flow: Make) -> None:
    on_demand = OnDemand(world.store, world.specs, world.fleet, Drawer())
    with pytest.raises(NothingToReport, match="version 1 of 'm' came without a reference"):
        await on_demand.report("m", None, None, 0)
    await world.store.put_versions([Version("m", 1, StoredFile("/1", "", 0))])
    with pytest.raises(NothingToReport, match="no prediction of version 1 of 'm' is stored:"):
        await on_demand.report("m", None, None, 0)
    part = flow(0, 200)
    await world.store.take(Arrivals([part.predicted()]))

    made = await on_demand.report("m", None, None, 50)
    assert made.html == b"regression on y: 50 rows of ('request.x', 'request.z') beside /1"
    assert (made.version, made.rows, made.first_ms, made.last_ms) == (1, 50, part.times[150], part.times[199])
    of_time = await on_demand.report("m", part.times[10], part.times[20], 0)
    assert (of_time.rows, of_time.first_ms, of_time.last_ms) == (10, part.times[10], part.times[19])
    with pytest.raises(NothingToReport, match="is stored from 20"):
        await on_demand.report("m", part.times[199] + 1, None, 0)
    with pytest.raises(BadQuestion, match="is not after since"):
        await on_demand.report("m", 10, 10, 0)
    with pytest.raises(BadQuestion, match="rows -1 is not between"):
        await on_demand.report("m", None, None, -1)
    world.fleet.standings["m"] = replace(world.fleet.standings["m"], champion=0)
    with pytest.raises(NothingToReport, match="model 'm' has no live version"):
        await on_demand.report("m", None, None, 0)


async def test_the_report_of_an_episode_that_another_monitor_made_is_drawn_of_the_rows_of_its_window(
    world: Any, flow: Make
) -> None:
    on_demand = OnDemand(world.store, world.specs, world.fleet, Drawer())
    await world.store.put_versions([Version("m", 1, StoredFile("/1", "", 0))])
    part = flow(0, 200)
    await world.store.take(Arrivals([part.predicted()]))
    from_ms, at_ms = part.times[20], part.times[119]
    drift = Drift(
        "e", "m", 1, "data", at_ms, from_ms, 100, 2.0, 1.0, 2.0, (), "It drifted.", "/elsewhere", 95
    )
    async with world.store.begin("m") as unit:
        await unit.put_loop(Loop("e", "m", "data", drift=drift))
        await unit.put_loop(Loop("cut", "m", "data", drift=replace(drift, from_ms=0, rows=201)))

    made = await on_demand.of_episode("m", "e")

    assert made.html == b"regression on y: 100 rows of ('request.x', 'request.z') beside /1"
    assert (made.version, made.rows, made.first_ms, made.last_ms) == (1, 100, from_ms, at_ms)
    with pytest.raises(NothingToReport, match="the predictions of its window are no longer stored"):
        await on_demand.of_episode("m", "cut")


async def test_the_report_of_an_episode_is_the_one_that_was_made_when_it_began(world: Any) -> None:
    on_demand = OnDemand(world.store, world.specs, world.fleet, Drawer())
    drift = Drift(
        "m-1-data", "m", 1, "data", 90, 10, 500, 2.0, 1.0, 2.0, (), "It drifted.", "/reports/m.html", 95
    )
    async with world.store.begin("m") as unit:
        await unit.put_loop(Loop("m-1-data", "m", "data", drift=drift))
        await unit.put_loop(Loop("elsewhere", "m", "data", drift=replace(drift, report="/elsewhere")))
        await unit.put_loop(Loop("due", "m", "schedule"))

    made = await on_demand.of_episode("m", "m-1-data")

    assert (made.html, made.version, made.rows) == (b"/reports/m.html", 1, 500)
    assert (made.first_ms, made.last_ms) == (10, 90)
    for episode, said in (
        ("due", "did not begin with drift"),
        ("elsewhere", "and the reference of its version is no longer stored"),
        ("gone", "there is no loop 'gone'"),
    ):
        with pytest.raises(NotFound, match=said):
            await on_demand.of_episode("m", episode)
    await world.store.put_versions([Version("m", 1, StoredFile("/1", "", 0))])
    with pytest.raises(
        NothingToReport,
        match=r"'elsewhere' is not in the data folder .* the predictions of its window are no longer",
    ):
        await on_demand.of_episode("m", "elsewhere")
    world.specs.models["n"] = world.specs.models["m"].model_copy(
        update={"metadata": world.specs.models["m"].metadata.model_copy(update={"name": "n"})}
    )
    with pytest.raises(NotFound, match="there is no loop 'm-1-data'"):
        await on_demand.of_episode("n", "m-1-data")
    api = MonitoringApi(world.store, world.specs, world.fleet, None, None, None, on_demand)  # type: ignore[arg-type]
    about, *_ = [it async for it in api.MakeReport(MakeReportRequest(model="m", episode="m-1-data"), None)]
    assert about.about.rows == 500
    with pytest.raises(BadQuestion, match="leave out times and rows"):
        await anext(api.MakeReport(MakeReportRequest(model="m", episode="m-1-data", rows=7), None))
