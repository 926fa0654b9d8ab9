"""Names for datasets: a tag names one dataset, which is what a run was trained on.

Whatever a tag named before is in the audit log, with who moved it and why.
"""

import re
from collections.abc import Sequence

from trimtab_runtime.clock import Clock

from trimtab_registry.errors import BadTag, UnknownRun, UnknownTag, Unsigned
from trimtab_registry.usecases.entities import Entry, Tag
from trimtab_registry.usecases.ports import Store, Unit

_FORM = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")


class Tags:
    """Gives, moves and removes tags."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def put(self, name: str, run_id: str, *, actor: str, comment: str) -> tuple[Tag, Tag | None]:
        """Make a tag name the dataset of a run; return it, and what it named until now, if that was another.

        Raises:
            Unsigned: nobody does it.
            BadTag: the name is none that a tag can have.
            UnknownRun: no version was made of such a run.
        """
        if not actor:
            raise Unsigned("actor", "say who tags")
        if not _FORM.fullmatch(name):
            raise BadTag(name, "is no name for a tag: write up to 80 of a to z, 0 to 9 and . _ -")
        async with self._store.begin() as unit:
            if await unit.version_of_run(name) is not None:
                raise BadTag(name, "is a run's id, so nobody could tell which is meant: choose another name")
            version = await unit.version_of_run(run_id)
            if version is None:
                raise UnknownRun(run_id)
            before = (await unit.tags()).get(name)
            if before is not None and before.run_id == run_id:
                return before, None
            digest = str(version.candidate.document.get("dataset_digest", ""))
            tag = Tag(name, run_id, version.model, digest, actor, self._clock.now_ms())
            await unit.put_tag(tag)
            await self._record(unit, "moved" if before else "tagged", tag, actor, comment, before)
            return tag, before

    async def remove(self, name: str, *, actor: str, comment: str) -> Tag:
        """Remove a tag, and return what it named.

        Raises:
            Unsigned: nobody does it.
            UnknownTag: there is no such tag.
        """
        if not actor:
            raise Unsigned("actor", "say who removes the tag")
        async with self._store.begin() as unit:
            tag = (await unit.tags()).get(name)
            if tag is None:
                raise UnknownTag(name)
            await unit.remove_tag(name)
            await self._record(unit, "untagged", tag, actor, comment)
            return tag

    async def list(self) -> Sequence[Tag]:
        """Return all tags by name."""
        return await self._store.tags()

    async def _record(
        self, unit: Unit, action: str, tag: Tag, actor: str, comment: str, before: Tag | None = None
    ) -> None:
        details = {"run_id": tag.run_id, "model": tag.model, "dataset_digest": tag.digest}
        await unit.record(
            Entry(
                resource=f"DatasetTag/{tag.name}",
                action=action,
                actor=actor,
                reason=comment,
                at_ms=self._clock.now_ms(),
                details=details | ({"before": before.run_id} if before else {}),
            )
        )
