"""A challenger that fails or is slow is taken back early, and one that is within what is stated rarely is."""

import math
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimtab_core.guardrails import GuardSpec, GuardState, update
from trimtab_core.specs import GuardrailsSpec

SPEC = GuardSpec.of(GuardrailsSpec())


def a_spec(**more: Any) -> GuardSpec:
    return GuardSpec.of(GuardrailsSpec(**more))


def played(
    rows: int = 3_000,
    *,
    seed: int = 0,
    failing: float = 0.0,
    champion_failing: float = 0.0,
    slower: float = 1.0,
    base_us: float = 20_000,
    spec: GuardSpec = SPEC,
) -> GuardState:
    """Play a rollout; both versions' times have heavy tails."""
    rng = np.random.default_rng(seed)
    ours, theirs = base_us * rng.lognormal(0, 0.5, (2, rows)) * [[1.0], [slower]]
    return update(
        spec, GuardState(), ours, theirs, rng.random(rows) < champion_failing, rng.random(rows) < failing
    )


@pytest.mark.parametrize(
    ("world", "spec"),
    [
        ({"failing": 0.01}, SPEC),
        ({"failing": 0.21, "champion_failing": 0.2}, SPEC),
        ({}, a_spec(slow=0.0, slower=1)),
        ({}, a_spec(slow=0.0, latency="30ms")),
    ],
    ids=["fails as much as is stated", "beside a champion that fails", "as slow as the champion", "of a stated bound"],
)  # fmt: skip
def test_a_challenger_within_what_is_stated_is_rarely_taken_back_however_often_one_looks(
    world: dict[str, Any], spec: GuardSpec
) -> None:
    spec = replace(spec, alpha=0.1)
    taken = sum(played(1_000, seed=seed, spec=spec, **world).tripped is not None for seed in range(120))

    assert taken / 120 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 120), "each guardrail has half of alpha"


def test_a_challenger_that_fails_is_taken_back_after_few_requests() -> None:
    ends = [played(seed=seed, failing=0.1) for seed in range(25)]

    assert all(end.tripped == "failures" for end in ends)
    assert np.median([end.failures.requests for end in ends]) < 150
    assert played(failing=1.0).failures.requests < 20


def test_a_challenger_that_is_slow_is_taken_back_and_one_that_is_quick_never() -> None:
    ends = [played(seed=seed, slower=10.0) for seed in range(25)]

    assert all(end.tripped == "latency" for end in ends)
    assert np.median([end.latency.requests for end in ends]) < 100
    assert played(slower=0.1).tripped is None
    assert played(slower=10.0, spec=a_spec(latency="2s")).tripped is None


def test_what_takes_less_than_the_least_time_is_not_slow() -> None:
    assert played(base_us=20, slower=10.0).tripped is None
    assert played(base_us=20, slower=10.0, spec=a_spec(least="1ms")).tripped is None
    assert played(base_us=2_000, slower=20.0).tripped == "latency"


def test_the_limit_follows_from_the_champions_times_and_needs_a_hundred_of_them() -> None:
    assert played(100).limit_us == 0.0
    known = played(3_000)
    p99 = 20_000 * math.exp(0.5 * 2.326)
    assert known.limit_us == pytest.approx(3 * p99, rel=0.3)
    assert known.latency.requests == 2_900


def test_a_run_that_failed_is_in_no_time() -> None:
    ones = np.ones(300)
    state = update(SPEC, GuardState(), ones * 1_000, ones * 1e9, ones == 0, ones == 0)
    assert state.tripped == "latency"

    failed = update(SPEC, GuardState(), ones * 1_000, ones * 1e9, ones == 0, ones == 1)
    assert (failed.tripped, failed.latency.requests) == ("failures", 0)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 120), max_size=8), st.integers(0, 9), st.sampled_from([0.0, 0.03, 0.2]))
def test_batches_do_not_matter(cuts: list[int], seed: int, failing: float) -> None:
    rng = np.random.default_rng(seed)
    ours, theirs = 20_000 * rng.lognormal(0, 0.5, (2, 500)) * [[1.0], [1 + 20 * failing]]
    rows = [ours, theirs, rng.random(500) < 0.01, rng.random(500) < failing]
    whole = update(SPEC, GuardState(), *rows)
    state, start = GuardState(), 0
    for size in [*cuts, 500]:
        state = msgspec.json.decode(msgspec.json.encode(state), type=GuardState)
        before = state
        state = update(SPEC, state, *[column[start : start + size] for column in rows])
        if state.tripped is not None:
            assert before.tripped or start + (state.at or 0) == whole.at
        start += size

    assert (state.tripped, state.failures, state.latency) == (whole.tripped, whole.failures, whole.latency)


def test_no_requests_change_nothing_and_columns_that_do_not_fit_are_refused() -> None:
    assert update(SPEC, GuardState(), [], [], [], []) == GuardState()
    with pytest.raises(ValueError, match="no pairs"):
        update(SPEC, GuardState(), [1.0], [1.0, 2.0], [False], [False])
