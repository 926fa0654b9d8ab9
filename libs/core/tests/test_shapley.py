"""Shares of a prediction: they add up, and are the exact Shapley values but for a stated error."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from trimtab_core import shapley

Floats = NDArray[np.float64]


def explain(
    predict: Callable[[Floats], Floats], row: Floats, background: Floats, pairs: int = 200
) -> shapley.Shares:
    asked = shapley.orders(len(row), len(background), pairs, seed=4)
    return shapley.shares(asked, predict(np.where(asked.own, row, background[asked.background])))


def exact(predict: Callable[[Floats], Floats], row: Floats, background: Floats) -> Floats:
    """Compute Shapley values by their definition, over all coalitions."""
    names = range(len(row))

    def worth(coalition: tuple[int, ...]) -> float:
        mixed = background.copy()
        mixed[:, list(coalition)] = row[list(coalition)]
        return float(predict(mixed).mean())

    found = np.zeros(len(row))
    for feature in names:
        others = [name for name in names if name != feature]
        for size in range(len(others) + 1):
            weight = math.factorial(size) * math.factorial(len(row) - size - 1) / math.factorial(len(row))
            for coalition in itertools.combinations(others, size):
                found[feature] += weight * (worth((*coalition, feature)) - worth(coalition))
    return found


def tangled(features: Floats) -> Floats:
    return np.asarray(
        features[:, 0] * features[:, 1] + np.maximum(features[:, 2], 0) - 3 * features[:, 3] * features[:, 0]
    )


def test_shares_add_up_to_the_prediction() -> None:
    rng = np.random.default_rng(1)
    background, row = rng.normal(size=(30, 4)), np.array([1.5, -2.0, 0.5, 1.0])

    found = explain(tangled, row, background, pairs=7)

    assert found.prediction == pytest.approx(float(tangled(row[None])[0]))
    assert found.base + found.contributions.sum() == pytest.approx(found.prediction)


def test_shares_are_the_exact_values_within_their_stated_errors() -> None:
    rng = np.random.default_rng(2)
    background, row = rng.normal(size=(30, 4)), np.array([1.5, -2.0, 0.5, 1.0])

    found = explain(tangled, row, background, pairs=1_000)

    off = np.abs(found.contributions - exact(tangled, row, background)) / found.standard_errors
    assert off.max() < 4
    assert found.standard_errors.max() < 0.2


def test_a_sum_of_features_is_explained_by_its_terms_and_what_is_not_used_by_nothing() -> None:
    background = np.zeros((1, 3))

    found = explain(
        lambda features: 2 * features[:, 0] - features[:, 2], np.array([1.0, 9.0, 4.0]), background, 2
    )

    assert found.contributions == pytest.approx([2.0, 0.0, -4.0])
    assert found.standard_errors == pytest.approx([0.0, 0.0, 0.0])


def test_the_same_seed_asks_the_same_and_every_background_row_comes_equally_often() -> None:
    one, other = (shapley.orders(5, 4, 8, seed=7) for _ in range(2))

    assert np.array_equal(one.own, other.own)
    assert np.bincount(one.background).tolist() == [2 * 2 * 6] * 4


@pytest.mark.parametrize("wrong", [{"features": 0}, {"backgrounds": 0}, {"pairs": 1}])
def test_what_explains_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="explain nothing"):
        shapley.orders(**{"features": 2, "backgrounds": 2, "pairs": 2} | wrong)
