"""What two versions said, side by side: numbers [rows], or probabilities [rows, classes].

A later version of a model may know more classes than an earlier one, whose are then
the first of them: it gave those that it does not know no chance.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trimtab_serving.snapshot import Served
from trimtab_serving.versions import Version

Floats = NDArray[np.float32]


def classes_of(served: Served) -> tuple[str, ...]:
    """Return all classes that the model's answers are about; none where they are numbers."""
    ours = served.champion.classes
    theirs = served.challenger.classes if served.challenger is not None else ()
    return theirs if len(theirs) > len(ours) > 0 else ours


def chosen(arms: Sequence[bool], challenger: Floats, champion: Floats) -> Floats:
    """Return the challenger's answer where its arm is on, and else the champion's."""
    on = np.array(arms)
    return np.where(on if champion.ndim == 1 else on[:, None], challenger, champion)


def nothing(version: Version, rows: int) -> Floats:
    """Return the answer of a version that has none."""
    return np.full((rows, len(version.classes)) if version.classes else rows, np.nan, np.float32)


def alike(champion: Floats, challenger: Floats) -> tuple[Floats, Floats]:
    """Return both as wide as the wider; of one that answers another question than the champion, nothing."""
    if champion.ndim != challenger.ndim:
        return champion, np.full_like(champion, np.nan)
    width = max(champion.shape[1], challenger.shape[1])
    return _widened(champion, width), _widened(challenger, width)


def _widened(said: Floats, width: int) -> Floats:
    more = np.where(np.isfinite(said[:, :1]), np.float32(0), np.float32(np.nan))
    return np.concatenate([said, np.repeat(more, width - said.shape[1], axis=1)], axis=1)
