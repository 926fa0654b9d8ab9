"""How far a window of rows has moved from the rows that a version was trained on.

Every score is a distance in [0, 1], 0 for equal shares, and reads a column in one
pass; a score alone decides nothing, `calibration` says how large is unusual.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Bins = Counts | NDArray[np.float32]
Column = NDArray[Any]
Kind = Literal["numeric", "categorical", "text"]

MOST_EDGES: Final = 200
MOST_CATEGORIES: Final = 50
MOST_WORDS: Final = 200

_GRID: Final = np.linspace(0, 1, 101)
_TAIL: Final = 0.1
_LARGEST: Final = 1e308
_WORD: Final = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Reference:
    """The shares of a column's values in the rows that windows are compared with.

    `shares` has one entry a bin and sums to 1. Numeric: below all `edges`, one bin up to and with each edge, above all,
    missing. Categorical: one bin for each of `categories`, any other value, missing. Text: likewise of words, over which a
    row is shared out.
    """

    kind: Kind
    rows: int
    shares: tuple[float, ...]
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()

    def bins(self, values: Column) -> Bins:
        """Return the number of each value's bin [rows], in the order of `shares`; of texts their parts in each [rows, bins]."""
        if self.kind == "numeric":
            return _numeric_bins(self.edges, values)
        return (_category_bins if self.kind == "categorical" else _word_bins)(self.categories, values)

    def shares_of(self, values: Column) -> Floats:
        """Return the share of `values` in each bin."""
        return _total(self.bins(values), len(self.shares)) / len(values)


@dataclass(frozen=True, slots=True)
class Null:
    """How a score is distributed while nothing changes.

    `quantiles` at every hundredth; above the 0.9 quantile the score falls off exponentially with mean excess `tail`, so
    that p is continuous and goes on below what was simulated (a light-tailed case of the fit of Knijnenburg et al.
    2009, "Fewer permutations, more accurate P-values").
    """

    quantiles: tuple[float, ...]
    tail: float

    @classmethod
    def of(cls, scores: Floats, least_tail: float) -> Self:
        """Summarise simulated scores of any shape."""
        quantiles = np.quantile(scores, _GRID)
        beyond = scores[scores > quantiles[-11]] - quantiles[-11]
        tail = float(beyond.mean()) if beyond.size else 0.0
        return cls(tuple(float(value) for value in quantiles), max(tail, least_tail))

    def p(self, scores: ArrayLike) -> Floats:
        """Return the chance of scores at least as high, for each of `scores`."""
        at = np.asarray(scores, dtype=np.float64)
        values, first = np.unique(self.quantiles, return_index=True)
        body = 1 - np.interp(at, values, _GRID[first])
        start = self.quantiles[-11]
        tail = _TAIL * np.exp(-np.maximum(at - start, 0) / self.tail)
        return np.where(at > start, tail, np.maximum(body, _TAIL))

    @property
    def median(self) -> float:
        """The score of a middling window."""
        return self.quantiles[50]


def fit_reference(columns: Mapping[str, Column], kinds: Mapping[str, Kind]) -> dict[str, Reference]:
    """Profile each column named in `kinds`; numeric columns are float64 with NaN as missing.

    In categorical columns None, NaN and the empty text are missing, and 3.0 is the same category as 3; a text without words is
    missing.

    Raises:
        ValueError: a column is absent or has no rows.
    """
    return {name: _fit(name, columns, kind) for name, kind in kinds.items()}


def missing(values: Column) -> NDArray[np.bool_]:
    """Return which of `values` are missing: NaN, or of texts those that are empty."""
    return np.asarray(values == "" if values.dtype.kind in "OU" else np.isnan(values), bool)


def score(reference: Reference, values: Column) -> float:
    """Return how far `values` are from the reference: 0 is equal, 1 is nothing in common.

    Raises:
        ValueError: there are no values.
    """
    if len(values) == 0:
        raise ValueError("a window of no rows has no drift score: pass at least one row")
    return float(distance(reference.kind, np.asarray(reference.shares), reference.shares_of(values)))


def distance(kind: Kind, reference: Floats, window: Floats) -> Floats:
    """Return the distance of shares along the last axis; what is before it broadcasts.

    Numeric: every value stands at its mid-rank in the reference, and the score is twice the Wasserstein-1 distance
    there (Ramdas, Garcia Trillos and Cuturi 2017, "On Wasserstein two-sample testing"), so it knows no unit, bends to
    no outlier, and spends no power on bins: its noise at 500 rows is a tenth of a half-sigma shift, which a divergence
    over as many bins drowns in. A value that becomes missing travels the whole unit.

    Categorical: the Jensen-Shannon distance to base 2 (Endres and Schindelin 2003), which needs no smoothing and sees a
    category that is new, where a total variation lets it pass among the noise of the common ones.
    """
    if kind == "categorical":
        return _jensen_shannon(reference, window)
    present = 1 - np.maximum(reference[..., -1], window[..., -1])
    gone = np.abs(reference[..., -1] - window[..., -1])
    was, now = _conditional(reference[..., :-1]), _conditional(window[..., :-1])
    stands = np.cumsum(was, axis=-1) - was / 2
    moved = np.abs(np.cumsum(now - was, axis=-1))[..., :-1]
    scores: Floats = np.clip(gone + present * 2 * np.sum(moved * np.diff(stands, axis=-1), axis=-1), 0, 1)
    return scores


def against_rest(reference: Reference, bins: Bins, rows: Counts) -> Floats:
    """Return the score of each window of row numbers, along the last axis of `rows`, against all rows outside it.

    `bins` are those of the rows that `reference` was fitted to.
    """
    most, lead = len(reference.shares), rows.shape[:-1]
    if bins.ndim == 2:
        windows = rows.reshape(-1, rows.shape[-1])
        inside = np.stack([bins[window].sum(axis=0, dtype=np.float64) for window in windows]).reshape(
            *lead, most
        )
    else:
        number = np.arange(math.prod(lead)).reshape(*lead, 1)
        inside = _total((bins[rows] + number * most).ravel(), number.size * most).reshape(*lead, most)
    outside = np.maximum(_total(bins, most) - inside, 0)  # which rounding may put below
    return distance(reference.kind, outside / (len(bins) - rows.shape[-1]), inside / rows.shape[-1])


def _total(bins: Bins, most: int) -> Floats:
    if bins.ndim == 2:
        return np.asarray(bins.sum(axis=0, dtype=np.float64))
    return np.bincount(bins, minlength=most).astype(np.float64)


def _jensen_shannon(p: Floats, q: Floats) -> Floats:
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log2(p / middle), 0) + np.where(q > 0, q * np.log2(q / middle), 0)
    scores: Floats = np.sqrt(np.clip(terms.sum(axis=-1) / 2, 0, 1))
    return scores


def _conditional(shares: Floats) -> Floats:
    total = shares.sum(axis=-1, keepdims=True)
    conditional: Floats = np.divide(shares, total, out=np.zeros_like(shares), where=total > 0)
    return conditional


def _fit(name: str, columns: Mapping[str, Column], kind: Kind) -> Reference:
    if name not in columns or len(columns[name]) == 0:
        raise ValueError(f"column {name!r} has no reference rows: pass it, or leave it out of the kinds")
    values = columns[name]
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    if kind == "numeric":
        present = _finite(values)
        present = present[~np.isnan(present)]
        if present.size:
            at = np.linspace(0, 1, MOST_EDGES)
            edges = tuple(float(edge) for edge in np.unique(np.quantile(present, at, method="inverted_cdf")))
    elif kind == "categorical":
        categories = _commonest((key for key in _keys(values) if key is not None), MOST_CATEGORIES)
    else:
        categories = _commonest((word for words in _words(values) for word in words), MOST_WORDS)
    bins = len(edges) + 3 if kind == "numeric" else len(categories) + 2
    shares = Reference(kind, len(values), (0.0,) * bins, edges, categories).shares_of(values)
    return Reference(kind, len(values), tuple(float(share) for share in shares), edges, categories)


def _commonest(found: Iterable[str], most: int) -> tuple[str, ...]:
    ranked = sorted(Counter(found).items(), key=lambda item: (-item[1], item[0]))
    return tuple(name for name, _ in ranked[:most])


def _numeric_bins(edges: tuple[float, ...], values: Column) -> Counts:
    numbers = _finite(values)
    floor = [np.nextafter(edges[0], -np.inf)] if edges else []
    bins = np.searchsorted(np.array([*floor, *edges]), numbers).astype(np.int64)
    bins[np.isnan(numbers)] = len(edges) + 2
    return bins


def _category_bins(categories: tuple[str, ...], values: Column) -> Counts:
    number: dict[str | None, int] = {key: position for position, key in enumerate(categories)}
    number[None] = len(categories) + 1
    other = len(categories)
    return np.fromiter((number.get(key, other) for key in _keys(values)), dtype=np.int64, count=len(values))


def _word_bins(known: tuple[str, ...], values: Column) -> NDArray[np.float32]:
    number = {word: position for position, word in enumerate(known)}
    other, missing = len(known), len(known) + 1
    found = np.zeros((len(values), len(known) + 2), np.float32)
    for row, words in zip(found, _words(values), strict=True):
        for word in words:
            row[number.get(word, other)] += 1 / len(words)
        row[missing] = not words
    return found


def _words(values: Column) -> Iterable[Collection[str]]:
    """Yield the words of each text, each once, as a model with `text(...)` is shown them."""
    return (set(_WORD.findall(key)) if key is not None else () for key in _keys(values))


def _finite(values: Column) -> Floats:
    return np.clip(np.asarray(values, dtype=np.float64), -_LARGEST, _LARGEST)


def _keys(values: Column) -> Iterable[str | None]:
    return map(_key, np.asarray(values).tolist())


def _key(value: object) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, float):
        if value != value:
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value)
