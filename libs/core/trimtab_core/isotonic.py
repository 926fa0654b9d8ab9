"""A rising curve through points: how much is really so where so much was said.

The same points give the same curve, whatever their order, and it is never below the
least nor above the greatest value that it was fitted to.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """A rising curve, straight between its points and level beyond them."""

    at: tuple[float, ...]
    value: tuple[float, ...]

    def __call__(self, x: Floats) -> Floats:
        """Return the curve at each of `x` [rows]; NaN stays NaN."""
        return np.asarray(np.interp(x, self.at, self.value), np.float64)


def rising(x: Floats, y: Floats) -> Curve:
    """Return the rising steps that are nearest to `y` [rows] over `x` [rows] in squares (pool adjacent violators).

    The steps are those of Ayer et al. 1955, "An empirical distribution function for sampling with incomplete information";
    between two of them the curve goes straight.

    Raises:
        ValueError: there are no points, or one is not finite.
    """
    if not x.size or x.shape != y.shape or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(
            f"a curve through {x.size} and {y.size} values, all of them finite, cannot be: pass points"
        )
    places, which, counts = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(which, weights=y) / counts
    first: list[int] = []
    level: list[float] = []
    weight: list[float] = []
    for at, (mean, count) in enumerate(zip(means.tolist(), counts.tolist(), strict=True)):
        begin = at
        while level and level[-1] >= mean:
            count += weight[-1]
            mean += (level.pop() - mean) * weight.pop() / count
            begin = first.pop()
        first.append(begin)
        level.append(mean)
        weight.append(count)
    last = [*(begin - 1 for begin in first[1:]), len(places) - 1]
    blocks = zip(first, last, level, strict=True)
    points = [(float(places[edge]), mean) for begin, end, mean in blocks for edge in sorted({begin, end})]
    return Curve(tuple(at for at, _ in points), tuple(mean for _, mean in points))
