"""Gates let better through, refuse worse, and are not moved by noise."""

import numpy as np
import pytest
from trimtab_core.gates import (
    AbsoluteGate,
    ChampionGate,
    Evaluation,
    GateResult,
    GateSpec,
    SliceGate,
    evaluate,
)
from trimtab_core.losses import Metric

RNG = np.random.default_rng(3)


def judged(gate: GateSpec, evaluation: Evaluation, seed: int = 0) -> GateResult:
    (result,) = evaluate([gate], evaluation, seed=seed)
    return result


def paired(gain: float, rows: int = 2_000, metric: Metric = "mae", seed: int = 0) -> Evaluation:
    rng = np.random.default_rng(seed)
    champion = rng.lognormal(1, 1, rows)
    candidate = np.abs(champion - gain + rng.normal(0, 1, rows))
    return Evaluation({metric: candidate}, {metric: champion}, {"zone": rng.integers(0, 8, rows)})


def test_an_absolute_gate_compares_the_metric_with_its_bound() -> None:
    evaluation = Evaluation({"rmse": np.array([9.0, 16.0])})

    assert judged(AbsoluteGate("rmse", at_most=4), evaluation).passed
    assert not judged(AbsoluteGate("rmse", at_most=3), evaluation).passed
    assert judged(AbsoluteGate("rmse", at_least=3), evaluation).value == pytest.approx(12.5**0.5)


def test_a_candidate_that_is_better_passes_and_the_sentence_says_by_how_much() -> None:
    result = judged(ChampionGate("mae"), paired(0.5))

    assert result.passed
    assert result.value is not None
    assert result.low is not None
    assert result.high is not None
    assert 0 < result.low < result.value < result.high
    assert "below the champion's" in result.sentence


def test_the_champion_itself_is_not_better() -> None:
    champion = RNG.lognormal(size=300)
    result = judged(ChampionGate("mae"), Evaluation({"mae": champion}, {"mae": champion}))

    assert (result.passed, result.value, result.low, result.high) == (False, 0, 0, 0)


def test_a_better_candidate_may_still_miss_the_margin() -> None:
    assert not judged(ChampionGate("mae", better_by=0.6), paired(0.5)).passed
    assert judged(ChampionGate("mae", better_by=-0.2), paired(-0.0)).passed


def test_a_candidate_no_better_passes_about_as_rarely_as_the_confidence_says() -> None:
    passed = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        losses = rng.lognormal(0, 1, (2, 200))
        evaluation = Evaluation({"mae": losses[0]}, {"mae": losses[1]})
        passed += evaluate([ChampionGate("mae", confidence=0.9)], evaluation, seed=seed, rounds=400)[0].passed

    assert 0.05 <= passed / 300 <= 0.15


def test_the_same_rows_and_seed_give_the_same_result() -> None:
    assert judged(ChampionGate("rmse"), paired(0.3, metric="rmse"), 5) == judged(
        ChampionGate("rmse"), paired(0.3, metric="rmse"), 5
    )


def test_many_rows_cost_little_more() -> None:
    assert judged(ChampionGate("mae"), paired(0.1, rows=300_000)).passed


@pytest.mark.parametrize("gate", [ChampionGate("mae"), SliceGate("mae", "zone", 0.1)])
def test_without_a_champion_there_is_nothing_to_compare(gate: GateSpec) -> None:
    result = judged(gate, Evaluation({"mae": np.ones(10)}))

    assert result.passed
    assert "no champion" in result.sentence


def test_noise_in_small_slices_refuses_nobody() -> None:
    refused = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        losses = rng.lognormal(0, 1, (2, 4_000))
        evaluation = Evaluation({"mae": losses[0]}, {"mae": losses[1]}, {"zone": rng.integers(0, 30, 4_000)})
        refused += not judged(SliceGate("mae", "zone", 0.1), evaluation).passed

    assert refused / 200 <= 0.05


@pytest.mark.parametrize("metric", ["mae", "rmse"])
def test_a_slice_that_is_much_worse_is_named(metric: Metric) -> None:
    champion = RNG.lognormal(0, 0.5, 4_000)
    zone = np.array([f"z{number}" for number in RNG.integers(0, 8, 4_000)])
    candidate = np.where(zone == "z3", champion * 2.25, champion * 0.8)
    result = judged(
        SliceGate(metric, "zone", 0.1), Evaluation({metric: candidate}, {metric: champion}, {"zone": zone})
    )

    assert not result.passed
    assert result.value == pytest.approx(1.25 if metric == "mae" else 0.5)
    assert "z3" in result.sentence


def test_beside_a_champion_without_loss_the_figures_stay_finite() -> None:
    evaluation = Evaluation(
        {"mae": RNG.lognormal(0, 0.5, 400)}, {"mae": np.zeros(400)}, {"zone": np.zeros(400)}
    )
    result = judged(SliceGate("mae", "zone", 0.1), evaluation)

    assert not result.passed
    assert np.isfinite([result.value or 0.0, result.low or 0.0, result.high or 0.0]).all()


def test_a_worse_slice_with_too_few_rows_is_not_judged() -> None:
    evaluation = Evaluation({"mae": np.full(50, 9.0)}, {"mae": np.ones(50)}, {"zone": np.zeros(50)})

    assert judged(SliceGate("mae", "zone", 0.1), evaluation).passed
    assert not judged(SliceGate("mae", "zone", 0.1, min_rows=50), evaluation).passed


def test_what_was_not_evaluated_is_named() -> None:
    with pytest.raises(ValueError, match="rmse"):
        judged(AbsoluteGate("rmse", at_most=1), paired(0))
    with pytest.raises(ValueError, match="'hour'"):
        judged(SliceGate("mae", "hour", 0.1), paired(0))
    with pytest.raises(ValueError, match="not finite"):
        judged(AbsoluteGate("mae", at_most=1), Evaluation({"mae": np.array([np.nan])}))
    with pytest.raises(ValueError, match="exactly one"):
        judged(AbsoluteGate("mae"), paired(0))
