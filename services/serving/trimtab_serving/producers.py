"""Kafka door of serving, outwards: what it says, and when.

The prediction log goes through the journal, always: what Kafka has not acknowledged
is on disk, and is sent again in the same order. Everything else is a report on the
present, which a broker that was away gets anew.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from time import monotonic, process_time
from typing import Any

from aiokafka.errors import MessageSizeTooLargeError
from trimtab_runtime import records
from trimtab_runtime.clock import Clock
from trimtab_runtime.pool import Pool
from trimtab_runtime.records import Outgoing

from trimtab_serving.cache import SessionCache
from trimtab_serving.fleet import Fleet, Standing
from trimtab_serving.journal import Journal
from trimtab_serving.messages import Messages, pack, unpack
from trimtab_serving.meter import Meter
from trimtab_serving.mirror import Mirror
from trimtab_serving.predictionlog import Batch, PredictionLog
from trimtab_serving.snapshot import Board

log = logging.getLogger(__name__)

HEARTBEAT_S = 2.0
METRICS_S = 5.0
_AT_ONCE = 50


class LogWriter:
    """Moves the prediction log from memory to the journal, and from there to Kafka."""

    def __init__(
        self, board: Board, predictions: PredictionLog, journal: Journal, messages: Messages
    ) -> None:
        self._board = board
        self._predictions = predictions
        self._journal = journal
        self._messages = messages
        self._more = asyncio.Event()
        self._dropped = 0
        self._lost = 0

    async def flush(self) -> None:
        """Write what was answered since the last time, and how far each model has come."""
        batches = self._predictions.drain(self._board.current.served)
        if not batches:
            return
        if self._journal.append([entry for batch in batches for entry in self._packed(batch)]):
            self._more.set()
            if self._dropped:
                log.error(
                    "the prediction log has room again; %d predictions are missing from it", self._dropped
                )
                self._dropped = 0
        else:
            if not self._dropped:
                log.error(
                    "the prediction log is full while Kafka is away: raise TRIMTAB_SERVING_LOG_LIMIT_MB"
                )
            self._dropped += sum(len(batch.rows) for batch in batches)
        if self._predictions.lost > self._lost:
            log.error(
                "%d predictions were not logged: they came faster than they could be written",
                self._predictions.lost - self._lost,
            )
            self._lost = self._predictions.lost

    def _packed(self, batch: Batch) -> Iterator[bytes]:
        """Yield the journal's entry for a batch: none where it cannot be said, for nothing may end what answers."""
        try:
            yield pack(self._messages.predictions(batch))
        except Exception:
            log.exception(
                "%d predictions of %r cannot be logged, and are missing", len(batch.rows), batch.model
            )

    def features_moved(self, models: Iterable[str]) -> None:
        """Carry the log's watermark along with that of the features, so that a quiet model holds nobody up.

        A row is asked about when it happens, long before the events of its time are complete.
        """
        all_served = self._board.current.served
        for served in [all_served[model] for model in models if model in all_served]:
            if (until := served.reader.features_until_ms()) is not None:
                self._predictions.passed(served.model, until - 1)

    async def ship(self, producer: Any) -> None:
        """Send what the journal holds, for ever; what is not acknowledged is sent again by the next call."""
        self._journal.rewind()
        while True:
            self._more.clear()
            entries, place = self._journal.read()
            if not entries:
                await self._more.wait()
                continue
            await self._send(producer, [unpack(entry) for entry in entries])
            self._journal.acknowledge(place)

    async def _send(self, producer: Any, batches: Sequence[Outgoing]) -> None:
        """Send batches, but those that no broker would ever take."""
        try:
            await records.send_all(producer, batches)
        except MessageSizeTooLargeError as error:
            if len(batches) > 1:  # some of which went out already, and are known by their ids
                for batch in batches:
                    await self._send(producer, [batch])
            else:
                log.error(
                    "a batch of the prediction log is left out, and its predictions are missing: %s", error
                )

    async def shipped(self) -> None:
        """Wait until Kafka has everything."""
        while not self._journal.is_empty:
            await asyncio.sleep(0.01)


class Heartbeat:
    """Says what is loaded: every two seconds, and at once of the models where something changes."""

    def __init__(self, fleet: Fleet, messages: Messages) -> None:
        self._fleet = fleet
        self._messages = messages
        self._changed: set[str] = set()
        self._news = asyncio.Event()

    def changed(self, models: Iterable[str]) -> None:
        """Let what is loaded of some models go out at once."""
        self._changed.update(models)
        self._news.set()

    async def beat(self, producer: Any) -> None:
        """Beat for ever; a few models at a time, so that a thousand keep no request waiting."""
        while True:
            due = self._fleet.standings()
            until = asyncio.get_running_loop().time() + HEARTBEAT_S
            for at in range(0, len(due), _AT_ONCE):
                models = [standing.wanted.model for standing in due[at : at + _AT_ONCE]]
                await self._say(producer, self._fleet.standings(models))
                await asyncio.sleep(HEARTBEAT_S / 2 * _AT_ONCE / len(due) if len(due) > _AT_ONCE else 0)
                await self._say_news(producer)
            while (wait_s := until - asyncio.get_running_loop().time()) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._news.wait()
                await self._say_news(producer)

    async def _say_news(self, producer: Any) -> None:
        self._news.clear()
        changed, self._changed = self._changed, set()
        await self._say(producer, self._fleet.standings(changed))

    async def _say(self, producer: Any, standings: Sequence[Standing]) -> None:
        if standings:
            await records.send_all(producer, [self._messages.status(it) for it in standings])


class Watermarks:
    """Says how far the features of each view have come here, at once when that moves."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._reached: dict[str, int] = {}
        self._moved = asyncio.Event()

    def move(self, view: str, time_ms: int) -> None:
        """Take a view's watermark."""
        self._reached[view] = time_ms
        self._moved.set()

    async def publish(self, producer: Any) -> None:
        """Publish for ever; the first time, everything."""
        said: dict[str, int] = {}
        while True:
            self._moved.clear()
            news = {view: at for view, at in self._reached.items() if said.get(view) != at}
            await records.send_all(
                producer, [self._messages.watermark(view, at) for view, at in news.items()]
            )
            said |= news
            await self._moved.wait()


class Gauge:
    """Reads how full an instance is, what to scale it by, and whether it could start again without Kafka."""

    def __init__(self, threads: Pool, fleet: Fleet, cache: SessionCache, mirror: Mirror) -> None:
        self._threads = threads
        self._fleet = fleet
        self._cache = cache
        self._mirror = mirror
        self._before = self._now()

    def read(self) -> dict[str, float]:
        """Return each measure since the last reading, by name."""
        before, self._before = self._before, self._now()
        wall_s, cpu_s, calls, waited_ns, loads = (
            now - then for now, then in zip(self._before, before, strict=True)
        )
        standings = self._fleet.standings()
        return {
            "queue_ms": waited_ns / 1e6 / calls if calls else 0.0,
            "utilisation": cpu_s / wall_s if wall_s else 0.0,
            "cold_loads": loads,
            "versions_warm": sum(is_warm for it in standings for _, is_warm, _ in it.versions),
            "versions_cold": sum(len(it.cold) for it in standings),
            "memory_bytes": self._cache.used_bytes(),
            "copy_behind_s": self._mirror.behind_s(),
        }

    def _now(self) -> tuple[float, ...]:
        done = self._threads.tally()
        return monotonic(), process_time(), done.calls, done.waited_ns, self._cache.reopened


async def measure(meter: Meter, gauge: Gauge, messages: Messages, clock: Clock, producer: Any) -> None:
    """Publish every five seconds what was counted of the models that had traffic, and how full the instance is."""
    from_ms = clock.now_ms()
    while True:
        await asyncio.sleep(METRICS_S)
        to_ms = clock.now_ms()
        found = [record for traffic in meter.take() for record in messages.metrics(traffic, from_ms, to_ms)]
        found += messages.gauges(gauge.read(), from_ms, to_ms)
        await records.send_all(producer, found)
        from_ms = to_ms
