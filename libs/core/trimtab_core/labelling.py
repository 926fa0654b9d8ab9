"""Which rows of a window to label first, and how likely each was to be asked for.

Every row can be asked for, so that what is labelled tells how well a model does without
bias: the mean over the asked rows of loss / chance, by the number of the window's rows,
is on average the window's mean loss (Horvitz and Thompson 1952). The same window and
seed name the same rows.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RANDOM: Final = 0.5
"""The share of what is asked that falls on all rows alike; the rest goes by what is expected to be lost."""


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


def drawn(chances: Floats, seed: int) -> NDArray[np.int64]:
    """Return the places of rows drawn with their `chances`, as many as those add up to, in order.

    It is the systematic draw of Madow 1949, "On the theory of systematic sampling, II", of rows in a random order.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(chances.size)
    steps = np.floor(np.cumsum(chances[order]) + 1e-9 + rng.random())
    return np.sort(order[np.diff(steps, prepend=0.0) > 0])
