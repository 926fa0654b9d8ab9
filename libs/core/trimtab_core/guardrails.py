"""Whether a challenger is to be taken back before its labels come: it fails, or is slow, where the champion does not.

A challenger that is within what is stated is taken back with probability at most
alpha, however often and whenever one looks, and the answer depends on the requests
and their order, never on how they were batched.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab_core.specs import GuardrailsSpec

Floats = NDArray[np.float64]
Which = Literal["failures", "latency"]

BETS: Final = tuple(0.9 / 2**at for at in range(8))
"""Shares of the largest bet that each have an equal part of the wealth: which is best depends on how bad a challenger is."""
_FEWEST: Final = 100
"""Champion's times that have to be known before there is a limit that follows from them."""
_QUANTILE: Final = 0.99
_RESOLUTION: Final = 4
"""Times are counted in so many bins for each doubling."""
_BINS: Final = 31 * _RESOLUTION + 1


@dataclass(frozen=True, slots=True)
class GuardSpec:
    """What a challenger may do beyond its champion, as `GuardrailsSpec` says it; times are microseconds."""

    failures: float
    slow: float
    limit_us: float | None
    slower: float
    least_us: float
    alpha: float

    @classmethod
    def of(cls, spec: GuardrailsSpec, among: int = 1) -> Self:
        """Return what a model's spec states for each of so many versions, which share alpha (Bonferroni)."""
        limit_us = None if spec.latency is None else spec.latency * 1000.0
        return cls(spec.failures, spec.slow, limit_us, spec.slower, spec.least * 1000.0, spec.alpha / among)


@dataclass(frozen=True, slots=True)
class Tally:
    """Requests by which of the two did what is held against it."""

    theirs: int = 0
    """The challenger alone."""
    ours: int = 0
    """The champion alone."""
    alike: int = 0
    """Both, or neither."""

    @property
    def requests(self) -> int:
        """All of them."""
        return self.theirs + self.ours + self.alike

    @property
    def excess(self) -> float:
        """By how much the challenger's share is above the champion's."""
        return (self.theirs - self.ours) / max(self.requests, 1)


@dataclass(frozen=True, slots=True)
class GuardState:
    """What the requests so far have come to."""

    failures: Tally = Tally()
    latency: Tally = Tally()
    times: tuple[int, ...] = ()
    """Of the champion: how many were in each bin, up to the last that has any."""
    limit_us: float = 0.0
    """From which on a request was slow, for the last of them; 0 while there is no limit."""
    tripped: Which | None = None
    """Once set, further requests change nothing."""
    at: int | None = None
    """The place of the request that tripped it among those that were then taken in."""


@dataclass(frozen=True, slots=True)
class Rail:
    """How a challenger stands by one of its guardrails."""

    which: Which
    tally: Tally
    allowed: float
    """By how much its share may be above the champion's."""
    evidence: float
    """That it is beyond that, as an e-value."""


def update(
    spec: GuardSpec,
    state: GuardState,
    champion_us: ArrayLike,
    challenger_us: ArrayLike,
    champion_failed: ArrayLike,
    challenger_failed: ArrayLike,
) -> GuardState:
    """Take in further requests, in the order in which they are to count: how long each version took, and whether it failed.

    What is tested is that the challenger's share, of failures or of slow runs, is above the champion's by no more than is
    stated, each at half of alpha. The e-value is the wealth of betting against that (Waudby-Smith and Ramdas 2023,
    "Estimating means of bounded random variables by betting"), averaged over steady bets; it depends on three counts
    alone. The limit of a slow run is stated, or follows from the champion's times before that request; a run that failed
    is in the failures, and in no time.

    Raises:
        ValueError: the columns are not equally long.
    """
    ours, theirs = np.asarray(champion_us, np.float64), np.asarray(challenger_us, np.float64)
    we_failed, they_failed = np.asarray(champion_failed, bool), np.asarray(challenger_failed, bool)
    if len({each.size for each in (ours, theirs, we_failed, they_failed)}) != 1:
        raise ValueError(
            f"{ours.size} requests of the champion and {theirs.size} of the challenger are no pairs: pass one of each"
        )
    if state.tripped is not None or ours.size == 0:
        return state
    limits, times = _limits(spec, state.times, ours)
    timed = (limits > 0) & ~we_failed & ~they_failed
    failures = _counted(state.failures, they_failed.astype(np.int64) - we_failed, np.ones(ours.size, bool))
    latency = _counted(state.latency, (theirs > limits).astype(np.int64) - (ours > limits), timed)
    least = math.log(needed(spec))
    over = {"failures": log_wealth(failures, spec.failures), "latency": log_wealth(latency, spec.slow)}
    crossed = {name: np.flatnonzero(wealth >= least) for name, wealth in over.items()}
    first = min((int(found[0]) for found in crossed.values() if found.size), default=None)
    last = ours.size - 1 if first is None else first
    tripped: Which | None = None
    if first is not None:
        tripped = "failures" if over["failures"][first] >= least else "latency"
    return GuardState(
        failures=Tally(*map(int, failures[:, last])),
        latency=Tally(*map(int, latency[:, last])),
        times=times,
        limit_us=float(limits[last]),
        tripped=tripped,
        at=first,
    )


def rails(spec: GuardSpec, state: GuardState) -> tuple[Rail, Rail]:
    """Return how a challenger stands, by its failures and by its latency."""
    return (
        _rail("failures", state.failures, spec.failures),
        _rail("latency", state.latency, spec.slow),
    )


def needed(spec: GuardSpec) -> float:
    """Return the evidence at which a guardrail is tripped: each of the two has half of alpha."""
    return 2 / spec.alpha


def _rail(which: Which, tally: Tally, allowed: float) -> Rail:
    counts = np.array([tally.theirs, tally.ours, tally.alike])
    return Rail(which, tally, allowed, math.exp(float(log_wealth(counts, allowed))))


def log_wealth(counts: NDArray[np.int64], margin: float) -> Floats:
    """Return the log wealth of betting against "the excess is at most `margin`", of counts [3, ...] in a tally's order."""
    theirs, ours, alike = counts.astype(np.float64)
    bets = np.array(BETS).reshape(-1, *[1] * theirs.ndim) / (1 + margin)
    logs = (
        theirs * np.log1p(bets * (1 - margin))
        + ours * np.log1p(-bets * (1 + margin))
        + alike * np.log1p(-bets * margin)
    )
    averaged: Floats = np.logaddexp.reduce(logs, axis=0) - math.log(len(BETS))
    return averaged


def _counted(before: Tally, sign: NDArray[np.int64], which: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the tally after each request, [3, requests]; `which` of them count."""
    kinds = np.stack([sign > 0, sign < 0, sign == 0]) & which
    start = np.array([[before.theirs], [before.ours], [before.alike]])
    return np.asarray(start + np.cumsum(kinds, axis=1))


def _limits(spec: GuardSpec, before: tuple[int, ...], times_us: Floats) -> tuple[Floats, tuple[int, ...]]:
    """Return from which time on each request is slow, 0 where that is not known, and the champion's times with these."""
    if spec.limit_us is not None:
        return np.full(times_us.size, spec.limit_us), ()
    bins = np.minimum(np.log2(np.maximum(times_us, 1)) * _RESOLUTION, _BINS - 1).astype(np.int64)
    one = np.zeros((times_us.size + 1, _BINS), np.int64)
    one[0, : len(before)] = before
    one[np.arange(1, times_us.size + 1), bins] = 1
    counts = np.cumsum(one, axis=0)
    seen = counts[:-1].sum(axis=1)
    below = np.cumsum(counts[:-1], axis=1)
    at = (below >= np.ceil(_QUANTILE * seen)[:, None]).argmax(axis=1)
    limits = np.maximum(spec.slower * 2 ** ((at + 1) / _RESOLUTION), spec.least_us)
    last = counts[-1]
    return np.where(seen < _FEWEST, 0.0, limits), tuple(last[: int(last.nonzero()[0][-1]) + 1].tolist())
