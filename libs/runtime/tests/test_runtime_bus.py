"""What becomes of records: effects, retries and dead letters, on a real Kafka and PostgreSQL."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from trimtab_contracts import topics
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Alert
from trimtab_contracts.topics import Topic
from trimtab_runtime import bus, outbox, records
from trimtab_runtime.admin import administering, ensure_topics
from trimtab_runtime.errors import Rejected, Unavailable
from trimtab_runtime.follow import Follower
from trimtab_runtime.records import Record
from trimtab_runtime.testing import eventually

pytestmark = pytest.mark.real


@pytest.fixture
async def topic(kafka_servers: str) -> Topic[Alert]:
    """A topic of its own, one partition, that carries alerts."""
    own = replace(topics.ALERTS, name=f"alerts-{uuid.uuid4().hex[:8]}", partitions=1)
    await ensure_topics(kafka_servers, [own, topics.DEADLETTER])
    return own


@pytest.fixture
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what fails tried again at once."""
    monkeypatch.setattr(bus, "_BACKOFF_S", (0.01,) * len(bus._BACKOFF_S))


async def send(servers: str, topic: Topic[Alert], *sentences: str | bytes) -> None:
    producer = await bus.start_producer(servers)
    try:
        for text in sentences:
            value = text if isinstance(text, bytes) else topic.encode(Alert(sentence=text))
            await producer.send_and_wait(topic.name, value=value, key=b"k")
    finally:
        await producer.stop()


@asynccontextmanager
async def running(*work: Awaitable[None]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(each) for each in work]  # noqa: TID251 - a test's own
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def taking(servers: str, most: int) -> str:
    """Make a topic of one partition that takes records of `most` bytes, and return its name."""
    name = f"small-{uuid.uuid4().hex[:8]}"
    async with administering(servers) as admin:
        await admin.create_topics([NewTopic(name, 1, 1, topic_configs={"max.message.bytes": str(most)})])
    return name


async def dead_letters(servers: str, topic: str, on: str = topics.DEADLETTER.name) -> list[Any]:
    """Return those of the records of `topic`."""
    found: list[Any] = []

    async def hear(_: str, __: int, batch: Any) -> None:
        found.extend(topics.DEADLETTER.decode(record.value) for record in batch)

    follower = Follower(servers, [on], hear)
    async with running(follower.run()):
        await asyncio.wait_for(follower.caught_up(), 60)
    return [letter for letter in found if letter.topic == topic]


def listen(
    servers: str, topic: Topic[Alert], handler: Callable[[Alert, Record[Alert]], Awaitable[None]]
) -> Any:
    return bus.consume(servers, f"group-{topic.name}", [bus.each(topic, handler)])


async def test_a_refused_record_is_a_dead_letter_and_the_stream_goes_on(
    kafka_servers: str, topic: Topic[Alert]
) -> None:
    heard: list[str] = []

    async def handler(alert: Alert, _: Record[Alert]) -> None:
        if alert.sentence == "bad":
            raise Rejected("this alert is bad: send a good one")
        heard.append(alert.sentence)

    await send(kafka_servers, topic, "one", "bad", b"{rubbish", "two")
    async with running(listen(kafka_servers, topic, handler)):
        await eventually(lambda: _true(heard[-1:] == ["two"]), what="the record after the bad ones")

    letters = await dead_letters(kafka_servers, topic.name)
    assert [(letter.offset, letter.reasons[0].code) for letter in letters] == [
        (2, "undecodable"),
        (1, "rejected"),
    ]
    assert letters[0].payload == b"{rubbish"


@pytest.mark.usefixtures("in_haste")
async def test_an_outage_is_waited_out_and_never_a_dead_letter(
    kafka_servers: str, topic: Topic[Alert]
) -> None:
    failures = iter([Unavailable("the database is away")] * 7)
    heard: list[str] = []

    async def handler(alert: Alert, _: Record[Alert]) -> None:
        for error in failures:
            raise error
        heard.append(alert.sentence)

    await send(kafka_servers, topic, "patience")
    async with running(listen(kafka_servers, topic, handler)):
        await eventually(lambda: _true(heard == ["patience"]), what="the record once the outage is over")

    assert await dead_letters(kafka_servers, topic.name) == []


@pytest.mark.usefixtures("in_haste")
async def test_a_fault_is_tried_again_and_then_a_dead_letter_whatever_outages_came_before(
    kafka_servers: str, topic: Topic[Alert]
) -> None:
    errors: list[Exception] = [Unavailable("the database is away")] * 6 + [ValueError("passes")] * 4
    heard: list[str] = []

    async def handler(alert: Alert, _: Record[Alert]) -> None:
        if alert.sentence == "never":
            raise ZeroDivisionError("stays")
        if errors:
            raise errors.pop(0)
        heard.append(alert.sentence)

    await send(kafka_servers, topic, "at last")
    async with running(listen(kafka_servers, topic, handler)):
        await eventually(lambda: _true(heard == ["at last"]), what="the record whose fault passed")
        await send(kafka_servers, topic, "never", "next")
        await eventually(lambda: _true(heard == ["at last", "next"]), what="the record after the faulty one")

    (letter,) = await dead_letters(kafka_servers, topic.name)
    assert (letter.offset, letter.reasons[0].code) == (1, "failed")
    assert letter.reasons[0].message == "ZeroDivisionError: stays"


async def test_a_partition_that_waits_holds_up_no_other(kafka_servers: str) -> None:
    two = replace(topics.ALERTS, name=f"alerts-{uuid.uuid4().hex[:8]}", partitions=2)
    await ensure_topics(kafka_servers, [two])
    is_away, heard = True, list[str]()

    async def handler(alert: Alert, record: Record[Alert]) -> None:
        if is_away and record.partition == 0:
            raise Unavailable("what partition 0 leans on is down")
        heard.append(alert.sentence)

    producer = await bus.start_producer(kafka_servers)
    async with running(listen(kafka_servers, two, handler)):
        for number in range(3):
            for partition in (0, 1):
                value = two.encode(Alert(sentence=f"{partition}/{number}"))
                await producer.send_and_wait(two.name, value=value, partition=partition)
            await eventually(lambda last=f"1/{number}": _true(heard[-1:] == [last]), what="partition 1")
        is_away = False
        await eventually(lambda: _true(heard[3:] == ["0/0", "0/1", "0/2"]), what="partition 0, in order")
    await producer.stop()


async def test_the_dead_letter_of_a_huge_record_is_cut_until_the_broker_takes_it(
    kafka_servers: str, topic: Topic[Alert], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = await taking(kafka_servers, 100_000)
    monkeypatch.setattr(bus, "DEADLETTER", replace(topics.DEADLETTER, name=small))
    heard: list[str] = []

    async def handler(alert: Alert, _: Record[Alert]) -> None:
        heard.append(alert.sentence)

    huge = os.urandom(3_000_000)
    await send(kafka_servers, topic, huge, b"{rubbish", "next")
    async with running(listen(kafka_servers, topic, handler)):
        await eventually(lambda: _true(heard == ["next"]), what="the record after the huge one")

    first, second = await dead_letters(kafka_servers, topic.name, small)
    assert (first.payload, second.payload) == (huge[:65_536], b"{rubbish")
    assert first.reasons[1].message == "only the first 65,536 of the 3,000,000 bytes of its payload are kept"


async def test_offsets_follow_effects(kafka_servers: str, topic: Topic[Alert]) -> None:
    heard: list[str] = []

    async def never_done(alert: Alert, _: Record[Alert]) -> None:
        heard.append(alert.sentence)
        await asyncio.Event().wait()

    async def handler(alert: Alert, _: Record[Alert]) -> None:
        heard.append(alert.sentence)

    await send(kafka_servers, topic, "once")
    async with running(listen(kafka_servers, topic, never_done)):
        await eventually(lambda: _true(heard == ["once"]))
    async with running(listen(kafka_servers, topic, handler)):
        await eventually(lambda: _true(heard == ["once", "once"]), what="the record whose effect was cut off")


async def test_a_follower_is_caught_up_at_the_end_and_reads_on(
    kafka_servers: str, topic: Topic[Alert]
) -> None:
    heard: list[str] = []

    async def hear(_: str, __: int, batch: Any) -> None:
        heard.extend(topic.decode(record.value).sentence for record in batch)

    await send(kafka_servers, topic, "a", "b")
    follower = Follower(kafka_servers, [topic.name], hear)
    async with running(follower.run()):
        await asyncio.wait_for(follower.caught_up(), 60)
        assert heard == ["a", "b"]
        await send(kafka_servers, topic, "c")
        await eventually(lambda: _true(heard == ["a", "b", "c"]))


async def test_a_topic_that_does_not_exist_yet_is_waited_for_and_holds_up_no_other(
    kafka_servers: str, topic: Topic[Alert]
) -> None:
    heard: list[str] = []
    later = replace(topics.ALERTS, name=f"later-{uuid.uuid4().hex[:8]}", partitions=1)

    async def hear(_: str, __: int, batch: Any) -> None:
        heard.extend(later.decode(record.value).sentence for record in batch)

    follower = Follower(kafka_servers, [later.name], hear)
    async with running(follower.run()):
        follower.set_topics([topic.name, later.name])
        caught_up = asyncio.ensure_future(follower.caught_up())  # noqa: TID251 - a test's own
        for sentence in ("one", "two"):
            await send(kafka_servers, topic, sentence)
            await eventually(lambda said=sentence: _true(heard[-1:] == [said]))
        assert not caught_up.done()

        await ensure_topics(kafka_servers, [later])
        await send(kafka_servers, later, "at last")
        await asyncio.wait_for(caught_up, 60)
        await eventually(lambda: _true(heard == ["one", "two", "at last"]))


async def test_news_leave_in_order_and_only_with_their_change(
    kafka_servers: str, postgres_dsn: str, topic: Topic[Alert]
) -> None:
    schema = f"s{uuid.uuid4().hex[:8]}"
    pool = await asyncpg.create_pool(
        postgres_dsn, server_settings={"search_path": schema}, min_size=1, max_size=3
    )
    producer = await bus.start_producer(kafka_servers)
    heard: list[str] = []

    async def hear(_: str, __: int, batch: Any) -> None:
        heard.extend(topic.decode(record.value).sentence for record in batch)

    def news(sentence: str) -> records.Outgoing:
        return records.outgoing(
            topic, Alert(sentence=sentence), key="k", id=sentence, source="test", time_ms=1
        )

    async with pool, running(Follower(kafka_servers, [topic.name], hear).run()):
        await pool.execute(f"CREATE SCHEMA {schema}; {outbox.TABLES}")
        async with running(outbox.relay(pool, producer, schema=schema)):
            for number in range(20):
                async with pool.acquire() as connection, connection.transaction():
                    assert await outbox.first_sight(connection, f"id-{number}")
                    await outbox.put(connection, [news(f"kept {number}")])
            async with pool.acquire() as connection:
                change = connection.transaction()
                await change.start()
                assert not await outbox.first_sight(connection, "id-0")
                await outbox.put(connection, [news("undone")])
                await change.rollback()
            await eventually(lambda: _true(len(heard) >= 20))
    await producer.stop()

    assert heard == [f"kept {number}" for number in range(20)]


async def test_news_too_large_for_kafka_are_set_aside_and_told_and_the_others_go_on_in_order(
    kafka_servers: str, postgres_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    await ensure_topics(kafka_servers, [topics.METRICS_QUALITY])
    name, schema = await taking(kafka_servers, 100_000), f"s{uuid.uuid4().hex[:8]}"
    heard, told = [], []
    large = os.urandom(150_000)

    async def hear(of: str, _: int, batch: Any) -> None:
        if of == name:
            heard.extend(record.value for record in batch)
        else:
            told.extend(topics.METRICS_QUALITY.decode(record.value) for record in batch)

    async def left() -> list[Any]:
        rows = await pool.fetch("SELECT value, refused FROM outbox ORDER BY sequence")
        return rows if len(rows) == 1 and told else []

    async with (
        asyncpg.create_pool(
            postgres_dsn, server_settings={"search_path": schema}, min_size=1, max_size=2
        ) as pool,
        bus.open_producer(kafka_servers) as producer,
        running(Follower(kafka_servers, [name, topics.METRICS_QUALITY.name], hear).run()),
    ):
        await pool.execute(f"CREATE SCHEMA {schema}; {outbox.TABLES}")
        async with pool.acquire() as connection, connection.transaction():
            values = [b"a", b"b", large, b"c", large[:90_000], b"d"]
            await outbox.put(connection, [records.Outgoing(name, b"k", value) for value in values])
        async with running(outbox.relay(pool, producer, schema=schema)):
            [row] = await eventually(left, what="the one that is set aside, and the news of it")
            assert (row["value"], row["refused"]) == (large, f"{name} takes no record of 150000 bytes")
            assert (
                f"{schema}.outbox: the record of sequence 3 is set aside, for {row['refused']}" in caplog.text
            )
            assert [(metric.model, metric.name, metric.value) for metric in told] == [
                (f"{schema}.outbox", "set_aside", 1)
            ]
            await eventually(
                lambda: _true(heard == [b"a", b"b", b"c", large[:90_000], b"d"]), what="the others"
            )

            async with administering(kafka_servers) as admin:
                await admin.alter_configs(
                    [ConfigResource(ConfigResourceType.TOPIC, name, {"max.message.bytes": "200000"})]
                )

            async def sent_again() -> bool:
                await pool.execute("UPDATE outbox SET refused = NULL")  # the topic may not take it at once
                return heard[5:] == [large]

            await eventually(sent_again, what="what the topic takes by now")


async def _true(value: bool) -> bool:
    return value
