"""The history of readings, for whoever asks: what was told, and what is told from now on.

A watch goes on from its position after a break, whichever monitor is asked then: the
readings of a model, and those of a source, are told under its lock, so their sequence rises
as they are seen. One look finds the news for all watchers of a process, and a quiet watcher
costs nothing.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from trimtab_core.metricnames import BY_SUBJECT
from trimtab_core.watched import Reading
from trimtab_runtime.errors import Unavailable

from trimtab_monitoring.errors import BadQuestion
from trimtab_monitoring.usecases.ports import Specs

log = logging.getLogger(__name__)

_PAGE: Final = 500
_LOOK_S: Final = 0.5
_BEAT_S: Final = 30.0
"""A watcher hears at least so often, so that a connection that is gone is noticed."""

Place = tuple[int, str]
"""Where a reading stands in the order of time: when its window ended, and its id."""
START: Final[Place] = (-(2**63), "")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which readings of a model, or else of a source, are asked for; what is empty excludes nothing."""

    model: str = ""
    names: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    version: int = 0
    subject: str = ""
    since_ms: int | None = None
    """Windows that ended at or after it, and before `until_ms`."""
    until_ms: int | None = None
    source: str = ""
    arms: tuple[str, ...] = ()
    slices: tuple[str, ...] = ()
    slices_of: tuple[str, ...] = ()

    @property
    def shelf(self) -> str:
        """Under what the readings of it are kept."""
        return shelf_of(self.source) if self.source else self.model

    def takes(self, reading: Reading) -> bool:
        """Whether a reading of what is named is among them."""
        return (
            (not self.names or reading.name in self.names)
            and (not self.features or reading.feature in self.features)
            and (not self.arms or reading.arm in self.arms)
            and (not self.slices or reading.slice in self.slices)
            and (not self.slices_of or reading.sliced_by in self.slices_of)
            and self.version in (0, reading.version)
            and self.subject in ("", reading.subject)
            and (self.since_ms is None or reading.to_ms >= self.since_ms)
            and (self.until_ms is None or reading.to_ms < self.until_ms)
        )


def shelf_of(source: str) -> str:
    """Return under what a source's readings are kept; those of a model are under its name, and none is called so."""
    return f"source:{source}"


class HistoryStore(Protocol):
    """Where readings are kept, on a shelf for each model and each source; of each reading the newest revision."""

    async def page(self, wanted: Wanted, after: Place, limit: int) -> list[tuple[Place, Reading]]:
        """Return the first readings behind a place, each with its own, in order of time."""
        ...

    async def before_newest(self, wanted: Wanted, number: int) -> Place:
        """Return the place behind which the newest `number` readings are."""
        ...

    async def told(self, shelf: str, after: int, limit: int) -> list[tuple[int, Reading]]:
        """Return readings behind a position, each with its own, in the order in which they were told."""
        ...

    async def position(self, shelf: str, since_ms: int | None) -> int:
        """Return the position behind which all readings of windows are that end at or after a time, or the last."""
        ...

    async def positions(self, shelves: Sequence[str]) -> dict[str, int]:
        """Return the last position of each shelf that has one."""
        ...

    async def forget(self, shelf: str, *, before_ms: int, at_most: int) -> int:
        """Delete up to `at_most` readings of windows that ended before a time, and return how many went."""
        ...


@dataclass(slots=True)
class _Ear:
    """What is known of a shelf that somebody watches."""

    watchers: int = 0
    position: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)


class History:
    """Answers questions about readings."""

    def __init__(self, store: HistoryStore, specs: Specs) -> None:
        self._store = store
        self._specs = specs
        self._ears: dict[str, _Ear] = {}
        self._ended = False

    async def query(self, wanted: Wanted, limit: int = 0) -> AsyncIterator[Sequence[Reading]]:
        """Yield the newest `limit` readings, or all, in order of time, a page at a time.

        Raises:
            BadQuestion: the limit is below 0, there is no such subject, or both a model and a source are named.
            NotFound: there is no such model or source.
            Unavailable: PostgreSQL is away.
        """
        if limit < 0:
            raise BadQuestion(f"limit {limit} is below 0: ask for the newest so many, or for all with 0")
        self._check(wanted)
        place = await self._store.before_newest(wanted, limit) if limit else START
        while page := await self._store.page(wanted, place, _PAGE):
            yield [reading for _, reading in page]
            place = page[-1][0]

    async def watch(self, wanted: Wanted, after: int | None) -> AsyncIterator[tuple[list[Reading], int]]:
        """Yield readings as they are told, with the position up to which they are complete, until the caller ends.

        It begins behind the position `after`, or else with what there is since `wanted.since_ms`, or else now. What
        has no readings says that there is no news, and comes first and whenever it has been quiet for a while.

        Raises:
            BadQuestion: there is no such subject, or both a model and a source are named.
            NotFound: there is no such model or source.
            Unavailable: PostgreSQL is away, or this monitor ends: go on from the last position.
        """
        self._check(wanted)
        ear = self._ears.setdefault(wanted.shelf, _Ear())
        ear.watchers += 1
        try:
            position = await self._store.position(wanted.shelf, wanted.since_ms) if after is None else after
            yield [], position
            while True:
                seen = ear.position
                told = await self._store.told(wanted.shelf, position, _PAGE)
                if told:
                    position = told[-1][0]
                    if found := [reading for _, reading in told if wanted.takes(reading)]:
                        yield found, position
                    continue
                position = max(position, seen)  # what was seen there is forgotten by now
                if not await self._hear(ear, position):
                    yield [], position
        finally:
            ear.watchers -= 1
            if not ear.watchers:
                self._ears.pop(wanted.shelf, None)

    def _check(self, wanted: Wanted) -> None:
        if wanted.model and wanted.source:
            raise BadQuestion(
                f"model {wanted.model!r} and source {wanted.source!r} are two things: name one of them"
            )
        if wanted.source:
            self._specs.source(wanted.source)
        else:
            self._specs.model(wanted.model)
        if wanted.subject and wanted.subject not in BY_SUBJECT:
            raise BadQuestion(
                f"subject {wanted.subject!r} is none of {', '.join(BY_SUBJECT)}: name one of them"
            )

    async def _hear(self, ear: _Ear, position: int) -> bool:
        """Wait until there is something behind a position; False if there was nothing for a while."""
        try:
            async with asyncio.timeout(_BEAT_S):
                while ear.position <= position:
                    if self._ended:
                        raise Unavailable("this monitor ends: watch again from the last position")
                    await ear.news.wait()
        except TimeoutError:
            return False
        return True

    async def work(self) -> None:
        """Look for news of what is watched, until cancelled; then all watches end."""
        try:
            while True:
                await asyncio.sleep(_LOOK_S)
                try:
                    await self._look()
                except Unavailable as error:
                    log.warning("watches of metrics wait: %s", error)
        finally:
            self._ended = True
            for ear in self._ears.values():
                ear.news.set()

    async def _look(self) -> None:
        if not self._ears:
            return
        for shelf, position in (await self._store.positions(list(self._ears))).items():
            ear = self._ears.get(shelf)
            if ear is not None and position > ear.position:
                ear.position = position
                ear.news.set()
                ear.news = asyncio.Event()
