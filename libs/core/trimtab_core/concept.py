"""When the losses of labelled rows have risen: told at the row that shows it, not at the end of a window.

The same rows give the same alarm however they were batched, and while nothing
changes alarms come at most about as often as was asked for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab_core.calibration import LOSS_TOLERANCE

Floats = NDArray[np.float64]

RISES: Final = (0.25, 0.5, 1.0)
"""Rises, in standard deviations of one loss, that are looked for side by side: a slow climb and a jump need different sums."""

_STREAMS: Final = 200
_LENGTH: Final = 4_000
_BLOCKS: Final = (25, 1_000)
"""Rows that a simulated stream takes from the reference in one piece: short ones give many streams, long ones keep season."""
_ORDINARY: Final = 0.995
"""Above this quantile losses count alike: how far a tail goes on, the held-out rows cannot tell."""
_SURE: Final = 0.99
_LEAST_CLIMB: Final = 4.0
"""Standard deviations that a sum must climb at least, so that no single loss is a change."""
_FEWEST_PEAKS: Final = 50
FEWEST_ROWS: Final = 30


@dataclass(frozen=True, slots=True)
class ChangeThreshold:
    """How high each sum may climb while nothing changes.

    Each sum takes in what a loss is above `mean` and its allowance; over is where any has reached its height.
    """

    mean: float
    highest: float
    """What a loss counts at most."""
    allowances: tuple[float, ...]
    heights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ChangeState:
    """What the rows so far have come to."""

    sums: tuple[float, ...] = ()
    rows: tuple[int, ...] = ()
    """How many rows each sum has climbed since it was zero."""
    began: tuple[float, ...] = ()
    """When it last left zero."""


@dataclass(frozen=True, slots=True)
class Change:
    """Losses have risen: seen at the row of number `at` of those just taken in."""

    at: int
    began: float
    """The time of the row from which on they were too high, taken together."""
    rows: int
    """So many there are from there on."""
    mean: float
    """What those lost on average, each at most the threshold's `highest`."""
    usual: float
    """Up to which mean a climb would come to nothing."""


def calibrate_change(
    losses: ArrayLike, *, rows_between: float, seed: int = 0, tolerance: float = LOSS_TOLERANCE
) -> ChangeThreshold:
    """Find the heights at which a false alarm is raised once in `rows_between` rows while nothing changes.

    The sums are those of Page 1954, "Continuous inspection schemes", which for a change of known size is the quickest of
    all tests at its rate (Moustakides 1986); several share the rate, as the size is not known. A rise of less than
    `tolerance` of the mean is in each sum's allowance and adds up to nothing.

    `losses` are those of the version on its held-out rows, in time order and clipped. Streams are put together from blocks
    of them, short and long; how far the mean of as many rows may be off is in the allowances. Rates that are too rare to
    be played are read off the exponential tail of the sums' peaks.

    Raises:
        ValueError: there are fewer than two losses, one is not finite, or `rows_between` is below 30.
    """
    reference = np.asarray(losses, dtype=np.float64)
    if reference.size < 2 or not np.isfinite(reference).all():
        raise ValueError("the held-out losses are fewer than two or not all finite: drop such rows first")
    if rows_between < FEWEST_ROWS:
        raise ValueError(
            f"rows_between {rows_between:g} is too few: allow an alarm in {FEWEST_ROWS} rows or more"
        )
    usual = float(np.quantile(reference, _ORDINARY, method="inverted_cdf")) or float(reference.max())
    ordinary = np.minimum(reference, usual)
    mean, spread = float(ordinary.mean()), max(float(ordinary.std()), 1e-12)
    halves = [rise * spread / 2 for rise in RISES]
    played = [_streams(ordinary - mean, block, seed) for block in _BLOCKS]
    unsure = max(0.0, *(float(np.quantile(means, _SURE)) for _, means in played))
    rate = 1 / (rows_between * len(RISES))
    heights = [max(_height(streams - half, rate) for streams, _ in played) for half in halves]
    allowances = tuple(max(half, tolerance * abs(mean)) + unsure for half in halves)
    highest = max(usual, mean + 2 * allowances[-1] + 3 * spread)
    return ChangeThreshold(
        mean, highest, allowances, tuple(max(height, _LEAST_CLIMB * spread) for height in heights)
    )


def watch_losses(
    threshold: ChangeThreshold, state: ChangeState, losses: ArrayLike, times: Sequence[float]
) -> tuple[ChangeState, Change | None]:
    """Take in further losses and when they were made, in their order; at a change the rest is left out, and all begins anew.

    Raises:
        ValueError: a loss is not finite, or has no time.
    """
    rows = np.asarray(losses, dtype=np.float64)
    if not np.isfinite(rows).all():
        raise ValueError("a loss is not finite: leave out rows without one")
    count = len(threshold.heights)
    sums, climbed = list(state.sums or (0.0,) * count), list(state.rows or (0,) * count)
    began = list(state.began or (0.0,) * count)
    usual = [threshold.mean + allowance for allowance in threshold.allowances]
    counted = np.minimum(rows, threshold.highest).tolist()
    for at, (lost, time) in enumerate(zip(counted, times, strict=True)):
        for each in range(count):
            if not sums[each]:
                climbed[each], began[each] = 0, time
            sums[each] = max(sums[each] + lost - usual[each], 0.0)
            climbed[each] += 1
            if sums[each] >= threshold.heights[each]:
                mean = usual[each] + sums[each] / climbed[each]
                return ChangeState(), Change(at, began[each], climbed[each], mean, usual[each])
    return ChangeState(tuple(sums), tuple(climbed), tuple(began)), None


def _streams(steps: Floats, block: int, seed: int) -> tuple[Floats, Floats]:
    """Return streams put together from blocks of `steps`, (streams, rows), and the means of as many draws of all of them."""
    rng = np.random.default_rng(seed)
    size = steps.size
    block = max(1, min(block, size // 4))
    sums = np.cumsum(np.concatenate([[0.0], steps, steps[:block]]))
    drawn = rng.integers(0, size, (_STREAMS, size // block))
    means = (sums[drawn + block] - sums[drawn]).mean(axis=1) / block
    starts = rng.integers(0, size, (_STREAMS, -(-_LENGTH // block), 1))
    rows = ((starts + np.arange(block)) % size).reshape(_STREAMS, -1)[:, :_LENGTH]
    return steps[rows], means


def _height(steps: Floats, rate: float) -> float:
    """Return the height that sums of `steps`, (streams, rows), reach from zero at most `rate` times a row."""
    peaks = np.sort(_peaks(steps))[::-1]
    wanted = rate * steps.size
    if wanted >= _FEWEST_PEAKS:
        return float(peaks[min(math.ceil(wanted), len(peaks) - 1)]) if len(peaks) else 0.0
    known = peaks[: 4 * _FEWEST_PEAKS]
    if len(known) <= _FEWEST_PEAKS:
        return float(peaks[0]) if len(peaks) else 0.0
    start, decay = known[_FEWEST_PEAKS], float((known[:_FEWEST_PEAKS] - known[_FEWEST_PEAKS]).mean())
    return float(start + decay * math.log(_FEWEST_PEAKS / wanted))


def _peaks(steps: Floats) -> Floats:
    """Return how high each climb of the sums from zero went."""
    sums, highest, peaks = np.zeros(len(steps)), np.zeros(len(steps)), list[Floats]()
    for column in steps.T:
        sums = np.maximum(sums + column, 0)
        ended = (sums == 0) & (highest > 0)
        peaks.append(highest[ended])
        highest = np.where(sums == 0, 0, np.maximum(highest, sums))
    return np.concatenate([*peaks, highest[highest > 0]])
