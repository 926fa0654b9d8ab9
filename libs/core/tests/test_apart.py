"""What no pair of correlations shows is told apart by a classifier, where it is asked for."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from pydantic import ValidationError
from trimtab_core import detection
from trimtab_core.apart import APART, MOST_OF_TWO, Forest, part
from trimtab_core.baseline import Calibration, Settings, calibrate
from trimtab_core.calibration import DriftThresholds, Rule, judge_window
from trimtab_core.drift import Kind, fit_reference
from trimtab_core.durations import Rate
from trimtab_core.specs import Model
from trimtab_core.together import TOGETHER
from trimtab_core.watched import Row
from trimtab_core.windows import DataWindow

Columns = dict[str, np.ndarray[Any, Any]]
SETTINGS = Settings(
    500,
    Rate(1, 90 * 86_400_000),
    Rule(1, 1),
    "mae",
    10.0,
    ("request.f", "request.g", "request.h"),
    classifier=True,
)


def rows_of(
    rows: int, *, sine: float = 0.0, sign: float = 0.0, parity: float = 0.0, seed: int = 0
) -> Columns:
    """Seven features, each distributed as always: in such shares of the rows b is the sine of a, e has the sign of c and d's product,
    and the category h is whether f and g are alike."""
    rng = np.random.default_rng(seed)
    x = {name: rng.normal(size=rows) for name in "abcde"}
    x["b"] = np.sin(6 * np.where(rng.random(rows) < sine, x["a"], x["b"]))
    x["e"] = np.where(rng.random(rows) < sign, np.abs(x["e"]) * np.sign(x["c"] * x["d"]), x["e"])
    x |= {name: rng.integers(0, 2, rows).astype(float) for name in "fg"}
    alike = np.where(rng.random(rows) < parity, x["f"] == x["g"], rng.random(rows) < 0.5)
    return {f"request.{name}": column for name, column in (x | {"h": alike.astype(float)}).items()}


def reference(rows: int = 8_000) -> Columns:
    columns = rows_of(rows)
    rng = np.random.default_rng(99)
    columns |= {"prediction": rng.normal(size=rows), "loss": np.abs(rng.normal(size=rows))}
    return columns | {"event_time_ms": np.arange(rows) * 60_000.0}


def forest_of(columns: Columns, kinds: dict[str, Kind]) -> tuple[Forest, Any]:
    """Return what is learnt of the columns, and what puts rows into its leaves."""
    references = fit_reference(columns, kinds)
    parted = part(references)

    def leaves(rows: Columns) -> Any:
        each = [it.columns(references[it.feature].bins(rows[it.feature])) for it in parted]
        return np.concatenate(each, axis=1)

    return Forest.of(parted, leaves(columns)), leaves


@pytest.fixture(scope="module")
def usual() -> Calibration:
    return calibrate(reference(), SETTINGS)


def told(calibration: Calibration, columns: Columns) -> Any:
    """Return the drift that a window of these rows opens; None if it opens none."""
    names = list(calibration.features)
    matrix = np.column_stack([columns[name] for name in names])
    rows = [Row(at, f"p{at}", 1, 1, 0, "", 0.0, None, row.tobytes(), None) for at, row in enumerate(matrix)]
    judged = detection.judge("m", DataWindow(1, rows), names, calibration, SETTINGS, {})
    for alarm, finding in judged.alarms:
        if alarm.kind == "data":
            return detection.drift(judged, alarm, finding, calibration, names, report="", recorded_ms=0)
    return None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sine": 1.0}, "request.a and request.b"),
        ({"sine": 0.6}, "request.a and request.b"),
        ({"sign": 0.5}, "request.c, request.d and request.e"),
        ({"parity": 0.5}, "request.f, request.g and request.h"),
    ],
)
def test_what_no_correlation_shows_is_told_and_names_its_features(
    usual: Calibration, change: dict[str, float], named: str
) -> None:
    found = told(usual, rows_of(500, seed=1, **change))

    assert [each.feature for each in found.features if each.drifted] == [named]
    assert f"{named} tell the rows apart by {found.score:.2f} (up to {found.threshold:.2f} is usual)" in (
        found.summary
    )
    assert found.severity > 1
    assert told(usual, rows_of(500, seed=2)) is None


def test_a_feature_that_moves_alone_is_named_alone(usual: Calibration) -> None:
    moved, new = rows_of(500, seed=3), rows_of(500, seed=5)
    moved["request.c"] = moved["request.c"] + 0.7
    new["request.h"][::3] = 7.0

    assert [each.feature for each in told(usual, moved).features if each.drifted] == ["request.c"]
    assert [each.feature for each in told(usual, new).features if each.drifted] == ["request.h"]


def test_features_that_move_as_they_go_together_are_not_told_apart() -> None:
    rng = np.random.default_rng(8)

    def pair(rows: int, by: float = 0.0, sign: float = 1.0) -> Columns:
        number = rng.normal(size=rows) + by
        return {"a": number + 0.3 * rng.normal(size=rows), "b": sign * (number + 0.3 * rng.normal(size=rows))}

    forest, leaves = forest_of(pair(8_000), {"a": "numeric", "b": "numeric"})

    assert forest.score(leaves(pair(500, by=0.5))) < 0.1
    assert forest.score(leaves(pair(500, sign=-1.0))) > 0.5


def test_two_changes_at_once_are_both_named_and_what_has_not_moved_is_not(usual: Calibration) -> None:
    found = told(usual, rows_of(500, sine=1.0, sign=1.0, seed=4))

    assert "request.c, request.d and request.e tell the rows apart by" in found.summary
    assert "request.a and request.b tell the rows apart by" in found.summary
    assert found.summary.count("tell the rows apart") == 2


def test_quiet_windows_are_over_about_as_often_as_is_stated(usual: Calibration) -> None:
    assert usual.data is not None
    windows = [rows_of(500, seed=100 + at) for at in range(100)]

    p = [
        judge_window(_without_tolerance(usual.data), usual.references, each).p_values[APART]
        for each in windows
    ]

    assert 2 <= sum(each <= 0.1 for each in p) <= 20
    assert 30 <= sum(each <= 0.5 for each in p) <= 70


def _without_tolerance(thresholds: DriftThresholds) -> DriftThresholds:
    return replace(thresholds, tolerance=dict.fromkeys(thresholds.tolerance, 0.0))


def test_many_windows_score_as_each_would_against_the_other_rows() -> None:
    columns = {name: rows_of(3_000)[name] for name in ("request.a", "request.b", "request.c", "request.f")}
    kinds: dict[str, Kind] = {**dict.fromkeys(columns, "numeric"), "request.f": "categorical"}
    forest, leaves = forest_of(columns, kinds)
    blocks = np.random.default_rng(6).permuted(np.tile(np.arange(150), (2, 1)), axis=1)[:, :10]
    rows = (blocks[1][:, None] * 20 + np.arange(20)).ravel()

    scores = forest.against_rest(leaves(columns), blocks, 20)

    others = Forest.of(forest.parted, np.delete(leaves(columns), rows, axis=0))
    assert scores[1] == pytest.approx(others.score(leaves(columns)[rows]), abs=0.002)
    assert forest.score(leaves(columns)) == 0


def test_categories_texts_and_what_is_missing_are_parted_too() -> None:
    rng = np.random.default_rng(7)
    a, b = rng.integers(0, 2, (2, 4_000)).astype(bool)
    number = np.where(rng.random(4_000) < 0.3, np.nan, rng.normal(size=4_000))

    def named(c: Any) -> Columns:
        return {
            "a": np.where(a, "x", "y").astype(object), "b": np.where(b, "one word", "another").astype(object),
            "c": c, "d": np.ones(4_000), "e": np.full(4_000, np.nan),
        }  # fmt: skip

    kinds: dict[str, Kind] = {"a": "categorical", "b": "text", "c": "numeric", "d": "numeric", "e": "numeric"}
    forest, leaves = forest_of(named(number), kinds)
    tied = named(np.where(a, number, -np.abs(number)))

    tree = forest.trees(leaves({name: column[:500] for name, column in tied.items()}))[0]

    assert tree.features == ("a", "c")
    assert forest.score(leaves(named(number))) < 0.01


def test_of_more_features_than_there_is_room_for_the_first_are_told_apart() -> None:
    columns = {f"x{at}": np.arange(10.0) for at in range(MOST_OF_TWO + 2)}

    parted = part(fit_reference(columns, dict.fromkeys(columns, "numeric")))

    assert [each.feature for each in parted] == [f"x{at}" for at in range(MOST_OF_TWO)]


def test_who_does_not_ask_is_judged_as_before_and_who_does_is_calibrated_anew(usual: Calibration) -> None:
    asked, columns = usual.data, rows_of(500, sine=1.0, seed=1)
    without = calibrate(reference(), replace(SETTINGS, classifier=False))
    assert asked is not None
    assert without.data is not None

    assert without.data.apart is None
    assert without.data.nulls == {name: null for name, null in asked.nulls.items() if name != APART}
    assert judge_window(without.data, without.references, columns).scores.keys() == without.data.nulls.keys()
    assert replace(SETTINGS, classifier=False).key + "; classifier" == SETTINGS.key
    assert msgspec.json.decode(msgspec.json.encode(asked), type=DriftThresholds) == asked
    kept = msgspec.json.decode(msgspec.json.encode(without.data))
    del kept["apart"], kept["tolerance"][APART]
    older = msgspec.json.decode(msgspec.json.encode(kept), type=DriftThresholds)
    assert judge_window(older, without.references, columns) == judge_window(
        without.data, without.references, columns
    )


def test_a_classifier_of_one_feature_is_refused_or_left_out_with_a_note() -> None:
    def spec(*features: str) -> Model:
        said = {
            "task": "regression", "source": "asks", "features": features,
            "label": {"source": "truths", "on": "id", "value": "y", "within": "1m"},
            "trainer": {"window": "30d"}, "rollout": {"cap": 10},
            "monitoring": {"measures": {"together": "classifier"}},
        }  # fmt: skip
        return Model.model_validate({"metadata": {"name": "m"}, "spec": said})

    assert Settings.of(spec("request.a", "request.b"), None).classifier
    with pytest.raises(
        ValidationError, match="a classifier tells two features apart or more, and the model has one"
    ):
        spec("request.a")
    columns = reference(1_000)
    one = {name: columns[name] for name in ("request.a", "prediction", "loss", "event_time_ms")}

    found = calibrate(one, replace(SETTINGS, window=100))

    assert found.notes == (
        "A classifier tells two features apart or more, and there are fewer: it is left out.",
    )
    assert found.data is not None
    assert found.data.nulls.keys() == {"request.a"}
    assert TOGETHER not in found.limits
