"""Makes Kafka's topics as the table says; asking twice changes nothing."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code
from trimtab_contracts.topics import Topic

from trimtab_runtime.errors import Unavailable
from trimtab_runtime.lifecycle import finish

_PATIENCE_S, _BETWEEN_S = 30.0, 0.05


async def ensure_topics(servers: str, topics: Sequence[Topic[Any]], *, replication: int = 1) -> None:
    """Create those of `topics` that do not exist.

    Raises:
        Unavailable: Kafka did not answer, or refused one of them.
    """
    try:
        async with administering(servers) as admin:
            new = [
                NewTopic(topic.name, topic.partitions, replication, topic_configs=topic.config)
                for topic in topics
            ]
            response = await admin.create_topics(new)
            for name, code, *rest in response.topic_errors:
                error = for_code(code)
                if code and error is not TopicAlreadyExistsError:
                    raise Unavailable(f"Kafka would not create topic {name}: {error.__name__} {rest}")
            await _until_led(admin, {topic.name for topic in topics})
    except KafkaError as error:
        raise Unavailable(f"Kafka at {servers} did not create topics: {error}") from error


@asynccontextmanager
async def administering(servers: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """Have a client that knows who makes topics and deletes them, and close it whole in the end.

    Raises:
        KafkaError: Kafka did not answer.
        Unavailable: it named no controller.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    try:
        await admin.start()
        await _until_controlled(admin)
        yield admin
    finally:
        await finish(admin.close())


async def _until_controlled(admin: AIOKafkaAdminClient) -> None:
    """Wait until the metadata names who makes topics: that of a broker that has just begun may name no brokers at all."""
    client = admin._client
    until = monotonic() + _PATIENCE_S
    while client.cluster.controller is None:
        if monotonic() > until:
            raise Unavailable(f"Kafka named no controller for {_PATIENCE_S:.0f} s")
        await client.force_metadata_update()
        await asyncio.sleep(_BETWEEN_S)


async def _until_led(admin: AIOKafkaAdminClient, names: set[str]) -> None:
    """Wait until every partition of `names` has a leader, so that the first produce does not stumble."""
    until = monotonic() + _PATIENCE_S
    while not await _are_led(admin, names):
        if monotonic() > until:
            raise Unavailable(f"Kafka has no leader for some of {sorted(names)} after {_PATIENCE_S:.0f} s")
        await asyncio.sleep(_BETWEEN_S)


async def _are_led(admin: AIOKafkaAdminClient, names: set[str]) -> bool:
    found = await admin.describe_topics(sorted(names))
    return all(t["error_code"] == 0 and all(p["leader"] >= 0 for p in t["partitions"]) for t in found)
