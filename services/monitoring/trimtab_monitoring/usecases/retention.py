"""Lets go of predictions and labels that nothing will ask for again.

What is younger than the stated time behind the closed mark stays, and so does every
row of a window that is still being filled.
"""

import asyncio
import logging

from trimtab_runtime.errors import Unavailable

from trimtab_monitoring.usecases.arriving import label_streams
from trimtab_monitoring.usecases.entities import Watch
from trimtab_monitoring.usecases.ports import Specs, Store

log = logging.getLogger(__name__)

PERIOD_S = 20.0
BATCH_ROWS = 5_000
_BATCHES = 4
"""A sweep deletes so many batches of each table at most, so that it never takes the disk for long."""


class Retention:
    """Sweeps now and then."""

    def __init__(self, store: Store, specs: Specs, *, keep_ms: int) -> None:
        self._store = store
        self._specs = specs
        self._keep_ms = keep_ms

    async def work(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            try:
                await self.sweep()
            except Unavailable as error:
                log.warning("the sweep waits: %s", error)

    async def sweep(self) -> int:
        """Delete a little of what is no longer needed, and return how many rows went."""
        needed = {name: self._needed_from(await self._store.watch(name)) for name in self._specs.models}
        gone = 0
        for name, before_ms in needed.items():
            for _ in range(_BATCHES):
                went = await self._store.forget(name, before_ms=before_ms, at_most=BATCH_ROWS)
                gone += went
                if went < BATCH_ROWS:
                    break
        return gone + await self._sweep_labels(needed)

    async def _sweep_labels(self, needed: dict[str, int]) -> int:
        gone = 0
        for stream in (
            it for streams in label_streams(self._specs.models.values()).values() for it in streams
        ):
            readers = [
                name
                for name, model in self._specs.models.items()
                if (model.spec.label.source, model.spec.label.on, model.spec.label.value)
                == (stream.source, stream.on, stream.value)
            ]
            before_ms = min(needed[name] for name in readers)
            for _ in range(_BATCHES):
                went = await self._store.forget_labels(stream.name, before_ms=before_ms, at_most=BATCH_ROWS)
                gone += went
                if went < BATCH_ROWS:
                    break
        return gone

    def _needed_from(self, watch: Watch) -> int:
        filling = [series.first_ms for series in (watch.data, watch.performance) if series.rows]
        return min([watch.closed_ms - self._keep_ms, *filling])
