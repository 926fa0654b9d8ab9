"""Online features in memory: written by the control plane, read by every request.

A value is as of the last hop boundary before a row's time and made of completed slots
only, so it changes only when a late slot does; it is computed once and kept. What
makes this right with many readers and one writer:

- a kept value is read without a lock: a single `get` of a dict, whose arrays nobody
  changes after they were put there;
- computing one and putting it there is done under the view's lock, and so is changing
  slots and dropping what was made of them; so no value made of old slots is put back
  after they changed, and no reader sees a slot half written.

The writer takes the lock for a few records at a time, so a reader does not wait long.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trimtab_contracts import topics
from trimtab_core import specs
from trimtab_core.slots import FoldState, Layout
from trimtab_runtime import featurelog
from trimtab_runtime.specbook import SpecBook, UnknownView

Floats = NDArray[np.float64]
_MOST_KEPT = 200_000
_AT_ONCE = 100


class OnlineView:
    """The online state of one generation of a view."""

    def __init__(self, view: specs.FeatureView, source: specs.Source, generation: int) -> None:
        self.spec = view.spec
        self.generation = generation
        self.layout = Layout.of(view.spec, source.spec.lateness)
        self.partitions = source.spec.partitions
        self.until_ms: int | None = None
        """The watermark: every event at or before it is in the features; None until all partitions have one."""
        self._state = FoldState(self.layout)
        self._progress: dict[int, int] = {}
        self._kept: dict[int, dict[str, Floats]] = {}
        self._lock = threading.Lock()

    def values(self, entities: Sequence[str], event_time_ms: Sequence[int]) -> Floats:
        """Return the features [rows, columns] of each entity at each time; NaN where there is none."""
        found = np.empty((len(entities), len(self.layout.columns)))
        for at, (entity, time_ms) in enumerate(zip(entities, event_time_ms, strict=True)):
            boundary = self.layout.boundary_of(time_ms)
            kept = self._kept.get(boundary)
            value = kept.get(entity) if kept is not None else None
            found[at] = value if value is not None else self._compute(entity, boundary)
        return found

    def apply(self, partition: int, records: Sequence[Any]) -> bool:
        """Take in raw records of a partition of the view's topic, and return whether the watermark moved."""
        for at in range(0, len(records), _AT_ONCE):
            with self._lock:
                self._take(partition, records[at : at + _AT_ONCE])
        if len(self._progress) < self.partitions:
            return False
        before, self.until_ms = self.until_ms, min(self._progress.values())
        return self.until_ms != before

    def _compute(self, entity: str, boundary: int) -> Floats:
        with self._lock:
            value: Floats = self._state.values([entity], boundary)[0]
            if sum(map(len, self._kept.values())) >= _MOST_KEPT:
                self._kept = {}
            self._kept.setdefault(boundary, {})[entity] = value
        return value

    def _take(self, partition: int, records: Iterable[Any]) -> None:
        for record in records:
            key = featurelog.parse_key(record.key)
            ...
