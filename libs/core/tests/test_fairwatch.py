"""Fairness as rows come: at most the stated false alarms where the limit is kept, and told where it is not."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from trimtab_core.fairness import Fairness
from trimtab_core.fairwatch import FairState, Looked, look

RATE = Fairness("group", "selection_rate", max_difference=0.1, min_rows=100)
MINUTE = 60_000


def lived(
    asked: Fairness, shares: dict[str, float], *, windows: int, needed: float, seed: int = 0, rows: int = 200,
    state: FairState | None = None,
) -> list[Looked]:  # fmt: skip
    """Return what each window says in which the groups, of sizes 3 to 1, have these rates."""
    rng, found = np.random.default_rng(seed), list[Looked]()
    names = list(shares)
    for at in range(windows):
        group = rng.choice(names, rows, p=np.array([3, *[1] * (len(names) - 1)]) / (len(names) + 2))
        hit = (rng.random(rows) < np.array([shares[name] for name in group])).astype(float)
        label, prediction = (np.zeros(rows), hit) if asked.of != "mae" else (np.zeros(rows), hit * 5)
        found.append(
            look(
                asked, state, label, prediction, group, version=1, from_ms=at * MINUTE, to_ms=(at + 1) * MINUTE,
                cap=5, windows=needed, patience=2,
            )
        )  # fmt: skip
        state = found[-1].state
    return found


@pytest.mark.parametrize(
    ("asked", "shares"),
    [
        (RATE, {"f": 0.4, "m": 0.5}),
        (replace(RATE, max_difference=None, min_ratio=0.8), {"f": 0.4, "m": 0.5, "x": 0.45}),
        (replace(RATE, of="mae", max_difference=0.5), {"f": 0.4, "m": 0.5}),
    ],
)
def test_at_the_very_limit_there_are_no_more_alarms_than_stated(
    asked: Fairness, shares: dict[str, float]
) -> None:
    """Of 30 lives of 60 windows each, 20 windows on average before an alarm, stopped at the first."""
    alarms = windows = 0
    for seed in range(30):
        raised = [
            each.state.since_ms is not None for each in lived(asked, shares, windows=60, needed=20, seed=seed)
        ]
        alarms += any(raised)
        windows += raised.index(True) + 1 if any(raised) else 60

    assert alarms <= 1.5 * windows / 20


@pytest.mark.parametrize(
    ("asked", "shares"),
    [
        (RATE, {"f": 0.25, "m": 0.6}),
        (replace(RATE, max_difference=None, min_ratio=0.8), {"f": 0.25, "m": 0.6}),
        (replace(RATE, of="mae", max_difference=0.5), {"f": 0.6, "m": 0.25}),
    ],
)
def test_a_limit_that_is_broken_is_told_and_over_once_it_is_kept(
    asked: Fairness, shares: dict[str, float]
) -> None:
    unfair = lived(asked, shares, windows=30, needed=1_000)
    first = next(at for at, each in enumerate(unfair) if each.state.since_ms is not None)

    assert first < 20
    assert "further apart between group than its limit allows" in unfair[first].sentence
    assert {group.name for group in unfair[first].groups} == {"f", "m"}
    assert all(group.low <= group.rate <= group.high for group in unfair[first].groups)

    fair = lived(asked, {"f": 0.5, "m": 0.5}, windows=10, needed=1_000, state=unfair[-1].state)
    assert fair[-1].state.since_ms is None
    assert fair[-1].evidence < 10


def test_a_group_that_is_too_small_says_nothing_until_enough_of_its_rows_have_come() -> None:
    found = lived(RATE, {"f": 0.0, "m": 0.9}, windows=4, needed=1e9, rows=120)

    assert [each.evidence > 0 for each in found] == [False, False, False, True]
    assert {name for name, rows in found[2].state.rows.items() if rows < 100} == {"m"}


def test_another_version_begins_afresh() -> None:
    unfair = lived(RATE, {"f": 0.0, "m": 0.9}, windows=10, needed=10)[-1].state
    assert unfair.since_ms is not None
    none: Any = np.array([])

    found = look(
        RATE,
        unfair,
        none,
        none,
        none.astype(str),
        version=2,
        from_ms=9,
        to_ms=9,
        cap=1,
        windows=10,
        patience=2,
    )

    assert (found.state, found.evidence, found.groups) == (FairState(2, from_ms=9), 0.0, ())
