"""Windows are compared with reference rows of the same phase, where a season is asked for and the reference shows it."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from trimtab_core import ahead, detection, drift
from trimtab_core.baseline import Calibration, Settings, calibrate, learn_losses
from trimtab_core.calibration import Rule, judge_window
from trimtab_core.calibration import calibrate as levels_of
from trimtab_core.drift import Kind, against_like, fit_reference
from trimtab_core.durations import Rate
from trimtab_core.seasons import Season
from trimtab_core.watched import Row
from trimtab_core.windows import DataWindow

HOUR = 3_600_000
DAY = 24 * HOUR
SETTINGS = Settings(200, Rate(1, 90 * DAY), Rule(1, 1), "mae", 10.0, (), season_ms=7 * DAY)
Columns = dict[str, np.ndarray[Any, Any]]


def weeks(days: int, *, a_day: int = 200, first: int = 0, seed: int = 0) -> Columns:
    """Two hundred rows a day, of which one number is a sigma higher at weekends, and so is the answer."""
    rng = np.random.default_rng(seed)
    at = first * DAY + np.arange(days * a_day) * DAY // a_day
    weekend = at // DAY % 7 >= 5
    x = rng.normal(size=len(at)) + weekend
    return {
        "request.x": x, "request.y": rng.normal(size=len(at)), "prediction": x,
        "loss": np.abs(rng.normal(size=len(at))), "event_time_ms": at.astype(float),
    }  # fmt: skip


def over(calibration: Calibration, columns: Columns) -> dict[str, bool]:
    """Return by kind whether a window of these rows is over, as they are judged live."""
    names = list(calibration.features)
    rows = [
        Row(int(at), f"p{at}", 1, 1, 0, "", said, None, row.tobytes(), None)
        for at, said, row in zip(
            columns["event_time_ms"],
            columns["prediction"],
            np.column_stack([columns[name] for name in names]),
            strict=True,
        )
    ]
    judged = detection.judge("m", DataWindow(1, rows), names, calibration, SETTINGS, {})
    return {finding.kind: finding.verdict.over for finding in judged.findings}


def test_a_weekend_is_usual_beside_weekends_and_is_drift_on_a_monday() -> None:
    seasonal = calibrate(weeks(21), SETTINGS)
    weekend, monday = weeks(1, first=700 + 5, seed=1), weeks(1, first=700, seed=2)
    false_monday = weekend | {"event_time_ms": monday["event_time_ms"]}

    assert seasonal.notes == ()
    assert msgspec.json.decode(msgspec.json.encode(seasonal), type=Calibration) == seasonal
    for usual in (weekend, monday):
        assert over(seasonal, usual) == {"data": False, "prediction": False}
    assert over(seasonal, false_monday) == {"data": True, "prediction": True}
    unseasonal = calibrate(weeks(21), replace(SETTINGS, season_ms=None))
    assert over(unseasonal, false_monday) == {"data": False, "prediction": False}


@pytest.mark.parametrize("kind", ["numeric", "text"])
def test_many_windows_score_as_each_would_against_other_rows_of_its_phases(kind: Kind) -> None:
    phases = np.arange(900) // 50 % 3
    numbers = np.random.default_rng(4).normal(size=900) + phases
    values = numbers if kind == "numeric" else np.array(["a b", "b", "c a"], object)[phases]
    reference = fit_reference({"x": values}, {"x": kind})["x"]
    bins, rows = reference.bins(values), np.stack([np.arange(120), np.arange(400, 520)])

    found = against_like(reference, bins, phases, rows)

    rest = np.setdiff1d(np.arange(900), rows[1])
    was = sum(
        (phases[rows[1]] == phase).mean() * reference.shares_of(bins[rest][phases[rest] == phase])
        for phase in range(3)
    )
    assert found[1] == pytest.approx(
        float(drift.distance(reference, was, reference.shares_of(bins[rows[1]]))), abs=1e-6
    )


def test_a_phase_of_which_there_is_nothing_to_hold_it_against_is_scored() -> None:
    """One of which a simulated window holds all rows, and one that has none in the reference but comes live."""
    at_ms = np.append(np.arange(90), np.arange(12 * HOUR, 12 * HOUR + 10))
    season, values = Season(DAY, 24), np.arange(100.0)
    reference = fit_reference({"x": values, "event_time_ms": at_ms}, {"x": "numeric"}, season=season)["x"]
    bins = reference.bins(values)

    simulated = against_like(reference, bins, season.phases_of(at_ms), np.arange(80, 100).reshape(1, 20))
    live = drift.score(reference, bins, season.phases_of(np.full(100, 23 * HOUR)))

    assert np.isfinite(simulated).all()
    assert live == pytest.approx(0, abs=1e-6)


def test_without_change_alarms_of_a_seasonal_stream_come_no_more_often_than_stated() -> None:
    """One in 20 windows over 2 x 150 windows of a day and a half: 15 stated, at most 24 let through."""
    over, rule = 0, Rule(1, 1)
    for seed in range(2):
        columns = weeks(56 + 225, seed=seed)
        reference = {name: column[: 56 * 200] for name, column in columns.items()}
        season, kinds = Season.of(7 * DAY, reference["event_time_ms"]), dict.fromkeys(("request.x", "request.y"), "numeric")  # type: ignore[var-annotated]  # fmt: skip
        thresholds = levels_of(
            reference, kinds, window=300, false_alarms=1 / 20, rule=rule, rounds=200, season=season,
            tolerance={"numeric": 0.0, "all together": 0.0},
        )  # fmt: skip
        references = fit_reference(reference, kinds, season=season)
        for first in range(56 * 200, len(columns["loss"]) - 299, 300):
            window = {name: column[first : first + 300] for name, column in columns.items()}
            over += judge_window(thresholds, references, window).over

    assert 2 <= over <= 24


@pytest.mark.parametrize(
    ("at_ms", "said"),
    [
        (None, "the reference does not tell its rows' times, train the version again"),
        (np.arange(2_000.0) * 6 * HOUR / 50, "the reference covers 239h, and two seasons are needed"),
        (np.arange(60.0), "the reference covers less than 1h, and two seasons are needed"),
        (np.linspace(0, 30 * DAY, 150), "150 reference rows are too few to tell phases apart"),
    ],
)
def test_a_season_that_the_reference_cannot_show_is_told(at_ms: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as told:
        Season.of(7 * DAY, at_ms)

    assert str(told.value).startswith("monitoring.season of 7d is not followed: ")


def test_without_its_season_all_rows_are_compared_and_the_calibration_says_so() -> None:
    found = calibrate(weeks(5, a_day=100), replace(SETTINGS, window=50))

    assert found.data is not None
    assert found.data.season is None
    assert found.notes == (
        "monitoring.season of 7d is not followed: the reference covers 119h, and two seasons are needed; "
        "windows are compared with all of it.",
    )


def test_phases_are_as_fine_as_rows_allow_and_fit_into_days() -> None:
    def phases(length: int, rows: int) -> int:
        return Season.of(length, np.linspace(0, 10 * length, rows)).phases

    assert [phases(7 * DAY, rows) for rows in (100_000, 3_000, 800)] == [42, 28, 7]
    assert [phases(DAY, rows) for rows in (100_000, 2_500, 300)] == [48, 24, 3]
    week = Season(7 * DAY, 7)
    assert week.phases_of(np.array([0, DAY - 1, DAY, 8 * DAY])).tolist() == [0, 0, 1, 1]


def test_what_a_clock_shows_is_watched_where_the_reference_has_seen_two_of_its_rounds() -> None:
    def watched(days: int) -> Calibration:
        columns = weeks(days)
        at = columns["event_time_ms"]
        clocks = {"hour(at)": at // HOUR % 24, "weekday(at)": at // DAY % 7}
        return calibrate(columns | clocks, replace(SETTINGS, season_ms=None))

    short, long = watched(13), watched(15)

    assert short.features == ("request.x", "request.y", "hour(at)")
    assert short.notes == (
        "weekday(at) is not watched: two rounds of it take 14d, and the reference covers less.",
    )
    assert (long.features, long.notes) == ((*short.features, "weekday(at)"), ())


def test_a_version_on_trial_is_not_estimated_on_rows_without_the_clock_that_taught_it_what_it_loses() -> None:
    columns = weeks(3) | {"weekday(at)": np.arange(600.0) // 200, "label": np.zeros(600)}
    found = calibrate(columns, SETTINGS, estimator=learn_losses(columns, SETTINGS))

    assert "weekday(at)" not in found.features
    assert not ahead.can_be_read(found.features, found)
    assert ahead.can_be_read([*found.features, "weekday(at)"], found)
