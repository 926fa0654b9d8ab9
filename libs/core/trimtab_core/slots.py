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
        self._slots = np.full((16, layout.ring), -1, np.int64)
        self._partials = np.tile(EMPTY, (16, layout.ring, len(layout.groups), 1))
        self._longest = max(column.slots for column in layout.columns)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def entities(self) -> tuple[str, ...]:
        """All entities that have been seen."""
        return tuple(self._names)

    def fold(self, entities: Sequence[str], event_time_ms: Millis, values: Floats) -> Folded:
        """Take a batch of events in: field values [rows, fields] of `layout.fields`, NaN where null."""
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
        """Merge segments, in the order of their slots, so that a newer slot displaces an older one of its place."""
        places = slots % self.layout.ring
        changed: dict[tuple[int, int], None] = {}
        too_old = 0
        for row, slot, place, partial, size in zip(rows, slots, places, partials, sizes, strict=True):
            held = self._slots[row, place]
            if slot < held:
                too_old += int(size)
                continue
            if slot > held:
                self._slots[row, place] = slot
                self._partials[row, place] = partial
            else:
                self._partials[row, place] = merge(self._partials[row, place], partial)
            changed[int(row), int(place)] = None
        return Folded(
            [(self._names[row], int(self._slots[row, place]), place) for row, place in changed], too_old
        )

    def slot(self, entity: str, index: int) -> tuple[int, Floats]:
        """Return the slot number at a ring index, -1 if none, and its partials [groups, 5]."""
        row = self._rows[entity]
        return int(self._slots[row, index]), self._partials[row, index].copy()

    def put(self, entity: str, slot: int, partials: Floats) -> None:
        """Set a slot as it was read from elsewhere; an older one than is held changes nothing."""
        row, place = self._row(entity), slot % self.layout.ring
        if slot >= self._slots[row, place]:
            self._slots[row, place] = slot
            self._partials[row, place] = np.asarray(partials, np.float64).reshape(-1, PARTS)

    def values(self, entities: Sequence[str], at_ms: int) -> Floats:
        """Return the features [entities, columns] at a time, from completed slots only."""
        found = np.array([self._rows.get(entity, -1) for entity in entities], np.int64)
        window = np.tile(EMPTY, (len(entities), self._longest, len(self.layout.groups), 1))
        wanted = at_ms // self.layout.hop_ms - self._longest + np.arange(self._longest)
        known = np.flatnonzero(found >= 0)
        rows, places = found[known][:, None], (wanted % self.layout.ring)[None, :]
        there = self._slots[rows, places] == wanted
        window[known] = np.where(there[..., None, None], self._partials[rows, places], EMPTY)
        return evaluate(self.layout, window)

    def last_event_slot(self, entity: str) -> int:
        """Return the newest slot of an entity, -1 if it is unknown."""
        row = self._rows.get(entity)
        return -1 if row is None else int(self._slots[row].max())

    def expired(self, at_ms: int, ttl_ms: int) -> list[str]:
        """Return the entities of which nothing has been heard for `ttl_ms` by a time."""
        newest = self._slots[: len(self._names)].max(axis=1, initial=-1)
        ended = (newest + 1) * self.layout.hop_ms + ttl_ms <= at_ms
        return [self._names[row] for row in np.flatnonzero(ended & (newest >= 0))]

    def forget(self, entity: str) -> None:
        """Empty an entity's ring; its place stays."""
        if (row := self._rows.get(entity)) is not None:
            self._slots[row] = -1
            self._partials[row] = EMPTY

    def _row(self, entity: str) -> int:
        row = self._rows.get(entity)
        if row is None:
            row = self._rows[entity] = len(self._names)
            self._names.append(entity)
            if row == len(self._slots):
                self._slots = np.concatenate([self._slots, np.full_like(self._slots, -1)])
                self._partials = np.concatenate(
                    [self._partials, np.tile(EMPTY, (*self._partials.shape[:3], 1))]
                )
        return row
