"""Views whose slots lie in PostgreSQL, for what is more than memory holds.

Every process that answers for a view follows its topic. Of each batch it sees to it
that PostgreSQL has it (whoever comes first writes it), and then drops the values that
it has made of older slots. So no process answers with less than its watermark says,
whichever of them has written; what it holds is values that have been asked for, up to
a bound, and not the slots.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError
from trimtab_core.slots import FoldState
from trimtab_core.specs import FeatureView, Source
from trimtab_runtime import featurelog
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.featurelog import Applied, Progress
from trimtab_runtime.onlineview import Answers, Kept

from trimtab_feature_store.slotstore import SlotStore

_AT_ONCE = 500
"""Entities whose slots are fetched together, which bounds the memory."""
_WRITTEN_AT_ONCE = 5_000
_AGAIN_S = 0.5
_TIDY_S = 60.0
log = logging.getLogger(__name__)

Rings = Callable[[str, int, Sequence[str]], Sequence[bytes]]
"""Returns the slots of some entities of a view's generation; it blocks, and any thread may call it."""


class StoredView(Answers):
    """The online state of one generation of a view, fetched for each value that is not kept."""

    def __init__(
        self,
        view: FeatureView,
        source: Source,
        generation: int,
        rings: Rings,
        progress: Mapping[int, Progress],
    ) -> None:
        """`progress` is how far each partition had come when its topic began to be read here."""
        super().__init__(view, source, generation)
        self._rings = rings
        self._computing: dict[object, set[str]] = {}
        for partition, told in progress.items():
            self._note(partition, told)
        self._look()

    def _on(self, source: Source) -> "StoredView":
        return StoredView(self.view, source, self.generation, self._rings, {})

    def _take(self, records: Sequence[Any]) -> Applied:
        return featurelog.apply(None, records, self.generation)

    def _compute(self, entities: Sequence[str], boundary: int) -> Sequence[Kept]:
        made: list[Kept] = []
        for start in range(0, len(entities), _AT_ONCE):
            made += self._fetched(entities[start : start + _AT_ONCE], boundary)
        return made

    def _fetched(self, entities: Sequence[str], boundary: int) -> Sequence[Kept]:
        """Return what entities are, and keep it, except of those that change while they are fetched."""
        me, changed = object(), set[str]()
        with self._lock:
            self._computing[me] = changed
        try:
            state = self._state(self._rings(self.name, self.generation, entities))
            with self._lock:
                return self._made(state, entities, boundary, but=changed)
        finally:
            with self._lock:
                del self._computing[me]

    def _state(self, slots: Iterable[bytes]) -> FoldState:
        state = FoldState(self.layout)
        for value in slots:
            try:
                featurelog.put(state, featurelog.read_slot(value))
            except (DecodeError, ValueError) as error:
                log.error("a slot of view %r cannot be read: %s", self.name, error)
        return state

    def _drop(self, changed: Iterable[tuple[str, int]]) -> None:
        entities = list(changed)
        for fetched in self._computing.values():
            fetched.update(entity for entity, _ in entities)
        super()._drop(entities)


class InPostgres:
    """Home of the slots of all views; made on the event loop, which PostgreSQL is asked on."""

    def __init__(self, store: SlotStore) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._found: dict[str, Mapping[int, Mapping[int, Progress]]] = {}

    async def open(self, view: str) -> Mapping[int, int]:
        """Return from which offset on nobody has written a view's topic yet.

        Raises:
            Unavailable: PostgreSQL is away.
        """
        found = await self._store.open(view)
        self._found[view] = found.progress
        return found.next

    def begin(self, view: FeatureView, source: Source, generation: int) -> StoredView:
        """Return a generation with how far it had come when the view was opened."""
        progress = self._found.get(view.name, {}).get(generation, {})
        return StoredView(view, source, generation, self._rings, progress)

    async def write(self, view: str, partition: int, records: Sequence[Any]) -> None:
        """See to it that PostgreSQL has some records, however long it is away."""
        left = list(records)
        while left:
            try:
                await self._store.write(view, partition, left[:_WRITTEN_AT_ONCE])
                del left[:_WRITTEN_AT_ONCE]
            except Unavailable as error:
                log.warning("features.%s/%d waits: %s", view, partition, error)
                await asyncio.sleep(_AGAIN_S)

    async def tidy(self, whole: Callable[[], Mapping[str, int]]) -> None:
        """Delete what lies before the generations that `whole` says, some time after it says so, for ever."""
        kept: dict[str, int] = {}
        while True:
            now = dict(whole())
            for view, generation in now.items():
                if kept.get(view) != generation:
                    try:
                        await self._store.keep(view, generation)
                        kept[view] = generation
                    except Unavailable as error:
                        log.warning("older generations of view %r stay: %s", view, error)
            await asyncio.sleep(_TIDY_S)

    def _rings(self, view: str, generation: int, entities: Sequence[str]) -> Sequence[bytes]:
        return asyncio.run_coroutine_threadsafe(
            self._store.rings(view, generation, entities), self._loop
        ).result()
