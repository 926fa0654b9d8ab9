"""How a member of a group comes to hear a Kafka that is there, or comes to be there.

A broker that has just begun, or is hard at work, can answer the first request for metadata with no brokers. aiokafka (0.14)
takes that for the end: it asserts in a task of its own, and the member fails with a bare `KafkaError`. To us it is Kafka that
is away, and is waited for as such.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError, MetadataEmptyBrokerList

from trimtab_runtime.lifecycle import finish

log = logging.getLogger(__name__)

AGAIN_AFTER_S = 0.5
_NO_BROKERS = ("Did we not perform bootstrap?", "'NoneType' object has no attribute 'nodeId'")


@contextmanager
def naming_no_brokers() -> Iterator[None]:
    """Have what aiokafka fails with while it knows of no broker, or no controller, be an error of Kafka's.

    Raises:
        MetadataEmptyBrokerList: it does not know any yet.
    """
    try:
        yield
    except (AssertionError, AttributeError) as error:
        if str(error) not in _NO_BROKERS:
            raise
        raise MetadataEmptyBrokerList("its metadata names no brokers yet") from error


def member(servers: str, group: str, *topics: str, **more: Any) -> AIOKafkaConsumer:
    """Return a member of a group, not started: it reads what is committed, from its group's offsets, and commits when it is told.

    One that has died is missed after 6 s; one that is at work on a batch may take 10 minutes over it. `more` are options beside.
    """
    options = {
        "session_timeout_ms": 6_000,
        "heartbeat_interval_ms": 1_000,
        "retry_backoff_ms": 50,
    }
    return AIOKafkaConsumer(
        *topics,
        bootstrap_servers=servers,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_poll_interval_ms=600_000,
        **options | more,
    )


@asynccontextmanager
async def started(make: Callable[[], AIOKafkaConsumer], service: str) -> AsyncIterator[AIOKafkaConsumer]:
    """Have a consumer that `make` makes, started however long Kafka is away, and stop it whole in the end."""
    while True:
        consumer = make()
        try:
            with naming_no_brokers():
                await consumer.start()
            break
        except KafkaError as error:
            await finish(consumer.stop())
            log.warning("%s waits for Kafka: %r", service, error)
            await asyncio.sleep(AGAIN_AFTER_S)
        except BaseException:
            await finish(consumer.stop())
            raise
    try:
        yield consumer
    finally:
        await finish(consumer.stop())
