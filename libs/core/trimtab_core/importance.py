"""What a model leans on: how much worse its predictions are when a feature says nothing.

A feature's values are shuffled among rows that are near in time and the model is asked
again (permutation importance, Breiman 2001; Fisher et al. 2019). It needs nothing of a
model but its answers. Shuffling within stretches of time keeps what belongs to a
season in its season: over all rows it would make rows that never were.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trimtab_core.losses import Metric, aggregate, loss

Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]

REPEATS: Final = 5
_STRETCHES: Final = 10
_MOST_ROWS: Final = 4_000
_LEAST_ROWS: Final = 200
_MOST_ANSWERS: Final = 200_000
"""So many rows are asked in all, so that a model of many features does not take longer to explain than to fit."""


@dataclass(frozen=True, slots=True)
class Leaning:
    """How much a metric rises when a feature is shuffled: the mean, and the standard deviation over repeats."""

    feature: str
    rise: float
    spread: float


def leanings(
    predict: Callable[[Matrix], Floats],
    metric: Metric,
    names: Sequence[str],
    features: Matrix,
    label: Floats,
    *,
    seed: int = 0,
    share: float = 1.0,
) -> tuple[list[Leaning], int]:
    """Return for each feature how much a model leans on it, most first, and of how many rows that was asked.

    Of rows in time order at most 4,000, evenly spread, are asked, and fewer where there are more than 10 features; or only a
    `share` of so many. Features that say the same stand in for each other, and so each seems to matter less than both do.
    """
    most = min(_MOST_ROWS, _MOST_ANSWERS // max(len(names) * REPEATS, 1))
    most = max(_LEAST_ROWS, round(most * share))
    at = np.linspace(0, len(label) - 1, min(len(label), most)).astype(np.int64)
    asked, truth = features[at], label[at]
    rng = np.random.default_rng(seed)
    stretches = np.array_split(np.arange(len(at)), min(_STRETCHES, len(at)))
    orders = [np.concatenate([rng.permutation(each) for each in stretches]) for _ in range(REPEATS)]
    base = aggregate(metric, loss(metric, truth, predict(asked)))
    found = []
    for place, name in enumerate(names):
        shuffled, rises = asked.copy(), []
        for order in orders:
            shuffled[:, place] = asked[order, place]
            rises.append(aggregate(metric, loss(metric, truth, predict(shuffled))) - base)
        found.append(Leaning(name, float(np.mean(rises)), float(np.std(rises, ddof=1))))
    return sorted(found, key=lambda each: -each.rise), len(at)
