"""The arithmetic of slots: cells of five numbers that are made of events, merged and read.

A group's cell is count, mean, M2, min and max; means and M2 merge as in Chan, Golub and
LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances"
(1979). The cell of a group's first or last value is its time, its tie and the value: of
two events at one time, the one whose id hashes lower is the first. Nothing depends on
the order of arrival.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Starts = NDArray[np.intp]
End = Literal["first", "last"]
COUNT, MEAN, M2, MIN, MAX = range(5)
TIME, TIE, VALUE = range(3)
PARTS = 5
EMPTY = np.array([0.0, 0.0, 0.0, np.inf, -np.inf])
"""The cell of no events."""
EMPTY_END: dict[End, Floats] = {
    "first": np.array([np.inf, np.inf, np.nan, 0.0, 0.0]),
    "last": np.array([-np.inf, -np.inf, np.nan, 0.0, 0.0]),
}
"""The cell of the first and the last of no events."""


def reduce(values: Floats, starts: Starts) -> Floats:
    """Return the cells [segments, groups, 5] of rows' group values [rows, groups], cut at `starts`."""
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
    """Return the cells of both; any shape [..., 5]."""
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
    """Return the cells of all slots: [rows, slots, groups, 5] to [rows, groups, 5]."""
    count = partials[..., COUNT].sum(axis=1)
    total = (partials[..., COUNT] * partials[..., MEAN]).sum(axis=1)
    mean = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    off = np.where(partials[..., COUNT] > 0, partials[..., MEAN] - mean[:, None], 0.0)
    m2 = (partials[..., M2] + partials[..., COUNT] * off * off).sum(axis=1)
    low = partials[..., MIN].min(axis=1, initial=np.inf)
    high = partials[..., MAX].max(axis=1, initial=-np.inf)
    return np.stack([count, mean, m2, low, high], axis=-1)


def finish(function: str, partials: Floats, window_ms: int) -> Floats:
    """Return the values of a function from merged cells [..., 5]; NaN where there is none."""
    count = partials[..., COUNT]
    if function == "count":
        return count
    if function == "rate":
        return count / (window_ms / 1000)
    if function == "sum":
        return count * partials[..., MEAN]
    if function == "stddev":
        some = count > 1
        spread = np.sqrt(np.divide(partials[..., M2], count - 1, out=np.zeros_like(count), where=some))
        return np.where(some, spread, np.nan)
    part = {"mean": MEAN, "min": MIN, "max": MAX}[function]
    return np.where(count > 0, partials[..., part], np.nan)


def ends(values: Floats, times: NDArray[np.int64], ties: Floats) -> Floats:
    """Return each event as the cell [events, 5] of its own first and last value; where it is NaN, nothing will do."""
    cells = np.zeros((len(values), PARTS))
    cells[:, TIME], cells[:, TIE], cells[:, VALUE] = times, ties, values
    return cells


def reduce_ends(end: End, cells: Floats, starts: Starts) -> Floats:
    """Return the first or last [segments, 5] of events' own cells [events, 5], cut at `starts`."""
    found = np.tile(EMPTY_END[end], (len(starts), 1))
    segments = np.searchsorted(starts, np.arange(len(cells)), side="right") - 1
    known = np.flatnonzero(~np.isnan(cells[:, VALUE]))
    order = known[np.lexsort((cells[known, VALUE], cells[known, TIE], cells[known, TIME], segments[known]))]
    if end == "first":
        order = order[::-1]
    found[segments[order]] = cells[order]  # of one segment the last that is written stays
    return found


def merge_ends(end: End, left: Floats, right: Floats) -> Floats:
    """Return the first or last of both; any shape [..., 5]."""
    ahead = np.zeros(np.broadcast_shapes(left.shape, right.shape)[:-1], bool)
    level = ~ahead
    for part in (TIME, TIE, VALUE):
        one, other = (right, left) if end == "last" else (left, right)
        ahead |= level & (one[..., part] > other[..., part])
        level &= one[..., part] == other[..., part]
    return np.where(ahead[..., None], right, left)


def end_of_all(end: End, cells: Floats) -> Floats:
    """Return the first or last value [rows] of all slots' cells [rows, slots, 5], in order of time."""
    held = np.isfinite(cells[..., TIME])
    slot = held.argmax(axis=1) if end == "first" else held.shape[1] - 1 - held[:, ::-1].argmax(axis=1)
    found: Floats = cells[np.arange(len(cells)), slot, VALUE]
    return found
