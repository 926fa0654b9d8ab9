"""Lets go of predictions and labels that nothing will ask for again, and of readings that are old.

What is younger than the stated time behind the closed mark stays, and so does every
row of a window that is still being filled or corrected, or of a report that is still to be made.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from trimtab_core.watched import Watch
from trimtab_runtime.errors import Unavailable

from trimtab_monitoring.usecases.entities import streams_of
from trimtab_monitoring.usecases.history import HistoryStore
from trimtab_monitoring.usecases.owning import Owns, everything
from trimtab_monitoring.usecases.ports import Specs, Store

log = logging.getLogger(__name__)

PERIOD_S = 20.0
BATCH_ROWS = 5_000
_BATCHES = 4
"""A sweep deletes so many batches of each table at most, so that it never takes the disk for long."""


class Retention:
    """Sweeps now and then."""

    def __init__(
        self, store: Store, history: HistoryStore, specs: Specs, *, keep_ms: int, history_ms: int, owns: Owns = everything
    ) -> None:  # fmt: skip
        self._store = store
        self._history = history
        self._specs = specs
        self._keep_ms = keep_ms
        self._history_ms = history_ms
        self._owns = owns

    async def work(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            try:
                await self.sweep()
            except Unavailable as error:
                log.warning("the sweep waits: %s", error)

    async def sweep(self) -> int:
        """Delete a little of what is no longer needed, and return how many rows went.

        Of models and label streams that are ours; for a stream all its readers are asked, whosever they are.
        """
        readers: dict[str, list[str]] = {}
        for name, model in self._specs.models.items():
            for read in streams_of(model):
                if self._owns(read.name):
                    readers.setdefault(read.name, []).append(name)
        reading = set().union(*readers.values())
        needed: dict[str, int] = {}
        gone = 0
        for name in list(self._specs.models):
            ours = self._owns(name)
            if not ours and name not in reading:
                continue
            watch = await self._store.watch(name)
            needed[name] = await self._needed_from(name, watch)
            if not ours:
                continue
            gone += await _drain(partial(self._store.forget, name, before_ms=needed[name]))
            told_from = watch.closed_ms - self._history_ms
            gone += await _drain(partial(self._history.forget, name, before_ms=told_from))
        for stream, names in readers.items():
            before_ms = min(needed[name] for name in names)
            gone += await _drain(partial(self._store.forget_labels, stream, before_ms=before_ms))
        return gone

    async def _needed_from(self, model: str, watch: Watch) -> int:
        needed = [
            series.first_ms
            for series in (watch.data, watch.performance, watch.concept, watch.ahead.rows)
            if series.rows
        ]
        begins = (await self._store.reports_from(model), await self._store.published_from(model))
        needed += [begin for begin in begins if begin is not None]
        return min([watch.closed_ms - self._keep_ms, *needed])


async def _drain(forget: Callable[..., Awaitable[int]]) -> int:
    """Delete a few batches, and return how many rows went."""
    gone = 0
    for _ in range(_BATCHES):
        went = await forget(at_most=BATCH_ROWS)
        gone += went
        if went < BATCH_ROWS:
            break
    return gone
