"""Several arms are judged as one test: what no arm deserves happens with probability at most alpha, whatever the batches."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from trimtab_core import trial
from trimtab_core.specs import Model, ModelSpec
from trimtab_core.watched import Arm, Others, Row, Said, Standing, Trial, Verdict

ROLLOUT = "m/2/5"
MINUTE = 60_000


def a_spec(**rollout: Any) -> ModelSpec:
    spec = {
        "task": "regression",
        "source": "asks",
        "features": ["request.x"],
        "label": {"source": "truths", "on": "id", "value": "y", "within": "1h"},
        "trainer": {"window": "30d"},
        "rollout": {"cap": 10, "within": "2d", **rollout},
        "retrain": {"on": ["data"]},
    }
    return Model.model_validate({"metadata": {"name": "m"}, "spec": spec}).spec


SPEC = a_spec()


def rows(errors: Mapping[int, Sequence[float]], *, began: int = 0, start: int = 0) -> list[Row]:
    """Return rows of an A/B test whose label is 0 and whose versions, the challenger first, are off by `errors`."""
    challenger, *others = errors
    return [
        Row(
            (start + at) * MINUTE, f"{start + at:06}", 1, 5, challenger, ROLLOUT, 2.0, errors[challenger][at], b"", 0.0,
            others=msgspec.json.encode(
                Others(began or len(errors), tuple(Said(each, errors[each][at]) for each in others))
            ),
        )
        for at in range(len(errors[challenger]))
    ]  # fmt: skip


def taken(part: Sequence[Row], trials: Sequence[Trial] = ()) -> tuple[Trial, ...]:
    return trial.take(trials, part, np.array([abs(row.champion) for row in part]), SPEC)


def standing(*versions: int, left: int = 0) -> Standing:
    arms = tuple(Arm(version, 20, f"loop-{version}") for version in versions)
    return Standing("m", 5, 1, versions[0], ROLLOUT, left, (), "loop", arms)


def said(trials: Sequence[Trial], where: Standing, *, closed_ms: int = 0) -> Verdict | None:
    return trial.verdict("m", trials, where, "mae", closed_ms=closed_ms, recorded_ms=7)


def noise(seed: int, size: int, off: float) -> list[float]:
    return [float(value) for value in np.abs(np.random.default_rng(seed).normal(off, 0.5, size))]


def test_an_aaa_test_promotes_anything_with_probability_at_most_alpha() -> None:
    rng, tests, promoted, dropped = np.random.default_rng(3), 160, 0, 0
    for _ in range(tests):
        # Alike in what they lose, and correlated, as versions of a model are.
        losses = 3 + rng.standard_t(3, (300, 1)) * 0.5 + rng.normal(0, 1, (300, 4))
        part = rows({2: losses[:, 0].tolist(), 3: losses[:, 1].tolist(), 4: losses[:, 2].tolist()})
        trials = trial.take((), part, np.clip(np.abs(losses[:, 3]), 0, 10), SPEC)
        decided = {each.state.decided for each in trials}
        promoted += "promote" in decided
        dropped += "rollback" in decided

    most = 0.05 + 2 * math.sqrt(0.05 * 0.95 / tests)
    assert (promoted / tests <= most, dropped / tests <= most) == (True, True), (promoted, dropped)


def test_each_arm_needs_the_evidence_of_all_arms_and_the_best_is_named() -> None:
    trials = taken(rows({2: noise(1, 200, 2.0), 3: noise(2, 200, 0.5), 4: noise(3, 200, 1.5)}))

    assert [each.challenger for each in trials] == [2, 3, 4]
    assert {each.spec.alpha for each in trials} == {0.05 / 3}
    found = said(trials, standing(2, 3, 4))
    assert found is not None
    assert (found.outcome, found.challenger, found.id) == ("PROMOTE", 3, f"{ROLLOUT}/0/promote")
    assert found.evidence >= 60
    assert found.sentence.startswith("It is better: over ")
    assert "the mae of version 3 was" in found.sentence
    assert "(promoted at 60, one of 3 arms)" in found.sentence


def test_a_bad_arm_goes_first_and_the_test_speaks_again_once_it_has_left() -> None:
    trials = taken(rows({2: noise(1, 300, 4.0), 3: noise(2, 300, 1.6)}))
    first = said(trials, standing(2, 3))
    assert first is not None
    assert (first.outcome, first.challenger, first.step) == ("ROLL_BACK", 2, 0)

    trials = (replace(trials[0], said_at_step=0), *trials[1:])
    assert said(trials, standing(2, 3)) is None, "the registry has not acted on it yet"
    trials = taken(rows({3: noise(4, 300, 1.0)}, began=2, start=300), trials)
    then = said(trials, standing(3, left=1))
    assert then is not None
    assert (then.outcome, then.challenger, then.step) == ("PROMOTE", 3, 1)
    assert {each.spec.alpha for each in trials} == {0.025}


def test_arms_that_are_alike_end_undecided_and_together() -> None:
    trials = taken(rows({2: [2.0] * 50, 3: [2.0] * 50}))
    assert said(trials, standing(2, 3), closed_ms=trials[0].deadline_ms - 1) is None

    found = said(trials, standing(2, 3), closed_ms=trials[0].deadline_ms)
    assert found is not None
    assert (found.outcome, found.challenger, found.rows) == ("UNDECIDED", 2, 50)
    assert found.sentence.startswith("None is better after 2.0 days, so the champion stays")


def test_an_arm_that_is_warm_later_counts_from_its_first_row_under_the_same_deadline() -> None:
    trials = taken(rows({2: noise(1, 20, 2.0)}, began=2))
    trials = taken(rows({2: noise(1, 30, 2.0), 3: noise(2, 30, 2.0)}, start=20), trials)

    assert [(each.challenger, each.state.n, each.first_ms) for each in trials] == [(2, 50, 0), (3, 30, 0)]
    assert [each.spec.alpha for each in trials] == [0.025, 0.025]


def test_an_arm_without_an_answer_makes_no_pair() -> None:
    part = rows({2: noise(1, 20, 2.0), 3: [math.nan] * 5 + noise(2, 15, 2.0)})

    assert [each.state.n for each in taken(part)] == [20, 15]


@settings(max_examples=20)
@given(st.lists(st.integers(1, 90), max_size=6), st.integers(0, 9))
def test_batches_do_not_matter(cuts: list[int], seed: int) -> None:
    part = rows({2: noise(seed, 150, 2.1), 3: noise(seed + 50, 150, 1.6), 4: noise(seed + 99, 150, 2.8)})
    whole, trials, start = taken(part), tuple[Trial, ...](), 0
    for size in [*cuts, 150]:
        trials = taken(part[start : start + size], trials)
        start += size

    assert trials == whole
    assert said(trials, standing(2, 3, 4)) == said(whole, standing(2, 3, 4))
