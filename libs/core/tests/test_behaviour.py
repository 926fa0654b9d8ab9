"""What a model's tests expect is held against its answers, and told with the row that breaks it most."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from trimtab_core import specs
from trimtab_core.behaviour import Asked, behave
from trimtab_core.findings import Finding

NAMES = ("request.distance", "hour(at)", "speed = zone.mph * 2")
ROWS = np.array([[1, 3, 0], [2, 12, 1], [np.nan, 20, 2], [4, 23, 3]], np.float32)


NO_TEXTS = np.empty((len(ROWS), 0), object)


def minutes(rows: np.ndarray, _: np.ndarray) -> np.ndarray:
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
    ((_, found),) = behave(a_test(**cases).spec, Asked(NAMES, (), (), (ROWS, NO_TEXTS), minutes))
    return found


CLASSES = ("bad", "fair", "good")
TEXTS = ("request.city", "text(request.note)")
WORDS = np.array([["ulm", "fine"], ["bonn", "awful"], ["ulm", ""], ["", "awful"]], object)


def verdict(rows: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Return the chances of three classes: a note that says awful is bad, and elsewhere a longer distance is better."""
    awful = np.array(["awful" in note for note in texts[:, 1]])
    good = np.where(awful, 0.1, np.clip(0.2 + 0.1 * np.nan_to_num(rows[:, 0]), 0, 0.8))
    bad = np.where(awful, 0.8, 0.1) + 0.05 * (texts[:, 0] == "bonn")
    return np.column_stack([bad, 1 - bad - good, good])


def of_verdict(**cases: Any) -> Finding:
    asked = Asked(NAMES, TEXTS, CLASSES, (ROWS, WORDS), verdict)
    ((_, found),) = behave(a_test(**cases).spec, asked)
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
        ({"golden": [{"name": "g", "features": {"x": 1}, "answer": "bad", "within": 1}]}, "golden.0.within", "1.0 is of a number, and the answer is the class 'bad'"),
        ({"direction": [{"name": "d", "change": {"x": 1}}]}, "direction.0.never", "it is missing"),
        ({"golden": [{"name": "g", "features": {}, "answer": 1}]}, "golden.0.features", "has too few"),
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


@pytest.mark.parametrize(
    ("expected", "passed"),
    [
        ({"answer": "bad"}, True),
        ({"answer": "good"}, False),
        ({"answer": 0.8, "of": "bad", "within": 0.01}, True),
        ({"answer": 0.5, "of": "good", "within": 0.1}, False),
    ],
)
def test_a_golden_row_of_classes_is_said_to_be_one_or_gives_it_a_probability(
    expected: dict[str, Any], passed: bool
) -> None:
    row = {"request.distance": 9, "hour(at)": 0, "request.city": "ulm", "text(request.note)": "AWFUL service"}

    found = of_verdict(golden=[{"name": "g", "features": row, **expected}])

    assert found.passed is passed
    if expected == {"answer": "good"}:
        assert found.sentence == "Golden row 'g' is said to be bad (0.8), but good is expected."


def test_of_two_classes_an_answer_is_the_probability_of_the_second_and_the_first_has_the_rest() -> None:
    def chance(rows: np.ndarray, _: np.ndarray) -> np.ndarray:
        return np.full(len(rows), 0.7)

    row = {"features": {"hour(at)": 1}}
    golden = [
        {"name": "said", **row, "answer": "yes"},
        {"name": "plain", **row, "answer": 0.7},
        {"name": "first", **row, "answer": 0.3, "of": "no", "within": 1e-6},
        {"name": "not", **row, "answer": "no"},
    ]
    asked = Asked(NAMES, (), ("no", "yes"), (ROWS, NO_TEXTS), chance)

    found = dict(behave(a_test(golden=golden).spec, asked))

    assert [each.passed for each in found.values()] == [True, True, True, False]


def test_a_text_may_be_changed_and_the_class_that_changes_most_is_told() -> None:
    city = {"name": "city", "change": {"request.city": ["ulm", "bonn", None]}}
    assert of_verdict(invariance=[{**city, "at_most": 0.051}]).passed

    found = of_verdict(invariance=[{**city, "at_most": 0.01}])

    assert not found.passed
    assert "on 4 of 4 rows (100.0%)" in found.sentence
    assert found.sentence.count("with request.city 'bonn' set to 'ulm'") == 1
    assert of_verdict(invariance=[{**city, "of": "good"}]).passed, "of good it changes nothing"


@pytest.mark.parametrize(("of", "passed"), [("bad", True), ("good", False)])
def test_a_direction_of_classes_is_of_the_probability_of_one(of: str, passed: bool) -> None:
    complaint = {"name": "complaint", "change": {"text(request.note)": "Awful!"}, "never": "less", "of": of}

    found = of_verdict(direction=[complaint])

    assert found.passed is passed
    assert f"the probability of {of} gets less on {0 if passed else 2} of 4 rows" in found.sentence


@pytest.mark.parametrize(
    ("cases", "place", "said"),
    [
        ({"direction": [{"name": "d", "change": {"request.distance": "+-1"}, "never": "less", "of": "bad"}]},
         ("direction", 0, "change", "request.distance"), "'+-1' is no change of 'request.distance', a number: write"),
        ({"invariance": [{"name": "i", "change": {"request.city": 3}}]},
         ("invariance", 0, "change", "request.city"), "3.0 is a number, and 'request.city' is a text: write a text"),
        ({"golden": [{"name": "g", "features": {"hour(at)": "noon"}, "answer": "bad"}]},
         ("golden", 0, "features", "hour(at)"), "'noon' is a text, and 'hour(at)' is a number"),
        ({"golden": [{"name": "g", "features": {"hour(at)": 1}, "answer": "poor"}]},
         ("golden", 0, "answer"), "'poor' is no class of the model: write one of bad, fair, good"),
        ({"golden": [{"name": "g", "features": {"hour(at)": 1}, "answer": 0.4}]}, ("golden", 0, "answer"), "0.4 of which class?"),
        ({"direction": [{"name": "d", "change": {"hour(at)": 1}, "never": "less"}]}, ("direction", 0), "write of: CLASS"),
        ({"invariance": [{"name": "i", "change": {"hour(at)": 1}, "of": "poor"}]}, ("invariance", 0, "of"), "'poor' is no class"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_a_model_is_told_at_its_place_and_breaks_the_test_where_it_is_run(
    cases: dict[str, Any], place: tuple[Any, ...], said: str
) -> None:
    [(at, sentence)] = a_test(**cases).spec.disagreements(
        set(TEXTS), {"request.distance", "hour(at)"}, CLASSES
    )

    assert (at, said in sentence) == (place, True)
    found = of_verdict(**cases)
    assert not found.passed
    assert "cannot be run: " in found.sentence and said in found.sentence
