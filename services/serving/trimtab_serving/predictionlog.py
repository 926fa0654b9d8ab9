"""The prediction log, from the answer of a request to batches for Kafka.

Requests append to a queue and go on; the control plane empties it. Both sides meet
in two objects only, a deque and a dict, whose single operations are atomic, and in
this order, which is what the watermark rests on:

- a request enters its event time among those in flight *before* it is scored, appends
  its answer, and only *then* leaves;
- the control plane looks at what is in flight *first* and empties the queue *after*,
  so whatever had left by then is in what it finds.

So every answer at or before the watermark of a batch is in that batch or an earlier one, if
its request had entered by then; one of an older time may come after it.
"""

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trimtab_serving.snapshot import Served

BATCH_ROWS = 1000
BATCH_VALUES = 250_000
"""Features in a batch, at 8 bytes each: a record holds 8 MiB."""
_TEXT = 1_000
"""So many features a text counts for: it may be as long as `MOST_CHARACTERS`."""
_OF_A_KEY = 2
"""Characters of a key that count for a feature: one may take four bytes."""
_MOST_WAITING = 50_000


class Answered(NamedTuple):
    """The rows of one request and what was said of them; arrays are [rows], [rows, features] or [rows, classes]."""

    served: Served
    ids: Sequence[str]
    keys: Sequence[str]
    """The label's join key."""
    event_time_ms: Sequence[int]
    answered_ms: int
    champion: NDArray[np.float32]
    challengers: Sequence[NDArray[np.float32]]
    """What each version on trial said; empty if none was."""
    arms: Sequence[int]
    """Which one's answer was given: 0 is the champion, 1 the first challenger; empty if none was on trial."""
    features: NDArray[np.float32]
    latency_us: int
    texts: NDArray[np.object_] | None = None
    took_us: Sequence[int] = ()
    """How long the champion and each version on trial ran, 0 where it could not be asked; empty if none was on trial."""
    features_until_ms: int | None = None
    """The watermark of the online features that were used; None where none were, or there is none yet."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of one model's answers for one partition; without rows it carries the watermark alone."""

    model: str
    partition: int
    watermark_ms: int
    rows: Sequence[tuple[Answered, int]]
    """Answers of one `Served`, each with the place of a row in it."""


class Ticket(NamedTuple):
    """A request in flight."""

    number: int
    model: str
    newest_ms: int


class PredictionLog:
    """Takes answers from many threads, and gives batches to one."""

    def __init__(self, partition_of: Callable[[str], int], partitions: int) -> None:
        self._partition_of = partition_of
        self._partitions = partitions
        self._numbers = itertools.count()
        self._in_flight: dict[int, tuple[str, int]] = {}
        self._queue: deque[Answered | Ticket] = deque()
        self._reached: dict[str, int] = {}
        self._watermark: dict[str, int] = {}
        self._behind: set[str] = set()
        """Models whose watermark may have to move: of a thousand, few have traffic."""
        self.lost = 0
        """Rows that found the queue full: the control plane had not emptied it for a long while."""

    def enter(self, model: str, event_time_ms: Sequence[int]) -> Ticket:
        """Say that a request for these event times is about to be scored."""
        ticket = Ticket(next(self._numbers), model, max(event_time_ms))
        self._in_flight[ticket.number] = (model, min(event_time_ms))
        return ticket

    def add(self, answered: Answered) -> None:
        """Append an answer; never waits and never fails."""
        if len(self._queue) < _MOST_WAITING:
            self._queue.append(answered)
        else:
            self.lost += len(answered.ids)

    def leave(self, ticket: Ticket) -> None:
        """Say that the request is over, answered or refused."""
        self._queue.append(ticket)
        del self._in_flight[ticket.number]

    def passed(self, model: str, time_ms: int) -> None:
        """Say that nothing at or before `time_ms` is going to be asked; only the control plane may."""
        self._reached[model] = max(self._reached.get(model, 0), time_ms)
        self._behind.add(model)

    def drain(self, models: Collection[str]) -> list[Batch]:
        """Return all that was answered since the last time, and where the watermark of one of `models` moved, that.

        A partition's batches come in order; the last of them carries the new watermark.
        """
        in_flight = list(self._in_flight.copy().values())
        groups: dict[tuple[str, int], dict[int, list[tuple[Answered, int]]]] = {}
        for _ in range(len(self._queue)):
            found = self._queue.popleft()
            if isinstance(found, Ticket):
                self.passed(found.model, found.newest_ms)
                continue
            for at, key in enumerate(found.keys):
                place = (found.served.model, self._partition_of(key))
                groups.setdefault(place, {}).setdefault(id(found.served), []).append((found, at))
        batches = []
        behind = [model for model in self._behind if model in models]
        for model in {*behind, *(model for model, _ in groups)}:
            before = self._watermark.get(model, 0)
            after = self._move(model, (from_ms for name, from_ms in in_flight if name == model))
            if after >= self._reached.get(model, 0):
                self._behind.discard(model)
            for partition in range(self._partitions):
                cut = pieces(groups.get((model, partition), {}).values())
                if not cut and after > before:
                    cut = [[]]
                batches += [Batch(model, partition, before, piece) for piece in cut[:-1]]
                batches += [Batch(model, partition, after, piece) for piece in cut[-1:]]
        return batches

    def _move(self, model: str, in_flight: Iterable[int]) -> int:
        """Move the watermark of `model` as far as it may go, never back, and return it."""
        reached = min((self._reached.get(model, 0), *(from_ms - 1 for from_ms in in_flight)))
        self._watermark[model] = max(self._watermark.get(model, 0), reached)
        return self._watermark[model]


def pieces(groups: Iterable[list[tuple[Answered, int]]]) -> list[list[tuple[Answered, int]]]:
    """Return the rows of each group, answers of one `Served`, cut to what one batch may hold."""
    found = []
    for rows in groups:
        first = rows[0][0]
        width = first.features.shape[1] + (0 if first.texts is None else _TEXT * first.texts.shape[1])
        width += (1 + len(first.challengers)) * (first.champion.shape[1] if first.champion.ndim > 1 else 0)
        width += max(len(answered.keys[at]) for answered, at in rows) // _OF_A_KEY
        size = max(1, min(BATCH_ROWS, BATCH_VALUES // max(1, width)))
        found += [rows[at : at + size] for at in range(0, len(rows), size)]
    return found
