"""Kafka door of monitoring, where little comes: the steps of loops, and what is wanted to serve."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import Deployment, VersionEvent
from trimtab_contracts.topics import Undecodable
from trimtab_contracts.training.v1.training_pb2 import RetrainCommand, RunEvent
from trimtab_runtime.bus import Subscription, each
from trimtab_runtime.follow import Follower
from trimtab_runtime.records import Record

from trimtab_monitoring import messages
from trimtab_monitoring.usecases.entities import Standing, Version
from trimtab_monitoring.usecases.ledger import Ledger

FOLLOWS = (topics.DEPLOYMENTS,)

log = logging.getLogger(__name__)

OnVersions = Callable[[Sequence[Version]], Awaitable[None]]
OnStandings = Callable[[Sequence[str]], Awaitable[None]]


def subscriptions(ledger: Ledger, wake: Callable[[str], None]) -> list[Subscription[Any]]:
    """List what the monitors share; `wake` is called with the model of which something became known."""

    async def commanded(command: RetrainCommand, _: Record[RetrainCommand]) -> None:
        await ledger.commanded(messages.command(command))

    async def ran(event: RunEvent, _: Record[RunEvent]) -> None:
        if (news := messages.run_news(event)) is not None:
            await ledger.ran(news)

    async def staged(event: VersionEvent, _: Record[VersionEvent]) -> None:
        await ledger.staged(messages.stage_news(event))
        wake(event.model)

    return [
        each(topics.COMMANDS_RETRAIN, commanded),
        each(topics.RUNS, ran),
        each(topics.VERSIONS, staged),
    ]


class Deployments:
    """Where each model stands, as this process has read it from `deployments`.

    A standing is shown only after its versions are stored, so that who sees it finds
    them.
    """

    def __init__(self, on_versions: OnVersions, on_standings: OnStandings) -> None:
        self._standings: dict[str, Standing] = {}
        self._on_versions = on_versions
        self._on_standings = on_standings

    def follower(self, servers: str) -> Follower:
        """Return the follower that keeps this view; run it as a task."""
        return Follower(servers, [topic.name for topic in FOLLOWS], self._hear)

    def standing(self, model: str) -> Standing | None:
        """Return where a model stands."""
        return self._standings.get(model)

    async def _hear(self, _: str, __: int, records: Sequence[Any]) -> None:
        told = [it for record in records if record.value is not None for it in _readable(record)]
        newest = {deployment.model: deployment for deployment in told if self._is_new(deployment)}
        await self._on_versions([version for deployment in told for version in messages.versions(deployment)])
        for record in records:
            if record.value is None:
                self._standings.pop(record.key.decode(), None)
        self._standings |= {name: messages.standing(deployment) for name, deployment in newest.items()}
        await self._on_standings(list(newest))

    def _is_new(self, deployment: Deployment) -> bool:
        held = self._standings.get(deployment.model)
        return held is None or held.generation <= deployment.generation


def _readable(record: Any) -> list[Deployment]:
    try:
        return [topics.DEPLOYMENTS.decode(record.value)]
    except Undecodable as error:
        # One unreadable record must not keep all other models from being watched.
        log.error("deployment %s at offset %d cannot be read: %s", record.key, record.offset, error)
        return []
