"""The online state of all views in memory, as `features.*` and the local copy of it say."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from trimtab_contracts import topics
from trimtab_core import specs
from trimtab_runtime.onlineview import OnlineView
from trimtab_runtime.specbook import SpecBook


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
