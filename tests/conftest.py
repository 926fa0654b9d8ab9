"""A whole Trimtab for the stories: started once a run, shared, kept apart by project names."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trimtab import project
from trimtab.cli.session import addresses
from trimtab.client import Trimtab
from trimtab.replay import Replay, Requests, Stream, Watermarks
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Loop
from trimtab_runtime import bus
from trimtab_runtime.clock import iso
from trimtab_runtime.testing import eventually
from trimtab_stack.stack import Stack

HOUR = 3_600_000
BEGIN = 1_700_000_000_000 // HOUR * HOUR
PARTITIONS = 2

SPECS = """
kind: Source
metadata: {{name: {name}-asks}}
spec:
  key: id
  event_time: at
  lateness: 1h
  partitions: 2
  fields:
    id: {{type: string}}
    at: {{type: timestamp}}
    road: {{type: string}}
    x: {{type: number, min: -100, max: 100}}
---
kind: Source
metadata: {{name: {name}-truths}}
spec:
  key: id
  event_time: at
  lateness: 1h
  partitions: 2
  fields:
    id: {{type: string}}
    at: {{type: timestamp}}
    road: {{type: string}}
    y: {{type: number, min: -1000, max: 1000}}
---
kind: FeatureView
metadata: {{name: {name}-road}}
spec:
  source: {name}-truths
  entity: road
  aggregates:
    - {{field: y, functions: [count, mean], windows: [6h, 24h]}}
  hop: 1h
  ttl: 10d
---
kind: Model
metadata: {{name: {name}}}
spec:
  task: regression
  source: {name}-asks
  features: [request.x, "{name}-road.y_mean_6h"]
  label: {{source: {name}-truths, on: id, value: y, within: 1h}}
  trainer: {{kind: linear, window: 5d, half_life: 12h, min_rows: 100}}
  gates: {gates}
  rollout: {{strategy: {strategy}, steps: [50, 100], cap: 20, within: 5d}}
  monitoring: {{window: 100, false_alarms: "1 per 90d"}}
  retrain: {{on: [data, performance], cooldown: 6h, at_most: 10 per 10d}}
"""


@dataclass
class World:
    """One project's slice of the shared Trimtab, and the life that is played through it."""

    name: str
    trimtab: Trimtab
    replay: Replay
    watermarks: Watermarks
    producer: Any
    servers: str
    rng: np.random.Generator
    now_ms: int = BEGIN
    per_hour: int = 40
    slope: float = 2.0
    made: int = 0
    streams: tuple[Stream, Stream] = field(init=False)

    async def live(
        self, hours: int, *, until: Callable[[Sequence[Loop]], bool] = lambda _: False
    ) -> list[Loop]:
        """Live some hours, or until the loops are as wanted; return the loops."""
        loops: list[Loop] = []
        for _ in range(hours):
            self._make_hour()
            await self.replay.step(self.now_ms, self.now_ms + HOUR)
            self.now_ms += HOUR
            loops = await self.trimtab.loops(self.name)
            if until(loops):
                break
        return loops

    async def backfill(self, hours: int) -> None:
        """Live some hours without asking for predictions."""
        requests, self.replay._requests = self.replay._requests, None
        await self.live(hours)
        self.replay._requests = requests
        for stream in self.streams:
            await self.watermarks.wait("archive", stream.source, self.now_ms)

    async def first_version(self) -> Loop:
        """Order the first version and return its loop once it has ended."""
        command = await self.trimtab.train(self.name, reason="the first", actor="test", as_of_ms=self.now_ms)
        return await self.ended(command)

    async def ended(self, id: str, *, deadline_s: float = 150.0) -> Loop:
        """Return a loop once nothing more will happen to it by itself."""

        async def probe() -> Loop | None:
            found = [loop for loop in await self.trimtab.loops(self.name) if loop.id == id]
            return found[0] if found and not found[0].open else None

        found = await eventually(probe, what=f"the end of loop {id}", deadline_s=deadline_s)
        assert found
        return found

    def _make_hour(self) -> None:
        count = self.per_hour
        at = np.sort(self.now_ms + self.rng.integers(0, HOUR - 60_000, count))
        x = np.round(self.rng.normal(0, 3, count), 3)
        road = self.rng.choice(["a", "b", "c"], count)
        y = np.round(self.slope * x + (road == "a") * 2.0 + self.rng.normal(0, 0.5, count), 3)
        ids = [f"{self.name}-{self.made + number}" for number in range(count)]
        self.made += count
        asks = [
            {"id": i, "at": iso(int(t)), "road": str(r), "x": float(v)}
            for i, t, r, v in zip(ids, at, road, x, strict=True)
        ]
        truths = [
            {"id": i, "at": iso(int(t) + 30_000), "road": str(r), "y": float(v)}
            for i, t, r, v in zip(ids, at, road, y, strict=True)
        ]
        self.streams = (
            _stream(f"{self.name}-asks", at, asks),
            _stream(f"{self.name}-truths", at + 30_000, truths),
        )
        self.replay._streams = self.streams
        if self.replay._requests is not None:
            self.replay._requests = Requests(self.name, at, asks, HOUR)


def _stream(source: str, at: Any, rows: list[dict[str, Any]]) -> Stream:
    return Stream(
        source,
        PARTITIONS,
        at,
        [row["id"].encode() for row in rows],
        [json.dumps(row).encode() for row in rows],
    )


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Kafka, PostgreSQL and the six services."""
    with Stack(tmp_path_factory.mktemp("whole"), fsync=False) as stack:
        yield stack


MakeWorld = Callable[..., Any]


@pytest.fixture
def make_world(whole: Stack) -> MakeWorld:
    """Make a project of a name, applied and ready to be lived: an async context manager."""

    @asynccontextmanager
    async def make(
        name: str, *, stack: Stack = whole, strategy: str = "canary", gates: str = "[]"
    ) -> AsyncIterator[World]:
        servers = stack.environ["TRIMTAB_KAFKA_SERVERS"]
        watermarks = Watermarks(servers)
        producer = await bus.start_producer(servers, linger_ms=0)
        try:
            async with Trimtab.connect(addresses(stack.environ)) as trimtab, asyncio.TaskGroup() as tasks:
                resources, faults = project.parse(SPECS.format(name=name, strategy=strategy, gates=gates))
                assert not faults
                await trimtab.apply(resources, actor="test")
                following = tasks.create_task(watermarks.follower.run())
                requests = Requests(name, np.array([], np.int64), [], HOUR)
                replay = Replay(trimtab, producer, watermarks, [], [(f"{name}-road", PARTITIONS)], requests)
                yield World(
                    name, trimtab, replay, watermarks, producer, servers, np.random.default_rng(len(name))
                )
                following.cancel()
        finally:
            await producer.stop()

    return make


@pytest.fixture
def spans(whole: Stack) -> Callable[[str], list[dict[str, Any]]]:
    """Find all spans of a trace, whichever service wrote them."""

    def find(trace_id: str) -> list[dict[str, Any]]:
        folder = Path(whole.directory) / "traces"
        lines = [
            line
            for file in folder.glob("*.jsonl")
            for line in file.read_text().splitlines()
            if trace_id in line
        ]
        return [span for span in map(json.loads, lines) if span["trace_id"] == trace_id]

    return find
