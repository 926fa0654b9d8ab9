"""Windowed aggregates kept as slots of mergeable partials.

Slot number = floor(event time / hop). An entity's state is a ring of slots; each slot
holds, for every group of the view (a field under a condition), a cell of count, mean,
M2, min and max, and only where a function asks for it a cell of its first or last value
or a sketch. A value at time t merges the completed slots of [b - W, b), b being the last
hop boundary not after t: nothing leaks, nothing depends on the order of arrival, and
between two boundaries nothing changes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trimtab_core import partials as cells
from trimtab_core import sketches
from trimtab_core.conditions import compile_condition
from trimtab_core.partials import EMPTY, EMPTY_END, End, Floats
from trimtab_core.sketches import NOTHING, Bins, Kind, Owners, Reader
from trimtab_core.specs import FeatureViewSpec

Millis = NDArray[np.int64]
Kept = Literal["cell"] | End | Kind
"""What a function is read from: its group's own cell, that of its first or last value, or a sketch."""
_AT_ONCE = 1_000
"""Entities whose windows are looked at together, which bounds the memory."""


@dataclass(frozen=True, slots=True)
class Group:
    """A field, and the condition under which its values count."""

    field: str
    where: str | None

    @property
    def fields(self) -> tuple[str, ...]:
        """What of an event it reads."""
        return (self.field, *(compile_condition(self.where).fields if self.where is not None else ()))

    @property
    def name(self) -> str:
        """What it is called between the stages."""
        return self.field if self.where is None else f"{self.field} where {self.where}"


@dataclass(frozen=True, slots=True)
class Column:
    """A feature: a function of a group over a number of slots."""

    name: str
    group: int
    function: str
    slots: int
    kept: Kept
    """In what part of a slot it is kept."""


def _kept(function: str) -> Kept:
    match function:
        case "first":
            return "first"
        case "last":
            return "last"
    read = sketches.reader(function)
    return "cell" if read is None else read[0]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a view's slots are laid out."""

    hop_ms: int
    ring: int
    groups: tuple[Group, ...]
    columns: tuple[Column, ...]
    ends: tuple[tuple[int, End], ...]
    """Groups whose first or last value is kept: a cell each, after those of the groups."""
    sketches: tuple[tuple[int, Kind], ...]
    """Groups of which a sketch is kept."""
    fields: tuple[str, ...]
    """The fields of an event that its groups read."""
    empty: Floats = field(compare=False)
    """The cells [cells, 5] of no events."""

    @classmethod
    def of(cls, view: FeatureViewSpec, lateness_ms: int) -> "Layout":
        """Return the layout of `view` over a source whose events are at most `lateness_ms` late."""
        groups: list[Group] = []
        columns: list[Column] = []
        names = iter(view.columns())
        for aggregate in view.aggregates:
            group = Group(aggregate.field, aggregate.where.strip() if aggregate.where else None)
            if group not in groups:
                groups.append(group)
            place = groups.index(group)
            columns += [
                Column(next(names), place, function, window // view.hop, _kept(function))
                for function in aggregate.functions
                for window in aggregate.windows
            ]
        longest = max(window for aggregate in view.aggregates for window in aggregate.windows)
        kept = list(dict.fromkeys((column.group, column.kept) for column in columns))
        ends = tuple((group, part) for group, part in kept if part == "first" or part == "last")
        return cls(
            hop_ms=view.hop,
            ring=-(-(longest + lateness_ms) // view.hop) + 2,
            groups=tuple(groups),
            columns=tuple(columns),
            ends=ends,
            sketches=tuple(
                (group, part) for group, part in kept if part == "distinct" or part == "quantiles"
            ),
            fields=tuple(dict.fromkeys(name for group in groups for name in group.fields)),
            empty=np.stack([EMPTY] * len(groups) + [EMPTY_END[end] for _, end in ends]),
        )

    def slot_of(self, ms: Millis) -> Millis:
        """Return the slots in which instants lie."""
        found: Millis = np.floor_divide(ms, self.hop_ms)
        return found

    def boundary_of(self, ms: int) -> int:
        """Return the last hop boundary not after an instant."""
        return ms // self.hop_ms * self.hop_ms

    def reduce(self, values: Floats, times: Millis, ids: Sequence[str], starts: NDArray[np.intp]) -> Floats:
        """Return the partials [segments, cells, 5] of rows' group values [rows, groups], cut at `starts`."""
        found = cells.reduce(values, starts)
        if not self.ends:
            return found
        ties = sketches.text_numbers(ids)
        last = [
            cells.reduce_ends(end, cells.ends(values[:, group], times, ties), starts)
            for group, end in self.ends
        ]
        return np.concatenate([found, np.stack(last, axis=1)], axis=1)

    def merge(self, left: Floats, right: Floats) -> Floats:
        """Return the partials of both; any shape [..., cells, 5]."""
        if not self.ends:
            return cells.merge(left, right)
        groups = len(self.groups)
        found = [cells.merge(left[..., :groups, :], right[..., :groups, :])]
        for at, (_, end) in enumerate(self.ends, groups):
            found.append(cells.merge_ends(end, left[..., at : at + 1, :], right[..., at : at + 1, :]))
        return np.concatenate(found, axis=-2)

    def evaluate(self, window: Floats) -> Floats:
        """Return the columns' values [rows, columns] of slots [rows, longest, cells, 5], the newest slot last.

        Columns that are read from a sketch are NaN.
        """
        values = np.full((len(window), len(self.columns)), np.nan)
        merged: dict[int, Floats] = {}
        for at, column in enumerate(self.columns):
            part = window[:, window.shape[1] - column.slots :]
            kept = column.kept
            if kept == "first" or kept == "last":
                place = len(self.groups) + self.ends.index((column.group, kept))
                values[:, at] = cells.end_of_all(kept, part[:, :, place])
            elif kept == "cell":
                if column.slots not in merged:
                    merged[column.slots] = cells.merge_all(part[:, :, : len(self.groups)])
                held = merged[column.slots][:, column.group]
                values[:, at] = cells.finish(column.function, held, column.slots * self.hop_ms)
        return values

    def sketched(self) -> list[tuple[int, int, list[tuple[int, Reader]]]]:
        """Return what is read from sketches: the sketch, over how many slots, and the columns with their readers."""
        found: dict[tuple[int, int], list[tuple[int, Reader]]] = {}
        for at, column in enumerate(self.columns):
            if (read := sketches.reader(column.function)) is not None:
                sketch = self.sketches.index((column.group, read[0]))
                found.setdefault((sketch, column.slots), []).append((at, read[1]))
        return [(sketch, slots, columns) for (sketch, slots), columns in found.items()]


@dataclass(frozen=True, slots=True)
class Folded:
    """What a batch did to the state."""

    changed: list[tuple[str, int, int]]
    """Entity, slot number and ring index of each slot that is not as it was."""
    too_old: int
    """Events older than what the ring still holds; they changed nothing."""


class FoldState:
    """The slots of all entities of a view, or of one partition of it."""

    def __init__(self, layout: Layout) -> None:
        """Start empty."""
        self.layout = layout
        self._rows: dict[str, int] = {}
        self._names: list[str] = []
        self._free: list[int] = []
        self._slots = np.full((16, layout.ring), -1, np.int64)
        self._partials = np.tile(layout.empty, (16, layout.ring, 1, 1))
        self._sketches = _no_sketches(16, layout)
        self._sketched = layout.sketched()
        self._longest = max(column.slots for column in layout.columns)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def entities(self) -> tuple[str, ...]:
        """All entities that have been seen and not been forgotten."""
        return tuple(self._rows)

    def fold(
        self, entities: Sequence[str], event_time_ms: Millis, values: Floats, ids: Sequence[str] = ()
    ) -> Folded:
        """Take a batch of events in: group values [rows, groups] of `layout.groups`, NaN where nothing counts.

        `ids` of the events are needed where the layout keeps a first or last value. Events before 1970 are too old.
        """
        if not len(entities):
            return Folded([], 0)
        rows = np.array([self._row(entity) for entity in entities], np.int64)
        times = np.asarray(event_time_ms, np.int64)
        slots = self.layout.slot_of(times)
        order = np.lexsort((slots, rows))
        rows, slots = rows[order], slots[order]
        starts = np.flatnonzero(np.concatenate([[True], (rows[1:] != rows[:-1]) | (slots[1:] != slots[:-1])]))
        values = np.asarray(values, np.float64)[order]
        ids = [ids[at] for at in order.tolist()] if self.layout.ends else ()
        partials = self.layout.reduce(values, times[order], ids, starts)
        sizes = np.diff(np.append(starts, len(rows)))
        rows, slots = rows[starts], slots[starts]
        folded, stays, again = self._take(rows, slots, partials, sizes)
        if self.layout.sketches:
            self._take_sketches(rows, slots, np.repeat(np.arange(len(rows)), sizes), values, stays, again)
        return folded

    def _take(
        self, rows: Millis, slots: Millis, partials: Floats, sizes: NDArray[np.int64]
    ) -> tuple[Folded, NDArray[np.bool_], NDArray[np.bool_]]:
        """Merge segments, each of one row and slot; of two slots with one place in the ring the newer stays.

        Return what that did, which segments stay, and which of all found their slot held already.
        """
        places = slots % self.layout.ring
        before = self._slots[rows, places]
        old = (slots < before) | (slots < 0)
        np.maximum.at(self._slots, (rows, places), slots)
        stays = ~old & (slots == self._slots[rows, places])
        again = stays & (slots == before)
        held = self._partials[rows[again], places[again]]
        partials[again] = self.layout.merge(held, partials[again])
        self._partials[rows[stays], places[stays]] = partials[stays]
        names = [self._names[row] for row in rows[stays].tolist()]
        changed = list(zip(names, slots[stays].tolist(), places[stays].tolist(), strict=True))
        return Folded(changed, int(sizes[old].sum())), stays, again

    def _take_sketches(
        self,
        rows: Millis,
        slots: Millis,
        segments: Owners,
        values: Floats,
        stays: NDArray[np.bool_],
        again: NDArray[np.bool_],
    ) -> None:
        """Merge the events of the segments that stay into their sketches, beside what was held `again`."""
        places = slots % self.layout.ring
        for at, (group, kind) in enumerate(self.layout.sketches):
            counted = np.flatnonzero(stays[segments] & ~np.isnan(values[:, group]))
            owners, bins = segments[counted], sketches.bins_of(kind, values[counted, group])
            known = np.flatnonzero(again)
            held = self._sketches[rows[known], places[known], at]
            owners = np.concatenate([owners, np.repeat(known, [len(each) for each in held])])
            owners, bins = sketches.combine(kind, owners, np.concatenate([bins, *held]))
            ends = np.searchsorted(owners, np.arange(len(rows) + 1))
            for segment in np.flatnonzero(stays).tolist():
                found = bins[ends[segment] : ends[segment + 1]].copy()
                self._sketches[rows[segment], places[segment], at] = found

    def slot(self, entity: str, index: int) -> tuple[int, Floats]:
        """Return the slot number at a ring index, -1 if none, and its partials [cells, 5].

        Raises:
            KeyError: the entity is unknown.
        """
        row = self._rows[entity]
        return int(self._slots[row, index]), self._partials[row, index].copy()

    def occupied(self) -> Iterator[tuple[str, int]]:
        """Yield entity and ring index of each slot that holds something."""
        for row, index in np.argwhere(self._slots[: len(self._names)] >= 0).tolist():
            yield self._names[row], index

    def sketches(self, entity: str, index: int) -> list[Bins]:
        """Return the sketches of the slot at a ring index, one for each of `layout.sketches`.

        Raises:
            KeyError: the entity is unknown.
        """
        return list(self._sketches[self._rows[entity], index])

    def put(self, entity: str, slot: int, partials: Floats, sketches: Sequence[Bins] = ()) -> None:
        """Set a slot as it was read from elsewhere; an older one than is held changes nothing.

        Raises:
            ValueError: these are no partials or sketches of this layout.
        """
        partials = np.asarray(partials, np.float64).reshape(self.layout.empty.shape)
        if len(sketches) != len(self.layout.sketches):
            raise ValueError(f"a slot has {len(self.layout.sketches)} sketches, and not {len(sketches)}")
        row, place = self._row(entity), slot % self.layout.ring
        if slot >= self._slots[row, place]:
            self._slots[row, place] = slot
            self._partials[row, place] = partials
            for at, sketch in enumerate(sketches):
                self._sketches[row, place, at] = sketch

    def values(self, entities: Sequence[str], at_ms: int) -> Floats:
        """Return the features [entities, columns] at a time, from completed slots only.

        Of an entity that is unknown or has no events in a window, counts, rate and sum are 0 and the others NaN.
        """
        found = np.array([self._rows.get(entity, -1) for entity in entities], np.int64)
        values = np.empty((len(found), len(self.layout.columns)))
        until = at_ms // self.layout.hop_ms
        for start in range(0, len(found), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            values[part] = self.layout.evaluate(self._window(found[part], until))
            self._read_sketches(found[part], until, values[part])
        return values

    def _read_sketches(self, rows: Millis, until: int, values: Floats) -> None:
        """Fill in the columns that are read from sketches."""
        for sketch, slots, columns in self._sketched:
            wanted = until - slots + np.arange(slots)
            places = wanted % self.layout.ring
            there = (self._slots[rows[:, None], places] == wanted) & (rows >= 0)[:, None]
            owners, at = np.nonzero(there)
            held = self._sketches[rows[owners], places[at], sketch]
            owners, bins = sketches.combine(
                self.layout.sketches[sketch][1],
                np.repeat(owners, [len(each) for each in held]),
                np.concatenate([NOTHING, *held]),
            )
            for column, read in columns:
                values[:, column] = read(owners, bins, len(rows))

    def _window(self, rows: Millis, until: int) -> Floats:
        """Return the partials [rows, longest, cells, 5] of the slots before `until`; a row -1 has none."""
        wanted = until - self._longest + np.arange(self._longest)
        places = wanted % self.layout.ring
        there = (self._slots[rows[:, None], places] == wanted) & (rows >= 0)[:, None]
        return np.where(there[..., None, None], self._partials[rows[:, None], places], self.layout.empty)

    def last_event_slot(self, entity: str) -> int:
        """Return the newest slot of an entity, -1 if it is unknown."""
        row = self._rows.get(entity)
        return -1 if row is None else int(self._slots[row].max())

    def expired(self, at_ms: int, ttl_ms: int) -> list[str]:
        """Return the entities of which nothing has been heard for `ttl_ms` by a time, nor for the length of the ring.

        So a question about an earlier time, as late as an event may be, is answered as if nothing had been forgotten.
        """
        newest = self._slots[: len(self._names)].max(axis=1, initial=-1)
        quiet_ms = max(ttl_ms, self.layout.ring * self.layout.hop_ms)
        ended = (newest + 1) * self.layout.hop_ms + quiet_ms <= at_ms
        return [self._names[row] for row in np.flatnonzero(ended & (newest >= 0))]

    def forget(self, entity: str) -> None:
        """Drop an entity; its memory serves the next new one."""
        if (row := self._rows.pop(entity, None)) is not None:
            self._slots[row] = -1
            self._partials[row] = self.layout.empty
            self._sketches[row] = _no_sketches(1, self.layout)[0]
            self._free.append(row)

    def _row(self, entity: str) -> int:
        row = self._rows.get(entity)
        if row is not None:
            return row
        if self._free:
            row = self._free.pop()
            self._names[row] = entity
        else:
            row = len(self._names)
            self._names.append(entity)
            if row == len(self._slots):
                self._slots = np.concatenate([self._slots, np.full_like(self._slots, -1)])
                self._partials = np.concatenate(
                    [self._partials, np.broadcast_to(self.layout.empty, self._partials.shape)]
                )
                self._sketches = np.concatenate([self._sketches, _no_sketches(row, self.layout)])
        self._rows[entity] = row
        return row


def _no_sketches(rows: int, layout: Layout) -> NDArray[Any]:
    """Return the sketches [rows, ring, sketches] of nothing."""
    made: NDArray[Any] = np.frompyfunc(lambda _: NOTHING, 1, 1)(
        np.zeros((rows, layout.ring, len(layout.sketches)))
    )
    return made
