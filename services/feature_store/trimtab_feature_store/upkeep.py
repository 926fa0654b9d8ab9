"""What keeps the archive from growing for ever: rows past their time go, and versions that nobody uses.

One process at a time sees to a table: whoever archives the first partition of its
topic. Two that both think so, as in a rebalance, do no harm, for each step is one
commit of the table, and done again changes nothing.
"""

import asyncio
import logging
from collections.abc import Callable, Set
from functools import partial
from typing import Protocol

from trimtab_contracts import topics
from trimtab_core.specs import Source
from trimtab_runtime.clock import Clock
from trimtab_runtime.errors import TrimtabError
from trimtab_runtime.specbook import SpecBook

from trimtab_feature_store import tables
from trimtab_feature_store.store import Reach

_DAY_MS = 86_400_000
_SETTLED_S = 60.0
"""After so long a process knows its partitions."""
log = logging.getLogger(__name__)


class Kept(Protocol):
    """What is asked of the tables; each call blocks."""

    def reach(self, table: str, partitions: int) -> Reach:
        """Return how far the newest version of a table has come."""
        ...

    def expire(self, table: str, column: str, before_ms: int) -> int:
        """Delete the rows whose time, in `column`, is before a time; return how many there were."""
        ...

    def vacuum(self, table: str, hours: int, pinned: Set[int]) -> int:
        """Remove the files that no version uses which is younger than so many hours, or pinned; return how many."""
        ...


class Used(Protocol):
    """What versions of tables are in use."""

    def of(self, table: str) -> set[int]:
        """Return the versions of a table that are in use."""
        ...


class Upkeep:
    """Sees to the tables that are this process's to see to."""

    def __init__(
        self,
        book: SpecBook,
        store: Kept,
        pins: Used,
        owns: Callable[[str], bool],
        clock: Clock,
        *,
        version_hours: int,
        predictions_days: float | None,
    ) -> None:
        """`owns` tells whether this process archives the first partition of a topic."""
        self._book = book
        self._store = store
        self._pins = pins
        self._owns = owns
        self._clock = clock
        self._hours = version_hours
        self._predictions_ms = None if predictions_days is None else round(predictions_days * _DAY_MS)

    async def run(self, *, every_s: float) -> None:
        """See to them until cancelled; what cannot be done now is done another time."""
        await asyncio.sleep(min(every_s, _SETTLED_S))
        while True:
            await self.once()
            await asyncio.sleep(every_s)

    async def once(self) -> None:
        """See to each table once."""
        for source in list(self._book.sources.values()):
            if self._owns(topics.EVENTS.named(source.name).name):
                await self._see_to(tables.events_table(source.name), partial(self._expire_events, source))
        if self._owns(topics.PREDICTIONS.name):
            await self._see_to(tables.PREDICTIONS, self._expire_predictions)

    async def _see_to(self, table: str, expire: Callable[[], int]) -> None:
        try:
            rows = await asyncio.to_thread(expire)
            files = await asyncio.to_thread(self._store.vacuum, table, self._hours, self._pins.of(table))
        except TrimtabError as error:
            log.warning("table %s is seen to another time: %s", table, error)
            return
        if rows or files:
            log.info("table %s: %d rows were past their time, %d files unused", table, rows, files)

    def _expire_events(self, source: Source) -> int:
        if source.spec.keep is None:
            return 0
        table = tables.events_table(source.name)
        reached_ms = self._store.reach(table, source.spec.partitions).least()
        return self._store.expire(table, "event_time_ms", reached_ms - source.spec.keep)

    def _expire_predictions(self) -> int:
        if self._predictions_ms is None:
            return 0
        before_ms = self._clock.now_ms() - self._predictions_ms
        return self._store.expire(tables.PREDICTIONS, "answered_ms", before_ms)
