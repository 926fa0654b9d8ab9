"""Kafka door of the second stage: keyed.<view> in, features.<view> out.

Whatever it holds it has written: changed slots, how far it has come, tombstones of
entities past their time to live and the watermark leave in the transaction that moves
the offset, so a new owner restores exactly what was folded, no more and no less. A
view that is new, or has changed, begins a generation with what the archive holds, and
folds what comes after that; the generation before it stays on the topic for those who
still read it.
"""

import asyncio
import logging
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import msgspec
import numpy as np
from trimtab_contracts import topics
from trimtab_contracts.common.v1.common_pb2 import Watermark
from trimtab_core.slots import Folded, FoldState, Layout
from trimtab_core.specs import FeatureView, Source
from trimtab_runtime import featurelog, freshness, records
from trimtab_runtime.clock import to_timestamp
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.featurelog import Progress
from trimtab_runtime.records import Outgoing
from trimtab_runtime.specbook import SpecBook

from trimtab_feature_store import deadletters, keyed
from trimtab_feature_store.keyed import BadRows, KeyedRows
from trimtab_feature_store.seeding import Seed

HEARS = (topics.KEYED,)
ReadPartition = Callable[[str, int], AsyncIterator[Sequence[Any]]]
"""Yields the committed records of a topic's partition, up to its end."""
_PIECES_AT_ONCE = 8
log = logging.getLogger(__name__)


class Seeds(Protocol):
    """Where a generation's beginning comes from."""

    async def take(self, view: FeatureView, generation: int, source: Source, partition: int) -> Seed:
        """Return the archived events of a partition of a view; they hold whatever has been written by now."""
        ...


class ViewChanged(Unavailable):
    """The view is no longer what this worker folds; a new worker begins anew."""

    def __init__(self, view: str) -> None:
        super().__init__(f"feature view {view!r} has changed: its fold begins its new generation")


class SeedOutgrown(Unavailable):
    """Rows came that neither the seed has nor the view's generation; a new worker takes another seed, which has them."""

    def __init__(self, view: str, partition: int) -> None:
        super().__init__(
            f"feature view {view!r}, partition {partition}, is folded from the archive once more"
        )


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

    def __init__(
        self, book: SpecBook, read_partition: ReadPartition, seeds: Seeds, topic: str, partition: int
    ) -> None:
        self.view = topics.KEYED.member(topic)
        self.partition = partition
        self.too_old = 0
        """Events that came when the ring had gone past them; they are archived and not folded."""
        self._book = book
        self._read_partition = read_partition
        self._seeds = seeds
        self._features = topics.FEATURES.named(self.view).name
        self._specs: tuple[FeatureView | None, Source | None] = (None, None)
        self._shape: Shape | None = None
        self._state: FoldState | None = None
        self._watermark_ms: dict[int, int] = {}
        self._reached_ms: int | None = None
        self._live_from: dict[int, int] = {}
        self._is_outgrown = False

    async def restore(self) -> list[Outgoing]:
        """Read back what was folded; of a generation that has not begun, return what it begins with."""
        self._specs, self._shape = self._specs_now(), Shape.of(self._book, self.view)
        if self._shape is None:
            return []
        self._state = FoldState(self._shape.layout)
        others: dict[bytes, int] = {}
        async for batch in self._read_partition(self._features, self.partition):
            applied = featurelog.apply(self._state, batch, self._shape.generation)
            others |= applied.others
            if applied.progress is not None:
                self._watermark_ms = dict(applied.progress.watermark_ms)
                self._live_from = dict(applied.progress.live_from)
        if not self._live_from:
            return await self._begin(self._shape, others)
        self._reached_ms = self._progress(self._shape).least_ms()
        return []

    async def _begin(self, shape: Shape, others: dict[bytes, int]) -> list[Outgoing]:
        """Begin a generation, and return all of its slots; generations that nobody reads any more leave the topic."""
        view, source = self._specs
        assert view is not None and source is not None
        seed = await self._seeds.take(view, shape.generation, source, self.partition)
        # What an earlier attempt has left on the topic is in the seed too.
        state = self._state = FoldState(shape.layout)
        await asyncio.to_thread(_plant, state, shape, seed.pieces)
        log.info(
            "%s/%d: generation %d begins with %d entities",
            self.view,
            self.partition,
            shape.generation,
            len(state),
        )
        self._live_from, self._watermark_ms = dict(seed.live_from), dict(seed.watermark_ms)
        newest = max(others.values(), default=0)
        gone = [self._out(key, None) for key, generation in others.items() if generation < newest]
        slots = [
            self._slot(shape, state, entity, index)
            for entity in state.entities
            for index in range(shape.layout.ring)
            if state.slot(entity, index)[0] >= 0
        ]
        return [*gone, *slots, *self._move_on(shape, state)]

    def process(self, batch: Sequence[Any]) -> list[Outgoing]:
        """Return what a batch changes.

        Raises:
            ViewChanged: the view is another by now.
            SeedOutgrown: rows came that the generation's beginning should have held.
        """
        if self._is_outgrown:
            raise SeedOutgrown(self.view, self.partition)
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
        try:
            live = list(self._live(shape, pieces))
        except SeedOutgrown:
            # How far this generation has come is forgotten, so its next worker begins it again.
            self._is_outgrown = True
            return [*out, self._out(featurelog.key(shape.generation, None, self.partition), None)]
        folded = self._fold(shape, state, live) if live else []
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

    def _specs_now(self) -> tuple[FeatureView | None, Source | None]:
        view = self._book.views.get(self.view)
        return (view, self._book.sources.get(view.spec.source) if view is not None else None)

    def _live(self, shape: Shape, pieces: Iterable[KeyedRows]) -> Iterator[KeyedRows]:
        """Yield the rows that the seed does not have."""
        for piece in pieces:
            if piece.generation > shape.generation:
                raise ViewChanged(self.view)  # and this process has not heard of it yet
            first = bisect_left(piece.offset, self._live_from.get(piece.origin, 0))
            if first == len(piece.offset):
                continue
            if piece.generation < shape.generation:
                raise SeedOutgrown(self.view, self.partition)
            yield piece.part(first, len(piece.offset)) if first else piece

    def _fold(self, shape: Shape, state: FoldState, pieces: Sequence[KeyedRows]) -> list[Outgoing]:
        folded = _folded(state, shape, pieces)
        if folded.too_old:
            self.too_old += folded.too_old
            log.info("%s/%d: %d events were too old to fold", self.view, self.partition, self.too_old)
        return [self._slot(shape, state, entity, index) for entity, _, index in folded.changed]

    def _slot(self, shape: Shape, state: FoldState, entity: str, index: int) -> Outgoing:
        slot, partials = state.slot(entity, index)
        return self._out(
            featurelog.key(shape.generation, entity, index),
            featurelog.slot_value(entity, slot, partials, state.sketches(entity, index)),
        )

    def _move_on(self, shape: Shape, state: FoldState) -> list[Outgoing]:
        progress = self._progress(shape)
        out = [
            self._out(
                featurelog.key(shape.generation, None, self.partition), featurelog.progress_value(progress)
            )
        ]
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
        return Progress(self._watermark_ms, shape.partitions, self._live_from)

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


def _folded(state: FoldState, shape: Shape, pieces: Sequence[KeyedRows]) -> Folded:
    return state.fold(
        [entity for piece in pieces for entity in piece.entity],
        np.concatenate([np.array(piece.event_time_ms, np.int64) for piece in pieces]),
        np.concatenate([piece.values(shape.layout.groups) for piece in pieces]),
        [each for piece in pieces for each in piece.id] if shape.layout.ends else (),
    )


def _plant(state: FoldState, shape: Shape, pieces: Iterable[KeyedRows]) -> None:
    """Fold archived rows, some at a time; what is too old is in no window any more."""
    left = iter(pieces)
    while some := list(islice(left, _PIECES_AT_ONCE)):
        _folded(state, shape, some)
