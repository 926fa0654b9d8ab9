"""What rows without labels are expected to lose, on streams whose truth is known."""

from typing import Any

import msgspec
import numpy as np
import pytest
from trimtab_core import boosting, estimation, isotonic, labelling
from trimtab_core.estimation import Estimate, Estimator, Unknown
from trimtab_core.losses import Metric, aggregate, clip, loss

Columns = dict[str, np.ndarray[Any, Any]]
FEATURES = ("a", "b")
CAPS: dict[Metric, float] = {"mae": 20, "rmse": 100, "log_loss": 4, "error_rate": 1}


def rows(
    metric: Metric, count: int, seed: int, *, shift: float = 0.0, changed: float = 0.0, classes: int = 2
) -> Columns:
    """Return rows of a world that is uncertain where `b` is great, with what a model that is too sure of itself says."""
    rng = np.random.default_rng((seed, 5))
    a, b = rng.normal(shift, 1, (2, count))
    found: Columns = {"a": a, "b": b}
    if metric in ("mae", "rmse"):
        found["prediction"] = 3 * a
        found["label"] = 3 * a + rng.normal(0, 0.3 + np.abs(b)) + changed
    elif classes == 2:
        truth = 1 / (1 + np.exp(-(1.5 * a + changed * b)))
        found["prediction"] = 1 / (1 + np.exp(-3 * a))
        found["label"] = (rng.random(count) < truth).astype(np.float64)
    else:
        heights = np.stack([a, b, np.zeros(count)], axis=1)
        truth = np.exp(heights) / np.exp(heights).sum(axis=1, keepdims=True)
        sure = np.exp(2 * heights) / np.exp(2 * heights).sum(axis=1, keepdims=True)
        found |= {"prediction": sure.argmax(axis=1).astype(np.float64), "probabilities": sure}
        found["label"] = (rng.random((count, 1)) > truth.cumsum(axis=1)).sum(axis=1).astype(np.float64)
    said = found.get("probabilities", found["prediction"])
    return found | {"loss": clip(loss(metric, found["label"], said), CAPS[metric])}


def learnt(metric: Metric, *, count: int = 4_000, **more: Any) -> Estimator:
    held = rows(metric, count, 0, **more)
    return estimation.fit(held, FEATURES, metric=metric, cap=CAPS[metric], window=200)


@pytest.mark.parametrize(
    ("metric", "classes"),
    [("log_loss", 2), ("error_rate", 2), ("log_loss", 3), ("error_rate", 3), ("mae", 2), ("rmse", 2)],
)
def test_where_only_the_asking_shifts_realised_metrics_are_within_their_bounds(
    metric: Metric, classes: int
) -> None:
    estimator = learnt(metric, classes=classes)
    assert estimator.unknown == ""
    within, apart = [], []
    for seed in range(1, 61):
        window = rows(metric, 200, seed, shift=0.5, classes=classes)
        found = estimation.estimate(estimator, window)
        assert isinstance(found, Estimate)
        realised = aggregate(metric, window["loss"])
        within.append(found.low <= realised <= found.high)
        apart.append(found.value - realised)
        assert found.low < found.value < found.high

    assert np.mean(within) >= 0.88
    assert abs(np.mean(apart)) < 0.07 * found.value


def test_the_estimate_follows_a_shift_towards_what_is_harder() -> None:
    estimator = learnt("mae")
    plain, harder = (estimation.estimate(estimator, rows("mae", 500, 9, shift=shift)) for shift in (0.0, 1.0))

    assert isinstance(plain, Estimate)
    assert isinstance(harder, Estimate)
    assert plain.high < harder.value


@pytest.mark.parametrize("metric", ["mae", "log_loss"])
def test_labels_disagree_with_an_estimate_when_the_concept_changes_and_seldom_else(metric: Metric) -> None:
    estimator = learnt(metric)

    def said(window: Columns) -> str | None:
        return estimation.disagreement(estimator, window, window["loss"])

    changed = said(rows(metric, 200, 3, changed=3.0))
    assert changed is not None
    assert f"200 rows with labels have a {metric} of" in changed
    assert sum(bool(said(rows(metric, 200, seed, shift=0.3))) for seed in range(50)) <= 4
    few = rows(metric, 200, 3, changed=3.0)
    few["loss"][20:] = np.nan
    assert said(few) is None


def test_probabilities_that_go_wrong_within_the_reference_are_not_built_on() -> None:
    early, late = rows("error_rate", 2_000, 1), rows("error_rate", 2_000, 2)
    late["prediction"] = 1 - late["prediction"]
    held = {name: np.concatenate([early[name], late[name]]) for name in early}
    held["loss"] = loss("error_rate", held["label"], held["prediction"])

    found = estimation.fit(held, FEATURES, metric="error_rate", cap=1, window=200)

    assert "its probabilities do not say how often it is right" in found.unknown
    assert estimation.estimate(found, early) == Unknown(found.unknown)


def test_a_reference_that_is_small_or_has_no_labels_says_so() -> None:
    assert "120 held-out rows, and to know what rows lose takes 500" in learnt("mae", count=120).unknown
    held = rows("log_loss", 2_000, 0)
    del held["label"]
    found = estimation.fit(held, FEATURES, metric="log_loss", cap=4, window=200)
    assert "its reference holds no labels" in found.unknown
    held = rows("log_loss", 2_000, 0)
    held["prediction"][7] = 1.5
    found = estimation.fit(held, FEATURES, metric="log_loss", cap=4, window=200)
    assert "some predictions in its reference are no probabilities" in found.unknown


def test_what_no_row_of_the_reference_was_like_is_unknown() -> None:
    estimator = learnt("log_loss")
    far, gone, blind = (rows("log_loss", 200, 2) for _ in range(3))
    far["b"] = far["b"] + 9
    gone["a"][:40] = np.nan
    blind["prediction"][:150] = np.nan

    for window, why in (
        (far, "b is outside"),
        (gone, "a is outside of what"),
        (blind, "only 50 of the window's 200"),
    ):
        found = estimation.estimate(estimator, window)
        assert isinstance(found, Unknown)
        assert why in found.why


def test_an_estimator_is_written_down_and_read_back_equal() -> None:
    for metric in ("mae", "log_loss"):
        estimator = learnt(metric)  # type: ignore[arg-type]
        assert msgspec.json.decode(msgspec.json.encode(estimator), type=Estimator) == estimator


def test_a_curve_rises_and_is_the_mean_where_values_fall() -> None:
    found = isotonic.rising(np.array([3.0, 1.0, 2.0, 2.0, 4.0]), np.array([1.0, 0.0, 4.0, 2.0, 9.0]))

    at = np.array([0.0, 1.0, 2.0, 3.0, 3.5, 4.0, 5.0])
    assert found(at).tolist() == pytest.approx([0, 0, 7 / 3, 7 / 3, (7 / 3 + 9) / 2, 9, 9])
    with pytest.raises(ValueError, match="all of them finite"):
        isotonic.rising(np.array([np.nan]), np.array([1.0]))


def test_trees_learn_steps_and_what_is_missing() -> None:
    rng = np.random.default_rng(1)
    x, noise = rng.uniform(0, 1, (2, 3_000))
    gaps = np.where(rng.random(3_000) < 0.3, np.nan, x)
    target = np.where(np.isnan(gaps), 5.0, np.where(x > 0.5, 2.0, 0.0))

    trees = boosting.boost({"x": gaps, "noise": noise}, ("x", "noise"), target)

    asked = {"x": np.array([0.2, 0.9, np.nan]), "noise": np.array([0.5, 0.5, np.nan])}
    assert trees(asked) == pytest.approx([0, 2, 5], abs=0.15)
    with pytest.raises(ValueError, match="pass some"):
        boosting.boost({}, (), target)


def test_what_is_labelled_tells_the_mean_loss_without_bias() -> None:
    """Over 400 draws the mean of the estimates is within three standard errors, and spreads less than random rows do."""
    rng = np.random.default_rng(2)
    expected = rng.lognormal(0, 1, 500)
    losses = expected * rng.uniform(0.5, 1.5, 500)
    chances = labelling.chances(expected, 30)
    assert chances.sum() == pytest.approx(30)
    assert chances.min() >= 0.5 * 30 / 500
    assert chances.max() <= 1

    told, plain = [], []
    for seed in range(400):
        rows = labelling.drawn(chances, seed)
        assert rows.size == 30
        told.append((losses[rows] / chances[rows]).sum() / 500)
        plain.append(losses[rng.choice(500, 30, replace=False)].mean())

    assert abs(np.mean(told) - losses.mean()) < 3 * np.std(told) / 20
    assert np.std(told) < 0.7 * np.std(plain)


def test_each_row_is_asked_for_as_often_as_its_chance_says() -> None:
    chances = labelling.chances(np.array([0.0, 1.0, np.nan, 50.0]), 2)
    assert chances[3] == 1
    counts = np.bincount(
        np.concatenate([labelling.drawn(chances, seed) for seed in range(2_000)]), minlength=4
    )

    assert counts / 2_000 == pytest.approx(chances, abs=0.04)
    assert labelling.chances(np.ones(3), 5).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="ask for one or more"):
        labelling.chances(np.ones(3), 0)
