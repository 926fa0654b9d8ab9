"""Probabilities that are what they say pass, overconfident ones are refused, and chance decides neither."""

import numpy as np
import pytest
from trimtab_core.reliability import Calibration, calibration


def rows(count: int, *, push: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities that are pushed away from a half; 1 leaves them calibrated."""
    rng = np.random.default_rng(seed)
    true = rng.uniform(0.02, 0.98, count)
    odds = np.log(true / (1 - true))
    return (rng.random(count) < true).astype(np.float64), 1 / (1 + np.exp(-push * odds))


def test_calibrated_probabilities_pass_and_overconfident_ones_do_not() -> None:
    assert calibration(Calibration(0.03), *rows(20_000)).passed

    found = calibration(Calibration(0.03), *rows(20_000, push=3))
    assert not found.passed
    assert found.low is not None
    assert found.value is not None
    assert 0.03 < found.low < found.value
    assert "which misses the limit of at most 0.03" in found.sentence


def of_classes(count: int, *, push: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels of four classes and their probabilities, sharpened by `push`; 1 leaves them calibrated."""
    rng = np.random.default_rng(0)
    true = rng.dirichlet([1, 1, 1, 1], count)
    label = (rng.random((count, 1)) > true.cumsum(axis=1)).sum(axis=1).astype(np.float64)
    sharp = true**push
    return label, sharp / sharp.sum(axis=1, keepdims=True)


def test_of_classes_the_one_that_is_said_is_right_as_often_as_it_says() -> None:
    assert calibration(Calibration(0.03), *of_classes(20_000)).passed

    found = calibration(Calibration(0.03), *of_classes(20_000, push=3))

    assert not found.passed
    assert found.value is not None and 0.1 < found.value < 0.5


def test_what_chance_adds_to_a_calibrated_model_refuses_none_of_them_oftener_than_stated() -> None:
    refused = sum(not calibration(Calibration(1e-9), *rows(300, seed=seed)).passed for seed in range(200))

    assert refused <= 18, "at 95 % confidence about 10 of 200, at the most"


@pytest.mark.parametrize(("unsure", "passed"), [("passes", True), ("refuses", False)])
def test_few_rows_leave_it_to_the_spec(unsure: str, passed: bool) -> None:
    found = calibration(Calibration(0.05, unsure=unsure), *rows(200))  # type: ignore[arg-type]

    assert found.passed is passed
    assert f"({unsure} when unsure)" in found.sentence


def test_fewer_rows_than_bins_will_do() -> None:
    assert calibration(Calibration(0.9), np.array([1.0, 0.0]), np.array([0.9, 0.1])).passed


@pytest.mark.parametrize(("label", "said"), [([1.0], [1.5]), ([2.0], [0.5]), ([], []), ([1.0, 0.0], [0.5])])
def test_what_is_no_probability_is_refused(label: list[float], said: list[float]) -> None:
    with pytest.raises(ValueError, match="pass"):
        calibration(Calibration(0.1), np.array(label), np.array(said))
