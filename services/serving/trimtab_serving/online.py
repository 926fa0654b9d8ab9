"""The online state of all views in memory, as `features.*` and the local copy of it say."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from trimtab_contracts import topics
from trimtab_core import specs
from trimtab_runtime.onlineview import Generations, OnlineView
from trimtab_runtime.specbook import SpecBook


class OnlineViews:
    """The online state of all views; only the control plane calls it."""

    def __init__(
        self,
        book: SpecBook,
        stored: Callable[[str], Iterable[Any]],
        on_another: Callable[[], None] = lambda: None,
    ) -> None:
        """`stored` gives the records of a topic that the local copy holds, for a view that is new here.

        `on_another` is called when a generation of a view has taken the place of the one before, outside `update`.
        """
        self._book = book
        self._stored = stored
        self._on_another = on_another
        self._generations: dict[str, Generations[OnlineView]] = {}
        self._views: Mapping[str, OnlineView] = {}

    @property
    def all(self) -> Mapping[str, OnlineView]:
        """All views by name; a new mapping each time that one of them is another."""
        return self._views

    def update(self) -> list[str]:
        """Follow the book: begin what was added or changed; return the topics to follow."""
        found = dict[str, Generations[OnlineView]]()
        for name, view in self._book.views.items():
            if (source := self._book.sources.get(view.spec.source)) is not None:
                found[name] = self._generations.get(name) or Generations(self._begin)
                found[name].follow(view, source, self._book.generation(view))
        self._generations = found
        self._look()
        return [topics.FEATURES.named(name).name for name in found]

    def apply(self, topic: str, partition: int, records: Sequence[Any]) -> tuple[str, int] | None:
        """Take in raw records of a features topic, and return view and watermark if that moved."""
        name = topics.FEATURES.member(topic)
        generations = self._generations.get(name)
        if generations is None or not generations.apply(partition, records):
            return None
        if self._look():
            self._on_another()
        until_ms = self._views[name].until_ms
        return None if until_ms is None else (name, until_ms)

    def _look(self) -> bool:
        """Show what is answered from now, and return whether that is something else."""
        views = {name: each.current for name, each in self._generations.items() if each.current is not None}
        if views == self._views:
            return False
        self._views = views
        return True

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
