"""How many more labelled rows a rollout is likely to need, and what it can tell at all before its longest wait.

Estimates, and said to be such: they take the rows so far for all rows to come, and
nothing is decided by them.
"""

import math
from dataclasses import dataclass
from typing import Final

from trimtab_core.losses import Metric
from trimtab_core.watched import Trial

FEWEST: Final = 30
"""Rows without which no estimate is made: they tell the spread of the differences."""
_BOLDEST: Final = 0.9
"""As the judge's bets are capped."""
_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What is foreseen of a trial; differences are champion - challenger, in the unit of the loss."""

    rows: int
    """Labelled rows so far."""
    difference: float
    """Their mean."""
    more: int | None
    """Further rows to tell a difference of that size; None while there are too few, or where there is no difference."""
    in_time: int | None
    """Further rows by the longest wait, at the pace so far; None while there is no pace."""
    smallest: float | None
    """The least difference that rows by then are likely to tell."""


def foreseen(trial: Trial, closed_ms: int) -> Foreseen:
    """Say what is foreseen at a time of event time.

    Where differences have mean d and standard deviation s, in units of the cap and d small beside s, the best bet of the
    judge's e-value earns about d^2 / (2 s^2) a row (Waudby-Smith and Ramdas 2023), and log(1 / alpha) has to be earned.
    """
    state, cap = trial.state, trial.spec.cap
    n, needed = state.n, -math.log(trial.spec.alpha)
    mean = state.total / n if n else 0.0
    if n < FEWEST or state.decided is not None:
        return Foreseen(n, cap * mean, None, None, None)
    variance = max(state.squares / n - mean**2, 1e-12)
    edge = abs(mean) - (trial.spec.margin if mean > 0 else trial.spec.worse_margin) / cap
    more = None
    if edge > 0:
        logs = state.better if mean > 0 else state.worse
        earned = max(logs) - math.log(len(logs))
        more = max(math.ceil((needed - earned) / _growth(edge, variance)), 1)
    passed_ms = closed_ms - trial.first_ms
    if passed_ms <= 0:
        return Foreseen(n, cap * mean, more, None, None)
    in_time = round(n * max(trial.deadline_ms - closed_ms, 0) / passed_ms)
    smallest = math.sqrt(2 * needed * variance / (n + in_time))
    return Foreseen(n, cap * mean, more, in_time, cap * smallest)


def sentence(trial: Trial, found: Foreseen, metric: Metric) -> str:
    """Say it to a person."""
    if trial.state.decided is not None:
        return f"Version {trial.challenger} is decided on, after {found.rows:,} labelled rows."
    if found.rows < FEWEST:
        return f"{found.rows} labelled rows of version {trial.challenger} so far: from {FEWEST} on it is foreseen how many are needed."
    side = "less" if found.difference >= 0 else "more"
    told = [
        f"Over {found.rows:,} labelled rows version {trial.challenger} has {abs(found.difference):.3g} {side} {metric} a row"
    ]
    if found.more is None:
        told.append("no difference of that size can be told")
    else:
        told.append(f"to tell a difference of that size about {_about(found.more)} more are needed")
    if found.in_time is not None and found.smallest is not None:
        days = (trial.deadline_ms - trial.first_ms) / _DAY_MS
        told.append(
            f"about {_about(found.in_time)} more come within its {days:.3g} days at this pace, "
            f"which tell a difference of {found.smallest:.2g} or more"
        )
    return "; ".join(told) + " (estimates, seldom better than to a factor of three)."


def _growth(edge: float, variance: float) -> float:
    """Return what the log wealth of the best bet earns a row, to the second order."""
    bet = min(edge / (variance + edge**2), _BOLDEST)
    return bet * edge - bet**2 * (variance + edge**2) / 2


def _about(rows: int) -> str:
    """Return a number to two digits: more would claim too much."""
    digits = max(len(str(rows)) - 2, 0)
    return f"{round(rows, -digits):,}"
