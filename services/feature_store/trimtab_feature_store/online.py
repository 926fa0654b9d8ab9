"""The online features as this process reads them back from features.<view>.

Any process answers for every entity, whoever folds it. A view is followed from the
first time somebody asks for it, so a store that nobody asks reads nothing.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trimtab_contracts import topics
from trimtab_core.slots import FoldState, Layout
from trimtab_runtime import featurelog
from trimtab_runtime.featurelog import Progress
from trimtab_runtime.follow import Follower
from trimtab_runtime.specbook import SpecBook

from trimtab_feature_store.errors import NotRead

FOLLOWS = (topics.FEATURES,)
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Answer:
    """Features of some entities."""

    columns: tuple[str, ...]
    values: NDArray[np.float64]
    """[entities, columns], NaN where there is none."""
    found: list[bool]
    watermark_ms: int | None
    """The event time that is in them whole; None if nothing has said so."""


@dataclass(slots=True)
class _Held:
    """One generation of a view."""

    generation: int
    state: FoldState
    partitions: int
    progress: dict[int, Progress] = field(default_factory=dict)

    def watermark_ms(self) -> int | None:
        reached = [progress.least_ms() for progress in self.progress.values()]
        if len(reached) < self.partitions or any(each is None for each in reached):
            return None
        return min(each for each in reached if each is not None)


class OnlineViews:
    """The views that have been asked for."""

    def __init__(self, servers: str, book: SpecBook, *, patience_s: float) -> None:
        self._book = book
        self._patience_s = patience_s
        self._held: dict[str, _Held] = {}
        self._asked: set[str] = set()
        self.follower = Follower(servers, [], self._hear)
        """Run it as a task."""

    async def get(self, view: str, entities: Sequence[str], at_ms: int) -> Answer:
        """Return the features of `entities` at a time.

        Raises:
            UnknownView: there is no such view.
            NotRead: its topic has not been read to the end in time.
        """
        spec = self._book.view(view).spec
        if view not in self._asked:
            self._asked.add(view)
            self.follower.set_topics([topics.FEATURES.named(name).name for name in self._asked])
        try:
            async with asyncio.timeout(self._patience_s):
                await self.follower.caught_up()
        except TimeoutError as error:
            raise NotRead(view) from error
        held = self._current(view)
        if held is None:
            raise NotRead(view)
        return Answer(
            spec.columns(),
            held.state.values(entities, at_ms),
            [held.state.last_event_slot(entity) >= 0 for entity in entities],
            held.watermark_ms(),
        )

    async def _hear(self, topic: str, partition: int, batch: Sequence[Any]) -> None:
        view = topics.FEATURES.member(topic)
        newest = max(featurelog.parse_key(record.key).generation for record in batch)
        while view in self._book.views and self._book.generation(self._book.views[view]) < newest:
            await asyncio.sleep(_POLL_S)  # the spec that this was folded by is on its way
        held = self._current(view)
        if held is None:
            return
        applied = featurelog.apply(held.state, batch, held.generation)
        if applied.progress is not None:
            held.progress[partition] = applied.progress

    def _current(self, name: str) -> _Held | None:
        """Return what is held of a view's present generation, nothing at first; None if the view is gone."""
        view = self._book.views.get(name)
        source = self._book.sources.get(view.spec.source) if view is not None else None
        if view is None or source is None:
            return None
        generation, held = self._book.generation(view), self._held.get(name)
        if held is None or held.generation != generation:
            state = FoldState(Layout.of(view.spec, source.spec.lateness))
            held = _Held(generation, state, source.spec.partitions)
            self._held[name] = held
        return held
