"""Taking specs away, while nothing leans on them.

What was applied stays in the history, its topics and rows stay where they are, and a
spec that is applied again goes on with the next generation.
"""

from dataclasses import replace

from trimtab_runtime.clock import Clock

from trimtab_registry.errors import NeededResource, NotNow, UnknownResource, Unsigned
from trimtab_registry.usecases.checks import World
from trimtab_registry.usecases.entities import Applied, Entry, Stage
from trimtab_registry.usecases.ports import Store, Unit

_WAITING = {
    Stage.AWAITING_CHECKS: "waits for checks: post one that failed first",
    Stage.AWAITING_APPROVAL: "waits for approval: reject it first",
}
"""What a version that may serve yet waits for, and how it comes to an end."""


class Deleting:
    """Takes specs away."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def delete(self, kind: str, name: str, *, actor: str, comment: str) -> Applied:
        """Take a spec away, and return the generation that did.

        Raises:
            Unsigned: nobody does it.
            UnknownResource: there is no such thing.
            NeededResource: views or models lean on it.
            NotNow: it is a model that serves, or a version of it may.
        """
        if not actor:
            raise Unsigned("actor", "say who deletes it")
        async with self._store.begin() as unit:
            applied = await unit.applied()
            held = applied.get(f"{kind}/{name}")
            if held is None:
                raise UnknownResource(kind, name)
            if by := World.of(applied, {}).leaning_on(held.key):
                raise NeededResource(kind, name, by)
            if kind == "Model":
                await self._check_unused(unit, name)
            gone = replace(
                held,
                generation=held.generation + 1,
                applied_by=actor,
                applied_at_ms=self._clock.now_ms(),
                deleted=True,
            )
            await unit.put(gone)
            await unit.record(
                Entry(
                    resource=gone.key,
                    action="deleted",
                    actor=actor,
                    reason=comment or f"generation {gone.generation} took it away",
                    at_ms=gone.applied_at_ms,
                    details={"generation": gone.generation, "digest": gone.digest},
                )
            )
        return gone

    async def _check_unused(self, unit: Unit, model: str) -> None:
        standing = await unit.lock(model)
        serves = [f"version {standing.champion} is the champion"] if standing.champion is not None else []
        serves += [f"version {number} is on its way" for number in standing.challengers]
        if serves:
            raise NotNow(
                f"model {model!r} cannot be deleted, for {' and '.join(serves)}: take it out of service first, with "
                f"`trimtab model retire {model}`"
            )
        for each in await self._store.versions(model):
            if each.stage in _WAITING:
                raise NotNow(
                    f"model {model!r} cannot be deleted, for version {each.number} {_WAITING[each.stage]}"
                )
