"""The stated rate of false alarms is about the observed one, and real shifts are found."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimtab_core.calibration import (
    TOLERANCE,
    DriftThresholds,
    LevelThreshold,
    Rule,
    WindowVerdict,
    calibrate,
    calibrate_mean,
    judge_level,
    judge_window,
)
from trimtab_core.drift import Kind, fit_reference
from trimtab_core.episodes import EpisodeState, step

WINDOW = 500
TWO_OF_THREE = Rule(2, 3)
NO_TOLERANCE = dict.fromkeys(TOLERANCE, 0.0)
Columns = dict[str, np.ndarray[Any, Any]]


def gaussian(rng: np.random.Generator, rows: int) -> Columns:
    return {f"x{number}": rng.normal(size=rows) for number in range(6)}


def heavy_tailed(rng: np.random.Generator, rows: int) -> Columns:
    return {f"x{number}": rng.standard_t(1.2, rows) for number in range(6)}


def categorical(rng: np.random.Generator, rows: int) -> Columns:
    shares = 1 / np.arange(1, 31) ** 1.2
    return {f"x{number}": rng.choice(30, rows, p=shares / shares.sum()) for number in range(6)}


def worded(rng: np.random.Generator, rows: int) -> Columns:
    words = np.array([f"word{number}" for number in range(30)], object)
    shares = 1 / np.arange(1, 31)
    return {
        "t": np.array(
            [" ".join(row) for row in rng.choice(words, (rows, 3), p=shares / shares.sum())], object
        )
    }


def weekly(rng: np.random.Generator, rows: int) -> Columns:
    """Two hundred rows a day, a window of two and a half days, weekends that differ by half a sigma."""
    weekend = np.arange(rows) // 200 % 7 >= 5
    return {
        name: column + (0.5 * weekend if name < "x3" else 0) for name, column in gaussian(rng, rows).items()
    }


def kinds_of(columns: Columns) -> dict[str, Kind]:
    kinds: dict[str, Kind] = {"i": "categorical", "O": "text"}
    return {name: kinds.get(column.dtype.kind, "numeric") for name, column in columns.items()}


def windows_of(columns: Columns, start: int = 0) -> list[Columns]:
    rows = len(next(iter(columns.values())))
    return [
        {name: column[first : first + WINDOW] for name, column in columns.items()}
        for first in range(start, rows - WINDOW + 1, WINDOW)
    ]


def count_alarms(verdicts: list[WindowVerdict]) -> int:
    state, alarms = EpisodeState(), 0
    for number, verdict in enumerate(verdicts):
        state, alarm = step(
            state, verdict, float(number), rule=TWO_OF_THREE, model="m", version="1", kind="data"
        )
        alarms += alarm is not None
    return alarms


def test_flags_that_are_hardly_ever_set_raise_no_alarm_by_a_single_row() -> None:
    rng, kinds = np.random.default_rng(8), dict[str, Kind]({f"x{at}": "numeric" for at in range(30)})

    def flags(rows: int) -> Columns:
        return {name: (rng.random(rows) < 5e-5).astype(np.float64) for name in kinds}

    columns = flags(10_000)
    levels = calibrate(columns, kinds, window=100, false_alarms=0.01, rule=Rule(1, 1), rounds=500)
    references = fit_reference(columns, kinds)

    assert sum(judge_window(levels, references, flags(100)).over for _ in range(100)) <= 3


@pytest.mark.parametrize("stream", [gaussian, heavy_tailed, categorical, worded, weekly])
def test_without_change_alarms_come_about_as_often_as_stated(
    stream: Callable[[np.random.Generator, int], Columns],
) -> None:
    """One in 20 windows over 4 x 150 windows: 30 stated; the rule errs to the quiet side, 8 to 45 are let through."""
    alarms = 0
    for seed in range(4):
        columns = stream(np.random.default_rng(seed), 180 * WINDOW)
        kinds = kinds_of(columns)
        reference = {name: column[: 30 * WINDOW] for name, column in columns.items()}
        thresholds = calibrate(
            reference,
            kinds,
            window=WINDOW,
            false_alarms=1 / 20,
            rounds=400,
            seed=seed,
            tolerance=NO_TOLERANCE,
        )
        references = fit_reference(reference, kinds)
        live = windows_of(columns, 30 * WINDOW)
        alarms += count_alarms([judge_window(thresholds, references, window) for window in live])

    assert 8 <= alarms <= 45


@pytest.mark.parametrize("sigmas", [0.5, 1.0])
def test_a_shift_in_one_of_ten_features_is_found_within_three_windows_and_named(sigmas: float) -> None:
    rng = np.random.default_rng(0)
    reference = {f"x{number}": rng.normal(size=20 * WINDOW) for number in range(10)}
    thresholds = calibrate(reference, kinds_of(reference), window=WINDOW, false_alarms=1 / 60, rounds=400)
    references = fit_reference(reference, kinds_of(reference))
    for _ in range(20):
        shifted = {name: rng.normal(sigmas if name == "x7" else 0, size=WINDOW * 3) for name in reference}
        verdicts = [judge_window(thresholds, references, window) for window in windows_of(shifted)]
        assert count_alarms(verdicts) == 1
        assert all("x7" in verdict.drifted and verdict.over for verdict in verdicts)


def test_a_significant_change_within_the_tolerance_raises_nothing() -> None:
    rng = np.random.default_rng(1)
    reference = {"x": rng.normal(size=60_000)}
    thresholds = {
        share: calibrate(
            reference,
            {"x": "numeric"},
            window=5_000,
            false_alarms=0.01,
            rounds=100,
            tolerance={"numeric": share},
        )
        for share in (0.0, 0.15)
    }
    references = fit_reference(reference, {"x": "numeric"})
    window = {"x": rng.normal(0.15, size=5_000)}

    assert thresholds[0.0].level == thresholds[0.15].level
    assert judge_window(thresholds[0.0], references, window).over
    assert not judge_window(thresholds[0.15], references, window).over
    assert judge_window(thresholds[0.15], references, window).clear


@pytest.mark.parametrize("rows", [30, 400, 700, 1_900])
def test_a_small_reference_is_judged_cautiously_and_says_so(rows: int) -> None:
    rng = np.random.default_rng(rows)
    columns = gaussian(rng, rows + 100 * WINDOW)
    reference = {name: column[:rows] for name, column in columns.items()}
    thresholds = calibrate(
        reference, kinds_of(columns), window=WINDOW, false_alarms=1 / 30, rounds=200, tolerance=NO_TOLERANCE
    )
    references = fit_reference(reference, kinds_of(columns))
    live = windows_of(columns, rows)
    strange = {name: column + 3 for name, column in live[0].items()}

    assert thresholds.small
    assert count_alarms([judge_window(thresholds, references, window) for window in live]) <= 3
    assert judge_window(thresholds, references, strange).over


def season_of_losses(rng: np.random.Generator, rows: int) -> np.ndarray[Any, Any]:
    return np.minimum(rng.lognormal(0.5, 1, rows) * (1 + 0.3 * (np.arange(rows) // 200 % 7 >= 5)), 60)


def test_without_change_a_loss_stream_alarms_about_as_often_as_stated() -> None:
    """One in 20 windows over 8 x 150 windows: 60 stated, 20 to 90 let through."""
    alarms = 0
    for seed in range(8):
        losses = season_of_losses(np.random.default_rng(seed), 180 * WINDOW)
        threshold = calibrate_mean(
            losses[: 30 * WINDOW], window=WINDOW, false_alarms=1 / 20, rounds=400, seed=seed, tolerance=0
        )
        live = [
            judge_level(threshold, losses[at : at + WINDOW]) for at in range(30 * WINDOW, losses.size, WINDOW)
        ]
        alarms += count_alarms(live)

    assert 20 <= alarms <= 90


def test_losses_a_half_higher_are_found_at_once_and_lower_ones_never() -> None:
    rng = np.random.default_rng(2)
    losses = season_of_losses(rng, 20 * WINDOW)
    threshold = calibrate_mean(losses, window=WINDOW, false_alarms=1 / 60)

    worse = [judge_level(threshold, season_of_losses(rng, WINDOW) * 1.5) for _ in range(20)]
    better = [judge_level(threshold, season_of_losses(rng, WINDOW) * 0.5) for _ in range(20)]

    assert all(verdict.over and verdict.drifted == ("loss",) for verdict in worse)
    assert all(verdict.clear for verdict in better)


def test_who_asks_for_a_more_ordinary_window_waits_longer_for_the_end_of_an_episode() -> None:
    rng = np.random.default_rng(4)
    columns, kinds = {"x": rng.normal(size=20 * WINDOW)}, {"x": "numeric"}
    references = fit_reference(columns, kinds)  # type: ignore[arg-type]
    quiet = [{"x": rng.normal(size=WINDOW)} for _ in range(100)]

    shares = [
        np.mean([judge_window(thresholds, references, window).clear for window in quiet])
        for clear in (0.2, 0.5, 0.9)
        for thresholds in [
            calibrate(
                columns, kinds, window=WINDOW, false_alarms=1 / 60, tolerance={"numeric": 0}, rounds=200, clear=clear
            )  # type: ignore[arg-type]
        ]
    ]  # fmt: skip

    assert np.allclose(shares, [0.2, 0.5, 0.9], atol=0.2), shares


def test_a_rarer_false_alarm_asks_for_a_smaller_p_and_clear_is_never_below_it() -> None:
    losses = season_of_losses(np.random.default_rng(3), 20 * WINDOW)
    levels = [
        calibrate_mean(losses, window=WINDOW, false_alarms=rate, rule=rule)
        for rule in (Rule(1, 1), Rule(2, 3), Rule(3, 3))
        for rate in (1e-5, 1e-3, 1 / 60, 0.2)
    ]

    for rarer, commoner in pairwise(levels):
        assert rarer.rule != commoner.rule or 0 < rarer.level < commoner.level
    assert all(threshold.clear_level >= threshold.level for threshold in levels)


def test_the_same_rows_and_seed_give_the_same_thresholds_which_survive_json() -> None:
    columns = {**gaussian(np.random.default_rng(4), 5_000), "c": np.arange(5_000) % 7}
    losses = columns["x0"] ** 2
    one, two = (
        calibrate(columns, kinds_of(columns), window=200, false_alarms=0.02, seed=9, rounds=100) for _ in "ab"
    )
    level = calibrate_mean(losses, window=200, false_alarms=0.02, rounds=100)

    assert one == two
    assert msgspec.json.decode(msgspec.json.encode(one), type=DriftThresholds) == one
    assert msgspec.json.decode(msgspec.json.encode(level), type=LevelThreshold) == level


@settings(max_examples=15)
@given(st.integers(2, 300), st.integers(2, 60), st.sampled_from(["constant", "missing", "mixed"]))
def test_any_reference_gives_thresholds_that_judge_any_window(rows: int, window: int, fill: str) -> None:
    numbers = {
        "constant": np.ones(rows),
        "missing": np.full(rows, np.nan),
        "mixed": np.arange(rows) % 3 / 1.0,
    }[fill]
    columns: Columns = {"n": numbers, "c": numbers.astype(object)}
    kinds: dict[str, Kind] = {"n": "numeric", "c": "categorical"}
    thresholds = calibrate(columns, kinds, window=window, false_alarms=0.1, rounds=100)
    references = fit_reference(columns, kinds)
    same = judge_window(thresholds, references, columns)
    other = judge_window(
        thresholds, references, {"n": np.full(window, 1e9), "c": np.full(window, "z", dtype=object)}
    )

    assert not same.over
    assert other.scores["n"] > 0.5
    assert 0 <= other.min_p <= 1
    assert not (other.over and other.clear)


def test_what_cannot_be_calibrated_is_refused() -> None:
    with pytest.raises(ValueError, match="equally long"):
        calibrate({}, {}, window=10, false_alarms=0.1)
    with pytest.raises(ValueError, match="two rows"):
        calibrate_mean([1.0], window=10, false_alarms=0.1)
    with pytest.raises(ValueError, match="equally long"):
        calibrate(
            {"a": np.ones(3), "b": np.ones(4)}, {"a": "numeric", "b": "numeric"}, window=10, false_alarms=0.1
        )
    with pytest.raises(ValueError, match="false_alarms"):
        calibrate_mean(np.ones(30), window=10, false_alarms=1.5)
    with pytest.raises(ValueError, match="not finite"):
        calibrate_mean([np.nan], window=10, false_alarms=0.1)
    with pytest.raises(ValueError, match="empty or not finite"):
        judge_level(calibrate_mean(np.ones(30), window=10, false_alarms=0.1), [])
