"""What a model's tests expect is held against its answers, and told with the row that breaks it most."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from trimtab_core import specs
from trimtab_core.behaviour import behave
from trimtab_core.findings import Finding

NAMES = ("request.distance", "hour(at)", "speed = zone.mph * 2")
ROWS = np.array([[1, 3, 0], [2, 12, 1], [np.nan, 20, 2], [4, 23, 3]], np.float32)


def minutes(rows: np.ndarray) -> np.ndarray:
    """Return 3 minutes a mile, 5 more at noon, and less the faster it goes."""
    answer: np.ndarray = 3 * np.nan_to_num(rows[:, 0]) + 5 * (rows[:, 1] == 12) - rows[:, 2]
    return answer.astype(np.float64)


def a_test(**cases: Any) -> specs.ModelTest:
    document = {"metadata": {"name": "behaviour"}, "spec": {"model": "minutes", **cases}}
    parsed = specs.parse("ModelTest", document)
    assert isinstance(parsed, specs.ModelTest)
    assert specs.parse("ModelTest", specs.to_document(parsed)) == parsed
    return parsed


def held(**cases: Any) -> Finding:
    ((_, found),) = behave(a_test(**cases).spec, NAMES, ROWS, minutes)
    return found


def test_a_golden_row_is_answered_within_its_tolerance() -> None:
    golden = {"name": "far", "features": {"request.distance": 10, "hour(at)": 3, "speed": 0}, "answer": 31}

    assert held(golden=[{**golden, "within": 1}]).passed
    found = held(golden=[golden])
    assert not found.passed
    assert found.value == pytest.approx(1)
    assert found.sentence == "Golden row 'far' is answered 30, but 31 within 0 is expected."


def test_an_answer_that_is_no_number_is_not_the_golden_one() -> None:
    golden = {"name": "missing", "features": {"request.distance": 1}, "answer": 3, "within": 100}

    assert not held(golden=[golden]).passed, "what is not named is missing"


@pytest.mark.parametrize(("at_most", "passed"), [(5, True), (4.9, False)])
def test_a_change_may_move_the_answer_by_so_much(at_most: float, passed: bool) -> None:
    found = held(invariance=[{"name": "hour", "change": {"hour(at)": [0, 12]}, "at_most": at_most}])

    assert found.passed is passed
    if not passed:
        assert found.value == 1.0, "the row at noon loses 5, and the others gain them"
        assert "on 4 of 4 rows (100.0%), most from 10 to 5 with hour(at) 12 set to 0" in found.sentence


def test_a_direction_is_kept_or_broken_by_a_share_of_the_rows() -> None:
    further = {"name": "further", "change": {"request.distance": "+1"}}
    assert held(direction=[{**further, "never": "less"}]).passed
    found = held(direction=[{**further, "never": "more"}])
    assert not found.passed
    assert found.value == 0.75, "of the row without a distance nothing is more"
    assert (
        "the answer gets more on 3 of 4 rows (75.0%), most from 3 to 6 with request.distance 1 changed by +1"
        in (found.sentence)
    )
    assert held(direction=[{**further, "never": "more", "violations": 0.75}]).passed
    assert held(direction=[{**further, "never": "more", "within": 3}]).passed


def test_rows_of_its_own_are_changed_in_place_of_the_held_out_ones() -> None:
    row = {"request.distance": 2, "hour(at)": 1, "speed": 0}
    found = held(
        direction=[{"name": "d", "change": {"request.distance": "*0.5"}, "never": "less", "rows": [row]}]
    )

    assert "on 1 of 1 rows" in found.sentence


def test_several_changes_are_made_together() -> None:
    change = {"request.distance": "-1", "speed = zone.mph * 2": "-3"}
    assert held(
        invariance=[
            {"name": "both", "change": change, "rows": [{"request.distance": 2, "hour(at)": 1, "speed": 0}]}
        ]
    ).passed


def test_a_feature_that_the_model_has_not_breaks_the_test() -> None:
    found = held(invariance=[{"name": "typo", "change": {"request.distanz": 1}}])

    assert not found.passed
    assert (
        found.sentence
        == "'typo' cannot be run: it names 'request.distanz', which is no feature of the model."
    )


@pytest.mark.parametrize(
    ("cases", "place", "said"),
    [
        ({"direction": [{"name": "d", "change": {"x": "+-1"}, "never": "less"}]}, "direction.0.change.x", "is no change: write"),
        ({"direction": [{"name": "d", "change": {"x": 1}}]}, "direction.0.never", "it is missing"),
        ({"golden": [{"name": "g", "features": {}, "answer": 1}]}, "golden.0.features", "will not do"),
        (
            {"golden": [{"name": "g", "features": {"x": 1}, "answer": 1}], "direction": [{"name": "g", "change": {"x": 1}, "never": "less"}]},
            "direction.0.name", "'g' names two tests: give one another name",
        ),
    ],
)  # fmt: skip
def test_a_malformed_test_is_a_fault_at_its_place(cases: dict[str, Any], place: str, said: str) -> None:
    document = {"metadata": {"name": "behaviour"}, "spec": {"model": "minutes", **cases}}
    with pytest.raises(ValidationError) as refused:
        specs.parse("ModelTest", document)

    found = specs.faults(refused.value, "ModelTest", document)
    assert [
        fault
        for fault in found
        if ".".join(map(str, fault[0])).startswith(f"spec.{place}") and said in fault[1]
    ], found
