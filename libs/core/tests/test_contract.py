"""What a data contract lets through, and what it says of the rest."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimtab_core.contract import Contract, Reason, ReasonCode, compile_contract
from trimtab_core.specs import Source, parse
from trimtab_core.timestamps import NOT_A_TIME

NOW = 1_514_998_865_000  # 2018-01-03T17:01:05Z


def a_contract(**spec: Any) -> Contract:
    fields = {
        "id": {"type": "string", "pattern": "[a-z]+"},
        "at": {"type": "timestamp", "timezone": "America/New_York"},
        "zone": {"type": "integer", "min": 1, "max": 263},
        "distance": {"type": "number", "min": 0},
        "kind": {"type": "string", "enum": ["day", "night"], "nullable": True},
        "paid": {"type": "boolean", "nullable": True},
        "vendor": {"type": "integer", "enum": [1, 2], "nullable": True},
        "large": {"type": "integer", "nullable": True},
    }
    document = {"key": "id", "event_time": "at", "lateness": "2h", "fields": fields, **spec}
    source = parse("Source", {"metadata": {"name": "s"}, "spec": document})
    assert isinstance(source, Source)
    return compile_contract(source.spec)


GOOD = {"id": "abc", "at": "2018-01-03 12:01:05", "zone": 3, "distance": 1.5, "kind": "day", "paid": True}


def check(row: Any, **spec: Any) -> list[tuple[str, str]]:
    payload = row if isinstance(row, bytes) else json.dumps(row).encode()
    checked = a_contract(**spec).check([payload], np.array([NOW]))
    return [(reason.field, reason.code) for reason in checked.reasons[0]]


def test_what_could_not_be_made_json_is_not_looked_at_and_its_neighbours_are() -> None:
    contract = a_contract(
        fields={"id": {"type": "string"}, "at": {"type": "timestamp"}, "n": {"type": "integer", "default": 1}}
    )
    rows = [b'{"id": "a", "at": %d}' % NOW, b'{"id": "b"}', b"{rubbish"]
    why = Reason(ReasonCode.MALFORMED_RECORD, "", "b'..'", "the record is none: mend the producer")

    checked = contract.check(rows, np.full(3, NOW), {1: why})

    assert [[reason.code for reason in each] for each in checked.reasons] == [
        [],
        ["malformed_record"],
        ["malformed_json"],
    ]
    assert checked.reasons[1] == (why,)
    assert (checked.rows[1], checked.keys[1], checked.event_time_ms[1]) == (None, None, NOT_A_TIME)
    assert list(checked.cleaned.values()) == [1]


def test_a_good_row_passes_with_its_time_and_key() -> None:
    checked = a_contract().check([json.dumps(GOOD).encode()], np.array([NOW]))

    assert checked.reasons == [()]
    assert checked.rows == [GOOD]
    assert checked.event_time_ms.tolist() == [NOW]
    assert checked.keys == ["abc"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"zone": 264}, ("zone", "out_of_range")),
        ({"zone": "3"}, ("zone", "wrong_type")),
        ({"zone": 3.5}, ("zone", "wrong_type")),
        ({"zone": True}, ("zone", "wrong_type")),
        ({"zone": 10**400}, ("zone", "out_of_range")),
        ({"zone": 10**30}, ("zone", "out_of_range")),
        ({"zone": [3]}, ("zone", "wrong_type")),
        ({"zone": None}, ("zone", "null_value")),
        ({"large": 2**63}, ("large", "out_of_range")),
        ({"large": -(2**63) - 1}, ("large", "out_of_range")),
        ({"distance": -1}, ("distance", "out_of_range")),
        ({"distance": 10**400}, ("distance", "out_of_range")),
        ({"vendor": {}}, ("vendor", "wrong_type")),
        ({"vendor": 3}, ("vendor", "not_in_enum")),
        ({"kind": "dusk"}, ("kind", "not_in_enum")),
        ({"id": "ABC"}, ("id", "pattern_mismatch")),
        ({"paid": 1}, ("paid", "wrong_type")),
        ({"at": "yesterday"}, ("at", "bad_timestamp")),
        ({"at": "2018-01-03 09:01:04"}, ("at", "late")),
        ({"at": "2018-01-03 12:06:06"}, ("at", "future")),
    ],
)
def test_a_fault_is_named(change: dict[str, Any], reason: tuple[str, str]) -> None:
    assert check({**GOOD, **change}) == [reason]


@pytest.mark.parametrize(
    "change",
    [
        {"zone": 3.0},
        {"kind": None},
        {"at": "2018-01-03T17:01:05Z"},
        {"at": NOW},
        {"more": 1},
        {"large": 2**63 - 1},
        {"large": -(2**63)},
    ],
)
def test_what_is_allowed_passes(change: dict[str, Any]) -> None:
    assert check({**GOOD, **change}) == []


def test_all_faults_of_a_row_are_told_at_once_with_value_and_remedy() -> None:
    row = {"id": "abc", "at": GOOD["at"], "zone": 0, "distance": "far"}

    checked = a_contract().check([json.dumps(row).encode()], np.array([NOW]))

    assert [str(reason.message) for reason in checked.reasons[0]] == [
        "zone 0 is outside [1, 263]: mend the producer",
        "distance 'far' is no number: send one",
    ]


def test_rubbish_is_told_apart() -> None:
    assert check(b"{rubbish") == [("", ReasonCode.MALFORMED_JSON)]
    assert check(b"[1, 2]") == [("", ReasonCode.NOT_AN_OBJECT)]


def test_unknown_fields_go_by_the_policy() -> None:
    row = {**GOOD, "more": 1}

    assert check(row, unknown_fields="reject") == [("more", "unknown_field")]
    dropped = a_contract(unknown_fields="drop").check([json.dumps(row).encode()], np.array([NOW]))
    assert dropped.rows == [GOOD]


def test_a_request_is_checked_by_the_fields_it_needs() -> None:
    reasons = a_contract().check_fields({"zone": "x"}, {"zone", "distance"})

    assert [(reason.field, reason.code) for reason in reasons] == [
        ("zone", "wrong_type"),
        ("distance", "missing_field"),
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "at", "zone", "z"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=40), json_values.map(lambda value: json.dumps(value).encode())))
def test_whatever_is_sent_is_judged_and_never_raises(payload: bytes) -> None:
    checked = a_contract().check([payload, json.dumps(GOOD).encode()], np.array([NOW, NOW]))

    assert checked.reasons[1] == ()
    assert checked.reasons[0] or checked.event_time_ms[0] != NOT_A_TIME


fields = st.fixed_dictionaries(
    {},
    optional={
        "id": json_values | st.text("abC", max_size=3),
        "at": json_values
        | st.sampled_from(
            [GOOD["at"], "2018-01-03T17:01:05.5Z", "2018-01-03 09:00:00", NOW, NOW + 0.5, 1e300]
        ),
        "zone": json_values | st.sampled_from([1, 263, 264, 3.0, 3.5, 2**63, -(2**63), 10**400]),
        "distance": json_values | st.sampled_from([0, 1.5, 10**400, -1]),
        "kind": json_values | st.sampled_from(["day", "dusk"]),
        "vendor": json_values | st.sampled_from([1, 2.0, 3]),
        "more": json_values,
    },
).map(lambda row: {**GOOD, **row})


@settings(max_examples=400)
@given(st.lists(fields, max_size=6), st.sampled_from(["keep", "drop", "reject"]))
def test_a_batch_is_judged_as_its_rows_are_one_by_one(rows: list[Any], unknown: str) -> None:
    contract = a_contract(unknown_fields=unknown)
    payloads = [json.dumps(row).encode() for row in rows]

    checked = contract.check(payloads, np.full(len(rows), NOW))

    for at, payload in enumerate(payloads):
        alone = contract.check([payload], np.array([NOW]))
        assert checked.reasons[at] == alone.reasons[0]
        assert (checked.keys[at], checked.event_time_ms[at]) == (alone.keys[0], alone.event_time_ms[0])
        if (row := checked.rows[at]) is not None:
            by_field = {reason.field: reason.code for reason in contract.explain(row)}
            told = {reason.field: reason.code for reason in checked.reasons[at]}
            assert {**told, **by_field} == told
            wanted = rows[at].keys() - ({"more"} if unknown == "drop" else set())
            assert row == {name: rows[at][name] for name in wanted}


@pytest.mark.parametrize("inside", ["[" * 980 + "]" * 980, '"' + "x" * 10_000 + '"', "9" * 300])
def test_what_is_told_of_a_huge_value_is_bounded(inside: str) -> None:
    payload = json.dumps(GOOD).replace("1.5", inside).encode()

    (reasons,) = a_contract().check([payload], np.array([NOW])).reasons

    assert all(len(reason.value) <= 200 and len(reason.message) < 600 for reason in reasons)


def test_a_key_is_told_as_text() -> None:
    contract = a_contract(key="zone")

    checked = contract.check(
        [json.dumps({**GOOD, "zone": zone}).encode() for zone in (3, 3.0, "3", None, [3])], np.full(5, NOW)
    )

    assert checked.keys == ["3", "3", "3", None, None]


def test_a_pattern_that_is_none_is_refused_where_it_is_declared() -> None:
    with pytest.raises(ValueError, match="no regular expression"):
        a_contract(fields={"id": {"type": "string", "pattern": "["}, "at": {"type": "timestamp"}})
