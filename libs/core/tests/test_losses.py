"""Losses say what a mistake costs and refuse what is no number."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trimtab_core.losses import LOWER_IS_BETTER, Metric, aggregate, clip, loss, rise_over_rest
from trimtab_core.specs import MetricName

FINITE = st.floats(-1e6, 1e6)


def test_the_metrics_are_those_that_a_spec_may_name() -> None:
    assert get_args(Metric) == get_args(MetricName) == tuple(LOWER_IS_BETTER)


def test_mae_and_rmse_of_known_rows() -> None:
    label, prediction = [1.0, 2.0, 3.0], [1.0, 4.0, 0.0]

    assert aggregate("mae", loss("mae", label, prediction)) == pytest.approx(5 / 3)
    assert aggregate("rmse", loss("rmse", label, prediction)) == pytest.approx((13 / 3) ** 0.5)


def test_error_rate_is_cut_at_one_half() -> None:
    assert loss("error_rate", [1, 1, 0, 0], [0.5, 0.49, 0.5, 0.2]).tolist() == [0, 1, 1, 0]


def test_a_sure_mistake_costs_much_but_not_everything() -> None:
    costs = loss("log_loss", [1, 0, 1], [0.0, 1.0, 0.5])

    assert costs == pytest.approx([16.118, 16.118, np.log(2)], rel=1e-3)


def test_a_probability_that_rounding_put_beyond_1_is_one_and_a_score_is_none() -> None:
    over = float(np.nextafter(np.float32(1), np.float32(2)))
    assert loss("log_loss", [1.0], [over]).tolist() == loss("log_loss", [1.0], [1.0]).tolist()
    assert loss("log_loss", [1.0], [[-1e-7, over]]).tolist() == loss("log_loss", [1.0], [[0.0, 1.0]]).tolist()
    with pytest.raises(ValueError, match=r"prediction 1\.01 in row 0 is no probability"):
        loss("log_loss", [1.0], [1.01])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_no_number_is_named(bad: float) -> None:
    with pytest.raises(ValueError, match=r"prediction .* in row 1 is not a finite number"):
        loss("mae", [1.0, 2.0], [1.0, bad])
    with pytest.raises(ValueError, match=r"losses .* in row 0"):
        aggregate("mae", [bad])


@pytest.mark.parametrize(("label", "prediction"), [([2.0], [0.5]), ([1.0], [1.5]), ([1.0], [0.5, 0.5])])
def test_a_binary_row_that_fits_no_metric_is_refused(label: list[float], prediction: list[float]) -> None:
    with pytest.raises(ValueError, match=r"label|prediction"):
        loss("log_loss", label, prediction)


def test_no_rows_have_no_metric_and_no_cap_is_below_zero() -> None:
    with pytest.raises(ValueError, match="at least one loss"):
        aggregate("mae", [])
    with pytest.raises(ValueError, match="cap"):
        clip([1.0], 0.0)


@given(st.lists(st.tuples(FINITE, FINITE), min_size=1), st.floats(0.1, 1e3))
def test_a_clipped_loss_lies_between_zero_and_the_cap(rows: list[tuple[float, float]], cap: float) -> None:
    label, prediction = zip(*rows, strict=True)
    costs = clip(loss("mae", label, prediction), cap)

    assert (costs >= 0).all()
    assert (costs <= cap).all()


def test_a_window_is_compared_with_the_rows_outside_it() -> None:
    assert rise_over_rest(np.array([0.0, 0.0, 3.0, 5.0]), np.array([[2, 3], [0, 2]])).tolist() == [4.0, -1.0]


def test_of_more_classes_than_two_the_chance_of_the_right_one_counts() -> None:
    said = [[0.7, 0.2, 0.1], [0.4, 0.4, 0.2], [0.1, 0.2, 0.7]]

    assert loss("log_loss", [0, 1, 0], said) == pytest.approx(-np.log([0.7, 0.4, 0.1]))
    assert loss("error_rate", [0, 1, 0], said).tolist() == [0, 1, 1]


def test_a_class_that_a_prediction_does_not_know_was_given_no_chance() -> None:
    assert loss("log_loss", [3], [[0.5, 0.3, 0.2]]) == pytest.approx([16.118], rel=1e-3)
    assert loss("error_rate", [3], [[0.5, 0.3, 0.2]]).tolist() == [1]


@pytest.mark.parametrize(
    ("label", "said", "fault"),
    [
        ([0.5], [[0.5, 0.5]], "no number of a class"),
        ([-1.0], [[0.5, 0.5]], "no number of a class"),
        ([0.0], [[1.5, 0.0]], "no probability"),
        ([0.0], [[np.nan, 0.0]], "not a finite number"),
        ([0.0, 1.0], [[0.5, 0.5]], "one of each per row"),
    ],
)
def test_a_row_of_classes_that_fits_no_metric_is_refused(
    label: list[float], said: list[list[float]], fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        loss("log_loss", label, said)
    with pytest.raises(ValueError, match="not of classes"):
        loss("mae", label, said)
