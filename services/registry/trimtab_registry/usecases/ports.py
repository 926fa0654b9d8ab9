"""What the use cases need from outside."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from trimtab_registry.usecases.entities import (
    Applied,
    Entry,
    FinishedRun,
    Gate,
    Stage,
    StageChange,
    StoredFile,
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
        self, run: FinishedRun, stage: Stage, gates: Sequence[Gate], *, traceparent: str | None, at_ms: int
    ) -> Version:
        """Store a locked model's next version."""
        ...

    async def version(self, model: str, number: int) -> Version | None:
        """Return a version."""
        ...

    async def set_stage(self, change: StageChange) -> None:
        """Store how far a version has come, and the news of it."""
        ...

    async def go_live(self, model: str, number: int, at_ms: int) -> None:
        """End the time of the version that was live, and begin that of this one."""
        ...

    async def record(self, entry: Entry) -> None:
        """Append to the audit log, and send the news of it."""
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

    async def standing(self, model: str) -> Standing:
        """Return where a model stands."""
        ...

    async def standings(self) -> Sequence[Standing]:
        """Return where every model stands of which something is wanted."""
        ...

    async def version(self, model: str, number: int) -> Version | None:
        """Return a version."""
        ...

    async def versions(self, model: str, live_at_ms: int | None = None) -> Sequence[Version]:
        """Return a model's versions by number, or the one that was live at a time."""
        ...

    async def audit(self, resource: str, limit: int) -> Sequence[Entry]:
        """Return entries about a resource, or about all, newest first."""
        ...


@dataclass(frozen=True, slots=True)
class Need:
    """A source, view or table that is about to be published, whose topics must exist first."""

    kind: str
    name: str
    partitions: int


Provide = Callable[[Sequence[Need]], Awaitable[None]]
"""Makes the topics of what is needed; raises `Unavailable`."""

Fetch = Callable[[StoredFile], Awaitable[bytes]]
"""Reads an artifact; raises `Rejected` if it is gone or not itself, `Unavailable` if it cannot be read now."""
