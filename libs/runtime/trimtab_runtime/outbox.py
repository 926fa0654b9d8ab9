"""News of a change, kept with the change: the outbox, and its twin the inbox.

`put` writes a record in the transaction of the change, so both happen or neither.
One relay at a time (an advisory lock) publishes what is unsent, in order, and marks
it sent after Kafka has it: a crash between the two sends again under the same id.
What Kafka refuses as too large stays, marked with why, and what is behind it goes on.
`first_sight` tells a redelivered record from a new one, in the effect's transaction.

A service that uses this module has both tables in its schema: see `TABLES`.
"""

import asyncio
import json
import logging
from collections.abc import Sequence

import asyncpg
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Metric
from trimtab_contracts.topics import METRICS_QUALITY, MOST_BYTES, MOST_ROW_BYTES

from trimtab_runtime import records
from trimtab_runtime.clock import SystemClock, to_timestamp
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.postgres import Connection, outages
from trimtab_runtime.producing import Batch, all_ended, in_batches
from trimtab_runtime.records import Outgoing

log = logging.getLogger(__name__)

SET_ASIDE = "set_aside"
"""The metric that tells how many records an outbox keeps which Kafka has refused."""
_AT_ONCE = 500

TABLES = """
CREATE TABLE outbox (
    sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    key bytea,
    value bytea,
    headers jsonb NOT NULL,
    refused text
);
CREATE TABLE inbox (
    id text PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now()
);
"""
"""What a service's first migration holds, to be copied there; `refused` says why Kafka takes a record no more."""
_PUT = """
WITH news AS (
    INSERT INTO outbox (topic, key, value, headers)
    SELECT topic, key, value, headers
    FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::jsonb[]) WITH ORDINALITY AS item(topic, key, value, headers, place)
    ORDER BY place
)
SELECT pg_notify(current_schema() || '_outbox', '')
"""


async def put(connection: Connection, news: Sequence[Outgoing]) -> None:
    """Store `news` in the caller's transaction, and wake the relay when it commits."""
    if not news:
        return
    await connection.execute(
        _PUT,
        [item.topic for item in news],
        [item.key for item in news],
        [item.value for item in news],
        [json.dumps([[name, value.decode()] for name, value in item.headers]) for item in news],
    )


async def first_sight(connection: Connection, id: str) -> bool:
    """Remember `id` in the caller's transaction; False if it was there before."""
    found = await connection.fetchval(
        "INSERT INTO inbox (id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING id", id
    )
    return found is not None


async def relay(pool: asyncpg.Pool, producer: AIOKafkaProducer, *, schema: str) -> None:
    """Publish the outbox of `schema` until cancelled, while no other process does.

    A record that Kafka refuses as too large is set aside: it stays as it is, with why in `refused`, and those behind it go
    on, of the same key too. Whoever sets `refused` to NULL has it sent again.
    """
    while True:
        try:
            with outages():
                await _relay_while_connected(pool, producer, schema)
        except (Unavailable, KafkaError) as error:
            log.warning("the outbox waits: %s", error)
            await asyncio.sleep(0.5)


async def _relay_while_connected(pool: asyncpg.Pool, producer: AIOKafkaProducer, schema: str) -> None:
    woken = asyncio.Event()
    async with pool.acquire() as connection:
        lock = f"trimtab.{schema}.outbox"
        while not await connection.fetchval("SELECT pg_try_advisory_lock(hashtext($1))", lock):
            await asyncio.sleep(0.5)

        def wake(*_: object) -> None:
            woken.set()

        await connection.add_listener(f"{schema}_outbox", wake)
        try:
            while True:
                woken.clear()
                while await _publish_some(connection, producer, schema):
                    pass
                try:
                    async with asyncio.timeout(1.0):
                        await woken.wait()
                except TimeoutError:
                    await connection.fetchval("SELECT 1")  # notices a connection that has died
        finally:
            if not connection.is_closed():
                await connection.remove_listener(f"{schema}_outbox", wake)
                await connection.execute("SELECT pg_advisory_unlock_all()")


async def _publish_some(connection: Connection, producer: AIOKafkaProducer, schema: str) -> bool:
    rows = await connection.fetch(
        "SELECT * FROM outbox WHERE refused IS NULL ORDER BY sequence LIMIT $1", _AT_ONCE
    )
    if not rows:
        return False
    refused = await _send(producer, [_record(row) for row in rows])
    async with connection.transaction():
        await connection.execute(
            "DELETE FROM outbox WHERE sequence = ANY($1::bigint[])",
            [row["sequence"] for at, row in enumerate(rows) if at not in refused],
        )
        for at in sorted(refused):
            await _set_aside(connection, schema, rows[at])
    return True


def _record(row: asyncpg.Record) -> Outgoing:
    headers = [(name, value.encode()) for name, value in json.loads(row["headers"])]
    return Outgoing(row["topic"], row["key"], row["value"], headers)


async def _send(producer: AIOKafkaProducer, news: Sequence[Outgoing]) -> set[int]:
    """Send `news`, those of a partition in order, and return the places of those that Kafka refuses as too large."""
    refused: set[int] = set()

    async def send(target: TopicPartition, batches: Sequence[Batch]) -> None:
        # One at a time, so that nothing has overtaken what is refused with others and sent again alone.
        for batch in batches:
            first, *others = batch.places
            try:
                if _size(news[first]) > MOST_BYTES:
                    raise MessageSizeTooLargeError
                await (await producer.send_batch(batch.builder, target.topic, partition=target.partition))
            except MessageSizeTooLargeError:
                if others:
                    await send(target, [alone(place) for place in batch.places])
                else:
                    refused.add(first)

    def alone(place: int) -> Batch:
        batch = Batch(producer.create_batch())
        batch.takes(news[place], place, 0)
        return batch

    batches = await in_batches(producer, news, MOST_ROW_BYTES)
    await all_ended(*[send(target, each) for target, each in batches.items()])
    return refused


async def _set_aside(connection: Connection, schema: str, row: asyncpg.Record) -> None:
    """Mark a row as refused, and leave the news of it in the outbox, in the caller's transaction."""
    table, sequence, size = f"{schema}.outbox", row["sequence"], len(row["value"] or b"")
    why = f"{row['topic']} takes no record of {size} bytes"
    log.error(
        "%s: the record of sequence %d is set aside, for %s: see docs/runbooks/outbox.md",
        table,
        sequence,
        why,
    )
    await connection.execute("UPDATE outbox SET refused = $1 WHERE sequence = $2", why, sequence)
    if row["topic"] == METRICS_QUALITY.name:
        return  # which might refuse what is told of it too
    count = await connection.fetchval("SELECT count(*) FROM outbox WHERE refused IS NOT NULL")
    now_ms = SystemClock().now_ms()
    at = to_timestamp(now_ms)
    metric = Metric(
        id=f"{table}/{sequence}/{SET_ASIDE}",
        model=table,
        name=SET_ASIDE,
        value=count,
        window_from=at,
        window_to=at,
        rows=1,
    )
    await put(
        connection,
        [records.outgoing(METRICS_QUALITY, metric, key=table, id=metric.id, source=schema, time_ms=now_ms)],
    )


def _size(record: Outgoing) -> int:
    return len(record.key or b"") + len(record.value or b"")
