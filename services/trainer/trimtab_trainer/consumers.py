"""Kafka door of the trainer: commands in; and what is live, as everyone reads it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import Deployment
from trimtab_contracts.training.v1.training_pb2 import RetrainCommand
from trimtab_runtime.bus import Subscription, each
from trimtab_runtime.clock import from_timestamp
from trimtab_runtime.errors import NotFound
from trimtab_runtime.follow import Follower
from trimtab_runtime.records import Record

from trimtab_trainer.messages import registered
from trimtab_trainer.usecases.entities import Champion, Command, StoredFile
from trimtab_trainer.usecases.jobs import Jobs

FOLLOWS = (topics.DEPLOYMENTS,)
_SETTLE_S, _LOOK_S = 5.0, 0.1
"""That `specs` may be behind `commands.retrain`, and so often it is looked whether they still are."""
log = logging.getLogger(__name__)


def subscriptions(jobs: Jobs) -> list[Subscription[Any]]:
    """List what the trainers share."""

    async def ordered(command: RetrainCommand, _: Record[RetrainCommand]) -> None:
        given = Command(
            command.id,
            command.model,
            command.loop_id,
            command.trigger,
            from_timestamp(command.as_of),
            registered(command.registered) if command.HasField("registered") else None,
            from_timestamp(command.changed_at) if command.HasField("changed_at") else None,
        )
        for _try in range(int(_SETTLE_S / _LOOK_S)):
            with suppress(NotFound):
                await jobs.order(given)
                return
            await asyncio.sleep(_LOOK_S)
        await jobs.order(given)

    return [each(topics.COMMANDS_RETRAIN, ordered)]


class Deployments:
    """The live version of each model, as this process has read it from `deployments`."""

    def __init__(self, on_change: Callable[[], Awaitable[None]]) -> None:
        self._wanted: dict[str, Deployment] = {}
        self._on_change = on_change

    def follower(self, servers: str) -> Follower:
        """Return the follower that keeps this view; run it as a task."""
        return Follower(servers, [topic.name for topic in FOLLOWS], self._hear)

    def numbers(self, model: str) -> tuple[int, int]:
        """Return the numbers of a model's champion and challenger, 0 for none."""
        wanted = self._wanted.get(model, Deployment())
        return wanted.champion.number, wanted.challenger.number

    def champion(self, model: str) -> Champion | None:
        """Return a model's live version, or None where nothing is live yet."""
        deployment = self._wanted.get(model)
        if deployment is None or not deployment.HasField("champion"):
            return None
        live = deployment.champion
        return Champion(
            live.number,
            StoredFile(live.model.uri, live.model.digest, live.model.size),
            tuple(live.features),
            trained_to_ms=from_timestamp(live.trained_to),
            recipe=live.recipe,
            texts=tuple(live.texts),
        )

    async def _hear(self, _: str, __: int, records: Sequence[Any]) -> None:
        for record in records:
            if record.value is None:
                self._wanted.pop(record.key.decode(), None)
                continue
            try:
                deployment = topics.DEPLOYMENTS.decode(record.value)
            except topics.Undecodable as error:
                log.error("a deployment at offset %d cannot be read: %s", record.offset, error)
                continue
            held = self._wanted.get(deployment.model)
            if held is None or held.generation <= deployment.generation:
                self._wanted[deployment.model] = deployment
        await self._on_change()
