"""The pipeline on a real Kafka: what moves through it, what it waits for, and what ends it."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from trimtab_contracts.ingestion.v1.ingestion_pb2 import DeadLetter, Reason
from trimtab_contracts.topics import DEADLETTER
from trimtab_runtime import bus, pipeline, transactions
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.pipeline import Broken, Pipeline, Worker, read_partition
from trimtab_runtime.records import Outgoing
from trimtab_runtime.testing import eventually
from trimtab_stack import ports
from trimtab_stack.kafka import Kafka

pytestmark = pytest.mark.real

Process = Callable[[Sequence[Any]], Sequence[Outgoing]]


class Passing:
    """Writes what it reads to `topic`, unless it is given something else to do."""

    def __init__(self, topic: str, process: Process | None = None) -> None:
        self._topic = topic
        self._process = process

    async def restore(self) -> Sequence[Outgoing]:
        return ()

    def process(self, records: Sequence[Any]) -> Sequence[Outgoing]:
        if self._process:
            return self._process(records)
        return [Outgoing(self._topic, each.key, each.value, each.headers, each.partition) for each in records]


class Needing(Passing):
    """Needs something from elsewhere for each batch, and takes note of how often it asked."""

    def __init__(self, topic: str, there: asyncio.Event) -> None:
        super().__init__(topic)
        self.asked = 0
        self._there = there

    async def prepare(self, records: Sequence[Any]) -> None:
        self.asked += 1
        if records[0].value == b"poison":
            raise LookupError("nobody knows this one")
        if not self._there.is_set():
            raise Unavailable("it is away")


class Topics:
    """Topics of one test."""

    def __init__(self, servers: str) -> None:
        self.servers = servers
        self.name = uuid.uuid4().hex[:8]
        self.out = f"out-{self.name}"

    async def create(self, name: str, partitions: int = 1, **config: str) -> str:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.servers)
        await admin.start()
        await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=config)])
        await admin.close()
        return name

    async def send(self, topic: str, *values: str, partition: int = 0) -> None:
        producer = await bus.start_producer(self.servers, linger_ms=0)
        try:
            for value in values:
                await producer.send(topic, value.encode(), value.encode(), partition)
            await producer.flush()
        finally:
            await producer.stop()

    async def read(self, topic: str, partition: int = 0, *, offset: int = 0) -> list[str]:
        batches = read_partition(self.servers, topic, partition, offset=offset)
        return [record.value.decode() async for batch in batches for record in batch]

    async def arrives(self, *values: str) -> None:
        """Wait until all `values` have come out, and nothing else."""

        async def there() -> bool:
            return len(await self.read(self.out)) >= len(values)

        await eventually(there, what=f"{len(values)} records")
        assert await self.read(self.out) == list(values)

    def pipeline(
        self, *topics: str, make_worker: Callable[[TopicPartition], Worker] | None = None
    ) -> Pipeline:
        make = make_worker or (lambda _: Passing(self.out))
        return Pipeline(self.servers, service=f"test-{self.name}", make_worker=make, topics=topics)


@asynccontextmanager
async def running(pipeline: Pipeline) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.get_running_loop().create_task(pipeline.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def topics(kafka_servers: str) -> Topics:
    made = Topics(kafka_servers)
    await made.create(made.out)
    return made


async def test_what_was_committed_is_not_done_again_after_a_restart(topics: Topics) -> None:
    source = await topics.create(f"in-{topics.name}")
    await topics.send(source, "a", "b")
    async with running(topics.pipeline(source)):
        await topics.arrives("a", "b")
    await topics.send(source, "c")

    async with running(topics.pipeline(source)):
        await topics.arrives("a", "b", "c")


async def test_a_batch_that_is_larger_than_a_request_comes_out_whole_and_in_order(topics: Topics) -> None:
    source = await topics.create(f"in-{topics.name}")
    await topics.send(source, "go")
    values = [f"{number:06}" + "x" * 2_000 for number in range(2_000)]

    def many(_: Sequence[Any]) -> list[Outgoing]:
        return [Outgoing(topics.out, None, value.encode(), partition=0) for value in values]

    async with running(topics.pipeline(source, make_worker=lambda _: Passing(topics.out, many))):
        await topics.arrives(*values)


async def test_a_topic_that_does_not_exist_yet_is_waited_for_and_holds_up_no_other(topics: Topics) -> None:
    there, later = await topics.create(f"in-{topics.name}"), f"later-{topics.name}"
    async with running(topics.pipeline(there, later)):
        await topics.send(there, "a")
        await topics.arrives("a")
        await topics.create(later)
        await topics.send(later, "b")
        await topics.arrives("a", "b")


async def test_an_output_topic_that_does_not_exist_holds_up_only_what_needs_it(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_DRAIN_S", 0.1)  # in the end it waits for the topic still
    good, stuck = await topics.create(f"in-{topics.name}"), await topics.create(f"stuck-{topics.name}")

    def make_worker(place: TopicPartition) -> Passing:
        return Passing("no-such-topic" if place.topic == stuck else topics.out)

    await topics.send(stuck, "lost in thought")
    async with running(topics.pipeline(good, stuck, make_worker=make_worker)):
        await topics.send(good, "a")
        await topics.arrives("a")


async def test_a_record_too_large_for_kafka_holds_up_only_its_partition_and_is_tried_again(
    topics: Topics, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, stuck = await topics.create(f"in-{topics.name}"), await topics.create(f"stuck-{topics.name}")
    large = os.urandom(1_000_000).hex()
    swollen = iter([large, large, "small"])

    def swell(_: Sequence[Any]) -> list[Outgoing]:
        return [Outgoing(topics.out, None, each.encode(), partition=0) for each in ("c", next(swollen))]

    def make_worker(place: TopicPartition) -> Passing:
        return Passing(topics.out, swell if place.topic == stuck else None)

    async def is_told() -> bool:
        return f"{stuck}/0 stands still at offset 0, for what is made from there on has" in caplog.text

    await topics.send(stuck, "a")
    # Were it left open, no reader of committed records would come past it.
    monkeypatch.setattr(transactions, "TIMEOUT_MS", 600_000)
    monkeypatch.setattr(pipeline, "_TOO_LARGE_AGAIN_S", 600.0)
    async with running(topics.pipeline(good, stuck, make_worker=make_worker)):
        await eventually(is_told, what="the sentence")
        await topics.send(good, "b")
        await topics.arrives("b")

    monkeypatch.setattr(pipeline, "_TOO_LARGE_AGAIN_S", 0.1)
    async with running(topics.pipeline(good, stuck, make_worker=make_worker)):
        await topics.arrives("b", "c", "small")


async def test_what_is_too_large_together_goes_in_smaller_batches_and_dead_letters_are_cut(
    topics: Topics, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"max.message.bytes": "20000"}
    source, small = (
        await topics.create(f"in-{topics.name}"),
        await topics.create(f"small-{topics.name}", **config),
    )
    letters = await topics.create(f"letters-{topics.name}", **config)
    monkeypatch.setattr(bus, "DEADLETTER", replace(DEADLETTER, name=letters))
    large = os.urandom(100_000).hex()

    def work(batch: Sequence[Any]) -> list[Outgoing]:
        reason = Reason(code="late", message="it came late")
        return [
            each
            for record in batch
            for each in (
                bus.dead_letter(record, service="test", source="trips", reasons=[reason]),
                *(Outgoing(small, None, record.value[:1_000], partition=0) for _ in range(40)),
            )
        ]

    async def told() -> list[DeadLetter]:
        found = [DEADLETTER.decode(each.encode()) for each in await topics.read(letters)]
        return found if len(found) == 2 else []

    await topics.send(source, large)
    async with running(topics.pipeline(source, make_worker=lambda _: Passing(small, work))):
        await topics.send(source, "next")
        first, last = await eventually(told, what="both letters")

    assert (first.payload, last.payload) == (large[:8_192].encode(), b"next")
    assert [each.message for each in first.reasons] == [
        "it came late",
        "only the first 128 of the 200,000 bytes of its key are kept",
        "only the first 8,192 of the 200,000 bytes of its payload are kept",
    ]
    assert await topics.read(small) == [large[:1_000]] * 40 + ["next"] * 40
    assert "stands still" not in caplog.text


async def test_topics_that_change_while_records_flow_lose_and_repeat_nothing(topics: Topics) -> None:
    first = await topics.create(f"in-{topics.name}")
    others = [await topics.create(f"in{number}-{topics.name}") for number in range(3)]
    pipeline = topics.pipeline(first)
    values = [f"{number:05}" for number in range(6_000)]
    async with running(pipeline), asyncio.TaskGroup() as tasks:

        async def send_all() -> None:
            for start in range(0, len(values), 100):
                await topics.send(first, *values[start : start + 100])

        sending = tasks.create_task(send_all())
        wanted = [first]
        for other in others:
            wanted.append(other)
            before = len(await topics.read(topics.out))
            pipeline.set_topics(wanted)

            async def goes_on(before: int = before) -> bool:
                return sending.done() or len(await topics.read(topics.out)) > before + 200

            await eventually(goes_on, what="records")
        await sending
        await topics.arrives(*values)
        pipeline.set_topics([])


async def test_a_worker_that_fails_ends_the_pipeline_before_the_record(topics: Topics) -> None:
    source = await topics.create(f"in-{topics.name}")
    await topics.send(source, "a")

    def fail(records: Sequence[Any]) -> list[Outgoing]:
        raise ValueError(f"cannot do {records[0].value!r}")

    broken = topics.pipeline(source, make_worker=lambda _: Passing(topics.out, fail))
    with pytest.raises(Broken, match=f"{source}/0 from offset 0: ValueError: cannot do b'a'"):
        await asyncio.wait_for(broken.run(), 60)

    async with running(topics.pipeline(source)):
        await topics.arrives("a")


async def test_a_worker_that_lacks_something_for_a_while_tries_again(topics: Topics) -> None:
    source = await topics.create(f"in-{topics.name}")
    await topics.send(source, "a")
    tries = 0

    def second_time(records: Sequence[Any]) -> list[Outgoing]:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Unavailable("not now")
        return [Outgoing(topics.out, None, record.value, partition=0) for record in records]

    async with running(topics.pipeline(source, make_worker=lambda _: Passing(topics.out, second_time))):
        await topics.arrives("a")


async def test_a_kafka_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    kafka = Kafka(tmp_path / "kafka", ports.choose(set()))
    topics = Topics(kafka.servers)
    source = f"in-{topics.name}"
    async with running(topics.pipeline(source)) as task:
        try:
            await asyncio.to_thread(kafka.start)
            await topics.create(topics.out)
            await topics.create(source)
            await topics.send(source, "a")
            await topics.arrives("a")
            kafka.kill()
            assert not task.done()
        finally:
            kafka.kill()


async def test_reading_a_partition_ends_at_markers_aborted_transactions_and_nothing(topics: Topics) -> None:
    assert await topics.read(topics.out) == []
    producer = AIOKafkaProducer(bootstrap_servers=topics.servers, transactional_id=f"test-{topics.name}")
    await producer.start()
    async with producer.transaction():
        await producer.send(topics.out, b"committed", partition=0)
    assert await topics.read(topics.out) == ["committed"]
    await producer.begin_transaction()
    await producer.send_and_wait(topics.out, b"aborted", partition=0)
    await producer.abort_transaction()
    await producer.stop()

    assert await topics.read(topics.out) == ["committed"]
    assert await topics.read(topics.out, offset=3) == []


async def test_reading_a_partition_waits_for_a_transaction_that_is_open_there(topics: Topics) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=topics.servers, transactional_id=f"test-{topics.name}")
    await producer.start()
    await producer.begin_transaction()
    await producer.send_and_wait(topics.out, b"open", partition=0)
    await topics.send(topics.out, "behind")
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(topics.read(topics.out))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(reading), 0.5)
        await producer.commit_transaction()
    await producer.stop()

    assert reading.result() == ["open", "behind"]


async def test_reading_a_compacted_partition_ends(topics: Topics) -> None:
    eager = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01", "segment.ms": "100"}
    state = await topics.create(f"state-{topics.name}", **eager, **{"max.compaction.lag.ms": "100"})
    for _ in range(5):
        await topics.send(state, "a", "b", "c", "a", "b", "c")

    assert set(await topics.read(state)) == {"a", "b", "c"}


async def test_a_partition_that_does_not_exist_is_unavailable(topics: Topics) -> None:
    with pytest.raises(Unavailable, match="nowhere/0 cannot be read"):
        await topics.read("nowhere")


async def test_a_partition_whose_needs_are_away_is_held_back_with_its_worker_and_others_go_on(
    topics: Topics, caplog: pytest.LogCaptureFixture
) -> None:
    held, free = await topics.create(f"held-{topics.name}"), await topics.create(f"free-{topics.name}")
    there, made = asyncio.Event(), list[Needing]()

    def make_worker(place: TopicPartition) -> Passing:
        if place.topic == free:
            return Passing(topics.out)
        made.append(Needing(topics.out, there))
        return made[-1]

    async def asked_again() -> bool:
        return bool(made) and made[-1].asked > 2

    await topics.send(held, "a", "b")
    async with running(topics.pipeline(held, free, make_worker=make_worker)):
        await topics.send(free, "c")
        await topics.arrives("c")
        await eventually(asked_again, what="another try")
    there.set()  # and it was closed while it waited
    async with running(topics.pipeline(held, free, make_worker=make_worker)):
        await topics.arrives("c", "a", "b")

    assert len(made) == 2
    assert "is held back, and tries again in 0.1 s: it is away" in caplog.text


async def test_a_worker_that_fails_before_a_batch_breaks_its_stage(topics: Topics) -> None:
    source = await topics.create(f"in-{topics.name}")
    await topics.send(source, "poison")
    pipeline = topics.pipeline(source, make_worker=lambda _: Needing(topics.out, asyncio.Event()))

    with pytest.raises(Broken, match=rf"{source}/0 from offset 0: LookupError: nobody knows this one"):
        await pipeline.run()
