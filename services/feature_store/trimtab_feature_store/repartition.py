"""Kafka door of the first stage: events.<source> in, keyed.<view> out for every view of the source.

Brings together what belongs together: an event goes to the partition in which its
entity lives, with only what the view folds of it: a number for each group whose condition
it meets. A watermark goes to every partition, with
the number of the input partition it speaks for.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from trimtab_contracts import topics
from trimtab_core.grouping import Grouping
from trimtab_core.slots import Layout
from trimtab_core.specs import FeatureView, Source
from trimtab_core.syntax import TextFault
from trimtab_runtime import featurelog, freshness, records
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.records import Outgoing
from trimtab_runtime.specbook import SpecBook

from trimtab_feature_store import keyed, rows
from trimtab_feature_store.decoding import RowDecoder
from trimtab_feature_store.keyed import KeyedRows
from trimtab_feature_store.rows import Rows

HEARS = (topics.EVENTS,)


class SpecsApart(Unavailable):
    """A view was heard before the source that it leans on; the other is on its way."""

    def __init__(self, what: str) -> None:
        super().__init__(f"a view folds {what}")


class Cut:
    """What the views of a source take of its rows; good for as long as none of their specs changes."""

    def __init__(self, source: Source, views: Sequence[tuple[FeatureView, int]]) -> None:
        """Take `views` with their generations.

        Raises:
            SpecsApart: the source lacks a field of theirs, or has it of another type.
        """
        self.source = source
        self.views = views
        layouts = {view.name: Layout.of(view.spec, source.spec.lateness) for view, _ in views}
        names = {name for view, _ in views for name in view.spec.entities}
        names = names.union(*(layout.fields for layout in layouts.values()))
        if missing := names - source.spec.fields.keys():
            raise SpecsApart(f"{', '.join(sorted(missing))}, which source {source.name!r} does not have yet")
        try:
            self._groupings = {name: Grouping(layout, source.spec.fields) for name, layout in layouts.items()}
        except TextFault as fault:
            raise SpecsApart(f"what source {source.name!r} does not have yet: {fault}") from fault
        self._groups = {name: [group.name for group in layout.groups] for name, layout in layouts.items()}
        self._decoder = RowDecoder(source.spec, names)

    @property
    def fields(self) -> Collection[str]:
        """The fields that are read of a row."""
        return self._decoder.types

    @classmethod
    def of(cls, book: SpecBook, source: Source) -> "Cut":
        """Return what the views in `book` take."""
        return cls(
            source,
            [
                (view, book.generation(view))
                for view in book.views.values()
                if view.spec.source == source.name
            ],
        )

    def holds(self, book: SpecBook) -> bool:
        """Whether it is still what `book` says."""
        now = [
            (view, book.generation(view))
            for view in book.views.values()
            if view.spec.source == self.source.name
        ]
        return book.sources.get(self.source.name) is self.source and now == self.views

    def pieces(self, batch: Rows, origin: int) -> Iterator[tuple[FeatureView, int, KeyedRows]]:
        """Return the rows, read from partition `origin`, of each view and partition; rows without an entity are left out."""
        yield from self.pieces_of(
            self._decoder.columns(batch.payloads),
            event_time_ms=batch.event_time_ms.tolist(),
            ids=batch.ids,
            offsets=batch.offsets,
            origin=origin,
        )

    def pieces_of(
        self,
        columns: Mapping[str, list[Any]],
        *,
        event_time_ms: Sequence[int],
        ids: Sequence[str],
        offsets: Sequence[int],
        origin: int,
    ) -> Iterator[tuple[FeatureView, int, KeyedRows]]:
        """Return what `pieces` does, of rows that are columns already."""
        for view, generation in self.views:
            entities = keyed.entity_texts([columns[name] for name in view.spec.entities], len(ids))
            values, names = self._groupings[view.name].values(columns, len(ids)), self._groups[view.name]
            for partition, places in self._by_partition(entities).items():
                yield (
                    view,
                    partition,
                    KeyedRows(
                        generation,
                        origin,
                        [offsets[at] for at in places],
                        [entities[at] or "" for at in places],
                        [event_time_ms[at] for at in places],
                        [ids[at] for at in places],
                        dict(zip(names, values[places].T.tolist(), strict=True)),
                    ),
                )

    def _by_partition(self, entities: Sequence[str | None]) -> dict[int, list[int]]:
        partitions = self.source.spec.partitions
        homes = {
            each: featurelog.partition_of(each, partitions) for each in set(entities) if each is not None
        }
        places: dict[int, list[int]] = {}
        for at, entity in enumerate(entities):
            if entity is not None:
                places.setdefault(homes[entity], []).append(at)
        return places


class Repartition:
    """Work of one partition of events.<source>; it keeps nothing but the newest watermark it has passed on."""

    def __init__(self, book: SpecBook, topic: str, partition: int) -> None:
        self._book = book
        self._source = topics.EVENTS.member(topic)
        self._partition = partition
        self._watermark_ms = 0
        self._cut: Cut | None = None

    async def restore(self) -> list[Outgoing]:
        """Nothing to rebuild: every event goes its way by itself."""
        return []

    def process(self, batch: Sequence[Any]) -> list[Outgoing]:
        """Return what a batch of raw records becomes, rows before watermarks."""
        source = self._book.sources.get(self._source)
        if source is None or not batch:  # deleted while its last events were on the way, or nothing came
            return []
        if self._cut is None or not self._cut.holds(self._book):
            self._cut = Cut.of(self._book, source)
        read = rows.read(batch)
        out: list[Outgoing] = []
        if len(read.rows):
            place = f"{batch[0].topic}/{self._partition}/{batch[0].offset}"
            for view, partition, piece in self._cut.pieces(read.rows, self._partition):
                headers = _headers(place, view.name, read.produced_ms)
                topic = topics.KEYED.named(view.name).name
                out += [Outgoing(topic, None, value, headers, partition) for value in keyed.encode(piece)]
        if read.watermark_ms is not None and read.watermark_ms > self._watermark_ms:
            self._watermark_ms = read.watermark_ms
            out += self._watermarks(self._cut)
        return out

    def _watermarks(self, cut: Cut) -> list[Outgoing]:
        partitions = cut.source.spec.partitions
        headers = records.watermark_headers(
            source=self._source, time_ms=self._watermark_ms, origin=self._partition, origins=partitions
        )
        return [
            Outgoing(topics.KEYED.named(view.name).name, None, b"", headers, partition)
            for view, _ in cut.views
            for partition in range(partitions)
        ]


def _headers(place: str, view: str, produced_ms: int | None) -> records.Headers:
    return [
        *([freshness.header(produced_ms)] if produced_ms is not None else []),
        ("ce_specversion", b"1.0"),
        ("ce_id", place.encode()),
        ("ce_type", b"trimtab.keyed"),
        ("ce_source", view.encode()),
    ]
