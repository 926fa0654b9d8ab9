"""What a rollout is likely to need is foreseen to a factor: from its rows, and while those are few from what the champion lost before."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from trimtab_core.foresight import beforehand, early_sentence, foreseen, sentence
from trimtab_core.judge import JudgeSpec, JudgeState, update
from trimtab_core.watched import Trial

Floats = NDArray[np.float64]
DAY = 86_400_000
SPEC = JudgeSpec(cap=10.0)


def a_trial(rows: int, *, better_by: float, seed: int = 0, spread: float = 2.0) -> Trial:
    loss = np.random.default_rng(seed).normal(better_by, spread, rows)
    state = update(SPEC, JudgeState(), np.full(rows, 5.0), 5.0 - loss)
    return Trial("r", 2, 7, 0, SPEC, state)


def test_the_rows_that_are_foreseen_are_those_that_are_needed_within_a_factor() -> None:
    needed, told = list[int](), list[int]()
    for seed in range(60):
        whole = a_trial(6_000, better_by=0.2, seed=seed).state
        assert whole.decided == "promote"
        if whole.n > 200:
            found = foreseen(a_trial(200, better_by=0.2, seed=seed), DAY)
            if found.more is not None and found.difference > 0:
                needed.append(whole.n - 200)
                told.append(found.more)

    assert len(told) > 30
    assert 1 / 3 < np.median(told) / np.median(needed) < 3


def test_what_the_rows_by_the_longest_wait_can_tell_follows_from_the_pace() -> None:
    found = foreseen(a_trial(200, better_by=0.0), 2 * DAY)

    assert found.in_time == 1_200
    assert found.smallest == pytest.approx(2.0 * np.sqrt(2 * np.log(20) / 1_400), rel=0.1)
    assert foreseen(a_trial(200, better_by=0.0), 20 * DAY).in_time == 0


@pytest.mark.parametrize(
    ("trial", "told"),
    [
        (
            a_trial(12, better_by=1.0),
            "12 labelled rows of version 7 so far: from 30 on it is foreseen how many are needed.",
        ),
        (
            a_trial(0, better_by=1.0),
            "0 labelled rows of version 7 so far: from 30 on it is foreseen how many are needed.",
        ),
        (a_trial(900, better_by=2.0, spread=0.5), "Version 7 is decided on, after"),
        (a_trial(100, better_by=-0.5), "more mae a row; to tell a difference of that size about"),
        (
            Trial("r", 2, 7, 0, SPEC, update(SPEC, JudgeState(), np.ones(50), np.ones(50))),
            "version 7 has 0 less mae a row; no difference of that size can be told",
        ),
    ],
)
def test_it_is_said_in_a_sentence(trial: Trial, told: str) -> None:
    assert told in sentence(trial, foreseen(trial, DAY), "mae")


def test_a_number_of_rows_is_told_to_two_digits() -> None:
    trial: Any = a_trial(100, better_by=-0.1)
    found = foreseen(trial, DAY)

    assert found.more is not None
    assert f"{round(found.more, -len(str(found.more)) + 2):,} more are needed" in sentence(
        trial, found, "mae"
    )


def needed(challenger: Floats, champion: Floats, spec: JudgeSpec) -> float:
    """Return how many rows the judge needs in the median of as many trials as there are lines."""
    found = [update(spec, JudgeState(), *pair) for pair in zip(champion, challenger, strict=True)]
    return float(np.median([state.n if state.decided == "promote" else math.inf for state in found]))


@pytest.mark.parametrize(
    ("spec", "draw"),
    [
        (JudgeSpec(cap=60), lambda rng, size: rng.exponential(3, size)),
        (JudgeSpec(cap=60), lambda rng, size: np.minimum(2 * rng.pareto(1.8, size), 60)),
        (JudgeSpec(cap=4, alpha=0.01), lambda rng, size: rng.exponential(0.4, size)),
        (JudgeSpec(cap=1), lambda rng, size: (rng.random(size) < 0.3).astype(float)),
    ],
)
def test_before_the_first_row_the_rows_are_foreseen_within_a_factor_from_what_the_champion_lost(
    spec: JudgeSpec, draw: Callable[[Any, Any], Floats]
) -> None:
    rng = np.random.default_rng(3)
    usual = draw(rng, 100_000)
    found = beforehand(spec, usual.mean(), usual.std(), None)
    assert found is not None

    size = (15, 6 * found.rows)
    took = needed(0.9 * draw(rng, size), draw(rng, size), spec)
    assert 1 / 3 < took / found.rows < 3

    alike = draw(rng, size)
    assert needed(0.9 * alike, alike, spec) < took, "unrelated losses are the cautious case"


def test_what_is_foreseen_before_the_first_row_says_when_and_what_else_the_longest_wait_tells() -> None:
    trial = Trial("r", 2, 7, 0, SPEC)
    assert beforehand(SPEC, 0.0, 0.0, 100) is None, "a champion that loses nothing"
    plain, soon, late = (beforehand(SPEC, 3.0, 2.0, pace) for pace in (None, 1_000, 10))
    assert plain is not None and soon is not None and late is not None

    assert early_sentence(trial, plain, "mae").startswith(
        "0 labelled rows of version 7 so far: to tell a difference of 0.3 mae a row, a tenth of what the champion usually loses, about "
    )
    assert soon.days == plain.rows / 1_000
    assert f"in {soon.days:.2g} of the 14 days that it waits at most (" in early_sentence(trial, soon, "mae")
    assert late.smallest is not None and late.smallest > 2 * late.difference
    assert f"days, and it waits 14 at most, which tell a difference of {late.smallest:.2g} or more (" in (
        early_sentence(trial, late, "mae")
    )
