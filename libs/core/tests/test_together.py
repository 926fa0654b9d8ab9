"""What the shares of single features do not show: that they go together otherwise than they did."""

from typing import Any

import msgspec
import numpy as np
import pytest
from trimtab_core import detection
from trimtab_core.baseline import Calibration, Settings, calibrate
from trimtab_core.calibration import DriftThresholds, Rule, judge_window
from trimtab_core.drift import Kind, fit_reference
from trimtab_core.durations import Rate
from trimtab_core.together import MOST_COLUMNS, TOGETHER, Together, code
from trimtab_core.watched import Row
from trimtab_core.windows import DataWindow

Columns = dict[str, np.ndarray[Any, Any]]
SETTINGS = Settings(500, Rate(1, 90 * 86_400_000), Rule(1, 1), "mae", 10.0, ("request.c",))


def rows_of(rows: int, *, pair: float = 0.8, fold: float = 0.0, seed: int = 0) -> Columns:
    """Five features: `pair` correlates the first two, `fold` how far the third and the fourth are from their middle."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 6))
    x[:, 1] = pair * x[:, 0] + np.sqrt(1 - pair**2) * x[:, 1]
    x[:, 3] = np.where(rng.random(rows) < fold, np.sign(x[:, 3]) * np.abs(x[:, 2]), x[:, 3])
    found: Columns = {f"request.{name}": column for name, column in zip("abdef", x.T, strict=False)}
    found["request.c"] = rng.integers(0, 3, rows).astype(float)
    found |= {"prediction": x[:, 5], "loss": np.abs(x[:, 5]), "event_time_ms": np.arange(rows) * 60_000.0}
    return found


def together_of(columns: Columns, kinds: dict[str, Kind]) -> tuple[Together, Any]:
    """Return what is learnt of the columns and how they are encoded."""
    references = fit_reference(columns, kinds)
    coded = code(references)
    encoded = np.concatenate(
        [each.columns(references[each.feature].bins(columns[each.feature])) for each in coded], axis=1
    )
    return Together.of(coded, encoded), encoded


@pytest.fixture(scope="module")
def usual() -> Calibration:
    return calibrate(rows_of(10_000), SETTINGS)


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


def test_a_change_of_a_correlation_at_unchanged_shares_is_drift_and_names_the_pair(
    usual: Calibration,
) -> None:
    assert told(usual, rows_of(500, seed=1)) is None

    found = told(usual, rows_of(500, pair=0.3, seed=2))

    assert [each.feature for each in found.features if each.drifted] == ["request.a with request.b"]
    assert "the correlation of request.a and request.b went from 0.79 to 0." in found.summary
    assert found.score > found.threshold
    assert found.severity > 1


def test_what_goes_together_without_a_direction_is_seen_too(usual: Calibration) -> None:
    found = told(usual, rows_of(500, fold=0.6, seed=3))

    assert found.features[0].feature == "|request.d| with |request.e|"


def test_a_feature_that_moves_alone_is_named_alone(usual: Calibration) -> None:
    moved = rows_of(500, seed=4)
    moved["request.f"] = moved["request.f"] + 0.7

    assert [each.feature for each in told(usual, moved).features if each.drifted] == ["request.f"]


def test_a_category_that_goes_with_other_numbers_is_named_with_its_value() -> None:
    rng = np.random.default_rng(5)
    columns: Columns = {
        "n": rng.normal(size=6_000),
        "c": rng.choice(np.array(["x", "y", "z"], object), 6_000),
    }
    together, _ = together_of(columns, {"n": "numeric", "c": "categorical"})
    references = fit_reference(columns, {"n": "numeric", "c": "categorical"})
    tied: Columns = {
        "n": columns["n"][:600],
        "c": np.where(columns["n"][:600] > 0.8, "z", columns["c"][:600]),
    }

    pairs = together.pairs(together.columns({name: references[name].bins(tied[name]) for name in tied}))

    assert (pairs[0].one, pairs[0].other) == ("n", "c = z")
    assert pairs[0].now > 0.3 > abs(pairs[0].was)


def test_many_windows_score_as_each_would_against_the_other_rows() -> None:
    columns = {name: rows_of(3_000)[name] for name in ("request.a", "request.b", "request.d")}
    together, encoded = together_of(columns, dict.fromkeys(columns, "numeric"))
    blocks = np.random.default_rng(6).permuted(np.tile(np.arange(150), (2, 1)), axis=1)[:, :10]
    rows = (blocks[1][:, None] * 20 + np.arange(20)).ravel()

    scores = together.against_rest(encoded, blocks, 20)

    others = Together.of(together.coded, np.delete(encoded, rows, axis=0))
    assert scores[1] == pytest.approx(others.score(encoded[rows]), rel=0.1)
    assert together.score(encoded) == pytest.approx(0, abs=1e-3)


def test_what_is_always_the_same_or_always_missing_tells_nothing() -> None:
    columns = {"a": np.ones(400), "b": np.full(400, np.nan), "c": np.arange(400.0)}
    together, encoded = together_of(columns, dict.fromkeys(columns, "numeric"))

    assert together.score(encoded[:50]) == 0
    assert together.pairs(encoded[:50]) == ()
    assert (together.against_rest(encoded, np.arange(4).reshape(2, 2), 10) == 0).all()


def test_thresholds_of_before_it_was_told_judge_as_they_did(usual: Calibration) -> None:
    assert usual.data is not None
    kept = msgspec.json.decode(msgspec.json.encode(usual.data))
    del kept["together"], kept["nulls"][TOGETHER], kept["tolerance"][TOGETHER]
    older = msgspec.json.decode(msgspec.json.encode(kept), type=DriftThresholds)

    verdict = judge_window(older, usual.references, rows_of(500, pair=0.3, seed=2))

    assert not verdict.over
    assert TOGETHER not in verdict.scores
    assert msgspec.json.decode(msgspec.json.encode(usual.data), type=DriftThresholds) == usual.data


def test_of_more_features_than_there_is_room_for_the_first_are_told_together() -> None:
    columns = {f"x{at}": np.arange(10.0) for at in range(MOST_COLUMNS)}

    coded = code(fit_reference(columns, dict.fromkeys(columns, "numeric")))

    assert [each.feature for each in coded] == [f"x{at}" for at in range(MOST_COLUMNS // 2)]
