"""Kafka door of the second stage: keyed.<view> in, features.<view> out.

Whatever it holds it has written: changed slots, how far it has come, tombstones of
entities past their time to live and the watermark leave in the transaction that moves
the offset, so a new owner restores exactly what was folded, no more and no less. A
view that changes begins a new generation with nothing in it.
"""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from trimtab_contracts import topics
from trimtab_contracts.common.v1.common_pb2 import Watermark
from trimtab_core.slots import FoldState, Layout
from trimtab_runtime import featurelog, freshness, records
from trimtab_runtime.clock import to_timestamp
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.featurelog import Progress
from trimtab_runtime.records import Outgoing
from trimtab_runtime.specbook import SpecBook

from trimtab_feature_store import deadletters, keyed
from trimtab_feature_store.keyed import BadRows, KeyedRows

HEARS = (topics.KEYED,)
ReadPartition = Callable[[str, int], AsyncIterator[Sequence[Any]]]
"""Yields the committed records of a topic's partition, up to its end."""
log = logging.getLogger(__name__)


class ViewChanged(Unavailable):
    """The view is no longer what this worker folds; a new worker begins anew."""

    def __init__(self, view: str) -> None:
        super().__init__(f"feature view {view!r} has changed: its fold begins its new generation")


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a view's spec the fold depends on."""

    generation: int
    layout: Layout
    ttl_ms: int
    partitions: int

    @classmethod
    def of(cls, book: SpecBook, name: str) -> "Shape | None":
        """Return a view's shape; None if it, or its source, is not there."""
        view = book.views.get(name)
        source = book.sources.get(view.spec.source) if view is not None else None
        if view is None or source is None:
            return None
        layout = Layout.of(view.spec, source.spec.lateness)
        return cls(book.generation(view), layout, view.spec.ttl, source.spec.partitions)


class Fold:
    """Work of one partition of keyed.<view>: the state of the entities that live there."""

    def __init__(self, book: SpecBook, read_partition: ReadPartition, topic: str, partition: int) -> None:
        self.view = topics.KEYED.member(topic)
        self.partition = partition
        self.too_old = 0
        """Events that came when the ring had gone past them; they are archived and not folded."""
        self._book = book
        self._read_partition = read_partition
        self._features = topics.FEATURES.named(self.view).name
        self._specs: tuple[object, ...] = ()
        self._shape: Shape | None = None
        self._state: FoldState | None = None
        self._watermark_ms: dict[int, int] = {}
        self._reached_ms: int | None = None

    async def restore(self) -> None:
        """Read back what was folded."""
        self._specs, self._shape = self._specs_now(), Shape.of(self._book, self.view)
        if self._shape is None:
            return
        self._state = FoldState(self._shape.layout)
        async for batch in self._read_partition(self._features, self.partition):
            applied = featurelog.apply(self._state, batch, self._shape.generation)
            if applied.progress is not None:
                self._watermark_ms = dict(applied.progress.watermark_ms)
        self._reached_ms = self._progress(self._shape).least_ms()

    def process(self, batch: Sequence[Any]) -> list[Outgoing]:
        """Return what a batch changes.

        Raises:
            ViewChanged: the view is another by now.
        """
        shape, state = self._current()
        if shape is None or state is None:  # deleted while its last rows were on the way
            return []
        pieces: list[KeyedRows] = []
        out: list[Outgoing] = []
        marks = dict(self._watermark_ms)
        produced: list[int] = []
        for record in batch:
            if record.value:
                if (produced_ms := freshness.produced_ms(record)) is not None:
                    produced.append(produced_ms)
                try:
                    pieces.append(keyed.decode(record.value))
                except BadRows as error:
                    out.append(deadletters.letter(record, str(error)))
            elif (origin := records.origin(record)).is_watermark and origin.event_time_ms is not None:
                marks[origin.partition] = max(marks.get(origin.partition, 0), origin.event_time_ms)
        folded = self._fold(shape, state, pieces)
        if folded and produced:
            folded[-1] = msgspec.structs.replace(folded[-1], headers=[freshness.header(min(produced))])
        out += folded
        if marks != self._watermark_ms:
            self._watermark_ms = marks
            out += self._move_on(shape, state)
        return out

    def _current(self) -> tuple[Shape | None, FoldState | None]:
        now = self._specs_now()
        if any(one is not other for one, other in zip(now, self._specs, strict=True)):
            if Shape.of(self._book, self.view) != self._shape:
                raise ViewChanged(self.view)
            self._specs = now
        return self._shape, self._state

    def _specs_now(self) -> tuple[object, ...]:
        view = self._book.views.get(self.view)
        return (view, self._book.sources.get(view.spec.source) if view is not None else None)

    def _fold(self, shape: Shape, state: FoldState, pieces: Sequence[KeyedRows]) -> list[Outgoing]:
        if any(piece.generation > shape.generation for piece in pieces):
            raise ViewChanged(self.view)  # and this process has not heard of it yet
        pieces = [piece for piece in pieces if piece.generation == shape.generation]
        if not pieces:
            return []
        folded = state.fold(
            [entity for piece in pieces for entity in piece.entity],
            np.concatenate([np.array(piece.event_time_ms, np.int64) for piece in pieces]),
            np.concatenate([piece.values(shape.layout.fields) for piece in pieces]),
        )
        if folded.too_old:
            self.too_old += folded.too_old
            log.info("%s/%d: %d events were too old to fold", self.view, self.partition, self.too_old)
        return [
            self._out(
                featurelog.key(shape.generation, entity, index),
                featurelog.slot_value(entity, slot, state.slot(entity, index)[1]),
            )
            for entity, slot, index in folded.changed
        ]

    def _move_on(self, shape: Shape, state: FoldState) -> list[Outgoing]:
        progress = self._progress(shape)
        out = [self._out(featurelog.key(shape.generation, None, 0), featurelog.progress_value(progress))]
        reached, before = progress.least_ms(), self._reached_ms
        if reached is None or reached == before:
            return out
        self._reached_ms = reached
        if before is None or shape.layout.boundary_of(reached) > shape.layout.boundary_of(before):
            out = [*self._forget_expired(shape, state, reached), *out]
        return [*out, self._watermark(shape, reached)]

    def _forget_expired(self, shape: Shape, state: FoldState, at_ms: int) -> list[Outgoing]:
        out: list[Outgoing] = []
        for entity in state.expired(at_ms, shape.ttl_ms):
            held = [index for index in range(shape.layout.ring) if state.slot(entity, index)[0] >= 0]
            out += [self._out(featurelog.key(shape.generation, entity, index), None) for index in held]
            state.forget(entity)
        return out

    def _progress(self, shape: Shape) -> Progress:
        return Progress(self._watermark_ms, shape.partitions)

    def _watermark(self, shape: Shape, time_ms: int) -> Outgoing:
        mark = Watermark(
            stage="features",
            name=self.view,
            partition=self.partition,
            partitions=shape.partitions,
            time=to_timestamp(time_ms),
        )
        key = f"features/{self.view}/{self.partition}/"
        return records.outgoing(
            topics.WATERMARKS, mark, key=key, id=f"{key}{time_ms}", source="feature_store", time_ms=time_ms
        )

    def _out(self, key: bytes, value: bytes | None) -> Outgoing:
        return Outgoing(self._features, key, value, [], self.partition)
