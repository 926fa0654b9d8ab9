"""One view's online features: written by whoever follows its topic, read by many threads.

A value is as of the last hop boundary before a row's time and made of completed slots
only, so it changes only when a late slot does; it is computed once and kept. What
makes this right with many readers and one writer:

- a kept value is read without a lock: a single `get` of a dict, and nobody changes an
  array that was put there;
- computing one and keeping it is done under the view's lock, and so is changing slots
  and dropping what was made of them; so no value made of old slots is kept after they
  changed, and no reader sees a slot half written.

The writer takes the lock for a few records at a time, so a reader does not wait long.
What a value is does not depend on where the slots lie: `Answers` says it, and
`OnlineView` holds the slots in memory.
"""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Any, Generic, NamedTuple, Self, TypeVar

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


class Answers(ABC):
    """What one generation of a view answers, wherever its slots lie."""

    def __init__(self, view: specs.FeatureView, source: specs.Source, generation: int) -> None:
        self.view = view
        self.name = view.name
        self.spec = view.spec
        self.source = source.spec
        self.generation = generation
        self.layout = Layout.of(view.spec, source.spec.lateness)
        self.until_ms: int | None = None
        """The watermark: every event at or before it is in the features; None until all partitions have one."""
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
            found[at] = (self._compute([entity], boundary)[0] if value is None else value).values
        return found

    def read(self, entities: Sequence[str], boundary: int) -> tuple[Floats, Statuses]:
        """Return the features and what each is, both [entities, columns], as of one hop boundary."""
        # The watermark comes first: what is read after it holds at least as much as it says.
        whole = self.until_ms is not None and self.until_ms >= boundary - 1
        kept = self._kept.get(boundary, {})
        found = {entity: value for entity in entities if (value := kept.get(entity)) is not None}
        if lacking := [entity for entity in dict.fromkeys(entities) if entity not in found]:
            found.update(zip(lacking, self._compute(lacking, boundary), strict=True))
        size = (len(entities), len(self.layout.columns))
        values = np.array([found[entity].values for entity in entities]).reshape(size)
        statuses = np.array([found[entity].statuses for entity in entities], np.uint8).reshape(size)
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
        return self._look()

    def over(self, source: specs.Source) -> Self:
        """Return the same over what the source is by now: another lateness is another ring."""
        if source.spec == self.source:
            return self
        other = self._on(source)
        other._progress, other._begun, other.until_ms = dict(self._progress), set(self._begun), self.until_ms
        return other

    @property
    def is_whole(self) -> bool:
        """Whether all partitions have been begun: all that was folded of them before is here."""
        return len(self._begun) == self.source.partitions

    @abstractmethod
    def _on(self, source: specs.Source) -> Self:
        """Return the same slots over what the source is by now."""

    @abstractmethod
    def _take(self, records: Sequence[Any]) -> Applied:
        """Take records in under the lock, and return what they changed.

        Raises:
            msgspec.DecodeError, DecodeError, ValueError: one of them cannot be read.
        """

    @abstractmethod
    def _compute(self, entities: Sequence[str], boundary: int) -> Sequence[Kept]:
        """Return what each entity is as of a hop boundary, none of them twice, and keep it."""

    def _note(self, partition: int, progress: Progress) -> None:
        if not progress.inputs:  # it is begun once more
            self._begun.discard(partition)
            return
        self._begun.add(partition)
        if (least := progress.least_ms()) is not None:
            self._progress[partition] = least

    def _look(self) -> bool:
        """Set the watermark by how far the partitions have come, and return whether it moved."""
        if len(self._progress) < self.source.partitions:
            return False
        before, self.until_ms = self.until_ms, min(self._progress.values())
        return self.until_ms != before

    def _apply(self, records: Sequence[Any]) -> Iterator[Applied]:
        try:
            yield self._take(records)
        except (msgspec.DecodeError, DecodeError, ValueError) as error:
            if len(records) == 1:
                log.error("record %r of view %r cannot be read: %s", records[0].key, self.name, error)
                return
            for (
                record
            ) in records:  # what was applied before the bad one is applied again, and changes nothing
                yield from self._apply([record])

    def _made(
        self, state: FoldState, entities: Sequence[str], boundary: int, but: Collection[str] = ()
    ) -> list[Kept]:
        """Return what `state` makes of entities, under the lock, and keep it of all `but` some."""
        values = state.values(entities, boundary)
        if self._count >= _MOST_KEPT:
            self._kept, self._count = {}, 0
        kept, made = self._kept.setdefault(boundary, {}), []
        for entity, found in zip(entities, values, strict=True):
            statuses = self._statuses(found, state.last_event_slot(entity), boundary)
            made.append(Kept(found.copy(), statuses))
            if entity not in but:
                kept[entity] = made[-1]
        self._count += len(made)
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


class OnlineView(Answers):
    """The online state of one generation of a view, in memory."""

    def __init__(self, view: specs.FeatureView, source: specs.Source, generation: int) -> None:
        super().__init__(view, source, generation)
        self._state = FoldState(self.layout)

    def _on(self, source: specs.Source) -> "OnlineView":
        other = OnlineView(self.view, source, self.generation)
        with self._lock:
            for entity, index in self._state.occupied():
                slot, partials = self._state.slot(entity, index)
                other._state.put(entity, slot, partials, self._state.sketches(entity, index))
        return other

    def _take(self, records: Sequence[Any]) -> Applied:
        return featurelog.apply(self._state, records, self.generation)

    def _compute(self, entities: Sequence[str], boundary: int) -> Sequence[Kept]:
        with self._lock:
            return self._made(self._state, entities, boundary)


A = TypeVar("A", bound=Answers)


class Generations(Generic[A]):
    """The generations of one view: the one that is answered from, and the next while it is being begun.

    Whoever folds a view writes all slots of a new generation before it says, partition by partition, how far that has
    come. Until then the one before answers: a change of a view is seen whole, and takes nothing away meanwhile.
    """

    def __init__(self, begin: Callable[[specs.FeatureView, specs.Source, int], A]) -> None:
        """`begin` returns a generation with what is there of it already."""
        self._begin = begin
        self._next: A | None = None
        self.current: A | None = None

    def follow(self, view: specs.FeatureView, source: specs.Source, generation: int) -> None:
        """Begin what a spec says, unless that is done; the first of all generations is answered from at once."""
        if self.current is None:
            self.current = self._begin(view, source, generation)
        elif self.current.generation == generation:
            self._next, self.current = None, self.current.over(source)
        else:
            if self._next is None or self._next.generation != generation:
                self._next = self._begin(view, source, generation)
            self._next = self._next.over(source)
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
