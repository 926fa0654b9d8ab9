"""Kafka door of the registry: runs and verdicts as a group, what serving reports as everyone.

A report of serving is acted on as soon as it is read, but only once all older ones
have been: what an instance said last is what counts.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from trimtab_contracts import topics
from trimtab_contracts.monitoring.v1 import monitoring_pb2 as monitoring
from trimtab_contracts.training.v1.training_pb2 import RunEvent
from trimtab_runtime import admin
from trimtab_runtime.bus import Subscription, each
from trimtab_runtime.errors import Rejected, Unavailable
from trimtab_runtime.follow import Follower
from trimtab_runtime.records import Record

from trimtab_registry import messages
from trimtab_registry.usecases.candidates import Candidates
from trimtab_registry.usecases.ports import Need
from trimtab_registry.usecases.trials import Fleet, Trials

log = logging.getLogger(__name__)

FOLLOWS = (topics.SERVING_STATUS,)
_FAMILIES: Mapping[str, Sequence[topics.Topic[Any]]] = {
    "Source": (topics.RAW, topics.EVENTS, topics.SEEN, topics.SCORES),
    "FeatureView": (topics.KEYED, topics.FEATURES),
    "Table": (topics.TABLES,),
}


def subscriptions(candidates: Candidates, trials: Trials) -> list[Subscription[Any]]:
    """List what the registries share."""

    async def run_ended(event: RunEvent, _: Record[RunEvent]) -> None:
        if event.status == RunEvent.SUCCEEDED:
            await candidates.consider(messages.finished_run(event))
        elif event.status == RunEvent.CANCELLED:
            await candidates.note_cancelled(messages.cancelled_run(event))

    async def judged(verdict: monitoring.Verdict, _: Record[monitoring.Verdict]) -> None:
        if verdict.outcome == monitoring.Verdict.OUTCOME_UNSPECIFIED:
            raise Rejected(f"verdict {verdict.id!r} has no outcome: say which")
        await trials.judge(messages.verdict(verdict))

    return [each(topics.RUNS, run_ended), each(topics.VERDICTS, judged)]


class StatusDoor:
    """Hears `serving.status`."""

    def __init__(self, fleet: Fleet, trials: Trials) -> None:
        self._fleet = fleet
        self._trials = trials
        self._is_current = False

    def follower(self, servers: str) -> Follower:
        """Return the follower that hears it; run it as a task."""
        return Follower(servers, [topic.name for topic in FOLLOWS], self._hear)

    async def become_current(self) -> None:
        """Act on what was read so far, and from now on at once: call it when the follower has caught up."""
        self._is_current = True
        await self._observe(self._fleet.models())

    async def _hear(self, _: str, __: int, batch: Sequence[Any]) -> None:
        heard = dict.fromkeys(model for raw in batch if (model := self._note(raw)))
        if self._is_current:
            await self._observe(list(heard))

    def _note(self, raw: Any) -> str | None:
        """Take in one report and return its model."""
        if raw.value is None:
            model, _, instance = (raw.key or b"").decode(errors="replace").rpartition("@")
            self._fleet.forget(model, instance)
            return model
        try:
            status = messages.status(topics.SERVING_STATUS.decode(raw.value))
        except topics.Undecodable as error:
            log.error("a report of serving at offset %d cannot be read: %s", raw.offset, error)
            return None
        self._fleet.note(status)
        return status.model

    async def _observe(self, models: Sequence[str]) -> None:
        for model in models:
            while True:
                try:
                    await self._trials.observe(model)
                    break
                except Unavailable as error:
                    log.warning("what serving reports of %s waits: %s", model, error)
                    await asyncio.sleep(0.2)


async def provide_topics(servers: str, replication: int, needs: Sequence[Need]) -> None:
    """Create the topics of sources, views and tables that do not exist yet."""
    wanted = [
        family.named(need.name, partitions=need.partitions)
        for need in needs
        for family in _FAMILIES[need.kind]
    ]
    if wanted:
        await admin.ensure_topics(servers, wanted, replication=replication)
