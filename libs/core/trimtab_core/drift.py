"""How far a window of rows has moved from the rows that a version was trained on.

Every score is 0 for equal shares and, unless another measure is asked for, a distance in
[0, 1]; it reads a column in one pass. A score alone decides nothing, `calibration` says how large is unusual.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab_core.measures import (
    BINNED,
    OF_SHARES,
    UNBOUNDED,
    Measure,
    anderson_darling,
    energy,
    jensen_shannon,
    unfit,
    wasserstein,
)
from trimtab_core.seasons import Season

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Bins = Counts | NDArray[np.float32]
Column = NDArray[Any]
Kind = Literal["numeric", "categorical", "text"]

MOST_EDGES: Final = 64
"""Of a number by `distance`, whose noise in a window of thousands of rows is as wide as such a bin."""
_MOST_ORDERED: Final = 200
"""Of one by a measure that has its value from the edges."""
MOST_CATEGORIES: Final = 100
"""That are held against themselves; the rarer ones are together."""
MOST_KNOWN: Final = 1_000
"""Categories that have a name; all others are one."""
MOST_WORDS: Final = 200

_GRID: Final = np.linspace(0, 1, 21)
_TAIL: Final = 0.1
_AT_TAIL: Final = 18
_DIGITS: Final = 7
_LARGEST: Final = 1e150
_NATS: Final = math.sqrt(math.log(2))
_ROUNDING: Final = 1e-9
_FEW_VALUES: Final = 20
_LEAST_SPREAD: Final = 1e-3
_WORD: Final = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Reference:
    """The shares of a column's values in the rows that windows are compared with.

    `shares` has one entry a bin and sums to 1. Numeric: below all `edges`, one bin up to and with each edge, above all,
    missing. Categorical: one bin for each of `categories`, the commonest first, any other value, missing. Text: likewise of words, over which a
    row is shared out.
    """

    kind: Kind
    rows: int
    shares: tuple[float, ...]
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    measure: Measure = "distance"
    spread: float = 1.0
    """The standard deviation of a number, where it is measured in that."""
    by_phase: bytes = b""
    """The shares in each phase of a season, float32 [phases, bins], where windows are compared with their like."""

    @property
    def tolerated(self) -> str:
        """What its tolerance goes by: the measure, or of `distance` the kind."""
        return self.kind if self.measure == "distance" else self.measure

    @property
    def most(self) -> float:
        """The most that a score can be."""
        return math.inf if self.measure in UNBOUNDED else 1.0

    def expected(self, phases: Counts | None) -> Floats:
        """Return the shares that a window is held against: of rows of the same phases, if those are given."""
        if phases is None:
            return np.asarray(self.shares)
        table = np.frombuffer(self.by_phase, np.float32).reshape(-1, len(self.shares))
        return np.asarray(np.bincount(phases, minlength=len(table)) / len(phases) @ table)

    def bins(self, values: Column) -> Bins:
        """Return the number of each value's bin [rows], in the order of `shares`; of texts their parts in each [rows, bins]."""
        if self.kind == "numeric":
            return _numeric_bins(self.edges, values)
        return (_category_bins if self.kind == "categorical" else _word_bins)(self.categories, values)

    def shares_of(self, bins: Bins) -> Floats:
        """Return the share of the values that have these `bins` in each of all bins."""
        return _total(bins, len(self.shares)) / len(bins)


@dataclass(frozen=True, slots=True)
class Null:
    """How a score is distributed while nothing changes.

    `quantiles` at every twentieth; above the 0.9 quantile the score falls off exponentially with mean excess `tail`, so
    that p is continuous and goes on below what was simulated (a light-tailed case of the fit of Knijnenburg et al.
    2009, "Fewer permutations, more accurate P-values").
    """

    quantiles: tuple[float, ...]
    tail: float

    @classmethod
    def of(cls, scores: Floats, least_tail: float) -> Self:
        """Summarise simulated scores of any shape."""
        quantiles = np.quantile(scores, _GRID)
        beyond = scores[scores > quantiles[_AT_TAIL]] - quantiles[_AT_TAIL]
        tail = float(beyond.mean()) if beyond.size else 0.0
        return cls(short(quantiles), *short([max(tail, least_tail)]))

    def p(self, scores: ArrayLike) -> Floats:
        """Return the chance of scores at least as high, for each of `scores`."""
        at = np.asarray(scores, dtype=np.float64)
        values, first = np.unique(self.quantiles, return_index=True)
        body = 1 - np.interp(at, values, _GRID[first])
        start = self.quantiles[_AT_TAIL]
        tail = _TAIL * np.exp(-np.maximum(at - start, 0) / self.tail)
        return np.where(at > start, tail, np.maximum(body, _TAIL))

    @property
    def median(self) -> float:
        """The score of a middling window."""
        return self.quantiles[len(_GRID) // 2]


def fit_reference(
    columns: Mapping[str, Column],
    kinds: Mapping[str, Kind],
    measures: Mapping[str, Measure] = MappingProxyType({}),
    season: Season | None = None,
) -> dict[str, Reference]:
    """Profile each column named in `kinds`; numeric columns are float64 with NaN as missing.

    `measures` names those that are not measured by `distance`. With a `season` their shares in each of its phases are kept too, by
    the rows' `event_time_ms`, of `MOST_CATEGORIES` categories at most.

    In categorical columns None, NaN and the empty text are missing, and 3.0 is the same category as 3; a text without words is
    missing.

    Raises:
        ValueError: a column is absent or has no rows, or a measure is not for its kind.
    """
    known = MOST_KNOWN if season is None else MOST_CATEGORIES
    found = {
        name: _fit(name, columns, kind, measures.get(name, "distance"), known) for name, kind in kinds.items()
    }
    if season is None:
        return found
    phases = season.phases_of(columns["event_time_ms"])
    return {name: _with_phases(each, columns[name], phases, season.phases) for name, each in found.items()}


def missing(values: Column) -> NDArray[np.bool_]:
    """Return which of `values` are missing: NaN, or of texts those that are empty."""
    return np.asarray(values == "" if values.dtype.kind in "OU" else np.isnan(values), bool)


def score(reference: Reference, bins: Bins, phases: Counts | None = None) -> float:
    """Return how far the values that have these `bins` are from the reference: 0 is equal, 1 is nothing in common.

    With the `phases` of the rows they are held against those rows of the reference that have the same.

    Raises:
        ValueError: there are no values.
    """
    if len(bins) == 0:
        raise ValueError("a window of no rows has no drift score: pass at least one row")
    return float(distance(reference, reference.expected(phases), reference.shares_of(bins)))


def distance(reference: Reference, was: Floats, now: Floats, seen: NDArray[np.bool_] | None = None) -> Floats:
    """Return by the reference's measure how far shares are apart along the last axis; what is before it broadcasts.

    `seen` says which bins have rows, where the shares `was` are of others than the reference was fitted to.

    Of other measures than `distance`, what becomes missing counts as a category of its own; of numbers its share is added.

    Numeric: the root of the Anderson-Darling statistic (`measures.anderson_darling`), which goes by the order of values, so it knows
    no unit, bends to no outlier and spends no power on bins, and weighs what moves over a border by how much usually would: so it sees
    a few rows in the tails, or a wider spread, as well as a shift. What becomes missing adds what it would of two categories.

    Categorical, and of texts' words: the Jensen-Shannon distance to base 2 (Endres and Schindelin 2003), which needs no
    smoothing and sees a category that is new, where a total variation lets it pass among the noise of the common ones.
    Categories beyond the commonest `MOST_CATEGORIES` count as one, and all that are new as another: one among hundreds is so seen as
    among a few, and hundreds of rare ones are not the noise of the rest. Where there are more than `MOST_KNOWN`, what is new is among
    the rare: of so many some are new in any window.
    """
    if reference.kind != "numeric":
        if reference.kind == "categorical" and len(reference.categories) > MOST_CATEGORIES:
            known = np.asarray(reference.shares) > 0 if seen is None or reference.shares[-2] else seen
            was, now = _pooled(was, known), _pooled(now, known)
        return (
            _of_categories(was, now)
            if reference.measure == "distance"
            else OF_SHARES[reference.measure](was, now)
        )
    missed = was[..., -1:], now[..., -1:]
    present = 1 - np.maximum(was[..., -1], now[..., -1])
    gone = np.abs(was[..., -1] - now[..., -1])
    was, now = conditional(was[..., :-1]), conditional(now[..., :-1])
    if reference.measure == "wasserstein":
        return np.asarray(
            gone + present * wasserstein(was, now, np.asarray(reference.edges)) / reference.spread
        )
    if reference.measure == "ed":
        edges = np.asarray(reference.edges) / reference.spread
        return np.asarray(gone + present * energy(was, now, edges))
    if reference.measure != "distance":
        return np.asarray(gone + present * OF_SHARES[reference.measure](was, now))
    moved = present * anderson_darling(was, now)
    if gone.any():
        of_two = (np.concatenate([each, 1 - each], axis=-1) for each in missed)
        moved += np.square(_of_categories(*of_two))
    return np.asarray(np.sqrt(np.minimum(moved, 1)))


def by_block(reference: Reference, bins: Bins, block: int) -> Floats:
    """Return the shares of each `block` of consecutive rows, [blocks, bins], without what is left of the last."""
    most, blocks = len(reference.shares), len(bins) // block
    whole = bins[: blocks * block]
    if bins.ndim == 2:
        return np.asarray(whole.reshape(blocks, block, most).mean(axis=1, dtype=np.float64))
    return _total(np.repeat(np.arange(blocks), block) * most + whole, blocks * most).reshape(-1, most) / block


def added(table: NDArray[Any], blocks: Counts) -> NDArray[Any]:
    """Return the sums over the blocks of each window, [windows, ...], of what `table` [blocks, ...] holds of each."""
    found = table[blocks[:, 0]]
    for each in blocks.T[1:]:
        found += table[each]
    return found


def against_rest(reference: Reference, table: Floats, blocks: Counts) -> Floats:
    """Return the score of each window of `blocks` [windows, blocks of one] against all rows outside it.

    `table` is what `by_block` makes of the rows that `reference` was fitted to.
    """
    inside, count = added(table, blocks), blocks.shape[1]
    outside = np.maximum(table.sum(axis=0) - inside, 0)  # which rounding may put below
    return distance(reference, outside / (len(table) - count), inside / count, outside > _ROUNDING)


def against_like(reference: Reference, bins: Bins, phases: Counts, windows: Counts) -> Floats:
    """Return the score of each of `windows` [windows, row numbers] against the rows outside it that have its phases.

    `bins` and `phases` are those of the rows that `reference` was fitted to; the rows outside count as those of each phase
    are in the window.
    """
    most, count = len(reference.shares), int(phases.max()) + 1
    whole, sizes = by_group(bins, phases, count, most), np.bincount(phases, minlength=count)[:, None]
    was, now = np.empty((2, len(windows), most))
    for at, window in enumerate(windows):
        inside = by_group(bins[window], phases[window], count, most)
        taken = np.bincount(phases[window], minlength=count)
        there, rest = taken > 0, sizes - taken[:, None]
        # A phase of which the window holds all rows is held against itself: there is nothing else to hold it against.
        outside = np.where(rest > 0, whole - inside, whole)[there] / np.where(rest > 0, rest, sizes)[there]
        was[at] = np.maximum(taken[there] / len(window) @ outside, 0)
        now[at] = inside.sum(axis=0) / len(window)
    return distance(reference, was, now)


def by_group(bins: Bins, groups: Counts, count: int, most: int) -> Floats:
    """Return how many values of each of `count` groups are in each of `most` bins, [groups, bins]; `groups` is of each row its own."""
    if bins.ndim == 2:
        return np.asarray(np.eye(count)[groups].T @ bins)
    return _total(groups * most + bins, count * most).reshape(count, most)


def _total(bins: Bins, most: int) -> Floats:
    if bins.ndim == 2:
        return np.asarray(bins.sum(axis=0, dtype=np.float64))
    return np.bincount(bins, minlength=most).astype(np.float64)


def _of_categories(was: Floats, now: Floats) -> Floats:
    return np.minimum(jensen_shannon(was, now) / _NATS, 1)


def _pooled(shares: Floats, seen: NDArray[np.bool_]) -> Floats:
    """Return shares of categories in fewer bins: the commonest, the others that are `seen`, those that are not, missing."""
    own, others, absent = np.split(shares, [MOST_CATEGORIES, -1], axis=-1)
    seen = seen[..., MOST_CATEGORIES:-1]
    known, new = (np.where(which, others, 0).sum(axis=-1, keepdims=True) for which in (seen, ~seen))
    return np.concatenate([own, known, new, absent], axis=-1)


def conditional(shares: Floats) -> Floats:
    """Return the shares along the last axis as parts of their sum, all 0 where that is 0."""
    total = shares.sum(axis=-1, keepdims=True)
    conditional: Floats = np.divide(shares, total, out=np.zeros_like(shares), where=total > 0)
    return conditional


def short(values: ArrayLike) -> tuple[float, ...]:
    """Return numbers with as many digits as are worth being kept."""
    return tuple(float(f"{value:.{_DIGITS}g}") for value in np.asarray(values, np.float64))


def _fit(name: str, columns: Mapping[str, Column], kind: Kind, measure: Measure, known: int) -> Reference:
    if name not in columns or len(columns[name]) == 0:
        raise ValueError(f"column {name!r} has no reference rows: pass it, or leave it out of the kinds")
    if of := unfit(measure, numeric=kind == "numeric"):
        raise ValueError(f"{measure} is a measure of {of} and column {name!r} is {kind}: choose another")
    values = columns[name]
    spread = 1.0
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    if kind == "numeric":
        present = _finite(values)
        present = present[~np.isnan(present)]
        if present.size:
            spread = max(float(present.std()), _LEAST_SPREAD)
            edges = _edges(present, measure)
    elif kind == "categorical":
        categories = _commonest((key for key in _keys(values) if key is not None), known)
    else:
        categories = _commonest((word for words in _words(values) for word in words), MOST_WORDS)
    bins = len(edges) + 3 if kind == "numeric" else len(categories) + 2
    empty = Reference(kind, len(values), (0.0,) * bins, edges, categories, measure, spread)
    return replace(empty, shares=short(empty.shares_of(empty.bins(values))))


def _with_phases(reference: Reference, values: Column, phases: Counts, count: int) -> Reference:
    """Return the reference with its shares in each phase; a phase without rows has those of all."""
    counted = by_group(reference.bins(values), phases, count, len(reference.shares))
    sizes = np.bincount(phases, minlength=count)[:, None]
    shares = np.where(sizes > 0, counted / np.maximum(sizes, 1), reference.shares)
    return replace(reference, by_phase=shares.astype(np.float32).tobytes())


def _edges(present: Floats, measure: Measure) -> tuple[float, ...]:
    """Return quantiles; of what is binned Sturges' bins, as Evidently has them, or each value where those are few.

    The outermost bins are open, so that a value beyond the reference's is in one of them.
    """
    values = np.unique(present)
    if measure not in BINNED:
        at = np.linspace(0, 1, MOST_EDGES if measure == "distance" else _MOST_ORDERED)
        values = np.unique(np.quantile(present, at, method="inverted_cdf"))
    elif len(values) > _FEW_VALUES:
        values = np.nextafter(np.histogram_bin_edges(present, "sturges")[1:-1], -np.inf)
    return tuple(float(edge) for edge in values)


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
    if values.dtype.kind == "f":  # each number is named once, however many rows have it
        different, place = np.unique(values, return_inverse=True)
        return _category_bins(categories, different.astype(object))[place]
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
