"""Times are quantiles within bounds, and a limit is missed only where the bounds say so."""

import numpy as np
import pytest
from trimtab_core import cost


def times(ms: float, seed: int = 0, count: int = 1_000) -> np.ndarray:
    return ms * np.random.default_rng(seed).lognormal(0, 0.2, count)


def test_a_graph_twice_as_slow_is_told_from_the_champions() -> None:
    found = cost.latency("p99", times(2.0), times(1.0, seed=1))

    assert found.ratio is not None
    assert found.ratio.low < 2 < found.ratio.high
    refused = cost.held_to_champion("p99", found, 1.5)
    assert not refused.passed
    assert "times the champion's" in refused.sentence
    assert "which misses the limit of at most 1.5 times" in refused.sentence
    assert cost.held_to_champion("p99", found, 2.5).passed


def test_what_disturbs_both_leaves_the_ratio() -> None:
    slowed = np.where(np.arange(1_000) < 300, 8.0, 1.0)
    found = cost.latency("p50", times(1.0) * slowed, times(1.0, seed=1) * slowed)

    assert found.ratio is not None
    assert found.ratio.value == pytest.approx(1.0, abs=0.05)
    assert cost.held_to_champion("p50", found, 1.2).passed


def test_a_time_within_its_bounds_of_the_limit_is_not_missed() -> None:
    found = cost.latency("p50", times(1.0), None)

    assert cost.held_to_time("p50", found, 2.0).passed
    assert cost.held_to_time("p50", found, found.ms.value - 1e-9).passed
    assert not cost.held_to_time("p50", found, 0.5).passed


def test_a_first_version_has_nothing_to_be_slower_than() -> None:
    found = cost.held_to_champion("p99", cost.latency("p99", times(1.0), None), 1.5)

    assert (found.passed, found.value) == (True, None)


def test_a_few_calls_will_do() -> None:
    assert cost.latency("p99", np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 1.0])).ratio is not None


def test_a_graph_over_its_size_is_refused() -> None:
    assert cost.held_to_size(50_000_000, 50_000_000).passed
    found = cost.held_to_size(51_000_000, 50_000_000)
    assert not found.passed
    assert found.sentence == "The exported graph has 51 MB, which misses the limit of at most 50 MB."
