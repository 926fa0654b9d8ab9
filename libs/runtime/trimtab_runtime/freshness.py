"""How fresh the online features are: from the moment an event was produced to the moment it can be read.

What is measured: each record batch of features.<view> that a fold wrote in one
transaction names, in a header of its last slot, when the oldest event that came with it
was produced; a reader notes how long ago that was once the slot is in its memory. So
a note is of the event that waited longest, and includes all stages between. An event
was produced when it arrived at the broker, which its `arrived_at` says; where that is
more than a day off the broker's own clock it is a replay's, and the event counts as
produced when the broker took it on events.<source>. Records that lay on the topic
before the reader came to read it are no news, and are not measured.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from aiokafka.errors import KafkaError
from numpy.typing import NDArray
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Metric
from trimtab_contracts.topics import Topic

from trimtab_runtime import records
from trimtab_runtime.clock import Clock, to_timestamp
from trimtab_runtime.records import Outgoing

log = logging.getLogger(__name__)

PUBLISH_S = 10.0
P50, P99 = "freshness_p50_ms", "freshness_p99_ms"
_HEADER = "tt_produced"
_DAY_MS = 86_400_000
_MOST_NOTES = 10_000


def oldest_ms(arrived_at_ms: NDArray[np.int64], taken_ms: NDArray[np.int64]) -> int | None:
    """Return when the oldest of some events was produced, of when each arrived and when the broker took it."""
    if not len(taken_ms):
        return None
    live = np.abs(taken_ms - arrived_at_ms) <= _DAY_MS
    return int(np.where(live, np.minimum(arrived_at_ms, taken_ms), taken_ms).min())


def header(produced_ms: int) -> tuple[str, bytes]:
    """Return the header that says when the oldest event in a record was produced."""
    return _HEADER, str(produced_ms).encode()


def produced_ms(record: Any) -> int | None:
    """Return what `header` said in a raw record, if it has one."""
    for name, value in record.headers:
        if name == _HEADER and value.isdigit():
            return int(value)
    return None


@dataclass(frozen=True, slots=True)
class Lag:
    """How long one view's events took, in milliseconds."""

    view: str
    notes: int
    p50_ms: float
    p99_ms: float


class Freshness:
    """Notes how long events took; one thread notes and takes, any may look at the last."""

    def __init__(self, clock: Clock, instance: str) -> None:
        self._clock = clock
        self._instance = instance
        self._begun_ms = clock.now_ms()
        self._since_ms: dict[str, int] = {}
        self._notes: dict[str, deque[int]] = {}
        self._last: dict[str, int] = {}

    def follow(self, view: str) -> None:
        """Say that a view is read from now on; one of which nobody said so has been read since the beginning."""
        self._since_ms.setdefault(view, self._clock.now_ms())

    def note(self, view: str, batch: Sequence[Any]) -> None:
        """Note what raw records of a view's topic say, once they can be read."""
        for record in batch:
            if record.headers and (produced := produced_ms(record)) is not None:
                if record.timestamp < self._since_ms.get(view, self._begun_ms):
                    continue
                self._last[view] = lag = max(0, self._clock.now_ms() - produced)
                self._notes.setdefault(view, deque(maxlen=_MOST_NOTES)).append(lag)

    def last_ms(self, view: str) -> int | None:
        """Return how long the newest events of a view took; None if none has come yet."""
        return self._last.get(view)

    def take(self) -> list[Lag]:
        """Return what was noted since the last time, of each view that had news."""
        taken, self._notes = self._notes, {}
        return [
            Lag(view, len(notes), *map(float, np.quantile(notes, (0.5, 0.99))))
            for view, notes in sorted(taken.items())
        ]

    async def publish(self, topic: Topic[Metric], producer: Any) -> None:
        """Publish for ever, every ten seconds, of the views that had news; what Kafka does not take is left untold."""
        from_ms = self._clock.now_ms()
        while True:
            await asyncio.sleep(PUBLISH_S)
            to_ms = self._clock.now_ms()
            found = [metric for lag in self.take() for metric in self._metrics(topic, lag, from_ms, to_ms)]
            try:
                await records.send_all(producer, found)
            except KafkaError as error:  # a report on the present: the next one tells more
                log.warning("how fresh the features are was not told: %r", error)
            from_ms = to_ms

    def _metrics(self, topic: Topic[Metric], lag: Lag, from_ms: int, to_ms: int) -> list[Outgoing]:
        messages = [
            Metric(
                id=f"{self._instance}/{lag.view}/{name}/{to_ms}",
                model=lag.view,
                name=name,
                value=value,
                window_from=to_timestamp(from_ms),
                window_to=to_timestamp(to_ms),
                rows=lag.notes,
            )
            for name, value in ((P50, lag.p50_ms), (P99, lag.p99_ms))
        ]
        return [
            records.outgoing(topic, each, key=lag.view, id=each.id, source=self._instance, time_ms=to_ms)
            for each in messages
        ]
