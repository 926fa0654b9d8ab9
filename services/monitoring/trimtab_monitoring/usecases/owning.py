"""Which models are this instance's work, and how it learns of what others have stored of them.

A model belongs to a shard, and a shard to the instance that holds the partition of the prediction log of that number. Only
the work is shared out so: what is decided is safe by the lock on the model's row, whoever does it. An instance that stores
marks of another's model leaves that alone; each looks into the store for the marks of its own.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from typing import Final
from zlib import crc32

from trimtab_runtime.clock import Clock
from trimtab_runtime.errors import Unavailable

from trimtab_monitoring.usecases.entities import events_stream, predictions_stream
from trimtab_monitoring.usecases.ports import Specs, Store

log = logging.getLogger(__name__)

Owns = Callable[[str], bool]
LOOK_S: Final = 1.0
_SHARE, _MOST_S = 0.05, 10.0
"""What share of its time an instance looks for, if it can, and how long it waits for that at most."""
_SLOW_MS: Final = 300_000
"""How long before a look a mark can have been heard that the look does not see: a slow transaction, clocks apart."""


def everything(_: str) -> bool:
    """Say that whatever it is, it is ours: of an instance that is alone."""
    return True


def shard_of(name: str, shards: int) -> int:
    """Return the shard that a model, or a label stream, belongs to, the same in every process."""
    return crc32(name.encode()) % shards


class Shards:
    """What this instance holds of the shards: nothing until it is told, for then it is not known how many there are."""

    def __init__(self) -> None:
        self._count = 1
        self._held: frozenset[int] = frozenset()

    @property
    def shared(self) -> bool:
        """Whether some are ours and some are not."""
        return 0 < len(self._held) < self._count

    def owns(self, name: str) -> bool:
        """Return whether a model, or a label stream, is ours."""
        return shard_of(name, self._count) in self._held

    def hold(self, shards: Iterable[int], of: int, names: Collection[str]) -> list[str]:
        """Hold `shards` and no other from now on, of so many, and return those of `names` that have become ours."""
        before = {name for name in names if self.owns(name)}
        self._count, self._held = of, frozenset(shards)
        return [name for name in names if name not in before and self.owns(name)]


class Moves:
    """Wakes the models of ours that may be closed, as the marks of their streams move."""

    def __init__(
        self, store: Store, specs: Specs, shards: Shards, clock: Clock, wake: Callable[[str], None]
    ) -> None:
        self._store = store
        self._specs = specs
        self._shards = shards
        self._clock = clock
        self._wake = wake
        self._seen: dict[str, int] = {}
        self._looked_ms = 0
        self._woken_by: dict[str, list[str]] | None = None
        """By stream: the models that may be closed when it moves; None until it is worked out of what is applied now."""

    def specs_changed(self) -> None:
        """Go, from now on, by the models that are applied now."""
        self._woken_by = None

    def moved(self, streams: Iterable[str]) -> None:
        """Wake the models of ours that read any of `streams`, each once."""
        if self._woken_by is None:  # they are thousands, and change seldom
            self._woken_by = {}
            for model in self._specs.models.values():
                for stream in (predictions_stream(model.name), events_stream(model.spec.label.source)):
                    self._woken_by.setdefault(stream, []).append(model.name)
        woken = dict.fromkeys(name for stream in streams for name in self._woken_by.get(stream, ()))
        for name in filter(self._shards.owns, woken):
            self._wake(name)

    async def work(self) -> None:
        """Look each second, and less often where that takes long, until cancelled.

        An instance that is alone hears it all; one that has become so looks once more, for what others stored before.
        """
        loop, took, others = asyncio.get_running_loop(), 0.0, False
        while True:
            await asyncio.sleep(min(max(LOOK_S, took / _SHARE), _MOST_S))
            shared = self._shards.shared
            if not (shared or others):
                continue
            began, others = loop.time(), True
            try:
                await self.look()
                others = shared
            except Unavailable as error:
                log.warning("marks of other instances are not looked at: %s", error)
            took = loop.time() - began

    async def look(self) -> None:
        """Wake what has moved since the last look, whoever stored it; at first, whatever has marks.

        Raises:
            Unavailable: PostgreSQL is away; the next look finds what this one would have.
        """
        now_ms = self._clock.now_ms()
        found = await self._store.moves(since_ms=self._looked_ms - _SLOW_MS)
        before, self._seen, self._looked_ms = self._seen, dict(found), now_ms
        self.moved(stream for stream, at in found.items() if before.get(stream) != at)
