"""Measures of how far shares have moved, by the names that Evidently has for them, each over the last axis.

They are given the shares of a reference and of a window in the same bins, so that thousands of windows are measured at
once; where a bin is empty on both sides it counts for nothing.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Measure = Literal[
    "distance", "psi", "ks", "jensenshannon", "hellinger", "wasserstein", "kl_div", "TVD", "ed"
]  # fmt: skip
"""`distance` is Trimtab's own for each kind of feature, and what is used unless another is asked for."""
OfSeveral = Literal["correlation", "classifier"]
"""How features are told together; the correlations always are, and a classifier beside them where it is asked for."""

BINNED: Final[tuple[Measure, ...]] = ("psi", "jensenshannon", "hellinger", "kl_div")
"""What is of a few bins of equal width where it is asked of numbers."""
UNBOUNDED: Final[tuple[Measure, ...]] = ("psi", "wasserstein", "kl_div", "ed")
"""What may exceed 1."""

_EMPTY: Final = 1e-4
_OF_BOTH: Final = 1 / 20
"""A window's part among its rows and the reference's, near to what it is where windows of 500 rows are held against 10,000."""
_NOTHING: Final = 1e-12
_APART: Final = 8 * math.log(2) - 4
"""The statistic of shares that have nothing in common, half and half."""
_MOST: Final = -sum(1 / part + math.log(1 - part) / part**2 for part in (_OF_BOTH, 1 - _OF_BOTH)) / _APART
"""What it is of them by these parts, in that unit."""


def of_numbers(measure: Measure) -> bool:
    """Return whether a measure needs an order, and so can be asked of numbers alone."""
    return measure in ("ks", "wasserstein", "ed")


def of_categories(measure: Measure) -> bool:
    """Return whether a measure is asked of categories and texts alone, as numbers have no few values to be shared among."""
    return measure == "TVD"


def unfit(measure: Measure, *, numeric: bool) -> str:
    """Return what a measure is of, where it cannot be asked of columns that are `numeric`, or of those that are not; else nothing."""
    if numeric:
        return "categories" if of_categories(measure) else ""
    return "numbers" if of_numbers(measure) else ""


def psi(was: Floats, now: Floats) -> Floats:
    """Return the population stability index; an empty bin counts as a ten-thousandth."""
    known = (was > 0) | (now > 0)
    p, q = (np.where(known, np.where(each > 0, each, _EMPTY), 1.0) for each in (was, now))
    return np.asarray(((p - q) * np.log(p / q)).sum(axis=-1))


def kullback_leibler(was: Floats, now: Floats) -> Floats:
    """Return the Kullback-Leibler divergence of the reference from the window, in nats; an empty bin counts as a ten-thousandth."""
    p, q = (np.where(each > 0, each, _EMPTY) for each in (was, now))
    p, q = (each / each.sum(axis=-1, keepdims=True) for each in (p, q))
    return np.asarray((p * np.log(p / q)).sum(axis=-1))


def total_variation(was: Floats, now: Floats) -> Floats:
    """Return half of what the shares have moved together."""
    return np.asarray(np.abs(now - was).sum(axis=-1) / 2)


def jensen_shannon(was: Floats, now: Floats) -> Floats:
    """Return the Jensen-Shannon distance, in nats."""
    middle = (was + now) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(was > 0, was * np.log(was / middle), 0) + np.where(
            now > 0, now * np.log(now / middle), 0
        )
    return np.asarray(np.sqrt(np.maximum(terms.sum(axis=-1) / 2, 0)))


def hellinger(was: Floats, now: Floats) -> Floats:
    """Return the Hellinger distance."""
    return np.asarray(np.sqrt(np.maximum(1 - np.sqrt(was * now).sum(axis=-1), 0)))


def kolmogorov_smirnov(was: Floats, now: Floats) -> Floats:
    """Return the largest difference of the cumulated shares; the bins are in order."""
    return np.asarray(np.abs(np.cumsum(now - was, axis=-1)).max(axis=-1))


def wasserstein(was: Floats, now: Floats, edges: Floats) -> Floats:
    """Return the Wasserstein-1 distance in the unit of `edges`, up to and with which the bins after the first and before the last reach."""
    return np.asarray(np.abs(_moved(was, now)) @ np.diff(edges))


def energy(was: Floats, now: Floats, edges: Floats) -> Floats:
    """Return the energy distance of Székely and Rizzo 2013 in the root of the unit of `edges`, which are as of `wasserstein`."""
    return np.asarray(np.sqrt(2 * np.square(_moved(was, now)) @ np.diff(edges)))


def anderson_darling(was: Floats, now: Floats) -> Floats:
    """Return the square of how far shares of bins in order are apart: what has moved over each place, squared, beside its noise.

    That is the statistic of Anderson and Darling 1952 in the form for two samples of Pettitt 1976, "A two-sample Anderson-Darling
    rank statistic", where a window is a twentieth of the two and the values of a bin lie evenly over it; in a unit in which nothing in
    common would be 1 if it were half, and bent by what is left from that to 1, so that it is 1 as it is.
    """
    moved = now - was
    held = was + _OF_BOTH * moved
    until, gap = np.cumsum(held, axis=-1), np.cumsum(moved, axis=-1)
    since, slope = until - held, moved / np.maximum(held, _NOTHING)
    low = gap - slope * until  # at x of both the gap is low + slope x, or high - slope (1 - x)
    high = low + slope
    below, above = (np.maximum(each, _NOTHING) for each in (until, 1 - since))
    terms = low * low * np.log(below / np.maximum(since, _NOTHING))
    terms += high * high * np.log(above / np.maximum(1 - until, _NOTHING))
    terms -= slope * slope * held
    found = np.clip(terms.sum(axis=-1) / _APART, 0, _MOST)
    return np.asarray(found / (1 + found * (1 - 1 / _MOST)))


def _moved(was: Floats, now: Floats) -> Floats:
    """Return the difference of the cumulated shares between each edge and the next."""
    return np.cumsum(now - was, axis=-1)[..., 1:-2]


OF_SHARES: Final[Mapping[Measure, Callable[[Floats, Floats], Floats]]] = {
    "psi": psi,
    "jensenshannon": jensen_shannon,
    "hellinger": hellinger,
    "ks": kolmogorov_smirnov,
    "kl_div": kullback_leibler,
    "TVD": total_variation,
}
