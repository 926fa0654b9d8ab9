"""What tells the rows of a window from those that a version was trained on: the best of a forest of small trees.

The trees are fixed beforehand and counted, never fitted to a window, so that thousands of windows are simulated at the
price of a few classifiers. What a feature shows by itself is left to `drift`: it is taken out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from trimtab_core.drift import Bins, Counts, Reference, added
from trimtab_core.naming import listed

Floats = NDArray[np.float64]
Codes = NDArray[np.float32]

APART: Final = "told apart"
"""The name of its score among those of the features; with a blank in it, it can be no feature's."""
MOST_OF_TWO: Final = 60
"""Features, those that come first, of which each two have a tree."""
MOST_OF_THREE: Final = 30
"""Likewise of which each three have one."""

_LEAVES: Final = 6
"""Parts of about as many reference rows each into which a tree of two features parts either; one of three halves them."""
_LEAST_SHARE: Final = 0.02
"""Of a part: a rarer one joins its neighbour, so that what is new of a feature is not told of each two of them."""
_RARE: Final = 1.0
"""Rows that a leaf counts as expected beside those that are: of one that is nearly empty a row more means little."""


class Tree(NamedTuple):
    """Two features or three, and how far they tell a window's rows apart together."""

    features: tuple[str, ...]
    score: float

    @property
    def name(self) -> str:
        """The tree as evidence names it."""
        return listed(self.features)


@dataclass(frozen=True, slots=True)
class Parted:
    """Into which of `_LEAVES` parts each bin of a feature falls, a byte a bin; the parts before `half` are its first half."""

    feature: str
    parts: bytes = field(repr=False)
    half: int

    @classmethod
    def of(cls, feature: str, reference: Reference) -> Self:
        """Return the parts of a feature: of a number by its order, otherwise the commonest values and the rest."""
        shares = np.asarray(reference.shares)
        if reference.kind == "numeric":
            parts = ((np.cumsum(shares) - shares / 2) * _LEAVES).astype(np.int64).clip(0, _LEAVES - 1)
        else:
            parts = np.full(len(shares), _LEAVES - 1)
            parts[np.argsort(-shares, kind="stable")[: _LEAVES - 1]] = np.arange(
                min(len(shares), _LEAVES - 1)
            )
        common = np.flatnonzero(np.bincount(parts, shares, _LEAVES) >= _LEAST_SHARE)
        parts = common[np.maximum(np.searchsorted(common, parts, side="right") - 1, 0)]
        before = np.cumsum(np.bincount(parts, shares, _LEAVES))
        half = 1 + int(np.argmin(np.abs(before[:-1] - 0.5)))
        return cls(feature, parts.astype(np.uint8).tobytes(), half)

    def columns(self, bins: Bins) -> Codes:
        """Return in which part each row is, [rows, parts], 1 or 0; a text is in those of its words."""
        table = np.eye(_LEAVES, dtype=np.float32)[np.frombuffer(self.parts, np.uint8)]
        return np.asarray(bins @ table if bins.ndim == 2 else table[bins], np.float32)


class _Strip(NamedTuple):
    """Trees that ask the same feature first: the places of their features [trees, asked], and the rows in each leaf.

    `counts` are [windows, trees, ...] with an axis of leaves for each feature.
    """

    asked: Counts
    counts: Codes


@dataclass(frozen=True, slots=True)
class Forest:
    """A tree of 6 x 6 leaves for each two features and one of 2 x 2 x 2 for each three, as they shared out the reference rows.

    A window's score is that of the tree that tells it apart best: the root of its chi-square against the rows that a leaf
    would have if the features had moved each by itself, or as they go together (the first round of the proportional fitting of Deming
    and Stephan 1940), less the root of what noise alone makes of that, beside the root of the
    rows. The roots let trees of many leaves and of few be compared (Fisher 1922). The best tree finds one change among thousands of
    trees, which their sum, or a classifier that has to learn in hundreds of rows where to look, loses in the noise of the others.
    """

    parted: tuple[Parted, ...]
    rows: int
    """Of the reference."""
    shares: bytes = field(repr=False)
    """Of its rows in each leaf, strip by strip, float16."""

    @classmethod
    def of(cls, parted: tuple[Parted, ...], columns: Codes) -> Self:
        """Learn from the `columns` of all reference rows, which are those of `parted` side by side."""
        shares = [each.counts[0] / len(columns) for each in _strips(parted, columns[None])]
        return cls(parted, len(columns), b"".join(each.astype(np.float16).tobytes() for each in shares))

    def columns(self, bins: Mapping[str, Bins]) -> Codes:
        """Return the columns [rows, columns] of rows, from the bins of each feature's values."""
        return np.concatenate([each.columns(bins[each.feature]) for each in self.parted], axis=1)

    def score(self, columns: Codes) -> float:
        """Return how far the best tree tells the rows of a window apart: 0 is no further than noise does."""
        return max(0.0, *(float(scores.max()) for _, scores in self._scores(columns)))

    def trees(self, columns: Codes, most: int = 3) -> tuple[Tree, ...]:
        """Return the trees that tell a window's rows apart best, the best first; no two of them share two features."""
        found = list[Tree]()
        asked, scores = zip(*self._scores(columns), strict=True)
        places = [tuple(each) for strip in asked for each in strip.tolist()]
        ranked = np.concatenate(scores)
        for at in np.argsort(-ranked, kind="stable"):
            names = tuple(self.parted[place].feature for place in places[at])
            if len(found) == most or ranked[at] <= 0:
                break
            if all(len({*names} & {*tree.features}) < 2 for tree in found):
                found.append(Tree(names, float(ranked[at])))
        return tuple(found)

    def against_rest(self, columns: Codes, blocks: Counts, block: int) -> Floats:
        """Return the score of each window of `blocks` [windows, blocks of one], of `block` rows each, against all other rows.

        `columns` are those of all reference rows. What a block adds to a leaf is counted once.
        """
        count, taken = len(columns) // block, blocks.shape[1]
        cut = columns[: count * block].reshape(count, block, -1)
        found = np.zeros(len(blocks))
        for _, counts in _strips(self.parted, cut):
            inside, whole = added(counts, blocks), counts.sum(axis=0)
            rows, others = taken * block, (count - taken) * block
            moved = _moved(
                inside, rows, (whole - inside) / np.float32(others), others, whole / (count * block)
            )
            found = np.maximum(found, moved.max(axis=1))
        return found

    def _scores(self, columns: Codes) -> Iterator[tuple[Counts, Floats]]:
        """Yield the features and the score of each tree, strip by strip."""
        shares, at = np.frombuffer(self.shares, np.float16).astype(np.float32), 0
        for asked, counts in _strips(self.parted, columns[None]):
            was = shares[at : at + counts.size].reshape(counts.shape)
            at += counts.size
            yield asked, _moved(counts, len(columns), was, self.rows, was[0])[0]


def part(references: Mapping[str, Reference]) -> tuple[Parted, ...]:
    """Return how features are parted: those that come first, if there are more than `MOST_OF_TWO`."""
    return tuple(Parted.of(name, each) for name, each in list(references.items())[:MOST_OF_TWO])


def _strips(parted: tuple[Parted, ...], cut: Codes) -> Iterator[_Strip]:
    """Yield all trees, with the rows that each block of `cut` [blocks, rows, columns] has in their leaves."""
    yield from _of_two(cut)
    lower = [
        cut[..., at * _LEAVES : at * _LEAVES + each.half].sum(axis=2)
        for at, each in enumerate(parted[:MOST_OF_THREE])
    ]
    yield from _of_three(np.stack([half for low in lower for half in (low, 1 - low)], axis=2))


def _of_two(cut: Codes) -> Iterator[_Strip]:
    blocks, _, columns = cut.shape
    for first in range(columns // _LEAVES - 1):
        one, rest = np.split(cut[..., first * _LEAVES :], [_LEAVES], axis=2)
        both = (one.transpose(0, 2, 1) @ rest).reshape(blocks, _LEAVES, -1, _LEAVES)
        others = np.arange(first + 1, columns // _LEAVES)
        asked = np.column_stack([np.full(len(others), first), others])
        yield _Strip(asked, np.ascontiguousarray(both.transpose(0, 2, 1, 3)))


def _of_three(halves: Codes) -> Iterator[_Strip]:
    blocks, size = len(halves), halves.shape[2] // 2
    pairs = (halves.transpose(0, 2, 1) @ halves).reshape(blocks, size, 2, size, 2)
    for first in range(size - 2):
        rest, left = halves[..., 2 * first + 2 :], size - first - 1
        one, other = np.triu_indices(left, 1)
        those = rest * halves[..., 2 * first, None]
        low = (those.transpose(0, 2, 1) @ rest).reshape(blocks, left, 2, left, 2)
        counts = np.stack([low, pairs[:, first + 1 :, :, first + 1 :] - low], axis=1)[:, :, one, :, other]
        asked = np.column_stack([np.full(len(one), first), first + 1 + one, first + 1 + other])
        yield _Strip(asked, np.ascontiguousarray(counts.transpose(1, 0, 2, 3, 4)))


def _moved(counts: Codes, rows: int, outside: Codes, others: int, shares: Codes) -> Floats:
    """Return the score of each tree [windows, trees] of its `counts` of so many rows, beside the shares `outside` of others.

    `shares` are those of all rows, [trees, ...], for which what is usual is worked out.
    """
    expected = np.float32(rows) * outside
    for axis in range(2, counts.ndim):
        was, now = _along(expected, 2, axis), _along(counts, 2, axis)
        expected *= np.divide(now, was, out=np.ones_like(now), where=was > 0)
    square = np.square(counts - expected)
    expected += np.float32(_RARE)
    square /= expected
    total = square.reshape(*square.shape[:2], -1).sum(axis=2)
    usual = np.sqrt(_usual(shares, rows) * (1 + rows / others))
    return np.asarray((np.sqrt(total) - usual) / np.sqrt(rows), np.float64)


def _usual(shares: Codes, rows: int) -> Floats:
    """Return the chi-square of each tree [trees] of so many rows like the others.

    A leaf's rows less those that are expected are a sum over rows: of 1 for a row in the leaf, less the leaf's share beside a
    feature's for a row that is in the feature's part of it.
    """
    whole = shares.astype(np.float64)
    axes = range(1, whole.ndim)
    one = {axis: np.maximum(_along(whole, 1, axis), 1e-12) for axis in axes}
    square = whole - sum(whole**2 / each for each in one.values())
    for axis, other in combinations(axes, 2):
        square += 2 * whole**2 * _along(whole, 1, axis, other) / (one[axis] * one[other])
    variance = np.maximum(square - (whole * (whole.ndim - 2)) ** 2, 0)
    found = rows * variance / (rows * whole + _RARE)
    return np.asarray(found.reshape(len(whole), -1).sum(axis=1))


def _along(counts: NDArray[Any], first: int, *kept: int) -> NDArray[Any]:
    """Return the sums over the leaves, whose axes begin at `first`, along those that are not `kept`."""
    others = tuple(axis for axis in range(first, counts.ndim) if axis not in kept)
    return np.asarray(counts.sum(axis=others, keepdims=True))
