"""How much comes of a source, how late and how good, and whether anything still does: an hour beside the same hour before.

An hour is held against the same hour of earlier weeks, or of earlier days while there are no weeks, by medians, so that one
bad day makes no other look bad. How far hours usually lie from that is learnt from the source's own last weeks. The same
hours give the same faults.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, get_args

import numpy as np

from trimtab_core.drift import Null
from trimtab_core.durations import Rate, parse_duration
from trimtab_core.findings import Floats
from trimtab_core.timestamps import iso

Kind = Literal["volume", "duplicates", "refused", "delay", "silence"]

HOUR_MS: Final = 3_600_000
KEPT: Final = 6 * 7 * 24
"""Hours that are looked back on."""
FALSE_ALARMS: Final = Rate(1, parse_duration("90d"))
"""Of one source, of all kinds together."""
TOLERANCE: Final = 0.25
"""Least part of what is expected by which an hour of which anything is said is off."""
LEAST_DELAY_MS: Final = 1_000
"""Least growth of a delay of which anything is said."""
PATIENCE: Final = 2
"""Hours in a row in which all was usual, after which a fault is over."""

_WEEK, _DAY = 7 * 24, 24
_WEEKS, _DAYS = 4, 7
_FEWEST: Final = 48
"""Hours of which is known how far they lay from what was expected, before anything is told."""
_LEAST_TAIL: Final = 0.4
"""Mean excess of a standard normal's size above its 0.9 quantile, which is what chance alone gives."""


@dataclass(frozen=True, slots=True)
class Hour:
    """What came of a source in an hour of event time."""

    at_ms: int
    events: int
    repeats: int = 0
    """That were dropped, for a value of theirs may come once."""
    refused: int = 0
    delay_ms: float | None = None
    """How long after their event time they arrived, in the mean, where that was said."""


@dataclass(frozen=True, slots=True)
class FlowFault:
    """What is unusual about what comes."""

    kind: Kind
    since_ms: int
    sentence: str
    well: int = 0


@dataclass(frozen=True, slots=True)
class FlowState:
    """What is remembered of a source."""

    judged_ms: int = 0
    """Hours that began before it are judged."""
    faults: Mapping[Kind, FlowFault] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Flowed:
    """One figure of one hour; `expected` is what is usual, None where that is not known or not asked for."""

    kind: Kind
    at_ms: int
    value: float
    expected: float | None = None
    off: bool = False
    """Whether it is off by more than is tolerated, usual or not."""
    over: bool = False


def judge(
    source: str, hours: Sequence[Hour], state: FlowState, until_ms: int
) -> tuple[FlowState, list[Flowed], list[FlowFault]]:
    """Judge the hours that are over at `until_ms` and not judged yet; return what is known then, their figures and brief faults.

    Brief is what began and was over again among these hours. `hours` are those of which something came, in order, from `KEPT`
    hours before those that are to be judged. When a source is looked at first, its newest hour alone is judged; of those before
    it the figures are told. Of repeats, refused rows and delay only more is unusual.
    """
    if not hours:
        return state, [], []
    first, last = hours[0].at_ms, until_ms // HOUR_MS * HOUR_MS
    size = max((last - first) // HOUR_MS, 0)
    events, repeats, refused, delay = np.zeros(size), np.zeros(size), np.zeros(size), np.full(size, np.nan)
    for hour in hours:
        at = (hour.at_ms - first) // HOUR_MS
        if at < size:
            events[at], repeats[at], refused[at] = hour.events, hour.repeats, hour.refused
            delay[at] = np.nan if hour.delay_ms is None else max(hour.delay_ms, 0.0)
    told = max((state.judged_ms - first) // HOUR_MS, 0) if state.judged_ms else 0
    begin = told if state.judged_ms else max(size - 1, 0)
    found = [
        *_judged("volume", events, told, begin, first),
        *_judged("duplicates", repeats, told, begin, first),
        *_judged("refused", refused, told, begin, first),
        *_judged("delay", delay, told, begin, first),
    ]
    faults, brief = dict(state.faults), list[FlowFault]()
    for each in sorted(found, key=lambda it: it.at_ms):
        over = _step(source, faults, each)
        if over is not None and (
            each.kind not in state.faults or state.faults[each.kind].since_ms != over.since_ms
        ):
            brief.append(over)
    return replace(state, judged_ms=max(last, state.judged_ms), faults=faults), found, brief


def silence(source: str, hours: Sequence[Hour], state: FlowState, newest_ms: int, now_ms: int) -> FlowState:
    """Return what is known of a source of which nothing came between its newest event and `now_ms`.

    It is silent once so many events were to be expected since that none would come by chance as often as is stated:
    events count for fewer where hours usually spread further than chance alone has it.
    """
    faults = dict[Kind, FlowFault]({kind: it for kind, it in state.faults.items() if kind != "silence"})
    waited = _expected_between(hours, newest_ms, now_ms)
    if waited is not None and waited >= -math.log(_a_look()):
        since = (
            f"Nothing has come of source {source!r} since {iso(newest_ms)[:16]}, and it is {iso(now_ms)[:16]}"
        )
        fault = FlowFault("silence", newest_ms, f"{since}: look at what sends it.")
        faults["silence"] = state.faults.get("silence", fault)
    return replace(state, faults=faults)


def _a_look() -> float:
    """Return the chance of a false alarm that one figure of one hour has."""
    return FALSE_ALARMS.count / (FALSE_ALARMS.per_ms / HOUR_MS) / len(get_args(Kind))


def _judged(kind: Kind, values: Floats, told: int, begin: int, first_ms: int) -> Iterator[Flowed]:
    """Yield the figures of the hours from `told` on of which there are some, judged from `begin` on where enough is known."""
    if told >= values.size:
        return
    expected = _expected(values)
    off = _delayed(values, expected) if kind == "delay" else _off(values, expected)
    least = LEAST_DELAY_MS if kind == "delay" else 1
    for at in range(told, values.size):
        before = _known(off[max(at - KEPT, 0) : at])
        if np.isnan(values[at]):
            continue
        if at < begin or before.size < _FEWEST or not np.isfinite(expected[at]):
            yield Flowed(kind, first_ms + at * HOUR_MS, float(values[at]))
            continue
        p = float(Null.of(np.abs(before), _LEAST_TAIL).p(abs(off[at])))
        moved = abs(values[at] - expected[at]) >= max(TOLERANCE * expected[at], least)
        wrong_way = kind == "volume" or values[at] > expected[at]
        off_by_much = bool(moved) and wrong_way
        over = p <= _a_look() and off_by_much
        yield Flowed(kind, first_ms + at * HOUR_MS, float(values[at]), float(expected[at]), off_by_much, over)


def _expected(values: Floats) -> Floats:
    """Return for each hour the median of the same hour before it: of weeks if there are two, else of three days; else NaN."""
    found = np.full(values.size, np.nan)
    for at in range(values.size):
        weeks, days = values[at - _WEEK :: -_WEEK][:_WEEKS], values[at - _DAY :: -_DAY][:_DAYS]
        if at >= 2 * _WEEK:
            found[at] = _median(weeks)
        elif at >= 3 * _DAY:
            found[at] = _median(days)
    return found


def _median(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else math.nan


def _off(counts: Floats, expected: Floats) -> Floats:
    """Return how far counts are from what is expected, in standard deviations if they were Poisson's (Anscombe 1948)."""
    return np.asarray(2 * (np.sqrt(counts + 0.375) - np.sqrt(expected + 0.375)))


def _delayed(delay_ms: Floats, expected_ms: Floats) -> Floats:
    """Return how far delays are from what is expected, in quarters of it; those well below a second are alike."""
    return np.asarray(4 * np.log((delay_ms + LEAST_DELAY_MS) / (expected_ms + LEAST_DELAY_MS)))


def _known(off: Floats) -> Floats:
    """Return what is known of how far hours lie off: of those held against weeks, once there are enough of them."""
    weekly = off[2 * _WEEK :]
    known = weekly[np.isfinite(weekly)]
    return known if known.size >= _FEWEST else off[np.isfinite(off)]


def _expected_between(hours: Sequence[Hour], from_ms: int, to_ms: int) -> float | None:
    """Return how many events were to be expected, as if each came by itself; None if too little is known."""
    if not hours or to_ms <= from_ms:
        return None
    first = hours[0].at_ms
    size = (from_ms - first) // HOUR_MS  # whole hours before the newest event
    gap = -(-(to_ms - first) // HOUR_MS) - size
    counts = np.zeros(size)
    for hour in hours:
        if (at := (hour.at_ms - first) // HOUR_MS) < size:
            counts[at] = hour.events
    expected = _expected(counts)
    off = _off(counts, expected)
    known = _known(off)
    if known.size < _FEWEST:
        return None
    clumps = max(float(np.square(known).mean()), 1.0)
    period = _WEEK if size >= 2 * _WEEK else _DAY
    usual = [np.median(counts[size - period + at % period :: -period][:_WEEKS]) for at in range(int(gap))]
    starts = first + (size + np.arange(gap)) * HOUR_MS
    share = (np.minimum(starts + HOUR_MS, to_ms) - np.maximum(starts, from_ms)) / HOUR_MS
    return float((np.array(usual) * share).sum()) / clumps


def _step(source: str, faults: dict[Kind, FlowFault], figure: Flowed) -> FlowFault | None:
    """Take one figure into what stands of its kind, and return what is over with it."""
    if figure.expected is None:
        return None
    held = faults.get(figure.kind)
    if figure.over and held is None:
        faults[figure.kind] = FlowFault(figure.kind, figure.at_ms, _sentence(source, figure))
    elif held is not None and figure.over:
        faults[figure.kind] = replace(held, well=0)
    elif held is not None and not figure.off:  # hours of an outage make each other usual, and end it not
        faults[figure.kind] = replace(held, well=held.well + 1)
        if faults[figure.kind].well >= PATIENCE:
            return faults.pop(figure.kind)
    return None


def _sentence(source: str, figure: Flowed) -> str:
    assert figure.expected is not None  # or else nothing would be over it
    hour, usual = f"in the hour of {iso(figure.at_ms)[:16]}, where about", "are usual: look at what sends it."
    if figure.kind == "delay":
        late, before = figure.value / 1000, figure.expected / 1000
        return f"Events of source {source!r} arrived {late:,.0f} s after their time {hour} {before:,.0f} s {usual}"
    if figure.kind == "refused":
        dead = f"trimtab deadletter list --source {source}"
        return f"{figure.value:.0f} rows of source {source!r} were refused {hour} {figure.expected:.0f} are usual: `{dead}` shows them."
    what = "events came" if figure.kind == "volume" else "repeated events came, and were dropped,"
    return f"{figure.value:.0f} {what} of source {source!r} {hour} {figure.expected:.0f} {usual}"
