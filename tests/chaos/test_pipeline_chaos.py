"""Exactly once from Kafka to Kafka, while workers and the broker are killed, paused and moved.

Four partitions are counted by real processes in transactions of fifty records; every event must be counted once, in
order, from a state that held all before it.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from trimtab_runtime.pipeline import read_partition
from trimtab_runtime.testing import eventually
from trimtab_stack import leash, ports
from trimtab_stack.kafka import Kafka

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]  # a tenth of it on a quiet machine

PARTITIONS = 4
KEYS = 50
BACKLOG = 4_000
_PATIENCE_S = 60.0  # a few seconds on a quiet machine
PROGRAM = Path(__file__).with_name("counting_worker.py")


class Process:
    """A counting worker in a process of its own."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.log = log
        with log.open("ab") as sink:
            program = [sys.executable, str(PROGRAM), *arguments]
            self._child = subprocess.Popen([*_leashed(), *program], stdout=sink, stderr=sink)

    def signal(self, number: signal.Signals) -> None:
        self._child.send_signal(number)

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()

    async def terminate(self) -> int:
        self.signal(signal.SIGTERM)

        async def ended() -> bool:
            return self._child.poll() is not None

        await eventually(ended, what="an orderly end")
        return self._child.returncode

    @property
    def said(self) -> str:
        return self.log.read_text()


def _leashed() -> list[str]:
    """Return what to put before a command so that it ends with this process, even if that is killed."""
    return [sys.executable, leash.__file__, str(os.getpid()), str(signal.SIGKILL.value), "-"]


class Run:
    """Events, the workers that count them, and what can be read of the counts."""

    def __init__(self, servers: str, directory: Path) -> None:
        self.servers = servers
        self.name = uuid.uuid4().hex[:8]
        self.input, self.output = f"events-{self.name}", f"counts-{self.name}"
        self.sent: Counter[bytes] = Counter()
        self.heard = [0] * PARTITIONS
        self._directory = directory
        self._processes: list[Process] = []
        self._producer: Any = None

    async def create_topics(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.servers)
        await admin.start()
        try:
            compacted = {"cleanup.policy": "compact"}
            await admin.create_topics(
                [
                    NewTopic(self.input, PARTITIONS, 1),
                    NewTopic(self.output, PARTITIONS, 1, topic_configs=compacted),
                ]
            )
        finally:
            await admin.close()

    def worker(self) -> Process:
        """Start another worker."""
        arguments = [f"--servers={self.servers}", f"--service=count-{self.name}"]
        arguments += [f"--input={self.input}", f"--output={self.output}"]
        process = Process(arguments, self._directory / f"worker-{len(self._processes)}.log")
        self._processes.append(process)
        return process

    async def send(self, count: int) -> None:
        """Hand `count` events to the producer; they are delivered soon."""
        for number in range(sum(self.sent.values()), sum(self.sent.values()) + count):
            key = b"key-%d" % (number % KEYS)
            await self._producer.send(self.input, b"%d" % number, key=key, partition=number % PARTITIONS)
            self.sent[key] += 1

    async def progress(self, *, by: int, partitions: int = PARTITIONS) -> None:
        """Wait until at least `by` more are counted in each of so many partitions; the work never runs out."""
        before = list(self.heard)

        async def moved() -> bool:
            if sum(self.sent.values()) - sum(self.heard) < BACKLOG:
                await self.send(BACKLOG)
            return sum(now - then >= by for now, then in zip(self.heard, before, strict=True)) >= partitions

        await eventually(moved, what=f"{by} more counted in {partitions} partitions", deadline_s=_PATIENCE_S)

    async def all_counted(self) -> None:
        """Wait until as many are counted as were sent; not one of them is counted twice or from a wrong state."""
        await self._producer.flush()
        total = sum(self.sent.values())

        async def done() -> bool:
            return sum(self.heard) >= total

        await eventually(done, what=f"{total} counted", deadline_s=_PATIENCE_S)
        counts: dict[bytes, int] = {}
        for partition in range(PARTITIONS):
            outputs = [
                (record.key, *json.loads(record.value))
                async for batch in read_partition(self.servers, self.output, partition)
                for record in batch
            ]
            assert [number for _, _, number, _ in outputs] == list(range(1, len(outputs) + 1))
            assert [offset for *_, offset in outputs] == list(range(len(outputs)))
            for key, count, _, _ in outputs:
                counts[key] = counts.get(key, 0) + 1
                assert count == 1 or key in counts
        assert counts == self.sent
        assert sum(counts.values()) == total

    async def listen(self) -> None:
        """Follow what is counted, as a reader of committed records does."""
        consumer = AIOKafkaConsumer(
            self.output,
            bootstrap_servers=self.servers,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            fetch_max_wait_ms=50,
        )
        await consumer.start()
        try:
            while True:
                for place, batch in (await consumer.getmany(timeout_ms=100)).items():
                    self.heard[place.partition] += len(batch)
        finally:
            await consumer.stop()

    @asynccontextmanager
    async def under_way(self) -> AsyncIterator[None]:
        await self.create_topics()
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self.servers, enable_idempotence=True, linger_ms=5, retry_backoff_ms=50
        )
        await self._producer.start()
        listening = asyncio.get_running_loop().create_task(self.listen())
        try:
            yield
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening
            for process in self._processes:
                process.kill()
            await self._producer.stop()


@pytest.fixture
async def counting(kafka_servers: str, tmp_path: Path) -> AsyncIterator[Run]:
    run = Run(kafka_servers, tmp_path)
    async with run.under_way():
        yield run


async def test_counts_are_exact_while_workers_are_killed_and_started_again(counting: Run) -> None:
    workers = [counting.worker(), counting.worker()]
    for turn in range(4):
        await counting.send(10_000)
        await counting.progress(by=100)
        workers[turn % 2].kill()
        workers[turn % 2] = counting.worker()

    await counting.all_counted()


async def test_a_paused_worker_wakes_after_its_partitions_went_to_another_and_can_commit_nothing(
    counting: Run,
) -> None:
    workers = [counting.worker(), counting.worker()]
    for turn in range(3):
        await counting.send(14_000)
        await counting.progress(by=100)
        workers[turn % 2].signal(signal.SIGSTOP)
        await counting.progress(by=200)  # in all partitions, so the session of the paused one is over
        workers[turn % 2].signal(signal.SIGCONT)
        await counting.progress(by=100)

    await counting.all_counted()


async def test_counts_are_exact_while_workers_come_and_go(counting: Run) -> None:
    workers = [counting.worker()]
    await counting.send(10_000)
    await counting.progress(by=100)
    for _ in range(3):
        workers.append(counting.worker())
        await counting.send(10_000)
        await counting.progress(by=500)
    for worker in workers[:3]:
        assert await worker.terminate() == 0
        await counting.send(2_000)
        await counting.progress(by=100)

    await counting.all_counted()


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[Kafka]:
    with _own_kafka(tmp_path) as kafka:
        yield kafka


@contextmanager
def _own_kafka(directory: Path) -> Iterator[Kafka]:
    kafka = Kafka(directory / "kafka", ports.choose(set()))
    kafka.start()
    try:
        yield kafka
    finally:
        kafka.kill()


async def test_counts_are_exact_while_the_broker_is_killed_and_started_again(
    own_kafka: Kafka, tmp_path: Path
) -> None:
    run = Run(own_kafka.servers, tmp_path)
    async with run.under_way():
        run.worker()
        run.worker()
        for _ in range(2):
            await run.send(20_000)
            await run.progress(by=200)
            own_kafka.kill()
            await asyncio.to_thread(own_kafka.start)

        await run.all_counted()
