"""Takes a file's rows straight to the archive, each once, whatever is interrupted.

The archive itself holds how far a file has come. What the contract refuses of a part
goes to raw.<source>, where it becomes dead letters, before the rest of the part is
taken; so whoever goes on in another process finds each row in one place.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from trimtab_core.specs import FeatureView, Source
from trimtab_runtime import bus, records, specbook
from trimtab_runtime.errors import NotFound

from trimtab.client import Backfilled, Trimtab
from trimtab.ingest import Arrived, Job, Ready, Sending, ahead, chunks, patiently
from trimtab.rawlog import watermarks
from trimtab.replay import Watermarks

MOST_ROWS = 50_000
"""Of one part: a commit of the archive."""
MOST_BYTES = 16 * 1024 * 1024
"""Of one part that has several rows: well under what gRPC lets through."""

_HEARD_S, _POLL_S = 10.0, 0.1
"""How long the feature store may take to hear of a source that was applied."""


class Archive(Protocol):
    """Where rows are kept."""

    async def backfill(
        self,
        source: str,
        file: str,
        *,
        after: int,
        until: int,
        numbers: Sequence[int],
        rows: Sequence[bytes],
        arrived_at_ms: Sequence[int],
    ) -> Backfilled:
        """Return once a part is archived, or with what is refused of it."""
        ...


@dataclass(slots=True)
class Progress:
    """What has been done so far, and what is waited for."""

    until: int
    """The archive has the file up to this row."""
    archived: int = 0
    """Rows, by this run."""
    repeats: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """How many rows have each reason; a row may have several."""
    letters: int = 0
    """Rows that were refused."""
    waits: str = ""
    """Why nothing moves, if nothing does."""


class Filling:
    """Takes the rows of one file."""

    def __init__(
        self,
        archive: Archive,
        refused: Sending,
        job: Job,
        *,
        until: int,
        arrived: Arrived,
        patience_s: float = 300.0,
        on_progress: Callable[[Progress], None] = lambda _: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make ready; nothing is asked of anybody yet.

        Args:
            archive: where rows are kept.
            refused: sends what the contract refuses.
            job: how far that has come.
            until: the row up to which the archive has the file.
            arrived: tells when a row arrived.
            patience_s: how long an outage is waited for.
            on_progress: hears of each part, and of what is waited for.
            sleep: waits so many seconds.
            monotonic: tells the seconds of the wall clock.
        """
        self.progress = Progress(until)
        self._archive = archive
        self._refused = refused
        self._job = job
        self._arrived = arrived
        self._patience_s = patience_s
        self._on_progress = on_progress
        self._sleep = sleep
        self._monotonic = monotonic

    async def fill(self, rows: Iterable[Ready]) -> None:
        """Take `rows`, which begin behind what the archive has.

        Raises:
            Unavailable: an outage lasted longer than the patience; the same again goes on.
            Rejected: the source does not take them.
        """
        async for part in ahead(chunks(rows, most_rows=MOST_ROWS, most_bytes=MOST_BYTES)):
            await self._take(part, part[-1].number)

    async def _take(self, part: Sequence[Ready], until: int) -> None:
        """Return once the part is in the archive, and what is refused of it in raw.<source>."""
        answer = await self._asked(part, until)
        while answer.refused:  # once more only if the contract changes meanwhile
            wrong = [row for row in part if row.number in answer.refused]
            await self._refused.send([row for row in wrong if row.number > self._job.acknowledged])
            self.progress.refused.update(reason for each in answer.refused.values() for reason in each)
            self.progress.letters += len(wrong)
            part = [row for row in part if row.number not in answer.refused]
            answer = await self._asked(part, until)
        self.progress.until = answer.until
        self.progress.archived += len(part) - answer.repeats
        self.progress.repeats += answer.repeats
        self._tell()

    async def _asked(self, part: Sequence[Ready], until: int) -> Backfilled:
        async def attempt() -> Backfilled:
            return await self._archive.backfill(
                self._job.source,
                self._job.digest,
                after=self.progress.until,
                until=until,
                numbers=[row.number for row in part],
                rows=[row.payload for row in part],
                arrived_at_ms=[self._arrived(row) for row in part],
            )

        return await patiently(
            attempt, self._patience_s, self._tell, sleep=self._sleep, monotonic=self._monotonic
        )

    def _tell(self, waits: str = "") -> None:
        self.progress.waits = waits
        self._on_progress(self.progress)


async def come(trimtab: Trimtab, source: str, file: str) -> int:
    """Return the row up to which the archive has a file of a source that the registry knows.

    Raises:
        NotFound: the feature store has not heard of the source in time.
    """
    until_s = time.monotonic() + _HEARD_S
    while True:
        try:
            return (await trimtab.backfill(source, file)).until
        except NotFound:
            if time.monotonic() > until_s:
                raise
            await asyncio.sleep(_POLL_S)


async def begin_anew(trimtab: Trimtab, source: Source, servers: str, *, actor: str) -> list[str]:
    """Move a source's event time on as ingestion would have, and have its views made of all that is archived.

    Returns the views' names.

    Raises:
        Unavailable: a service is away, or event time does not come as far as the archive in time.
    """
    newest_ms = (await trimtab.backfill(source.name, "")).newest_ms
    if newest_ms is not None:
        await _move_on(source, servers, newest_ms - source.spec.lateness)
    views = [specbook.from_message(each) for each in await trimtab.resources("FeatureView")]
    names = [view.name for view in views if isinstance(view, FeatureView) and view.spec.source == source.name]
    for name in names:
        reason = f"history of source {source.name} was taken to the archive"
        await trimtab.rebuild(name, actor=actor, reason=reason)
    return names


async def _move_on(source: Source, servers: str, time_ms: int) -> None:
    """Return once the archive has come to a time: a view that begins takes of it what is not too old by then."""
    reached = Watermarks(servers)
    async with bus.open_producer(servers) as producer, asyncio.TaskGroup() as tasks:
        following = tasks.create_task(reached.follower.run())
        await records.send_all(producer, watermarks(source.name, source.spec.partitions, time_ms))
        await reached.wait("archive", source.name, time_ms)
        following.cancel()
