"""How the features of a window go together, beside how they do in the rows that a version was trained on.

What a feature shows by itself is left to `drift`: here a value counts by its rank, so that a change of
correlations is seen at unchanged shares, and what moves alone changes little.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from trimtab_core.drift import Bins, Counts, Reference, added, conditional

Floats = NDArray[np.float64]
Codes = NDArray[np.float32]

TOGETHER: Final = "all together"
"""The name of its score among those of the features; with a blank in it, it can be no feature's."""
MOST_COLUMNS: Final = 200

_MOST_OF_ONE: Final = 4
_LEAST_SHARE: Final = 0.05
"""Of a category that is a column: a rarer one would have too few rows in a window for a correlation."""
_LEAST_SPREAD: Final = 0.1
_LEAST_VARIANCE: Final = 1e-6
_SAMPLE: Final = 20_000
_STRIP: Final = 4


class Pair(NamedTuple):
    """Two columns and their correlation, as it was in the reference and as it is in a window."""

    one: str
    other: str
    was: float
    now: float

    @property
    def name(self) -> str:
        """The pair as evidence names it."""
        return f"{self.one} with {self.other}"


@dataclass(frozen=True, slots=True)
class Coded:
    """The columns that a feature becomes: `table` holds what each of its bins counts in each, as float16 [bins, columns].

    A number becomes its rank, from -1 to 1, and as `|name|` how far that is from the middle, which sees what goes together
    without a direction. A category or a word becomes one column for each of the most common ones.
    """

    feature: str
    names: tuple[str, ...]
    table: bytes = field(repr=False)

    @classmethod
    def of(cls, feature: str, reference: Reference) -> Self:
        """Return the columns of a feature; it has none where no category is common."""
        shares = np.asarray(reference.shares)
        if reference.kind == "numeric":
            was = conditional(shares[:-1])
            ranks = np.append(2 * np.cumsum(was) - was - 1, 0.0)
            folded = np.abs(ranks)
            folded[-1] = was @ folded[:-1]
            return cls(feature, (feature, f"|{feature}|"), _bytes(np.column_stack([ranks, folded])))
        bins = [
            each for each in np.argsort(-shares, kind="stable")[:_MOST_OF_ONE] if shares[each] >= _LEAST_SHARE
        ]
        called = (*reference.categories, "another", "missing")
        return cls(
            feature,
            tuple(f"{feature} = {called[each]}" for each in bins),
            _bytes(np.eye(len(shares))[:, bins]),
        )

    def columns(self, bins: Bins) -> Codes:
        """Return the columns [rows, columns] of rows that are in these bins."""
        table = np.frombuffer(self.table, np.float16).astype(np.float32).reshape(-1, max(len(self.names), 1))
        table = table[:, : len(self.names)]
        return np.asarray(bins @ table if bins.ndim == 2 else table[bins], np.float32)


@dataclass(frozen=True, slots=True)
class Together:
    """The correlations of the reference's columns, and how far they spread: both float16, of each pair of columns once.

    A window's score is the largest change of a correlation of two features' columns, in standard deviations of one row: of
    features that have nothing to do with each other it is the change of Spearman's correlation, and of those that
    go closely together it counts for more. The largest finds a change of one pair among thousands, which a sum, a kernel or a
    trained classifier drowns in the noise of the others.
    """

    coded: tuple[Coded, ...]
    correlations: bytes = field(repr=False)
    spreads: bytes = field(repr=False)

    @classmethod
    def of(cls, coded: tuple[Coded, ...], columns: Codes) -> Self:
        """Learn from the `columns` of all reference rows, which are those of `coded` side by side."""
        feature = np.repeat(np.arange(len(coded)), [len(each.names) for each in coded])
        correlations = _correlations(_Moments.of(columns))
        spreads = _spreads(columns[:: max(1, len(columns) // _SAMPLE)], correlations)
        spreads[feature[:, None] == feature] = np.inf
        above = np.triu_indices(len(feature), 1)
        return cls(coded, _bytes(np.nan_to_num(correlations)[above]), _bytes(spreads[above]))

    def columns(self, bins: Mapping[str, Bins]) -> Codes:
        """Return the columns [rows, columns] of rows, from the bins of each feature's values."""
        return np.concatenate([each.columns(bins[each.feature]) for each in self.coded], axis=1)

    def score(self, columns: Codes) -> float:
        """Return how far the correlations of a window are from the reference's: 0 is equal."""
        return float(np.abs(self._moved(columns)).max())

    def pairs(self, columns: Codes, most: int = 3) -> tuple[Pair, ...]:
        """Return the pairs whose correlations have moved most in a window, the furthest first, two features at most once."""
        names = [(each.feature, name) for each in self.coded for name in each.names]
        was, now = self._square(self.correlations, 1), np.nan_to_num(_correlations(_Moments.of(columns)))
        moved = np.triu(np.abs(self._moved(columns)))
        found: dict[tuple[str, str], Pair] = {}
        for place in np.argsort(-moved, axis=None):
            one, other = np.unravel_index(place, moved.shape)
            between = (names[one][0], names[other][0])
            if len(found) == most or not moved[one, other]:
                break
            found.setdefault(
                between,
                Pair(names[one][1], names[other][1], float(was[one, other]), float(now[one, other])),
            )
        return tuple(found.values())

    def against_rest(self, columns: Codes, blocks: Counts, block: int) -> Floats:
        """Return the score of each window of `blocks` [windows, blocks of one], of `block` rows each, against all other rows.

        `columns` are those of all reference rows. What a block adds to a product is worked out once, for a few columns at
        a time beside all: of hundreds of columns there would be no room for more.
        """
        count = len(columns) // block
        cut = (columns - columns.mean(axis=0))[: count * block].reshape(count, block, -1)
        sums, squares, spreads = (
            cut.sum(axis=1),
            np.square(cut).sum(axis=1),
            self._square(self.spreads, np.inf),
        )
        sides = [
            _Side.of(rows, of_sums, of_squares)
            for rows, of_sums, of_squares in zip(
                (blocks.shape[1] * block, (count - blocks.shape[1]) * block),
                _inside_and_out(sums, blocks),
                _inside_and_out(squares, blocks),
                strict=True,
            )
        ]
        found = np.zeros(len(blocks))
        for first in range(0, cut.shape[2], _STRIP):
            one, other = slice(first, first + _STRIP), slice(first, None)
            products = cut[:, :, one].transpose(0, 2, 1) @ cut[:, :, other]
            inside, outside = (
                side.correlations(of_products, one, other)
                for side, of_products in zip(sides, _inside_and_out(products, blocks), strict=True)
            )
            inside -= outside
            inside /= spreads[one, other]
            found = np.fmax(found, np.fmax.reduce(np.abs(inside, out=inside), axis=(1, 2)))
        return found

    def _moved(self, columns: Codes) -> Floats:
        moved = _correlations(_Moments.of(columns)) - self._square(self.correlations, 1)
        return np.nan_to_num(moved / self._square(self.spreads, np.inf), copy=False)

    def _square(self, values: bytes, diagonal: float) -> NDArray[np.float32]:
        size = sum(len(each.names) for each in self.coded)
        found = np.full((size, size), diagonal, np.float32)
        above = np.triu_indices(size, 1)
        found[above] = found.T[above] = np.frombuffer(values, np.float16)
        return found


def code(references: Mapping[str, Reference]) -> tuple[Coded, ...]:
    """Return how features become columns: those that come first, if all have more than `MOST_COLUMNS`."""
    found, room = list[Coded](), MOST_COLUMNS
    for name, reference in references.items():
        each = Coded.of(name, reference)
        if 0 < len(each.names) <= room:
            found.append(each)
            room -= len(each.names)
    return tuple(found)


class _Side(NamedTuple):
    """The rows inside of each window or those outside: their means and one by their deviations, [windows, columns]."""

    rows: int
    means: Codes
    scale: Codes

    @classmethod
    def of(cls, rows: int, sums: Codes, squares: Codes) -> Self:
        means = sums / np.float32(rows)
        variances = squares / np.float32(rows) - means * means
        known = np.where(variances > _LEAST_VARIANCE, variances, np.nan)
        return cls(rows, means, np.asarray(1 / np.sqrt(known), np.float32))

    def correlations(self, products: Codes, one: slice, other: slice) -> Codes:
        """Return the correlations [windows, one, other] of two ranges of columns, NaN as `_correlations`; they take the place of `products`."""
        products /= np.float32(self.rows)
        products -= self.means[:, one, None] * self.means[:, None, other]
        products *= self.scale[:, one, None]
        products *= self.scale[:, None, other]
        return products


def _inside_and_out(table: Codes, blocks: Counts) -> tuple[Codes, Codes]:
    """Return the sums [windows, ...] of what `table` holds of the blocks of each window, and of all other blocks."""
    inside = added(table, blocks)
    return inside, table.sum(axis=0) - inside


class _Moments(NamedTuple):
    rows: int
    sums: Floats
    products: Floats

    @classmethod
    def of(cls, columns: Codes) -> Self:
        return cls(
            len(columns), columns.sum(axis=0, dtype=np.float64), (columns.T @ columns).astype(np.float64)
        )


def _correlations(moments: _Moments) -> Floats:
    """Return the correlations [columns, columns], NaN of a column that is always the same: it tells nothing."""
    means = moments.sums / moments.rows
    covariances = moments.products / moments.rows - np.outer(means, means)
    variances = np.diag(covariances)
    spread = np.sqrt(np.where(variances > _LEAST_VARIANCE, variances, np.nan))
    return np.asarray(covariances / spread / spread[:, None])


def _spreads(columns: Codes, correlations: Floats) -> Floats:
    """Return the standard deviation that one row gives each correlation, for any distribution (Browne 1984), infinite if unknown."""
    middle, spread = columns.mean(axis=0), columns.std(axis=0)
    z = (columns - middle) / np.where(spread > 0, spread, 1)
    squares = z * z
    of_squares = squares.T @ squares / len(z)
    of_cubes = (squares * z).T @ z / len(z)
    fourth = np.square(squares).mean(axis=0)
    variance = (
        of_squares
        - correlations * (of_cubes + of_cubes.T)
        + np.square(correlations) * (fourth + fourth[:, None] + 2 * of_squares) / 4
    )
    found = np.sqrt(np.maximum(variance, _LEAST_SPREAD**2))
    return np.where(np.isnan(found), np.inf, found)


def _bytes(values: Floats) -> bytes:
    return np.ascontiguousarray(values, np.float16).tobytes()
