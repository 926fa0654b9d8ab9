"""What a rollout waits for is written in short forms and long ones, and each of its faults is told in its place."""

from typing import Any

import pytest
from pydantic import ValidationError
from trimtab_core import specs

FORMS = "write auto, manual or who approves, like {by: [risk], approvers: 2}"
LISTS = "write names, like [smoke], or who posts them too, like {required: [smoke], by: [ci]}"


def a_model(**rollout: Any) -> dict[str, Any]:
    spec = {
        "task": "regression",
        "source": "trips",
        "features": ["request.km"],
        "label": {"source": "trips", "on": "id", "value": "minutes", "within": "1d"},
        "trainer": {"window": "28d"},
        "rollout": {"cap": 60, **rollout},
        "retrain": {"on": ["performance"]},
    }
    return {"kind": "Model", "metadata": {"name": "minutes"}, "spec": spec}


def faults(**rollout: Any) -> dict[str, str]:
    """Return what is wrong with a rollout: a sentence for each place in it."""
    document = a_model(**rollout)
    with pytest.raises(ValidationError) as refused:
        specs.parse("Model", document)
    found = specs.faults(refused.value, "Model", document)
    return {".".join(map(str, place[2:])): sentence for place, sentence in found}


def test_the_short_forms_mean_what_the_long_ones_say() -> None:
    found = specs.parse("Model", a_model(checks=["smoke"], approval={"by": ["risk"]}))
    assert isinstance(found, specs.Model)
    assert found.spec.rollout.checks == specs.ChecksSpec(required=("smoke",))
    assert found.spec.rollout.approval == specs.ApprovalSpec(by=("risk",))
    assert specs.parse("Model", specs.to_document(found)) == found


@pytest.mark.parametrize(
    ("rollout", "told"),
    [
        ({"approval": "sometimes"}, {"approval": f"'sometimes' is not allowed: {FORMS}"}),
        ({"approval": ["risk"]}, {"approval": f"['risk'] is not allowed: {FORMS}"}),
        ({"approval": {"approvers": 2}}, {"approval.by": "it is missing: add it"}),
        (
            {"approval": {"by": ["Risk!"], "approvers": 0, "expires": "soon", "who": 1}},
            {
                "approval.by.0": "'Risk!' is no name of the form ^[a-z][a-z0-9_-]*$: change it",
                "approval.approvers": "0 is too small: write a number of at least 1",
                "approval.expires": "'soon' is no duration: write a positive number and a unit (ms, s, m, h or d), like 6h",
                "approval.who": "there is no such key (its value is 1): remove it, or mend its spelling",
            },
        ),
        ({"checks": "smoke"}, {"checks": f"'smoke' is not allowed: {LISTS}"}),
        ({"checks": ["smoke", "smoke"]}, {"checks.required.1": "'smoke' is named twice: keep one of them"}),
        (
            {"checks": {"by": ["CI!"], "who": 1}},
            {
                "checks.required": "it is missing: add it",
                "checks.by.0": "'CI!' is no name of the form ^[a-z][a-z0-9_-]*$: change it",
                "checks.who": "there is no such key (its value is 1): remove it, or mend its spelling",
            },
        ),
    ],
)
def test_each_fault_of_what_a_rollout_waits_for_is_told_in_its_place(
    rollout: dict[str, Any], told: dict[str, str]
) -> None:
    assert faults(**rollout) == told


def test_an_ab_test_gives_a_candidate_its_first_share_and_a_canary_climbs() -> None:
    found = specs.parse("Model", a_model(strategy="ab", shares=[30, 20]))
    assert isinstance(found, specs.Model)
    assert found.spec.rollout.ladder == (30,)
    canary = specs.parse("Model", a_model())
    assert isinstance(canary, specs.Model)
    assert canary.spec.rollout.ladder == (10, 50, 100)


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        (
            [60, 60],
            "[60, 60] share out 120 % of the keys among 2 arms: give 1 to 8 arms 100 % at most, like [30, 30]",
        ),
        ([], "[] share out 0 % of the keys among 0 arms: give 1 to 8 arms 100 % at most, like [30, 30]"),
        (
            [1] * 9,
            f"{[1] * 9} share out 9 % of the keys among 9 arms: give 1 to 8 arms 100 % at most, like [30, 30]",
        ),
    ],
)
def test_shares_are_of_one_whole(shares: list[int], told: str) -> None:
    assert faults(strategy="ab", shares=shares) == {"shares": told}
