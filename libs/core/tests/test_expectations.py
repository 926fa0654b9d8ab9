"""What fields are expected to be like over many rows: windows, statistics, verdicts."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trimtab_core.expectations import Expectations, Finding, Summary
from trimtab_core.limits import Limit, parse_limit
from trimtab_core.specs import Source, parse


def expecting(expect: dict[str, Any], kind: str = "number", rows: int = 4) -> Expectations:
    field = {"type": kind, "nullable": True, "expect": expect}
    fields = {"id": {"type": "string"}, "at": {"type": "timestamp"}, "x": field}
    spec = {"key": "id", "event_time": "at", "lateness": "2h", "fields": fields, "expect_rows": rows}
    source = parse("Source", {"metadata": {"name": "s"}, "spec": spec})
    assert isinstance(source, Source)
    return Expectations(source.spec)


def add(expectations: Expectations, *values: Any, at_ms: int = 5) -> list[Finding]:
    rows = [{} if value is ... else {"x": value} for value in values]
    return expectations.add(rows, np.arange(at_ms, at_ms + len(rows)))


def test_a_window_is_closed_by_the_batch_that_fills_it_and_the_next_begins_anew() -> None:
    expectations = expecting({"mean": [1, 3]}, rows=3)

    assert add(expectations, 1, 2) == []
    assert add(expectations, at_ms=9) == []
    assert add(expectations, 3, 4, at_ms=1) == [
        Finding("x", "mean", 2.5, Limit(1, 3), held=True, rows=4, from_ms=1, to_ms=6)
    ]
    assert add(expectations, 9, 9) == []
    (finding,) = add(expectations, 9)
    assert (finding.held, finding.rows) == (False, 3)
    assert str(finding) == "mean of x is not in [1, 3]: it is 9 over 3 rows"


@pytest.mark.parametrize(
    ("expect", "values", "value", "held"),
    [
        ({"null_share": "< 0.5"}, (1, None, ..., 2), 0.5, False),
        ({"null_share": "<= 0.5"}, (1, None, ..., 2), 0.5, True),
        ({"distinct": ">= 3"}, (1, 2, 2, None), 2, False),
        ({"mean": [0, 2]}, (1, 2, 3, None), 2, True),
        ({"stddev": "> 0"}, (1, 2, 3, 4), math.sqrt(5 / 3), True),
        ({"min": ">= 0"}, (-1, 2, 3, 4), -1, False),
        ({"max": "< 10"}, (-1, 2, 3, 4), 4, True),
        ({"mean": "< 1"}, (1e308, 1e308, 1e308, 1e308), math.inf, False),
    ],
)
def test_a_statistic_is_held_against_its_limit(
    expect: dict[str, Any], values: tuple[Any, ...], value: float, held: bool
) -> None:
    (finding,) = add(expecting(expect), *values)

    assert (finding.value, finding.held) == (pytest.approx(value), held)


def test_texts_have_shares_and_different_values() -> None:
    found = add(expecting({"null_share": "<= 0", "distinct": "< 3"}, "string"), "a", "b", "a", "b")

    assert [(finding.statistic, finding.value, finding.held) for finding in found] == [
        ("null_share", 0, True), ("distinct", 2, True),
    ]  # fmt: skip


def test_of_no_values_there_is_no_mean_to_tell() -> None:
    assert add(expecting({"mean": [1, 3], "stddev": "< 1", "min": "> 0"}), None, None, None, ...) == []


def test_without_expectations_there_is_nothing_to_do() -> None:
    assert not expecting({})
    assert add(expecting({}), 1, 2, 3, 4) == []


def test_what_no_float_holds_is_within_no_limit_in_whatever_batches_it_comes() -> None:
    of = Summary.of([1e308] * 4, numbers=True, different=False)

    assert not parse_limit("< 1").holds(of.merge(of).statistic("mean") or 0)


columns = st.lists(st.none() | st.integers(-1000, 1000) | st.floats(-1e6, 1e6), max_size=8)


@given(columns, columns)
def test_summaries_of_two_parts_merge_into_that_of_the_whole(one: list[Any], other: list[Any]) -> None:
    of = [Summary.of(each, numbers=True, different=True) for each in (one, other, one + other)]
    merged, whole = of[0].merge(of[1]), of[2]

    for name in ("null_share", "distinct", "mean", "stddev", "min", "max"):
        wanted = whole.statistic(name)
        assert merged.statistic(name) == (
            None if wanted is None else pytest.approx(wanted, rel=1e-6, abs=1e-6)
        )


@pytest.mark.parametrize(
    "wrong",
    ["0.2", "< x", "== 3", [3, 1], [1], [1, "2"], [True, 2], [1, math.inf], [math.nan, 1], 3, None, {}],
)
def test_a_limit_that_is_none_is_refused_where_it_is_declared(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"no limit|falls"):
        parse_limit(wrong)


def test_moments_are_for_numbers() -> None:
    with pytest.raises(ValueError, match=r"'< 1' is for numbers, and this field is a string"):
        expecting({"mean": "< 1"}, "string")
