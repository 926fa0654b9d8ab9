"""How a pipeline starts, changes, fails and ends, and how a partition is read to its end, on a real Kafka."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from trimtab_runtime.pipeline import Broken, Pipeline, read_partition
from trimtab_runtime.records import Outgoing
from trimtab_runtime.testing import eventually

pytestmark = pytest.mark.real


class Numbered:
    """Writes what it reads behind a running number, and rebuilds the number from what it wrote."""

    def __init__(self, servers: str, output: str, place: TopicPartition) -> None:
        self.restored_to: int | None = None
        self._servers, self._output, self._partition = servers, output, place.partition
        self._number = 0

    async def restore(self) -> list[Outgoing]:
        async for batch in read_partition(self._servers, self._output, self._partition):
            self._number += len(batch)
        self.restored_to = self._number
        return []

    def process(self, records: Sequence[Any]) -> list[Outgoing]:
        outputs = []
        for record in records:
            if record.value == b"poison":
                raise LookupError("nobody knows this one")
            self._number += 1
            value = b"%d %s" % (self._number, record.value)
            outputs.append(Outgoing(self._output, record.key, value, partition=self._partition))
        return outputs


class Bench:
    """Topics of their own, and what is sent to and comes out of a pipeline between them."""

    def __init__(self, servers: str) -> None:
        name = uuid.uuid4().hex[:8]
        self.servers = servers
        self.service, self.input, self.output = f"number-{name}", f"in-{name}", f"out-{name}"
        self.workers: list[Numbered] = []

    async def create(self, *topics: str, partitions: int = 1) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.servers)
        await admin.start()
        await admin.create_topics([NewTopic(topic, partitions, 1) for topic in topics])
        await admin.close()

    async def send(self, *values: bytes, topic: str | None = None) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.servers) as producer:
            for value in values:
                await producer.send_and_wait(topic or self.input, value, partition=0)

    def pipeline(self, *topics: str, session_ms: int = 1_000) -> Pipeline:
        def make(place: TopicPartition) -> Numbered:
            self.workers.append(Numbered(self.servers, self.output, place))
            return self.workers[-1]

        return Pipeline(
            self.servers,
            service=self.service,
            make_worker=make,
            topics=topics,
            session_ms=session_ms,
            max_records=5,
        )

    async def out(self) -> list[bytes]:
        batches = [batch async for batch in read_partition(self.servers, self.output, 0)]
        return [record.value for batch in batches for record in batch]

    def comes_out(self, *values: bytes) -> Callable[[], Awaitable[bool]]:
        async def compare() -> bool:
            return await self.out() == list(values)

        return compare


@pytest.fixture
async def bench(kafka_servers: str) -> Bench:
    bench = Bench(kafka_servers)
    await bench.create(bench.input, bench.output)
    return bench


@asynccontextmanager
async def running(pipeline: Pipeline) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.get_running_loop().create_task(pipeline.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_pipeline_that_is_started_again_goes_on_where_it_ended(bench: Bench) -> None:
    await bench.send(b"a", b"b")
    async with running(bench.pipeline(bench.input)):
        await eventually(bench.comes_out(b"1 a", b"2 b"))
    await bench.send(b"c")

    async with running(bench.pipeline(bench.input)):
        await eventually(bench.comes_out(b"1 a", b"2 b", b"3 c"))


async def test_topics_may_be_none_and_may_come_to_be_while_it_runs(bench: Bench) -> None:
    later = f"later-{bench.input}"
    await bench.send(b"a")
    pipeline = bench.pipeline()
    async with running(pipeline):
        pipeline.set_topics([bench.input])
        await eventually(bench.comes_out(b"1 a"))
        pipeline.set_topics([later])
        await bench.create(later)
        await bench.send(b"b", topic=later)
        await eventually(bench.comes_out(b"1 a", b"2 b"))
        pipeline.set_topics([])

        async def idle() -> bool:
            return not pipeline.assignment

        await eventually(idle, what="no partition at work")


async def test_a_record_that_no_worker_can_process_ends_the_pipeline_with_its_place(bench: Bench) -> None:
    await bench.send(b"a", b"poison", b"b")

    async with running(bench.pipeline(bench.input)) as task:
        with pytest.raises(Broken, match=rf"{bench.input}/0.*nobody knows"):
            await asyncio.wait_for(task, 60)
    assert await bench.out() == []


async def test_a_partition_that_was_fenced_is_taken_up_again_with_a_new_worker(bench: Bench) -> None:
    await bench.send(b"a")
    async with running(bench.pipeline(bench.input, session_ms=10_000)):
        await eventually(bench.comes_out(b"1 a"))
        async with AIOKafkaProducer(
            bootstrap_servers=bench.servers, transactional_id=f"{bench.service}/{bench.input}/0"
        ):
            await bench.send(b"b")
            await eventually(bench.comes_out(b"1 a", b"2 b"))
    assert [worker.restored_to for worker in bench.workers if worker.restored_to is not None][:2] == [0, 1]


async def test_a_partition_is_read_past_aborted_transactions_and_markers_to_its_end(bench: Bench) -> None:
    assert await bench.out() == []
    async with AIOKafkaProducer(
        bootstrap_servers=bench.servers, transactional_id=f"writer-{bench.output}"
    ) as producer:
        for value, keep in ((b"kept", True), (b"dropped", False)):
            await producer.begin_transaction()
            await producer.send_and_wait(bench.output, value, partition=0)
            await (producer.commit_transaction() if keep else producer.abort_transaction())

    assert await bench.out() == [b"kept"]
