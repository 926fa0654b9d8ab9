"""Rules: comparisons that every row keeps."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimtab_core.comparisons import parse_rule
from trimtab_core.contract import Contract, compile_contract
from trimtab_core.specs import Source, parse

NOW = 1_514_998_865_000
FIELDS = {
    "id": {"type": "string"},
    "at": {"type": "timestamp", "timezone": "America/New_York"},
    "until": {"type": "timestamp", "nullable": True},
    "minutes": {"type": "number", "nullable": True, "unit": "min"},
    "least": {"type": "integer", "nullable": True},
    "miles": {"type": "number", "nullable": True, "unit": "mi"},
}
GOOD = {"id": "a", "at": "2018-01-03 12:01:05", "until": "2018-01-03T17:01:05Z", "minutes": 1.5, "least": 1}


def a_contract(*rules: Any) -> Contract:
    spec = {"key": "id", "event_time": "at", "lateness": "2h", "fields": FIELDS, "rules": rules}
    source = parse("Source", {"metadata": {"name": "s"}, "spec": spec})
    assert isinstance(source, Source)
    return compile_contract(source.spec)


def told(rule: str, *changes: dict[str, Any]) -> list[list[str]]:
    rows = [json.dumps({**GOOD, **change}).encode() for change in changes]
    reasons = a_contract(rule).check(rows, np.full(len(rows), NOW)).reasons
    return [[reason.code for reason in each] for each in reasons]


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        ("minutes > 0", {"minutes": 0.1}, {"minutes": 0}),
        ("minutes >= 0", {"minutes": 0}, {"minutes": -1}),
        ("minutes != 0", {"minutes": 1}, {"minutes": 0}),
        ("minutes<=1e3", {"minutes": 1000}, {"minutes": 1001}),
        ("minutes >= least", {"minutes": 1}, {"minutes": 0.5}),
        ("minutes == least", {"minutes": 1}, {"minutes": 2}),
        ("until >= at", {"until": "2018-01-03T12:01:05-05:00"}, {"until": "2018-01-03T17:01:04Z"}),
        ("least < minutes", {"least": -(2**63)}, {"least": 2**62}),
    ],
)
def test_a_row_that_breaks_a_rule_is_refused(rule: str, good: dict[str, Any], bad: dict[str, Any]) -> None:
    assert told(rule, good, bad, good) == [[], ["broken_rule"], []]


def test_null_on_either_side_passes_and_a_faulty_side_is_told_once() -> None:
    assert told("minutes >= least", {"minutes": None}, {"least": None}, {"least": 3.0}) == [
        [],
        [],
        ["broken_rule"],
    ]
    assert told("minutes >= least", {"minutes": "9"}, {"minutes": [9]}, {"least": 10**400}) == [
        ["wrong_type"], ["wrong_type"], ["out_of_range"],
    ]  # fmt: skip


def test_what_is_told_names_the_rule_and_both_values() -> None:
    row = {**GOOD, "minutes": 0.5}
    contract = a_contract("minutes >= least", "minutes > 1")

    ((of_two, of_one),) = contract.check([json.dumps(row).encode()], np.array([NOW])).reasons

    assert (
        of_two.message == "minutes 0.5 breaks the rule minutes >= least, where least is 1: mend the producer"
    )
    assert of_one.message == "minutes 0.5 breaks the rule minutes > 1: mend the producer"
    assert (of_two.field, of_two.value) == ("minutes", "0.5")


def test_integers_that_no_float_tells_apart_are_compared_exactly() -> None:
    assert told("least > minutes", {"least": 2**53 + 1, "minutes": 2**53}) == [[]]
    assert told("least <= minutes", {"least": 2**53 + 1, "minutes": 2**53}) == [["broken_rule"]]


def test_a_request_keeps_the_rules_whose_fields_it_needs() -> None:
    contract = a_contract("minutes >= least")
    row = {"minutes": 0, "least": 1}

    assert [reason.code for reason in contract.check_fields(row, {"minutes", "least"})] == ["broken_rule"]
    assert contract.check_fields(row | {"least": "x"}, {"minutes"}) == ()


values = st.sampled_from([None, 0, 1, 1.5, -1, 2**53, 2**53 + 1, True, "1", [1], 10**400])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.fixed_dictionaries({"minutes": values, "least": values}), max_size=5))
def test_a_batch_is_judged_as_its_rows_are_one_by_one(changes: list[dict[str, Any]]) -> None:
    rule = "minutes >= least"

    assert told(rule, *changes) == [told(rule, change)[0] for change in changes]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"left": "minutes", "operator": "~", "right": 3}, "is no rule"),
        (3, "3 is no rule"),
        ("minutes is long", "'minutes is long' is no rule: write a field, one of"),
        ("minutes > 0; drop", "is no rule"),
        ("minutes > pace", "names 'pace', which is not among the fields"),
        ("until > 3", "compares a number and a timestamp"),
        ("id > id", "compares a string"),
        ("minutes > miles", "compares min with mi: give both fields one unit"),
    ],
)
def test_a_rule_that_means_nothing_is_refused_where_it_is_declared(rule: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        a_contract(rule)


@given(st.floats(-1e90, 1e90).map(lambda number: number if abs(number) > 1e-90 else 0.0))
def test_a_rule_is_written_as_it_reads(number: float) -> None:
    rule = parse_rule(f"x <= {number!r}")

    assert parse_rule(str(rule)) == rule
