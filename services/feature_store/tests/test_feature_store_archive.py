"""The archive on a real Kafka: what is on the topics is in the tables, once."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from trimtab_contracts import topics
from trimtab_contracts.serving.v1.serving_pb2 import PredictionBatch
from trimtab_core.specs import Source, parse
from trimtab_feature_store import archive
from trimtab_feature_store.archive import Archive
from trimtab_feature_store.store import DeltaStore
from trimtab_runtime import bus, records
from trimtab_runtime.admin import ensure_topics
from trimtab_runtime.clock import SystemClock
from trimtab_runtime.records import Outgoing
from trimtab_runtime.specbook import SpecBook
from trimtab_runtime.testing import eventually

pytestmark = pytest.mark.real

WIDE = {"start_ms": 0, "end_ms": 10**12, "arrived_by_ms": 10**15}


def a_source(name: str) -> Source:
    fields = {"key": {"type": "string"}, "at": {"type": "timestamp"}, "value": {"type": "number"}}
    document = {
        "metadata": {"name": name},
        "spec": {"key": "key", "event_time": "at", "lateness": "1h", "fields": fields},
    }
    source = parse("Source", document)
    assert isinstance(source, Source)
    return source


def an_event(source: str, number: int, partition: int) -> Outgoing:
    headers = records.row_headers(
        id=f"raw.{source}/{partition}/{number}",
        source=source,
        event_time_ms=number * 1000,
        arrived_at_ms=number * 1000,
    )
    row = msgspec.json.encode({"key": f"k{number}", "at": "x", "value": number / 2})
    return Outgoing(topics.EVENTS.named(source).name, b"k", row, headers, partition)


def a_watermark(source: str, time_ms: int, partition: int) -> Outgoing:
    headers = records.watermark_headers(source=source, time_ms=time_ms, origin=partition, origins=2)
    return Outgoing(topics.EVENTS.named(source).name, None, b"", headers, partition)


class Setting:
    """A source of its own, with the topics and the tables that belong to it."""

    def __init__(self, servers: str, data_dir: Path, producer: AIOKafkaProducer) -> None:
        self.servers = servers
        self.producer = producer
        self.data_dir = data_dir
        self.source = a_source(f"a{uuid.uuid4().hex[:8]}")
        self.book = SpecBook()
        self.book.put(self.source)
        self.table = f"events/{self.source.name}"

    async def send(self, *sent: Outgoing) -> None:
        await records.send_all(self.producer, sent)

    @asynccontextmanager
    async def archiving(self) -> AsyncIterator[Archive]:
        """An archive of its own, as in a process that has just begun, with handles of its own."""
        running = Archive(self.servers, self.book, DeltaStore(self.data_dir), self.producer, SystemClock())
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(running.run())
            yield running
            task.cancel()

    def offsets(self) -> list[tuple[int, int]]:
        store = DeltaStore(self.data_dir)
        version = store.reach(self.table, 2).version
        found = store.read(self.table, ["partition", "offset"], version=version, **WIDE)
        return sorted(zip(found["partition"].to_pylist(), found["offset"].to_pylist(), strict=True))

    async def reached(self, time_ms: int) -> None:
        async def has() -> bool:
            return DeltaStore(self.data_dir).reach(self.table, 2).least() >= time_ms

        await eventually(has, what=f"archive of {self.source.name} at {time_ms}")


@pytest.fixture
async def setting(kafka_servers: str, tmp_path: Path) -> AsyncIterator[Setting]:
    producer = await bus.start_producer(kafka_servers)
    try:
        setting = Setting(kafka_servers, tmp_path, producer)
        await ensure_topics(
            kafka_servers, [*topics.STATIC, topics.EVENTS.named(setting.source.name, partitions=2)]
        )
        yield setting
    finally:
        await producer.stop()


async def test_every_event_is_archived_once_though_archives_stop_and_start(setting: Setting) -> None:
    name = setting.source.name
    expected: list[Any] = []
    for run in range(3):
        events = [an_event(name, run * 100 + i, i % 2) for i in range(100)]
        marks = [a_watermark(name, (run + 1) * 100_000, partition) for partition in (0, 1)]
        await setting.send(*events, *marks)
        async with setting.archiving() as archive_:
            with archive_.hurried([name]):
                await setting.reached((run + 1) * 100_000)
        expected += [(p, run * 51 + i) for p in (0, 1) for i in range(50)]

    assert setting.offsets() == sorted(expected)


async def test_two_archives_share_the_partitions_and_archive_each_row_once(setting: Setting) -> None:
    name = setting.source.name
    async with setting.archiving() as first, setting.archiving() as second:
        with first.hurried([name]), second.hurried([name]):
            for start in range(0, 400, 100):
                await setting.send(*(an_event(name, start + i, i % 2) for i in range(100)))
                await setting.send(
                    *(a_watermark(name, (start + 100) * 1000, partition) for partition in (0, 1))
                )
                await setting.reached((start + 100) * 1000)

        async def one_owns() -> bool:  # both let go for a moment while they share anew
            return sorted(each.owns(topics.EVENTS.named(name).name) for each in (first, second)) == [
                False,
                True,
            ]

        await eventually(one_owns, what="an owner of the topic's table")
    assert not any(each.owns(topics.EVENTS.named(name).name) for each in (first, second))
    assert len(setting.offsets()) == len(set(setting.offsets())) == 400


async def test_rows_that_kafka_gives_again_are_refused_by_the_table(setting: Setting) -> None:
    name = setting.source.name
    await setting.send(*(an_event(name, i, 0) for i in range(50)), *(a_watermark(name, 5, p) for p in (0, 1)))
    async with setting.archiving() as running:
        with running.hurried([name]):
            await setting.reached(5)
    await _forget_offsets(setting)
    await setting.send(
        *(an_event(name, i, 0) for i in range(50, 60)), *(a_watermark(name, 6, p) for p in (0, 1))
    )
    async with setting.archiving() as running:
        with running.hurried([name]):
            await setting.reached(6)

    assert len(setting.offsets()) == len(set(setting.offsets())) == 60


async def _forget_offsets(setting: Setting) -> None:
    """Have the group read everything again, as after a crash before the commit."""
    from aiokafka import AIOKafkaConsumer, TopicPartition

    consumer = AIOKafkaConsumer(
        bootstrap_servers=setting.servers, group_id=archive.GROUP, enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topics.EVENTS.named(setting.source.name).name, p) for p in (0, 1)])
        await consumer.commit(dict.fromkeys(consumer.assignment(), 0))
    finally:
        await consumer.stop()


async def test_a_table_in_trouble_holds_back_its_own_topic_only(setting: Setting) -> None:
    troubled = a_source(f"b{uuid.uuid4().hex[:8]}")
    await ensure_topics(setting.servers, [topics.EVENTS.named(troubled.name, partitions=2)])
    setting.book.put(troubled)
    blocked = setting.data_dir / "delta" / "events" / troubled.name
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where the table should be")
    name = setting.source.name
    sources = (name, troubled.name)
    await setting.send(*(an_event(s, i, 0) for s in sources for i in range(10)))
    await setting.send(*(a_watermark(s, 9, partition) for s in sources for partition in (0, 1)))

    async with setting.archiving() as running:
        with running.hurried(sources):
            await setting.reached(9)
            blocked.unlink()

            async def recovered() -> bool:
                return DeltaStore(setting.data_dir).reach(f"events/{troubled.name}", 2).least() >= 9

            await eventually(recovered, what="the troubled table")

    assert len(setting.offsets()) == 10


async def test_predictions_are_archived_and_rubbish_among_them_is_not(setting: Setting) -> None:
    model = setting.source.name
    topic = topics.PREDICTIONS.name
    batches = [
        PredictionBatch(
            model=model, id=f"i/{n}", ids=[f"{n}a", f"{n}b"], keys=["x", "y"], champion=[1.0, 2.0]
        )
        for n in range(3)
    ]
    payloads = [batch.SerializeToString() for batch in batches]
    await setting.send(
        *(Outgoing(topic, model.encode(), value, [], 0) for value in [*payloads, b"\xff", b""])
    )
    store = DeltaStore(setting.data_dir)

    async def archived() -> list[str]:
        version = store.reach("predictions", 1).version
        if version < 0:
            return []
        table = store._open("predictions", version)
        assert table is not None
        found = table.to_pyarrow_dataset().to_table().to_pylist()
        return sorted(row["id"] for row in found if row["model"] == model)

    async with setting.archiving():
        assert await eventually(archived) == ["0a", "0b", "1a", "1b", "2a", "2b"]


async def test_how_far_the_archive_has_come_is_told(setting: Setting) -> None:
    name = setting.source.name
    heard: dict[str, int] = {}

    async def hear(_: str, __: int, batch: Any) -> None:
        for record in batch:
            mark = topics.WATERMARKS.decode(record.value)
            heard[f"{mark.stage}/{mark.name}"] = mark.time.seconds

    from trimtab_runtime.follow import Follower

    follower = Follower(setting.servers, [topics.WATERMARKS.name], hear)
    async with setting.archiving() as running, asyncio.TaskGroup() as tasks:
        task = tasks.create_task(follower.run())
        with running.hurried([name]):
            await setting.send(a_watermark(name, 7_000, 0))
            await setting.send(a_watermark(name, 9_000, 1))

            async def told() -> bool:
                return heard.get(f"archive/{name}") == 7

            await eventually(told, what="archive watermark")
        task.cancel()
