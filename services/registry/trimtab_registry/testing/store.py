"""The registry's store in memory; it passes the same contract suite as PostgreSQL's.

Units run one after the other, and one that fails leaves nothing.
"""

import asyncio
import copy
import json
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from trimtab_core.auditchain import GENESIS
from trimtab_core.gating import Gate
from trimtab_runtime.records import Outgoing

from trimtab_registry import messages, news
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
    Tag,
    Version,
)
from trimtab_registry.usecases.rollouts import Standing


@dataclass(slots=True)
class Reign:
    """A time for which a version was live."""

    model: str
    number: int
    live_from_ms: int
    live_to_ms: int | None = None

    def holds(self, at_ms: int) -> bool:
        """Whether the version was live at a time."""
        return self.live_from_ms <= at_ms and (self.live_to_ms is None or at_ms < self.live_to_ms)


@dataclass(slots=True)
class _Kept:
    """All that the store holds, to be copied and put back as one."""

    inbox: set[str] = field(default_factory=set)
    generations: dict[str, list[Applied]] = field(default_factory=dict)
    standings: dict[str, Standing] = field(default_factory=dict)
    versions: dict[str, list[Version]] = field(default_factory=dict)
    reigns: list[Reign] = field(default_factory=list)
    tags: dict[str, Tag] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    outbox: list[Outgoing] = field(default_factory=list)

    def current(self) -> dict[str, Applied]:
        """Return the newest generation of each spec that was not deleted."""
        newest = {key: held[-1] for key, held in self.generations.items()}
        return {key: held for key, held in newest.items() if not held.deleted}


class MemoryStore:
    """Keeps everything until the test ends; what a relay would send is in `outbox`."""

    def __init__(self) -> None:
        self._kept = _Kept()
        self._lock = asyncio.Lock()

    @property
    def outbox(self) -> list[Outgoing]:
        """Return all news so far, in order."""
        return self._kept.outbox

    @asynccontextmanager
    async def begin(self) -> AsyncIterator["MemoryUnit"]:
        """Open a unit of work; an error leaves nothing of it."""
        async with self._lock:
            before = copy.deepcopy(self._kept)
            try:
                yield MemoryUnit(self._kept)
            except BaseException:
                self._kept = before
                raise

    async def resources(self, kind: str = "") -> Sequence[Applied]:
        """Return the current specs of a kind, or of all, by kind and name."""
        return [held for _, held in sorted(self._kept.current().items()) if kind in ("", held.kind)]

    async def resource(self, kind: str, name: str) -> Applied | None:
        """Return a current spec."""
        return self._kept.current().get(f"{kind}/{name}")

    async def generations(self, kind: str, name: str) -> Sequence[Applied]:
        """Return every generation of a spec, oldest first, those included that took it away."""
        return list(self._kept.generations.get(f"{kind}/{name}", []))

    async def standing(self, model: str) -> Standing:
        """Return where a model stands."""
        return self._kept.standings.get(model, Standing(model))

    async def standings(self) -> Sequence[Standing]:
        """Return where every model stands of which something is wanted."""
        return [held for _, held in sorted(self._kept.standings.items()) if held.generation]

    async def version(self, model: str, number: int) -> Version | None:
        """Return a version."""
        return await MemoryUnit(self._kept).version(model, number)

    async def named_by(self, standing: Standing) -> Mapping[int, Version]:
        """Return the versions that a model's deployment holds, by number."""
        held = await self.versions(standing.model)
        return {number: held[number - 1] for number in messages.named_by(standing)}

    async def versions(self, model: str, live_at_ms: int | None = None) -> Sequence[Version]:
        """Return a model's versions by number, or the one that was live at a time."""
        held = self._kept.versions.get(model, [])
        if live_at_ms is None:
            return [_with_reign(version, self._kept.reigns) for version in held]
        reigns = [reign for reign in self._kept.reigns if reign.model == model and reign.holds(live_at_ms)]
        return [_with_reign(held[reign.number - 1], [reign]) for reign in reigns]

    async def tags(self) -> Sequence[Tag]:
        """Return all tags by name."""
        return [tag for _, tag in sorted(self._kept.tags.items())]

    async def models(self, prefix: str, after: str, limit: int) -> Sequence[Listed]:
        """Return the first `limit` models whose names have a prefix and follow `after`, by name."""
        found = [
            self._listed(held)
            for held in await self.resources("Model")
            if held.name.startswith(prefix) and held.name > after
        ]
        return found[:limit]

    def _listed(self, applied: Applied) -> Listed:
        standing = self._kept.standings.get(applied.name, Standing(applied.name))
        waiting = {
            version.number: version.approval
            for version in self._kept.versions.get(applied.name, [])
            if version.stage is Stage.AWAITING_APPROVAL and version.approval
        }
        return Listed(
            applied.name,
            applied.generation,
            applied.applied_by,
            standing.champion,
            standing.challenger,
            waiting,
        )

    async def overdue(self, now_ms: int) -> Sequence[Version]:
        """Return the versions that have waited too long, for checks or for approval, by model and number."""
        return [
            version
            for _, held in sorted(self._kept.versions.items())
            for version in held
            if (awaited := _awaited(version)) is not None and awaited.is_over(now_ms)
        ]

    async def with_files(self, before_ms: int) -> AsyncIterator[Sequence[Version]]:
        """Yield the versions whose files are there and that came before a time or were let go."""
        yield [
            version
            for model in sorted(self._kept.versions)
            for version in await self.versions(model)
            if version.files_gone_ms is None
            and (version.created_at_ms < before_ms or version.let_go_ms is not None)
        ]

    async def digests(self, besides: Collection[tuple[str, int]]) -> AbstractSet[str]:
        """Return what looks like a digest in any current spec, and in any version whose files are there, `besides` some."""
        documents = [held.document for held in self._kept.current().values()] + [
            version.candidate.document
            for held in self._kept.versions.values()
            for version in held
            if version.files_gone_ms is None and (version.model, version.number) not in besides
        ]
        return set(re.findall("[0-9a-f]{64}", json.dumps(documents)))

    async def audit(self, query: AuditQuery) -> Sequence[Entry]:
        """Return the entries that are meant, newest first."""
        meant = [
            entry
            for entry in reversed(self._kept.entries)
            if query.resource in ("", entry.resource)
            and query.actor in ("", entry.actor)
            and query.action in ("", entry.action)
            and (query.since_ms is None or query.since_ms <= entry.at_ms)
            and (query.until_ms is None or entry.at_ms < query.until_ms)
        ]
        return meant[: query.limit]

    async def read_audit(self) -> AsyncIterator[Sequence[Entry]]:
        """Yield the whole audit log, oldest first."""
        yield list(self._kept.entries)


class MemoryUnit:
    """Changes what the store keeps, in place."""

    def __init__(self, kept: _Kept) -> None:
        self._kept = kept

    async def first_sight(self, id: str) -> bool:
        """Remember `id`; False if it was there before."""
        if id in self._kept.inbox:
            return False
        self._kept.inbox.add(id)
        return True

    async def applied(self) -> Mapping[str, Applied]:
        """Return the current specs by kind/name."""
        return self._kept.current()

    async def last_generation(self, kind: str, name: str) -> int:
        """Return the newest generation of a spec, whether or not it took it away; 0 if there never was one."""
        return max((held.generation for held in self._kept.generations.get(f"{kind}/{name}", [])), default=0)

    async def put(self, applied: Applied) -> None:
        """Store a generation of a spec, and the news of it."""
        self._kept.generations.setdefault(applied.key, []).append(applied)
        await self.publish(applied)

    async def publish(self, applied: Applied) -> None:
        """Tell again of a spec."""
        self._kept.outbox.append(news.of_spec(applied))

    async def lock(self, model: str) -> Standing:
        """Return where a model stands."""
        return self._kept.standings.setdefault(model, Standing(model))

    async def save(self, standing: Standing) -> None:
        """Store where a locked model stands, and the news of it if its generation has risen."""
        told = self._kept.standings[standing.model].generation
        self._kept.standings[standing.model] = standing
        if standing.generation > told:
            await self.announce(standing)

    async def announce(self, standing: Standing) -> None:
        """Tell again what is wanted of a model."""
        held = {version.number: version for version in self._kept.versions.get(standing.model, [])}
        self._kept.outbox.append(news.of_deployment(standing, held))

    async def add_version(
        self, run: FinishedRun, stage: Stage, gates: Sequence[Gate], *, traceparent: str | None, at_ms: int,
        approval: Approval | None = None, checks: Checks | None = None,
    ) -> Version:  # fmt: skip
        """Store a locked model's next version, and what it waits for."""
        held = self._kept.versions.setdefault(run.model, [])
        version = Version(
            model=run.model, number=len(held) + 1, stage=stage, candidate=run.candidate, gates=tuple(gates),
            loop_id=run.loop_id, traceparent=traceparent, as_of_ms=run.as_of_ms, created_at_ms=at_ms,
            approval=approval, checks=checks,
        )  # fmt: skip
        held.append(version)
        return version

    async def called(self, model: str, alias: str) -> Version | None:
        """Return the version of a model that people gave an alias."""
        held = self._kept.versions.get(model, [])
        return next((version for version in held if alias in version.aliases), None)

    async def set_names(self, version: Version) -> None:
        """Store the aliases and tags of a version of a locked model."""
        held = self._kept.versions[version.model]
        held[version.number - 1] = replace(
            held[version.number - 1], aliases=version.aliases, tags=dict(version.tags)
        )

    async def set_files(self, version: Version) -> None:
        """Store since when the files of a version may be thrown away, and when they were."""
        held = self._kept.versions[version.model]
        held[version.number - 1] = replace(
            held[version.number - 1], let_go_ms=version.let_go_ms, files_gone_ms=version.files_gone_ms
        )

    async def set_approval(self, version: Version, approval: Approval) -> None:
        """Store who has approved a version of a locked model."""
        held = self._kept.versions[version.model]
        held[version.number - 1] = replace(held[version.number - 1], approval=approval)

    async def set_checks(self, version: Version, checks: Checks) -> None:
        """Store what was posted of a version of a locked model."""
        held = self._kept.versions[version.model]
        held[version.number - 1] = replace(held[version.number - 1], checks=checks)

    async def version(self, model: str, number: int) -> Version | None:
        """Return a version."""
        held = self._kept.versions.get(model, [])
        if not 1 <= number <= len(held):
            return None
        return _with_reign(held[number - 1], self._kept.reigns)

    async def version_of_run(self, run_id: str) -> Version | None:
        """Return the version that was made of a run."""
        held = [version for versions in self._kept.versions.values() for version in versions]
        return next((version for version in held if version.candidate.run_id == run_id), None)

    async def tags(self) -> Mapping[str, Tag]:
        """Return the tags by name."""
        return dict(self._kept.tags)

    async def put_tag(self, tag: Tag) -> None:
        """Store a tag, in place of one of its name."""
        self._kept.tags[tag.name] = tag

    async def remove_tag(self, name: str) -> None:
        """Forget a tag."""
        del self._kept.tags[name]

    async def set_stage(self, change: StageChange) -> None:
        """Store how far a version has come, and the news of it."""
        held = self._kept.versions[change.version.model]
        held[change.version.number - 1] = replace(held[change.version.number - 1], stage=change.stage)
        self._kept.outbox.append(news.of_stage(change))

    async def go_live(self, model: str, number: int, at_ms: int) -> None:
        """End the time of the version that was live, and begin that of this one."""
        await self.end_live(model, at_ms)
        self._kept.reigns.append(Reign(model, number, at_ms))

    async def end_live(self, model: str, at_ms: int) -> None:
        """End the time of the version that was live; none is, after it."""
        for reign in self._kept.reigns:
            if reign.model == model and reign.live_to_ms is None:
                reign.live_to_ms = max(at_ms, reign.live_from_ms)

    async def record(self, entry: Entry) -> None:
        """Append to the audit log, and send the news of it."""
        last = self._kept.entries[-1] if self._kept.entries else None
        entry = entry.following(last.sequence if last else 0, last.hash if last else GENESIS)
        self._kept.entries.append(entry)
        self._kept.outbox.append(news.of_entry(entry))


def _awaited(version: Version) -> Approval | Checks | None:
    """Return what a version waits for."""
    if version.stage is Stage.AWAITING_CHECKS:
        return version.checks
    return version.approval if version.stage is Stage.AWAITING_APPROVAL else None


def _with_reign(version: Version, reigns: Sequence[Reign]) -> Version:
    """Return the version with its newest time as the live one."""
    own = [reign for reign in reigns if (reign.model, reign.number) == (version.model, version.number)]
    return (
        replace(version, live_from_ms=own[-1].live_from_ms, live_to_ms=own[-1].live_to_ms) if own else version
    )
