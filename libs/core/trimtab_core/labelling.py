"""Which rows of a window to label first, and how likely each was to be asked for.

Every row can be asked for, so that what is labelled tells how well a model does without
bias: the mean over the asked rows of loss / chance, by the number of the window's rows,
is on average the window's mean loss (Horvitz and Thompson 1952). So is the plain mean of
what each loses times its weight, which is `HEAVIEST` at most. The same window and seed
name the same rows.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RANDOM: Final = 0.5
"""The share of what is asked that falls on all rows alike; the rest goes by what is expected to be lost."""
HEAVIEST: Final = 1 / RANDOM
"""The most that a row weighs, as no chance is less than this share of what it would be if it fell on all alike."""
_ALIKE: Final = 1e-9
"""Of the square of their mean: losses that vary less are all the same but for their last digits."""


def chances(worth: Floats, count: int) -> Floats:
    """Return each row's chance to be among `count` that are asked for; they add up to `count`, or to all rows.

    `worth` [rows] is what a label of it would tell, such as the loss expected of it; NaN counts as nothing.

    Raises:
        ValueError: `count` is not positive.
    """
    if count < 1:
        raise ValueError(f"{count} labels cannot be asked for: ask for one or more")
    rows = worth.size
    if count >= rows:
        return np.ones(rows)
    worth = np.where(np.isfinite(worth), worth, 0.0)
    total = worth.sum()
    wished = RANDOM / rows + (1 - RANDOM) * (worth / total if total > 0 else np.full(rows, 1 / rows))
    sure = np.zeros(rows, np.bool_)
    while True:  # what a row would have above 1 goes to the others
        rest = (count - sure.sum()) / wished[~sure].sum()
        over = ~sure & (wished * rest > 1)
        if not over.any():
            return np.where(sure, 1.0, np.minimum(wished * rest, 1.0))
        sure |= over


def weights(chances: Floats) -> Floats:
    """Return what each row weighs if it is drawn with its `chances`; the mean over a draw is 1 on average."""
    return np.asarray(np.minimum(chances.mean() / chances, HEAVIEST))


def weighed(losses: Floats, worth: Floats, window: int, count: int, *, seed: int = 0) -> Floats:
    """Return what held-out rows, in order of time, would come to were `count` of each `window` of them asked for: loss times weight.

    They are drawn over and over until there are as many as leave the mean as unsure as so many rows do: fewer than those where the
    draw takes much of the spread away.
    """
    parts = np.array_split(np.arange(losses.size), max(1, losses.size // window))
    asked = [chances(worth[part], count) for part in parts]
    weight = np.concatenate([weights(chance) for chance in asked])
    square, before = float(losses.mean()) ** 2, float(losses.var())
    spread = float((weight * np.square(losses)).mean()) - square
    least = losses.size * (spread / before if before > _ALIKE * square else 1.0)
    times = max(1, round(least / sum(min(count, part.size) for part in parts)))
    seeds = iter(range(seed, seed + times * len(parts)))
    found = [
        (losses * weight)[part[drawn(chance, next(seeds))]]
        for _ in range(times)
        for part, chance in zip(parts, asked, strict=True)
    ]
    return np.concatenate(found)


def drawn(chances: Floats, seed: int) -> NDArray[np.int64]:
    """Return the places of rows drawn with their `chances`, as many as those add up to, in order.

    It is the systematic draw of Madow 1949, "On the theory of systematic sampling, II", of rows in a random order.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(chances.size)
    steps = np.floor(np.cumsum(chances[order]) + 1e-9 + rng.random())
    return np.sort(order[np.diff(steps, prepend=0.0) > 0])
