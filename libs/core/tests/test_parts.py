"""Drift of parts of a window: each against its own, in slices that have rows enough, and for each version of a rollout."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from trimtab_core import alertrules, detection, parts, trial
from trimtab_core.baseline import Calibration, Settings, calibrate
from trimtab_core.calibration import Rule, judge_window
from trimtab_core.drift import distance, fit_reference
from trimtab_core.durations import Rate
from trimtab_core.episodes import DriftAlarm
from trimtab_core.sliced import MOST, OTHER, Known
from trimtab_core.specs import AlertRule
from trimtab_core.watched import Drift, Others, Reading, Row, Said
from trimtab_core.windows import DataWindow

DAY = 24 * 3_600_000
FEATURES = ("request.x", "request.zone")
SETTINGS = Settings(200, Rate(1, 90 * DAY), Rule(1, 1), "mae", 10.0, (), slices=("request.zone",))
Columns = dict[str, np.ndarray[Any, Any]]


def asked(
    rows: int, zones: np.ndarray[Any, Any], *, seed: int = 0, by: float = 0.0, of: float = -1.0
) -> Columns:
    """Rows of some zones, of which those of zone `of` have an x that is `by` sigma higher, and an answer with it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows) + by * (zones == of)
    return {
        "request.x": x, "request.zone": zones.astype(float), "prediction": 2 * x,
        "loss": np.abs(rng.normal(size=rows)), "event_time_ms": np.arange(rows) * 60_000.0,
    }  # fmt: skip


def a_window(columns: Columns, **of: Any) -> DataWindow:
    rows = zip(columns["request.x"], columns["request.zone"], columns["prediction"], strict=True)
    return DataWindow(
        1,
        [
            Row(at, f"{at:05}", 1, 1, 0, "", said, None, np.array([x, zone]).tobytes(), None, **of)
            for at, (x, zone, said) in enumerate(rows)
        ],
    )


def of_slices(readings: list[Reading], name: str = "drift") -> dict[str, tuple[float, int]]:
    return {it.slice: (it.value or 0.0, it.rows) for it in readings if it.name == name}


@pytest.fixture(scope="module")
def usual() -> Calibration:
    return calibrate(asked(4_000, np.arange(4_000) % 10), SETTINGS)


def told(window: DataWindow, calibration: Calibration) -> list[Reading]:
    return list(parts.by_slice("m", window, FEATURES, calibration))


def test_a_slice_moves_while_the_whole_is_as_usual(usual: Calibration) -> None:
    window = a_window(asked(1_000, np.arange(1_000) % 10, seed=1, by=1.0, of=7.0))

    judged = detection.judge("m", window, FEATURES, usual, SETTINGS, {})
    found = told(window, usual)

    assert not judged.alarms
    for name in ("drift", "prediction_drift"):
        far = of_slices(found, name)
        assert far.keys() == {str(zone) for zone in range(10)}
        assert far["7"][0] > 0.4
        assert max(value for of, (value, _) in far.items() if of != "7") < 0.25
    assert {(it.feature, it.slice_of, it.rows, it.threshold) for it in found} == {
        (feature, "request.zone", 100, None) for feature in ("request.x", "")
    }, "of the feature that makes the slices nothing is told"
    assert len({it.id for it in [*found, *judged.readings]}) == len(found) + len(judged.readings)


def test_a_slice_is_held_against_its_own_rows_of_the_reference(usual: Calibration) -> None:
    window = a_window(asked(1_000, np.arange(1_000) % 10, seed=1))
    held = asked(4_000, np.arange(4_000) % 10)
    reference = usual.references["request.x"]
    was, now = (
        reference.shares_of(reference.bins(each))
        for each in (
            held["request.x"][3::10],
            asked(1_000, np.arange(1_000) % 10, seed=1)["request.x"][3::10],
        )
    )

    assert of_slices(told(window, usual))["3"] == (pytest.approx(float(distance(reference, was, now))), 100)


@pytest.mark.parametrize("kind", ["numeric", "categorical", "text"])
def test_what_is_kept_of_slices_adds_up_to_the_whole(kind: Any) -> None:
    rng = np.random.default_rng(3)
    words = np.array(["to the sea", "sea and sun", "", "to a hill"], object)[rng.integers(0, 4, 3_000)]
    values = rng.normal(size=3_000) if kind == "numeric" else words
    columns = {"x": values, "zone": rng.zipf(1.5, 3_000) % 40 * 1.0}
    references = fit_reference(columns, {"x": kind})

    known = Known.of("zone", columns, references)
    moved = list(known.moved(columns["zone"], references, lambda name: references[name].bins(columns[name])))

    assert sum(known.rows) == 3_000
    mixed = np.array(known.rows) / 3_000 @ known.shares("x")
    assert mixed == pytest.approx(references["x"].shares, abs=1e-3 if kind == "text" else 1e-6)
    assert known.names[-1] == OTHER
    assert min(known.rows[:-1]) >= 100, "of each that is kept by name there is enough"
    assert [each.slice for _, each in moved] == list(known.names)
    assert max(each.distance for _, each in moved) < 0.01, "the reference itself has not moved"


def test_many_values_are_kept_by_the_largest_and_the_rest_together() -> None:
    columns = asked(6_000, np.arange(6_000) % 30)
    known = Known.of("request.zone", columns, fit_reference(columns, {"request.x": "numeric"}))

    assert len(known.names) == MOST + 1
    assert known.rows == (200,) * 20 + (2_000,)
    assert len(known.counts["request.x"]) < 21 * 67, "less than a byte each"


def test_a_slice_of_few_rows_here_or_in_the_reference_is_not_told() -> None:
    rare = np.where(np.arange(4_000) % 100 == 0, 5, np.arange(4_000) % 2)  # 40 rows of zone 5
    calibration = calibrate(asked(4_000, rare), SETTINGS)
    assert calibration.sliced["request.zone"].names == ("1", "0", OTHER)

    few = np.where(np.arange(200) < 49, 0, 1)
    assert of_slices(told(a_window(asked(200, few)), calibration)).keys() == {"1"}
    fives = np.where(np.arange(200) < 100, 5, 1)
    assert of_slices(told(a_window(asked(200, fives)), calibration)).keys() == {"1"}


def test_rows_of_a_value_that_the_reference_does_not_know_are_of_no_slice_of_their_own() -> None:
    new = np.where(np.arange(200) < 100, 77, 1)
    two = calibrate(asked(4_000, np.arange(4_000) % 2), SETTINGS)
    assert of_slices(told(a_window(asked(200, new)), two)).keys() == {"1"}, "and `other` is not known either"

    many = calibrate(asked(4_000, np.where(np.arange(4_000) % 2, 1, np.arange(4_000))), SETTINGS)
    assert {of: rows for of, (_, rows) in of_slices(told(a_window(asked(200, new)), many)).items()} == {
        "1": 100,
        OTHER: 100,
    }


def test_no_slices_are_told_where_none_are_asked_for_or_were_learnt_when_the_version_was_calibrated(
    usual: Calibration,
) -> None:
    window = a_window(asked(200, np.arange(200) % 2))
    kept = msgspec.json.encode(usual)
    assert msgspec.json.decode(kept, type=Calibration) == usual

    before = msgspec.json.decode(kept)
    del before["sliced"]
    old = msgspec.json.decode(msgspec.json.encode(before), type=Calibration)

    assert told(window, old) == []
    assert told(window, usual) != []


def test_a_limit_on_drift_is_held_against_all_rows_and_not_against_slices_or_arms(usual: Calibration) -> None:
    window = a_window(asked(1_000, np.arange(1_000) % 10, seed=1, by=1.0, of=7.0))
    judged = detection.judge("m", window, FEATURES, usual, SETTINGS, {})
    rule = AlertRule(metric="drift", above=0.3)
    found = told(window, usual)
    assert max(it.value or 0.0 for it in found) > 0.3

    assert alertrules.take([rule], {}, [*judged.readings, *found], 0)[1] == []


def drift_of(window: DataWindow, calibration: Calibration, kind: str) -> Drift:
    judged = detection.judge("m", window, FEATURES, calibration, SETTINGS, {})
    ((alarm, finding),) = [each for each in judged.alarms if each[0].kind == kind]
    assert isinstance(alarm, DriftAlarm)
    return detection.drift(judged, alarm, finding, calibration, FEATURES, report="", recorded_ms=0)


@pytest.mark.parametrize(("kind", "what"), [("data", "request.x"), ("prediction", "prediction")])
def test_evidence_names_the_slices_that_moved_further_than_all_rows(
    usual: Calibration, kind: str, what: str
) -> None:
    zones = np.where(np.arange(1_000) % 10 < 5, 7, np.arange(1_000) % 10)
    found = drift_of(a_window(asked(1_000, zones, seed=1, by=1.5, of=7.0)), usual, kind)

    (first,) = found.slices
    assert (first.feature, first.slice, first.rows, first.usual) == ("request.zone", "7", 600, 0.0)
    assert first.value > 0.5
    assert first.share > 0.9
    assert f" {what} moved most in request.zone 7 (by {first.value:.2f} over 600 of them)." in found.summary


def test_evidence_names_no_slice_where_only_their_shares_have_moved() -> None:
    zones = np.arange(4_000) % 2
    reference = asked(4_000, zones, by=3.0, of=1.0)
    calibration = calibrate(reference, SETTINGS)
    mixed = np.where(np.arange(400) % 8, 1, 0)

    found = drift_of(a_window(asked(400, mixed, seed=1, by=3.0, of=1.0)), calibration, "prediction")

    assert found.slices == ()
    assert "moved most" not in found.summary


def test_evidence_does_not_take_the_noise_of_few_rows_and_many_values_for_a_slice_that_moved() -> None:
    rng = np.random.default_rng(0)
    usual, of_zero = rng.dirichlet(np.full(60, 2.0), 2)

    def drawn(rows: int, zeros: float) -> Columns:
        zones = np.where(rng.random(rows) < zeros, 0, rng.integers(1, 9, rows))
        kinds = np.where(zones == 0, rng.choice(60, rows, p=of_zero), rng.choice(60, rows, p=usual))
        return asked(rows, zones) | {"request.x": kinds.astype(float)}

    of_kinds = replace(SETTINGS, window=1_000, categorical=("request.x", "request.zone"))
    calibration = calibrate(drawn(10_000, 0.1), of_kinds)

    columns = drawn(1_000, 0.5)
    assert calibration.data is not None
    verdict = judge_window(calibration.data, calibration.references, columns)

    whole = verdict.scores["request.x"]
    window = a_window(columns)
    assert max(far for far, _ in of_slices(told(window, calibration)).values()) > 2 * whole
    assert parts.furthest(window, FEATURES, "request.x", whole, calibration) == ()


def on_trial(window: DataWindow, at: int = 0, **said: float) -> DataWindow:
    """Let version 2, and 3 where it is named, answer from a row on what version 1 did and so much more."""
    two, three = said.pop("two", 0.0), said.get("three")
    rows = list(window.rows)
    for place, row in enumerate(rows[at:], at):
        others = (
            None if three is None else msgspec.json.encode(Others(2, (Said(3, float(row.champion + three)),)))
        )
        rows[place] = row._replace(
            challenger_version=2, challenger=row.champion + two, rollout_id="r", others=others
        )
    return DataWindow(1, rows)


def by_arm(window: DataWindow, usual: Calibration, known: Mapping[int, Calibration]) -> list[Reading]:
    """Hold a window against the references of version 1, and of those on trial that are known."""
    arms = [(each, known[each.version]) for each in trial.of_arms(window) if each.version in known]
    return list(parts.by_arm("m", window, FEATURES, usual, arms))


def test_a_version_on_trial_is_held_against_what_it_was_trained_on_itself(usual: Calibration) -> None:
    newer = calibrate(asked(4_000, np.full(4_000, 7), by=1.5, of=7.0, seed=5), SETTINGS)
    window = on_trial(a_window(asked(400, np.full(400, 7), by=1.5, of=7.0, seed=1)), at=100)

    found = by_arm(window, usual, {2: newer})

    assert {(it.arm, it.version, it.rows, it.slice) for it in found} == {
        ("champion", 1, 300, ""),
        ("challenger", 2, 300, ""),
    }
    far = {(it.arm, it.name, it.feature): it.value or 0.0 for it in found}
    assert len(far) == len({it.id for it in found}) == len(found) == 6
    for name, feature in (("drift", "request.x"), ("prediction_drift", "")):
        assert far["champion", name, feature] > 0.5
        assert far["challenger", name, feature] < 0.15


def test_of_a_version_on_trial_that_is_not_calibrated_yet_nothing_is_told(usual: Calibration) -> None:
    window = on_trial(a_window(asked(400, np.arange(400) % 10, seed=1)), three=3.0)

    both = by_arm(window, usual, {2: usual, 3: usual})
    assert {(it.arm, it.version) for it in both} == {("champion", 1), ("challenger", 2), ("challenger", 3)}
    answers = {
        it.version: it.value or 0.0 for it in both if it.name == "prediction_drift" and it.arm == "challenger"
    }
    assert answers[2] < 0.15 < 0.5 < answers[3]

    one = by_arm(window, usual, {3: usual})
    assert {(it.arm, it.version) for it in one} == {("champion", 1), ("challenger", 3)}
    assert by_arm(window, usual, {}) == []
    few = on_trial(a_window(asked(400, np.arange(400) % 10, seed=1)), at=351)
    assert by_arm(few, usual, {2: usual}) == []


def test_of_what_a_version_was_trained_on_what_rows_do_not_carry_is_left_out(usual: Calibration) -> None:
    columns = asked(4_000, np.arange(4_000) % 10)
    wider = calibrate(columns | {"request.new": columns["request.x"]}, SETTINGS)

    found = by_arm(on_trial(a_window(asked(100, np.arange(100) % 10))), usual, {2: wider})

    assert {it.feature for it in found} == {"", *FEATURES}
