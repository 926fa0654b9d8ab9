"""The offline twin of the online state: what a feature was at a time, recomputed from events.

Each spine row is answered as it would have been answered then: from the completed
slots of its window, without the events that had not yet arrived. Every row is
answered, in order; where nothing was known the value says so.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from trimtab_core import slots
from trimtab_core.slots import Floats, Layout, Millis

_CHUNK = 2_000_000
"""Slots that are looked at together, which bounds the memory."""


def point_in_time(
    layout: Layout,
    entities: Any,
    event_time_ms: Millis,
    values: Floats,
    arrived_at_ms: Millis,
    spine_entities: Any,
    spine_at_ms: Millis,
) -> Floats:
    """Return the features float64 [spine, columns] of each spine row's entity at its time.

    Args:
        layout: of the view.
        entities: of the events; any array of texts or whole numbers.
        event_time_ms: of the events [events].
        values: of the events' fields [events, layout.fields], NaN where null.
        arrived_at_ms: of the events [events].
        spine_entities: like `entities`.
        spine_at_ms: the times asked for [spine].
    """
    spine_at_ms = np.asarray(spine_at_ms, np.int64)
    event_ids, spine_ids = _shared_ids(entities, spine_entities)
    boundary = np.floor_divide(spine_at_ms, layout.hop_ms)
    event_slots = layout.slot_of(np.asarray(event_time_ms, np.int64))
    grouped = layout.grouped(np.asarray(values, np.float64).reshape(len(event_ids), len(layout.fields)))
    in_time = arrived_at_ms <= (event_slots + 1) * layout.hop_ms
    if in_time.all():
        pairs, back = np.unique(np.stack([spine_ids, boundary]), axis=1, return_inverse=True)
        table = _Table.of(event_ids, event_slots, grouped)
        return _evaluate(layout, [(table, pairs[0], pairs[1])])[back.reshape(-1)]
    return _with_late(
        layout, event_ids, event_slots, grouped, arrived_at_ms, in_time, spine_ids, boundary, spine_at_ms
    )


def join_labels(
    spine_keys: Any,
    spine_at_ms: Millis,
    label_keys: Any,
    label_values: Floats,
    label_at_ms: Millis,
    label_arrived_ms: Millis,
    within_ms: int,
    as_of_ms: int,
) -> tuple[Floats, int]:
    """Return each spine row's label [spine], NaN where there is none, and how many have none.

    A row's label is the first for its key that lies in [row, row + within] in event time and had arrived by `as_of_ms`.
    """
    keep = np.flatnonzero(label_arrived_ms <= as_of_ms)
    label_ids, spine_ids = _shared_ids(pa.array(label_keys).take(pa.array(keep)), spine_keys)
    at = np.asarray(label_at_ms, np.int64)[keep]
    order = np.lexsort((at, label_ids))
    table = pa.table(
        {"id": label_ids[order], "at": at[order], "value": np.asarray(label_values, np.float64)[keep][order]}
    )
    ids, times, found = (table[name].to_numpy() for name in ("id", "at", "value"))
    place = _first_at_or_after(ids, times, spine_ids, np.asarray(spine_at_ms, np.int64))
    inside = place < len(ids)
    inside[inside] &= ids[place[inside]] == spine_ids[inside]
    inside[inside] &= times[place[inside]] <= np.asarray(spine_at_ms)[inside] + within_ms
    labels = np.full(len(spine_ids), np.nan)
    labels[inside] = found[place[inside]]
    return labels, int(np.isnan(labels).sum())


def _first_at_or_after(ids: Millis, times: Millis, wanted: Millis, after: Millis) -> NDArray[np.int64]:
    """Return the places of the first (id, time) not before each (wanted, after), in a table sorted by both."""
    everything = np.lexsort(
        (
            np.concatenate([np.ones(len(ids), np.int8), np.zeros(len(wanted), np.int8)]),
            np.concatenate([times, after]),
            np.concatenate([ids, wanted]),
        )
    )
    is_table = everything < len(ids)
    before = np.cumsum(is_table)
    places = np.empty(len(wanted), np.int64)
    places[everything[~is_table] - len(ids)] = before[~is_table]
    return places


@dataclass(frozen=True, slots=True)
class _Table:
    """Partials of slots, sorted by entity and slot."""

    ids: Millis
    slots: Millis
    partials: Floats

    @classmethod
    def of(cls, ids: Millis, numbers: Millis, grouped: Floats) -> "_Table":
        if not len(ids):
            return cls(ids, numbers, np.empty((0, grouped.shape[1], slots.PARTS)))
        order = np.lexsort((numbers, ids))
        ids, numbers = ids[order], numbers[order]
        starts = np.flatnonzero(
            np.concatenate([[True], (ids[1:] != ids[:-1]) | (numbers[1:] != numbers[:-1])])
        )
        return cls(ids[starts], numbers[starts], slots.reduce(grouped[order], starts))

    def ranges(self, ids: Millis, low: Millis, high: Millis) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return, for each id, where its slots of [low, high) begin and end."""
        begin = _first_at_or_after(self.ids, self.slots, ids, low)
        return begin, _first_at_or_after(self.ids, self.slots, ids, high)


def _evaluate(layout: Layout, parts: list[tuple[_Table, Millis, Millis]]) -> Floats:
    """Return the columns of pairs of entity and boundary (in slots), merged over the parts."""
    count = len(parts[0][1])
    values = np.empty((count, len(layout.columns)))
    for length in {column.slots for column in layout.columns}:
        merged = np.tile(slots.EMPTY, (count, len(layout.groups), 1))
        for table, ids, boundary in parts:
            begin, end = table.ranges(ids, boundary - length, boundary)
            merged = slots.merge(merged, _merge_ranges(table.partials, begin, end))
        for at, column in enumerate(layout.columns):
            if column.slots == length:
                values[:, at] = slots.finish(column.function, merged[:, column.group])
    return values


def _merge_ranges(partials: Floats, begin: NDArray[np.int64], end: NDArray[np.int64]) -> Floats:
    """Return the merged partials [ranges, groups, 5] of `partials[begin:end]` for each range."""
    merged = np.tile(slots.EMPTY, (len(begin), partials.shape[1], 1))
    lengths = end - begin
    some = np.flatnonzero(lengths > 0)
    cuts = np.searchsorted(
        np.cumsum(lengths[some]), np.arange(0, int(lengths[some].sum()), _CHUNK), side="right"
    )
    for rows in np.split(some, np.unique(cuts)[1:]):
        if len(rows):
            merged[rows] = _merge_chunk(partials, begin[rows], lengths[rows])
    return merged


def _merge_chunk(partials: Floats, begin: NDArray[np.int64], lengths: NDArray[np.int64]) -> Floats:
    starts = np.cumsum(lengths) - lengths
    places = np.arange(int(lengths.sum())) - np.repeat(starts - begin, lengths)
    found = partials[places]
    count, mean = found[..., slots.COUNT], found[..., slots.MEAN]
    total_count = np.add.reduceat(count, starts, axis=0)
    total = np.add.reduceat(count * mean, starts, axis=0)
    overall = np.divide(total, total_count, out=np.zeros_like(total), where=total_count > 0)
    off = np.where(count > 0, mean - np.repeat(overall, lengths, axis=0), 0.0)
    m2 = np.add.reduceat(found[..., slots.M2] + count * off * off, starts, axis=0)
    low = np.minimum.reduceat(found[..., slots.MIN], starts, axis=0)
    high = np.maximum.reduceat(found[..., slots.MAX], starts, axis=0)
    return np.stack([total_count, overall, m2, low, high], axis=-1)


def _with_late(
    layout: Layout, ids: Millis, numbers: Millis, grouped: Floats, arrived: Millis, in_time: NDArray[np.bool_],
    spine_ids: Millis, boundary: Millis, spine_at: Millis,
) -> Floats:  # fmt: skip
    """Answer where some events arrived after their slot was complete.

    Rows that have seen the same late events of their entity share an answer. Late
    events are few, so each distinct answer folds those it has seen anew.
    """
    late = np.flatnonzero(~in_time)
    late = late[np.lexsort((arrived[late], ids[late]))]
    seen = _first_at_or_after(ids[late], arrived[late], spine_ids, spine_at + 1)
    begin = np.searchsorted(ids[late], spine_ids)
    seen = np.maximum(seen, begin)
    keys, back = np.unique(np.stack([spine_ids, boundary, seen]), axis=1, return_inverse=True)
    base = _Table.of(ids[in_time], numbers[in_time], grouped[in_time])
    longest = max(column.slots for column in layout.columns)
    owner, places = _late_of(keys, np.searchsorted(ids[late], keys[0]), numbers[late], longest)
    chosen = late[places]
    extra = _Table.of(owner, numbers[chosen], grouped[chosen])
    answers = np.arange(keys.shape[1])
    return _evaluate(layout, [(base, keys[0], keys[1]), (extra, answers, keys[1])])[back.reshape(-1)]


def _late_of(
    keys: Millis, begin: NDArray[np.intp], numbers: Millis, longest: int
) -> tuple[Millis, NDArray[np.int64]]:
    """Return, flat, which late events each answer has seen that lie in its longest window."""
    owners, places = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for answer in np.flatnonzero(keys[2] > begin):
        found = np.arange(begin[answer], keys[2][answer])
        found = found[(numbers[found] >= keys[1][answer] - longest) & (numbers[found] < keys[1][answer])]
        owners.append(np.full(len(found), answer))
        places.append(found)
    return np.concatenate(owners), np.concatenate(places)


def _shared_ids(left: Any, right: Any) -> tuple[Millis, Millis]:
    """Return both columns as numbers, equal where their texts are equal."""
    texts = [_texts(left), _texts(right)]
    coded = (
        pa.chunked_array(texts).combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    )
    codes = np.asarray(coded, np.int64)
    return codes[: len(texts[0])], codes[len(texts[0]) :]


def _texts(column: ArrayLike | Any) -> pa.Array:
    array = pa.array(column) if not isinstance(column, pa.Array | pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_floating(array.type):
        array = array.cast(pa.int64())
    return pc.fill_null(array.cast(pa.string()), "")
