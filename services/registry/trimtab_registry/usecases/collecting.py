"""Throwing away the files of versions that nothing has needed for long.

A version's files go when it came, and served last, longer ago than the retention, and
`holding` and the datasets' tags name nothing that it is in use for. They go in two steps:
first it is let go, and only after a grace, if it is still free, are they thrown away, under
its model's lock and each only if no other version and no spec names its digest. Whoever
stores the same file makes it new, and what is new stays: since it was let go, for a run
may be about to offer it, and for as long as the retention, for a job that waits may name
it. What no version names (logs, trainers' wheels, what a failed run left) is not touched.
"""

import asyncio
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from trimtab_core.durations import format_duration, parse_duration
from trimtab_runtime.clock import Clock
from trimtab_runtime.errors import Unavailable

from trimtab_registry.errors import BadRetention
from trimtab_registry.usecases import lifecycle
from trimtab_registry.usecases.entities import Stage, StoredFile, Version
from trimtab_registry.usecases.holding import held_by
from trimtab_registry.usecases.lifecycle import REGISTRY
from trimtab_registry.usecases.ports import Remove, Store
from trimtab_registry.usecases.rollouts import Standing

log = logging.getLogger(__name__)

_SLACK_MS = 60_000
"""So far the clocks of those who store files may be behind ours."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long files are kept."""

    keep_ms: int | None = None
    """For ever, if None."""
    grace_ms: int = 86_400_000

    @classmethod
    def parse(cls, keep: str, grace: str) -> Self:
        """Read it from two settings, such as `90d` and `1d`; an empty `keep` keeps for ever.

        Raises:
            BadRetention: one is no time.
        """
        read: list[int | None] = []
        for name, text in (("RETENTION", keep), ("GRACE", grace)):
            try:
                read.append(parse_duration(text) if text else None)
            except ValueError as error:
                raise BadRetention(f"TRIMTAB_REGISTRY_ARTIFACT_{name}: {error}") from error
        return cls(read[0], read[1] or 0)


@dataclass(frozen=True, slots=True)
class Let:
    """A version that nothing refers to: its files go, or went, at a time."""

    version: Version
    files: tuple[StoredFile, ...]
    """Those that no other version needs."""
    at_ms: int
    gone: bool = False

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.size for file in self.files)


class Collector:
    """Lets versions go, and throws their files away."""

    def __init__(self, store: Store, clock: Clock, remove: Remove, retention: Retention) -> None:
        self._store = store
        self._clock = clock
        self._remove = remove
        self.retention = retention

    async def look(self) -> list[Let]:
        """Return the versions that nothing refers to, with what goes and when; nothing is changed.

        Raises:
            BadRetention: files are kept for ever.
        """
        free, _ = await self._sorted()
        kept = await self._store.digests({(each.model, each.number) for each in free})
        now = self._clock.now_ms()
        return [
            Let(each, tuple(_files(each, kept)), (each.let_go_ms or now) + self.retention.grace_ms)
            for each in free
        ]

    async def sweep(self, actor: str = REGISTRY) -> list[Let]:
        """Let go what is free, take back what is not, and throw away what has been let go for as long as the grace.

        Raises:
            BadRetention: files are kept for ever.
            Unavailable: the files, or PostgreSQL, are away; what went before that went.
        """
        free, taken_back = await self._sorted()
        now = self._clock.now_ms()
        for each in taken_back:
            await self._mark(each, None)
        for each in free:
            if each.let_go_ms is None:
                await self._mark(each, now)
        due = [each for each in free if (each.let_go_ms or now) + self.retention.grace_ms <= now]
        if not due:
            return []
        kept = await self._store.digests({(each.model, each.number) for each in due})
        found = [await self._throw_away(each, kept, actor) for each in due]
        return [each for each in found if each is not None]

    async def keep_sweeping(self, every_s: float) -> None:
        """Sweep now and again, until cancelled; what is away is waited for. Without a retention nothing is to be done."""
        while self.retention.keep_ms is not None:
            try:
                for each in await self.sweep():
                    log.info(
                        "files of %s version %d are gone: %d bytes",
                        each.version.model,
                        each.version.number,
                        each.size,
                    )
            except Unavailable as error:
                log.warning("files that nothing needs stay for now: %s", error)
            await asyncio.sleep(every_s)

    async def _sorted(self) -> tuple[list[Version], list[Version]]:
        """Return the versions that nothing refers to, and those that were let go and are in use again."""
        before_ms = self._before()
        standings = {standing.model: standing for standing in await self._store.standings()}
        tagged = {tag.run_id for tag in await self._store.tags()}
        free, taken_back = list[Version](), list[Version]()
        async for page in self._store.with_files(before_ms):
            for each in page:
                standing = standings.get(each.model, Standing(each.model))
                if _is_free(each, standing, tagged, before_ms):
                    free.append(each)
                elif each.let_go_ms is not None:
                    taken_back.append(each)
        return free, taken_back

    def _before(self) -> int:
        if self.retention.keep_ms is None:
            raise BadRetention(
                "TRIMTAB_REGISTRY_ARTIFACT_RETENTION is not set, so all files are kept: set it, such as 90d"
            )
        return self._clock.now_ms() - self.retention.keep_ms

    async def _mark(self, seen: Version, at_ms: int | None) -> None:
        async with self._store.begin() as unit:
            await unit.lock(seen.model)
            version = await lifecycle.the_version(unit, seen.model, seen.number)
            await unit.set_files(replace(version, let_go_ms=at_ms))

    async def _throw_away(self, seen: Version, kept: Collection[str], actor: str) -> Let | None:
        """Throw a version's files away, if it is free still: whoever gives it a use has the same lock."""
        tagged = {tag.run_id for tag in await self._store.tags()}
        async with self._store.begin() as unit:
            standing, now = await unit.lock(seen.model), self._clock.now_ms()
            version = await lifecycle.the_version(unit, seen.model, seen.number)
            let_go_ms = version.let_go_ms
            if (
                let_go_ms is None
                or version.files_gone_ms
                or not _is_free(version, standing, tagged, self._before())
            ):
                return None
            older_ms = min(let_go_ms, self._before()) - _SLACK_MS
            files = [file for file in _files(version, kept) if await self._remove(file, older_ms) != "newer"]
            if not files:  # others need them all, or a run stored them again
                return None
            let = Let(version, tuple(files), now, gone=True)
            await unit.set_files(replace(version, files_gone_ms=now))
            kept_for = format_duration(self.retention.keep_ms or 0)
            await lifecycle.audit(
                unit,
                version,
                "files_removed",
                f"{len(files)} files that nothing had needed for {kept_for} were thrown away",
                actor=actor,
                at_ms=now,
                bytes=let.size,
                digests=[file.digest for file in files],
            )
            return let


def _is_free(version: Version, standing: Standing, tagged: Collection[str], before_ms: int) -> bool:
    served = version.live_from_ms is not None
    last_ms = version.live_to_ms if served else version.created_at_ms  # None: it serves
    return (
        last_ms is not None
        and max(last_ms, version.created_at_ms) < before_ms
        and version.stage is not Stage.ON_TRIAL
        and version.candidate.run_id not in tagged
        and not held_by(standing, version)
    )


def _files(version: Version, kept: Collection[str]) -> Iterator[StoredFile]:
    """Yield the files that a version names and no other one needs; a place that the store did not choose is not ours."""
    for file in {file.digest: file for file in _named(version.candidate.document)}.values():
        if file.digest not in kept and file.uri.endswith(f"/artifacts/{file.digest[:2]}/{file.digest}"):
            yield file


def _named(document: Any) -> Iterator[StoredFile]:
    """Yield every artifact in a document, wherever it stands."""
    if isinstance(document, Mapping):
        if document.get("uri") and document.get("digest"):
            yield StoredFile(document["uri"], document["digest"], int(document.get("size", 0)))
        for held in document.values():
            yield from _named(held)
    elif isinstance(document, list):
        for held in document:
            yield from _named(held)
