"""Labels of wanted rows alone, each weighed by its chance, come to what labels of all rows would have come to."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from trimtab_core import (
    accepted,
    ahead,
    baseline,
    calibration,
    judge,
    labelling,
    promised,
    slicing,
    specs,
    trial,
    windows,
)
from trimtab_core.baseline import Settings
from trimtab_core.judge import JudgeSpec, JudgeState
from trimtab_core.specs import Model
from trimtab_core.watched import Acceptance, Ahead, Row, Scored, Series
from trimtab_core.windows import DataWindow, PerformanceWindow

Floats = NDArray[np.float64]
CAP = 10.0


def a_model(**monitoring: Any) -> Model:
    spec = {
        "task": "regression", "source": "asks", "features": ["request.x"], "trainer": {"window": "30d"},
        "label": {"source": "truths", "on": "id", "value": "y", "within": "1h"}, "rollout": {"cap": CAP},
        "monitoring": {"window": 100, "labels_wanted": 10, "labelled": "wanted"} | monitoring,
    }  # fmt: skip
    return Model.model_validate({"metadata": {"name": "m"}, "spec": spec})


def some_rows(rng: np.random.Generator, rows: int) -> tuple[Floats, Floats]:
    """Return what rows are expected to lose, and lose: one in nine loses ten times as much as the others."""
    expected = np.where(rng.random(rows) < 1 / 9, 2.0, 0.2)
    return expected, np.minimum(expected * rng.exponential(1, rows), CAP)


def asked(rng: np.random.Generator, windows: int, rows: int = 100, count: int = 10) -> tuple[Floats, Floats]:
    """Return the loss of each row that is asked for in so many windows, and its weight."""
    lost, weight = list[Floats](), list[Floats]()
    for _ in range(windows):
        expected, losses = some_rows(rng, rows)
        chance = labelling.chances(expected, count)
        at = labelling.drawn(chance, int(rng.integers(2**31)))
        lost.append(losses[at])
        weight.append(labelling.weights(chance)[at])
    return np.concatenate(lost), np.concatenate(weight)


def test_the_weighed_mean_of_wanted_rows_is_that_of_all_and_no_row_weighs_more_than_two() -> None:
    lost, weight = asked(np.random.default_rng(0), 1_500)

    mean, error = (lost * weight).mean(), (lost * weight).std() / np.sqrt(lost.size)
    assert abs(mean - 0.4) < 3 * error < 0.012
    assert lost.mean() > 0.75, "unweighed it is that of the hard rows"
    assert abs(weight.mean() - 1) < 0.01
    assert weight.max() <= labelling.HEAVIEST == 2
    alone = labelling.weights(labelling.chances(np.array([0.0, np.nan, 1.0, 900.0]), 2))
    assert alone.max() <= 2


def test_calibrated_losses_are_those_of_the_draw_and_know_their_mean_no_better_than_the_rows() -> None:
    rng = np.random.default_rng(1)
    expected, losses = some_rows(rng, 4_000)

    found = labelling.weighed(losses, expected, 100, 10)

    live, weight = asked(rng, 1_000)
    assert found.mean() == pytest.approx(losses.mean(), abs=0.03)
    assert found.std() == pytest.approx((live * weight).std(), rel=0.1)
    assert found.var() / found.size == pytest.approx(losses.var() / losses.size, rel=0.15)
    assert labelling.weighed(losses, np.full(4_000, np.nan), 100, 100).tolist() == losses.tolist()
    assert labelling.weighed(losses[:3], expected[:3], 100, 10).size == 3
    assert not labelling.weighed(np.zeros(500), np.ones(500), 100, 10).any()


def test_losses_that_are_all_alike_are_drawn_as_others_are() -> None:
    assert labelling.weighed(np.full(10_000, 0.35), np.full(10_000, np.nan), 500, 20).size >= 10_000


def test_while_nothing_changes_windows_of_wanted_rows_are_over_as_seldom_as_was_asked() -> None:
    """One window in twenty by itself is stated: 500 of five versions, whose references are off by chance."""
    over = 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        expected, losses = some_rows(rng, 6_000)
        held = labelling.weighed(losses, expected, 100, 10, seed=seed)
        rule = calibration.Rule(1, 1)
        level = calibration.calibrate_mean(
            held, window=100, false_alarms=0.05, rule=rule, rounds=300, tolerance=0
        )
        lost, weight = asked(rng, 1_000)
        over += sum(calibration.judge_level(level, part).over for part in np.split(lost * weight, 100))

    assert over < 40


def test_a_version_right_at_the_accepted_level_is_said_to_be_above_it_at_most_as_often_as_stated() -> None:
    """At an alpha of a fifth, 40 versions of 1,000 wanted rows: 8 are allowed, and 15 would be beyond chance."""
    held = accepted.held_to(a_model(accept={"at_most": 0.4, "alpha": 0.2}).spec)
    assert held is not None
    assert held.cap == 2 * CAP
    told = 0
    for seed in range(40):
        lost, weight = asked(np.random.default_rng(seed), 100)
        _, at = accepted.bet(Acceptance(held), (lost * weight).tolist(), range(lost.size))
        told += at is not None

    assert told < 15
    lost, weight = asked(np.random.default_rng(0), 20)
    assert accepted.bet(Acceptance(held), (3 * lost * weight).tolist(), range(lost.size))[1] is not None


def test_wanted_rows_judge_a_rollout_by_what_all_rows_would_say() -> None:
    """The challenger is worse on the many easy rows and better on the few hard ones, by less in all."""
    rng = np.random.default_rng(3)
    lost, weight = asked(rng, 400)
    hard = weight < 1
    theirs = np.where(hard, lost * 0.7, lost + 0.2)

    state = judge.update(JudgeSpec(2 * CAP), JudgeState(), lost * weight, theirs * weight)

    assert (lost - theirs).mean() > 0, "unweighed it is better"
    assert state.decided == "rollback"


def a_row(at: int, x: float, label: float | None, weight: float | None, other: float = 0.0) -> Row:
    return Row(at, f"{at:03}", 1, 1, 2, "r", 0.0, other, np.array([float(x)]).tobytes(), label, weight=weight)


def test_losses_count_by_weight_alike_of_all_versions_and_a_row_that_was_not_asked_for_has_none() -> None:
    spec = a_model().spec
    rows = [
        a_row(1, 0, 3.0, 0.5),
        a_row(2, 0, 40.0, 2.0),
        a_row(3, 0, None, 1.0),
        a_row(4, 0, None, None, 1.0),
    ]

    assert windows.champion_losses(spec, rows)[:2].tolist() == [1.5, 2 * CAP]
    assert np.isnan(windows.champion_losses(spec, rows)[2:]).all()
    assert windows.plain_losses(spec, rows)[:2].tolist() == [3.0, CAP]
    assert [row.lacks_label for row in rows] == [False, False, True, False]
    (begun,) = trial.take((), rows, windows.champion_losses(spec, rows), spec)
    assert (begun.spec.cap, begun.state.n) == (2 * CAP, 2)
    assert windows.challenger_losses("regression", "mae", CAP, rows)[:2].tolist() == [1.5, 2 * CAP]


def test_a_trial_that_began_with_labels_for_all_rows_begins_anew_where_they_come_for_wanted_ones() -> None:
    before, spec = a_model(labelled="all").spec, a_model().spec
    rows = [a_row(at, 0, 1.0, 1.0, 1.0) for at in range(5)]
    trials = trial.take((), rows, windows.champion_losses(before, rows), before)
    assert (trials[0].spec.cap, trials[0].state.n) == (CAP, 5)

    rows = [a_row(at, 0, 9.0, 2.0, 1.0) for at in range(5, 8)]
    (anew,) = trial.take(trials, rows, windows.champion_losses(spec, rows), spec)

    assert (anew.spec.cap, anew.state.n) == (2 * CAP, 3)
    (back,) = trial.take((anew,), rows, windows.champion_losses(before, rows), before)
    assert (back.spec.cap, back.state.n) == (2 * CAP, 6)


def test_slices_and_arms_are_told_by_weight_and_the_share_that_is_labelled_is_of_wanted_rows() -> None:
    """Of slice 0 a hard row weighs a half and an easy one two; slice 1 was asked for less often than it comes."""
    spec = a_model(slices=["x"]).spec
    rows = [
        a_row(1, 0, 4.0, 0.5, 1.0), a_row(2, 0, 1.0, 2.0, 1.0), a_row(3, 1, 1.0, 2.0, 2.0),
        a_row(4, 1, None, 2.0), a_row(5, 1, None, None),
    ]  # fmt: skip
    lost = windows.champion_losses(spec, rows).tolist()
    scored = [
        Scored(row.at_ms, row.id, loss, row) for row, loss in zip(rows, lost, strict=True) if loss == loss
    ]
    window = PerformanceWindow(1, scored)

    told = {(it.arm, it.slice): it.value for it in slicing.measured("m", window, ["request.x"], spec)}
    assert told["", "0"] == pytest.approx((4 * 0.5 + 1 * 2) / 2.5)
    assert told["", "1"] == pytest.approx(1)
    assert told["challenger", "0"] == pytest.approx((3 * 0.5 + 0) / 2.5)
    assert told["champion", ""] == pytest.approx((2 + 2 + 2) / 4.5)
    share, *by_slice = slicing.asked("m", DataWindow(1, rows), ["request.x"], spec)
    assert (share.value, share.rows) == (0.75, 4)
    assert {it.slice: (it.value, it.rows) for it in by_slice} == {"0": (1.0, 2), "1": (0.5, 2)}

    whole = replace(share, name="mae", value=float(np.mean(window.losses)), rows=3, to_ms=window.covers.to_ms)
    published = slicing.told(window, [whole, *slicing.measured("m", window, ["request.x"], spec)], spec)
    assert published is not None
    assert slicing.corrected("m", published, rows[:3], ["request.x"], spec)[1] == [], "nothing came late"
    risen = slicing.risen(window, ["request.x"], "mae", 0.5, {"request.x": {"0": slicing.Usual(9, 0.5)}})
    assert [(it.slice, it.share) for it in risen] == [
        ("0", pytest.approx(2.75 / 4.5)),
        ("1", pytest.approx(1 / 4.5)),
    ]


def test_rows_are_not_closed_before_it_is_known_which_are_wanted() -> None:
    filling = Ahead(reached_ms=90, rows=Series(3, 70, "a"))

    assert ahead.closable(a_model().spec, filling, 80) == 69
    assert ahead.closable(a_model().spec, filling, 60) == 60
    assert ahead.closable(a_model().spec, Ahead(reached_ms=90), 99) == 90
    assert ahead.closable(a_model(labelled="all").spec, filling, 80) == 80


def test_of_wanted_rows_windows_of_performance_are_fewer_and_share_the_rate_that_is_stated() -> None:
    rng = np.random.default_rng(4)
    columns = {
        "request.x": rng.normal(size=3_000), "prediction": rng.normal(size=3_000),
        "loss": some_rows(rng, 3_000)[1], "event_time_ms": np.arange(3_000) * 600_000.0,
    }  # fmt: skip
    model = a_model(false_alarms="1 per 30d", concept=True)
    every, wanted = (Settings.of(each, None) for each in (a_model(labelled="all", concept=True), model))
    assert wanted.key == f"{replace(wanted, wanted=None).key}; 10 wanted"
    assert every.wanted is None

    found = baseline.calibrate(columns, wanted)

    rate = baseline.false_alarms_a_window(columns["event_time_ms"], wanted)
    tenth = baseline.false_alarms_a_window(columns["event_time_ms"], wanted, 0.1)
    assert found.performance.false_alarms == tenth == min(10 * rate, 0.05 / 4)
    assert found.performance.mean == pytest.approx(columns["loss"].mean(), rel=0.1)
    assert found.change is not None
    said = promised.promised(1, found, wanted)[1]
    assert said.startswith(
        "Labels come for 10 of a window at most, so a window of performance is of 100 of those, "
    )
    assert found.performance.small, "3,000 rows are 300 such labels, of three windows"
    assert not baseline.calibrate(columns, every).performance.small
    for count, tells in (
        (10, "is not judged with fewer than 50"),
        (60, "is of as many, and its drift is told in one of"),
    ):
        by_time = replace(wanted, every_ms=86_400_000, wanted=count)
        assert tells in promised.promised(1, found, by_time)[1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"monitoring": {"labelled": "wanted"}}, "no label is wanted, so none would ever come: say how many are a window"),
        (
            {
                "monitoring": {"labelled": "wanted", "labels_wanted": 20},
                "gates": [{"fairness": "zone", "of": "selection_rate", "max_difference": 0.1}],
            },
            "fairness counts mistakes row by row, and of wanted rows those are the hard ones: drop it from gates and monitoring",
        ),
        (
            {"monitoring": {"labelled": "wanted", "labels_wanted": 20, "fairness": [{"fairness": "zone", "of": "selection_rate"}]}},
            "fairness counts mistakes row by row, and of wanted rows those are the hard ones: drop it from gates and monitoring",
        ),
        ({"monitoring": {"labelled": "some"}}, "'some' is not allowed: write 'all' or 'wanted'"),
    ],
)  # fmt: skip
def test_what_would_tell_nothing_or_something_biased_is_refused(more: dict[str, Any], said: str) -> None:
    spec = {
        "task": "binary", "source": "asks", "features": ["request.x"], "trainer": {"window": "30d"},
        "label": {"source": "truths", "on": "id", "value": "y", "within": "1h"},
    }  # fmt: skip
    document = {"metadata": {"name": "m"}, "spec": spec | more}
    with pytest.raises(ValidationError) as refused:
        specs.parse("Model", document)

    [(place, sentence)] = specs.faults(refused.value, "Model", document)
    assert place == ("spec", "monitoring", "labelled")
    assert said in sentence
