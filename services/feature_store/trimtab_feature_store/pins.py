"""Which versions of tables are in use: those that remembered runs, or versions that serve, were trained on.

A run is remembered for as long as `runs` keeps it. A version that serves, is on trial
or is kept for a rollback says for itself what it was trained on, however old it is.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import TableVersion
from trimtab_contracts.training.v1.training_pb2 import RunEvent
from trimtab_runtime.clock import Clock, from_timestamp
from trimtab_runtime.follow import Follower

FOLLOWS = (topics.RUNS, topics.DEPLOYMENTS)
_RUNS_MS = topics.RUNS.retention_ms or 0
log = logging.getLogger(__name__)


class Pins:
    """The versions in use, as this process has read them."""

    def __init__(self, servers: str, clock: Clock) -> None:
        self._clock = clock
        self._runs: dict[str, tuple[int, frozenset[tuple[str, int]]]] = {}
        self._deployed: dict[str, frozenset[tuple[str, int]]] = {}
        self.follower = Follower(servers, [topic.name for topic in FOLLOWS], self.hear)
        """Run it as a task; before it has caught up, nothing may be taken for unused."""

    def of(self, table: str) -> set[int]:
        """Return the versions of a table that are in use."""
        since_ms = self._clock.now_ms() - _RUNS_MS
        self._runs = {run: held for run, held in self._runs.items() if held[0] >= since_ms}
        used = [*(tables for _, tables in self._runs.values()), *self._deployed.values()]
        return {version for tables in used for name, version in tables if name == table}

    async def hear(self, topic: str, _: int, batch: Sequence[Any]) -> None:
        """Take in raw records of `runs` and `deployments`."""
        for record in batch:
            try:
                if topic == topics.RUNS.name:
                    self._ran(topics.RUNS.decode(record.value or b""))
                else:
                    self._deployed_by(record)
            except topics.Undecodable as error:
                log.error("%s at offset %d is not understood: %s", topic, record.offset, error)

    def _ran(self, event: RunEvent) -> None:
        if event.status == RunEvent.SUCCEEDED:
            self._runs[event.run_id] = (from_timestamp(event.at), _named(event.candidate.tables))

    def _deployed_by(self, record: Any) -> None:
        model = (record.key or b"").decode(errors="replace")
        if record.value is None:
            self._deployed.pop(model, None)
            return
        told = topics.DEPLOYMENTS.decode(record.value)
        versions = (told.champion, told.challenger, *told.others, told.previous)
        self._deployed[model] = frozenset().union(*(_named(each.tables) for each in versions))


def _named(tables: Iterable[TableVersion]) -> frozenset[tuple[str, int]]:
    return frozenset((each.table, each.version) for each in tables)
