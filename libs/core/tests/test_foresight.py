"""What a rollout is likely to need is foreseen to a factor, and not at all from a few rows."""

from typing import Any

import numpy as np
import pytest
from trimtab_core.foresight import foreseen, sentence
from trimtab_core.judge import JudgeSpec, JudgeState, update
from trimtab_core.watched import Trial

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
