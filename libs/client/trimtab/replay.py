"""Plays history through a running Trimtab, in lockstep.

One step of event time at a time: the step's predictions are asked, then its events
are sent with a watermark, then the replay waits until features, serving and
monitoring report that they have come so far. While a run, a load or a swap is in
flight it holds still, so a year replayed in minutes decides as a year lived. Runs
are charged no event time: a candidate serves from the step after the one in which it
was ordered.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from aiokafka import AIOKafkaProducer
from numpy.typing import NDArray
from trimtab_contracts import topics
from trimtab_runtime import records
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.follow import Follower
from trimtab_runtime.records import Outgoing

from trimtab.client import Trimtab

BUSY = frozenset({"triggered", "commanded", "training", "gating", "loading", "promoting", "rolling_back"})
"""States of a loop in which the world holds still."""
PATIENCE_S = 180.0


@dataclass(frozen=True, slots=True)
class Stream:
    """A source's rows in the order in which they arrived."""

    source: str
    partitions: int
    arrived_ms: NDArray[np.int64]
    keys: Sequence[bytes]
    payloads: Sequence[bytes]

    def between(self, start_ms: int, end_ms: int) -> range:
        """Return the places of the rows that arrived in [start, end)."""
        low, high = np.searchsorted(self.arrived_ms, [start_ms, end_ms], side="left")
        return range(int(low), int(high))


@dataclass(frozen=True, slots=True)
class Requests:
    """Rows that an application asks predictions for, in order of event time."""

    model: str
    event_time_ms: NDArray[np.int64]
    rows: Sequence[dict[str, Any]]
    label_within_ms: int

    def between(self, start_ms: int, end_ms: int) -> range:
        """Return the places of the requests of [start, end)."""
        low, high = np.searchsorted(self.event_time_ms, [start_ms, end_ms], side="left")
        return range(int(low), int(high))


@dataclass(slots=True)
class Tally:
    """What has been sent, asked and answered so far."""

    events: int = 0
    predictions: int = 0
    failed_requests: int = 0
    failures: list[str] = field(default_factory=list)


class Watermarks:
    """How far each stage has come, as the `watermarks` topic tells."""

    def __init__(self, servers: str) -> None:
        self._reached: dict[tuple[str, str, int, str], int] = {}
        self._moved = asyncio.Event()
        self.follower = Follower(servers, [topics.WATERMARKS.name], self._hear)

    async def _hear(self, _: str, __: int, batch: Sequence[Any]) -> None:
        for record in batch:
            if record.value is not None:
                mark = topics.WATERMARKS.decode(record.value)
                self._reached[mark.stage, mark.name, mark.partition, mark.instance] = from_timestamp(
                    mark.time
                )
        self._moved.set()

    def reached(self, stage: str, name: str, partitions: int = 1) -> int | None:
        """Return the event time that all partitions and instances of a stage have reached."""
        found = {place[2]: at for place, at in self._reached.items() if place[:2] == (stage, name)}
        if len(found) < partitions:
            return None
        return min(at for place, at in self._reached.items() if place[:2] == (stage, name))

    async def wait(self, stage: str, name: str, until_ms: int, *, partitions: int = 1) -> None:
        """Wait until a stage has reached `until_ms`.

        Raises:
            Unavailable: it did not in time; it says how far it came.
        """
        try:
            async with asyncio.timeout(PATIENCE_S):
                while (self.reached(stage, name, partitions) or 0) < until_ms:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError as error:
            at = self.reached(stage, name, partitions)
            came = "never reported" if at is None else f"stands at {iso(at)}"
            raise Unavailable(
                f"stage {stage} of {name} {came}, and {iso(until_ms)} was waited for: see its log"
            ) from error


class Replay:
    """A replay of streams, and of the requests an application made meanwhile."""

    def __init__(
        self,
        trimtab: Trimtab,
        producer: AIOKafkaProducer,
        watermarks: Watermarks,
        streams: Sequence[Stream],
        views: Sequence[tuple[str, int]],
        requests: Requests | None = None,
        *,
        rows_per_request: int = 16,
    ) -> None:
        """`views` are the names of the feature views with their numbers of partitions."""
        self.tally = Tally()
        self.streams = streams
        self.requests = requests
        self._trimtab = trimtab
        self._producer = producer
        self._watermarks = watermarks
        self._views = views
        self._rows_per_request = rows_per_request
        self._asked_until_ms: int | None = None

    async def backfill(
        self, start_ms: int, end_ms: int, *, chunk_ms: int, on_chunk: Callable[[int], None]
    ) -> None:
        """Send history as fast as it is taken, and wait until features and archive hold all of it."""
        for at in range(start_ms, end_ms, chunk_ms):
            until = min(at + chunk_ms, end_ms)
            await self._send(at, until)
            on_chunk(until)
        await self._settled(end_ms)
        for stream in self.streams:
            await self._watermarks.wait("archive", stream.source, end_ms)

    async def step(self, start_ms: int, end_ms: int) -> None:
        """Live one step of event time, and wait until nothing of it is left to be done."""
        await self.play(start_ms, end_ms)
        await self._settled(end_ms)
        if self.requests is not None and self._asked_until_ms is not None:
            closed = min(self._asked_until_ms, end_ms - self.requests.label_within_ms)
            await self._watermarks.wait("monitoring", self.requests.model, closed)
            await self.hold()

    async def play(self, start_ms: int, end_ms: int) -> None:
        """Ask and send one step of event time, and wait for no stage."""
        await self._ask(start_ms, end_ms)
        await self._send(start_ms, end_ms)

    async def hold(self) -> None:
        """Wait while a run, a load or a swap of the model is in flight; a monitoring that is away is waited for.

        Raises:
            Unavailable: it did not come to rest in time; it says what was in flight.
        """
        assert self.requests is not None
        last = ""
        for _ in range(int(PATIENCE_S / 0.05)):
            try:
                loops = await self._trimtab.loops(self.requests.model, open_only=True)
            except Unavailable as error:
                last = str(error)
            else:
                busy = {loop.id: loop.state for loop in loops if loop.state in BUSY}
                if not busy:
                    return
                last = str(busy)
            await asyncio.sleep(0.05)
        raise Unavailable(
            f"the loops of {self.requests.model} did not come to rest in {PATIENCE_S:.0f} s: {last}; "
            "see the services' logs"
        )

    async def _ask(self, start_ms: int, end_ms: int) -> None:
        if self.requests is None or not (places := self.requests.between(start_ms, end_ms)):
            return
        rows = self.requests.rows
        size = self._rows_per_request
        chunks = [rows[at : min(at + size, places.stop)] for at in range(places.start, places.stop, size)]
        await asyncio.gather(*[self._predict(self.requests.model, chunk) for chunk in chunks])
        self._asked_until_ms = int(self.requests.event_time_ms[places.stop - 1])

    async def _predict(self, model: str, rows: Sequence[dict[str, Any]]) -> None:
        try:
            answer = await self._trimtab.predict(model, rows)
            self.tally.predictions += len(answer.predictions)
        except Exception as error:  # counted and told: an application's failure is what the replay is to show
            self.tally.failed_requests += 1
            self.tally.failures.append(str(error))

    async def _send(self, start_ms: int, end_ms: int) -> None:
        for stream in self.streams:
            topic = topics.RAW.named(stream.source).name
            places = stream.between(start_ms, end_ms)
            await records.send_all(
                self._producer,
                [
                    Outgoing(
                        topic,
                        stream.keys[at],
                        stream.payloads[at],
                        [records.IS_JSON, ("ce_arrivedat", iso(int(stream.arrived_ms[at])).encode())],
                    )
                    for at in places
                ],
            )
            self.tally.events += len(places)
            await records.send_all(
                self._producer,
                [
                    Outgoing(
                        topic,
                        None,
                        b"",
                        records.watermark_headers(
                            source=stream.source, time_ms=end_ms, origin=number, origins=stream.partitions
                        ),
                        number,
                    )
                    for number in range(stream.partitions)
                ],
            )

    async def _settled(self, until_ms: int) -> None:
        for view, partitions in self._views:
            await self._watermarks.wait("features", view, until_ms, partitions=partitions)
            await self._watermarks.wait("serving", view, until_ms)
