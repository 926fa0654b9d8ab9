"""Sketches: what a slot keeps of values that no few numbers sum up.

A sketch is a sorted array of bins, each a key and a value packed into one int64, so that
an empty one takes nothing and a full one has a stated end. To merge is to take, of bins
with one key, the greatest value (distinct) or the sum (quantiles): both are the same in
any order, so a sketch is a function of its events alone, however they arrived.

- `distinct` is HyperLogLog (Flajolet, Fusy, Gandouet, Meunier, "HyperLogLog: the analysis of a
  near-optimal cardinality estimation algorithm", 2007) with 4096 registers: a standard error of
  1.6 %, and at most 4096 bins. It is read with the estimator of Ertl, "New cardinality estimation
  algorithms for HyperLogLog sketches" (2017), which needs no correction for few or many.
- `quantiles` is DDSketch (Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch
  with relative-error guarantees", 2019) with a relative error of 1 %, and at most 116 bins for each
  power of ten that the values span.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bins = NDArray[np.int64]
Owners = NDArray[np.int64]
Kind = Literal["distinct", "quantiles"]

Reader = Callable[[Owners, Bins, int], Floats]
"""Takes the combined bins of some owners, and how many owners there are."""

NOTHING: Final[Bins] = np.empty(0, np.int64)
RELATIVE_ERROR: Final = 0.01
"""Of a quantile."""
STANDARD_ERROR: Final = 1.04 / 64
"""Of a distinct count, relative."""
_VALUE_BITS: Final = 40
_INDEX_BITS: Final = 12
_REGISTERS: Final = 1 << _INDEX_BITS
_LEFT_BITS: Final = 64 - _INDEX_BITS
_LOG_GAMMA: Final = np.log((1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR))
_TINY: Final = 1e-12
"""Values nearer to 0 than this are 0."""
_SHIFT: Final = 1 - int(np.ceil(np.log(_TINY) / _LOG_GAMMA))


def pack(keys: NDArray[np.int64], values: NDArray[np.int64]) -> Bins:
    """Return bins of keys (24 bits, signed) and values (below 2**40)."""
    return (keys << _VALUE_BITS) | values


def unpack(bins: Bins) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the keys and the values of bins."""
    return bins >> _VALUE_BITS, bins & ((1 << _VALUE_BITS) - 1)


def text_numbers(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return a whole number below 2**53 for each text, its hash: the same everywhere and always."""
    hashes = [int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 11 for text in texts]
    return np.array(hashes, np.float64)


def bins_of(kind: Kind, values: Floats) -> Bins:
    """Return the one bin of each value; none of them is NaN."""
    return _registers(values) if kind == "distinct" else _buckets(values)


def combine(kind: Kind, owners: Owners, bins: Bins) -> tuple[Owners, Bins]:
    """Merge bins that have one owner and one key; what is returned is sorted by owner and key."""
    if not len(bins):
        return owners, bins
    order = np.lexsort((bins, owners))
    owners, bins = owners[order], bins[order]
    keys, values = unpack(bins)
    new = np.concatenate([[True], (owners[1:] != owners[:-1]) | (keys[1:] != keys[:-1])])
    starts = np.flatnonzero(new)
    if kind == "distinct":  # of one key the last one is the greatest
        return owners[starts], bins[np.append(starts[1:], len(bins)) - 1]
    return owners[starts], pack(keys[starts], np.add.reduceat(values, starts))


def reader(function: str) -> tuple[Kind, Reader] | None:
    """Return which sketch a function reads, and how; None for a function that reads none."""
    if function == "distinct_count":
        return "distinct", distinct_count
    if function[0] == "p" and function[1:].isdecimal():
        share = int(function[1:]) / 100
        return "quantiles", lambda owners, bins, count: quantile(share, owners, bins, count)
    return None


def distinct_count(owners: Owners, bins: Bins, count: int) -> Floats:
    """Return how many distinct values each of `count` owners has seen; 0 where none."""
    ranks = unpack(bins)[1]
    top = _LEFT_BITS + 1
    held = np.bincount(owners * (top + 1) + ranks, minlength=count * (top + 1)).reshape(count, top + 1)
    untouched = _REGISTERS - held.sum(axis=1)
    found = _REGISTERS * _tau(1.0 - held[:, top] / _REGISTERS)
    for rank in range(_LEFT_BITS, 0, -1):
        found = 0.5 * (found + held[:, rank])
    with np.errstate(divide="ignore"):
        found += _REGISTERS * _sigma(untouched / _REGISTERS)
        estimate: Floats = np.rint(_REGISTERS / (2 * np.log(2)) * _REGISTERS / found)
    return estimate


def quantile(share: float, owners: Owners, bins: Bins, count: int) -> Floats:
    """Return for each of `count` owners the value of rank floor(share * (n - 1)), from 0, of its n; NaN where none."""
    keys, values = unpack(bins)
    sizes = np.bincount(owners, weights=values, minlength=count).astype(np.int64)
    ends = np.cumsum(values)
    rank = np.cumsum(sizes) - sizes + np.floor(share * np.maximum(sizes - 1, 0)).astype(np.int64)
    found = np.full(count, np.nan)
    some = sizes > 0
    found[some] = _value_of(keys[np.searchsorted(ends, rank[some], side="right")])
    return found


def _registers(values: Floats) -> Bins:
    """Return HyperLogLog's bin of each value: the register, and the place of the first 1 in what is left of its hash."""
    mixed = _mix(values)
    left = (mixed & np.uint64((1 << _LEFT_BITS) - 1)).astype(np.float64)  # below 2**52: exact
    rank = _LEFT_BITS + 1 - np.frexp(left)[1]
    return pack((mixed >> np.uint64(_LEFT_BITS)).astype(np.int64), rank.astype(np.int64))


def _mix(values: Floats) -> NDArray[np.uint64]:
    """Return 64 well mixed bits of each value: the finaliser of splitmix64; 0 and -0 are one value."""
    bits = (values + 0.0).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _buckets(values: Floats) -> Bins:
    """Return DDSketch's bin of each value: the logarithm of its size, by its sign."""
    size = np.abs(values)
    bucket = np.ceil(np.log(np.maximum(size, _TINY)) / _LOG_GAMMA).astype(np.int64) + _SHIFT
    keys = np.where(size < _TINY, 0, np.where(values < 0, -bucket, bucket))
    return pack(keys, np.ones_like(keys))


def _value_of(keys: NDArray[np.int64]) -> Floats:
    """Return the value in the relative middle of each bucket."""
    middle = np.log(2 / (np.exp(_LOG_GAMMA) + 1))
    most = np.log(np.finfo(np.float64).max)
    size = np.exp(np.minimum((np.abs(keys) - _SHIFT) * _LOG_GAMMA + middle, most))
    return np.where(keys == 0, 0.0, np.sign(keys) * size)


def _sigma(x: Floats) -> Floats:
    """Return the sum of x**(2**k) * 2**(k - 1) over k from 1, and x; infinite at 1."""
    power, weight, total = x.copy(), 1.0, x.copy()
    while True:
        power = power * power
        before, total = total, total + power * weight
        weight += weight
        if ((total == before) | (x == 1.0)).all():
            return np.where(x == 1.0, np.inf, total)


def _tau(x: Floats) -> Floats:
    """Return a third of 1 - x less the sum of (1 - x**(2**-k))**2 * 2**-k over k from 1; 0 at 0 and 1."""
    root, weight, total = x.copy(), 1.0, 1.0 - x
    while True:
        root, weight = np.sqrt(root), weight * 0.5
        before, total = total, total - (1.0 - root) ** 2 * weight
        if ((total == before) | (x == 0.0)).all():
            return np.where(x == 0.0, 0.0, total / 3.0)
