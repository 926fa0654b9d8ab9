"""What an event costs on its way from raw.<source> to the online features, beside the least that Kafka asks for.

The real services judge the rows, bring them together by entity and fold them, exactly once. The bare process beside
them consumes the same records and produces them again in transactions of 500. Both are charged their own CPU time,
user and system, in turn over the same rows; the claim is the median over the rounds of one over the other, as a round's
two halves meet the same machine. The archive reads the same rows in the same process: what it writes, in threads of
its own, is told apart and not claimed; what it reads is charged.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from trimtab import project
from trimtab.client import SERVICES, Trimtab
from trimtab.replay import Watermarks
from trimtab_contracts import topics
from trimtab_runtime import admin, bus, records
from trimtab_runtime.clock import iso
from trimtab_runtime.records import Outgoing
from trimtab_stack.stack import Stack

BARE = Path(__file__).with_name("stream_bare.py")
MEASURED = ("ingestion", "feature_store")
ARCHIVE = "archive_writing"
ROUNDS, EVENTS, PARTITIONS = 3, 40_000, 2
WARM_UP = 4_000
AT_MOST = 4.0
HOUR = 3_600_000
BEGIN = 1_700_000_000_000 // HOUR * HOUR
SOURCE, VIEW, BARE_SOURCE = "dropoffs", "zone-speed", "bare"
SPECS = f"""
kind: Source
metadata: {{name: {SOURCE}}}
spec:
  key: trip_id
  event_time: dropoff_at
  lateness: 2h
  partitions: {PARTITIONS}
  fields:
    trip_id: {{type: string}}
    dropoff_at: {{type: timestamp}}
    pickup_zone: {{type: integer, min: 1, max: 263}}
    distance: {{type: number, min: 0, max: 100}}
    minutes: {{type: number, min: 0, max: 5000}}
    mph: {{type: number, min: 0, max: 200}}
    vendor: {{type: string}}
---
kind: FeatureView
metadata: {{name: {VIEW}}}
spec:
  source: {SOURCE}
  entity: pickup_zone
  aggregates:
    - {{field: mph, functions: [count, mean, stddev], windows: [6h, 1d]}}
    - {{field: minutes, functions: [mean, max], windows: [1d]}}
  hop: 1h
  ttl: 60d
"""


class Rows:
    """Drop-offs, sent a number at a time, an hour of event time each time."""

    def __init__(self, producer: Any) -> None:
        self.until_ms = BEGIN
        self._producer = producer
        self._rng = np.random.default_rng(7)
        self._sent = 0

    async def send(self, count: int) -> None:
        """Send `count` rows, watermarks included, and return once Kafka has them all."""
        topic = topics.RAW.named(SOURCE).name
        begin, self.until_ms = self.until_ms, self.until_ms + HOUR
        made = []
        for at in np.sort(self._rng.integers(begin, self.until_ms, count - PARTITIONS)).tolist():
            self._sent += 1
            trip = f"2018-01-{self._sent:09}"
            row = {
                "trip_id": trip,
                "dropoff_at": iso(at),
                "pickup_zone": int(self._rng.integers(1, 264)),
                "distance": round(float(self._rng.gamma(2.0, 1.5)), 2),
                "minutes": round(float(self._rng.gamma(3.0, 4.0)), 3),
                "mph": round(float(self._rng.gamma(9.0, 1.3)), 3),
                "vendor": "VTS",
            }
            headers = [("ce_arrivedat", iso(at).encode())]
            partition = self._sent % PARTITIONS
            made.append(Outgoing(topic, trip.encode(), json.dumps(row).encode(), headers, partition))
        for number in range(PARTITIONS):
            mark = records.watermark_headers(
                source=SOURCE, time_ms=self.until_ms, origin=number, origins=PARTITIONS
            )
            made.append(Outgoing(topic, None, b"", mark, number))
        await records.send_all(self._producer, made)


async def main() -> bool:
    """Measure, print the outcome, and return whether the claim holds."""
    with (
        tempfile.TemporaryDirectory(prefix="trimtab-bench-") as directory,
        Stack(Path(directory), dict.fromkeys(("registry", *MEASURED), 1), fsync=False) as stack,
    ):
        servers = stack.environ["TRIMTAB_KAFKA_SERVERS"]
        await apply(stack, servers)
        measured = await measure(stack, servers)
    ratios = [ours / bare for ours, bare in zip(measured["trimtab"], measured["bare"], strict=True)]
    ratio = round(statistics.median(ratios), 2)
    medians = {name: statistics.median(values) for name, values in measured.items()}
    claim = {"claim": "stream_cpu_ratio", "value": ratio, "at_most": AT_MOST}
    details = {
        "unit": "CPU microseconds an event, user and system",
        "events_a_round": EVENTS,
        "ratios": [round(each, 2) for each in ratios],
        "ratio_of_medians": round(medians["trimtab"] / medians["bare"], 2),
        "ratio_with_archive_writing": round((medians["trimtab"] + medians[ARCHIVE]) / medians["bare"], 2),
        "median": {name: round(value, 1) for name, value in medians.items()},
        "rounds": {name: [round(value, 1) for value in values] for name, values in measured.items()},
    }
    print(json.dumps({"bench": "stream", "claims": [claim], "details": details}))
    return ratio <= AT_MOST


async def apply(stack: Stack, servers: str) -> None:
    """Make the source and the view the wanted state, and a topic for the bare process."""
    resources = project.parse(SPECS).resources
    # Only the registry is spoken to; the other doors are not running.
    async with Trimtab.connect(dict.fromkeys(SERVICES, stack.address("registry"))) as trimtab:
        await trimtab.apply(resources, actor="bench")
    await admin.ensure_topics(servers, [topics.EVENTS.named(BARE_SOURCE, partitions=PARTITIONS)])


async def measure(stack: Stack, servers: str) -> dict[str, list[float]]:
    """Return CPU microseconds an event, by what was measured, a figure a round."""
    processes = {name: psutil.Process(stack.service(name).pid) for name in MEASURED}
    measured: dict[str, list[float]] = {name: [] for name in ("trimtab", "bare", *MEASURED, ARCHIVE)}
    watermarks = Watermarks(servers)
    producer = await bus.start_producer(servers)
    try:
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(watermarks.follower.run())
            rows = Rows(producer)
            with bare_process(servers) as bare:
                for number in range(ROUNDS + 1):  # the first one warms up
                    count = EVENTS if number else WARM_UP
                    before = cpu_s(processes)
                    await rows.send(count)
                    await watermarks.wait("features", VIEW, rows.until_ms, partitions=PARTITIONS)
                    await watermarks.wait("archive", SOURCE, rows.until_ms)
                    spent = {name: after - before[name] for name, after in cpu_s(processes).items()}
                    spent["trimtab"] = sum(spent[name] for name in MEASURED)
                    spent["bare"] = await ask(bare, count)
                    if number:
                        for name, value in spent.items():
                            measured[name].append(value / count * 1e6)
            following.cancel()
    finally:
        await producer.stop()
    return measured


def cpu_s(processes: Mapping[str, psutil.Process]) -> dict[str, float]:
    """Return the CPU seconds that each process has used, the archive's threads apart."""
    used = {}
    for name, process in processes.items():
        threads = {thread.id: thread.user_time + thread.system_time for thread in process.threads()}
        used[name] = threads.pop(process.pid) if name == "feature_store" else sum(threads.values())
        if name == "feature_store":
            used[ARCHIVE] = sum(threads.values())
    return used


@contextmanager
def bare_process(servers: str) -> Iterator["subprocess.Popen[str]"]:
    """Run the bare process, from the start of the raw topic."""
    command = [sys.executable, str(BARE), servers, topics.RAW.named(SOURCE).name]
    command += [topics.EVENTS.named(BARE_SOURCE).name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def ask(process: "subprocess.Popen[str]", count: int) -> float:
    """Have the bare process carry `count` records; return its CPU seconds."""
    assert process.stdin and process.stdout
    process.stdin.write(f"{count}\n")
    process.stdin.flush()
    async with asyncio.timeout(60):
        return float(await asyncio.to_thread(process.stdout.readline))


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
