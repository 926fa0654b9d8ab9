"""A small gradient boosting over numbers, in numpy: what a row costs, told from what it is made of.

It is learnt once in a process of low priority and asked row by row thereafter, so it
is kept small, and is plain data that can be written down whole and read back equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trimtab_core.drift import short

Floats = NDArray[np.float64]

_TREES: Final = 100
_DEPTH: Final = 3
_PACE: Final = 0.15
_BINS: Final = 64
_ASKED_ROWS: Final = 4_000
"""Rows by which the questions of a tree are chosen, drawn anew for each."""
_CAUTION: Final = 10.0
"""A leaf is drawn to 0 as if it had so many more rows that say nothing."""


@dataclass(frozen=True, slots=True)
class Trees:
    """Symmetric trees: all nodes of a level ask the same.

    A row's leaf in a tree is the number whose bits are its answers to `columns[level] <= limits[level]`, the first of
    them the greatest; a missing value answers no. `leaves` add up to `base`.
    """

    names: tuple[str, ...]
    base: float
    columns: tuple[tuple[int, ...], ...]
    limits: tuple[tuple[float, ...], ...]
    leaves: tuple[tuple[float, ...], ...]

    def __call__(self, columns: Mapping[str, NDArray[Any]]) -> Floats:
        """Return the value of each row of `columns`, of which those called `names` are read."""
        found = np.full(len(columns[self.names[0]]), self.base)
        for asked, limits, leaves in zip(self.columns, self.limits, self.leaves, strict=True):
            leaf = np.zeros(len(found), np.int64)
            for column, limit in zip(asked, limits, strict=True):
                leaf = 2 * leaf + (columns[self.names[column]] <= limit)
            found += np.array(leaves)[leaf]
        return found


def boost(columns: Mapping[str, NDArray[Any]], names: Sequence[str], target: Floats) -> Trees:
    """Fit trees to `target` [rows] in squares, over the `columns` called `names`, NaN where a value is missing.

    It is the gradient boosting of Friedman 2001, "Greedy function approximation", with the symmetric trees of
    Prokhorenkova et al. 2018, "CatBoost", over bins of as many rows each. Each tree chooses its questions by a sample of the rows
    (Friedman 2002, "Stochastic gradient boosting"), always the same for the same number of rows; its leaves are of all of them.

    Raises:
        ValueError: there are no columns or no rows.
    """
    if not names or not target.size:
        raise ValueError(f"trees of {len(names)} columns and {target.size} rows cannot be: pass some")
    edges = [_edges(columns[name]) for name in names]
    # The last bin is for what is missing: it is over every limit.
    bins = np.array(
        [
            np.where(np.isnan(columns[name]), _BINS, np.searchsorted(cuts, columns[name]))
            for name, cuts in zip(names, edges, strict=True)
        ]
    )
    base = float(target.mean())
    left = target - base
    asked, limits, leaves = [], [], []
    rng = np.random.default_rng(target.size)
    for _ in range(_TREES):
        leaf, questions = np.zeros(target.size, np.int64), list[tuple[int, int]]()
        drawn = rng.choice(target.size, min(target.size, _ASKED_ROWS), replace=False)
        sample, wanted = bins[:, drawn], left[drawn]
        for level in range(_DEPTH):
            question = _best(sample, edges, leaf[drawn], 2**level, wanted)
            if question is None:
                break
            questions.append(question)
            leaf = 2 * leaf + (bins[question[0]] <= question[1])
        if not questions:
            break
        count = np.bincount(leaf, minlength=2 ** len(questions))
        values = np.array(short(_PACE * np.bincount(leaf, left, count.size) / (count + _CAUTION)))
        left = left - values[leaf]
        asked.append(tuple(column for column, _ in questions))
        limits.append(tuple(float(edges[column][cut]) for column, cut in questions))
        leaves.append(tuple(values.tolist()))
    return Trees(tuple(names), base, tuple(asked), tuple(limits), tuple(leaves))


def _edges(column: NDArray[Any]) -> Floats:
    known = column[np.isfinite(column)]
    return np.unique(np.quantile(known, np.linspace(0, 1, _BINS)[1:-1])) if known.size else np.empty(0)


def _best(
    bins: NDArray[np.int64], edges: Sequence[Floats], leaf: NDArray[np.int64], nodes: int, left: Floats
) -> tuple[int, int] | None:
    """Return the column and the number of its edge that part the rows of all nodes best; None if none does."""
    width = _BINS + 1
    whole = np.square(np.bincount(leaf, left, nodes)) / (np.bincount(leaf, minlength=nodes) + _CAUTION)
    best, found = 1e-12, None
    for column, cuts in enumerate(edges):
        if not cuts.size:
            continue
        place = leaf * width + bins[column]
        sums = np.bincount(place, left, nodes * width).reshape(nodes, width).cumsum(axis=1)
        counts = np.bincount(place, minlength=nodes * width).reshape(nodes, width).cumsum(axis=1)
        low, low_count = sums[:, : cuts.size], counts[:, : cuts.size]
        high, high_count = sums[:, -1:] - low, counts[:, -1:] - low_count
        gain = np.square(low) / (low_count + _CAUTION) + np.square(high) / (high_count + _CAUTION)
        total = gain.sum(axis=0) - whole.sum()
        cut = int(np.argmax(total))
        if total[cut] > best:
            best, found = float(total[cut]), (column, cut)
    return found
