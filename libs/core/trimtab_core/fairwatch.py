"""Whether a live version treats groups alike: the limits that its spec states, watched on labelled rows as they come.

An alarm needs evidence that two groups are further apart than the limit. It is gathered over all windows since the
version went live, and may be looked at after each: while the limit is kept, an alarm comes once in a stated number of
windows on average, or less often.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trimtab_core.fairness import SHARES, Fairness, Group, Part, bounded, fairness, parts, said_of
from trimtab_core.findings import Finding, Floats
from trimtab_core.timestamps import iso

FEWEST: Final = 10
"""Rows of a group in a window of which a rate is told."""
_BETWEEN: Final = "\x1f"
"""Names of classes and groups in what is remembered of them; no NUL, which PostgreSQL does not keep."""
_MOST_GROUPS: Final = 20
_BETS: Final = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Shares of the largest bet; the evidence is the average over them."""
_MOST_EVIDENCE: Final = 1e100
_SURE: Final = 1.959964
"""Standard errors of the interval that is told of a group."""


@dataclass(frozen=True, slots=True)
class FairState:
    """What is remembered of one limit between two windows."""

    version: int
    rows: Mapping[str, int] = field(default_factory=dict)
    """Of each group since the version went live; those that count for the rate."""
    evidence: Mapping[str, float] = field(default_factory=dict)
    """That the first of two groups is too far above the second, as `windows` defines it."""
    from_ms: int = 0
    """Where the first window began."""
    since_ms: int | None = None
    """Where the window began that raised the alarm that stands."""
    well: int = 0
    """The newest windows in a row in which the limit was kept, while an alarm stands."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What a window says of one limit."""

    state: FairState
    groups: tuple[Group, ...]
    """The rate of each group that has `FEWEST` rows, within 95 % bounds; of classes, of the one that is furthest from fair."""
    finding: Finding
    """Of this window alone."""
    evidence: float
    needed: float
    sentence: str
    """What an alarm says, if one begins or stands."""


def look(
    asked: Fairness, before: FairState | None, label: Floats, prediction: Floats, group: NDArray[np.str_],
    classes: Sequence[str] = (), *,
    version: int, from_ms: int, to_ms: int, cap: float, windows: float, patience: int,
) -> Looked:  # fmt: skip
    """Take a window's labelled rows into what is known of a version's fairness.

    `windows` is how many there are on average before a false alarm, at least. The evidence is a Shiryaev-Roberts
    e-detector (Shin, Ramdas and Rinaldo 2023): (evidence before + 1) times the e-value of the window, which is the wealth of
    betting on the difference of two groups (Waudby-Smith and Ramdas 2023), averaged over the pairs of groups. Losses count
    at most `cap`. A group of which fewer than `asked.min_rows` rows have come is left out until they have. An alarm is over
    when the limit was kept in `patience` windows in a row, or another version answers.
    """
    state = (
        before if before is not None and before.version == version else FairState(version, from_ms=from_ms)
    )
    rows, evidence = dict(state.rows), dict(state.evidence)
    found = list(parts(replace(asked, min_rows=1), label, prediction, group, classes))
    for part in found:
        _take(asked, part, rows, evidence, cap)
    total = sum(evidence.values()) / len(evidence) if evidence else 0.0
    groups, finding = _large_of(asked, found), _finding(asked, label, prediction, group, classes)
    since_ms, well = state.since_ms, 0
    if since_ms is None and total >= windows:
        since_ms = from_ms
    elif since_ms is not None and finding.value is not None:
        well = state.well + 1 if _kept(asked, finding) else 0
    if well >= patience:
        since_ms, well, evidence = None, 0, {}
    sentence = (
        f"The {said_of(asked.of)} of version {version} is further apart between {asked.group} than its limit allows, by all "
        f"labelled rows of {iso(state.from_ms)[:16]} to {iso(to_ms)[:16]} ({total:.3g} to 1; {windows:.0f} to 1 are needed). "
        f"In the newest window: {finding.sentence}"
    )
    after = FairState(version, rows, evidence, state.from_ms, since_ms, well)
    return Looked(after, groups, finding, total, windows, sentence)


def alone(
    asked: Fairness, label: Floats, prediction: Floats, group: NDArray[np.str_], classes: Sequence[str] = ()
) -> tuple[tuple[Group, ...], Finding]:
    """Return the groups and the finding that `Looked` has of a window, which nothing else than its own rows make; no limit is needed."""
    found = parts(replace(asked, min_rows=1), label, prediction, group, classes)
    return _large_of(asked, found), _finding(asked, label, prediction, group, classes)


def _finding(
    asked: Fairness, label: Floats, prediction: Floats, group: NDArray[np.str_], classes: Sequence[str]
) -> Finding:
    return fairness(replace(asked, min_rows=FEWEST), label, prediction, group, classes)


def _large_of(asked: Fairness, found: Iterable[Part]) -> tuple[Group, ...]:
    """Return the groups of the part that is furthest apart."""
    worst = max(found, key=_spread, default=None)
    return tuple(bounded(*each, asked.of, _SURE) for each in _large(worst)) if worst else ()


def _take(asked: Fairness, part: Part, rows: dict[str, int], evidence: dict[str, float], cap: float) -> None:
    """Add a window's rows to what is known of each group and of each pair of groups."""
    of = f"{part.of_class}{_BETWEEN}" if part.of_class is not None else ""
    mine = {str(name): part.values[part.number == at] for at, name in enumerate(part.names)}
    for name, values in mine.items():
        if f"{of}{name}" in rows or sum(each.startswith(of) for each in rows) < _MOST_GROUPS:
            rows[f"{of}{name}"] = rows.get(f"{of}{name}", 0) + values.size
    known = [name for name in mine if rows.get(f"{of}{name}", 0) >= asked.min_rows]
    for one, other in permutations(known, 2):
        place = f"{of}{one}{_BETWEEN}{other}"
        wealth = _wealth(asked, _scaled(asked, mine[one], cap), _scaled(asked, mine[other], cap), cap)
        evidence[place] = min((evidence.get(place, 0.0) + 1) * wealth, _MOST_EVIDENCE)


def _scaled(asked: Fairness, values: Floats, cap: float) -> Floats:
    """Return values in [0, 1]."""
    if asked.of in SHARES:
        return values
    if asked.of == "mean_error":
        return np.clip(values / (2 * cap) + 0.5, 0, 1)
    return np.clip(values / cap, 0, 1)


def _wealth(asked: Fairness, one: Floats, other: Floats, cap: float) -> float:
    """Return the e-value against "one group is within the limit above the other"."""
    size = min(one.size, other.size)
    one, other = _means(one, size), _means(other, size)
    if asked.max_difference is not None:
        span = 1.0 if asked.of in SHARES else 2 * cap if asked.of == "mean_error" else cap
        limit = asked.max_difference / span
        gain, boldest = one - other - limit, 1 / (1 + limit)
    else:
        gain, boldest = (asked.min_ratio or 0.0) * one - other, 1.0
    logs = [float(np.log1p(share * boldest * gain).sum()) for share in _BETS]
    most = max(logs)
    return math.exp(min(most, 200.0)) * sum(math.exp(log - most) for log in logs) / len(logs)


def _means(values: Floats, size: int) -> Floats:
    """Return `size` means of as many runs of values, so that of two groups each row of the smaller one has a partner."""
    starts = np.arange(size) * values.size // size
    return np.add.reduceat(values, starts) / np.diff(np.append(starts, values.size))


def _kept(asked: Fairness, finding: Finding) -> bool:
    assert finding.value is not None
    return (
        finding.value <= finding.limit if asked.max_difference is not None else finding.value >= finding.limit
    )


def _large(part: Part) -> list[tuple[str, Floats]]:
    found = [(str(name), part.values[part.number == at]) for at, name in enumerate(part.names)]
    return [(name, values) for name, values in found if values.size >= FEWEST]


def _spread(part: Part) -> float:
    rates = [float(values.mean()) for _, values in _large(part)]
    return max(rates) - min(rates) if rates else 0.0
