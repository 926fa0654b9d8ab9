"""The judge keeps its promise under continuous looking, and decides in hundreds of rows."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimtab_core.judge import JudgeSpec, JudgeState, update, verdict

SPEC = JudgeSpec(cap=60.0, alpha=0.05)


def decided(
    better_by: float, *, rollouts: int, rows: int = 2_000, spec: JudgeSpec = SPEC
) -> list[JudgeState]:
    """Play rollouts of paired differences with heavy tails, sd 3, looked at on every row."""
    rng = np.random.default_rng(11)
    states = []
    for _ in range(rollouts):
        difference = np.clip(rng.standard_t(3, rows) * math.sqrt(3) + better_by, -30, 30)
        states.append(update(spec, JudgeState(), np.full(rows, 30.0), 30.0 - difference))
    return states


@pytest.mark.parametrize(("cap", "sigma"), [(60.0, 1.3), (10.0, 1.3), (60.0, 0.5)])
def test_a_challenger_that_is_no_better_is_rarely_promoted_however_often_one_looks(
    cap: float, sigma: float
) -> None:
    rng = np.random.default_rng(5)
    spec = JudgeSpec(cap=cap, alpha=0.05)
    ends = [
        update(spec, JudgeState(), rng.lognormal(1, sigma, 2_000), rng.lognormal(1, sigma, 2_000)).decided
        for _ in range(600)
    ]

    assert ends.count("promote") / 600 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 600)
    assert ends.count("rollback") / 600 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 600)


def test_a_challenger_half_a_minute_better_is_promoted_within_several_hundred_rows() -> None:
    states = decided(0.5, rollouts=200)

    assert all(state.decided == "promote" for state in states)
    assert np.median([state.n for state in states]) < 700


def test_a_challenger_half_a_minute_worse_is_rolled_back_as_soon() -> None:
    states = decided(-0.5, rollouts=200)

    assert all(state.decided == "rollback" for state in states)
    assert np.median([state.n for state in states]) < 700


def test_better_by_less_than_the_margin_is_not_better() -> None:
    states = decided(0.4, rollouts=200, spec=JudgeSpec(cap=60.0, alpha=0.05, margin=0.4))

    assert sum(state.decided == "promote" for state in states) / 200 <= 0.08


def test_the_interval_covers_the_truth_at_the_end_of_nearly_every_rollout() -> None:
    spec = JudgeSpec(cap=60.0, alpha=0.05, margin=59.0, worse_margin=59.0)
    bounds = [verdict(spec, state, 0) for state in decided(0.5, rollouts=200, spec=spec)]

    assert np.mean([bound.low <= 0.5 <= bound.high for bound in bounds]) >= 0.95
    assert np.median([bound.high - bound.low for bound in bounds]) < 1.0


@settings(max_examples=40)
@given(st.lists(st.integers(1, 90), max_size=8), st.integers(0, 9), st.sampled_from([-1.5, 0.0, 1.5]))
def test_batches_do_not_matter(cuts: list[int], seed: int, better_by: float) -> None:
    rng = np.random.default_rng(seed)
    champion = rng.lognormal(1, 1, 400)
    challenger = np.abs(champion - better_by + rng.normal(0, 1, 400))
    state, start = JudgeState(), 0
    for size in [*cuts, 400]:
        state = msgspec.json.decode(msgspec.json.encode(state), type=JudgeState)
        state = update(SPEC, state, champion[start : start + size], challenger[start : start + size])
        start += size

    assert state == update(SPEC, JudgeState(), champion, challenger)


def test_a_decision_is_not_undone_by_later_rows() -> None:
    state = decided(0.5, rollouts=1)[0]

    assert update(SPEC, state, np.zeros(500), np.full(500, 60.0)) == state
    assert verdict(SPEC, state, 1e9).action == "promote"


def test_a_canary_climbs_one_step_for_each_part_of_the_evidence() -> None:
    heights = [
        verdict(SPEC, JudgeState(n=9, peak=part * math.log(20)), 0.0) for part in (0.3, 0.34, 0.67, 0.99)
    ]

    assert [height.action for height in heights] == ["continue", "advance", "advance", "advance"]
    assert [height.share for height in heights] == [10, 50, 100, 100]
    assert verdict(SPEC, JudgeState(n=9, peak=0.67 * math.log(20)), 0.0, step=2).action == "continue"
    assert verdict(SPEC, JudgeState(n=9, peak=0.0), 0.0, step=1).step == 1


def test_after_the_longest_wait_nothing_is_decided() -> None:
    state = update(SPEC, JudgeState(), [3.0, 2.0], [2.0, 3.0])

    assert verdict(SPEC, state, SPEC.within_s - 1).action == "continue"
    late = verdict(SPEC, state, SPEC.within_s)
    assert (late.action, late.n, late.mean_difference, late.low, late.high) == (
        "undecided",
        2,
        0.0,
        -60.0,
        60.0,
    )


def test_one_monster_row_decides_nothing() -> None:
    state = update(SPEC, JudgeState(), [3_310.0], [0.0])

    assert verdict(SPEC, state, 0).mean_difference == 60
    assert state.decided is None


def test_no_rows_change_nothing_and_odd_rows_are_refused() -> None:
    assert update(SPEC, JudgeState(), [], []) == JudgeState()
    with pytest.raises(ValueError, match="no pairs"):
        update(SPEC, JudgeState(), [1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="finite"):
        update(SPEC, JudgeState(), [np.nan], [1.0])
    with pytest.raises(ValueError, match="margins"):
        JudgeSpec(cap=1.0, margin=2.0)
