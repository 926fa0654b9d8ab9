"""The offline twin of the online state: what a feature was at a time, recomputed from events.

Each spine row is answered as it would have been answered then: from the completed
slots of its window, without the events that had not yet arrived. Every row is
answered, in order; where nothing was known the value says so.
"""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trimtab_core import slots
from trimtab_core.contract import entity_text
from trimtab_core.slots import Floats, Layout, Millis

Ids = NDArray[np.int64]
Places = NDArray[np.int64]

NEVER: Final = np.iinfo(np.int64).max


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
        entities: of the events; any array of texts, numbers or booleans. An event without one counts for none.
        event_time_ms: of the events [events].
        values: of the events' fields [events, layout.fields], NaN where null.
        arrived_at_ms: of the events [events].
        spine_entities: like `entities`.
        spine_at_ms: the times asked for [spine].
    """
    ids, spine_ids = _shared_ids(entities, spine_entities)
    at = np.asarray(spine_at_ms, np.int64)
    grouped = layout.grouped(np.asarray(values, np.float64).reshape(len(ids), len(layout.fields)))
    event_slots = layout.slot_of(np.asarray(event_time_ms, np.int64))
    history = _History(layout.hop_ms, ids, event_slots, np.asarray(arrived_at_ms, np.int64), grouped)
    # Rows whose events have all arrived are as of their boundary; only the others need their own time.
    until = layout.slot_of(at)
    settled, end = history.settled(spine_ids, until, at)
    order = np.lexsort((np.where(settled < end, at, NEVER), until, spine_ids))
    first = _starts(spine_ids[order], until[order], np.where(settled < end, at, NEVER)[order])
    asked = order[first]
    answers = history.answers(layout, spine_ids[asked], until[asked], at[asked])
    found = np.empty((len(at), len(layout.columns)))
    found[order] = np.repeat(answers, np.diff(np.append(first, len(order))), axis=0)
    return found


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
    ids, spine_ids = _shared_ids(label_keys, spine_keys)
    values, at = np.asarray(label_values, np.float64), np.asarray(label_at_ms, np.int64)
    arrived, spine_at = np.asarray(label_arrived_ms, np.int64), np.asarray(spine_at_ms, np.int64)
    keep = np.flatnonzero((arrived <= as_of_ms) & (ids >= 0) & ~np.isnan(values))
    keep = keep[np.lexsort((arrived[keep], at[keep], ids[keep]))]
    ids, at, values = ids[keep], at[keep], values[keep]
    place = _Index(ids, at).first(spine_ids, spine_at)
    rows = np.flatnonzero(place < len(ids))
    place = place[rows]
    fits = (ids[place] == spine_ids[rows]) & (at[place] - spine_at[rows] <= within_ms)
    labels = np.full(len(spine_ids), np.nan)
    labels[rows[fits]] = values[place[fits]]
    return labels, int(np.isnan(labels).sum())


class _Index:
    """Where (id, number) pairs lie in a table sorted by id.

    Numbers are looked up by their running maximum within an id; in a table sorted by number too, that is the number.
    """

    def __init__(self, ids: Ids, numbers: Millis) -> None:
        self._known = np.unique(numbers)
        self._keys = np.maximum.accumulate(self._key(ids, numbers))

    def first(self, ids: Ids, numbers: Millis) -> Places:
        """Return the first place of each id that is not below the number; where there is none, where the id ends."""
        return np.searchsorted(self._keys, self._key(ids, numbers)).astype(np.int64)

    def _key(self, ids: Ids, numbers: Millis) -> Millis:
        key: Millis = ids * (len(self._known) + 1) + np.searchsorted(self._known, numbers)
        return key


class _Tree:
    """Partials [places, 5], merged in twos, fours, eights, so that any range is the merge of a few of them."""

    def __init__(self, partials: Floats) -> None:
        self._levels = [partials]
        while len(partials) > 1:
            even = len(partials) // 2 * 2
            partials = np.concatenate([slots.merge(partials[0:even:2], partials[1:even:2]), partials[even:]])
            self._levels.append(partials)

    def merged(self, begin: Places, end: Places) -> Floats:
        """Return the partials [ranges, 5] of all that lies in each range [begin, end)."""
        found = np.tile(slots.EMPTY, (len(begin), 1))
        rows = np.flatnonzero(begin < end)
        begin, end = begin[rows], end[rows]
        for level in self._levels:
            _add(found, level, rows, begin, begin % 2 == 1)
            _add(found, level, rows, end - 1, end % 2 == 1)
            begin, end = (begin + 1) // 2, end // 2
            left = begin < end
            rows, begin, end = rows[left], begin[left], end[left]
        return found


def _add(found: Floats, level: Floats, rows: Places, places: Places, chosen: NDArray[np.bool_]) -> None:
    found[rows[chosen]] = slots.merge(found[rows[chosen]], level[places[chosen]])


class _History:
    """Events sorted by entity, slot and arrival; a leaf is the events of one entity in one slot."""

    def __init__(self, hop_ms: int, ids: Ids, numbers: Millis, arrived: Millis, grouped: Floats) -> None:
        order = np.lexsort((arrived, numbers, ids))
        order = order[np.searchsorted(ids[order], 0) :]
        ids, numbers = ids[order], numbers[order]
        self._arrived, self._grouped = arrived[order], grouped[order]
        self._starts = _starts(ids, numbers)
        self._ends = np.append(self._starts, len(order))[1:].astype(np.int64)
        self._slots = _Index(ids[self._starts], numbers[self._starts])
        last = self._arrived[self._ends - 1]
        self._late = np.flatnonzero(last > (numbers[self._starts] + 1) * hop_ms)
        self._late_index = _Index(ids[self._starts][self._late], last[self._late])

    def settled(self, ids: Ids, until: Millis, at: Millis) -> tuple[Places, Places]:
        """Return up to which leaf all events had arrived at each time, and where the completed leaves end."""
        end = self._slots.first(ids, until)
        pending = np.append(self._late, NEVER)[self._late_index.first(ids, at + 1)]
        return np.minimum(pending, end), end

    def answers(self, layout: Layout, ids: Ids, until: Millis, at: Millis) -> Floats:
        """Return the columns' values of entities over the slots before `until`, of what had arrived `at` a time."""
        settled, end = self.settled(ids, until, at)
        found = np.empty((len(ids), len(layout.columns)))
        for group in range(len(layout.groups)):
            columns = [(place, each) for place, each in enumerate(layout.columns) if each.group == group]
            values = self._grouped[:, [group]]
            leaves = _Tree(slots.reduce(values, self._starts)[:, 0] if len(values) else np.empty((0, 5)))
            pending = _Pending(self, values[:, 0], settled, end, at) if (settled < end).any() else None
            for length in {each.slots for _, each in columns}:
                begin = self._slots.first(ids, until - length)
                merged = leaves.merged(begin, np.maximum(begin, settled))
                if pending is not None:
                    pending.add(merged, begin)
                for place, each in columns:
                    if each.slots == length:
                        found[:, place] = slots.finish(each.function, merged)
        return found

    def arrived_by(self, leaves: Places, at: Millis) -> tuple[Places, Places]:
        """Return the range of a leaf's events that had arrived at each time."""
        begin, end = self._starts[leaves].astype(np.int64), self._ends[leaves].copy()
        low = begin.copy()
        while (open_ := np.flatnonzero(low < end)).size:
            middle = (low[open_] + end[open_]) // 2
            there = self._arrived[middle] <= at[open_]
            low[open_[there]] = middle[there] + 1
            end[open_[~there]] = middle[~there]
        return begin, low


class _Pending:
    """The leaves from the first that was not yet whole up to the last completed one, event by event."""

    def __init__(self, history: _History, values: Floats, settled: Places, end: Places, at: Millis) -> None:
        self._history, self._end, self._at, self._settled = history, end, at, settled
        self._most = int((end - settled).max())
        one = (~np.isnan(values)).astype(np.float64)
        known = np.where(one > 0, values, 0.0)
        low, high = np.where(one > 0, values, np.inf), np.where(one > 0, values, -np.inf)
        self._events = _Tree(np.stack([one, known, np.zeros_like(known), low, high], axis=-1))

    def add(self, merged: Floats, begin: Places) -> None:
        """Merge into `merged` what had arrived of the leaves that are in the window from `begin`."""
        first = np.maximum(self._settled, begin)
        for back in range(1, self._most + 1):
            rows = np.flatnonzero(self._end - back >= first)
            found = self._history.arrived_by(self._end[rows] - back, self._at[rows])
            merged[rows] = slots.merge(merged[rows], self._events.merged(*found))


def _starts(*columns: Millis) -> Places:
    """Return where a new combination begins in columns sorted together."""
    size = len(columns[0])
    new = np.ones(size, bool)
    if size:
        new[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return np.flatnonzero(new).astype(np.int64)


def _shared_ids(left: Any, right: Any) -> tuple[Ids, Ids]:
    """Return both columns as numbers, equal where their texts are equal; -1 where there is none."""
    columns = [_column(left), _column(right)]
    if not all(pa.types.is_integer(column.type) for column in columns):
        columns = [column.cast(pa.large_string()) for column in columns]
    elif columns[0].type != columns[1].type:
        columns = [column.cast(pa.int64()) for column in columns]
    codes = pa.concat_arrays(columns).dictionary_encode().indices.fill_null(-1)
    numbers: Ids = codes.to_numpy(zero_copy_only=False).astype(np.int64)
    return numbers[: len(columns[0])], numbers[len(columns[0]) :]


def _column(values: Iterable[Any]) -> pa.Array:
    """Return entities as an Arrow array whose texts are those of `entity_text`."""
    if isinstance(values, pa.ChunkedArray):
        column = values.combine_chunks()
    else:
        column = values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:
            pass
    if pa.types.is_floating(column.type) or pa.types.is_boolean(column.type):
        texts = [None if value is None else entity_text(value) for value in column.to_pylist()]
        return pa.array(texts, pa.string())
    return column
