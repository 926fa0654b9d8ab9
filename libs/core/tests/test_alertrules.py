"""Limits on metrics: when they fire, when they are over, and what is no rule."""

from typing import Any

import pytest
from pydantic import ValidationError
from trimtab_core.alertrules import take
from trimtab_core.specs import AlertRule, Model
from trimtab_core.watched import Reading


def rule(**more: Any) -> AlertRule:
    return AlertRule.model_validate({"metric": "mae", "above": 6, **more})


def model(*rules: dict[str, Any], **more: Any) -> Model:
    said: dict[str, Any] = {
        "task": "regression", "source": "asks", "features": ["request.zone", "hour(at)", "speed.*", "text(request.note)"],
        "label": {"source": "truths", "on": "id", "value": "y", "within": "1m"},
        "trainer": {"window": "30d"}, "rollout": {"cap": 60}, "alerts": {"rules": list(rules)}, **more,
    }  # fmt: skip
    return Model.model_validate({"metadata": {"name": "m"}, "spec": said})


def reading(value: float, *, name: str = "mae", feature: str = "", **more: Any) -> Reading:
    return Reading("performance", "m", 3, name, value, 0, 60_000, 500, feature, **more)


def played(rules: list[AlertRule], *windows: list[Reading]) -> list[list[tuple[bool, str]]]:
    state: Any = {}
    told = []
    for at, readings in enumerate(windows):
        state, found = take(rules, state, readings, at)
        told.append([(each.broken, each.sentence) for each in found])
    return told


def test_a_rule_fires_once_and_is_over_once() -> None:
    told = played([rule()], [reading(5)], [reading(7)], [reading(8)], [reading(6)], [reading(5)])

    assert [[broken for broken, _ in each] for each in told] == [[], [True], [], [False], []]
    assert told[1][0][1] == (
        "The mae of version 3 is 7 over 500 predictions of 1970-01-01T00:00 to 1970-01-01T00:01: above 6."
    )
    assert told[3][0][1].endswith("no longer above 6.")


def test_a_rule_of_several_windows_waits_for_as_many_in_a_row() -> None:
    values = (7, 7, 5, 7, 7, 7, 7, 5)
    told = played([rule(windows=3)], *([reading(value)] for value in values))

    assert [[broken for broken, _ in each] for each in told] == [[], [], [], [], [], [True], [], [False]]
    assert told[5][0][1].endswith("above 6, 3 windows in a row.")


def test_a_rule_of_every_feature_is_told_of_each_and_one_of_a_feature_of_that_alone() -> None:
    window = [reading(0.5, name="null_share", feature=name) for name in ("x", "z")]
    every, one = (
        rule(metric="null_share", **more) for more in ({"above": 0.2}, {"feature": "x", "above": 0.3})
    )

    assert len(played([every], window)[0]) == 2
    assert [said for _, said in played([one], window)[0]] == [
        "The null_share of x of version 3 is 0.5 over 500 predictions of 1970-01-01T00:00 to 1970-01-01T00:01: above 0.3."
    ]


def test_a_rule_is_about_all_rows_and_not_about_a_slice_or_an_arm() -> None:
    window = [reading(7, feature="x", slice="3"), reading(9, arm="challenger"), reading(5)]

    assert played([rule()], window) == [[]]


def test_a_rule_of_a_share_is_kept_by_a_window_of_predictions_that_has_none_of_it() -> None:
    bad, labels = reading(0.5, name="null_share", feature="x"), [reading(7)]
    well = [reading(0.1, name="prediction_drift")]

    told = played([rule(metric="null_share", above=0.2)], [bad], labels, well, well)

    assert [len(each) for each in told] == [1, 0, 1, 0]
    assert told[2][0][1].startswith("The null_share of x of version 3 is 0 over 500 predictions")


def test_a_field_may_be_named_as_in_slices() -> None:
    named = ["zone", "request.zone", "hour(at)", "speed.mean_7d", "text(request.note)"]
    found = model(*({"metric": "null_share", "feature": name, "above": 0.2} for name in named))

    assert [it.feature for it in found.spec.rules] == ["request.zone", *named[1:]]
    together = {"metric": "drift", "feature": "all together", "above": 0.3}
    whole = [{"metric": name, "above": 0.5} for name in ("mae", "estimated_mae", "labelled_share")]
    beside = [{"metric": "rmse", "above": 99}, {"metric": "r2", "below": 0}, {"metric": "mean_error", "below": -2, "above": 0}]  # fmt: skip
    assert len(model(*beside).spec.rules) == 3
    assert model(together, *whole).spec.rules[0].feature == "all together"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"metric": "drift", "feature": "request.nope", "above": 0.2}, "'request.nope' is no feature of the model"),
        ({"metric": "null_share", "feature": "all together", "above": 0.2}, "'all together' is no feature"),
        ({"metric": "drift", "feature": "told apart", "above": 0.2}, "'told apart' is told by a classifier"),
        (
            {"metric": "log_loss", "above": 0.2},
            "'log_loss' is not measured of the model, which rollout.judge has judged by mae: write mae, estimated_mae, rmse, "
            "mean_error, mape or r2",
        ),
        ({"metric": "roc_auc", "below": 0.7}, "'roc_auc' is not measured of the model"),
        ({"metric": "r2", "above": 1}, "r2 is never above 1: write a limit below 1"),
        ({"metric": "estimated_rmse", "above": 6}, "'estimated_rmse' is not measured of the model"),
        ({"metric": "mae", "above": 60}, "mae is never above 60, for rollout.cap lets a row count 60 at most"),
    ],
)  # fmt: skip
def test_a_rule_that_this_model_could_never_break_says_why(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        model(given)


def test_a_rule_of_what_is_not_told_of_wanted_rows_says_so() -> None:
    with pytest.raises(ValidationError, match="'rmse' is not measured of the model"):
        model({"metric": "rmse", "above": 6}, monitoring={"labels_wanted": 20, "labelled": "wanted"})


def test_two_rules_that_say_the_same_count_a_window_once() -> None:
    told = played(
        [rule(windows=2), rule(windows=2, severity="info")], [reading(7)], [reading(7)], [reading(5)]
    )

    assert [len(each) for each in told] == [0, 1, 1]


def test_a_window_that_says_nothing_of_a_metric_changes_nothing() -> None:
    told = played([rule(windows=2)], [reading(7)], [reading(9, name="drift")], [reading(7)])

    assert [len(each) for each in told] == [0, 0, 1]


def test_a_rule_that_was_taken_out_or_changed_is_over_with_the_severity_it_had() -> None:
    state, _ = take([rule(severity="critical")], {}, [reading(7)], 0)

    state, told = take([rule(above=8)], state, [reading(7)], 1)

    assert state == {}
    assert [(each.broken, each.severity, each.sentence) for each in told] == [
        (False, "critical", "The rule 'mae above 6, 1 in a row:' is no more in the spec.")
    ]


def test_a_rule_that_was_narrowed_to_one_feature_is_over_for_the_others() -> None:
    drifted = [reading(3, name="drift", feature=name) for name in ("request.a", "request.b")]
    state, _ = take([rule(metric="drift", above=2)], {}, drifted, 0)

    state, told = take([rule(metric="drift", above=2, feature="request.a")], state, drifted, 1)

    assert (len(state), [each.broken for each in told]) == (1, [False])


def test_what_was_told_is_over_with_the_severity_it_was_told_with() -> None:
    state, _ = take([rule(severity="critical")], {}, [reading(7)], 0)

    _, told = take([rule(severity="info")], state, [reading(5)], 1)

    assert [(each.broken, each.severity) for each in told] == [(False, "critical")]


def test_a_value_below_breaks_a_rule_that_says_so() -> None:
    assert [len(it) for it in played([rule(above=None, below=0.1)], [reading(0.2)], [reading(0.05)])] == [
        0,
        1,
    ]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"metric": "mea"},
            "'mea' is no metric that a rule can limit: use one of average_precision, balanced_accuracy, brier",
        ),
        ({"above": None}, "the rule has no limit"),
        ({"below": 7}, "every value would break the rule"),
        ({"feature": "request.zone"}, "'mae' is of the model as a whole, and of no feature: remove it"),
        ({"above": -1}, "mae is always above -1: write a limit above 0"),
        (
            {"metric": "null_share", "above": 2},
            "null_share is never above 2: write a limit between 0 and 1",
        ),
        ({"metric": "labelled_share", "above": None, "below": 0}, "labelled_share is never below 0"),
        ({"metric": "skew_share", "above": 0.1}, "'skew_share' is no metric that a rule can limit"),
        ({"metric": "p_value", "above": None, "below": 1.5}, "p_value is always below 1.5"),
    ],
)
def test_what_is_no_rule_says_why(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        rule(**given)
