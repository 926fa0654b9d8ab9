"""Windowed aggregates kept as slots of mergeable partials.

Slot number = floor(event time / hop). An entity's state is a ring of slots; each slot
holds, for every group of the view (a field under a condition), count, mean, M2, min
and max. A value at time t merges the completed slots of (b - W, b], b being the last
hop boundary not after t: nothing leaks, nothing depends on the order of arrival, and
between two boundaries nothing changes. Means and M2 merge as in Chan, Golub and
LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances"
(1979).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab_core.features import Where, compile_where
from trimtab_core.specs import FeatureViewSpec

Floats = NDArray[np.float64]
Millis = NDArray[np.int64]
COUNT, MEAN, M2, MIN, MAX = range(5)
PARTS = 5
EMPTY = np.array([0.0, 0.0, 0.0, np.inf, -np.inf])
"""The partials of nothing."""
_AT_ONCE = 1_000
"""Entities whose windows are looked at together, which bounds the memory."""


@dataclass(frozen=True, slots=True)
class Group:
    """A field, and the condition under which its values count."""

    field: str
    where: Where | None


@dataclass(frozen=True, slots=True)
class Column:
    """A feature: a function of a group over a number of slots."""

    name: str
    group: int
    function: str
    slots: int


@dataclass(frozen=True, slots=True)
class Layout:
    """How a view's slots are laid out."""

    hop_ms: int
    ring: int
    groups: tuple[Group, ...]
    columns: tuple[Column, ...]
    fields: tuple[str, ...]
    """The numeric fields that a fold reads from a row, in the order of its values."""

    @classmethod
    def of(cls, view: FeatureViewSpec, lateness_ms: int) -> "Layout":
        """Return the layout of `view` over a source whose events are at most `lateness_ms` late."""
        groups: list[Group] = []
        columns: list[Column] = []
        names = iter(view.columns())
        for aggregate in view.aggregates:
            group = Group(aggregate.field, compile_where(aggregate.where) if aggregate.where else None)
            if group not in groups:
                groups.append(group)
            place = groups.index(group)
            columns += [
                Column(next(names), place, function, window // view.hop)
                for function in aggregate.functions
                for window in aggregate.windows
            ]
        longest = max(window for aggregate in view.aggregates for window in aggregate.windows)
        fields = dict.fromkeys(name for group in groups for name in _reads(group))
        return cls(
            hop_ms=view.hop,
            ring=-(-(longest + lateness_ms) // view.hop) + 2,
            groups=tuple(groups),
            columns=tuple(columns),
            fields=tuple(fields),
        )

    def slot_of(self, ms: Millis) -> Millis:
        """Return the slots in which instants lie."""
        found: Millis = np.floor_divide(ms, self.hop_ms)
        return found

    def boundary_of(self, ms: int) -> int:
        """Return the last hop boundary not after an instant."""
        return ms // self.hop_ms * self.hop_ms

    def grouped(self, values: Floats) -> Floats:
        """Return each group's values [rows, groups] of rows' field values [rows, fields]; NaN does not count."""
        found = np.empty((len(values), len(self.groups)))
        for at, group in enumerate(self.groups):
            column = values[:, self.fields.index(group.field)]
            if group.where is not None:
                met = group.where.mask(values[:, self.fields.index(group.where.field)])
                column = np.where(met, column, np.nan)
            found[:, at] = column
        return found


def _reads(group: Group) -> tuple[str, ...]:
    return (group.field,) if group.where is None else (group.field, group.where.field)


def reduce(values: Floats, starts: NDArray[np.intp]) -> Floats:
    """Return the partials [segments, groups, 5] of rows' group values [rows, groups], cut at `starts`."""
    counted = ~np.isnan(values)
    known = np.where(counted, values, 0.0)
    count = np.add.reduceat(counted.astype(np.float64), starts, axis=0)
    total = np.add.reduceat(known, starts, axis=0)
    mean = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    lengths = np.diff(np.append(starts, len(values)))
    off = np.where(counted, values - np.repeat(mean, lengths, axis=0), 0.0)
    m2 = np.add.reduceat(off * off, starts, axis=0)
    low = np.minimum.reduceat(np.where(counted, values, np.inf), starts, axis=0)
    high = np.maximum.reduceat(np.where(counted, values, -np.inf), starts, axis=0)
    return np.stack([count, mean, m2, low, high], axis=-1)


def merge(left: Floats, right: Floats) -> Floats:
    """Return the partials of both; any shape [..., 5]."""
    count = left[..., COUNT] + right[..., COUNT]
    share = np.divide(right[..., COUNT], count, out=np.zeros_like(count), where=count > 0)
    apart = right[..., MEAN] - left[..., MEAN]
    merged = np.empty(np.broadcast_shapes(left.shape, right.shape))
    merged[..., COUNT] = count
    merged[..., MEAN] = left[..., MEAN] + apart * share
    merged[..., M2] = left[..., M2] + right[..., M2] + apart * apart * share * left[..., COUNT]
    merged[..., MIN] = np.minimum(left[..., MIN], right[..., MIN])
    merged[..., MAX] = np.maximum(left[..., MAX], right[..., MAX])
    return merged


def merge_all(partials: Floats) -> Floats:
    """Return the partials of all slots: [rows, slots, groups, 5] to [rows, groups, 5]."""
    count = partials[..., COUNT].sum(axis=1)
    total = (partials[..., COUNT] * partials[..., MEAN]).sum(axis=1)
    mean = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    off = np.where(partials[..., COUNT] > 0, partials[..., MEAN] - mean[:, None], 0.0)
    m2 = (partials[..., M2] + partials[..., COUNT] * off * off).sum(axis=1)
    low = partials[..., MIN].min(axis=1, initial=np.inf)
    high = partials[..., MAX].max(axis=1, initial=-np.inf)
    return np.stack([count, mean, m2, low, high], axis=-1)


def finish(function: str, partials: Floats) -> Floats:
    """Return the values of a function from merged partials [..., 5]; NaN where there is none."""
    count = partials[..., COUNT]
    if function == "count":
        return count
    if function == "sum":
        return count * partials[..., MEAN]
    if function == "stddev":
        some = count > 1
        spread = np.sqrt(np.divide(partials[..., M2], count - 1, out=np.zeros_like(count), where=some))
        return np.where(some, spread, np.nan)
    part = {"mean": MEAN, "min": MIN, "max": MAX}[function]
    return np.where(count > 0, partials[..., part], np.nan)


def evaluate(layout: Layout, window: Floats) -> Floats:
    """Return the columns' values [rows, columns] of slots [rows, longest, groups, 5], the newest slot last."""
    values = np.empty((len(window), len(layout.columns)))
    merged: dict[int, Floats] = {}
    for at, column in enumerate(layout.columns):
        if column.slots not in merged:
            merged[column.slots] = merge_all(window[:, window.shape[1] - column.slots :])
        values[:, at] = finish(column.function, merged[column.slots][:, column.group])
    return values


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
        self._partials = np.tile(EMPTY, (16, layout.ring, len(layout.groups), 1))
        self._longest = max(column.slots for column in layout.columns)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def entities(self) -> tuple[str, ...]:
        """All entities that have been seen and not been forgotten."""
        return tuple(self._rows)

    def fold(self, entities: Sequence[str], event_time_ms: Millis, values: Floats) -> Folded:
        """Take a batch of events in: field values [rows, fields] of `layout.fields`, NaN where null.

        Events before 1970 are too old.
        """
        if not len(entities):
            return Folded([], 0)
        rows = np.array([self._row(entity) for entity in entities], np.int64)
        slots = self.layout.slot_of(np.asarray(event_time_ms, np.int64))
        order = np.lexsort((slots, rows))
        rows, slots = rows[order], slots[order]
        starts = np.flatnonzero(np.concatenate([[True], (rows[1:] != rows[:-1]) | (slots[1:] != slots[:-1])]))
        partials = reduce(self.layout.grouped(np.asarray(values, np.float64)[order]), starts)
        sizes = np.diff(np.append(starts, len(rows)))
        return self._take(rows[starts], slots[starts], partials, sizes)

    def _take(self, rows: Millis, slots: Millis, partials: Floats, sizes: NDArray[np.int64]) -> Folded:
        """Merge segments, each of one row and slot; of two slots with one place in the ring the newer stays."""
        places = slots % self.layout.ring
        before = self._slots[rows, places]
        old = (slots < before) | (slots < 0)
        np.maximum.at(self._slots, (rows, places), slots)
        stays = ~old & (slots == self._slots[rows, places])
        rows, places, slots, partials = rows[stays], places[stays], slots[stays], partials[stays]
        again = slots == before[stays]
        held = self._partials[rows[again], places[again]]
        partials[again] = merge(held, partials[again])
        self._partials[rows, places] = partials
        names = [self._names[row] for row in rows.tolist()]
        changed = list(zip(names, slots.tolist(), places.tolist(), strict=True))
        return Folded(changed, int(sizes[old].sum()))

    def slot(self, entity: str, index: int) -> tuple[int, Floats]:
        """Return the slot number at a ring index, -1 if none, and its partials [groups, 5].

        Raises:
            KeyError: the entity is unknown.
        """
        row = self._rows[entity]
        return int(self._slots[row, index]), self._partials[row, index].copy()

    def put(self, entity: str, slot: int, partials: Floats) -> None:
        """Set a slot as it was read from elsewhere; an older one than is held changes nothing."""
        row, place = self._row(entity), slot % self.layout.ring
        if slot >= self._slots[row, place]:
            self._slots[row, place] = slot
            self._partials[row, place] = np.asarray(partials, np.float64).reshape(-1, PARTS)

    def values(self, entities: Sequence[str], at_ms: int) -> Floats:
        """Return the features [entities, columns] at a time, from completed slots only.

        Of an entity that is unknown or has no events in a window, count and sum are 0 and the others NaN.
        """
        found = np.array([self._rows.get(entity, -1) for entity in entities], np.int64)
        values = np.empty((len(found), len(self.layout.columns)))
        for start in range(0, len(found), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            values[part] = evaluate(self.layout, self._window(found[part], at_ms // self.layout.hop_ms))
        return values

    def _window(self, rows: Millis, until: int) -> Floats:
        """Return the partials [rows, longest, groups, 5] of the slots before `until`; a row -1 has none."""
        wanted = until - self._longest + np.arange(self._longest)
        places = wanted % self.layout.ring
        there = (self._slots[rows[:, None], places] == wanted) & (rows >= 0)[:, None]
        return np.where(there[..., None, None], self._partials[rows[:, None], places], EMPTY)

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
            self._partials[row] = EMPTY
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
                    [self._partials, np.broadcast_to(EMPTY, self._partials.shape)]
                )
        self._rows[entity] = row
        return row
