"""Windows by event time: what is in them, when they are full, and by what they are judged."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from trimtab_core import detection, windows
from trimtab_core.baseline import (
    MOST_ROWS,
    Calibration,
    Settings,
    calibrate,
    false_alarms_a_window,
    window_rows,
)
from trimtab_core.calibration import Rule
from trimtab_core.durations import Rate, Span
from trimtab_core.specs import MonitoringSpec
from trimtab_core.watched import Row, Watch
from trimtab_core.windows import DataWindow, Partial, Window

HOUR = 3_600_000
DAY = 24 * HOUR
BY_DAY = Settings(50, Rate(1, 90 * DAY), Rule(), "mae", 10.0, (), every_ms=DAY)
OFTEN = replace(BY_DAY, false_alarms=Rate(1, 20 * DAY))
Make = Callable[..., Any]


def a_row(at_ms: int, *, label: float | None = 0.0, version: int = 1, id: str = "", said: float = 1.0) -> Row:
    features = np.array([said]).tobytes()
    return Row(at_ms, id or f"{at_ms:015}", version, version, 0, "", said, None, features, label)


def filled(
    rows: list[Row], *, closed_ms: int, steps: int = 1, most: int = MOST_ROWS, every_ms: int = DAY
) -> tuple[Watch, list[Window]]:
    """Take rows in, in so many steps of time."""
    watch, partial, found, before = Watch(), Partial(), list[Window](), -1
    for until in [closed_ms * step // steps for step in range(1, steps + 1)]:
        mine = [row for row in rows if before < row.at_ms <= until]
        lost = windows.clipped_losses("mae", 10, [row.label for row in mine], [row.champion for row in mine])
        watch, partial, full = windows.fill(
            watch, partial, mine, lost, most, 5, every_ms=every_ms, closed_ms=until
        )
        found += full
        before = until
    return watch, found


def test_a_window_by_time_is_full_when_its_time_is_closed_and_not_before() -> None:
    rows = [a_row(hour * HOUR) for hour in (1, 2, 23, 26)]

    assert filled(rows, closed_ms=DAY - 2)[1] == []

    data, performance = filled(rows, closed_ms=DAY - 1)[1]
    assert [len(each.rows) for each in (data, performance)] == [3, 3]
    assert (data.covers.from_ms, data.covers.to_ms, data.end[0]) == (0, DAY, DAY - 1)
    assert data.covers == performance.covers


def test_windows_by_time_do_not_depend_on_how_the_rows_came() -> None:
    rng = np.random.default_rng(2)
    times = np.unique(rng.integers(0, 5 * DAY, 300)).tolist()
    rows = [a_row(at, label=0.0 if at % 3 else None, version=1 + (at > 3.4 * DAY)) for at in times]

    watch, whole = filled(rows, closed_ms=5 * DAY)

    assert len([window for window in whole if isinstance(window, DataWindow)]) == 6
    for steps in (2, 7, 50):
        assert filled(rows, closed_ms=5 * DAY, steps=steps) == (watch, whole)


def test_a_stretch_of_time_without_rows_is_no_window_and_one_without_labels_is_none_of_performance() -> None:
    rows = [a_row(HOUR), a_row(2 * DAY + HOUR, label=None)]

    kinds = [(window.kind, window.covers.from_ms) for window in filled(rows, closed_ms=4 * DAY)[1]]

    assert kinds == [("data", 0), ("performance", 0), ("data", 2 * DAY)]


def test_a_window_by_time_with_very_many_rows_is_told_in_parts_that_do_not_overlap() -> None:
    rows = [a_row(hour * HOUR) for hour in range(24)]

    parts = [window.covers for window in filled(rows, closed_ms=DAY, most=10)[1] if window.kind == "data"]

    assert [(part.from_ms, part.to_ms) for part in parts] == [
        (0, 9 * HOUR),
        (10 * HOUR, 19 * HOUR),
        (20 * HOUR, DAY),
    ]
    assert [part.after for part in parts[1:]] == [part.until for part in parts[:-1]]


def test_what_another_version_cuts_off_is_told_and_not_judged() -> None:
    rows = [a_row(at * 60_000) for at in range(200)] + [
        a_row(at * 60_000, version=2) for at in range(200, 400)
    ]

    data, performance, *others = [
        window for window in filled(rows, closed_ms=DAY)[1] if window.kind != "concept"
    ]

    assert [(len(each.rows), each.covers.to_ms) for each in (data, performance)] == [(200, 200 * 60_000)] * 2
    assert not BY_DAY.judges(data)
    assert [(each.version, each.covers.from_ms, each.covers.to_ms) for each in others] == [
        (2, 200 * 60_000, DAY)
    ] * 2
    assert BY_DAY.judges(others[0])


def test_rows_are_read_back_into_a_window_by_time() -> None:
    rows = [a_row(hour * HOUR, label=None if hour % 2 else 0.0) for hour in range(40)]
    watch, _ = filled(rows, closed_ms=30 * HOUR)
    lost = windows.clipped_losses("mae", 10, [row.label for row in rows], [row.champion for row in rows])

    again = windows.restore(watch, rows, lost)

    assert again.matches(watch)
    assert [row.at_ms // HOUR for row in again.data] == list(range(24, 31))


def test_a_window_is_judged_by_the_nearest_size_below_its_own() -> None:
    sizes = [BY_DAY.of_rows(rows).window for rows in (3, 50, 58, 59, 150, 10**6)]

    assert sizes == [50, 50, 50, 59, 141, 6_400]
    assert replace(BY_DAY, every_ms=None, window=80).of_rows(500).window == 80
    assert BY_DAY.of_rows(100).key != BY_DAY.key


def test_false_alarms_of_windows_by_time_follow_from_how_long_they_are() -> None:
    times = np.arange(3_000) * HOUR / 10.0

    by_day = false_alarms_a_window(times, BY_DAY)
    crowded = false_alarms_a_window(times / 10_000, BY_DAY)

    assert by_day == pytest.approx(1 / 90 / 3)
    assert crowded < by_day / 50
    assert window_rows(Span(DAY), times) == 240
    assert window_rows(300, times) == 300


@pytest.fixture(scope="module")
def calibrated() -> Callable[[int], Calibration]:
    """What is usual, of windows of so many rows, where 1 alarm in 20 days is stated."""
    rng = np.random.default_rng(6)
    reference = {
        "a": rng.normal(size=2_500),
        "prediction": rng.normal(size=2_500),
        "loss": np.abs(rng.normal(size=2_500)),
        "event_time_ms": np.arange(2_500) * DAY / 100.0,
    }
    held: dict[int, Calibration] = {}

    def of_rows(rows: int) -> Calibration:
        size = OFTEN.of_rows(rows).window
        if size not in held:
            held[size] = calibrate(reference, OFTEN.of_rows(rows))
        return held[size]

    return of_rows


def test_windows_of_changing_size_raise_no_more_alarms_than_are_stated(calibrated: Make) -> None:
    rng = np.random.default_rng(5)
    episodes, alarms = {}, 0
    for day in range(500):
        count = int(rng.integers(50, 84))
        rows = [a_row(day * DAY + at, said=float(said)) for at, said in enumerate(rng.normal(size=count))]
        judged = detection.judge("m", DataWindow(1, rows), ["a"], calibrated(count), OFTEN, episodes)
        episodes, alarms = judged.episodes, alarms + len(judged.alarms)

    assert alarms <= 1.5 * 500 / 20 * 2 / 3  # data and prediction have two of three shares


def test_a_change_is_found_in_windows_by_time_and_one_of_few_rows_is_told_without_a_verdict(
    calibrated: Make,
) -> None:
    rng = np.random.default_rng(6)
    rows = [
        a_row(day * DAY + at, said=float(rng.normal(1.5 * (day > 2), 1)))
        for day, count in enumerate((100, 90, 20, 110, 130))
        for at in range(count)
    ]
    episodes, told, alarms = {}, [], []
    for window in filled(rows, closed_ms=5 * DAY)[1]:
        if window.kind != "concept":
            judged = detection.judge("m", window, ["a"], calibrated(len(window.rows)), OFTEN, episodes)
            episodes = judged.episodes
            told += judged.readings
            alarms += [(alarm.kind, window.covers.from_ms // DAY) for alarm, _ in judged.alarms]

    assert {("prediction", 4), ("data", 4)} <= set(alarms)
    few = [reading for reading in told if reading.from_ms == 2 * DAY]
    assert [(reading.name, reading.rows, reading.threshold) for reading in few] == [("mae", 20, None)]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (20, "20 is no window: write 50 or more predictions, or a minute or more, like 1d"),
        ("1s", "1s is no window"),
    ],
)
def test_what_is_no_window_is_refused_in_a_sentence(written: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MonitoringSpec(window=written)  # type: ignore[arg-type]


def test_a_window_reads_back_as_it_was_written() -> None:
    for written in (500, "1d"):
        spec = MonitoringSpec(window=written)  # type: ignore[arg-type]
        assert MonitoringSpec.model_validate(spec.model_dump(mode="json")) == spec
        assert spec.model_dump(mode="json")["window"] == written
