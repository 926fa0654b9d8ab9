"""Groups that are treated alike pass, those that are not are refused, and noise decides neither."""

import numpy as np
import pytest
from trimtab_core.fairness import Fairness, Rate, fairness
from trimtab_core.findings import Finding


def rows(
    shares: dict[str, float], count: int = 2_000, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, probabilities and groups, of each of which a share is selected; half of all labels are positive."""
    rng = np.random.default_rng(seed)
    label, said, group = [], [], []
    for name, share in shares.items():
        label.append(np.arange(count) % 2.0)
        said.append(np.where(rng.random(count) < share, 0.9, 0.1))
        group.append(np.full(count, name))
    return np.concatenate(label), np.concatenate(said), np.concatenate(group)


def held(asked: Fairness, shares: dict[str, float], count: int = 2_000, seed: int = 0) -> Finding:
    return fairness(asked, *rows(shares, count, seed=seed))


@pytest.mark.parametrize("of", ["selection_rate", "true_positive_rate", "false_positive_rate"])
def test_rates_that_differ_by_more_than_the_limit_are_refused_and_told(of: Rate) -> None:
    found = held(Fairness("gender", of, max_difference=0.1), {"f": 0.3, "m": 0.5})

    assert not found.passed
    assert found.value == pytest.approx(0.2, abs=0.05)
    assert found.low is not None
    assert found.high is not None
    assert 0.1 < found.low < found.value < found.high
    assert "for m" in found.sentence
    assert "for f" in found.sentence
    assert "which misses the limit of at most 0.1" in found.sentence


def test_the_ratio_of_the_lowest_to_the_highest_has_bounds_that_hold_it() -> None:
    found = held(Fairness("gender", "selection_rate", min_ratio=0.8), {"f": 0.2, "m": 0.5})

    assert not found.passed
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.4 < found.high < 0.8
    assert held(Fairness("gender", "selection_rate", min_ratio=0.8), {"f": 0.5, "m": 0.5}).passed


@pytest.mark.parametrize(("unsure", "passed"), [("passes", True), ("refuses", False)])
def test_noise_alone_leaves_it_to_the_spec(unsure: str, passed: bool) -> None:
    for limit in ({"max_difference": 0.05}, {"min_ratio": 0.9}):
        asked = Fairness("gender", "selection_rate", unsure=unsure, **limit)  # type: ignore[arg-type]
        found = held(asked, {"f": 0.5, "m": 0.5}, count=200)

        assert found.passed is passed
        assert f"do not tell whether it is within ({unsure} when unsure)" in found.sentence


def test_chance_refuses_equal_groups_no_oftener_than_stated() -> None:
    shares = dict.fromkeys("abcdef", 0.3)
    asked = Fairness("g", "selection_rate", max_difference=0.0)

    refused = sum(not held(asked, shares, count=300, seed=seed).passed for seed in range(200))

    assert refused <= 18, "at 95 % confidence about 10 of 200, at the most"


def test_small_groups_are_left_out_and_with_fewer_than_two_nothing_is_told() -> None:
    label, said, group = rows({"f": 0.3, "m": 0.5})
    group[:3] = "x"
    assert (
        "x" not in fairness(Fairness("g", "selection_rate", max_difference=0.1), label, said, group).sentence
    )

    found = fairness(
        Fairness("g", "selection_rate", min_ratio=0.8, unsure="refuses"), label, said, np.full(4_000, "f")
    )
    assert (found.passed, found.value) == (False, None)
    assert "Fewer than two groups of g have 100 rows" in found.sentence


def test_groups_without_a_limit_are_compared_and_held_to_nothing() -> None:
    found = held(Fairness("gender", "selection_rate"), {"f": 0.2, "m": 0.5})

    assert found.passed
    assert found.value is not None and found.low is not None and found.high is not None
    assert found.low < 0.3 < found.high and found.value == pytest.approx(0.3, abs=0.05)
    assert found.sentence.endswith("with 95% confidence).")


def test_a_regression_is_held_to_its_mean_error_with_its_sign() -> None:
    rng = np.random.default_rng(1)
    label, group = rng.normal(size=1_000), np.arange(1_000) % 2
    said = label + rng.normal(0, 0.1, 1_000) + np.where(group == 1, 1.0, -1.0)

    assert fairness(Fairness("zone", "mae", max_difference=0.1), label, said, group).passed
    found = fairness(Fairness("zone", "mean_error", max_difference=0.1), label, said, group)
    assert not found.passed
    assert found.value == pytest.approx(2.0, abs=0.05)


def of_classes(shares: dict[str, list[float]], count: int = 2_000, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Return labels, probabilities and groups, of each of which so many are said to be of each class, whatever they are."""
    rng = np.random.default_rng(seed)
    said = np.concatenate([rng.choice(3, count, p=of) for of in shares.values()])
    label = rng.integers(0, 3, said.size).astype(np.float64)
    return label, 0.1 + 0.7 * np.eye(3)[said], np.repeat(list(shares), count)


@pytest.mark.parametrize("of", ["selection_rate", "true_positive_rate", "false_positive_rate"])
@pytest.mark.parametrize("limit", [{"max_difference": 0.1}, {"min_ratio": 0.8}])
def test_of_classes_the_one_that_is_furthest_from_fair_counts_and_is_told(
    of: Rate, limit: dict[str, float]
) -> None:
    """Group f is said to be of class b half as often as m, a difference of 0.2 as that of class a, and of class c alike."""
    rows = of_classes({"f": [0.6, 0.2, 0.2], "m": [0.4, 0.4, 0.2]})

    found = fairness(Fairness("gender", of, **limit), *rows, "abc")  # type: ignore[arg-type]

    assert not found.passed
    assert found.value is not None and found.low is not None and found.high is not None
    assert found.low < found.value < found.high
    assert f"The {of.replace('_', ' ')} of class {'b' if 'min_ratio' in limit else ''}" in found.sentence
    assert found.value == pytest.approx(0.5 if "min_ratio" in limit else 0.2, abs=0.06)
    alike = of_classes({"f": [0.5, 0.3, 0.2], "m": [0.5, 0.3, 0.2]})
    assert fairness(Fairness("gender", of, **limit), *alike, "abc").passed  # type: ignore[arg-type]


def test_the_error_of_classes_is_one_rate_whatever_the_class() -> None:
    rows = of_classes({"f": [0.6, 0.2, 0.2], "m": [0.4, 0.4, 0.2]})

    found = fairness(Fairness("gender", "error_rate", max_difference=0.1), *rows, "abc")

    assert found.passed
    assert found.sentence.startswith("The error rate is 0.6")


def test_chance_refuses_fair_classes_no_oftener_than_stated() -> None:
    asked = Fairness("g", "selection_rate", max_difference=0.0)

    refused = sum(
        not fairness(asked, *of_classes({name: [0.5, 0.3, 0.2] for name in "fgh"}, 300, seed), "abc").passed
        for seed in range(200)
    )

    assert refused <= 18, "at 95 % confidence about 10 of 200, at the most"


def test_a_class_of_which_two_groups_have_too_few_rows_is_left_out() -> None:
    label, said, group = of_classes({"f": [0.5, 0.3, 0.2], "m": [0.5, 0.3, 0.2]})
    label[label == 2] = 0
    asked = Fairness("g", "true_positive_rate", min_ratio=0.99, unsure="refuses")

    assert "class c" not in fairness(asked, label, said, group, "abc").sentence
    assert fairness(asked, label * 0 + 2, said, np.full(4_000, "f"), "abc").value is None


def test_rates_of_nothing_have_a_ratio_without_a_bound() -> None:
    found = held(Fairness("g", "selection_rate", min_ratio=0.8), {"f": 0.0, "m": 0.0})

    assert (found.passed, found.value) == (True, 1.0)
    assert found.low == 0.0


def test_groups_are_one_a_row() -> None:
    label, said, group = rows({"f": 0.3})
    with pytest.raises(ValueError, match="g has 5 values for 2000 rows"):
        fairness(Fairness("g", "selection_rate", max_difference=0.1), label, said, group[:5])
