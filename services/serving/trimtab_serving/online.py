"""Online features in memory: written by the control plane, read by every request.

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from trimtab_contracts import topics
from trimtab_core import specs
from trimtab_core.slots import FoldState, Layout
from trimtab_runtime import featurelog
from trimtab_runtime.featurelog import Applied
from trimtab_runtime.specbook import SpecBook

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
_MOST_KEPT = 200_000
_AT_ONCE = 100


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
        self._kept: dict[int, dict[str, Floats]] = {}
        self._count = 0
        self._lock = threading.Lock()

    def values(self, entities: Sequence[str], event_time_ms: Sequence[int]) -> Floats:
        """Return the features [rows, columns] of each entity at each time; NaN where there is none."""
        found = np.empty((len(entities), len(self.layout.columns)))
        for at, (entity, time_ms) in enumerate(zip(entities, event_time_ms, strict=True)):
            boundary = self.layout.boundary_of(time_ms)
            kept = self._kept.get(boundary)
            value = kept.get(entity) if kept is not None else None
            found[at] = self._compute(entity, boundary) if value is None else value
        return found

    def apply(self, partition: int, records: Sequence[Any]) -> bool:
        """Take in raw records of a partition of the view's topic, and return whether the watermark moved."""
        for at in range(0, len(records), _AT_ONCE):
            with self._lock:
                for applied in self._apply(records[at : at + _AT_ONCE]):
                    self._drop(applied.changed)
                    if applied.progress is not None and (least := applied.progress.least_ms()) is not None:
                        self._progress[partition] = least
        if len(self._progress) < self.source.partitions:
            return False
        before, self.until_ms = self.until_ms, min(self._progress.values())
        return self.until_ms != before

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

    def _compute(self, entity: str, boundary: int) -> Floats:
        with self._lock:
            value: Floats = self._state.values([entity], boundary)[0]
            if self._count >= _MOST_KEPT:
                self._kept, self._count = {}, 0
            self._kept.setdefault(boundary, {})[entity] = value
            self._count += 1
        return value

    def _drop(self, changed: Iterable[tuple[str, int]]) -> None:
        """Forget what was made of slots that have changed: values of boundaries after them."""
        for boundary, kept in self._kept.items():
            first = boundary // self.layout.hop_ms
            for entity, slot in changed:
                if slot < first:
                    kept.pop(entity, None)


class OnlineViews:
    """The online state of all views; only the control plane calls it."""

    def __init__(self, book: SpecBook, stored: Callable[[str], Iterable[Any]]) -> None:
        """`stored` gives the records of a topic that the local copy holds, for a view that is new here."""
        self._book = book
        self._stored = stored
        self._views: Mapping[str, OnlineView] = {}

    @property
    def all(self) -> Mapping[str, OnlineView]:
        """All views by name; a new mapping each time that one of them begins anew."""
        return self._views

    def update(self) -> list[str]:
        """Follow the book: begin, or begin anew, what was added or changed; return the topics to follow."""
        views = dict[str, OnlineView]()
        for name, view in self._book.views.items():
            source, held = self._book.sources.get(view.spec.source), self._views.get(name)
            if source is None:
                continue
            generation = self._book.generation(view)
            if held is None or held.generation != generation or held.source != source.spec:
                held = self._begin(view, source, generation)
            views[name] = held
        if views != self._views:
            self._views = views
        return [topics.FEATURES.named(name).name for name in views]

    def apply(self, topic: str, partition: int, records: Sequence[Any]) -> tuple[str, int] | None:
        """Take in raw records of a features topic, and return view and watermark if that moved."""
        name = topics.FEATURES.member(topic)
        view = self._views.get(name)
        if view is None or not view.apply(partition, records) or view.until_ms is None:
            return None
        return name, view.until_ms

    def reached(self) -> dict[str, int]:
        """Return the watermark of each view that has one."""
        return {name: view.until_ms for name, view in self._views.items() if view.until_ms is not None}

    def _begin(self, view: specs.FeatureView, source: specs.Source, generation: int) -> OnlineView:
        """Return a view's state as the local copy has it."""
        begun = OnlineView(view, source, generation)
        by_partition: dict[int, list[Any]] = {}
        for record in self._stored(topics.FEATURES.named(view.name).name):
            by_partition.setdefault(record.partition, []).append(record)
        for partition, records in by_partition.items():
            begun.apply(partition, records)
        return begun
