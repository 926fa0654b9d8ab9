"""Kafka door of monitoring, where little comes: the steps of loops, and what is wanted to serve."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from trimtab_contracts import topics
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Alert, Metric
from trimtab_contracts.registry.v1.registry_pb2 import Deployment, VersionEvent
from trimtab_contracts.topics import Undecodable
from trimtab_contracts.training.v1.training_pb2 import RetrainCommand, RunEvent
from trimtab_core.watched import Standing
from trimtab_runtime.bus import Subscription, each
from trimtab_runtime.follow import Follower
from trimtab_runtime.records import Record

from trimtab_monitoring import messages
from trimtab_monitoring.usecases.alerting import Alerting
from trimtab_monitoring.usecases.entities import Version
from trimtab_monitoring.usecases.flowing import Flowing
from trimtab_monitoring.usecases.ledger import Ledger

FOLLOWS = (topics.DEPLOYMENTS,)

log = logging.getLogger(__name__)

OnVersions = Callable[[Sequence[Version]], Awaitable[None]]
OnStandings = Callable[[Sequence[str]], Awaitable[None]]


def subscriptions(
    ledger: Ledger, wake: Callable[[str], None], alerting: Alerting, flowing: Flowing
) -> list[Subscription[Any]]:
    """List what the monitors share; `wake` is called with the model of which something became known, whoever owns it: it is rare."""

    async def commanded(command: RetrainCommand, _: Record[RetrainCommand]) -> None:
        await ledger.commanded(messages.command(command))

    async def ran(event: RunEvent, _: Record[RunEvent]) -> None:
        if (news := messages.run_news(event)) is not None:
            await ledger.ran(news)

    async def staged(event: VersionEvent, _: Record[VersionEvent]) -> None:
        await ledger.staged(messages.stage_news(event))
        wake(event.model)

    async def alerted(alert: Alert, _: Record[Alert]) -> None:
        await alerting.heard(messages.raised(alert))

    async def measured(batch: Sequence[Record[Metric]]) -> None:
        heard = [record.message for record in batch]
        came = [it for message in heard if (it := messages.came(message)) is not None]
        figures = [figure for message in heard if (figure := messages.figure(message)) is not None]
        if came or figures:
            await flowing.heard(came, figures)

    return [
        each(topics.COMMANDS_RETRAIN, commanded),
        each(topics.RUNS, ran),
        each(topics.VERSIONS, staged),
        each(topics.ALERTS, alerted),
        Subscription(topics.METRICS_QUALITY, measured),
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
        standings = dict(self._standings)
        for record in records:
            if record.value is None:
                standings.pop(record.key.decode(), None)
            elif (deployment := _read(record)) is not None:
                await self._on_versions(messages.versions(deployment))
                held = standings.get(deployment.model)
                if held is None or held.generation <= deployment.generation:
                    standings[deployment.model] = messages.standing(deployment)
        changed = [name for name, standing in standings.items() if standing != self._standings.get(name)]
        self._standings = standings
        await self._on_standings(changed)


def _read(record: Any) -> Deployment | None:
    try:
        return topics.DEPLOYMENTS.decode(record.value)
    except Undecodable as error:
        # One unreadable record must not keep all other models from being watched.
        log.error("deployment %s at offset %d cannot be read: %s", record.key, record.offset, error)
        return None
