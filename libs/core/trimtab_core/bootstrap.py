"""How far a figure that was computed from rows could be off, by drawing the rows again.

Rows come in time order and are drawn in contiguous units, so that rows which belong
together stay together. Whatever is a function of sums over rows has its bounds here;
the same sums and seed give the same bounds.
"""

from collections.abc import Callable
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""From sums [sums, draws] to figures [figures, draws]; NaN where a draw has no such figure."""

_CHUNK: Final = 500_000
_NORMAL: Final = NormalDist()


def starts(rows: int, most_units: int) -> NDArray[np.int64]:
    """Return where each of at most `most_units` contiguous units begins."""
    return np.linspace(0, rows, min(rows, most_units), endpoint=False).astype(np.int64)


def bounds(
    sums: Floats,
    statistic: Statistic,
    value: Floats,
    shares: tuple[float, float],
    *,
    seed: int = 0,
    rounds: int = 2_000,
) -> Floats:
    """Return the quantiles at `shares` of each figure, [figures, 2], bias-corrected and accelerated (Efron 1987).

    `sums` is [sums, units], and `value` [figures] what they come to as a whole. A figure that not even half of the draws
    have, or that is the same in all, has no spread to tell of: its bounds are NaN, or itself.
    """
    units = sums.shape[1]
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // units)
    drawn = []
    for first in range(0, rounds, step):
        draws = min(step, rounds - first)
        places = rng.integers(0, units, (draws, units)) + units * np.arange(draws)[:, None]
        times = np.bincount(places.ravel(), minlength=draws * units).reshape(draws, units)
        drawn.append(statistic(sums @ times.T.astype(np.float64)))
    boot = np.concatenate(drawn, axis=1)
    without = statistic(sums.sum(axis=1, keepdims=True) - sums) if units > 1 else boot[:, :0]
    return np.array(
        [
            _quantiles(figures[np.isfinite(figures)], left[np.isfinite(left)], at, shares, rounds)
            for figures, left, at in zip(boot, without, value, strict=True)
        ]
    )


def _quantiles(
    boot: Floats, without: Floats, value: float, shares: tuple[float, float], rounds: int
) -> tuple[float, float]:
    if not np.isfinite(value) or boot.size * 2 < rounds:
        return np.nan, np.nan
    if without.size < 2 or boot.min() == boot.max():
        return value, value
    pull = without.mean() - without
    acceleration = float((pull**3).sum() / (6 * (pull**2).sum() ** 1.5)) if pull.any() else 0.0
    below = (np.count_nonzero(boot < value) + np.count_nonzero(boot == value) / 2) / boot.size
    bias = _NORMAL.inv_cdf(min(max(below, 1 / boot.size), 1 - 1 / boot.size))
    at = []
    for share in shares:
        z = bias + _NORMAL.inv_cdf(share)
        at.append(_NORMAL.cdf(bias + z / max(1 - acceleration * z, 1e-3)))
    low, high = np.quantile(boot, at)
    return float(low), float(high)
