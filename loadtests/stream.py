"""What benchmarks of the stream share: the rows, the specs, and rounds in which Trimtab and a peer meet the same rows.

A round is charged in CPU seconds, user and system, of the processes at work; the peer works when Trimtab has done, so a
round's two halves meet the same rows, the same broker and the same machine.
"""

import asyncio
import json
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
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
from trimtab_runtime.pipeline import read_partition
from trimtab_runtime.records import Outgoing
from trimtab_stack.stack import Stack

HERE = Path(__file__).parent
ROUNDS, PARTITIONS = 3, 2
ARCHIVE = "archive_writing"
HOUR = 3_600_000
BEGIN = 1_700_000_000_000 // HOUR * HOUR
ZONES = 263
SOURCE, VIEW, BARE_SOURCE = "dropoffs", "zone-speed", "bare"
SOURCE_SPEC = f"""
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
    pickup_zone: {{type: integer, min: 1, max: {ZONES}}}
    distance: {{type: number, min: 0, max: 100}}
    minutes: {{type: number, min: 0, max: 5000}}
    mph: {{type: number, min: 0, max: 200}}
    vendor: {{type: string}}
"""
Peer = subprocess.Popen[str]


Encode = Callable[[Mapping[str, Any]], bytes]
"""Makes a record's value of a row."""


def as_json(row: Mapping[str, Any]) -> bytes:
    """Return a row as JSON."""
    return json.dumps(row).encode()


class Rows:
    """Drop-offs, sent a number at a time, an hour of event time each time."""

    def __init__(
        self, producer: Any, begin_ms: int = BEGIN, *, source: str = SOURCE, encode: Encode = as_json
    ) -> None:
        self.until_ms = begin_ms
        self._producer = producer
        self._source = source
        self._encode = encode
        self._rng = np.random.default_rng(7)
        self._sent = 0

    async def send(self, count: int) -> None:
        """Send `count` records, watermarks included, and return once Kafka has them all."""
        topic = topics.RAW.named(self._source).name
        begin, self.until_ms = self.until_ms, self.until_ms + HOUR
        made = []
        for at in np.sort(self._rng.integers(begin, self.until_ms, count - PARTITIONS)).tolist():
            self._sent += 1
            trip = f"2018-01-{self._sent:09}"
            row = {
                "trip_id": trip,
                "dropoff_at": iso(at),
                "pickup_zone": int(self._rng.integers(1, ZONES + 1)),
                "distance": round(float(self._rng.gamma(2.0, 1.5)), 2),
                "minutes": round(float(self._rng.gamma(3.0, 4.0)), 3),
                "mph": round(float(self._rng.gamma(9.0, 1.3)), 3),
                "vendor": "VTS",
            }
            headers = [("ce_arrivedat", iso(at).encode())]
            partition = self._sent % PARTITIONS
            made.append(Outgoing(topic, trip.encode(), self._encode(row), headers, partition))
        for number in range(PARTITIONS):
            mark = records.watermark_headers(
                source=self._source, time_ms=self.until_ms, origin=number, origins=PARTITIONS
            )
            made.append(Outgoing(topic, None, b"", mark, number))
        await records.send_all(self._producer, made)


async def apply(stack: Stack, specs: str) -> None:
    """Make the specs the wanted state, and a topic for the bare process."""
    # Only the registry is spoken to; the other doors are not running.
    async with Trimtab.connect(dict.fromkeys(SERVICES, stack.address("registry"))) as trimtab:
        await trimtab.apply(project.parse(specs).resources, actor="bench")
    servers = stack.environ["TRIMTAB_KAFKA_SERVERS"]
    await admin.ensure_topics(servers, [topics.EVENTS.named(BARE_SOURCE, partitions=PARTITIONS)])


async def measure(
    stack: Stack,
    services: Sequence[str],
    arrived: Callable[[Watermarks, int], Awaitable[None]],
    command: Sequence[str],
    *,
    events: int,
    warm_up: int,
    source: str = SOURCE,
    encode: Encode = as_json,
) -> dict[str, list[float]]:
    """Return CPU microseconds an event, a figure a round, of each service, of all ("trimtab") and of the "peer".

    Args:
        stack: runs the services, one process of each.
        services: to be charged.
        arrived: returns when all rows up to an event time are through.
        command: a peer process, which is told by lines how many records to take, and answers with its CPU seconds.
        events: of a round, watermarks included.
        warm_up: events of a round before the first, which does not count.
        source: where the rows are sent.
        encode: what makes records of them.
    """
    processes = {name: psutil.Process(stack.service(name).pid) for name in services}
    measured: dict[str, list[float]] = {}
    servers = stack.environ["TRIMTAB_KAFKA_SERVERS"]
    watermarks = Watermarks(servers)
    async with bus.open_producer(servers) as producer, asyncio.TaskGroup() as tasks:
        following = tasks.create_task(watermarks.follower.run())
        rows = Rows(producer, source=source, encode=encode)
        with peer_process(command) as peer:
            for number in range(ROUNDS + 1):
                count = events if number else warm_up
                before = cpu_s(processes)
                await rows.send(count)
                await arrived(watermarks, rows.until_ms)
                spent = {name: after - before[name] for name, after in cpu_s(processes).items()}
                spent["trimtab"] = sum(spent[name] for name in services)
                spent["peer"] = await ask(peer, count)
                if number:
                    for name, value in spent.items():
                        measured.setdefault(name, []).append(value / count * 1e6)
        following.cancel()
    return measured


async def refused_records(stack: Stack) -> int:
    """Return how many records were refused: what is measured is to be valid."""
    count = 0
    for partition in range(topics.DEADLETTER.partitions):
        servers = stack.environ["TRIMTAB_KAFKA_SERVERS"]
        async for batch in read_partition(servers, topics.DEADLETTER.name, partition):
            count += len(batch)
    return count


def cpu_s(processes: Mapping[str, psutil.Process]) -> dict[str, float]:
    """Return the CPU seconds that each process has used, the archive's threads apart."""
    used = {}
    for name, process in processes.items():
        threads = {thread.id: thread.user_time + thread.system_time for thread in process.threads()}
        used[name] = threads.pop(process.pid) if name == "feature_store" else sum(threads.values())
        if name == "feature_store":
            used[ARCHIVE] = sum(threads.values())
    return used


def summary(measured: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return medians and rounds of what was measured, to be read."""
    return {
        "unit": "CPU microseconds an event, user and system",
        "median": {name: round(statistics.median(values), 1) for name, values in measured.items()},
        "rounds": {name: [round(value, 1) for value in values] for name, values in measured.items()},
    }


def bare(servers: str, source: str = SOURCE) -> list[str]:
    """Return the command of the bare process, which consumes the raw rows from their start and produces them again."""
    target = topics.EVENTS.named(BARE_SOURCE).name
    return [sys.executable, str(HERE / "stream_bare.py"), servers, topics.RAW.named(source).name, target]


@contextmanager
def peer_process(command: Sequence[str]) -> Iterator[Peer]:
    """Run a process that answers lines with lines, and kill it at the end."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def ask(process: Peer, count: int, *, patience_s: float = 180.0) -> float:
    """Have a peer take `count` records; return its CPU seconds."""
    async with asyncio.timeout(patience_s):
        return float(await asyncio.to_thread(tell, process, str(count)))


def tell(process: Peer, line: str) -> str:
    """Return what a peer answers to a line."""
    assert process.stdin and process.stdout
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    if not (answer := process.stdout.readline()):
        raise RuntimeError(f"{process.args!r} ended with status {process.wait()}: see what it wrote above")
    return answer
