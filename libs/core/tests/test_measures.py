"""Other measures are Evidently's, to a few hundredths, for thousands of windows at once; a spec names them."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from trimtab_core import baseline, drift
from trimtab_core.baseline import Settings, calibrate
from trimtab_core.calibration import Rule, judge_window
from trimtab_core.drift import Kind, against_rest, by_block, fit_reference
from trimtab_core.durations import Rate
from trimtab_core.measures import Measure, anderson_darling
from trimtab_core.specs import Model

RNG = np.random.default_rng(3)
KINDS: dict[str, Kind] = {"x": "numeric", "few": "numeric", "c": "categorical"}
SETTINGS = Settings(200, Rate(1, 90 * 86_400_000), Rule(1, 1), "mae", 10.0, ("request.c",))


def columns_of(rows: int, shift: float = 0.0) -> dict[str, np.ndarray[Any, Any]]:
    return {
        "x": np.clip(RNG.normal(shift, 1, rows), -3.2, 3.2),
        "few": np.clip(RNG.poisson(3 + shift, rows), 0, 8).astype(float),
        "c": RNG.choice(6, rows, p=np.array([8, 4, 2, 1, 1, 1 + 10 * shift]) / (17 + 10 * shift)).astype(
            float
        ),
    }


@pytest.fixture(autouse=True)
def untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "1")


def of_evidently(measure: str, kind: Kind, was: Any, now: Any) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pandas as pd
        from evidently.legacy.calculations.stattests import get_stattest
        from evidently.legacy.core import ColumnType
        from scipy.stats import ks_2samp

        if measure == "ks":  # of which Evidently tells the p
            return float(ks_2samp(was, now).statistic)
        if measure == "TVD":  # likewise
            from evidently.legacy.calculations.stattests.tvd_stattest import _total_variation_distance

            return float(_total_variation_distance(pd.Series(was), pd.Series(now)))
        if measure == "ed":  # ours is in the root of standard deviations
            was, now = was / was.std(), now / was.std()
        of = ColumnType.Numerical if kind == "numeric" else ColumnType.Categorical
        test = get_stattest(pd.Series(was), pd.Series(now), of, measure)
        return float(test(pd.Series(was), pd.Series(now), of, None).drift_score)


def test_numbers_are_measured_by_the_statistic_of_anderson_and_darling() -> None:
    order = RNG.permutation(1_000) < 50  # of 1,000 values that are all different, which are a window's
    found = anderson_darling(~order / 950, order / 50)

    rank, inside = np.arange(1, 1_000), np.cumsum(order)[:-1]
    pettitt = np.sum((inside * 1_000 - 50 * rank) ** 2 / (rank * (1_000 - rank))) / (950 * 50)
    apart = pettitt * 1_000 / (950 * 50) / (8 * np.log(2) - 4)
    assert found == pytest.approx(apart, rel=0.02)
    assert anderson_darling(order / 50, 1.0 * (np.arange(1_000) == 999)) > found
    nothing_in_common = np.repeat([1.0, 0.0], 500) / 500
    assert anderson_darling(nothing_in_common, nothing_in_common[::-1]) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    "measure", ["psi", "jensenshannon", "hellinger", "ks", "wasserstein", "kl_div", "TVD", "ed"]
)
@pytest.mark.parametrize("name", KINDS)
def test_a_measure_is_evidentlys(measure: Measure, name: str) -> None:
    kind = KINDS[name]
    unfit = ("ks", "wasserstein", "ed") if kind == "categorical" else ("TVD",)
    if measure in unfit:
        with pytest.raises(ValueError, match="is a measure of"):
            fit_reference(columns_of(10), {name: kind}, {name: measure})
        return
    was, now = columns_of(5_000)[name], columns_of(1_000, 0.4)[name]
    was[:2], now[:2] = ([-3.2, 3.2], [-3.2, 3.2]) if name == "x" else (was[:2], now[:2])
    reference = fit_reference({name: was}, {name: kind}, {name: measure})[name]

    found = drift.score(reference, reference.bins(now))

    assert found == pytest.approx(of_evidently(measure, kind, was, now), rel=0.05, abs=0.005)
    assert drift.score(reference, reference.bins(was)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "measure", ["psi", "jensenshannon", "hellinger", "ks", "wasserstein", "kl_div", "ed"]
)
def test_what_is_missing_or_beyond_all_that_was_is_measured_and_finite(measure: Measure) -> None:
    reference = fit_reference({"x": columns_of(2_000)["x"]}, {"x": "numeric"}, {"x": measure})["x"]
    windows = [np.full(50, value) for value in (np.nan, np.inf, -1e300, 0.0)]

    scores = [drift.score(reference, reference.bins(window)) for window in windows]

    assert all(np.isfinite(scores))
    assert min(scores) > 0.25


@pytest.mark.parametrize("measure", ["psi", "wasserstein", "kl_div", "ed"])
def test_many_windows_measure_as_each_would_against_the_other_rows(measure: Measure) -> None:
    values = columns_of(2_000)["x"]
    reference = fit_reference({"x": values}, {"x": "numeric"}, {"x": measure})["x"]
    rows = RNG.permuted(np.tile(np.arange(2_000), (3, 1)), axis=1)[:, :200]

    found = against_rest(reference, by_block(reference, reference.bins(values), 1), rows)

    others = reference.shares_of(reference.bins(np.delete(values, rows[1])))
    now = reference.shares_of(reference.bins(values[rows[1]]))
    assert found[1] == pytest.approx(float(drift.distance(reference, others, now)))


def test_measures_that_a_spec_names_have_levels_of_their_own_and_one_that_does_not_fit_is_told() -> None:
    given = columns_of(4_000)
    reference = {f"request.{name}": column for name, column in given.items()}
    reference |= {
        "prediction": given["x"],
        "loss": np.abs(given["x"]),
        "event_time_ms": np.arange(4_000) * 6e4,
    }
    asked: tuple[tuple[str, Measure], ...] = (
        ("numeric", "psi"),
        ("request.c", "ks"),
        ("request.few", "wasserstein"),
    )
    settings = replace(SETTINGS, measures=asked)

    found = calibrate(reference, settings)

    used = {name: each.measure for name, each in found.references.items()}
    assert used == {
        "request.x": "psi", "request.few": "wasserstein", "request.c": "distance", "prediction": "psi",
    }  # fmt: skip
    assert found.notes == ("request.c is categorical and ks a measure of numbers: distance is used for it.",)
    assert found.data is not None
    moved = {f"request.{name}": column for name, column in columns_of(200, 0.8).items()}
    assert not judge_window(
        found.data, found.references, {name: reference[name][:200] for name in moved}
    ).over
    assert "request.x" in judge_window(found.data, found.references, moved).drifted
    assert found.limits["request.x"] > 0.1
    assert settings.key != SETTINGS.key


def test_a_spec_names_measures_by_kind_and_by_feature_and_faults_are_said() -> None:
    def spec(**monitoring: Any) -> Model:
        said = {
            "task": "regression", "source": "asks", "features": ["request.x", "text(request.note)"],
            "label": {"source": "truths", "on": "id", "value": "y", "within": "1m"},
            "trainer": {"window": "30d"}, "rollout": {"cap": 10}, "monitoring": monitoring,
        }  # fmt: skip
        return Model.model_validate({"metadata": {"name": "m"}, "spec": said})

    asked = spec(measures={"numeric": "psi", "request.x": "ks", "prediction": "wasserstein"}, season="7d")
    found = Settings.of(asked, None)

    assert (found.measure("request.x", "numeric"), found.measure("request.z", "numeric")) == ("ks", "psi")
    assert found.measure("request.c", "categorical") == "distance"
    assert (
        Settings.of(spec(measures={"x": "ks", "numeric": "psi"}), None).measure("request.x", "numeric")
        == "ks"
    )
    assert found.season_ms == 7 * 86_400_000
    assert found.key == Settings.of(spec(), None).key + (
        "; numeric by psi; prediction by wasserstein; request.x by ks; 7d"
    )
    for measures, fault in [
        (
            {"categorical": "ks"},
            "'ks' is a measure of numbers: write psi, jensenshannon, hellinger, kl_div or TVD",
        ),
        ({"numeric": "TVD"}, "'TVD' is a measure of categories: write psi"),
        (
            {"request.y": "psi"},
            "'request.y' is no feature of the model: name one of them, prediction, numeric",
        ),
        (
            {"x": "psi", "request.x": "ks"},
            "'x' and 'request.x' are one feature: drop one of them",
        ),
        ({"numeric": "chisquare"}, "'distance', 'psi', 'ks'"),
        ({"x": "classifier"}, "'classifier' is of features together: write together: classifier"),
        ({"together": "psi"}, "'psi' is a measure of one feature: write correlation or classifier"),
    ]:
        with pytest.raises(ValidationError, match=fault):
            spec(measures=measures)


def test_what_was_worked_out_by_another_method_is_not_read_as_this_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = SETTINGS.key
    monkeypatch.setattr(baseline, "_METHOD", 1)

    assert SETTINGS.key != before
