"""A small world, made up: roads, questions and their truths, lived as fast as they are made.

Stories and benchmarks of a whole Trimtab live in it. What is true of a row is
`slope * x`, more on road a, and some noise; a world that changes changes its `slope`.
How that is called (low, middle, high), and what people said of it, is told beside it.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Loop
from trimtab_runtime import bus
from trimtab_runtime.clock import iso
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.testing import eventually

from trimtab import project
from trimtab.client import Trimtab
from trimtab.replay import Replay, Requests, Stream, Watermarks

HOUR_MS = 3_600_000
BEGIN_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS
PARTITIONS = 2
NUMBER = "{type: number, min: -100, max: 100}"
LINEAR = "{kind: linear, window: 5d, half_life: 12h, min_rows: 100}"

_SPECS = """
kind: Source
metadata: {{name: {name}-asks, owner: {name}@example.org}}
spec:
  key: id
  event_time: at
  lateness: 1h
  partitions: 2
  expect_rows: 20
  fields:
    id: {{type: string}}
    at: {{type: timestamp}}
    road: {{type: string}}
    x: {x}
    note: {{type: string}}
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
    level: {{type: string}}
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
  task: {task}
  source: {name}-asks
  features: [request.x, "{name}-road.y_mean_6h"{features}]
  label: {{source: {name}-truths, on: id, value: {value}, within: 1h}}
  trainer: {trainer}
  gates: {gates}
  rollout: {{strategy: {strategy}, steps: [50, 100], cap: 20, within: 5d}}
  monitoring: {{window: 100, false_alarms: "1 per 90d"}}
  retrain: {{on: [data, performance], cooldown: 6h, at_most: 10 per 10d}}
"""


@dataclass
class World:
    """One project in a running Trimtab, and the life that is played through it."""

    name: str
    trimtab: Trimtab
    replay: Replay
    watermarks: Watermarks
    producer: Any
    servers: str
    rng: np.random.Generator
    now_ms: int = BEGIN_MS
    per_hour: int = 40
    slope: float = 2.0
    missing: float = 0.0
    """The share of the questions whose x is missing."""
    made: int = 0
    specs: str = ""
    """What was applied, in YAML."""
    sent: dict[str, list[bytes]] = field(default_factory=dict)
    """All that was sent so far, by source."""

    async def live(
        self, hours: int, *, until: Callable[[Sequence[Loop]], bool] = lambda _: False
    ) -> list[Loop]:
        """Live some hours in lockstep, or until the loops are as wanted; return the loops."""
        loops: list[Loop] = []
        for _ in range(hours):
            self.replay.requests = self._make_hour()
            await self.replay.step(self.now_ms - HOUR_MS, self.now_ms)
            loops = await self._loops()
            if until(loops):
                break
        return loops

    async def play_hour(self) -> None:
        """Ask and send an hour, and wait for nobody."""
        self.replay.requests = self._make_hour()
        await self.replay.play(self.now_ms - HOUR_MS, self.now_ms)

    async def backfill(self, hours: int) -> None:
        """Let some hours pass without asking for predictions, and wait until the archive holds them."""
        self.replay.requests = None
        for at in range(hours):
            self._make_hour()
            pass_by = self.replay.step if at == hours - 1 else self.replay.play
            await pass_by(self.now_ms - HOUR_MS, self.now_ms)
        for stream in self.replay.streams:
            await self.watermarks.wait("archive", stream.source, self.now_ms)

    async def first_version(self) -> Loop:
        """Order the first version and return its loop once it has ended."""
        command = await self.trimtab.train(self.name, reason="the first", actor="test", as_of_ms=self.now_ms)
        return await self.ended(command)

    async def ended(self, id: str, *, deadline_s: float = 150.0) -> Loop:
        """Return a loop once nothing more will happen to it by itself."""

        async def probe() -> Loop | None:
            found = [loop for loop in await self._loops() if loop.id == id]
            return found[0] if found and not found[0].open else None

        found = await eventually(probe, what=f"the end of loop {id}", deadline_s=deadline_s)
        assert found
        return found

    async def _loops(self) -> list[Loop]:
        """Return the loops; a monitoring that is being killed is waited for."""

        async def probe() -> list[list[Loop]]:
            with suppress(Unavailable):
                return [await self.trimtab.loops(self.name)]
            return []

        return (await eventually(probe, what="an answer from monitoring"))[0]

    def _make_hour(self) -> Requests:
        """Make the next hour, hand its events to the replay, and return what is asked in it."""
        count, begin = self.per_hour, self.now_ms
        at = np.sort(begin + self.rng.integers(0, HOUR_MS - 60_000, count))
        x = np.round(self.rng.normal(0, 3, count), 3)
        sent = x.tolist()
        if self.missing:
            lost = self.rng.random(count) < self.missing
            sent = [None if gone else value for value, gone in zip(sent, lost, strict=True)]
        road = self.rng.choice(["a", "b", "c"], count)
        y = np.round(self.slope * x + (road == "a") * 2.0 + self.rng.normal(0, 0.5, count), 3)
        level = np.array(["low", "middle", "high"])[np.digitize(y, [-3, 3])]
        note = np.where(y > 3, "very BUSY, all day", "calm; some cars").tolist()
        ids = [f"{self.name}-{self.made + number}" for number in range(count)]
        asks, truths = (
            [
                {"id": i, "at": iso(t), "road": str(r), name: v, told: w}
                for i, t, r, v, w in zip(ids, times.tolist(), road, values, words, strict=True)
            ]
            for name, times, values, told, words in (
                ("x", at, sent, "note", note),
                ("y", at + 30_000, y.tolist(), "level", level.tolist()),
            )
        )
        self.made += count
        self.now_ms += HOUR_MS
        self.replay.streams = (
            _stream(f"{self.name}-asks", at, asks),
            _stream(f"{self.name}-truths", at + 30_000, truths),
        )
        for stream in self.replay.streams:
            self.sent.setdefault(stream.source, []).extend(stream.payloads)
        return Requests(self.name, at, asks, HOUR_MS)


@asynccontextmanager
async def living(
    name: str,
    servers: str,
    addresses: Mapping[str, str],
    *,
    strategy: str = "canary",
    gates: str = "[]",
    trainer: str = LINEAR,
    more_features: Sequence[str] = (),
    classes: Sequence[str] = (),
    x: str = NUMBER,
    more_specs: str = "",
) -> AsyncIterator[World]:
    """Apply the project `name` to a running Trimtab, and have its world ready to be lived.

    Its model predicts the number; or the level, if that has `classes`. `x` is the contract of the field of that name.
    """
    features = "".join(f', "{each}"' for each in more_features)
    value = f"level, classes: [{', '.join(classes)}]" if classes else "y"
    text = _SPECS.format(
        name=name, strategy=strategy, gates=gates, trainer=trainer, features=features, value=value,
        task="multiclass" if classes else "regression", x=x,
    )  # fmt: skip
    specs = project.parse(text + more_specs)
    watermarks = Watermarks(servers)
    async with (
        bus.open_producer(servers, linger_ms=0) as producer,
        Trimtab.connect(addresses) as trimtab,
        asyncio.TaskGroup() as tasks,
    ):
        await trimtab.apply(specs.resources, actor="test")
        following = tasks.create_task(watermarks.follower.run())
        replay = Replay(trimtab, producer, watermarks, [], [(f"{name}-road", PARTITIONS)])
        rng = np.random.default_rng(len(name))
        yield World(name, trimtab, replay, watermarks, producer, servers, rng, specs=text + more_specs)
        following.cancel()


def _stream(source: str, at: NDArray[np.int64], rows: Sequence[Mapping[str, Any]]) -> Stream:
    keys = [row["id"].encode() for row in rows]
    return Stream(source, PARTITIONS, at, keys, [json.dumps(row).encode() for row in rows])
