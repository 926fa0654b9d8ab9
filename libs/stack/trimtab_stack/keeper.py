"""Starts again what died, each time a little later."""

import logging
from concurrent.futures import Executor, Future, ThreadPoolExecutor

from trimtab_stack.stack import Stack
from trimtab_stack.together import abandon

_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0
_CALM_SECONDS = 60.0

log = logging.getLogger(__name__)


class Keeper:
    """Looks after the parts of a started stack; `tend` is called over and over, and never blocks."""

    def __init__(self, stack: Stack, pool: Executor | None = None) -> None:
        """Do nothing yet; what died is started in `pool`, since that takes seconds."""
        self._stack = stack
        self._pool = pool or ThreadPoolExecutor(max(1, len(stack.parts)), thread_name_prefix="trimtab-keeper")
        self._starting: dict[str, Future[None]] = {}
        self._due: dict[str, float] = {}
        self._deaths: dict[str, int] = {}
        self._ready_since: dict[str, float] = {}
        self._wrong: dict[str, str] = {}

    def tend(self, now: float) -> None:
        """Look at every part once; `now` is seconds on a clock that only goes forward."""
        before = dict(self._wrong)
        for name in self._stack.parts:
            self._tend_one(name, now)
        if self._wrong != before:
            self._stack.record("ready", "; ".join(self._wrong.values()))

    def close(self) -> None:
        """Give up what is being started."""
        abandon([self._stack.parts[name] for name in self._starting], self._starting.values())
        self._pool.shutdown()

    def _tend_one(self, name: str, now: float) -> None:
        part = self._stack.parts[name]
        if starting := self._starting.get(name):
            if not starting.done():
                return
            del self._starting[name]
            self._see_how_it_went(name, starting, now)
        if part.process.alive:
            if now - self._ready_since.get(name, now) > _CALM_SECONDS:
                self._deaths[name] = 0
        elif name not in self._due:
            deaths = self._deaths[name] = self._deaths.get(name, 0) + 1
            delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(deaths - 1, 10))
            self._due[name] = now + delay
            self._wrong.setdefault(
                name, f"{name} ended with {part.process.describe_exit()}; its log is {part.process.log}"
            )
            log.warning("%s; it is started again in %g s", self._wrong[name], delay)
        elif now >= self._due[name]:
            del self._due[name]
            self._starting[name] = self._pool.submit(part.start)

    def _see_how_it_went(self, name: str, starting: Future[None], now: float) -> None:
        try:
            starting.result()
        except Exception as error:  # whatever kept it from starting, it is tried again
            self._wrong[name] = str(error) or repr(error)
        else:
            self._wrong.pop(name, None)
            self._ready_since[name] = now
            log.info("%s is ready again", name)
