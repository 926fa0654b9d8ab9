"""When models are closed: as soon as something moves, each once, the waiting ones together.

Whoever learns of something that may let a model be closed wakes it. A model that
waits for its calibration is woken again when that is there; none holds up another. A
fleet takes half of a core at most, and the more there is to close of a model at a time.
"""

import asyncio
import logging
from collections.abc import Iterable
from itertools import islice

from trimtab_runtime.errors import NotFound, Unavailable

from trimtab_monitoring.errors import NotCalibrated
from trimtab_monitoring.usecases.closing import Closing
from trimtab_monitoring.usecases.owning import Owns, everything

log = logging.getLogger(__name__)

_BACKOFF_S = 0.5
TOGETHER = 200
"""Models that are closed in one transaction at most."""


class Rounds:
    """Closes the models that were woken."""

    def __init__(self, owns: Owns = everything) -> None:
        """A model of which more is left is gone on with as long as it `owns` it."""
        self._owns = owns
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
                began = asyncio.get_running_loop().time()
                models = list(islice(self._woken, TOGETHER))
                for model in models:
                    del self._woken[model]
                for model in await self._look_at_all(closing, models) if len(models) > 1 else models:
                    await self._look(closing, model)
                if len(models) == TOGETHER:  # a fleet is never done: it leaves as much time as it takes
                    await asyncio.sleep(asyncio.get_running_loop().time() - began)
            await self._more.wait()

    async def _look_at_all(self, closing: Closing, models: list[str]) -> list[str]:
        """Close models together, and return those that are to be closed by themselves."""
        try:
            return await closing.close_all(models)
        except Unavailable as error:
            log.warning("closing of %d models waits: %s", len(models), error)
            await asyncio.sleep(_BACKOFF_S)
            self.wake_all(models)
            return []
        except Exception:  # the edge of the loop: each by itself, so that one fault meets one model
            log.exception("%d models could not be closed together", len(models))
            return models

    async def _look(self, closing: Closing, model: str) -> None:
        try:
            if await closing.close(model) and self._owns(model):
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
