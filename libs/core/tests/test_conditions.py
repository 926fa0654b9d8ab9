"""Conditions hold as a person reads them, and a null meets none but `is null`."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimtab_core.columns import Columns
from trimtab_core.conditions import compile_condition
from trimtab_core.specs import FieldSpec
from trimtab_core.syntax import TextFault

FIELDS = {
    "mph": FieldSpec(type="number", nullable=True),
    "zone": FieldSpec(type="integer", nullable=True),
    "payment": FieldSpec(type="string", nullable=True),
    "shared": FieldSpec(type="boolean", nullable=True),
    "at": FieldSpec(type="timestamp", nullable=True),
}
TYPES = {name: field.type for name, field in FIELDS.items()}
ROWS: list[dict[str, Any]] = [
    {"mph": 79.0, "zone": 1, "payment": "card", "shared": True, "at": "2018-01-01T00:00:00Z"},
    {"mph": 80.0, "zone": 2, "payment": "cash", "shared": False, "at": None},
    {"mph": None, "zone": None, "payment": None, "shared": None, "at": None},
]


def columns(rows: list[dict[str, Any]]) -> Columns:
    return Columns(FIELDS, {name: [row[name] for row in rows] for name in FIELDS})


def met(text: str, rows: list[dict[str, Any]] = ROWS) -> list[int]:
    return [at for at, is_met in enumerate(compile_condition(text, TYPES).met(columns(rows))) if is_met]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("mph < 80", [0]),
        ("mph != 80", [0]),
        ("80 <= mph", [1]),
        ("not mph < 80", [1]),
        ("0 < mph < 80", [0]),
        ("not 0 < mph < 80", [1]),
        ("mph > -1.5", [0, 1]),
        ("mph > zone", [0, 1]),
        ("payment == 'card' and mph < 80", [0]),
        ('payment != "card"', [1]),
        ("payment > 'card'", [1]),
        ("payment == 'card' or mph >= 80", [0, 1]),
        ("not (payment == 'card' or mph is null)", [1]),
        ("payment in ['cash', 'voucher']", [1]),
        ("payment not in ('cash',)", [0]),
        ("zone in [1, 7]", [0]),
        ("zone not in [1, 7]", [1]),
        ("not zone in [1, 7]", [1]),
        ("shared", [0]),
        ("not shared", [1]),
        ("shared == false", [1]),
        ("mph is null", [2]),
        ("not payment is null", [0, 1]),
        ("at is not null", [0]),
        ("at >= at", [0]),
        ("zone >= zone", [0, 1]),
        (" mph < 80\n or zone == 2 ", [0, 1]),
    ],
)
def test_a_condition_is_met_by_the_rows_that_a_person_would_say(text: str, wanted: list[int]) -> None:
    assert met(text) == wanted


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "ends too soon: write a condition such as"),
        ("mph < 80 and (zone == 1", "cannot be read from character 14, '(zone == 1'"),
        ("mph", "'mph' at character 1 of 'mph' is no boolean field"),
        ("mph = 80", "cannot be read from character 5, '= 80': write a condition such as"),
        ("zone == 1 and mhp < 80", "'mhp' at character 15 of 'zone == 1 and mhp < 80' is no field of the source"),
        ("payment == card", "'card' at character 12 of 'payment == card' is no field of the source: declare it there, or put"),
        ("payment == 'é' and payment == 3", "'3' at character 31"),
        ("payment == 3", "is a number, and the field is a string: write a string"),
        ("shared == 1", "is a number, and the field is a boolean"),
        ("mph == null", "never meets a comparison: write is null"),
        ("mph is 3", "cannot follow is"),
        ("mph in 3", "is no list of values"),
        ("mph in []", "is no list of values"),
        ("payment in ['a', 3]", "is a number, and the field is a string"),
        ("at < '2018-01-01'", "is a timestamp: compare it with another, or ask"),
        ("payment == payment", "only numbers, and timestamps, are compared field with field"),
        ("mph + 1 < 80", "is no field: compare a field with a value"),
        ("1 < 2", "is no field"),
        ("mph < 1e999", "is no value"),
        ("mph < -true", "is no value"),
        ("__import__('os')", "is no condition"),
        ("mph < (lambda: 3)()", "is no value"),
        ("mph < 3 if shared else 4", "is no condition"),
        ("mph\x00 < 3", "cannot be read"),
        ("not " * 100 + "shared", "is nested more than 100 deep"),
        ("not " * 400 + "shared", "has 1606 characters"),
        ("(" * 300 + "shared" + ")" * 300, "cannot be read"),
    ],
)  # fmt: skip
def test_a_text_that_is_no_condition_is_told_with_its_place_and_the_remedy(text: str, sentence: str) -> None:
    with pytest.raises(TextFault) as raised:
        compile_condition(text, TYPES)

    assert sentence in str(raised.value)


rows = st.fixed_dictionaries(
    {
        "mph": st.one_of(st.none(), st.sampled_from([1.0, 80.0])),
        "zone": st.one_of(st.none(), st.integers(0, 2)),
        "payment": st.one_of(st.none(), st.sampled_from(["card", "cash"])),
        "shared": st.one_of(st.none(), st.booleans()),
        "at": st.none(),
    }
)
atoms = st.sampled_from(
    ["mph < 80", "zone == 1", "payment != 'card'", "shared", "mph is null", "zone in [0, 2]"]
)
texts = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda each: f"({' '.join(each)})"),
        inner.map(lambda each: f"not ({each})"),
    ),
    max_leaves=6,
)


def truth(text: str, row: dict[str, Any]) -> bool | None:
    """Say what a condition is of one row, in Kleene's logic, by reading the text from within."""
    of = {
        "mph < 80": None if row["mph"] is None else row["mph"] < 80,
        "zone == 1": None if row["zone"] is None else row["zone"] == 1,
        "payment != 'card'": None if row["payment"] is None else row["payment"] != "card",
        "shared": row["shared"],
        "mph is null": row["mph"] is None,
        "zone in [0, 2]": None if row["zone"] is None else row["zone"] in (0, 2),
    }
    if text in of:
        return of[text]
    if text.startswith("not "):
        inner = truth(text[5:-1], row)
        return None if inner is None else not inner
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        for word in (" and ", " or "):
            if depth == 1 and text.startswith(word, at):
                both = truth(text[1:at], row), truth(text[at + len(word) : -1], row)
                ends = word == " or "
                return ends if ends in both else None if None in both else not ends
    raise AssertionError(text)


@settings(max_examples=200)
@given(texts, st.lists(rows, min_size=1, max_size=6))
def test_any_condition_is_what_three_valued_logic_says(text: str, some: list[dict[str, Any]]) -> None:
    condition = compile_condition(text, TYPES)

    assert condition.met(columns(some)).tolist() == [truth(text, row) is True for row in some]
    assert condition.broken(columns(some)).tolist() == [truth(text, row) is False for row in some]


def test_the_archives_columns_are_read_like_those_of_json() -> None:
    types = {
        "mph": pa.float64(),
        "zone": pa.int64(),
        "payment": pa.string(),
        "shared": pa.bool_(),
        "at": pa.string(),
    }
    archived = Columns(
        FIELDS,
        {
            name: pa.chunked_array([pa.array([row[name]], kind) for row in ROWS])
            for name, kind in types.items()
        },
    )
    never = Columns(FIELDS, {name: pa.nulls(3) for name in FIELDS})

    for text in ("payment == 'card' and mph < 80", "shared", "zone in [1]", "at is null or not shared"):
        condition = compile_condition(text, TYPES)
        assert condition.met(archived).tolist() == condition.met(columns(ROWS)).tolist()
        assert condition.met(never).all() == ("null" in text)
    assert archived.numbers("at")[0] == columns(ROWS).numbers("at")[0] == 1_514_764_800_000
    assert archived.numbers("payment")[0] == columns(ROWS).numbers("payment")[0]
