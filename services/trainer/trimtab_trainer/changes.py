"""A change of what a model is made of, which trains it anew.

A live version's recipe is held against that of the spec as it is applied. Each recipe
that is not the live version's is ordered once for that version, whichever trainer
notices, however often and whatever dies: the command's id says so. To apply a change is
a person's act, so neither cooldown nor budget holds it up, and it spends neither.
"""

import asyncio
import logging

from aiokafka.errors import KafkaError
from trimtab_core import recipes
from trimtab_core.naming import id_of
from trimtab_core.specs import Model
from trimtab_runtime.errors import Rejected, Unavailable
from trimtab_runtime.specbook import SpecBook

from trimtab_trainer.orders import Orders
from trimtab_trainer.usecases.jobs import run_of
from trimtab_trainer.usecases.ports import Champions, Store

log = logging.getLogger(__name__)

REQUESTED_BY = "retrain.on_change"
_SAID = {
    "spec": "what it is fitted to (task, source, features or label) has changed",
    "trainer": "its trainer has changed",
}
_BACKOFF_S = 1.0


class Changes:
    """Looks at the models whose spec or live version has changed."""

    def __init__(self, store: Store, book: SpecBook, champions: Champions, orders: Orders) -> None:
        self._store = store
        self._book = book
        self._champions = champions
        self._orders = orders
        self._looked_at: dict[str, tuple[int, int]] = {}
        self._woken = asyncio.Event()

    async def wake(self) -> None:
        """Let what has changed be looked at."""
        self._woken.set()

    async def work(self) -> None:
        """Look until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                await self.look()
            except (Unavailable, KafkaError) as error:
                log.warning("changes of specs wait: %s", error)
                await asyncio.sleep(_BACKOFF_S)
                self._woken.set()
            except (
                Exception
            ):  # the edge of the loop: a fault with one model must not leave the others as they are
                log.exception("changes of specs are not looked at")
                await asyncio.sleep(_BACKOFF_S)

    async def look(self) -> None:
        """Order what a change calls for.

        Raises:
            Unavailable, KafkaError: something is away; what is left is looked at the next time.
        """
        for model in list(self._book.models.values()):
            champion = self._champions.champion(model.name)
            if champion is None or not champion.recipe:
                continue
            seen = (self._book.generation(model), champion.number)
            if self._looked_at.get(model.name) == seen:
                continue
            if what := recipes.difference(champion.recipe, recipe := recipes.recipe(model.spec)):
                await self._order(model, champion.number, recipe, what)
            self._looked_at[model.name] = seen

    async def _order(self, model: Model, live: int, recipe: str, what: str) -> None:
        if not model.spec.retrain.on_change:
            log.info("%s of %s: retrain.on_change is false", what, model.name)
            return
        episode = id_of(model.name, "change", live, recipe)
        if await self._store.get(run_of(episode)) is not None:
            return
        reason = f"Since version {live} of {model.name} was trained, {_SAID[what]}."
        try:
            await self._orders.place(
                model.name,
                trigger=what,
                reason=reason,
                requested_by=REQUESTED_BY,
                id=episode,
                episode=episode,
            )
        except Rejected as error:
            log.warning("%s of %s: %s", what, model.name, error)
        else:
            log.info("%s of %s: %s", what, model.name, reason)
