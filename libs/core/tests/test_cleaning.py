"""Cleaning: what a producer sends becomes what the contract speaks of, in events and in requests alike."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimtab_core.contract import Contract, compile_contract
from trimtab_core.specs import Source, parse, to_document
from trimtab_core.units import DIMENSIONS, conversion

AT = "2018-01-03T17:01:05Z"
NOW = 1_514_998_865_000


def a_source(fields: dict[str, Any], **spec: Any) -> Source:
    named = {"id": {"type": "string"}, "at": {"type": "timestamp"}, **fields}
    document = {"key": "id", "event_time": "at", "lateness": "2h", "fields": named, **spec}
    source = parse("Source", {"metadata": {"name": "s"}, "spec": document})
    assert isinstance(source, Source)
    return source


def a_contract(**fields: Any) -> Contract:
    return compile_contract(a_source(fields).spec)


def cleaned(field: dict[str, Any], *sent: Any) -> list[Any]:
    """Return what values of a field become; a row without the field is `...`."""
    rows = [{"id": "a", "at": AT, **({} if value is ... else {"x": value})} for value in sent]
    checked = a_contract(x=field).check([json.dumps(row).encode() for row in rows], np.full(len(rows), NOW))
    return [
        reasons[0].code if reasons else (row or {}).get("x", ...)
        for row, reasons in zip(checked.rows, checked.reasons, strict=True)
    ]


def test_white_space_goes_and_a_blank_text_is_null() -> None:
    assert cleaned({"type": "string", "trim": True}, " a b ", "a", " \t", "", 3) == [
        "a b", "a", "null_value", "null_value", "wrong_type",
    ]  # fmt: skip
    assert cleaned({"type": "string", "trim": True, "nullable": True}, " ", ...) == [None, ...]


def test_a_sentinel_is_null_whatever_the_form_of_its_number() -> None:
    field = {"type": "number", "nullable": True, "nulls": [-200, "N/A"]}

    assert cleaned(field, -200, -200.0, "N/A", "n/a", 1, [1]) == [
        None, None, None, "wrong_type", 1, "wrong_type",
    ]  # fmt: skip
    assert cleaned({"type": "integer", "nulls": [1], "nullable": True}, True) == ["wrong_type"]


def test_a_default_stands_in_for_what_is_missing_or_null() -> None:
    assert cleaned({"type": "integer", "default": 0}, ..., None, 3) == [0, 0, 3]
    assert cleaned({"type": "boolean", "default": False}, ..., True) == [False, True]


def test_a_number_is_converted_to_the_unit_in_which_its_bounds_are() -> None:
    field = {"type": "number", "unit": "km", "sent_in": "mi", "max": 100}

    assert cleaned(field, 10, 62.5, "far", True) == [16.09344, "out_of_range", "wrong_type", "wrong_type"]
    assert cleaned(field, 10**400, 1e308) == ["out_of_range", "out_of_range"]


def test_cleaning_goes_in_order() -> None:
    field = {
        "type": "number", "unit": "degC", "sent_in": "degF", "trim": False, "nulls": ["", -999], "default": 32,
    }  # fmt: skip

    assert cleaned(field, -999, "", ..., 212) == pytest.approx([0, 0, 0, 100])
    assert cleaned({"type": "string", "trim": True, "nulls": ["N/A"], "default": "?"}, " N/A ") == ["?"]


def test_what_was_changed_is_counted_by_field_and_operation_and_its_rows_are_known() -> None:
    contract = a_contract(
        x={"type": "string", "trim": True, "nulls": ["-"], "nullable": True},
        y={"type": "number", "default": 0, "unit": "m", "sent_in": "km"},
    )
    rows = [{"x": "a", "y": 0}, {"x": " - "}, {"x": "b ", "y": None}]

    checked = contract.check([json.dumps(row).encode() for row in rows] + [b"{rubbish"], np.full(4, NOW))

    assert checked.cleaned == {("x", "trim"): 2, ("x", "nulls"): 1, ("y", "default"): 2, ("y", "convert"): 3}
    assert checked.changed == {0, 1, 2}


def test_a_field_without_cleaning_is_left_alone() -> None:
    contract = a_contract(x={"type": "string", "unit": "of a kind", "nullable": True})
    checked = contract.check([json.dumps({"id": "a", "at": AT, "x": " a "}).encode()], np.array([NOW]))

    assert not contract.cleaners
    assert (checked.changed, checked.cleaned) == (frozenset(), {})


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4)
)


@settings(max_examples=200)
@given(st.lists(scalars | st.just([]) | st.just({}) | st.sampled_from([" a ", -200, 10**400]), max_size=4))
def test_a_request_is_cleaned_as_the_event_is(values: list[Any]) -> None:
    contract = a_contract(
        x={"type": "string", "trim": True, "nulls": ["", "0"], "default": "none"},
        y={"type": "number", "nulls": [-200], "nullable": True, "unit": "degC", "sent_in": "K"},
    )
    sent = [json.dumps({"x": value, "y": value}).encode() for value in values]

    events = contract.check(sent, np.full(len(sent), NOW)).rows

    for event, payload in zip(events, sent, strict=True):
        request = json.loads(payload)
        for cleaner in contract.cleaners:
            cleaner.clean(request)
        assert request == event


@pytest.mark.parametrize("units", DIMENSIONS.values(), ids=DIMENSIONS)
def test_every_unit_goes_to_every_other_of_its_dimension_and_back(units: dict[str, Any]) -> None:
    for one in units:
        for other in units:
            there, back = conversion(one, other), conversion(other, one)
            assert back.of(there.of(12.5)) == pytest.approx(12.5, rel=1e-12)


@pytest.mark.parametrize(
    ("value", "sent_in", "unit", "is_"),
    [
        (1, "mi", "km", 1.609344),
        (1, "lb", "kg", 0.45359237),
        (90, "min", "h", 1.5),
        (36, "km/h", "m/s", 10),
        (-40, "degF", "degC", -40),
        (0, "degC", "K", 273.15),
        (1, "bar", "hPa", 1000),
        (1, "psi", "Pa", 6894.757293168362),
        (1, "gal", "l", 3.785411784),
        (1, "ft3", "l", 28.316846592),
        (1, "kWh", "MJ", 3.6),
        (180, "deg", "rad", math.pi),
    ],
)
def test_a_conversion_is_right(value: float, sent_in: str, unit: str, is_: float) -> None:
    assert conversion(sent_in, unit).of(value) == pytest.approx(is_, rel=1e-15)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"type": "number", "unit": "km", "sent_in": "kg"}, "'kg' is a mass, and km a length: write one of m, mm,"),
        ({"type": "number", "unit": "km", "sent_in": "mile"}, "'mile' is no known unit, and km a length: write one of"),
        ({"type": "number", "unit": "USD", "sent_in": "mi"}, "'USD' is no known unit, so nothing can be turned into it"),
        ({"type": "number", "sent_in": "mi"}, "'mi' stands without unit"),
        ({"type": "integer", "unit": "km", "sent_in": "mi"}, "this field is a integer: write number"),
        ({"type": "integer", "trim": True}, "True is for texts"),
        ({"type": "integer", "nulls": [True]}, "True cannot mean null"),
        ({"type": "integer", "default": 0, "min": 1}, "0 is outside"),
        ({"type": "number", "default": 100, "max": 100, "unit": "km", "sent_in": "mi"}, "100 is outside"),
        ({"type": "integer", "default": 2**63}, "is outside"),
        ({"type": "number", "default": 10**400, "unit": "km", "sent_in": "mi"}, "is outside"),
        ({"type": "integer", "default": "0"}, "'0' is no integer"),
        ({"type": "integer", "default": 1.5}, "1.5 is no integer"),
        ({"type": "string", "default": "x", "enum": ["a", "b"]}, "'x' is none of a, b"),
        ({"type": "string", "default": "x", "pattern": "[a-c]"}, r"'x' does not match \[a-c\]"),
        ({"type": "timestamp", "default": "noon"}, "'noon' is no time"),
    ],
)  # fmt: skip
def test_cleaning_that_cannot_be_is_refused_where_it_is_declared(field: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        a_contract(x=field)


@pytest.mark.parametrize(
    ("role", "cleaning"),
    [
        ("id", {"trim": True}), ("id", {"nulls": ["x"]}), ("id", {"default": "x"}), ("at", {"default": AT}),
    ],
)  # fmt: skip
def test_a_record_is_keyed_and_timed_by_what_was_sent(role: str, cleaning: dict[str, Any]) -> None:
    kind = {"id": "string", "at": "timestamp"}[role]
    with pytest.raises(ValueError, match="will not do for the"):
        a_contract(**{role: {"type": kind, **cleaning}})


def test_a_key_that_is_a_number_has_no_default_either() -> None:
    with pytest.raises(ValueError, match="0 will not do for the key"):
        a_contract(id={"type": "integer", "default": 0})


def test_a_spec_with_all_of_it_reads_back_as_the_same() -> None:
    fields = {
        "x": {"type": "number", "nulls": [-200.0, "N/A"], "default": 1.0, "unit": "km", "sent_in": "mi",
              "expect": {"mean": [1, 3], "null_share": "<0.2"}},
        "y": {"type": "number", "unit": "km"},
    }  # fmt: skip
    source = a_source({**fields}, rules=["x>=y"], version=2, expect_rows=10)
    document = to_document(source)

    assert parse("Source", document) == source
    assert document["spec"]["fields"]["x"]["nulls"] == [-200, "N/A"]
    assert document["spec"]["fields"]["x"]["expect"] == {"mean": [1.0, 3.0], "null_share": "< 0.2"}
    assert document["spec"]["rules"] == ["x>=y"]
    assert source.key == "Source/s.v2"
