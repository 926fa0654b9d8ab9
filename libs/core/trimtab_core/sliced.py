"""Rows apart by the value of a feature, and where the values of a reference lie in each part.

However many values a feature has, a bounded number of parts is told from each other, and the rest are one: they
add up to the whole.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from trimtab_core.drift import Bins, Column, Reference, by_group, conditional, distance, missing
from trimtab_core.quality import as_texts
from trimtab_core.specs import LEAST_WINDOW

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

MOST: Final = 20
"""Slices of a feature that are told at most, those of most rows."""
OTHER: Final = "other"
MISSING: Final = "missing"
FEWEST_KNOWN: Final = 100
"""Rows of a slice in the reference below which nothing is held against it."""
_OF_WORDS: Final = 16
"""Words are kept to such parts of a row, of which a text has as many as words."""


@dataclass(frozen=True, slots=True)
class Sliced:
    """Rows by the value of a feature: the slices' names, and of each row the number of its own."""

    feature: str
    names: Sequence[str]
    number: Counts

    @classmethod
    def of(cls, feature: str, texts: NDArray[Any], told: Sequence[str] | None = None) -> Self:
        """Tell rows apart by the values `told`, or else by those of most rows; all others are `other`."""
        values, number, rows = np.unique(texts, return_inverse=True, return_counts=True)
        if told is None:
            told = _largest(values, rows)
        names = [*(name for name in told if name != OTHER), OTHER]
        place = {name: at for at, name in enumerate(names)}
        return cls(
            feature, names, np.array([place.get(str(value), len(names) - 1) for value in values])[number]
        )

    def means(self, values: Floats, weights: Floats) -> Iterator[tuple[str, int, float, float]]:
        """Yield the name, the rows that count, their mean and what they weigh of each slice that has such rows.

        A row that does not count has no value. The mean is that of Hajek 1971, by weight: which rows of a slice were asked for, and how
        many, has no part in it.
        """
        counts = np.isfinite(values)
        number, most = self.number[counts], len(self.names)
        rows = np.bincount(number, minlength=most)
        weight = np.bincount(number, weights[counts], minlength=most)
        sums = np.bincount(number, (values * weights)[counts], minlength=most)
        columns = (rows.tolist(), sums.tolist(), weight.tolist())
        for name, count, total, weighs in zip(self.names, *columns, strict=True):
            if count:
                yield name, count, total / weighs, weighs


class Moved(NamedTuple):
    """How far a column has moved in the rows of a slice."""

    slice: str
    rows: int
    distance: float
    unsure: float
    """One by its rows and one by the reference's: the square of a distance that is noise grows with it."""


@dataclass(frozen=True, slots=True)
class Known:
    """The slices of a reference by a feature: their names, `other` the last, and where the values of each column lie in them.

    `counts` has of each column the rows of each slice in each of its reference's bins, [slices, bins], compressed: most
    are small, so that they take less than a byte each.
    """

    names: tuple[str, ...]
    rows: tuple[int, ...]
    counts: Mapping[str, bytes]

    @classmethod
    def of(cls, feature: str, columns: Mapping[str, Column], references: Mapping[str, Reference]) -> Self:
        """Learn the slices of most rows, each of enough to be held against, from the reference's `columns`."""
        texts = texts_of(columns[feature])
        values, rows = np.unique(texts, return_counts=True)
        enough = rows >= FEWEST_KNOWN
        sliced = Sliced.of(feature, texts, _largest(values[enough], rows[enough]))
        size = len(sliced.names)
        counts = {
            name: _packed(by_group(each.bins(columns[name]), sliced.number, size, len(each.shares)), each)
            for name, each in references.items()
            if name != feature
        }
        of_each = np.bincount(sliced.number, minlength=size)
        return cls(tuple(sliced.names), tuple(of_each.tolist()), counts)

    def shares(self, name: str) -> Floats:
        """Return of each slice the shares of a column's values in its bins, [slices, bins]; of one without rows they are 0."""
        side_by_side = np.frombuffer(zlib.decompress(self.counts[name]), np.uint8).reshape(4, -1)
        counts = side_by_side.T.copy().view("<u4").reshape(len(self.names), -1)
        return conditional(counts.astype(np.float64))

    def moved(
        self, column: Column, references: Mapping[str, Reference], bins_of: Callable[[str], Bins]
    ) -> Iterator[tuple[str, Moved]]:
        """Yield how far each of `references` has moved in each slice by `column`, from the reference's rows of that slice.

        `bins_of` gives the bins of a window's values by the name of theirs. A slice of fewer rows than a window must have, or too
        few in the reference, is left out.
        """
        sliced, size = Sliced.of("", texts_of(column), self.names), len(self.names)
        rows = np.bincount(sliced.number, minlength=size)
        (told,) = np.nonzero((rows >= LEAST_WINDOW) & (np.array(self.rows) >= FEWEST_KNOWN))
        for name, each in references.items():
            if len(told) == 0 or name not in self.counts:
                continue
            now = conditional(by_group(bins_of(name), sliced.number, size, len(each.shares)))
            far = distance(each, self.shares(name)[told], now[told])
            for at, value in zip(told.tolist(), far.tolist(), strict=True):
                yield (
                    name,
                    Moved(sliced.names[at], int(rows[at]), value, float(1 / rows[at] + 1 / self.rows[at])),
                )


def texts_of(column: Column) -> NDArray[Any]:
    """Return the values of a feature as the texts that name them."""
    return np.where(missing(column), MISSING, as_texts(column))


def _largest(values: NDArray[Any], rows: Counts) -> list[str]:
    order = sorted(range(len(values)), key=lambda at: (-rows[at], values[at]))
    return [str(values[at]) for at in order if values[at] != OTHER][:MOST]


def _packed(counts: Floats, reference: Reference) -> bytes:
    whole = np.rint(counts * (_OF_WORDS if reference.kind == "text" else 1)).astype("<u4")
    # The high bytes side by side are nothing but zeros.
    return zlib.compress(whole.view(np.uint8).reshape(-1, 4).T.tobytes(), 9)
