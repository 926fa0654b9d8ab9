"""The feature store as processes, on a real Kafka, killed and started again: now, then and by hand agree."""

import asyncio
import os
import random
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import msgspec
import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from trimtab_contracts import topics
from trimtab_contracts.features.v1.features_pb2 import (
    BackfillRequest,
    BackfillResponse,
    EntityColumn,
    GetArchiveWatermarkRequest,
    GetHistoricalFeaturesRequest,
    GetOnlineFeaturesRequest,
    GetOnlineFeaturesResponse,
    HistoricalFeatures,
)
from trimtab_contracts.features.v1.features_pb2_grpc import FeatureStoreStub
from trimtab_contracts.registry.v1.registry_pb2 import Resource
from trimtab_core import specs
from trimtab_runtime import bus, records, rpc
from trimtab_runtime.admin import ensure_topics
from trimtab_runtime.clock import from_timestamp, to_timestamp
from trimtab_runtime.errors import NotFound, Rejected, Unavailable
from trimtab_runtime.follow import Follower
from trimtab_runtime.records import Outgoing
from trimtab_runtime.testing import eventually
from trimtab_stack import ports

pytestmark = pytest.mark.real

HOUR = 3_600_000
START = 420_000 * HOUR
END = START + 10 * HOUR
ZONES = ("1", "2", "3", "4")
PARTITIONS = 2


@dataclass(frozen=True)
class Ride:
    id: str
    zone: int
    at_ms: int
    mph: float


class World:
    """Specs, topics and data of one test, with the clients to look at what became of them."""

    def __init__(self, servers: str, data_dir: Path, producer: Any) -> None:
        self.servers = servers
        self.data_dir = data_dir
        self.producer = producer
        name = uuid.uuid4().hex[:8]
        self.rides, self.asks, self.view, self.city, self.model = (
            f"{kind}-{name}" for kind in ("rides", "asks", "speed", "city", "model")
        )
        self.watermarks: dict[tuple[str, str, int], int] = {}
        self.sent: dict[tuple[str, int], int] = {}
        self.follower = Follower(servers, [topics.WATERMARKS.name], self._hear)

    def documents(self) -> list[tuple[str, dict[str, Any]]]:
        fields = {"id": {"type": "string"}, "at": {"type": "timestamp"}, "zone": {"type": "integer"}}
        contract = {"key": "id", "event_time": "at", "lateness": "2h", "partitions": PARTITIONS}
        functions = ["count", "mean", "stddev", "last", "p50"]
        fold = {
            "source": self.rides,
            "hop": "1h",
            "ttl": "30d",
            "aggregates": [
                {"field": "mph", "functions": functions, "windows": ["2h", "8h"], "where": "mph < 80"}
            ],
        }
        model = {
            "task": "regression",
            "source": self.asks,
            "features": [
                f"{self.view}.*",
                f"{self.city}.mph_mean_8h",
                "request.zone",
                "hour(at)",
                f"share = request.zone / {self.view}.mph_last_8h",
            ],
            "label": {"source": self.rides, "on": "id", "value": "mph", "within": "4h"},
            "trainer": {"kind": "linear", "window": "1d"},
            "rollout": {"cap": 60},
        }
        return [
            ("Source", {"metadata": {"name": self.rides}, "spec": {**contract, "fields": {**fields, "mph": {"type": "number"}}}}),
            ("Source", {"metadata": {"name": self.asks}, "spec": {**contract, "fields": fields}}),
            ("FeatureView", {"metadata": {"name": self.view}, "spec": {**fold, "entity": "zone"}}),
            ("FeatureView", {"metadata": {"name": self.city}, "spec": fold}),
            ("Model", {"metadata": {"name": self.model}, "spec": model}),
        ]  # fmt: skip

    async def apply(self) -> None:
        """Make the topics and publish the specs, as the registry does."""
        families = [
            *(topics.EVENTS.named(name, partitions=PARTITIONS) for name in (self.rides, self.asks)),
            *(family.named(name, partitions=PARTITIONS) for name in (self.view, self.city) for family in (topics.KEYED, topics.FEATURES)),
        ]  # fmt: skip
        await ensure_topics(self.servers, [*topics.STATIC, *families])
        for kind, document in self.documents():
            await self.publish_spec(kind, document)

    async def publish_spec(self, kind: str, document: dict[str, Any], generation: int = 1) -> None:
        spec = specs.parse(kind, document)
        resource = Resource(kind=kind, name=spec.name, generation=generation)
        json_format.ParseDict(specs.to_document(spec), resource.document)
        await self._publish(f"{kind}/{spec.name}", topics.SPECS.encode(resource))

    async def grown_view(self, store: "Process") -> Callable[[int], Awaitable[list[float]]]:
        """Give the view a column, and return what asks `store` for it: nothing, as long as it is not there."""
        kind, document = self.documents()[2]
        more = {"field": "id", "functions": ["count"], "windows": ["5h"]}
        document["spec"]["aggregates"] = [*document["spec"]["aggregates"], more]
        await self.publish_spec(kind, document, generation=2)

        async def ask(at_ms: int) -> list[float]:
            try:
                values, _ = await store.online(self.view, at_ms, column="id_count_5h")
            except grpc.aio.AioRpcError:
                return []
            return [float(each) for each in values[:, 0]]

        return ask

    async def delete(self) -> None:
        for kind, document in self.documents():
            await self._publish(f"{kind}/{document['metadata']['name']}", None)

    async def send(self, source: str, rows: Iterable[tuple[str, int, dict[str, Any]]]) -> None:
        """Send rows (id, event time, fields) as ingestion does."""
        out = []
        for key, at_ms, fields in rows:
            partition = hash_of(key) % PARTITIONS
            number = self.sent.get((source, partition), 0)
            self.sent[source, partition] = number + 1
            headers = records.row_headers(
                id=f"raw.{source}/{partition}/{number}",
                source=source,
                event_time_ms=at_ms,
                arrived_at_ms=at_ms,
            )
            row = msgspec.json.encode({"id": key, "at": records.iso(at_ms), **fields})
            out.append(Outgoing(topics.EVENTS.named(source).name, key.encode(), row, headers, partition))
        await records.send_all(self.producer, out)

    async def send_rides(self, rides: Iterable[Ride]) -> None:
        await self.send(self.rides, [(r.id, r.at_ms, {"zone": r.zone, "mph": r.mph}) for r in rides])

    async def promise(self, time_ms: int) -> None:
        """Send the watermark on all sources, twice."""
        topic_names = [topics.EVENTS.named(source).name for source in (self.rides, self.asks)]
        await records.send_all(
            self.producer,
            [
                Outgoing(
                    topic,
                    None,
                    b"",
                    records.watermark_headers(
                        source=topic, time_ms=time_ms, origin=partition, origins=PARTITIONS
                    ),
                    partition,
                )
                for topic in topic_names
                for partition in range(PARTITIONS)
                for _ in range(2)
            ],
        )

    async def reached(self, time_ms: int) -> None:
        async def all_have() -> bool:
            wanted = [("features", view, p) for view in (self.view, self.city) for p in range(PARTITIONS)]
            return all(self.watermarks.get(stage, 0) >= time_ms for stage in wanted)

        await eventually(all_have, what=f"features up to {time_ms}")

    def archived(self, source: str) -> list[tuple[int, int]]:
        table = DeltaTable(str(self.data_dir / "delta" / "events" / source))
        found = table.to_pyarrow_dataset().to_table(columns=["partition", "offset"])
        return sorted(zip(found["partition"].to_pylist(), found["offset"].to_pylist(), strict=True))

    async def _publish(self, key: str, value: bytes | None) -> None:
        await records.send_all(self.producer, [Outgoing(topics.SPECS.name, key.encode(), value, [])])

    async def _hear(self, _: str, __: int, batch: Any) -> None:
        for record in batch:
            mark = topics.WATERMARKS.decode(record.value)
            self.watermarks[mark.stage, mark.name, mark.partition] = from_timestamp(mark.time)


class Process:
    """One feature store, and a client of it."""

    def __init__(self, world: World, name: str, **settings: str) -> None:
        self.address = f"127.0.0.1:{ports.choose()}"
        self._environ = {
            **os.environ,  # noqa: TID251 - the environment of a child
            "TRIMTAB_KAFKA_SERVERS": world.servers,
            "TRIMTAB_GRPC_ADDRESS": self.address,
            "TRIMTAB_DATA_DIR": str(world.data_dir),
            "TRIMTAB_INSTANCE": name,
            **settings,
        }
        self._log = world.data_dir / f"{name}.log"
        self._child: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, and return once it says that it serves."""
        with self._log.open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "trimtab_feature_store", env=self._environ, stdout=log, stderr=log
            )
        await self._ready()

    def told(self, number: signal.Signals) -> None:
        assert self._child is not None
        self._child.send_signal(number)

    async def end(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.returncode is None:
            self._child.send_signal(number)
            await self._child.wait()

    async def _ready(self) -> None:
        async def serves() -> bool:
            try:
                async with rpc.channel(self.address) as channel:
                    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            except grpc.RpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        await eventually(serves, what=f"{self.address} ready")

    async def online(
        self,
        view: str,
        at_ms: int,
        entities: Iterable[str] = ZONES,
        field: str = "zone",
        column: str = "*",
        until_ms: int = 0,
    ) -> tuple[np.ndarray[Any, Any], list[bool]]:
        """Ask for features at a time, once all events up to `until_ms` are in them here."""
        zones = EntityColumn(field=field, values=entities)
        request = GetOnlineFeaturesRequest(
            features=[f"{view}.{column}"], entities=[zones], at=to_timestamp(at_ms)
        )
        async with rpc.channel(self.address) as channel:
            stub: Any = FeatureStoreStub(channel)

            async def read() -> Any:
                found = await stub.GetOnlineFeatures(request, timeout=60, wait_for_ready=True)
                reached = all(from_timestamp(each.watermark) >= until_ms for each in found.views)
                return found if reached or not until_ms else None

            answer = await eventually(read, what=f"{view} up to {until_ms}")
        shape = (-1, len(answer.names))
        values, statuses = np.array(answer.values).reshape(shape), np.frombuffer(answer.statuses, np.uint8)
        return values, (statuses.reshape(shape) != GetOnlineFeaturesResponse.MISSING).any(axis=1).tolist()

    async def historical(
        self, model: str, start_ms: int, end_ms: int, wait_until_ms: int = 0, timeout_s: float = 120
    ) -> tuple[HistoricalFeatures.Dataset, pa.Table]:
        request = GetHistoricalFeaturesRequest(
            model=model,
            start=to_timestamp(start_ms),
            end=to_timestamp(end_ms),
            wait_until=to_timestamp(wait_until_ms),
        )
        pieces, dataset = [], HistoricalFeatures.Dataset()
        async with rpc.channel(self.address) as channel:
            stub: Any = FeatureStoreStub(channel)
            try:
                async for part in stub.GetHistoricalFeatures(request, timeout=timeout_s, wait_for_ready=True):
                    if part.HasField("dataset"):
                        dataset = part.dataset
                    else:
                        pieces.append(part.arrow)
            except grpc.RpcError as error:
                raise rpc.error_of(error) from error
        return dataset, pa.ipc.open_stream(b"".join(pieces)).read_all()

    async def backfill(self, source: str, rides: Sequence[Ride], after: int, until: int) -> BackfillResponse:
        """Take rides number after + 1 to until, of a file that has all of them, to the archive."""
        part = rides[after:until]
        request = BackfillRequest(
            source=source,
            file="f" * 64,
            after=after,
            until=until,
            numbers=range(after + 1, until + 1),
            rows=[
                msgspec.json.encode({"id": r.id, "at": records.iso(r.at_ms), "zone": r.zone, "mph": r.mph})
                for r in part
            ],
            arrived_at_ms=[r.at_ms for r in part],
        )
        async with rpc.channel(self.address) as channel:
            stub: Any = FeatureStoreStub(channel)
            answer: BackfillResponse = await stub.Backfill(request, timeout=60, wait_for_ready=True)
            return answer


def hash_of(text: str) -> int:
    return int(text.rpartition("-")[2], 36)


def by_hand(rides: Iterable[Ride], zone: str | None, at_ms: int) -> list[float]:
    end = at_ms // HOUR * HOUR
    windows = [
        [
            ride
            for ride in rides
            if (zone is None or str(ride.zone) == zone)
            and end - hours * HOUR <= ride.at_ms < end
            and ride.mph < 80
        ]
        for hours in (2, 8)
    ]
    return [
        *(float(len(window)) for window in windows),
        *(float(np.mean([ride.mph for ride in window])) for window in windows),
        *(float(np.std([ride.mph for ride in window], ddof=1)) for window in windows),
        *(max(window, key=lambda ride: ride.at_ms).mph for window in windows),
        *(sorted(ride.mph for ride in window)[(len(window) - 1) // 2] for window in windows),
    ]


def same(found: Any, hand: Any) -> None:
    """Hold values to 1e-9, and the quantiles, which come last, to 1 %."""
    found, hand = np.asarray(found), np.asarray(hand)
    np.testing.assert_allclose(found[:, :-2], hand[:, :-2], rtol=1e-9)
    np.testing.assert_allclose(found[:, -2:], hand[:, -2:], rtol=0.0101)


def some_rides(count: int, seed: int) -> list[Ride]:
    chance = random.Random(seed)
    rides = [
        Ride(f"r-{i}", chance.randint(1, 4), START + i * (END - START) // count, chance.uniform(1, 100))
        for i in range(count)
    ]
    # Out of order as far as the lateness of two hours lets them be.
    return sorted(rides, key=lambda ride: ride.at_ms + chance.randint(0, 2 * HOUR))


@pytest.fixture
async def world(kafka_servers: str, tmp_path: Path) -> AsyncIterator[World]:
    producer = await bus.start_producer(kafka_servers)
    try:
        world = World(kafka_servers, tmp_path, producer)
        async with asyncio.TaskGroup() as tasks:
            await world.apply()
            following = tasks.create_task(world.follower.run())
            yield world
            await world.delete()
            following.cancel()
    finally:
        await producer.stop()


@asynccontextmanager
async def running(world: World, *names: str, **settings: str) -> AsyncIterator[list[Process]]:
    processes = [Process(world, name, **settings) for name in names]
    async with AsyncExitStack() as ends:
        for process in processes:
            ends.push_async_callback(process.end, signal.SIGKILL)
            await process.start()
        yield processes


async def test_now_then_and_by_hand_agree_though_the_store_is_killed_and_started_again(world: World) -> None:
    rides = some_rides(3000, seed=1)
    at = END + HOUR // 2
    asks = [(f"ask-{i}", at, {"zone": int(zone)}) for i, zone in enumerate(ZONES)]
    answers = [Ride(f"ask-{i}", int(zone), at + HOUR, 30 + i) for i, zone in enumerate(ZONES[:3])]
    async with running(world, "store-0") as [store]:
        await world.send_rides(rides[:1500])
        await world.promise(START - HOUR)
        await world.reached(START - HOUR)
        await world.send_rides(rides[1500:2000])
        await store.end(signal.SIGKILL)  # in the midst of it
        await world.send_rides(rides[2000:2500])
        await store.start()
        await world.send_rides(rides[2500:])
        await world.promise(END)
        await world.reached(END)
        await world.send(world.asks, asks)
        await world.send_rides(answers)
        await world.promise(END + 3 * HOUR)

        dataset, then = await store.historical(world.model, at, at + 1, wait_until_ms=END + 3 * HOUR)
        await world.reached(END + 3 * HOUR)
        now, found = await store.online(world.view, at, [*ZONES, "77"], until_ms=END + 3 * HOUR)
        city, _ = await store.online(world.city, at, [""], until_ms=END + 3 * HOUR)
        again, _ = await store.historical(world.model, at, at + 1)
        async with rpc.channel(store.address) as channel:
            stub: Any = FeatureStoreStub(channel)
            archived = await stub.GetArchiveWatermark(GetArchiveWatermarkRequest(model=world.model))
        assert from_timestamp(archived.watermark) == END + 3 * HOUR
        grown = await world.grown_view(store)
        await eventually(lambda: grown(at), what="a view that has changed while its source is silent")
        last_five = await grown(at)

    hand = np.array([by_hand(rides, zone, at) for zone in ZONES])
    same(now[:4], hand)
    same(city, [by_hand(rides, None, at)])
    assert found == [True] * 4 + [False]
    np.testing.assert_allclose(now[4], [0, 0, *[np.nan] * 8])

    assert (dataset.rows, dataset.rows_without_label) == (3, 1)
    assert again.digest == dataset.digest
    assert {table.table for table in dataset.tables} == {f"events/{world.rides}", f"events/{world.asks}"}
    rows = then.sort_by("key").to_pylist()
    assert [row["key"] for row in rows] == ["ask-0", "ask-1", "ask-2"]
    assert [row["label"] for row in rows] == [30, 31, 32]
    assert [row["request.zone"] for row in rows] == [1, 2, 3]
    offline = [[value for name, value in row.items() if name.startswith(world.view)] for row in rows]
    same(offline, hand[:3])
    share = f"share = request.zone / {world.view}.mph_last_8h"
    assert [row[share] for row in rows] == [
        zone / last for zone, last in zip((1, 2, 3), hand[:3, 7], strict=True)
    ]
    np.testing.assert_allclose(rows[0][f"{world.city}.mph_mean_8h"], city[0][3], rtol=1e-9)

    assert len(world.archived(world.rides)) == len(set(world.archived(world.rides))) == 3003

    assert last_five == [
        sum(str(each.zone) == zone and END - 5 * HOUR <= each.at_ms < END for each in rides) for zone in ZONES
    ]


async def test_of_two_stores_either_answers_for_all_and_one_goes_on_alone(world: World) -> None:
    rides, middle = some_rides(800, seed=2), START + 3 * HOUR
    async with running(world, "store-0", "store-1") as [first, second]:
        await world.send_rides(rides[:400])
        await world.promise(middle)
        await world.reached(middle)
        together = [
            await store.online(world.view, middle - HOUR, until_ms=middle) for store in (first, second)
        ]
        await second.end(signal.SIGKILL)
        await world.send_rides(rides[400:])
        await world.promise(END)
        await world.reached(END)
        alone, _ = await first.online(world.view, END, until_ms=END)

        with pytest.raises(NotFound, match="there is no model 'none'"):
            await first.historical("none", START, END)
        with pytest.raises(Rejected, match="is not before end"):
            await first.historical(world.model, END, START)
        with pytest.raises(Unavailable, match=r"stands at .* was waited for"):
            await first.historical(world.model, START, END, wait_until_ms=END + HOUR, timeout_s=5)
        with pytest.raises(grpc.aio.AioRpcError, match="there is no feature view 'none'"):
            await first.online("none", END)
        with pytest.raises(
            grpc.aio.AioRpcError, match="told apart by 'zone', and no entity column is called so"
        ):
            await first.online(world.view, END, field="zones")

    for values, _ in together:
        same(values, [by_hand(rides, zone, middle - HOUR) for zone in ZONES])
    same(alone, [by_hand(rides, zone, END) for zone in ZONES])


class Stream:
    """Rides that are sent a few at a time, with the watermark that holds after each."""

    def __init__(self, world: World, rides: list[Ride]) -> None:
        self._world = world
        self._rides = rides
        self._sent = 0

    async def send(self, count: int) -> int:
        """Send the next `count` rides, and return the watermark behind them."""
        watermark_ms = START - 2 * HOUR
        for start in range(self._sent, self._sent + count, 50):
            part = self._rides[start : start + 50]
            await self._world.send_rides(part)
            watermark_ms = part[-1].at_ms - 2 * HOUR  # none comes later that is older: see `some_rides`
            await self._world.promise(watermark_ms)
        self._sent += count
        return watermark_ms


async def test_two_folding_stores_stay_exact_while_killed_paused_and_moved(
    world: World, postgres_dsn: str
) -> None:
    """Their online features lie in PostgreSQL, and either writes them there from the first question on."""
    rides = some_rides(6_000, seed=3)
    stream = Stream(world, rides)
    stores = running(world, "store-0", "store-1", TRIMTAB_FEATURE_STORE_ONLINE_DSN=postgres_dsn)
    async with stores as [first, second], asyncio.TaskGroup() as tasks:
        await world.reached(await stream.send(1_000))
        for store in (first, second):
            await store.online(world.view, START + 2 * HOUR)

        sending = tasks.create_task(stream.send(1_000))
        second.told(signal.SIGSTOP)  # with what it has in its hands
        await world.reached(await sending)  # the first has taken its partitions over
        sending = tasks.create_task(stream.send(1_000))
        second.told(signal.SIGCONT)  # and it may commit nothing of what it had
        await world.reached(await sending)

        sending = tasks.create_task(stream.send(1_000))
        await first.end(signal.SIGKILL)
        await world.reached(await sending)
        sending = tasks.create_task(stream.send(1_000))
        await first.start()  # and the partitions are shared again
        await world.reached(await sending)

        await stream.send(1_000)
        await world.promise(END)
        await world.reached(END)
        found = {
            (store, at): (await store.online(world.view, at, until_ms=END))[0]
            for store in (first, second)
            for at in (END - 2 * HOUR, END)
        }
        city, _ = await first.online(world.city, END, [""], until_ms=END)

    for (_, at), values in found.items():
        same(values, [by_hand(rides, zone, at) for zone in ZONES])
    same(city, [by_hand(rides, None, END)])


async def test_history_from_a_file_is_in_the_views_once_though_the_store_is_killed_in_between(
    world: World,
) -> None:
    rides = some_rides(2000, seed=5)
    history, stream = rides[:1500], rides[1500:]
    async with running(world, "store-0") as [store]:
        await world.send_rides(stream[:200])
        await world.promise(START - HOUR)
        await world.reached(START - HOUR)
        before, _ = await store.online(world.view, END)
        for after in range(0, 600, 200):
            await store.backfill(world.rides, history, after, after + 200)
        in_flight = store.backfill(world.rides, history, 600, 1000)
        await asyncio.gather(in_flight, store.end(signal.SIGKILL), return_exceptions=True)
        await store.start()
        come = (await store.backfill(world.rides, [], 0, 0)).until
        for after in range(come, 1500, 100):
            await store.backfill(world.rides, history, after, after + 100)
        again = await store.backfill(world.rides, history, 1400, 1500)
        untouched, _ = await store.online(world.view, END)
        for kind, document in world.documents()[2:4]:
            await world.publish_spec(kind, document, generation=2)
        await world.send_rides(stream[200:])
        await world.promise(END)
        await world.reached(END)

        async def has_history() -> bool:
            zones, _ = await store.online(world.view, END)
            city, _ = await store.online(world.city, END, [""])
            wanted = sum(by_hand(rides, zone, END)[1] for zone in ZONES)
            return bool(zones[:, 1].sum() == wanted and city[:, 1].sum() == by_hand(rides, None, END)[1])

        await eventually(has_history, what="the views with their history")
        now, _ = await store.online(world.view, END)
        city, _ = await store.online(world.city, END, [""])

    rows = world.archived(world.rides)
    assert (come in (600, 1000), again.until) == (True, 1500)
    assert (len(rows), len(set(rows))) == (2000, 2000)
    assert sum(offset < 0 for _, offset in rows) == 1500
    np.testing.assert_array_equal(untouched, before)
    same(now, [by_hand(rides, zone, END) for zone in ZONES])
    same(city, [by_hand(rides, None, END)])
