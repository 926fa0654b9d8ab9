"""How unusual a window is, for a stated rate of false alarms of the whole rule.

A level is found by playing the rule that will be used on the version's own rows;
the same rows and seed give the same level, and a tolerance only removes alarms.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab_core.apart import APART, Forest, Tree, part
from trimtab_core.drift import (
    Bins,
    Column,
    Kind,
    Null,
    Reference,
    against_like,
    against_rest,
    by_block,
    fit_reference,
    score,
)
from trimtab_core.losses import rise_over_rest
from trimtab_core.measures import Measure
from trimtab_core.seasons import Season
from trimtab_core.together import TOGETHER, Pair, Together, code

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

TOLERANCE: Final[Mapping[str, float]] = {
    "numeric": 0.15,
    "categorical": 0.15,
    "text": 0.15,
    "psi": 0.1,
    "ks": 0.1,
    "jensenshannon": 0.1,
    "hellinger": 0.1,
    "wasserstein": 0.25,
    "kl_div": 0.05,
    "TVD": 0.1,
    "ed": 0.19,
    TOGETHER: 0.15,
    APART: 0.15,
}
"""Least move, in score beyond what noise gives, that may raise an alarm: near the customary PSI of 0.1, and for a
Gaussian a shift of a quarter sigma; of all together it is a change of a correlation, and told apart
one that is nearly as far. The null is drawn from training rows alone and so knows nothing of how the world
ages slowly; without a floor a window of a few thousand rows would call every season after the last one drift."""
LOSS_TOLERANCE: Final = 0.1
"""Least rise of the mean loss, as a share of its mean on the held-out rows, that may raise an alarm."""

ORDINARY: Final = 0.5
"""Share of the windows that are clear while nothing changes, where nothing else is asked for."""

ROUNDS: Final = 2_000
"""Windows that are put together."""
_FEW_WINDOWS: Final = 4
"""Below so many windows of reference rows, contiguous windows say too little, and `small` thresholds are made."""
_WIDENING: Final = 1.5
_BLOCKS: Final = 8
_FEWEST_OVER: Final = 20
_LEAST_RATE: Final = 0.02
"""Below so many windows over a level, or alarms a window of runs, a level is not read off but is that many's, in proportion."""
_DISCOVERY_RATE: Final = 0.1
_SHARES: Final = np.geomspace(1e-9, 0.5, 2_000)


@dataclass(frozen=True, slots=True)
class Rule:
    """An alarm needs `k` of the last `n` windows over the level, the newest among them."""

    k: int = 2
    n: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.n:
            raise ValueError(f"rule {self.k} of {self.n} can never or always fire: choose 1 <= k <= n")


@dataclass(frozen=True, slots=True)
class DriftThresholds:
    """What turns the scores of a window of `window` rows into a verdict.

    A window is over when its smallest p is at most `level`, and clear when it is at least `clear_level`. `small` says
    that the reference held too few windows and the levels come from the cautious fallback.
    """

    window: int
    rule: Rule
    false_alarms: float
    nulls: Mapping[str, Null]
    tolerance: Mapping[str, float]
    level: float
    clear_level: float
    small: bool
    together: Together | None = None
    """None of less than two features, and of what was calibrated before it was told."""
    season: Season | None = None
    """If windows are compared with their like."""
    apart: Forest | None = None
    """None unless a classifier is asked for, of two features or more."""


@dataclass(frozen=True, slots=True)
class LevelThreshold:
    """What turns the mean loss of a window of `window` rows into a verdict; `null` is of its rise above `mean`."""

    window: int
    rule: Rule
    false_alarms: float
    mean: float
    null: Null
    tolerance: float
    level: float
    clear_level: float
    small: bool
    spread: float | None = None
    """Standard deviation of the losses, row by row; None in what was worked out before it was kept."""


@dataclass(frozen=True, slots=True)
class WindowVerdict:
    """What one window says; `drifted` names features, most unusual first, and only when the window is over.

    `TOGETHER` may be among them; `pairs` then says which go together otherwise than they did. So may `APART`, and `trees` says
    which features tell the window apart.
    """

    scores: Mapping[str, float]
    p_values: Mapping[str, float]
    min_p: float
    over: bool
    clear: bool
    drifted: tuple[str, ...]
    pairs: tuple[Pair, ...] = ()
    trees: tuple[Tree, ...] = ()


def calibrate(
    columns: Mapping[str, Column],
    kinds: Mapping[str, Kind],
    *,
    window: int,
    false_alarms: float,
    rule: Rule = Rule(),
    seed: int = 0,
    rounds: int = ROUNDS,
    tolerance: Mapping[str, float] = TOLERANCE,
    measures: Mapping[str, Measure] = MappingProxyType({}),
    season: Season | None = None,
    clear: float = ORDINARY,
    references: Mapping[str, Reference] | None = None,
    classifier: bool = False,
) -> DriftThresholds:
    """Find the levels at which the whole rule gives `false_alarms` alarms per window while nothing changes.

    `columns` are the version's reference rows in time order; what each window is compared with is all rows outside it.
    Windows are drawn in two ways. Put together from blocks of rows, an eighth of a window each (the block bootstrap of
    Künsch 1989), there is no end of them, which gives the shape of the null; runs of consecutive windows that start with any
    block (the circular one of Politis and Romano 1992, a whole run as its block) carry autocorrelation and season at full
    length, and widen the null where they spread further. What a block adds to a window is worked out once. The level is where
    k-of-n holds as often as asked, under the more cautious of both; for windows that were put together, and know nothing of each
    other, that follows from how many of them are over it.
    With fewer than `max(4, n + 2)` windows of rows there are no runs to learn from: scores are widened by half instead,
    and season cannot be known, so expect fewer alarms where there is none and more where there is.

    With a `season` a window is compared with those of the rows outside it that have the phases of its own, by their
    `event_time_ms`; how the features go together is still compared with all. `measures` is as in `fit_reference`, and
    `references` is what that makes of the columns, where it is at hand. With a `classifier` a window is told apart by `apart.Forest` too.

    Raises:
        ValueError: there are no columns, their lengths differ, or a number is out of its range.
    """
    size = _check({name: len(columns[name]) for name in kinds}, window, false_alarms, rounds)
    plan = _Plan(size, window, rule, rounds, seed)
    nulls: dict[str, Null] = {}
    lowest = _Played(np.ones(1), np.ones(1))
    phases = season.phases_of(columns["event_time_ms"]) if season else None
    if references is None:
        references = fit_reference(columns, kinds, measures, season)
    asked = {name: references[name] for name in kinds}
    coded = {each.feature: each for each in code(asked)}
    parted = {each.feature: each for each in part(asked)} if classifier else {}
    parts, leaves = [], []
    for name in kinds:
        reference = references[name]
        bins = reference.bins(columns[name])
        nulls[name], p = plan.play(_score_of(reference, bins, phases, plan.block), 1 / window)
        lowest = lowest.least(p)
        if name in coded:
            parts.append(coded[name].columns(bins))
        if name in parted:
            leaves.append(parted[name].columns(bins))
    together = None
    if len(parts) > 1:
        side_by_side = np.concatenate(parts, axis=1)
        together = Together.of(tuple(coded.values()), side_by_side)
        nulls[TOGETHER], p = plan.play(
            partial(together.against_rest, side_by_side, block=plan.block), 1 / window
        )
        lowest = lowest.least(p)
    apart = None
    if len(leaves) > 1:
        side_by_side = np.concatenate(leaves, axis=1)
        apart = Forest.of(tuple(parted.values()), side_by_side)
        nulls[APART], p = plan.play(partial(apart.against_rest, side_by_side, block=plan.block), 1 / window)
        lowest = lowest.least(p)
    level, clear_level = plan.levels(lowest, rule, false_alarms, clear)
    floors = {**TOLERANCE, **tolerance}
    return DriftThresholds(
        window, rule, false_alarms, nulls, floors, level, clear_level, plan.small, together, season, apart
    )


def judge_window(
    thresholds: DriftThresholds, references: Mapping[str, Reference], columns: Mapping[str, Column]
) -> WindowVerdict:
    """Judge a window against the references that `fit_reference` made of the calibrated rows.

    A feature whose score, less what noise gives, is within the tolerance counts as p = 1. The features named are those
    of the Benjamini-Hochberg procedure (1995) at a false discovery rate of 0.1, or else the one that was over.
    """
    together, apart = thresholds.together, thresholds.apart
    phases = thresholds.season.phases_of(columns["event_time_ms"]) if thresholds.season else None
    bins = {name: references[name].bins(columns[name]) for name in thresholds.nulls if name in references}
    scores = {name: score(references[name], each, phases) for name, each in bins.items()}
    kinds = {name: references[name].tolerated for name in scores}
    if together is not None:
        side_by_side = together.columns(bins)
        scores[TOGETHER] = together.score(side_by_side)
    if apart is not None:
        # A window by time may have many times the rows of the largest for which there is a level.
        every = max(1, min(map(len, bins.values())) // thresholds.window)
        leaves = apart.columns({name: each[::every] for name, each in bins.items()})
        scores[APART] = apart.score(leaves)
    verdict = judge_scores(thresholds, kinds, scores)
    if together is not None and TOGETHER in verdict.drifted:
        verdict = replace(verdict, pairs=together.pairs(side_by_side))
    if apart is not None and APART in verdict.drifted:
        verdict = replace(verdict, trees=apart.trees(leaves))
    return verdict


def judge_scores(
    thresholds: DriftThresholds, kinds: Mapping[str, str], scores: Mapping[str, float]
) -> WindowVerdict:
    """Judge a window by its scores, as `judge_window` does; `kinds` says what the tolerance of each goes by."""
    p_values: dict[str, float] = {}
    for name, null in thresholds.nulls.items():
        effect = math.sqrt(max(scores[name] ** 2 - null.median**2, 0))
        small = effect < thresholds.tolerance[kinds.get(name, name)]
        p_values[name] = 1.0 if small else float(null.p(scores[name]))
    return _verdict(thresholds, scores, p_values)


def calibrate_mean(
    losses: ArrayLike,
    *,
    window: int,
    false_alarms: float,
    rule: Rule = Rule(),
    seed: int = 0,
    rounds: int = ROUNDS,
    tolerance: float = LOSS_TOLERANCE,
    clear: float = ORDINARY,
    known: int | None = None,
) -> LevelThreshold:
    """Find the level of a rising mean loss, as `calibrate` does for columns.

    `losses` are those of the version on its held-out rows, in time order and clipped; `known` is for how many different rows they
    stand, where the same rows are among them again and again.

    Raises:
        ValueError: there are no losses, one is not finite, or a number is out of its range.
    """
    rows = np.asarray(losses, dtype=np.float64)
    if not np.isfinite(rows).all():
        raise ValueError("a loss of the held-out rows is not finite: drop such rows before calibrating")
    size = _check({"losses": rows.size}, window, false_alarms, rounds)
    plan = _Plan(size, window, rule, rounds, seed, known)
    mean = float(rows.mean())
    means = rows[: rows.size // plan.block * plan.block].reshape(-1, plan.block).mean(axis=1)
    null, p = plan.play(partial(rise_over_rest, means), max(abs(mean) / window, 1e-12))
    level, clear_level = plan.levels(p, rule, false_alarms, clear)
    return LevelThreshold(
        window, rule, false_alarms, mean, null, tolerance, level, clear_level, plan.small, float(rows.std())
    )


def judge_level(threshold: LevelThreshold, losses: ArrayLike) -> WindowVerdict:
    """Judge a window of losses, clipped as the calibrated ones were; only worse is over. Its one score is `loss`."""
    rows = np.asarray(losses, dtype=np.float64)
    if rows.size == 0 or not np.isfinite(rows).all():
        raise ValueError("a window of losses is empty or not finite: pass at least one, all of them finite")
    mean = float(rows.mean())
    small = mean - threshold.mean < threshold.tolerance * threshold.mean
    p = 1.0 if small else float(threshold.null.p(mean - threshold.mean))
    return _verdict(threshold, {"loss": mean}, {"loss": p})


def _verdict(
    thresholds: DriftThresholds | LevelThreshold, scores: Mapping[str, float], p_values: Mapping[str, float]
) -> WindowVerdict:
    ranked = sorted(p_values, key=lambda name: p_values[name])
    min_p = p_values[ranked[0]]
    over = min_p <= thresholds.level
    allowed = _DISCOVERY_RATE / len(ranked)
    passed = [place for place, name in enumerate(ranked, 1) if p_values[name] <= allowed * place]
    drifted = tuple(ranked[: max(passed, default=1)]) if over else ()
    return WindowVerdict(scores, p_values, min_p, over, min_p >= thresholds.clear_level and not over, drifted)


def _score_of(
    reference: Reference, bins: Bins, phases: Counts | None, block: int
) -> Callable[[Counts], Floats]:
    if phases is None:
        return partial(against_rest, reference, by_block(reference, bins, block))
    like = partial(against_like, reference, bins, phases)
    return lambda blocks: like((blocks[..., None] * block + np.arange(block)).reshape(len(blocks), -1))


class _Played(NamedTuple):
    """The p of each simulated window: of those that were put together, and of those that lie in the reference."""

    mixed: Floats
    lying: Floats

    def least(self, other: "_Played") -> "_Played":
        return _Played(np.minimum(self.mixed, other.mixed), np.minimum(self.lying, other.lying))


class _Plan:
    """Which blocks of `block` rows the simulated windows take; the same for every column, so that columns stay together."""

    def __init__(
        self, size: int, window: int, rule: Rule, rounds: int, seed: int, known: int | None = None
    ) -> None:
        self.small = (size if known is None else known) < max(_FEW_WINDOWS, rule.n + 2) * window
        window = min(window, max(1, size // 2))
        self.block = max(1, min(window, size // 4) // _BLOCKS)
        blocks, taken = size // self.block, window // self.block
        rng = np.random.default_rng(seed)
        self._mixed = np.stack(
            [rng.choice(blocks, taken, replace=False, shuffle=False) for _ in range(rounds)]
        )
        # Where blocks are many, windows start at some of them, such that a run still goes on from window to window.
        stride = next((by for by in range(1, taken) if taken % by == 0 and blocks <= by * rounds), taken)
        starts = np.arange(0, blocks, stride)
        self._lying = (starts[:, None] + np.arange(taken)) % blocks
        self._runs = (np.arange(len(starts))[:, None] + taken // stride * np.arange(rule.n + 1)) % len(starts)

    def play(self, score_of: Callable[[Counts], Floats], floor: float) -> tuple[Null, _Played]:
        """Return the null of a score, and the p of each simulated window."""
        mixed = score_of(self._mixed)
        if self.small:
            mixed = mixed * _WIDENING
            null = Null.of(mixed, floor)
            return null, _Played(null.p(mixed), np.ones(1))
        lying = score_of(self._lying)
        mixed = mixed * max(math.sqrt(np.square(lying).mean() / max(np.square(mixed).mean(), 1e-300)), 1)
        null = Null.of(mixed, floor)
        return null, _Played(null.p(mixed), null.p(lying))

    def levels(self, lowest: _Played, rule: Rule, false_alarms: float, clear: float) -> tuple[float, float]:
        """Return the level and the clear level of the smallest p: the more cautious of the two ways of drawing.

        The share `clear` of the windows that were played are clear.
        """
        level = _level_of_mixed(lowest.mixed, rule, false_alarms)
        ordinary = np.quantile(lowest.mixed, 1 - clear)
        if not self.small:
            level = min(level, _level(lowest.lying[self._runs], rule, false_alarms))
            ordinary = (ordinary + np.quantile(lowest.lying, 1 - clear)) / 2
        return level, max(level, float(ordinary))


def _level_of_mixed(lowest: Floats, rule: Rule, false_alarms: float) -> float:
    """Return the level of the smallest p, from windows of which none knows of another, [windows]."""
    rates = np.maximum.accumulate(_alarms_at(_SHARES, rule))
    share = float(_SHARES[min(int(np.searchsorted(rates, false_alarms)), len(_SHARES) - 1)])
    read = min(max(share, _FEWEST_OVER / len(lowest)), 0.5)
    return min(float(np.quantile(lowest, read)) * share / read, 0.5)


def _alarms_at(over: Floats, rule: Rule) -> Floats:
    """Return how many alarms a window gives where it is over by the chance `over`, whatever the others are.

    An alarm is where k-of-n holds that did not hold one window before.
    """
    now = over * _at_least(rule.k - 1, rule.n - 1, over)
    between = max(rule.n - 2, 0)
    one_short = _at_least(rule.k - 2, between, over) - _at_least(rule.k - 1, between, over)
    return np.asarray(now - over**2 * (_at_least(rule.k - 1, between, over) + one_short * over))


def _at_least(least: int, of: int, over: Floats) -> Floats:
    """Return the chance that `least` of so many windows or more are over."""
    return np.asarray(
        sum(math.comb(of, at) * over**at * (1 - over) ** (of - at) for at in range(max(least, 0), of + 1))
        + np.zeros_like(over)
    )


def _level(lowest: Floats, rule: Rule, false_alarms: float) -> float:
    """Return the level of the smallest p, from runs of n + 1 windows, (rounds, n + 1).

    An alarm is counted where k-of-n holds that did not hold one window before.
    """
    now, before = _fires_at(lowest[:, 1:], rule), _fires_at(lowest[:, :-1], rule)
    candidates = np.sort(now)
    held = np.sort(np.maximum(now, before))
    holds = np.searchsorted(candidates, candidates, side="right")
    rates = (holds - np.searchsorted(held, candidates, side="right")) / len(now)
    wanted = max(false_alarms, _LEAST_RATE)
    too_many = np.flatnonzero(rates > wanted)
    level = candidates[max(too_many[0] - 1, 0)] if too_many.size else candidates[-1]
    return min(float(level) * false_alarms / wanted, 0.5)


def _fires_at(lowest: Floats, rule: Rule) -> Floats:
    """Return the least level at which the rule holds in the last of n windows, (rounds,)."""
    return np.asarray(np.maximum(np.sort(lowest, axis=1)[:, rule.k - 1], lowest[:, -1]))


def _check(sizes: Mapping[str, int], window: int, false_alarms: float, rounds: int) -> int:
    if len(set(sizes.values())) != 1 or min(sizes.values()) < 2:
        raise ValueError(
            f"reference columns have {dict(sizes)} rows: pass equally long ones, at least two rows"
        )
    if window < 2 or not 0 < false_alarms < 1 or rounds < 100:
        given = f"window {window}, false_alarms {false_alarms}, rounds {rounds}"
        raise ValueError(
            f"{given}: window must be at least 2, false_alarms between 0 and 1, rounds at least 100"
        )
    return next(iter(sizes.values()))
