"""Sends a file's rows to a source, each once, whatever is interrupted.

A row's id is the digest of its file and its number, and goes along with it to
raw.<source>. A job's file says up to which row Kafka has acknowledged all, and from
which offsets on later ones would lie. Whoever goes on, after an outage or in another
process, first waits until nothing is on its way any more, then reads from those
offsets which rows of the batch in doubt have arrived, and sends the others.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from trimtab_contracts.topics import MOST_ROW_BYTES
from trimtab_core.contract import Contract, Reason
from trimtab_core.timestamps import NOT_A_TIME
from trimtab_runtime.clock import iso
from trimtab_runtime.errors import Rejected, Unavailable

from trimtab.client import MOST_REQUEST_BYTES, MOST_ROWS
from trimtab.files import Row
from trimtab.typed import Typing

_LOOK_ROWS = 100_000
"""After so many rows the offsets are looked up anew, so that there is never much to read when going on."""
T = TypeVar("T")
TimeOf = Callable[[Mapping[str, Any]], int]
"""Reads a time out of a row's fields; `NOT_A_TIME` where there is none."""
_PAUSES_S = (0.2, 0.5, 1.0, 2.0)


class Door(Protocol):
    """Where rows go in."""

    async def ingest(
        self, source: str, rows: Sequence[bytes], *, ids: Sequence[str], arrived_at_ms: Sequence[int]
    ) -> int:
        """Return once Kafka has acknowledged all rows; Unavailable leaves open which."""
        ...

    async def settle(self, source: str) -> None:
        """Return once nothing that was sent before is still on its way."""
        ...


class Log(Protocol):
    """Where rows can be looked up."""

    async def ends(self, source: str) -> dict[int, int]:
        """Return the offset behind the last record of each partition."""
        ...

    async def ids(self, source: str, since: Mapping[int, int], prefix: str) -> set[str]:
        """Return the ids that begin with `prefix`, from the offsets `since` on."""
        ...


@dataclass(slots=True)
class Job:
    """How far one file has come into one source."""

    source: str
    digest: str
    acknowledged: int = 0
    """Kafka has acknowledged all rows up to this number."""
    ends: dict[int, int] | None = None
    """Rows after those lie at these offsets of raw.<source> or behind; None while none can."""
    too_large: list[int] = field(default_factory=list)
    """Numbers of the rows that no record can hold."""
    path: Path | None = None
    """Where this is kept, if it is."""

    @classmethod
    def read(cls, path: Path, source: str, digest: str) -> "Job":
        """Return what is kept at `path`, a new job if nothing is that can be read."""
        try:
            kept = json.loads(path.read_text())
            ends = kept["ends"] and {int(number): int(offset) for number, offset in kept["ends"].items()}
            return cls(source, digest, int(kept["acknowledged"]), ends, kept["too_large"], path)
        except FileNotFoundError:
            return cls(source, digest, path=path)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            said = f"{path} cannot be read ({error}): remove it, and all rows are sent anew"
            raise Rejected(said) from error

    def save(self) -> None:
        """Keep it, whole or not at all."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({**asdict(self), "path": None}) + "\n")
        os.replace(new, self.path)

    def id_of(self, number: int) -> str:
        """Return the id of a row."""
        return f"{self.digest[:16]}/{number}"


@dataclass(frozen=True, slots=True)
class Ready:
    """A row that is ready to be sent."""

    number: int
    id: str
    payload: bytes
    event_ms: int
    """`NOT_A_TIME` where the row says none."""
    stated_ms: int = NOT_A_TIME
    """When it arrived, where a field of it says so."""


Arrived = Callable[[Ready], int]
"""Tells when a row arrived."""


@dataclass(slots=True)
class Progress:
    """What has been done so far, and what is waited for."""

    sent: int = 0
    """Rows sent by this run and acknowledged."""
    found: int = 0
    """Rows of a batch in doubt that turned out to be in Kafka."""
    waits: str = ""
    """Why nothing moves, if nothing does."""


class Sending:
    """Sends the rows of one job."""

    def __init__(
        self,
        door: Door,
        log: Log,
        job: Job,
        *,
        arrived: Arrived,
        speed: float | None = None,
        idle: Callable[[], bool] = lambda: False,
        patience_s: float = 300.0,
        on_progress: Callable[[Progress], None] = lambda _: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make ready to send; nothing is asked of anybody yet.

        Args:
            door: where rows go in.
            log: where they can be looked up.
            job: how far it has come.
            arrived: tells when a row arrived.
            speed: event time over real time; None for as fast as they are taken.
            idle: whether the next row may be long in coming, so that those at hand are not held back.
            patience_s: how long an outage is waited for.
            on_progress: hears of each batch, and of what is waited for.
            sleep: waits so many seconds.
            monotonic: tells the seconds of the wall clock.
        """
        self.progress = Progress()
        self._door = door
        self._log = log
        self._job = job
        self._arrived = arrived
        self._speed = speed
        self._idle = idle
        self._patience_s = patience_s
        self._on_progress = on_progress
        self._sleep = sleep
        self._monotonic = monotonic
        self._began: tuple[float, int] | None = None
        self._in_doubt = job.ends is not None
        self._known: set[str] = set()
        self._looked_at = job.acknowledged

    async def send(self, rows: Iterable[Ready]) -> None:
        """Send `rows`, those that are acknowledged left out by the caller, and keep the job up to date.

        Raises:
            Unavailable: an outage lasted longer than the patience; the job can be gone on with.
            Rejected: the source does not take them.
        """
        async for chunk in ahead(chunks(rows, self._idle)):
            async for batch in self._paced(chunk):
                await self._deliver(batch)
        self._job.ends = None
        self._job.save()

    async def _paced(self, chunk: Sequence[Ready]) -> AsyncIterator[Sequence[Ready]]:
        """Cut a chunk where the next row is not yet due, and wait for it; a row that goes back in time is due."""
        start = 0
        for at, row in enumerate(chunk):
            if (wait := self._wait_s(row)) > 0:
                if start < at:
                    yield chunk[start:at]
                    start, wait = at, self._wait_s(row)
                if wait > 1:
                    self._tell(waits=f"until it is {iso(row.event_ms)} at this speed")
                await self._sleep(max(wait, 0))
        yield chunk[start:]

    def _wait_s(self, row: Ready) -> float:
        if self._speed is None or row.event_ms == NOT_A_TIME:
            return 0.0
        now = self._monotonic()
        self._began = self._began or (now, row.event_ms)
        return self._began[0] + (row.event_ms - self._began[1]) / 1000 / self._speed - now

    async def _deliver(self, batch: Sequence[Ready]) -> None:
        """Return once Kafka has acknowledged every row of `batch`, however often that must be tried."""

        async def attempt() -> Sequence[Ready]:
            missing = await self._missing(batch)
            if missing:
                self._in_doubt = True
                await self._door.ingest(
                    self._job.source,
                    [row.payload for row in missing],
                    ids=[row.id for row in missing],
                    arrived_at_ms=[self._arrived(row) for row in missing],
                )
                self._in_doubt = False
            return missing

        missing = await patiently(
            attempt,
            self._patience_s,
            lambda waits: self._tell(waits=waits),
            sleep=self._sleep,
            monotonic=self._monotonic,
        )
        self._job.acknowledged = batch[-1].number
        self._job.save()
        self.progress.sent += len(missing)
        self.progress.found += len(batch) - len(missing)
        self._tell()

    async def _missing(self, batch: Sequence[Ready]) -> Sequence[Ready]:
        """Return the rows that are not in Kafka; where that is in doubt, wait until it can be told, and look."""
        job = self._job
        if self._in_doubt and job.ends is not None:
            await self._door.settle(job.source)
            self._known = await self._log.ids(job.source, job.ends, job.id_of(0)[:-1])
            self._in_doubt = False
        if job.ends is None or job.acknowledged - self._looked_at >= _LOOK_ROWS:
            job.ends = await self._log.ends(job.source)
            self._looked_at = job.acknowledged
            job.save()
        return [row for row in batch if row.id not in self._known]

    def _tell(self, *, waits: str = "") -> None:
        self.progress.waits = waits
        self._on_progress(self.progress)


def ready(
    rows: Iterable[Row],
    typing: Typing,
    event_time_ms: TimeOf,
    job: Job,
    *,
    after: int,
    stated_ms: TimeOf = lambda _: NOT_A_TIME,
) -> Iterator[Ready]:
    """Make ready the rows of a job behind row `after`; those that no record can hold are noted in it."""
    for row in rows:
        if row.number <= after:
            continue
        row_id = job.id_of(row.number)
        fields, payload = typing.typed(row, row_id)
        if len(payload) <= MOST_ROW_BYTES:
            yield Ready(row.number, row_id, payload, event_time_ms(fields), stated_ms(fields))
        elif row.number not in job.too_large:
            job.too_large.append(row.number)


def refusals(contract: Contract, rows: Sequence[Ready], arrived: Arrived) -> list[Sequence[Reason]]:
    """Return why the contract would refuse each of some rows; nothing for those that keep it."""
    arrivals = np.array([arrived(row) for row in rows], np.int64)
    return list(contract.check([row.payload for row in rows], arrivals).reasons)


async def patiently(
    attempt: Callable[[], Awaitable[T]],
    patience_s: float,
    on_wait: Callable[[str], None],
    *,
    sleep: Callable[[float], Awaitable[None]],
    monotonic: Callable[[], float],
) -> T:
    """Return what `attempt` does, however often that must be tried; say what is waited for.

    Raises:
        Unavailable: an outage lasted longer than the patience.
    """
    since, tries = monotonic(), 0
    while True:
        try:
            return await attempt()
        except Unavailable as error:
            if monotonic() - since > patience_s:
                raise
            on_wait(str(error))
            await sleep(_PAUSES_S[min(tries, len(_PAUSES_S) - 1)])
            tries += 1


async def ahead(chunks: Iterator[Sequence[Ready]]) -> AsyncIterator[Sequence[Ready]]:
    """Yield chunks; a thread reads on while one is on its way, and waits where nothing comes on a pipe."""
    read_on = partial(asyncio.get_running_loop().run_in_executor, None, next, chunks, None)
    upcoming = read_on()
    while chunk := await upcoming:
        upcoming = read_on()
        yield chunk


def chunks(
    rows: Iterable[Ready],
    idle: Callable[[], bool] = lambda: False,
    *,
    most_rows: int = MOST_ROWS,
    most_bytes: int = MOST_REQUEST_BYTES,
) -> Iterator[Sequence[Ready]]:
    """Cut rows into what one request takes, and wherever the next may be long in coming."""
    chunk: list[Ready] = []
    size = 0
    for row in rows:
        if chunk and (len(chunk) == most_rows or size + len(row.payload) > most_bytes):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += len(row.payload)
        if idle():
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
