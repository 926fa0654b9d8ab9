"""How many labelled rows a rollout is likely to need, and what it can tell at all before its longest wait.

Estimates, and said to be such: they take the rows so far for all rows to come, or,
while those are few, the champion's held-out rows. Nothing is decided by them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from trimtab_core.calibration import LevelThreshold
from trimtab_core.judge import JudgeSpec, JudgeState
from trimtab_core.losses import Metric
from trimtab_core.specs import ModelSpec
from trimtab_core.trial import judge_spec
from trimtab_core.watched import Reading, Standing, Trial, Watch

FEWEST: Final = 30
"""Rows of both versions from which on they tell the spread of the differences."""
SHARE: Final = 0.1
"""What difference is foreseen before that, of the champion's usual loss."""
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


@dataclass(frozen=True, slots=True)
class Beforehand:
    """What is foreseen before rows of both versions tell it, in the unit of the loss."""

    difference: float
    """`SHARE` of what the champion usually loses."""
    rows: int
    """Labelled rows to tell it, if the losses of the two versions are unrelated."""
    days: float | None
    """How long those take; None where no pace is known."""
    smallest: float | None
    """The least difference that rows by the longest wait are likely to tell."""


def of_rollout(
    spec: ModelSpec,
    standing: Standing,
    watch: Watch,
    usual: LevelThreshold | None,
    readings: Sequence[Reading],
) -> dict[int, str]:
    """Return what is foreseen of each version of the present rollout that is on trial or decided on, in a sentence.

    `usual` is of the champion's held-out losses, None where they are not known; the newest of `readings` tell how many labelled
    rows a day there are.
    """
    if not standing.rollout_id:
        return {}
    judged, metric, said = judge_spec(spec, standing.began), spec.judged_by, dict[int, str]()
    held = {each.challenger: each for each in watch.trials if each.rollout_id == standing.rollout_id}
    early = None
    if usual is not None and usual.spread is not None:
        early = beforehand(judged, usual.mean, usual.spread, _rows_a_day(readings, metric))
    on_trial = [arm.version for arm in standing.on_trial]
    for version in dict.fromkeys([*held, *on_trial]):
        trial = held.get(version) or Trial(standing.rollout_id, standing.generation, version, 0, judged)
        if trial.state.decided is None and version not in on_trial:
            continue  # it has left
        if early is not None and trial.state.n < FEWEST and trial.state.decided is None:
            said[version] = early_sentence(trial, early, metric)
        else:
            said[version] = sentence(trial, foreseen(trial, watch.judged_to), metric)
    return said


def _rows_a_day(readings: Sequence[Reading], metric: Metric) -> float | None:
    """Return how many labelled rows a day the newest window of them had, None where there is none."""
    newest = max(
        (it for it in readings if it.name == metric and not (it.feature or it.arm or it.slice)),
        key=lambda it: it.to_ms,
        default=None,
    )
    if newest is None or newest.to_ms <= newest.from_ms:
        return None
    return newest.rows * _DAY_MS / (newest.to_ms - newest.from_ms)


def beforehand(spec: JudgeSpec, mean: float, spread: float, rows_a_day: float | None) -> Beforehand | None:
    """Say what is foreseen from the mean and standard deviation of the champion's clipped losses; nothing where it loses none.

    How alike two versions are on the same row is not known before both have answered. Unrelated losses are the cautious
    case: the variance of their difference is then the sum of theirs, and the more alike they are, the smaller it is.
    """
    difference, variance = SHARE * mean, max(2 * (spread / spec.cap) ** 2, 1e-12)
    edge = (difference - spec.margin) / spec.cap
    if edge <= 0:
        return None
    needed = -math.log(spec.alpha) + math.log(len(JudgeState().better))
    rows = max(math.ceil(needed / _growth(edge, variance)), 1)
    if not rows_a_day:
        return Beforehand(difference, rows, None, None)
    in_time = spec.within_s * 1000 / _DAY_MS * rows_a_day
    smallest = spec.cap * math.sqrt(2 * needed * variance / in_time) + spec.margin
    return Beforehand(difference, rows, rows / rows_a_day, smallest)


def early_sentence(trial: Trial, found: Beforehand, metric: Metric) -> str:
    """Say it to a person."""
    told = (
        f"{trial.state.n} labelled rows of version {trial.challenger} so far: to tell a difference of {found.difference:.2g} "
        f"{metric} a row, a tenth of what the champion usually loses, about {_about(found.rows)} are needed if the losses of the "
        "two are unrelated, and fewer the more alike they are"
    )
    if found.days is not None:
        longest = trial.spec.within_s * 1000 / _DAY_MS
        told += f"; they come at the present pace in {found.days:.2g} "
        told += (
            f"of the {longest:.3g} days that it waits at most"
            if found.days <= longest
            else f"days, and it waits {longest:.3g} at most, which tell a difference of {found.smallest:.2g} or more"
        )
    return told + " (estimates, seldom better than to a factor of three)."


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
