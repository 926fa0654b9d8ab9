"""Whether a challenger replaces the champion, on paired losses of live rows.

A challenger that is not better by more than the margin is promoted with
probability at most alpha, however often and whenever the verdict is asked for, and
the answer depends on the rows and their order, never on how they were batched.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab_core.losses import clip

Floats = NDArray[np.float64]
Action = Literal["continue", "advance", "promote", "rollback", "undecided"]

_BOLDEST: Final = 0.9
"""Largest share of the wealth that one row can take."""
_STEADY: Final = (_BOLDEST, _BOLDEST / 4)
"""Bets that are placed on every row beside the one that learns: the cap is far above most differences, so the best bet
is often the largest, and these need not learn it first."""
_FIRST_VARIANCE: Final = 0.01
_CALMEST: Final = 0.75
"""Cap of the tuning sequence of the confidence sequence."""


@dataclass(frozen=True, slots=True)
class JudgeSpec:
    """How a rollout is judged; losses count at most `cap`, in their own unit.

    Promoted is who is better by more than `margin`, rolled back who is worse by more than `worse_margin`, each wrongly
    with probability at most `alpha`. `steps` are percents of traffic, `within_s` the longest wait in event time.
    """

    cap: float
    alpha: float = 0.05
    margin: float = 0.0
    steps: tuple[int, ...] = (10, 50, 100)
    within_s: float = 14 * 86_400.0
    worse_margin: float = 0.0

    def __post_init__(self) -> None:
        if not (self.cap > 0 and 0 < self.alpha < 1 and self.steps):
            raise ValueError(
                f"cap {self.cap}, alpha {self.alpha}, steps {self.steps}: need cap > 0, alpha in (0, 1), a step"
            )
        if not (0 <= self.margin < self.cap and 0 <= self.worse_margin < self.cap):
            raise ValueError(
                f"margins {self.margin} and {self.worse_margin} must lie between 0 and the cap {self.cap}"
            )


@dataclass(frozen=True, slots=True)
class JudgeState:
    """What the rows so far have come to; differences are champion - challenger in units of the cap."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    better: tuple[float, ...] = (0.0,) * (1 + len(_STEADY))
    """Log wealth of each bet against "not better", the learning one first."""
    worse: tuple[float, ...] = (0.0,) * (1 + len(_STEADY))
    """The same against "not worse"."""
    peak: float = 0.0
    """Highest log e-value against "not better" so far: the ladder is climbed, never descended."""
    pulled: float = 0.0
    weight: float = 0.0
    slack: float = 0.0
    """Sums of the confidence sequence: weighted differences, weights, and variance spent."""
    decided: Literal["promote", "rollback"] | None = None
    """Once set, further rows change nothing."""


@dataclass(frozen=True, slots=True)
class JudgeVerdict:
    """What is to be done, and the numbers behind it, in the unit of the loss."""

    action: Action
    step: int
    """Index into `steps` at which the rollout should stand now."""
    share: int
    """The percent of traffic there."""
    n: int
    mean_difference: float
    """Mean of champion - challenger; positive says that the challenger is better."""
    e_better: float
    e_worse: float
    low: float
    high: float
    """A 1 - alpha confidence sequence of the mean difference, which also may be looked at any time."""


def update(
    spec: JudgeSpec, state: JudgeState, champion_losses: ArrayLike, challenger_losses: ArrayLike
) -> JudgeState:
    """Take in the paired losses of further rows, in the order in which they are to count.

    The e-values are wealths of betting on bounded means (Waudby-Smith and Ramdas 2023, "Estimating means of bounded
    random variables by betting"): the average of a predictable plug-in bet in the manner of aGRAPA and two steady ones.
    Each is a non-negative supermartingale while the mean difference, given the rows before, is within the margin.

    Raises:
        ValueError: the losses are not paired, or one is not finite.
    """
    champion, challenger = clip(champion_losses, spec.cap), clip(challenger_losses, spec.cap)
    if champion.shape != challenger.shape:
        raise ValueError(
            f"{champion.size} champion and {challenger.size} challenger losses are no pairs: pass one of each"
        )
    if state.decided is not None or champion.size == 0:
        return state
    x = np.clip((champion - challenger) / spec.cap, -1, 1)
    total, squares = _running(state.total, x), _running(state.squares, x * x)
    seen = state.n + np.arange(x.size)
    mean = total[:-1] / (seen + 1)
    variance = np.maximum((_FIRST_VARIANCE + squares[:-1]) / (seen + 1) - mean**2, 1e-9)
    better = _wealth(state.better, x, mean, variance, spec.margin / spec.cap)
    worse = _wealth(state.worse, -x, -mean, variance, spec.worse_margin / spec.cap)
    e_better, e_worse = _log_mean(better), _log_mean(worse)
    needed = -math.log(spec.alpha)
    crossed = np.flatnonzero((e_better >= needed) | (e_worse >= needed))
    last = int(crossed[0]) if crossed.size else x.size - 1
    decided: Literal["promote", "rollback"] | None = None
    if crossed.size:
        decided = "promote" if e_better[last] >= needed else "rollback"
    pulled, weight, slack = _confidence(spec, state, x, seen, mean, variance)
    return JudgeState(
        n=state.n + last + 1,
        total=float(total[last + 1]),
        squares=float(squares[last + 1]),
        better=tuple(float(log) for log in better[:, last]),
        worse=tuple(float(log) for log in worse[:, last]),
        peak=max(state.peak, float(e_better[: last + 1].max())),
        pulled=float(pulled[last + 1]),
        weight=float(weight[last + 1]),
        slack=float(slack[last + 1]),
        decided=decided,
    )


def verdict(spec: JudgeSpec, state: JudgeState, waited_s: float, step: int = 0) -> JudgeVerdict:
    """Say what a rollout that stands at `step` and has waited so long should do.

    Step i of m is reached at an e-value of (1 / alpha) ** (i / m), and promotion at 1 / alpha: by Ville's inequality it
    is reached with probability at most alpha where the challenger is not better. Past the longest wait it is
    `undecided`, and the champion stays.
    """
    most = len(spec.steps)
    earned = min(int(state.peak / -math.log(spec.alpha) * most + 1e-9), most - 1)
    action: Action = "continue"
    if state.decided is not None:
        action = state.decided
    elif waited_s >= spec.within_s:
        action = "undecided"
    elif earned > step:
        action = "advance"
    at = max(step, earned) if action != "promote" else most - 1
    low, high = _interval(spec, state)
    return JudgeVerdict(
        action=action,
        step=at,
        share=spec.steps[at],
        n=state.n,
        mean_difference=spec.cap * state.total / max(state.n, 1),
        e_better=math.exp(float(_log_mean(np.array(state.better)))),
        e_worse=math.exp(float(_log_mean(np.array(state.worse)))),
        low=spec.cap * low,
        high=spec.cap * high,
    )


def _running(start: float, terms: Floats) -> Floats:
    """Add terms one after another from `start`, so that batches add up to the last bit alike."""
    return np.cumsum(np.concatenate(([start], terms)))


def _wealth(start: tuple[float, ...], x: Floats, mean: Floats, variance: Floats, margin: float) -> Floats:
    """Return the log wealth of each bet against "mean <= margin" after each row, (bets, rows)."""
    edge = mean - margin
    boldest = 1 / (1 + margin)
    learned = boldest * np.clip(edge / (variance + edge**2) / boldest, 0, _BOLDEST)
    bets = [learned, *(np.full(x.size, boldest * share) for share in _STEADY)]
    return np.stack(
        [_running(log, np.log1p(bet * (x - margin)))[1:] for log, bet in zip(start, bets, strict=True)]
    )


def _log_mean(logs: Floats) -> Floats:
    averaged: Floats = np.logaddexp.reduce(logs, axis=0) - math.log(logs.shape[0])
    return averaged


def _confidence(
    spec: JudgeSpec, state: JudgeState, x: Floats, seen: NDArray[np.int64], mean: Floats, variance: Floats
) -> tuple[Floats, Floats, Floats]:
    """Return running sums of the predictable plug-in empirical Bernstein sequence (theorem 2 of the same paper)."""
    number = seen + 1
    tuned = np.sqrt(2 * math.log(2 / spec.alpha) / (variance / 4 * number * np.log1p(number)))
    tuned = np.minimum(tuned, _CALMEST)
    spent = (x - mean) ** 2 * (-np.log1p(-tuned) - tuned) / 4
    return _running(state.pulled, tuned * x), _running(state.weight, tuned), _running(state.slack, spent)


def _interval(spec: JudgeSpec, state: JudgeState) -> tuple[float, float]:
    """Return the confidence sequence's bounds, in units of the cap."""
    if state.weight == 0:
        return -1.0, 1.0
    middle = state.pulled / state.weight
    reach = 2 * (math.log(2 / spec.alpha) + state.slack) / state.weight
    return max(middle - reach, -1.0), min(middle + reach, 1.0)
