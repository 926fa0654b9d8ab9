"""Exactly once from Kafka to Kafka, while workers and the broker are killed, paused and moved.

Processes of their own count a steady stream of events over four partitions. Whatever is
done to them, every event has its effect once, in order, from a state that held all
effects before it and no other.
"""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from trimtab_runtime import bus
from trimtab_runtime.pipeline import read_partition
from trimtab_runtime.testing import eventually
from trimtab_stack import ports
from trimtab_stack.kafka import Kafka

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

PARTITIONS = 4
KEYS = 50
SESSION_MS = 1_200
AT_LEAST = 10_000
PROGRAM = Path(__file__).with_name("exactly_once_worker.py")


class Stage:
    """A counting stage: its topics, its processes, and the effects that a reader of them sees."""

    def __init__(self, servers: str, directory: Path) -> None:
        name = uuid.uuid4().hex[:8]
        self.topics = {role: f"{role}-{name}" for role in ("input", "state", "effects")}
        self.seen = [0] * PARTITIONS
        self.sent = 0
        self._servers = servers
        self._arguments = [f"--servers={servers}", f"--service=count-{name}", f"--session-ms={SESSION_MS}"]
        self._arguments += [f"--{role}={topic}" for role, topic in self.topics.items()]
        self._directory = directory
        self._workers: list[subprocess.Popen[bytes]] = []

    def start_worker(self) -> subprocess.Popen[bytes]:
        with self._log(len(self._workers)).open("wb") as log:
            command = [sys.executable, str(PROGRAM), *self._arguments]
            self._workers.append(subprocess.Popen(command, stdout=log, stderr=log))
        return self._workers[-1]

    async def at_work(self) -> None:
        """Wait until every worker has started so far that it can be told to end."""

        async def probe() -> bool:
            return all("at work" in self._log(number).read_text() for number in range(len(self._workers)))

        await eventually(probe, what="all workers at work")

    def said(self) -> str:
        """Return what all the workers logged."""
        return "".join(self._log(number).read_text() for number in range(len(self._workers)))

    def _log(self, number: int) -> Path:
        return self._directory / f"worker-{number}.log"

    async def progress(self, *, partitions: int = PARTITIONS) -> None:
        """Wait until new effects are seen in at least so many partitions."""
        before = list(self.seen)

        async def moved() -> bool:
            return sum(now - then >= 100 for now, then in zip(self.seen, before, strict=True)) >= partitions

        await eventually(moved, what=f"effects in {partitions} partitions")

    async def assert_exact(self) -> None:
        """Wait until all has had its effect, and look at every single one."""

        async def done() -> bool:
            return sum(self.seen) >= self.sent

        await eventually(done, what=f"{self.sent} effects")
        total = 0
        for partition in range(PARTITIONS):
            counts: dict[bytes, int] = {}
            offsets = []
            async for batch in read_partition(self._servers, self.topics["effects"], partition):
                for record in batch:
                    offset, count = json.loads(record.value)
                    offsets.append(offset)
                    counts[record.key] = counts.get(record.key, 0) + 1
                    assert count == counts[record.key], f"{record.key!r} at {partition}/{offset}"
            assert offsets == list(range(len(offsets)))
            total += len(offsets)
        assert total == self.sent

    @asynccontextmanager
    async def under_load(self) -> AsyncIterator[None]:
        """Send events without a pause, and at least `AT_LEAST` in all; no worker outlives this."""
        await self._create_topics()
        producer = await bus.start_producer(self._servers)
        over = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as tasks:
                listening = tasks.create_task(self._listen())
                sending = tasks.create_task(self._send(producer, over))
                yield
                over.set()
                await sending
                await self.assert_exact()
                listening.cancel()
        finally:
            for worker in self._workers:
                worker.kill()
                worker.wait()
            await producer.stop()

    async def _send(self, producer: Any, over: asyncio.Event) -> None:
        while not over.is_set() or self.sent < AT_LEAST:
            waiting = []
            for number in range(self.sent, self.sent + 40):
                key = b"key-%d" % (number % KEYS)
                waiting.append(await producer.send(self.topics["input"], b"", key, number % PARTITIONS))
            for future in waiting:
                await future
            self.sent += 40
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 0.01)

    async def _listen(self) -> None:
        consumer = AIOKafkaConsumer(
            self.topics["effects"],
            bootstrap_servers=self._servers,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            retry_backoff_ms=50,
        )
        await consumer.start()
        try:
            while True:
                for place, batch in (await consumer.getmany(timeout_ms=500)).items():
                    self.seen[place.partition] += len(batch)
        finally:
            await consumer.stop()

    async def _create_topics(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._servers)
        await admin.start()
        kept = {"state": {"cleanup.policy": "compact"}}
        await admin.create_topics(
            [
                NewTopic(name, PARTITIONS, 1, topic_configs=kept.get(role))
                for role, name in self.topics.items()
            ]
        )
        await admin.close()


@pytest.fixture
def stage(kafka_servers: str, tmp_path: Path) -> Stage:
    return Stage(kafka_servers, tmp_path)


async def stopped(worker: Any) -> None:
    """Wait until a worker stands still."""

    async def probe() -> bool:
        return bool(psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED)

    await eventually(probe, what="a worker that stands still")


async def test_workers_that_are_killed_lose_and_repeat_nothing(stage: Stage) -> None:
    async with stage.under_load():
        workers = [stage.start_worker(), stage.start_worker()]
        for turn in range(4):
            await stage.progress()
            workers[turn % 2].kill()
            workers[turn % 2] = stage.start_worker()
        await stage.progress()


async def test_a_worker_that_wakes_after_another_took_its_partitions_can_commit_nothing(stage: Stage) -> None:
    async with stage.under_load():
        workers = [stage.start_worker(), stage.start_worker()]
        await stage.at_work()
        await stage.progress()
        for pause in (signal.SIGUSR1, signal.SIGSTOP):
            workers[0].send_signal(pause)
            await stopped(workers[0])
            await stage.progress(partitions=2)
            await stage.progress()  # in all partitions: those of the paused one are another's by now
            workers[0].send_signal(signal.SIGCONT)
            await stage.progress()

    assert "ProducerFenced" in stage.said()


async def test_partitions_move_while_workers_come_and_go(stage: Stage) -> None:
    async with stage.under_load():
        workers = [stage.start_worker()]
        await stage.progress()
        workers += [stage.start_worker(), stage.start_worker()]
        await stage.at_work()
        await stage.progress()
        for worker in workers[:2]:
            worker.terminate()
            assert await asyncio.to_thread(worker.wait, 60) == 0
            await stage.progress()


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[Kafka]:
    """A broker of this test's own, to be killed."""
    broker = Kafka(tmp_path / "kafka", ports.choose(set()))
    broker.start()
    yield broker
    broker.kill()


async def test_a_broker_that_is_killed_under_load_loses_and_repeats_nothing(
    kafka: Kafka, tmp_path: Path
) -> None:
    stage = Stage(kafka.servers, tmp_path)
    async with stage.under_load():
        stage.start_worker()
        stage.start_worker()
        for _ in range(2):
            await stage.progress()
            kafka.kill()
            await asyncio.to_thread(kafka.start)
        await stage.progress()
