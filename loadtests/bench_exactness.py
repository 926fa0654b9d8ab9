"""Exactness under fire: values online, values offline and a recomputation in plain Python, compared for all entities.

Events go through the real ingestion into two real feature stores that are killed in turn while it runs, and so is
ingestion. A tenth of the events come late, within the lateness, and a hundredth of the records come twice. After each
part of the stream every entity's features are read online, and the same times are asked for offline at the end; both are
held against sums in plain Python, which for the offline values leave out what had not yet arrived. The claim is that no
value differs by more than 1e-9 of itself.
"""

import asyncio
import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from by_hand import COLUMNS, FUNCTIONS, WINDOWS, Ride, Values, by_hand, differing
from stream import BEGIN, HOUR, refused_records
from trimtab import project
from trimtab.client import SERVICES, Trimtab
from trimtab.replay import Watermarks
from trimtab_contracts import topics
from trimtab_contracts.features.v1.features_pb2 import (
    EntityColumn,
    GetHistoricalFeaturesRequest,
    GetOnlineFeaturesRequest,
)
from trimtab_contracts.features.v1.features_pb2_grpc import FeatureStoreStub
from trimtab_runtime import bus, records, rpc
from trimtab_runtime.clock import from_timestamp, iso, to_timestamp
from trimtab_runtime.records import Outgoing
from trimtab_stack.stack import Stack

EVENTS, PARTS, CHUNK = 500_000, 6, 2_500
LATE_SHARE, TWICE_SHARE = 0.1, 0.01
UNIQUE_WITHIN = "1h"
"""Of the rides' id, as `unique_within` in the contract: then a record that comes twice is one event, else it is two."""
VICTIMS = (("feature_store", 0), ("feature_store", 1), ("ingestion", 0))
ZONES, PARTITIONS = 200, 2
HOURS, LATENESS = 48, 2 * HOUR
AGAIN_WITHIN = EVENTS // HOURS // 2
"""How many records later a record comes again, at most: half an hour, so that no watermark has passed it."""
END = BEGIN + HOURS * HOUR + LATENESS
PATIENCE_S = 300.0
RIDES, ASKS, VIEW, MODEL = "rides", "asks", "speed", "told"
ID = f"{{type: string, unique_within: {UNIQUE_WITHIN}}}" if UNIQUE_WITHIN else "{type: string}"
SPECS = f"""
kind: Source
metadata: {{name: {RIDES}}}
spec:
  key: id
  event_time: at
  lateness: 2h
  partitions: {PARTITIONS}
  fields: {{id: {ID}, at: {{type: timestamp}}, zone: {{type: integer}}, mph: {{type: number, nullable: true}}}}
---
kind: Source
metadata: {{name: {ASKS}}}
spec:
  key: id
  event_time: at
  lateness: 2h
  partitions: {PARTITIONS}
  fields: {{id: {{type: string}}, at: {{type: timestamp}}, zone: {{type: integer}}, y: {{type: number}}}}
---
kind: FeatureView
metadata: {{name: {VIEW}}}
spec:
  source: {RIDES}
  entity: zone
  aggregates:
    - {{field: mph, functions: [{", ".join(FUNCTIONS)}], windows: [{", ".join(WINDOWS)}]}}
  hop: 1h
  ttl: 60d
---
kind: Model
metadata: {{name: {MODEL}}}
spec:
  task: regression
  source: {ASKS}
  features: ["{VIEW}.*"]
  label: {{source: {ASKS}, on: id, value: y, within: 1h}}
  trainer: {{window: 9d}}
  rollout: {{cap: 9}}
"""


class Producer:
    """Sends rows to raw.<source>, with a watermark after each chunk."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer

    async def send(self, source: str, rows: Sequence[tuple[str, int, dict[str, Any]]]) -> None:
        """Send rows (id, arrival, row), each id to the same partition whenever it comes."""
        await records.send_all(
            self._producer,
            [
                Outgoing(
                    topics.RAW.named(source).name,
                    key.encode(),
                    json.dumps(row).encode(),
                    [("ce_arrivedat", iso(arrived_ms).encode())],
                    int(key.rpartition("-")[2]) % PARTITIONS,
                )
                for key, arrived_ms, row in rows
            ],
        )

    async def promise(self, source: str, time_ms: int) -> None:
        """Say that nothing older comes any more."""
        marks = [
            records.watermark_headers(source=source, time_ms=time_ms, origin=number, origins=PARTITIONS)
            for number in range(PARTITIONS)
        ]
        topic = topics.RAW.named(source).name
        await records.send_all(
            self._producer,
            [Outgoing(topic, None, b"", mark, number) for number, mark in enumerate(marks)],
        )

    async def send_rides(self, rides: Sequence[Ride]) -> int:
        """Send rides in chunks, and return the watermark behind them."""
        watermark_ms = 0
        for start in range(0, len(rides), CHUNK):
            part = rides[start : start + CHUNK]
            rows = [
                (r.id, r.arrived_ms, {"id": r.id, "at": iso(r.at_ms), "zone": r.zone, "mph": r.mph})
                for r in part
            ]
            await self.send(RIDES, rows)
            watermark_ms = max(ride.arrived_ms for ride in part) - LATENESS - HOUR
            await self.promise(RIDES, watermark_ms)
        return watermark_ms


def some_rides(chance: random.Random) -> list[Ride]:
    """Return the rides in the order of their coming, some of them twice."""
    rides = []
    for number in range(EVENTS):
        at = BEGIN + number * HOURS * HOUR // EVENTS
        delay = chance.randrange(LATENESS) if chance.random() < LATE_SHARE else 0
        mph = None if chance.random() < 0.01 else chance.gauss(25.0, 8.0)
        rides.append(Ride(f"ride-{number}", chance.randrange(ZONES), at, at + delay, mph))
    rides.sort(key=lambda ride: ride.arrived_ms)
    again = [(number + chance.randrange(AGAIN_WITHIN), ride) for number, ride in enumerate(rides)]
    again = [each for each in again if chance.random() < TWICE_SHARE]
    first = list(enumerate(rides))
    return [ride for _, ride in sorted([*first, *again], key=lambda each: each[0])]


async def main() -> bool:
    """Run, print the outcome, and return whether the claim holds."""
    chance = random.Random(11)
    rides = some_rides(chance)
    services = {"registry": 1, "ingestion": 1, "feature_store": 2}
    with (
        tempfile.TemporaryDirectory(prefix="trimtab-bench-") as directory,
        Stack(Path(directory), services, fsync=False) as stack,
    ):
        async with Trimtab.connect(dict.fromkeys(SERVICES, stack.address("registry"))) as trimtab:
            await trimtab.apply(project.parse(SPECS).resources, actor="bench")
        begun = time.perf_counter()
        online, kills = await play(stack, rides)
        seconds = time.perf_counter() - begun
        times = sorted({at for _, at in next(iter(online.values()))})
        offline = await ask_offline(stack, times)
        late, refused = sum(ride.arrived_ms > ride.at_ms for ride in rides), await refused_records(stack)
    counted = list({ride.id: ride for ride in rides}.values()) if UNIQUE_WITHIN else rides
    expected = by_hand(counted, range(ZONES), times, arrived_only=False)
    mismatches = {name: differing(expected, found) for name, found in online.items()}
    mismatches["offline"] = differing(by_hand(counted, range(ZONES), times, arrived_only=True), offline)
    claims = [
        {"claim": "mismatches", "value": sum(map(len, mismatches.values())), "at_most": 0},
        {"claim": "valid events refused", "value": refused, "at_most": 0},
    ]
    details = {
        "events": EVENTS,
        "records_that_came_twice": len(rides) - EVENTS,
        "twice_counts_as": "one event"
        if UNIQUE_WITHIN
        else "two events, as the contract states no unique_within",
        "late": late,
        "kills": kills,
        "seconds": round(seconds, 1),
        "values_compared": {
            name: len(found) * len(COLUMNS) for name, found in [*online.items(), ("offline", offline)]
        },
        "times": [iso(at) for at in times],
        "mismatches": {name: {"count": len(found), "some": found[:5]} for name, found in mismatches.items()},
    }
    print(json.dumps({"bench": "exactness", "claims": claims, "details": details}))
    return not any(claim["value"] for claim in claims)


async def play(stack: Stack, rides: Sequence[Ride]) -> tuple[dict[str, Values], int]:
    """Send the rides part by part, kill in the midst of each, and return each store's answers at the parts' ends."""
    servers = stack.environ["TRIMTAB_KAFKA_SERVERS"]
    watermarks = Watermarks(servers)
    found: dict[str, Values] = {f"online-{index}": {} for index in range(2)}
    size = -(-len(rides) // PARTS)
    async with bus.open_producer(servers) as opened, asyncio.TaskGroup() as tasks:
        following = tasks.create_task(watermarks.follower.run())
        producer = Producer(opened)
        times = []
        for number in range(PARTS):
            part = rides[number * size : (number + 1) * size]
            sending = tasks.create_task(producer.send_rides(part))
            early_ms = max(ride.arrived_ms for ride in part[: CHUNK * 2]) - LATENESS - HOUR
            await watermarks.wait("features", VIEW, early_ms, partitions=PARTITIONS)
            await kill(stack, *VICTIMS[number % len(VICTIMS)])
            times.append(await sending)
            if number == PARTS - 1:  # and the quiet after it, in which windows empty
                times += [END, END + 5 * HOUR]
                await producer.promise(RIDES, END + 5 * HOUR)
            await watermarks.wait("features", VIEW, times[-1], partitions=PARTITIONS)
            for at in times[number:]:
                for index in range(2):
                    found[f"online-{index}"] |= await ask_online(stack.address("feature_store", index), at)
        asks = [
            (f"ask-{number}", at, {"id": f"ask-{number}", "at": iso(at), "zone": zone, "y": 1.0})
            for number, (at, zone) in enumerate(itertools.product(times, range(ZONES)))
        ]
        await producer.send(ASKS, asks)
        for source in (ASKS, RIDES):
            await producer.promise(source, END + 7 * HOUR)
        following.cancel()
    return found, PARTS


async def kill(stack: Stack, service: str, index: int) -> None:
    """Kill a process with what it has in its hands, and start it again."""
    await asyncio.to_thread(stack.kill_service, service, index)
    await asyncio.to_thread(stack.start_service, service, index)


async def ask_online(address: str, at_ms: int) -> Values:
    """Return all entities' features at a time, as one store has them once it has read up to there."""
    zones = EntityColumn(field="zone", values=map(str, range(ZONES)))
    request = GetOnlineFeaturesRequest(features=[f"{VIEW}.*"], entities=[zones], at=to_timestamp(at_ms))
    async with rpc.channel(address) as channel:
        stub: Any = FeatureStoreStub(channel)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                answer = await stub.GetOnlineFeatures(request, wait_for_ready=True)
                if from_timestamp(answer.views[0].watermark) >= at_ms:
                    break
                await asyncio.sleep(0.05)
    assert list(answer.names) == [f"{VIEW}.{name}" for name in COLUMNS]
    values = iter(answer.values)
    return {(zone, at_ms): list(itertools.islice(values, len(COLUMNS))) for zone in range(ZONES)}


async def ask_offline(stack: Stack, times: Sequence[int]) -> Values:
    """Return all entities' features at all times, as the archive gives them."""
    request = GetHistoricalFeaturesRequest(
        model=MODEL,
        start=to_timestamp(BEGIN),
        end=to_timestamp(max(times) + 1),
        wait_until=to_timestamp(END + 7 * HOUR),
    )
    async with rpc.channel(stack.address("feature_store", 1)) as channel:
        stub: Any = FeatureStoreStub(channel)
        answers = stub.GetHistoricalFeatures(request, timeout=PATIENCE_S, wait_for_ready=True)
        pieces = [answer.arrow async for answer in answers]
    found = {}
    for row in pa.ipc.open_stream(b"".join(pieces)).read_all().to_pylist():
        zone = int(row["key"].rpartition("-")[2]) % ZONES
        found[zone, row["event_time_ms"]] = [row[f"{VIEW}.{name}"] for name in COLUMNS]
    return found


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
