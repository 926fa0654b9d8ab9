"""What several versions said, side by side: numbers [rows], or probabilities [rows, classes].

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
    found = served.champion.classes
    for version in served.challengers:
        if len(version.classes) > len(found) > 0:
            found = version.classes
    return found


def chosen(arms: NDArray[np.int64], champion: Floats, challengers: Sequence[Floats]) -> Floats:
    """Return of each row the answer of its arm: 0 is the champion's, 1 the first challenger's."""
    found = champion
    for arm, said in enumerate(challengers, 1):
        on = arms == arm
        if on.any():
            found = np.where(on if champion.ndim == 1 else on[:, None], said, found)
    return found


def nothing(version: Version, rows: int) -> Floats:
    """Return the answer of a version that has none."""
    return np.full((rows, len(version.classes)) if version.classes else rows, np.nan, np.float32)


def alike(champion: Floats, challengers: Sequence[Floats]) -> tuple[Floats, Sequence[Floats]]:
    """Return all as wide as the widest; of one that answers another question than the champion, nothing."""
    if all(said.shape == champion.shape for said in challengers):
        return champion, challengers
    fitting = [said if said.ndim == champion.ndim else np.full_like(champion, np.nan) for said in challengers]
    if champion.ndim == 1:
        return champion, fitting
    width = max(said.shape[1] for said in (champion, *fitting))
    return _widened(champion, width), [_widened(said, width) for said in fitting]


def _widened(said: Floats, width: int) -> Floats:
    more = np.where(np.isfinite(said[:, :1]), np.float32(0), np.float32(np.nan))
    return np.concatenate([said, np.repeat(more, width - said.shape[1], axis=1)], axis=1)
