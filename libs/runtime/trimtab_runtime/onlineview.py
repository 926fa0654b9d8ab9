"""One view's online features in memory: written by whoever follows its topic, read by many threads.

A value is as of the last hop boundary before a row's time and made of completed slots
only, so it changes only when a late slot does; it is computed once and kept. What
makes this right with many readers and one writer:

- a kept value is read without a lock: a single `get` of a dict, and nobody changes an
  array that was put there;
- computing one and keeping it is done under the view's lock, and so is changing slots
  and dropping what was made of them; so no value made of old slots is kept after they
  changed, and no reader sees a slot half written.

The writer takes the lock for a few records at a time, so a reader does not wait long.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec
import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from trimtab_core import specs
from trimtab_core.slots import FoldState, Layout

from trimtab_runtime import featurelog
from trimtab_runtime.featurelog import Applied, Progress

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Statuses = NDArray[np.uint8]
_MOST_KEPT = 200_000
_AT_ONCE = 100


class Status(IntEnum):
    """What a value is; of several that hold, the first of EXPIRED, MISSING, STALE."""

    PRESENT = 0
    MISSING = 1
    """The entity has never been seen, or its window holds nothing that the value could be made of."""
    EXPIRED = 2
    """The entity's newest event is older than the view's time to live."""
    STALE = 3
    """The view has not come as far as the boundary: an event may still be missing from the value."""


class Kept(NamedTuple):
    """What is known of an entity as of a hop boundary, column by column."""

    values: Floats
    statuses: Statuses
    """As if the view had come as far as the boundary."""


class OnlineView:
    """The online state of one generation of a view."""

    def __init__(self, view: specs.FeatureView, source: specs.Source, generation: int) -> None:
        self.name = view.name
        self.spec = view.spec
        self.source = source.spec
        self.generation = generation
        self.layout = Layout.of(view.spec, source.spec.lateness)
        self.until_ms: int | None = None
        """The watermark: every event at or before it is in the features; None until all partitions have one."""
        self._state = FoldState(self.layout)
        self._progress: dict[int, int] = {}
        self._begun: set[int] = set()
        self._kept: dict[int, dict[str, Kept]] = {}
        self._count = 0
        self._lock = threading.Lock()

    def values(self, entities: Sequence[str], event_time_ms: Sequence[int]) -> Floats:
        """Return the features [rows, columns] of each entity at each time; NaN where there is none."""
        found = np.empty((len(entities), len(self.layout.columns)))
        for at, (entity, time_ms) in enumerate(zip(entities, event_time_ms, strict=True)):
            boundary = self.layout.boundary_of(time_ms)
            kept = self._kept.get(boundary)
            value = kept.get(entity) if kept is not None else None
            found[at] = (self._compute(entity, boundary) if value is None else value).values
        return found

    def read(self, entities: Sequence[str], boundary: int) -> tuple[Floats, Statuses]:
        """Return the features and what each is, both [entities, columns], as of one hop boundary."""
        # The watermark comes first: what is read after it holds at least as much as it says.
        whole = self.until_ms is not None and self.until_ms >= boundary - 1
        kept = self._kept.get(boundary, {})
        found = [kept.get(entity) or self._compute(entity, boundary) for entity in entities]
        size = (len(entities), len(self.layout.columns))
        values = np.array([each.values for each in found]).reshape(size)
        statuses = np.array([each.statuses for each in found], np.uint8).reshape(size)
        if not whole:
            statuses[statuses == Status.PRESENT] = Status.STALE
        return values, statuses

    def apply(self, partition: int, records: Sequence[Any]) -> bool:
        """Take in raw records of a partition of the view's topic, and return whether the watermark moved."""
        for at in range(0, len(records), _AT_ONCE):
            with self._lock:
                for applied in self._apply(records[at : at + _AT_ONCE]):
                    self._drop(applied.changed)
                    if applied.progress is not None:
                        self._note(partition, applied.progress)
        if len(self._progress) < self.source.partitions:
            return False
        before, self.until_ms = self.until_ms, min(self._progress.values())
        return self.until_ms != before

    @property
    def is_whole(self) -> bool:
        """Whether all partitions have been begun: all that was folded of them before is here."""
        return len(self._begun) == self.source.partitions

    def _note(self, partition: int, progress: Progress) -> None:
        if not progress.inputs:  # it is begun once more
            self._begun.discard(partition)
            return
        self._begun.add(partition)
        if (least := progress.least_ms()) is not None:
            self._progress[partition] = least

    def _apply(self, records: Sequence[Any]) -> Iterator[Applied]:
        try:
            yield featurelog.apply(self._state, records, self.generation)
        except (msgspec.DecodeError, DecodeError, ValueError) as error:
            if len(records) == 1:
                log.error("record %r of view %r cannot be read: %s", records[0].key, self.name, error)
                return
            for (
                record
            ) in records:  # what was applied before the bad one is applied again, and changes nothing
                yield from self._apply([record])

    def _compute(self, entity: str, boundary: int) -> Kept:
        with self._lock:
            values: Floats = self._state.values([entity], boundary)[0]
            made = Kept(values, self._statuses(values, self._state.last_event_slot(entity), boundary))
            if self._count >= _MOST_KEPT:
                self._kept, self._count = {}, 0
            self._kept.setdefault(boundary, {})[entity] = made
            self._count += 1
        return made

    def _statuses(self, values: Floats, newest: int, boundary: int) -> Statuses:
        if newest >= 0 and (newest + 1) * self.layout.hop_ms + self.spec.ttl <= boundary:
            return np.full(len(values), Status.EXPIRED, np.uint8)
        missing = np.isnan(values) if newest >= 0 else np.ones(len(values), np.bool_)
        return np.where(missing, Status.MISSING, Status.PRESENT).astype(np.uint8)

    def _drop(self, changed: Iterable[tuple[str, int]]) -> None:
        """Forget what was made of slots that have changed: values of boundaries after them."""
        for boundary, kept in self._kept.items():
            first = boundary // self.layout.hop_ms
            for entity, slot in changed:
                if slot < first:
                    kept.pop(entity, None)


class Generations:
    """The generations of one view: the one that is answered from, and the next while it is being begun.

    Whoever folds a view writes all slots of a new generation before it says, partition by partition, how far that has
    come. Until then the one before answers: a change of a view is seen whole, and takes nothing away meanwhile.
    """

    def __init__(self, begin: Callable[[specs.FeatureView, specs.Source, int], OnlineView]) -> None:
        """`begin` returns a generation with what is there of it already."""
        self._begin = begin
        self._next: OnlineView | None = None
        self.current: OnlineView | None = None

    def follow(self, view: specs.FeatureView, source: specs.Source, generation: int) -> None:
        """Begin what a spec says, unless that is done; the first of all generations is answered from at once."""
        if self.current is None:
            self.current = self._begin(view, source, generation)
        elif not _is(self.current, source, generation):
            if self._next is None or not _is(self._next, source, generation):
                self._next = self._begin(view, source, generation)
            self._move_on()

    def apply(self, partition: int, records: Sequence[Any]) -> bool:
        """Take in raw records of the view's topic, and return whether the watermark of `current` moved, or it is another."""
        if self.current is None:
            return False
        moved = self.current.apply(partition, records)
        if self._next is not None:
            self._next.apply(partition, records)
            moved |= self._move_on()
        return moved

    def _move_on(self) -> bool:
        if self._next is None or not self._next.is_whole:
            return False
        self.current, self._next = self._next, None
        return True


def _is(view: OnlineView, source: specs.Source, generation: int) -> bool:
    return view.generation == generation and view.source == source.spec
