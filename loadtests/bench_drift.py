"""What is promised of drift, held against streams of which it is known whether they change.

Six parts: false alarms on streams without change beside Evidently's preset; delays after a known change beside measures
and detectors of others at an equal rate of false alarms; rollouts of equals, their guardrails and a worse version under continuous looking;
a backtest's speed, and that it decides as monitoring does; and what a monitored prediction costs, of one model and of a fleet.
Without arguments all parts are run, with names only those. BENCH_SHARE (1 by default, about eighteen minutes of two cores)
makes all of them shorter for a quick look. The last lines are a table, and the exit code says whether all claims hold.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import drift_apart
import drift_fleet
import drift_peers
import numpy as np
from drift_fleet import Case
from drift_streams import (
    CONCEPTS,
    LOSSES,
    STREAMS,
    Columns,
    Losing,
    absolute_errors,
    correlated,
    gaussian,
    shifted,
    times,
)
from scipy.stats import chi2
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits
from trimtab_core.baseline import Settings
from trimtab_core.calibration import (
    TOLERANCE,
    Rule,
    WindowVerdict,
    calibrate,
    calibrate_mean,
    judge_level,
    judge_scores,
    judge_window,
)
from trimtab_core.concept import ChangeState, ChangeThreshold, calibrate_change, watch_losses
from trimtab_core.drift import fit_reference
from trimtab_core.durations import Rate
from trimtab_core.episodes import EpisodeState, step
from trimtab_core.guardrails import GuardSpec, GuardState
from trimtab_core.guardrails import update as guarded
from trimtab_core.judge import JudgeSpec, JudgeState, update
from trimtab_core.seasons import Season
from trimtab_core.specs import GuardrailsSpec

SHARE = float(os.environ.get("BENCH_SHARE", "1"))  # noqa: TID251
PEERS = Path(__file__).parent.parent / ".venv-peers/bin/python"
RIVER = Path(__file__).parent / "river_detectors.py"
BACKTEST = Path(__file__).parent / "bench_backtest.py"
ALIKE = Path(__file__).parent.parent / "tests/e2e/test_a_backtest_decides_as_monitoring_does.py"
LIVED_ROWS, LIVED = 90_000, ("never", "on_drift")
"""What of a backtest's own bench is lived: a quarter of its rows, by the strategies that fit least. Of much fewer the steps cost more than the rows."""

RATES = (1 / 20, 1 / 100)
EXPECTED = 30
"""Alarms that the stated rate makes expected in a family."""
AT_MOST = 1.5
"""Times the stated rate that the lower bound of the observed one may be."""
DAY_MS = 86_400_000
SEASONAL, WEEK_MS = "weekly, held against its season", 7 * DAY_MS
SHAPES: dict[str, tuple[tuple[int, int], ...]] = {
    "texts": ((100, 20), (500, 10), (1_000, 5)),
    SEASONAL: ((100, 10), (500, 10), (1_000, 5)),
}
CLASSIFIED = "mixed, by a classifier too"
SHAPES[CLASSIFIED] = SHAPES["of many categories"] = ((100, 10), (500, 10), (5_000, 5))
SHAPES |= {f"predictions, {of}": ((100, 1), (500, 1), (5_000, 1)) for of in ("heavy-tailed", "of classes")}
USUAL = ((100, 100), (500, 20), (5_000, 5))
"""(rows of a window, features), of which each has an equal part of a family's windows, or as many as MOST_VALUES lets it have."""
SHAPES["gaussian"] = (*USUAL, (100, 5), (5_000, 100))
MOST_VALUES = 25_000_000
BY_TIME = "gaussian, windows by time"
WEEKDAY, WEEKEND = (150, 400), (50, 90)
"""Between which the rows of a day are, of windows by time."""
QUICK = ((100, 10), (500, 5))
"""What stands for them all in a quick look, as a large calibration takes seconds however few windows follow."""
REFERENCES = 2
NO_TOLERANCE = dict.fromkeys(TOLERANCE, 0.0)
RULE = Rule()

CHANGES: Mapping[str, Callable[[Columns], Columns]] = {
    **{f"shift of {by:g} sigma": partial(shifted, by) for by in (0.25, 0.5, 1.0)},
    "correlation of 0.5 between two": partial(correlated, 0.5),
}
SHIFTED, FEATURES, SHIFT_RATE, PATIENCE = 100, 10, 1 / 20, 20
"""Windows so small that the measures differ: at 500 rows all of them find a quarter of a sigma at once."""
WINDOW = 500
ROWS_BETWEEN, QUIET_ROWS, BEFORE, AFTER, HELD_OUT = 5_000, 150_000, 1_000, 4_000, 5_000
STRICTNESS = (4.0, 2.8, 2.0, 1.4, 1.0, 0.7, 0.5, 0.35, 0.25, 0.15)
"""Times the rows between false alarms at which Trimtab is tried where it is set as the peers are."""
DRAWS, RUNS = 4, 60
"""Held-out draws, among which the quiet rows and the runs are parted: what a threshold is worth hangs on the one it is found from."""
ALPHA, LOOKED = 0.05, 6_000
NEARLY_FREE = 1.5
"""Times that a prediction may cost for being one of many models'."""


class Table:
    """The lines of the table, and whether all that is claimed holds."""

    def __init__(self) -> None:
        """Begin without a line."""
        self.holds = True
        self._lines: list[tuple[str, str, str]] = []

    def claim(self, what: str, value: str, holds: bool) -> None:
        """Add a line that must hold."""
        self.holds &= holds
        self.tell(what, value, "holds" if holds else "DOES NOT HOLD")

    def tell(self, what: str, value: str, note: str = "") -> None:
        """Add a line, and print it at once."""
        self._lines.append((what, value, note))
        print(f"{what}: {value} {note}", flush=True)

    def show(self) -> None:
        """Print all lines as a table."""
        widths = [max(len(line[at]) for line in self._lines) for at in range(2)]
        print()
        for what, value, note in self._lines:
            print(f"{what:{widths[0]}}  {value:{widths[1]}}  {note}".rstrip())


def count_alarms(verdicts: Sequence[WindowVerdict], rule: Rule = RULE) -> list[int]:
    """Return the numbers of the windows with which an episode opens."""
    state, found = EpisodeState(), list[int]()
    for at, verdict in enumerate(verdicts):
        state, alarm = step(state, verdict, float(at), rule=rule, model="m", version="1", kind="data")
        if alarm is not None:
            found.append(at)
    return found


def lower_bound(alarms: int) -> float:
    """Return the least mean of a Poisson count that would show so many alarms or more in one case of 20."""
    return float(chi2.ppf(0.05, 2 * alarms)) / 2 if alarms else 0.0


def quiet_stream(family: str, window: int, features: int, windows: int, seed: int) -> dict[str, Any]:
    """Play windows of one reference without a change, and return how many alarms were raised."""
    rng = np.random.default_rng(seed)
    size = max(20 * window, 10_000)
    columns, kinds = STREAMS[family](rng, size + windows * window, features)
    season = None
    if family == SEASONAL:
        columns["event_time_ms"] = times(size + windows * window)
        season = Season.of(WEEK_MS, columns["event_time_ms"][:size])
    reference = {name: column[:size] for name, column in columns.items()}
    fitted = fit_reference(reference, kinds, season=season)
    thresholds = {
        rate: calibrate(
            reference,
            kinds,
            window=window,
            false_alarms=rate,
            seed=seed,
            tolerance=NO_TOLERANCE,
            season=season,
            classifier=family == CLASSIFIED,
        )
        for rate in RATES
    }
    live = [
        {name: column[first : first + window] for name, column in columns.items()}
        for first in range(size, size + windows * window, window)
    ]
    with threadpool_limits(1):  # as monitoring does
        began = time.process_time()
        verdicts = {RATES[0]: [judge_window(thresholds[RATES[0]], fitted, each) for each in live]}
        spent = time.process_time() - began
    verdicts[RATES[1]] = [
        judge_scores(thresholds[RATES[1]], kinds, each.scores) for each in verdicts[RATES[0]]
    ]
    shipped = [
        judge_scores(replace(thresholds[RATES[0]], tolerance=TOLERANCE), kinds, each.scores)
        for each in verdicts[RATES[0]]
    ]
    few = max(1, round(2 * SHARE))
    evidently = [drift_peers.evidently(reference, each, kinds) for each in live[:few]]
    return {
        "windows": windows,
        "alarms": {rate: len(count_alarms(found)) for rate, found in verdicts.items()},
        "shipped": len(count_alarms(shipped)),
        "flagged": [sum(each) / len(each) for each in evidently],
        "us": spent / (windows * window) * 1e6,
        "what": (family, window, features),
    }


def quiet_days(windows: int, seed: int) -> dict[str, Any]:
    """Play windows of a day each, of weeks whose days are uneven, by the levels that monitoring has for a window of so many rows."""
    rng = np.random.default_rng(seed)
    days = [int(rng.integers(*(WEEKEND if at % 7 >= 5 else WEEKDAY), endpoint=True)) for at in range(windows)]
    by_day = Settings(
        WEEKEND[0], Rate(1, DAY_MS), RULE, metric="mae", cap=1.0, categorical=(), every_ms=DAY_MS
    )
    reference, kinds = gaussian(rng, 10_000, 5)
    fitted = fit_reference(reference, kinds)
    levels = {
        size: [
            calibrate(reference, kinds, window=size, false_alarms=rate, seed=seed, tolerance=NO_TOLERANCE)
            for rate in RATES
        ]
        for size in {by_day.of_rows(rows).window for rows in days}
    }
    verdicts: dict[float, list[WindowVerdict]] = {rate: [] for rate in RATES}
    for rows in days:
        live, _ = gaussian(rng, rows, 5)
        for rate, level in zip(RATES, levels[by_day.of_rows(rows).window], strict=True):
            verdicts[rate].append(judge_window(level, fitted, live))
    return {"windows": windows, "alarms": {rate: len(count_alarms(of)) for rate, of in verdicts.items()}}


def shapes_of(family: str, quick: bool) -> Sequence[tuple[int, int]]:
    """Return the rows of a window and the features that a family is played with; a quick look has no more features than it usually has."""
    usual = SHAPES.get(family, USUAL)
    return [(rows, min(features, usual[0][1])) for rows, features in QUICK] if quick else usual


def quiet_losses(family: str, window: int, windows: int, seed: int) -> dict[str, Any]:
    """Play windows of a model's losses without a change, and return how many alarms of performance were raised."""
    rng = np.random.default_rng(seed)
    _, draw = LOSSES[family]
    held, live = draw(rng, max(20 * window, 10_000)), draw(rng, windows * window).reshape(-1, window)
    alarms = {}
    for rate in RATES:
        level = calibrate_mean(held, window=window, false_alarms=rate, seed=seed, tolerance=0.0)
        alarms[rate] = len(count_alarms([judge_level(level, each) for each in live]))
    return {"windows": windows, "alarms": alarms}


def false_alarms(table: Table, directory: Path) -> None:
    """Play streams without a change, and claim that alarms are about as rare as stated."""
    quick = SHARE < 0.5
    references = 1 if quick else REFERENCES
    every = math.ceil(EXPECTED / min(RATES) / references * SHARE)
    windows = math.ceil(every / len(QUICK if quick else USUAL))
    with ProcessPoolExecutor(2) as pool:
        asked = {
            family: [
                pool.submit(quiet_stream, family, *shape, min(windows, MOST_VALUES // math.prod(shape)), seed)
                for shape in shapes_of(family, quick)
                for seed in range(references)
            ]
            for family in STREAMS
        }
        others = {
            family: [
                pool.submit(quiet_losses, family, rows, windows, seed)
                for rows, _ in (QUICK if quick else USUAL)
                for seed in range(references)
            ]
            for family in LOSSES
        }
        others[BY_TIME] = [pool.submit(quiet_days, every, seed) for seed in range(references)]
        for family, parts in asked.items():
            tell_family(table, family, [each.result() for each in parts])
        for family, told in others.items():
            claim_rates(table, family, [each.result() for each in told])


def claim_rates(table: Table, family: str, parts: Sequence[Mapping[str, Any]]) -> None:
    played = sum(each["windows"] for each in parts)
    for rate in RATES:
        raised = sum(each["alarms"][rate] for each in parts)
        table.claim(
            f"false alarms, {family}, 1 in {1 / rate:.0f} stated",
            f"1 in {played / raised:.0f}" if raised else f"none in {played}",
            lower_bound(raised) <= AT_MOST * rate * played,
        )


def tell_family(table: Table, family: str, parts: Sequence[Mapping[str, Any]]) -> None:
    claim_rates(table, family, parts)
    shapes: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for each in parts:
        shapes.setdefault(each["what"][1:], []).append(each)
    by_shape = ", ".join(
        f"{rows} x {features}: {' and '.join(str(sum(each['alarms'][rate] for each in of)) for rate in RATES)} "
        f"of {sum(each['windows'] for each in of):,}"
        for (rows, features), of in shapes.items()
    )
    flagged = [share for each in parts for share in each["flagged"]]
    table.tell("  alarms, windows of rows x features", by_shape)
    table.tell("  with the tolerance as shipped, 1 in 20 stated", str(sum(each["shipped"] for each in parts)))
    table.tell(
        "  Evidently's preset",
        f"some feature in {np.mean([share > 0 for share in flagged]):.0%} of {len(flagged)} windows, "
        f"dataset drift in {np.mean([share >= 0.5 for share in flagged]):.0%}",
    )
    costs = ", ".join(f"{1e6 / np.median([each['us'] for each in of]):,.0f}" for of in shapes.values())
    table.tell("  predictions monitored a second of one core", costs)


def level_at(scores: Sequence[float], rule: Rule, rate: float) -> float:
    """Return the least level from which on upwards `scores` without a change raise at most `rate` alarms a window.

    It is looked for from above: below it there is one where a single alarm is never over.
    """
    wanted, found = int(rate * len(scores)), max(scores)
    for level in np.unique(scores)[::-1]:
        over = [WindowVerdict({}, {}, 0.0, each > level, each <= level, ()) for each in scores]
        if len(count_alarms(over, rule)) > wanted:
            break
        found = float(level)
    return found


def shifts(table: Table, directory: Path) -> None:
    """Compare measures on ten features of which one has moved, or two go together, at an equal rate of false alarms of the same rule."""
    rng = np.random.default_rng(0)
    reference, kinds = gaussian(rng, 50 * SHIFTED, FEATURES)
    fitted = fit_reference(reference, kinds)
    measures: dict[str, Callable[[Columns], float]] = {
        "Evidently's Wasserstein": drift_peers.Wasserstein(reference),
        "Evidently's PSI": drift_peers.Psi(reference),
        "KS, least p of the features": drift_peers.Ks(reference),
        "MMD, Gaussian kernel": drift_peers.Mmd(reference),
    }
    quiet = [gaussian(rng, SHIFTED, FEATURES)[0] for _ in range(max(100, round(600 * SHARE)))]
    runs = max(10, round(60 * SHARE))
    moved = {
        what: [[change(gaussian(rng, SHIFTED, FEATURES)[0]) for _ in range(PATIENCE)] for _ in range(runs)]
        for what, change in CHANGES.items()
    }
    for rule in (RULE, Rule(1, 1)):
        delays: dict[str, dict[str, list[float]]] = {}
        thresholds = calibrate(
            reference, kinds, window=SHIFTED, false_alarms=SHIFT_RATE, rule=rule, tolerance=NO_TOLERANCE
        )
        of_quiet = [judge_window(thresholds, fitted, each) for each in quiet]
        raised = len(count_alarms(of_quiet, rule))
        level = -level_at([-each.min_p for each in of_quiet], rule, SHIFT_RATE)
        settings = {
            "Trimtab": replace(thresholds, level=float(np.nextafter(level, 0))),
            f"Trimtab by its own level ({raised} false)": thresholds,
            "Trimtab as shipped": replace(thresholds, tolerance=TOLERANCE),
        }
        for name, held in settings.items():
            delays[name] = {
                what: [delay([judge_window(held, fitted, each) for each in run], rule) for run in runs_of]
                for what, runs_of in moved.items()
            }
        for name, measure in measures.items():
            level = level_at([measure(each) for each in quiet], rule, SHIFT_RATE)
            delays[name] = {
                what: [
                    delay(
                        [
                            WindowVerdict({}, {}, 0.0, (at := measure(each)) > level, at <= level, ())
                            for each in run
                        ],
                        rule,
                    )
                    for run in runs_of
                ]
                for what, runs_of in moved.items()
            }
        said = f"{rule.k} of {rule.n}"
        table.tell(
            f"Trimtab's false alarms, rule {said}", f"{raised} of {len(quiet)} windows, 1 in 20 stated"
        )
        for what in CHANGES:
            compare(table, f"{what}, rule {said}, windows", {name: of[what] for name, of in delays.items()})
    with ProcessPoolExecutor(2) as pool:
        told = pool.map(drift_apart.find, ("joint", "subjects"), (SHARE, SHARE))
    for ours, found in zip(("Trimtab with together: classifier", "Trimtab"), told, strict=True):
        tell_shares(table, ours, found)


def tell_shares(table: Table, ours: str, found: drift_apart.Told) -> None:
    """Claim that `ours` tells as many of the windows with a change as the best of the others, but for noise."""
    for name, share in found.quiet.items():
        table.tell(f"quiet windows that {name} tells by its own level", f"{share:.1%}, 1 in 20 stated")
    for what, shares in found.moved.items():
        best = max(share for name, share in shares.items() if not name.startswith("Trimtab"))
        noise = 2 * math.sqrt(sum(at * (1 - at) for at in (best, shares[ours])) / found.windows)
        table.claim(
            f"  {what}, windows of {drift_apart.WINDOW} told",
            f"{shares[ours]:.0%}",
            shares[ours] >= best - noise,
        )
        for name, share in shares.items():
            if name != ours:
                table.tell(f"    {name}", f"{share:.0%}")


def delay(verdicts: Sequence[WindowVerdict], rule: Rule) -> float:
    """Return with which of the windows after the change the alarm is raised, counted from 1; infinite if with none."""
    found = count_alarms(verdicts, rule)
    return found[0] + 1 if found else math.inf


def compare(table: Table, what: str, delays: Mapping[str, Sequence[float]]) -> None:
    """Claim that Trimtab misses no more and is no slower than the best of the others, but for noise.

    What was missed counts as seen at the end of the wait; means differ by noise where they are within two standard errors.
    """
    longest = max(max((each for each in of if each < math.inf), default=1) for of in delays.values())
    waited = {name: np.minimum(of, longest) for name, of in delays.items()}
    ours = waited["Trimtab"]
    for name, of in delays.items():
        missed = sum(each == math.inf for each in of)
        value = f"mean {waited[name].mean():.1f}, median {np.median(of):.0f}, missed {missed} of {len(of)}"
        if name != "Trimtab":
            table.tell(f"    {name}", value)
            continue
        others = {other: it for other, it in waited.items() if not other.startswith("Trimtab")}
        best = min(others.values(), key=lambda it: float(it.mean()))
        noise = 2 * math.sqrt(ours.var() / len(ours) + best.var() / len(best))
        table.claim(f"  {what}", value, bool(ours.mean() <= best.mean() + noise))


class Drawn(NamedTuple):
    """Losses of a model, once for each held-out draw that a threshold is found from."""

    held: np.ndarray
    """[draws, rows]"""
    quiet: np.ndarray
    """[draws, rows], without a change."""
    changed: np.ndarray
    """[draws, runs, rows], with a change after BEFORE of them."""


class Watched(NamedTuple):
    """What Trimtab sees of them."""

    alike: Sequence[float]
    """Delays where it raises at most as many false alarms as the others may."""
    as_many: int
    """How many it raises there."""
    own: Sequence[Sequence[float]]
    """Delays by its own level, of each draw."""
    raised: Sequence[int]
    """False alarms by its own level, of each draw."""
    by_window: Sequence[float]
    """Delays of windows of losses."""


def mistakes(concept: str) -> Losing:
    """Return what draws the mistakes of a model that was fitted before the concept changes."""
    draw = CONCEPTS[concept]
    model = HistGradientBoostingClassifier(max_iter=60, random_state=0)
    model.fit(*draw(np.random.default_rng(0), 10_000, False))

    def wrong(rng: np.random.Generator, rows: int, changed: bool) -> np.ndarray:
        x, y = draw(rng, rows, changed)
        missed: np.ndarray = model.predict(x) != y
        return missed.astype(np.float64)

    return wrong


def drawn(lose: Losing, seed: int) -> Drawn:
    """Draw held-out rows, quiet ones and runs with a change, DRAWS times."""
    rng = np.random.default_rng(seed)
    rows = round(QUIET_ROWS / DRAWS * max(SHARE, 0.2))
    runs = max(3, round(RUNS / DRAWS * SHARE))
    held = [lose(rng, HELD_OUT, False) for _ in range(DRAWS)]
    quiet = [lose(rng, rows, False) for _ in range(DRAWS)]
    changed = [
        [np.concatenate([lose(rng, BEFORE, False), lose(rng, AFTER, True)]) for _ in range(runs)]
        for _ in range(DRAWS)
    ]
    return Drawn(np.stack(held), np.stack(quiet), np.array(changed))


def watched(of: Drawn) -> Watched:
    """Watch losses by thresholds that are found from the held-out rows of each draw."""
    own = [calibrate_change(held, rows_between=ROWS_BETWEEN, tolerance=0) for held in of.held]
    alike, as_many = tuned(of)
    levels = [
        calibrate_mean(held, window=WINDOW, false_alarms=WINDOW / ROWS_BETWEEN, rounds=400)
        for held in of.held
    ]
    return Watched(
        [row for each, runs in zip(alike, of.changed, strict=True) for row in delays_of(each, runs)],
        as_many,
        [delays_of(each, runs) for each, runs in zip(own, of.changed, strict=True)],
        [len(seen(each, rows)) for each, rows in zip(own, of.quiet, strict=True)],
        [
            WINDOW * delay([judge_level(level, each) for each in run[BEFORE:].reshape(-1, WINDOW)], RULE)
            for level, runs in zip(levels, of.changed, strict=True)
            for run in runs
        ],
    )


def concepts(table: Table, directory: Path) -> None:
    """Compare detectors on a model's losses before and after they rise."""
    streams = {name: drawn(lose, seed) for seed, (name, lose) in enumerate(losing().items())}
    parts = {f"{name} {what}": rows for name, of in streams.items() for what, rows in of._asdict().items()}
    file = directory / "streams.npz"
    np.savez(file, names=list(streams), before=BEFORE, **parts)
    command = [str(PEERS), str(RIVER), str(file), str(ROWS_BETWEEN)]
    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(subprocess.run, command, check=True, stdout=subprocess.PIPE, text=True)
        found = {name: watched(of) for name, of in streams.items()}
        theirs = json.loads(others.result().stdout)
    for name, ours in found.items():
        expected = streams[name].quiet.size / ROWS_BETWEEN
        table.claim(
            f"false alarms, {name}, 1 in {ROWS_BETWEEN:,} rows stated",
            f"{sum(ours.raised)} where {expected:.0f} are stated",
            lower_bound(sum(ours.raised)) <= AT_MOST * expected,
        )
        delays = {"Trimtab": ours.alike}
        for detector, of in theirs[name].items():
            delays[f"river's {detector} ({of['false']} false)"] = [
                math.inf if each is None else each for each in of["delays"]
            ]
        delays["Trimtab's windows of 500, 2 of 3"] = ours.by_window
        compare(table, f"{name} after a change ({ours.as_many} false), rows", delays)
        means = [float(np.minimum(each, AFTER).mean()) for each in ours.own]
        table.tell(
            f"    Trimtab by its own level, median of {DRAWS} held-out draws",
            f"mean {np.median(means):.1f} ({min(means):.1f} to {max(means):.1f}), "
            f"missed {sum(each == math.inf for of_draw in ours.own for each in of_draw)}, "
            f"false alarms {np.median(ours.raised):g} ({min(ours.raised)} to {max(ours.raised)}) "
            f"where {expected / DRAWS:g} are stated",
        )


def losing() -> Mapping[str, Losing]:
    """Return what draws losses that rise, by what they are."""
    return {
        **{f"mistakes of {concept}": mistakes(concept) for concept in CONCEPTS},
        **{f"absolute errors up by {by:g} sd": partial(absolute_errors, by) for by in (0.25, 0.5)},
    }


def tuned(of: Drawn) -> tuple[list[ChangeThreshold], int]:
    """Return the loosest thresholds that raise at most as many alarms as are stated, as the peers have theirs, and how many."""
    wanted = of.quiet.size / ROWS_BETWEEN

    def at(part: float) -> tuple[list[ChangeThreshold], int]:
        thresholds = [
            calibrate_change(held, rows_between=ROWS_BETWEEN * part, tolerance=0) for held in of.held
        ]
        raised = sum(len(seen(each, rows)) for each, rows in zip(thresholds, of.quiet, strict=True))
        return thresholds, raised

    low, high, found = 0, len(STRICTNESS), None
    while high - low > 1:
        middle = (low + high) // 2
        tried = at(STRICTNESS[middle])
        low, high, found = (middle, high, tried) if tried[1] <= wanted else (low, middle, found)
    return found or at(STRICTNESS[0])


def seen(threshold: ChangeThreshold, rows: np.ndarray) -> list[int]:
    """Return the rows at which a change is told."""
    found, first = list[int](), 0
    while first < len(rows):
        _, change = watch_losses(threshold, ChangeState(), rows[first:], range(first, len(rows)))
        if change is None:
            break
        first += change.at + 1
        found.append(first - 1)
    return found


def delays_of(threshold: ChangeThreshold, runs: np.ndarray) -> list[float]:
    """Return after how many rows of each run's change it is told, infinite where it never is."""
    return [next((at - BEFORE + 1 for at in seen(threshold, run) if at >= BEFORE), math.inf) for run in runs]


def rollouts(table: Table, directory: Path) -> None:
    """Play rollouts that are looked at after each row."""
    rng = np.random.default_rng(1)
    runs = max(100, round(2_000 * SHARE))
    wrong: tuple[tuple[Literal["promote", "rollback"], str], ...] = (
        ("promote", "promotions"),
        ("rollback", "rollbacks"),
    )
    for name, (cap, draw) in LOSSES.items():
        spec = JudgeSpec(cap=cap, alpha=ALPHA)
        ends = [update(spec, JudgeState(), draw(rng, LOOKED), draw(rng, LOOKED)).decided for _ in range(runs)]
        for decided, word in wrong:
            share = ends.count(decided) / runs
            table.claim(
                f"false {word} of equals, {name}",
                f"{share:.1%} of {runs}, alpha {ALPHA:.0%}",
                lower_bound(ends.count(decided)) <= ALPHA * runs,
            )
    spec = JudgeSpec(cap=1.0, alpha=ALPHA)
    states = [
        update(spec, JudgeState(), (rng.random(20_000) < 0.05) * 1.0, (rng.random(20_000) < 0.08) * 1.0)
        for _ in range(runs)
    ]
    found = sum(state.decided == "rollback" for state in states) / runs
    fixed = (1.96 + 2.326) ** 2 * (0.05 * 0.95 + 0.08 * 0.92) / 0.03**2
    table.claim("5 % against 8 % errors, found", f"{found:.1%} of {runs}", found >= 0.99)
    table.tell(
        "  rows a side: median, and the fixed-size test's for 99 % at the same alpha",
        f"{np.median([state.n for state in states]):.0f} and {fixed:.0f}",
    )
    guardrails(table, directory)


def guardrails(table: Table, directory: Path) -> None:
    """Play requests that an equal version answers too, or one that is as much worse as is allowed, and is slow by a stated or a learnt limit."""
    rng = np.random.default_rng(4)
    runs = max(100, round(1_000 * SHARE))
    for latency in (None, 50):
        stated = GuardrailsSpec.model_validate(
            {"alpha": ALPHA, **({"latency": f"{latency}ms"} if latency else {})}
        )
        spec = GuardSpec.of(stated)
        for name, worse in (("an equal", 0.0), ("as bad as is allowed a", 1.0)):
            stopped = 0
            for _ in range(runs):
                failed = rng.random(LOOKED) < 0.02
                also = rng.random(LOOKED) < 0.02 + worse * stated.failures
                ours, theirs = rng.lognormal(9, 0.5, (2, LOOKED))
                slow = rng.random(LOOKED) < worse * stated.slow
                state = guarded(spec, GuardState(), ours, theirs + 1e6 * slow, failed, also)
                stopped += state.tripped is not None
            table.claim(
                f"guardrails stop {name} version, slow by a {'stated' if latency else 'learnt'} limit",
                f"{stopped / runs:.1%} of {runs}, alpha {ALPHA:.0%}",
                lower_bound(stopped) <= ALPHA * runs,
            )


def fleet(table: Table, directory: Path) -> None:
    """Monitor the same predictions of few models and of many."""
    waves = max(2, round(4 * SHARE))
    spread = [Case(1, 32_000, waves), Case(100, 320, waves), Case(16_000, 2, 2)]
    alike = [Case(1, 1_000, 50, window=50), Case(100, 10, 50, window=50), Case(16_000, 10, 5, window=50)]
    found = drift_fleet.costs(directory, spread + alike)
    for case, cost in zip(spread, found, strict=False):
        table.tell(
            f"predictions monitored a second of one core, {case.models:,} models with {case.rows:,} each at a time, "
            f"{case.windows} windows of each",
            f"{1e6 / cost.whole:,.0f}",
            f"{cost.stored:.0f} µs to store, {cost.closed:.0f} µs to join, window and judge",
        )
    one, few, many = found[len(spread) :]
    for beside, of in ((one, "a single one, 1,000"), (few, "one of 100, ten each")):
        times = many.whole / beside.whole
        table.claim(
            f"a prediction of one of 16,000 models, ten each at a time, of {of} at a time, windows of 50",
            f"{times:.2f} ({many.whole:.0f} µs, and {beside.whole:.0f}), at most {NEARLY_FREE}",
            times <= NEARLY_FREE,
        )


def backtest(table: Table, directory: Path) -> None:
    """Live a share of the backtest's own bench, and let its decisions be held against monitoring's over the same rows."""
    rows = round(LIVED_ROWS * max(SHARE, 0.5))
    done = subprocess.run(
        [sys.executable, str(BACKTEST), *LIVED],
        env={**os.environ, "BENCH_ROWS": str(rows)},  # noqa: TID251
        stdout=subprocess.PIPE,
        text=True,
    )
    told = json.loads(done.stdout)
    ((name, speed),) = told["claims"].items()
    table.claim(
        f"backtest of {' and '.join(LIVED)}, {name.replace('_', ' ')}",
        f"{speed['value']:,} of {rows:,} rows, at least {speed['at_least']:,}",
        speed["held"],
    )
    table.tell(
        "  in all, with the fits",
        f"{told['details']['rows_per_cpu_second_in_all']:,}",
        f"{told['details']['fits']} fits, {told['details']['cpu_seconds']['fits']:.0f} CPU seconds",
    )
    tests = subprocess.run([sys.executable, "-m", "pytest", str(ALIKE)], stdout=subprocess.PIPE, text=True)
    table.claim(
        "  the same alarms, commands and verdicts as monitoring over the same rows",
        tests.stdout.strip().rpartition("\n")[2],
        tests.returncode == 0,
    )


PARTS: Mapping[str, Callable[[Table, Path], None]] = {
    "rollouts": rollouts,
    "concepts": concepts,
    "shifts": shifts,
    "false_alarms": false_alarms,
    "backtest": backtest,
    "fleet": fleet,
}


def main(asked: Sequence[str]) -> int:
    if not PEERS.exists():
        sys.exit("the peers are not installed: run `make bench-drift`, which installs them")
    if unknown := set(asked) - PARTS.keys():
        sys.exit(f"there is no part {', '.join(sorted(unknown))}: name some of {', '.join(PARTS)}")
    table, began = Table(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-drift-") as directory:
        for name in asked or PARTS:
            PARTS[name](table, Path(directory))
    table.tell("seconds taken", f"{time.monotonic() - began:.0f}")
    table.show()
    return 0 if table.holds else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
