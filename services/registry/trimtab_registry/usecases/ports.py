"""What the use cases need from outside."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from trimtab_core.gating import Gate
from trimtab_core.specs import Place, SourceSpec

from trimtab_registry.usecases.entities import (
    Applied,
    Approval,
    AuditQuery,
    Checks,
    Entry,
    FinishedRun,
    Listed,
    Stage,
    StageChange,
    StoredFile,
    Tag,
    Version,
)
from trimtab_registry.usecases.rollouts import Standing


class Unit(Protocol):
    """A unit of work: all of it is kept, with the news of it, or nothing is."""

    async def first_sight(self, id: str) -> bool:
        """Remember `id`; False if it was there before."""
        ...

    async def applied(self) -> Mapping[str, Applied]:
        """Return the current specs by kind/name, and keep others from applying until the unit ends."""
        ...

    async def last_generation(self, kind: str, name: str) -> int:
        """Return the newest generation of a spec, whether or not it took it away; 0 if there never was one."""
        ...

    async def put(self, applied: Applied) -> None:
        """Store a generation of a spec, and the news of it."""
        ...

    async def publish(self, applied: Applied) -> None:
        """Tell again of a spec."""
        ...

    async def lock(self, model: str) -> Standing:
        """Return where a model stands, and keep others from changing it until the unit ends."""
        ...

    async def save(self, standing: Standing) -> None:
        """Store where a locked model stands, and the news of it if its generation has risen."""
        ...

    async def announce(self, standing: Standing) -> None:
        """Tell again what is wanted of a model."""
        ...

    async def add_version(
        self, run: FinishedRun, stage: Stage, gates: Sequence[Gate], *, traceparent: str | None, at_ms: int,
        approval: Approval | None = None, checks: Checks | None = None,
    ) -> Version:  # fmt: skip
        """Store a locked model's next version, and what it waits for."""
        ...

    async def called(self, model: str, alias: str) -> Version | None:
        """Return the version of a model that people gave an alias."""
        ...

    async def set_names(self, version: Version) -> None:
        """Store the aliases and tags of a version of a locked model."""
        ...

    async def set_files(self, version: Version) -> None:
        """Store since when the files of a version may be thrown away, and when they were."""
        ...

    async def set_approval(self, version: Version, approval: Approval) -> None:
        """Store who has approved a version of a locked model."""
        ...

    async def set_checks(self, version: Version, checks: Checks) -> None:
        """Store what was posted of a version of a locked model."""
        ...

    async def version(self, model: str, number: int) -> Version | None:
        """Return a version."""
        ...

    async def version_of_run(self, run_id: str) -> Version | None:
        """Return the version that was made of a run."""
        ...

    async def set_stage(self, change: StageChange) -> None:
        """Store how far a version has come, and the news of it."""
        ...

    async def go_live(self, model: str, number: int, at_ms: int) -> None:
        """End the time of the version that was live, and begin that of this one."""
        ...

    async def end_live(self, model: str, at_ms: int) -> None:
        """End the time of the version that was live; none is, after it."""
        ...

    async def tags(self) -> Mapping[str, Tag]:
        """Return the tags by name, and keep others from changing them until the unit ends."""
        ...

    async def put_tag(self, tag: Tag) -> None:
        """Store a tag, in place of one of its name."""
        ...

    async def remove_tag(self, name: str) -> None:
        """Forget a tag."""
        ...

    async def record(self, entry: Entry) -> None:
        """Append to the audit log as the unit ends, and send the news of it."""
        ...


class Store(Protocol):
    """Keeps everything."""

    def begin(self) -> AbstractAsyncContextManager[Unit]:
        """Open a unit of work; an error leaves nothing of it."""
        ...

    async def resources(self, kind: str = "") -> Sequence[Applied]:
        """Return the current specs of a kind, or of all, by kind and name."""
        ...

    async def resource(self, kind: str, name: str) -> Applied | None:
        """Return a current spec."""
        ...

    async def generations(self, kind: str, name: str) -> Sequence[Applied]:
        """Return every generation of a spec, oldest first, those included that took it away."""
        ...

    async def standing(self, model: str) -> Standing:
        """Return where a model stands."""
        ...

    async def standings(self) -> Sequence[Standing]:
        """Return where every model stands of which something is wanted."""
        ...

    async def version(self, model: str, number: int) -> Version | None:
        """Return a version."""
        ...

    async def named_by(self, standing: Standing) -> Mapping[int, Version]:
        """Return the versions that a model's deployment holds, by number."""
        ...

    async def versions(self, model: str, live_at_ms: int | None = None) -> Sequence[Version]:
        """Return a model's versions by number, or the one that was live at a time."""
        ...

    async def tags(self) -> Sequence[Tag]:
        """Return all tags by name."""
        ...

    async def models(self, prefix: str, after: str, limit: int) -> Sequence[Listed]:
        """Return the first `limit` models whose names have a prefix and follow `after`, by name."""
        ...

    async def overdue(self, now_ms: int) -> Sequence[Version]:
        """Return the versions that have waited too long, for checks or for approval, by model and number."""
        ...

    def with_files(self, before_ms: int) -> AsyncIterator[Sequence[Version]]:
        """Yield, in pages by model and number, the versions whose files are there and that came before a time or were let go."""
        ...

    async def digests(self, besides: Collection[tuple[str, int]]) -> AbstractSet[str]:
        """Return what looks like a digest in any current spec, and in any version whose files are there, `besides` some."""
        ...

    async def audit(self, query: AuditQuery) -> Sequence[Entry]:
        """Return the entries that are meant, newest first."""
        ...

    def read_audit(self) -> AsyncIterator[Sequence[Entry]]:
        """Yield the whole audit log in pages, oldest first."""
        ...


@dataclass(frozen=True, slots=True)
class Need:
    """A source, view or table that is about to be published, whose topics must exist first."""

    kind: str
    name: str
    partitions: int


Provide = Callable[[Sequence[Need]], Awaitable[None]]
"""Makes the topics of what is needed; raises `Unavailable`."""

SchemaFaults = Callable[[SourceSpec], Awaitable[Sequence[tuple[Place, str]]]]
"""Finds what is wrong with the schema of a source's format, and where; raises `Unavailable`."""

Fetch = Callable[[StoredFile], Awaitable[bytes]]
"""Reads an artifact; raises `Rejected` if it is gone or not itself, `Unavailable` if it cannot be read now."""

Remove = Callable[[StoredFile, int], Awaitable[Literal["removed", "gone", "newer"]]]
"""Throws an artifact away, unless it was stored at a time or later; raises `Unavailable`."""
