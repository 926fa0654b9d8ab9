"""What the registry told last, held against what it keeps.

PostgreSQL decides. Where the last record of a spec or a deployment is missing, of
somebody else or of an earlier time, the registry tells it again when it starts.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import Message
from trimtab_contracts import topics
from trimtab_runtime.follow import Follower

from trimtab_registry import messages
from trimtab_registry.usecases.ports import Store

log = logging.getLogger(__name__)

LastWords = Mapping[tuple[str, str], Message]
"""The last message by topic and key."""

_TOPICS: dict[str, topics.Topic[Any]] = {topic.name: topic for topic in (topics.SPECS, topics.DEPLOYMENTS)}


async def last_words(servers: str) -> LastWords:
    """Read what was told last on the topics that keep the last word."""
    found: dict[tuple[str, str], Message] = {}

    async def hear(topic: str, _: int, batch: Sequence[Any]) -> None:
        for raw in batch:
            place = (topic, (raw.key or b"").decode(errors="replace"))
            found.pop(place, None)
            try:
                if raw.value is not None:
                    found[place] = _TOPICS[topic].decode(raw.value)
            except topics.Undecodable as error:
                log.warning("the last word on %s is nobody's: %s", place, error)

    follower = Follower(servers, list(_TOPICS), hear)
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(follower.run())
        await follower.caught_up()
        reading.cancel()
    return found


async def heal(store: Store, told: LastWords) -> list[str]:
    """Tell again what was not told last, and return what that was, as topic/key."""
    healed = []
    specs = await store.resources()
    for topic, key in told:
        if topic == topics.SPECS.name and key not in {held.key for held in specs}:
            kind, _, name = key.partition("/")
            history = await store.generations(kind, name)
            if history and history[-1].deleted:
                async with store.begin() as unit:
                    await unit.publish(history[-1])
                healed.append(f"{topic}/{key}")
    for applied in specs:
        if told.get((topics.SPECS.name, applied.key)) != messages.resource(applied):
            async with store.begin() as unit:
                await unit.publish(applied)
            healed.append(f"{topics.SPECS.name}/{applied.key}")
    for standing in await store.standings():
        versions = await store.named_by(standing)
        if told.get((topics.DEPLOYMENTS.name, standing.model)) != messages.deployment(standing, versions):
            async with store.begin() as unit:
                await unit.announce(await unit.lock(standing.model))
            healed.append(f"{topics.DEPLOYMENTS.name}/{standing.model}")
    return healed
