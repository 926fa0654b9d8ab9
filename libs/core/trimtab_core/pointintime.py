"""The offline twin of the online state: what a feature was at a time, recomputed from events.

Each spine row is answered as it would have been answered then: from the completed
slots of its window, without the events that had not yet arrived. Every row is
answered, in order; where nothing was known the value says so.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trimtab_core import partials, sketches
from trimtab_core.contract import entity_text
from trimtab_core.partials import EMPTY_END, End, Floats
from trimtab_core.sketches import NOTHING, Bins, Kind
from trimtab_core.slots import Column, Kept, Layout, Millis

Ids = NDArray[np.int64]
Places = NDArray[np.int64]
_Range = tuple[Places, Places, Places]
"""Rows, and where the events of each begin and end."""
_AT_ONCE = 500
"""Rows whose sketches are merged together, which bounds the memory."""

NEVER: Final = np.iinfo(np.int64).max


def point_in_time(
    layout: Layout,
    entities: Any,
    event_time_ms: Millis,
    values: Floats,
    arrived_at_ms: Millis,
    spine_entities: Any,
    spine_at_ms: Millis,
    ids: Sequence[str] = (),
) -> Floats:
    """Return the features float64 [spine, columns] of each spine row's entity at its time.

    Args:
        layout: of the view.
        entities: of the events; any array of texts, numbers or booleans. An event without one counts for none.
        event_time_ms: of the events [events].
        values: of the events' groups [events, layout.groups], NaN where nothing counts.
        arrived_at_ms: of the events [events].
        spine_entities: like `entities`.
        spine_at_ms: the times asked for [spine].
        ids: of the events [events]; needed where the layout keeps a first or last value.
    """
    owners, spine_ids = _shared_ids(entities, spine_entities)
    at, times = np.asarray(spine_at_ms, np.int64), np.asarray(event_time_ms, np.int64)
    grouped = np.asarray(values, np.float64).reshape(len(owners), len(layout.groups))
    arrived = np.asarray(arrived_at_ms, np.int64)
    history = _History(layout, owners, times, arrived, grouped, ids)
    # Neighbours are looked up together: what they ask for lies together.
    asking = _in_order(spine_ids)
    spine_ids, at = spine_ids[asking], at[asking]
    # Rows whose events have all arrived are as of their boundary; only the others need their own time.
    until = layout.slot_of(at)
    settled, end = history.settled(spine_ids, until, at)
    own = np.where(settled < end, at, NEVER)
    order = np.lexsort((own, until, spine_ids))
    first = _starts(spine_ids[order], until[order], own[order])
    asked = order[first]
    answers = history.answers(spine_ids[asked], until[asked], settled[asked], end[asked], at[asked])
    found = np.empty((len(at), len(layout.columns)))
    alike = np.diff(np.append(first, len(order)))
    found[asking[order]] = answers if len(answers) == len(found) else np.repeat(answers, alike, axis=0)
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
        self._least, self._above = (int(numbers.min()), int(numbers.max()) + 1) if len(numbers) else (0, 0)
        self._width = self._above - self._least + 1
        # An id and a number make one key, as they are or, where that would be too large, by the number's rank.
        fits = not len(ids) or (int(ids.max()) + 2) * self._width < NEVER
        self._known = None if fits else np.unique(numbers)
        self._keys = np.maximum.accumulate(self._key(ids, numbers))

    def first(self, ids: Ids, numbers: Millis) -> Places:
        """Return the first place of each id that is not below the number; where there is none, where the id ends."""
        return np.searchsorted(self._keys, self._key(ids, numbers)).astype(np.int64)

    def _key(self, ids: Ids, numbers: Millis) -> Millis:
        if self._known is not None:
            return np.asarray(ids * (len(self._known) + 1) + np.searchsorted(self._known, numbers))
        return np.asarray(ids * self._width + (np.clip(numbers, self._least, self._above) - self._least))


class _Tree:
    """Cells [places, 5], merged in twos, fours, eights, so that any range is the merge of a few of them."""

    def __init__(self, cells: Floats, empty: Floats, merge: Callable[[Floats, Floats], Floats]) -> None:
        self._empty = empty
        self._merge = merge
        self._levels = [cells]
        while len(cells) > 1:
            even = len(cells) // 2 * 2
            cells = np.concatenate([merge(cells[0:even:2], cells[1:even:2]), cells[even:]])
            self._levels.append(cells)

    def merged(self, begin: Places, end: Places) -> Floats:
        """Return the cells [ranges, 5] of all that lies in each range [begin, end)."""
        found = np.tile(self._empty, (len(begin), 1))
        for level, rows, places in _nodes(begin, end):
            found[rows] = self._merge(found[rows], self._levels[level][places])
        return found


class _SketchTree:
    """The sketches of events, combined in twos, fours, eights like the cells of a `_Tree`."""

    def __init__(self, kind: Kind, values: Floats) -> None:
        self._levels: list[tuple[Places, Bins]] = []
        owners, count = np.flatnonzero(~np.isnan(values)), len(values)
        bins = sketches.bins_of(kind, values[owners])
        while count:
            self._levels.append((np.searchsorted(owners, np.arange(count + 1)), bins))
            if count == 1:
                break
            owners, bins = sketches.combine(kind, owners // 2, bins)
            count = (count + 1) // 2

    def bins(self, begin: Places, end: Places) -> Iterator[tuple[Places, Bins]]:
        """Yield the bins of each range [begin, end), and whose they are; one range's may have the same key."""
        for level, rows, places in _nodes(begin, end):
            starts, bins = self._levels[level]
            first, sizes = starts[places], starts[places + 1] - starts[places]
            before = np.cumsum(sizes) - sizes
            yield np.repeat(rows, sizes), bins[np.arange(int(sizes.sum())) + np.repeat(first - before, sizes)]


def _nodes(begin: Places, end: Places) -> Iterator[tuple[int, Places, Places]]:
    """Yield the level of a tree, rows and places whose nodes together are the rows' ranges [begin, end)."""
    rows, level = np.flatnonzero(begin < end), 0
    begin, end = begin[rows], end[rows]
    while len(rows):
        for chosen, places in ((begin % 2 == 1, begin), (end % 2 == 1, end - 1)):
            yield level, rows[chosen], places[chosen]
        begin, end = (begin + 1) // 2, end // 2
        left = begin < end
        rows, begin, end, level = rows[left], begin[left], end[left], level + 1


class _History:
    """Events sorted by entity, slot and arrival; a leaf is the events of one entity in one slot."""

    def __init__(
        self,
        layout: Layout,
        ids: Ids,
        times: Millis,
        arrived: Millis,
        grouped: Floats,
        names: Sequence[str],
    ) -> None:
        numbers = layout.slot_of(times)
        # Rows that are in order of time already, as an archive gives them, need no more than their entities' order.
        in_order = not np.any((numbers[1:] < numbers[:-1]) | (arrived[1:] < arrived[:-1]))
        order = _in_order(ids) if in_order else np.lexsort((arrived, numbers, ids))
        order = order[np.searchsorted(ids[order], 0) :]
        ids, numbers = ids[order], numbers[order]
        self.times = times[order]
        self._grouped, self._names, self._order = grouped, names, order
        self.starts = _starts(ids, numbers)
        self._layout = layout
        self._arrived = arrived[order]
        self._ends = np.append(self.starts, len(order))[1:].astype(np.int64)
        self._slots = _Index(ids[self.starts], numbers[self.starts])
        last = self._arrived[self._ends - 1]
        self._late = np.flatnonzero(last > (numbers[self.starts] + 1) * layout.hop_ms)
        self._late_index = _Index(ids[self.starts][self._late], last[self._late])

    def group(self, group: int, events: Places | None = None) -> Floats:
        """Return the values of a group, of all events or of some."""
        found: Floats = self._grouped[self._order if events is None else self._order[events], group]
        return found

    def rows(self, events: Places, groups: Sequence[int]) -> Floats:
        """Return the values [events, groups] of some events."""
        found: Floats = self._grouped.take(self._order[events], axis=0)
        return found if len(groups) == found.shape[1] else found[:, groups]

    @functools.cached_property
    def is_whole(self) -> list[bool]:
        """For each group whether every event counts for it."""
        lowest = self._grouped.min(axis=0, initial=0.0)  # nothing, if one of them is nothing
        return [bool(each) for each in ~np.isnan(lowest)]

    @functools.cached_property
    def ties(self) -> Floats:
        """What tells apart the events [events] of one entity and time; 0 where there is but one."""
        order, again = self._in_time
        ties, later = np.zeros(len(self.times)), np.flatnonzero(again) + 1
        tied = order[np.union1d(later - 1, later)]
        ties[tied] = sketches.text_numbers([self._names[at] for at in self._order[tied].tolist()])
        return ties

    @functools.cached_property
    def by_time(self) -> Places | None:
        """The events in order of entity, time and id; None if an event is there twice."""
        order, again = self._in_time
        if not again.any():
            return order
        if self.ties.any():
            order = np.lexsort((self.ties, self.times, self._leaves))
        columns = [column[order] for column in (self._leaves, self.times, self.ties)]
        return order if _changes(*columns).all() else None

    @functools.cached_property
    def _in_time(self) -> tuple[Places, NDArray[np.bool_]]:
        """The events in order of leaf and time, and whether each but the first is there at the same time as the one before it."""
        times, leaves = self.times, self._leaves
        if not ((times[1:] < times[:-1]) & (leaves[1:] == leaves[:-1])).any():
            return np.arange(len(times)), ~_changes(leaves, times)[1:]
        order = np.lexsort((times, leaves))
        return order, ~_changes(leaves[order], times[order])[1:]

    @functools.cached_property
    def _leaves(self) -> Places:
        return np.repeat(np.arange(len(self.starts)), np.diff(np.append(self.starts, len(self.times))))

    def settled(self, ids: Ids, until: Millis, at: Millis) -> tuple[Places, Places]:
        """Return up to which leaf all events had arrived at each time, and where the completed leaves end."""
        end = self._slots.first(ids, until)
        pending = np.append(self._late, NEVER)[self._late_index.first(ids, at + 1)]
        return np.minimum(pending, end), end

    def answers(self, ids: Ids, until: Millis, settled: Places, end: Places, at: Millis) -> Floats:
        """Return the columns' values of entities over the slots before `until`, of what had arrived `at` a time.

        `settled` and `end` are of the same rows, as `settled()` gives them.
        """
        found = np.empty((len(ids), len(self._layout.columns)))
        windows = {
            length: _Asked(self._slots.first(ids, until - length), settled, end, at)
            for length in {each.slots for each in self._layout.columns}
        }
        for reader, places in self._readers():
            for length in {self._layout.columns[place].slots for place in places}:
                asked = [place for place in places if self._layout.columns[place].slots == length]
                wanted = [self._layout.columns[place] for place in asked]
                window_ms = length * self._layout.hop_ms
                found[:, asked] = reader.read(windows[length], wanted, window_ms)
        return found

    def _readers(self) -> Iterator[tuple["_Reader", list[int]]]:
        """Yield what reads the columns, and which."""
        together: dict[tuple[Kept, int | None], list[int]] = {}
        for place, column in enumerate(self._layout.columns):
            alike = column.kept in ("first", "last") and self.is_whole[column.group]
            together.setdefault((column.kept, None if alike else column.group), []).append(place)
        for (kept, group), places in together.items():
            yield _reader(self, group, kept), places

    def pending(self, asked: "_Asked") -> Iterator[_Range]:
        """Yield rows and those of their events that had arrived, from the first leaf that was not yet whole."""
        first = np.maximum(asked.settled, asked.begin)
        for back in range(1, int((asked.end - first).max(initial=0)) + 1):
            rows = np.flatnonzero(asked.end - back >= first)
            yield rows, *self._arrived_by(asked.end[rows] - back, asked.at[rows])

    def ranges(self, asked: "_Asked") -> Iterator[_Range]:
        """Yield rows and events that together are all that each row sees."""
        bounds = np.append(self.starts, len(self._arrived))
        settled = np.maximum(asked.begin, asked.settled)
        yield np.arange(len(settled)), bounds[asked.begin], bounds[settled]
        yield from self.pending(asked)

    def _arrived_by(self, leaves: Places, at: Millis) -> tuple[Places, Places]:
        """Return the range of a leaf's events that had arrived at each time."""
        begin, end = self.starts[leaves].astype(np.int64), self._ends[leaves].copy()
        low = begin.copy()
        while (open_ := np.flatnonzero(low < end)).size:
            middle = (low[open_] + end[open_]) // 2
            there = self._arrived[middle] <= at[open_]
            low[open_[there]] = middle[there] + 1
            end[open_[~there]] = middle[~there]
        return begin, low


@dataclass(frozen=True, slots=True)
class _Asked:
    """The leaves of each row's window, up to which of them all events had arrived, and its time."""

    begin: Places
    settled: Places
    end: Places
    at: Millis


class _Reader(Protocol):
    """Reads what a group keeps, or several that are read alike."""

    def read(self, asked: _Asked, wanted: Sequence[Column], window_ms: int) -> Floats:
        """Return the values [rows, wanted]."""
        ...


def _reader(history: _History, group: int | None, kept: Kept) -> _Reader:
    if kept == "first" or kept == "last":
        return _EndsReader(history, kept) if group is None else _EndReader(history, group, kept)
    assert group is not None
    return _CellReader(history, group) if kept == "cell" else _SketchReader(history, group, kept)


class _CellReader:
    """Leaf by leaf as far as all had arrived, event by event from there."""

    def __init__(self, history: _History, group: int) -> None:
        self._history = history
        self._values = history.group(group)[:, None]
        self._leaves = self._tree(history.starts)
        self._events: _Tree | None = None

    def read(self, asked: _Asked, wanted: Sequence[Column], window_ms: int) -> Floats:
        merged = self._leaves.merged(asked.begin, np.maximum(asked.begin, asked.settled))
        for rows, begin, end in self._history.pending(asked):
            if self._events is None:
                self._events = self._tree(np.arange(len(self._values)))
            merged[rows] = partials.merge(merged[rows], self._events.merged(begin, end))
        return np.stack([partials.finish(each.function, merged, window_ms) for each in wanted], axis=1)

    def _tree(self, starts: Places) -> _Tree:
        cells = partials.reduce(self._values, starts)[:, 0] if len(starts) else np.empty((0, partials.PARTS))
        return _Tree(cells, partials.EMPTY, partials.merge)


class _EndsReader:
    """The first or last of groups for which every event counts: it is the same event for all of them."""

    def __init__(self, history: _History, end: End) -> None:
        self._history = history
        self._end = end
        self._apart: dict[int, _EndReader] = {}

    def read(self, asked: _Asked, wanted: Sequence[Column], window_ms: int) -> Floats:
        groups = list(dict.fromkeys(each.group for each in wanted))
        (_, begin, end), *pending = self._history.ranges(asked)
        if pending or self._history.by_time is None:
            return np.concatenate(
                [self._alone(each.group).read(asked, [each], window_ms) for each in wanted], axis=1
            )
        rows = np.flatnonzero(begin < end)
        places = end[rows] - 1 if self._end == "last" else begin[rows]
        found = np.full((len(begin), len(groups)), np.nan)
        found[rows] = self._history.rows(self._history.by_time[places], groups)
        return found[:, [groups.index(each.group) for each in wanted]]

    def _alone(self, group: int) -> "_EndReader":
        if group not in self._apart:
            self._apart[group] = _EndReader(self._history, group, self._end)
        return self._apart[group]


class _EndReader:
    """The first or last of the events: in order of time, the nearest one that counts to an end of the window."""

    def __init__(self, history: _History, group: int, end: End) -> None:
        self._history = history
        self._group = group
        self._end = end
        self._merge = functools.partial(partials.merge_ends, end)
        self._empty = EMPTY_END[end]
        self._tree: _Tree | None = None
        self._by_time = history.by_time
        if self._by_time is not None:
            self._nearest = None if history.is_whole[group] else self._nearest_known()

    def read(self, asked: _Asked, wanted: Sequence[Column], window_ms: int) -> Floats:
        (_, begin, end), *pending = self._history.ranges(asked)
        if self._by_time is None:
            merged = self._of_events(begin, end)
        else:
            there, events = self._of_leaves(begin, end)
            if not pending:
                found = np.full(len(begin), np.nan)
                found[there] = self._history.group(self._group, events)
                return np.repeat(found[:, None], len(wanted), axis=1)
            merged = np.tile(self._empty, (len(begin), 1))
            merged[there] = self._cells(events)
        for rows, begin, end in pending:
            merged[rows] = self._merge(merged[rows], self._of_events(begin, end))
        return merged[:, [partials.VALUE] * len(wanted)]

    def _nearest_known(self) -> Places:
        """Return the place of the event that counts at or before each place; for a first one, at or after it."""
        known = ~np.isnan(self._history.group(self._group, self._by_time))
        places = np.arange(len(known))
        if self._end == "last":
            return np.maximum.accumulate(np.where(known, places, -1))
        return np.minimum.accumulate(np.where(known, places, len(known))[::-1])[::-1]

    def _of_leaves(self, begin: Places, end: Places) -> tuple[Places, Places]:
        """Return the rows whose whole leaves have an event that counts, and the event."""
        assert self._by_time is not None
        rows = np.flatnonzero(begin < end)
        place = end[rows] - 1 if self._end == "last" else begin[rows]
        if self._nearest is not None:
            place = self._nearest[place]
            there = (place >= begin[rows]) & (place < end[rows])
            rows, place = rows[there], place[there]
        return rows, self._by_time[place]

    def _of_events(self, begin: Places, end: Places) -> Floats:
        """Return the cells of ranges of events, which are in the order in which they arrived."""
        if self._tree is None:
            cells = self._cells(np.arange(len(self._history.times)))
            cells[np.isnan(cells[:, partials.VALUE])] = self._empty
            self._tree = _Tree(cells, self._empty, self._merge)
        return self._tree.merged(begin, end)

    def _cells(self, events: Places) -> Floats:
        history = self._history
        return partials.ends(history.group(self._group, events), history.times[events], history.ties[events])


class _SketchReader:
    """A sketch of the events, some rows at a time."""

    def __init__(self, history: _History, group: int, kind: Kind) -> None:
        self._history = history
        self._kind = kind
        self._events = _SketchTree(kind, history.group(group))

    def read(self, asked: _Asked, wanted: Sequence[Column], window_ms: int) -> Floats:
        readers = [read[1] for each in wanted if (read := sketches.reader(each.function)) is not None]
        found = np.empty((len(asked.at), len(wanted)))
        for start in range(0, len(found), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            some = _Asked(asked.begin[part], asked.settled[part], asked.end[part], asked.at[part])
            owners, bins = [NOTHING], [NOTHING]
            for rows, begin, end in self._history.ranges(some):
                for of, held in self._events.bins(begin, end):
                    owners.append(rows[of])
                    bins.append(held)
            whole = sketches.combine(self._kind, np.concatenate(owners), np.concatenate(bins))
            for at, reader in enumerate(readers):
                found[part, at] = reader(*whole, len(some.at))
        return found


def _starts(*columns: Millis) -> Places:
    """Return where a new combination begins in columns sorted together."""
    return np.flatnonzero(_changes(*columns)).astype(np.int64)


def _changes(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Return whether each row is in some column unlike the one before it; the first always is."""
    new = np.ones(len(columns[0]), bool)
    if len(new):
        new[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return new


def _in_order(ids: Ids) -> Places:
    """Return the places of `ids` in their order, of equal ones in that of the places."""
    small = len(ids) and ids.min() >= -1 and ids.max() < np.iinfo(np.uint16).max
    # So few can be sorted digit by digit.
    return np.argsort((ids + 1).astype(np.uint16) if small else ids, kind="stable")


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
