"""Rules: conditions that every row keeps."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimtab_core.contract import Contract, compile_contract
from trimtab_core.specs import Source, parse

NOW = 1_514_998_865_000
FIELDS = {
    "id": {"type": "string"},
    "at": {"type": "timestamp", "timezone": "America/New_York"},
    "until": {"type": "timestamp", "nullable": True},
    "minutes": {"type": "number", "nullable": True, "unit": "min"},
    "least": {"type": "integer", "nullable": True},
    "most": {"type": "integer", "nullable": True},
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
        ("0 < minutes <= 60", {"minutes": 60}, {"minutes": 61}),
        ("minutes > 1 or miles is null", {"minutes": 0}, {"minutes": 0, "miles": 2.0}),
        ("not (minutes > 60 and miles < 1)", {"minutes": 61, "miles": 1}, {"minutes": 61, "miles": 0.5}),
        ("id in ['a', 'b']", {"id": "b"}, {"id": "c"}),
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
    apart, same = {"least": 2**53 + 1, "most": 2**53}, {"least": 2**53 + 1, "most": 2**53 + 1}

    assert told("least != most", apart, same, apart | {"most": None}) == [[], ["broken_rule"], []]
    assert told("least <= most", apart, same, apart | {"least": 1.0}) == [["broken_rule"], [], []]


def test_a_request_keeps_the_rules_whose_fields_it_needs() -> None:
    contract = a_contract("minutes >= least")
    row = {"minutes": 0, "least": 1}

    assert [reason.code for reason in contract.check_fields(row, {"minutes", "least"})] == ["broken_rule"]
    assert contract.check_fields(row | {"least": "x"}, {"minutes"}) == ()


values = st.sampled_from([None, 0, 1, 1.5, -1, 2**53, 2**53 + 1, True, "1", [1], 10**400])


@settings(max_examples=200)
@given(st.lists(st.fixed_dictionaries({"minutes": values, "least": values}), max_size=5))
def test_a_batch_is_judged_as_its_rows_are_one_by_one(changes: list[dict[str, Any]]) -> None:
    rule = "minutes >= least"

    assert told(rule, *changes) == [told(rule, change)[0] for change in changes]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (3, "should be a valid string"),
        ("minutes is long", "'long' at character 12 of 'minutes is long' cannot follow is"),
        ("minutes > 0; drop", "cannot be read from character 12, '; drop'"),
        ("minutes > pace", "'pace' at character 11 of 'minutes > pace' is no field of the source"),
        ("until > 3", "'until' at character 1 of 'until > 3' is a timestamp: compare it with another"),
        ("until > minutes", "'minutes' at character 9 .* is a number, and 'until' is a timestamp"),
        ("id > id", "'id' at character 1 of 'id > id' is a string: only numbers, and timestamps"),
        ("minutes > 0 and minutes > miles", "compares min with mi: give both fields one unit"),
    ],
)
def test_a_rule_that_means_nothing_is_refused_where_it_is_declared(rule: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        a_contract(rule)
