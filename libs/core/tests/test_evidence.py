"""Figures against scikit-learn's, intervals that hold as often as they say, slices, tables of plots, and importance."""

import json
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as theirs
from trimtab_core import bootstrap
from trimtab_core.curves import OTHER, confusion, curves
from trimtab_core.evidence import MOST_CLASSES, by_class, figures, measures, slice_names, sliced
from trimtab_core.importance import leanings
from trimtab_core.losses import Task
from trimtab_core.metricnames import OF_TASK

Floats = NDArray[np.float64]


def some_chances(rows: int = 800, seed: int = 0, *, digits: int = 9) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    label = (rng.random(rows) < 0.3).astype(np.float64)
    said = np.clip(0.3 + 0.3 * (label - 0.3) + rng.normal(0, 0.2, rows), 0.001, 0.999)
    return label, np.round(said, digits)


def some_values(rows: int = 800, seed: int = 0) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    label = rng.uniform(5, 50, rows)
    return label, label + rng.normal(0, 3, rows)


def some_classes(rows: int = 800, classes: int = 4, seed: int = 0) -> tuple[Floats, Floats]:
    """Return labels, the later classes the commoner, and probabilities that know them a little."""
    rng = np.random.default_rng(seed)
    label = rng.choice(classes, rows, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    chances = np.exp(rng.normal(size=(rows, classes)) + 1.5 * np.eye(classes)[label])
    return label.astype(np.float64), chances / chances.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("task", "rows"),
    [("regression", some_values()), ("binary", some_chances()), ("multiclass", some_classes())],
)
def test_figures_alone_are_those_that_have_an_interval_elsewhere(
    task: Task, rows: tuple[Floats, Floats]
) -> None:
    found = figures(task, *rows)

    assert set(found) == set(OF_TASK[task])
    if task == "regression":
        assert found.pop("mean_error") == pytest.approx(float((rows[1] - rows[0]).mean()))
    measured = measures(task, *rows, rounds=2)
    assert found == pytest.approx({name: measure.value for name, measure in measured.items()})


def test_figures_that_the_rows_do_not_have_are_left_out() -> None:
    of_one_class = figures("binary", np.zeros(9), np.full(9, 0.25))
    assert set(of_one_class) == {"log_loss", "error_rate", "brier", "ece"}
    assert set(figures("regression", np.zeros(9), np.ones(9))) == {"mae", "rmse", "mean_error"}
    with pytest.raises(ValueError, match="no row"):
        figures("binary", np.zeros(0), np.zeros(0))


@pytest.mark.parametrize("digits", [9, 1], ids=["without ties", "with ties"])
def test_figures_of_probabilities_are_those_of_scikit_learn(digits: int) -> None:
    label, said = some_chances(digits=digits)
    called = said >= 0.5

    found = {name: measure.value for name, measure in measures("binary", label, said).items()}

    ece = found.pop("ece")
    assert 0 < ece < 0.2
    assert found == pytest.approx(
        {
            "log_loss": theirs.log_loss(label, said),
            "error_rate": 1 - theirs.accuracy_score(label, called),
            "brier": theirs.brier_score_loss(label, said),
            "precision": theirs.precision_score(label, called),
            "recall": theirs.recall_score(label, called),
            "f1": theirs.f1_score(label, called),
            "roc_auc": theirs.roc_auc_score(label, said),
            "average_precision": theirs.average_precision_score(label, said),
        }
    )


def test_figures_of_classes_are_those_of_scikit_learn() -> None:
    label, said = some_classes()
    said[:, 0], label[label == 0] = 0, 1  # which nobody has or says
    said /= said.sum(axis=1, keepdims=True)
    called = said.argmax(axis=1)

    found = {name: measure.value for name, measure in measures("multiclass", label, said).items()}

    assert 0 < found.pop("ece") < 0.3
    assert found == pytest.approx(
        {
            "log_loss": theirs.log_loss(label, said, labels=range(4)),
            "error_rate": 1 - theirs.accuracy_score(label, called),
            "brier": theirs.brier_score_loss(label, said, labels=range(4)),
            "balanced_accuracy": theirs.balanced_accuracy_score(label, called),
            "f1_macro": theirs.f1_score(label, called, average="macro"),
        }
    )


def test_each_class_has_its_figures_against_the_rest_and_those_of_most_labels_come_first() -> None:
    label, said = some_classes()
    label[label == 0] = 1
    label[:5] = 0

    found = by_class(label, said, ["a", "b", "c", "d"])

    precision, recall, f1, rows = theirs.precision_recall_fscore_support(label, said.argmax(axis=1))
    assert [(each.of, each.rows) for each in found.slices] == [
        ("abcd"[at], rows[at]) for at in np.argsort(-rows, kind="stable")
    ]
    first = int(np.argmax(rows))
    told = found.slices[0].measures
    assert {name: told[name].value for name in ("precision", "recall", "f1", "roc_auc")} == pytest.approx(
        {
            "precision": precision[first],
            "recall": recall[first],
            "f1": f1[first],
            "roc_auc": theirs.roc_auc_score(label == first, said[:, first]),
        }
    )
    for measure in told.values():
        assert measure.low is not None and measure.high is not None
        assert measure.low < measure.value < measure.high
    assert not found.slices[-1].measures, "of five labels nothing is told"


def test_chances_without_a_column_for_a_class_of_the_labels_give_it_none() -> None:
    found = measures("multiclass", np.array([0.0, 1.0, 2.0]), np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]))

    assert found["error_rate"].value == pytest.approx(1 / 3)
    assert found["balanced_accuracy"].value == pytest.approx(2 / 3)


def test_figures_of_values_are_those_of_scikit_learn() -> None:
    label, said = some_values()

    found = {name: measure.value for name, measure in measures("regression", label, said).items()}

    assert found == pytest.approx(
        {
            "mae": theirs.mean_absolute_error(label, said),
            "rmse": math.sqrt(theirs.mean_squared_error(label, said)),
            "r2": theirs.r2_score(label, said),
            "mape": theirs.mean_absolute_percentage_error(label, said),
        }
    )


def test_a_figure_that_the_rows_do_not_have_is_left_out() -> None:
    ones = np.ones(50)
    assert not {"roc_auc", "average_precision"} & measures("binary", ones, np.full(50, 0.7)).keys()
    assert "precision" not in measures("binary", *some_chances(60)[:1], np.full(60, 0.1))
    assert measures("regression", np.array([0.0, 1.0]), np.ones(2)).keys() == {"mae", "rmse", "r2"}
    assert "r2" not in measures("regression", ones, ones)
    with pytest.raises(ValueError, match="label nan in row 1 is not a finite number"):
        measures("multiclass", np.array([0.0, np.nan]), np.eye(2))
    with pytest.raises(ValueError, match="no row"):
        measures("regression", np.empty(0), np.empty(0))


def test_one_row_has_no_spread_to_tell_of() -> None:
    [one] = {measures("regression", np.array([3.0]), np.array([5.0]))[name] for name in ("mae", "rmse")}
    assert (one.value, one.low, one.high) == (2, 2, 2)


def test_the_same_rows_and_seed_give_the_same_intervals_and_a_measure_lies_within_its_own() -> None:
    label, said = some_chances(5_000)

    found = measures("binary", label, said, seed=3)

    assert found == measures("binary", label, said, seed=3)
    for name, measure in found.items():
        assert measure.low is not None and measure.high is not None
        assert measure.low < measure.value < measure.high, name


@pytest.mark.parametrize("name", ["mae", "r2"])
def test_an_interval_holds_the_truth_about_as_often_as_it_says(name: str) -> None:
    whole = measures("regression", *some_values(200_000, seed=999), rounds=2)[name].value
    held = 0
    for seed in range(100):
        found = measures("regression", *some_values(150, seed), rounds=400)[name]
        assert found.low is not None and found.high is not None
        held += found.low <= whole <= found.high
    assert 86 <= held <= 100


def test_rows_that_hang_together_make_an_interval_wide() -> None:
    label = np.zeros(20_000)
    apart = np.random.default_rng(0).normal(size=20_000)
    together = np.repeat(apart[:200], 100)

    [alone, in_weeks] = [
        measures("regression", label, each)["mae"] for each in (apart, together)
    ]  # of 39 rows a unit, a week of 100 is in two or three

    assert alone.low and alone.high and in_weeks.low and in_weeks.high
    assert in_weeks.high - in_weeks.low > 4 * (alone.high - alone.low)


def test_bounds_of_a_figure_that_most_draws_lack_are_not_known() -> None:
    sums = np.arange(1.0, 9.0)[None]

    def seldom(drawn: Floats) -> Floats:
        return np.where(drawn > 45, drawn, np.nan)

    [(low, high)] = bootstrap.bounds(sums, seldom, np.array([36.0]), (0.1, 0.9), rounds=200)

    assert np.isnan(low) and np.isnan(high)


@pytest.mark.parametrize(
    ("column", "names"),
    [
        (np.array([1.0, 2.0, np.nan]), ["1", "2", "missing"]),
        (np.array([7, 7, 8]), ["7", "7", "8"]),
        (np.array(["a", None, "b"], object), ["a", "missing", "b"]),
        (np.array([0.5, 1.5, 1.5]), ["0.5", "1.5", "1.5"]),
    ],
)
def test_a_slice_is_called_by_its_value(column: NDArray[Any], names: list[str]) -> None:
    assert slice_names(column).tolist() == names


def test_broken_numbers_of_many_values_are_cut_at_their_quartiles() -> None:
    column = np.append(np.arange(100) + 0.5, np.nan)

    kinds, rows = np.unique(slice_names(column), return_counts=True)

    assert dict(zip(kinds.tolist(), rows.tolist(), strict=True)) == {
        "0.5 to 25.25": 25, "25.25 to 50": 25, "50 to 74.75": 25, "74.75 to 99.5": 25, "missing": 1,
    }  # fmt: skip


def test_the_largest_slices_are_told_and_a_small_one_only_by_its_rows() -> None:
    label, said = some_values(400)
    zone = np.where(np.arange(400) < 350, 1, np.arange(400))

    found = sliced("regression", label, said, "zone", zone)

    assert (found.slices[0].of, found.slices[0].rows) == ("1", 350)
    assert (
        found.slices[0].measures["mae"] == measures("regression", label[:350], said[:350], rounds=400)["mae"]
    )
    assert not found.slices[1].measures
    assert len(found.slices) + found.left_out == 51


@pytest.mark.parametrize("rows", [1, 3, 5_000])
def test_tables_of_plots_stay_small_and_are_json(rows: int) -> None:
    times = np.arange(rows) * 60_000
    many = [f"class {number}" for number in range(60)]
    for task, made, classes in (
        ("regression", some_values(rows), ()),
        ("binary", some_chances(rows), ("no", "yes")),
        ("multiclass", some_classes(rows, 60), many),
    ):
        found = curves(task, *made, times, classes)  # type: ignore[arg-type]

        assert "calibration" in found
        assert sum(row["rows"] for row in found["calibration"]) == rows
        assert len(json.dumps(found, allow_nan=False)) < 40_000


def test_a_curve_goes_from_nothing_found_to_all() -> None:
    label, said = some_chances(300)

    found = curves("binary", label, said, np.arange(300))

    assert list(found["roc"][0].values()) == [0, 0]
    assert list(found["roc"][-1].values()) == [1, 1]
    assert found["pr"][-1] == {"recall": 1, "precision": pytest.approx(label.mean(), rel=1e-4)}


def test_confusions_are_those_of_scikit_learn_and_the_rare_of_many_classes_are_told_together() -> None:
    label, said = some_classes(2_000, 30)
    called, names = said.argmax(axis=1).astype(np.float64), [str(number) for number in range(30)]
    whole = theirs.confusion_matrix(label, called, labels=range(30))

    few = confusion(label[label < 3], called[label < 3], names[:24] + [""] * 6)
    found = confusion(label, called, names)

    kept = sorted(np.argsort(-whole.sum(axis=1), kind="stable")[:MOST_CLASSES].tolist())
    assert [row["label"] for row in found] == [*(names[each] for each in kept), OTHER]
    assert [row["said"][:-1] for row in found[:-1]] == whole[np.ix_(kept, kept)].tolist()
    assert [sum(row["said"]) for row in found[:-1]] == whole[kept].sum(axis=1).tolist()
    assert sum(sum(row["said"]) for row in found) == 2_000
    assert sum(sum(row["said"]) for row in few) == np.count_nonzero(label < 3)
    assert curves("binary", *some_chances(), np.arange(800), ("no", "yes"))["confusion"][1]["label"] == "yes"


def test_what_answers_lean_on_comes_first_and_what_they_do_not_read_is_nothing() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(6_000, 3)).astype(np.float32)
    label = 3 * features[:, 1].astype(np.float64) + features[:, 0]

    found, asked = leanings(
        lambda rows: 3 * rows[:, 1].astype(np.float64) + rows[:, 0], "mae", ["a", "b", "c"], features, label
    )

    assert asked == 4_000
    assert [each.feature for each in found] == ["b", "a", "c"]
    assert found[0].rise > 2 * found[1].rise > 0
    assert (found[2].rise, found[2].spread) == (0, 0)


def test_a_feature_that_only_grows_with_time_is_not_made_important_by_time() -> None:
    """Shuffled over all rows, the clock would seem to matter ten times as much as within a stretch."""
    clock = np.arange(5_000.0)

    [found], _ = leanings(
        lambda rows: rows[:, 0].astype(np.float64), "mae", ["clock"], clock[:, None].astype(np.float32), clock
    )

    assert found.rise < 5_000 / 3 / 8


def test_many_features_are_asked_of_fewer_rows() -> None:
    features = np.zeros((3_000, 200), np.float32)
    counted: list[int] = []

    def predict(rows: Any) -> Floats:
        counted.append(len(rows))
        return np.zeros(len(rows))

    leanings(predict, "mae", [str(at) for at in range(200)], features, np.zeros(3_000))

    assert sum(counted) <= 210_000


@pytest.mark.parametrize(
    ("rows", "share", "expected"), [(6_000, 1.0, 4_000), (6_000, 0.25, 1_000), (300, 0.25, 300)]
)
def test_a_share_of_the_rows_is_asked_where_asking_takes_long(rows: int, share: float, expected: int) -> None:
    features = np.random.default_rng(0).normal(size=(rows, 2)).astype(np.float32)

    def predict(asked: Any) -> Floats:
        return np.asarray(asked[:, 0], np.float64)

    found, asked = leanings(predict, "mae", ["a", "b"], features, predict(features), share=share)

    assert asked == expected
    assert [each.feature for each in found] == ["a", "b"]
