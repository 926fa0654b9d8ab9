"""News of a change, kept with the change: the outbox, and its twin the inbox.

`put` writes a record in the transaction of the change, so both happen or neither.
One relay at a time (an advisory lock) publishes what is unsent, in order, and marks
it sent after Kafka has it: a crash between the two sends again under the same id.
`first_sight` tells a redelivered record from a new one, in the effect's transaction.

A service that uses this module has both tables in its schema: see `TABLES`.
"""

import asyncio
import json
import logging
from collections.abc import Sequence

import asyncpg
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from trimtab_runtime import records
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.postgres import Connection, outages
from trimtab_runtime.records import Outgoing

log = logging.getLogger(__name__)

TABLES = """
CREATE TABLE outbox (
    sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    key bytea,
    value bytea,
    headers jsonb NOT NULL
);
CREATE TABLE inbox (
    id text PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now()
);
"""
"""What a service's first migration holds, to be copied there."""
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
    """Publish the outbox of `schema` until cancelled, while no other process does."""
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
                while await _publish_some(connection, producer):
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


async def _publish_some(connection: Connection, producer: AIOKafkaProducer, most: int = 500) -> bool:
    rows = await connection.fetch("SELECT * FROM outbox ORDER BY sequence LIMIT $1", most)
    if not rows:
        return False
    await records.send_all(
        producer,
        [
            Outgoing(
                row["topic"],
                row["key"],
                row["value"],
                [(n, v.encode()) for n, v in json.loads(row["headers"])],
            )
            for row in rows
        ],
    )
    await connection.execute(
        "DELETE FROM outbox WHERE sequence = ANY($1::bigint[])", [row["sequence"] for row in rows]
    )
    return True
