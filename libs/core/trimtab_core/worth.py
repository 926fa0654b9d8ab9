"""What a version has bought since it is live: how much less each of its predictions loses than those before did.

Where both answered the same labelled rows, on a trial, the difference is theirs;
else it is of the last rows of the one and all of the other, which are of different
times. It follows from the rows and their order alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trimtab_core import judge
from trimtab_core.losses import Metric
from trimtab_core.watched import Earning, Paired, Row, Trial

Floats = NDArray[np.float64]

_FEWEST: Final = 30
"""Labelled rows of each version without which nothing is said of two that answered no row together."""
_MORE: Final = 1.1
"""By so much more predictions than at the last time it is told again."""


@dataclass(frozen=True, slots=True)
class Gain:
    """What is told of it."""

    before: int
    """The version that it is compared with."""
    a_row: float
    """Mean loss of that one less its own; more than 0 is saved."""
    low: float | None
    high: float | None
    """Of `a_row`, where it is paired, at the judge's alpha."""
    compared: int
    """Labelled rows that it is the mean of."""
    paired: bool
    rows: int
    """Predictions since."""
    metric: Metric


def take(
    earning: Earning, rows: Sequence[Row], losses: Floats, trials: Sequence[Trial], window: int, every_ms: int | None = None
) -> tuple[Earning, list[Earning]]:  # fmt: skip
    """Take in closed rows with the clipped loss of each, NaN without a label.

    Return what stands of the live version, and of those that were replaced by the way. `trials` are those of the newest rollout. A
    version is compared with the next by its last window: `window` labelled rows or, by time, those of `every_ms`, or of as many of
    such stretches as have enough.
    """
    ended, start = list[Earning](), 0
    for at, row in enumerate(rows):
        if row.generation > earning.generation:
            if row.version != earning.version:
                ended.append(_added(earning, rows[start:at], losses[start:at], window, every_ms))
                earning, start = _begun(ended[-1], row.version, trials), at
            earning = replace(earning, generation=row.generation)
    live = _added(earning, rows[start:], losses[start:], window, every_ms)
    return live, [each for each in ended if each.version]


def gain(earning: Earning, metric: Metric) -> Gain | None:
    """Return what can be said; None of a first version, one that was put back, and while too little is known."""
    if not earning.before or (earning.paired is None and earning.before > earning.version):
        return None
    if (paired := earning.paired) is not None:
        return Gain(
            earning.before,
            paired.difference,
            paired.low,
            paired.high,
            paired.rows,
            True,
            earning.rows,
            metric,
        )
    if earning.before_mean is None or earning.labelled < _FEWEST:
        return None
    a_row = earning.before_mean - earning.total / earning.labelled
    return Gain(earning.before, a_row, None, None, earning.labelled, False, earning.rows, metric)


def is_worse(earning: Earning, most: float, alpha: float) -> bool | None:
    """Return whether a version clearly loses more than the one before; None until that is to be said, which it is once.

    Where both answered the same rows, the judge's interval tells. Else it is a test at one look, as soon as there are as many labelled rows
    as those it is held against, whose own error is what bounds any later look: more rows make the whole error a factor of 1.4 smaller at
    most. The means are taken to be normal, and the variance of losses in [0, `most`] is at most mean * (most - mean) (Bhatia and Davis
    2000), so that no more than the means is kept, and a version that is as good is called worse with a probability of at most `alpha`.
    """
    if earning.paired is not None:
        return earning.paired.high < 0
    if earning.before_mean is None or earning.even_total is None:
        return None
    was, now = earning.before_mean, earning.even_total / earning.before_rows
    error = sqrt(sum(max(mean * (most - mean), 0.0) / earning.before_rows for mean in (was, now)))
    return now - was > NormalDist().inv_cdf(1 - alpha) * error


def is_due(earning: Earning) -> bool:
    """Whether there is enough new to tell it again: so it is told ever less often."""
    return earning.rows >= max(1, earning.told * _MORE)


def _begun(earlier: Earning, version: int, trials: Sequence[Trial]) -> Earning:
    """Return what is known of a version that is live from now on."""
    labelled = earlier.last_rows + earlier.filling_rows
    mean = (earlier.last_total + earlier.filling_total) / labelled if labelled >= _FEWEST else None
    paired = None
    trial = next((each for each in trials if each.challenger == version), None)
    if trial is not None and trial.state.n:
        found = judge.verdict(trial.spec, trial.state, 0.0)
        paired = Paired(found.n, found.mean_difference, found.low, found.high)
    return Earning(
        version,
        earlier.generation,
        before=earlier.version,
        before_mean=mean,
        before_rows=labelled,
        paired=paired,
    )


def _added(
    earning: Earning, rows: Sequence[Row], losses: Floats, window: int, every_ms: int | None
) -> Earning:
    mine = np.array([row.version == earning.version for row in rows], bool)
    (known,) = np.nonzero(mine & np.isfinite(losses))
    last_rows, last_total = earning.last_rows, earning.last_total
    filling_rows, filling_total, filling_ms = earning.filling_rows, earning.filling_total, earning.filling_ms
    total, even_total = earning.total, earning.even_total
    for labelled, at in enumerate(known.tolist(), earning.labelled + 1):
        stretch_ms = rows[at].at_ms // every_ms * every_ms if every_ms else 0
        # A window by time is full with the first row after it; one with too few rows goes on.
        full = (
            filling_rows >= window
            if every_ms is None
            else stretch_ms > filling_ms and filling_rows >= _FEWEST
        )
        if full:
            last_rows, last_total, filling_rows, filling_total = filling_rows, filling_total, 0, 0.0
        if not filling_rows:
            filling_ms = stretch_ms
        value = float(losses[at])
        total, filling_rows, filling_total = total + value, filling_rows + 1, filling_total + value
        if labelled == earning.before_rows:
            even_total = total
    return replace(
        earning,
        rows=earning.rows + int(mine.sum()),
        labelled=earning.labelled + len(known),
        total=total,
        even_total=even_total,
        last_rows=last_rows,
        last_total=last_total,
        filling_rows=filling_rows,
        filling_total=filling_total,
        filling_ms=filling_ms,
    )
