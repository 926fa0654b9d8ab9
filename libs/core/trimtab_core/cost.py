"""What a graph costs to serve: its size, and how long one row takes it on one thread.

Machines are noisy, so a time is a quantile within bounds, and a limit is missed only
where the bounds say so. A time beside the champion's, the two taken in turns in one
process, says more than a time by itself: what disturbs the one disturbs the other.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from trimtab_core.findings import MOST, Finding, Floats

QUANTILES: Final = {"p50": 0.5, "p99": 0.99}
CONFIDENCE: Final = 0.95
_ROUNDS: Final = 400
_BLOCKS: Final = 20


@dataclass(frozen=True, slots=True)
class Bounded:
    """An estimate, and its bounds at 95 % confidence, one-sidedly each."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Latency:
    """A quantile of the times of single rows, in milliseconds, and how many times the champion's it is, if there is one."""

    ms: Bounded
    champion_ms: float | None = None
    ratio: Bounded | None = None


def latency(quantile: str, candidate_ms: Floats, champion_ms: Floats | None, *, seed: int = 0) -> Latency:
    """Return a quantile (`p50` or `p99`) of times that were taken in turns.

    Bounds are by the bootstrap over blocks of neighbouring calls, for a disturbance slows several.
    """
    share, rng = QUANTILES[quantile], np.random.default_rng(seed)
    own = _blocks(candidate_ms)
    drawn = rng.integers(0, len(own), (_ROUNDS, len(own)))
    ms, several = _quantile(candidate_ms, share), np.quantile(own[drawn].reshape(_ROUNDS, -1), share, axis=1)
    if champion_ms is None:
        return Latency(_bounded(ms, several))
    beside = _quantile(champion_ms, share)
    theirs = np.quantile(_blocks(champion_ms)[drawn].reshape(_ROUNDS, -1), share, axis=1)
    return Latency(_bounded(ms, several), beside, _bounded(ms / beside, several / theirs))


def _blocks(times: Floats) -> Floats:
    """Return times [blocks, calls]; a few of the last are left out where they do not divide."""
    count = min(_BLOCKS, len(times))
    return times[: len(times) // count * count].reshape(count, -1)


def _quantile(times: Floats, share: float) -> float:
    return float(np.quantile(times, share))


def _bounded(value: float, drawn: Floats) -> Bounded:
    low, high = np.quantile(drawn, [1 - CONFIDENCE, CONFIDENCE])
    return Bounded(value, min(float(low), value), max(float(high), value))


def held_to_time(quantile: str, found: Latency, at_most_ms: float) -> Finding:
    """Hold a latency to a limit in milliseconds."""
    passed = found.ms.low <= at_most_ms
    said = (
        f"The {quantile} latency of one row is {found.ms.value:.3g} ms (at least {found.ms.low:.3g} with {CONFIDENCE:.0%} "
        f"confidence), which {_met(passed)} the limit of at most {at_most_ms:g} ms."
    )
    return Finding(passed, found.ms.value, at_most_ms, found.ms.low, found.ms.high, said)


def held_to_champion(quantile: str, found: Latency, max_ratio: float) -> Finding:
    """Hold a latency to so many times the champion's; without a champion, it passes."""
    if found.ratio is None or found.champion_ms is None:
        said = f"There is no champion to compare the {quantile} latency with, so the gate passes."
        return Finding(True, None, max_ratio, None, None, said)
    ratio = found.ratio
    passed = ratio.low <= max_ratio
    said = (
        f"The {quantile} latency of one row is {found.ms.value:.3g} ms, {ratio.value:.4g} times the champion's "
        f"{found.champion_ms:.3g} ms (at least {ratio.low:.4g} times with {CONFIDENCE:.0%} confidence), which {_met(passed)} "
        f"the limit of at most {max_ratio:g} times."
    )
    return Finding(
        passed, min(ratio.value, MOST), max_ratio, min(ratio.low, MOST), min(ratio.high, MOST), said
    )


def held_to_size(size: int, at_most: int) -> Finding:
    """Hold the bytes of a graph to a limit."""
    passed = size <= at_most
    said = f"The exported graph has {shown_size(size)}, which {_met(passed)} the limit of at most {shown_size(at_most)}."
    return Finding(passed, float(size), float(at_most), None, None, said)


def shown_size(size: int) -> str:
    """Return a number of bytes as people read it."""
    for unit, bytes_of in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_of:
            return f"{size / bytes_of:.4g} {unit}"
    return f"{size} B"


def _met(passed: bool) -> str:
    return "meets" if passed else "misses"
