"""When models are closed: as soon as something moves, each once, the waiting ones together.

Whoever learns of something that may let a model be closed wakes it. A model that
waits for its calibration is woken again when that is there; none holds up another.
"""

import asyncio
import logging
from collections.abc import Iterable

from trimtab_runtime.errors import NotFound, Unavailable

from trimtab_monitoring.errors import NotCalibrated
from trimtab_monitoring.usecases.closing import Closing

log = logging.getLogger(__name__)

_BACKOFF_S = 0.5


class Rounds:
    """Closes the models that were woken."""

    def __init__(self) -> None:
        self._woken: dict[str, None] = {}
        self._more = asyncio.Event()

    def wake(self, model: str) -> None:
        """Let `model` be looked at."""
        self._woken[model] = None
        self._more.set()

    def wake_all(self, models: Iterable[str]) -> None:
        """Let all of `models` be looked at."""
        for model in models:
            self.wake(model)

    async def work(self, closing: Closing) -> None:
        """Close until cancelled."""
        while True:
            self._more.clear()
            while self._woken:
                await self._look(closing, next(iter(self._woken)))
            await self._more.wait()

    async def _look(self, closing: Closing, model: str) -> None:
        self._woken.pop(model)
        try:
            if await closing.close(model):
                self.wake(model)
        except NotCalibrated as error:
            log.info("closing waits: %s", error)
        except NotFound:
            log.info("model %s is no longer applied: it is not closed", model)
        except Unavailable as error:
            log.warning("closing of %s waits: %s", model, error)
            await asyncio.sleep(_BACKOFF_S)
            self.wake(model)
        except Exception:  # the edge of the loop: a fault with one model must not leave the others unwatched
            log.exception("model %s could not be closed", model)
            await asyncio.sleep(_BACKOFF_S)
