"""First, last, distinct counts, rates and quantiles: online, offline and plain Python over raw events are one."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimtab_core.grouping import Grouping
from trimtab_core.pointintime import point_in_time
from trimtab_core.sketches import RELATIVE_ERROR, STANDARD_ERROR, text_numbers
from trimtab_core.slots import FoldState, Layout
from trimtab_core.specs import FeatureView, FieldSpec, parse

HOP = 3_600_000
ENDS = ["first", "last", "rate", "count"]
QUANTILES = ["p1", "p50", "p95", "mean"]
FIELDS = {"v": FieldSpec(type="number", nullable=True), "who": FieldSpec(type="string", nullable=True)}
Row = tuple[str, int, int, float, str | None, str]
"""Entity, event time, arrival, v, who and id."""


def a_layout(lateness_ms: int, aggregates: list[dict[str, Any]] | None = None) -> Layout:
    spec = {
        "source": "s", "entity": "e", "hop": "1h", "ttl": "2d",
        "aggregates": aggregates or [
            {"field": "v", "functions": ENDS, "windows": ["2h", "5h"]},
            {"field": "v", "functions": QUANTILES, "windows": ["3h"]},
            {"field": "v", "functions": ["last"], "windows": ["4h"], "where": "v > 500 or who == 'x'"},
            {"field": "who", "functions": ["distinct_count", "count"], "windows": ["2h", "5h"]},
        ],
    }  # fmt: skip
    view = parse("FeatureView", {"metadata": {"name": "v"}, "spec": spec})
    assert isinstance(view, FeatureView)
    return Layout.of(view.spec, lateness_ms)


def plain(rows: list[Row], entity: str, at: int) -> list[float]:
    """Compute the features from raw events; of a quantile, the value of that rank itself."""
    boundary = at // HOP * HOP
    seen = [row for row in rows if row[0] == entity and row[2] <= at and row[1] < boundary]

    def window(hours: int) -> list[Row]:
        return [row for row in seen if row[1] >= boundary - hours * HOP]

    def valued(hours: int) -> list[Row]:
        def key(row: Row) -> tuple[float, ...]:
            return row[1], text_numbers([row[5]])[0], row[3]

        return sorted((row for row in window(hours) if not math.isnan(row[3])), key=key)

    found: list[float] = []
    for of in (
        lambda rows: rows[0][3] if rows else math.nan,
        lambda rows: rows[-1][3] if rows else math.nan,
    ):
        found += [of(valued(hours)) for hours in (2, 5)]
    found += [len(valued(hours)) / (hours * 3600) for hours in (2, 5)]
    found += [len(valued(hours)) for hours in (2, 5)]
    ranked = sorted(row[3] for row in valued(3))
    found += [
        ranked[math.floor(share * (len(ranked) - 1))] if ranked else math.nan for share in (0.01, 0.5, 0.95)
    ]
    found.append(math.fsum(ranked) / len(ranked) if ranked else math.nan)
    chosen = [row[3] for row in valued(4) if row[3] > 500 or row[4] == "x"]
    found.append(chosen[-1] if chosen else math.nan)
    who = [[row[4] for row in window(hours) if row[4] is not None] for hours in (2, 5)]
    return [*found, *(len(set(each)) for each in who), *(len(each) for each in who)]


def columns(layout: Layout, rows: list[Row]) -> dict[str, Any]:
    fields = {
        "v": [None if math.isnan(row[3]) else row[3] for row in rows],
        "who": [row[4] for row in rows],
    }
    return {
        "entities": [row[0] for row in rows],
        "event_time_ms": np.array([row[1] for row in rows], np.int64),
        "values": Grouping(layout, FIELDS).values(fields, len(rows)),
        "ids": [row[5] for row in rows],
    }


def offline(layout: Layout, rows: list[Row], spine: list[tuple[str, int]]) -> Any:
    return point_in_time(
        layout,
        **columns(layout, rows),
        arrived_at_ms=np.array([row[2] for row in rows], np.int64),
        spine_entities=[entity for entity, _ in spine],
        spine_at_ms=np.array([at for _, at in spine], np.int64),
    )


numbers = st.one_of(
    st.floats(-1e6, 1e6).map(lambda v: 0.0 if abs(v) < 1e-9 else v),
    st.sampled_from([math.nan, 0.0, -0.0, 7.5]),
)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[int, list[Row], list[tuple[str, int]]]:
    lateness = draw(st.sampled_from([0, HOP // 2, 9 * HOP]))
    times = st.one_of(st.integers(100 * HOP, 108 * HOP), st.sampled_from([103 * HOP, 104 * HOP + 7]))
    rows = st.tuples(
        st.sampled_from("ab"),
        times,
        st.integers(0, lateness),
        numbers,
        st.sampled_from(["x", "y", "zü", "", None]),
    )
    drawn = draw(st.lists(rows, max_size=40))
    events = [(e, t, t + late, v, who, f"id-{at}") for at, (e, t, late, v, who) in enumerate(drawn)]
    spine = draw(st.lists(st.tuples(st.sampled_from("abz"), st.integers(100 * HOP, 120 * HOP)), max_size=12))
    return lateness, events, spine


@settings(max_examples=60)
@given(worlds(), st.integers(1, 9), st.randoms(use_true_random=False))
def test_every_function_is_the_same_online_and_offline_and_what_the_events_say(world, size, random) -> None:  # type: ignore[no-untyped-def]
    lateness, events, spine = world
    layout = a_layout(lateness)

    found = offline(layout, random.sample(events, len(events)), spine)

    for values, (entity, at) in zip(found, spine, strict=True):
        wanted = plain(events, entity, at)
        np.testing.assert_allclose(values, wanted, rtol=RELATIVE_ERROR * 1.0001, atol=1e-9)
        exact = [place for place, each in enumerate(layout.columns) if each.kept != "quantiles"]
        np.testing.assert_allclose(values[exact], np.array(wanted)[exact], rtol=1e-9, atol=1e-9)
        state = FoldState(layout)
        arrived = [row for row in events if row[2] <= at]
        random.shuffle(arrived)
        for start in range(0, len(arrived), size):
            state.fold(**columns(layout, arrived[start : start + size]))
        online = state.values([entity], at)[0]
        same = [place for place, each in enumerate(layout.columns) if each.function != "mean"]
        np.testing.assert_array_equal(online[same], values[same])
        np.testing.assert_allclose(online, values, rtol=1e-9)


@pytest.mark.parametrize("distinct", [1, 40, 2_000, 15_000, 60_000])
def test_a_distinct_count_is_within_its_stated_error_online_and_offline(distinct: int) -> None:
    layout = a_layout(0, [{"field": "who", "functions": ["distinct_count"], "windows": ["5h"]}])
    rows: list[Row] = [
        ("a", 100 * HOP + at % (4 * HOP), 0, 1.0, f"someone {at % distinct}", "")
        for at in range(0, 120_000, 2)
    ]
    state = FoldState(layout)
    for start in range(0, len(rows), 7_000):
        state.fold(**columns(layout, rows[start : start + 7_000]))

    online, after = state.values(["a"], 104 * HOP)[0, 0], offline(layout, rows, [("a", 104 * HOP)])[0, 0]

    seen = len({row[4] for row in rows})
    assert online == after
    assert abs(online - seen) <= 3 * STANDARD_ERROR * seen


def test_a_quantile_of_many_values_over_many_slots_is_within_one_percent() -> None:
    layout = a_layout(0, [{"field": "v", "functions": ["p1", "p50", "p99"], "windows": ["1d"]}])
    values = np.random.default_rng(5).lognormal(2, 3, 20_000)
    rows: list[Row] = [("a", 100 * HOP + at * 4_000, 0, float(v), None, "") for at, v in enumerate(values)]
    state = FoldState(layout)
    state.fold(**columns(layout, rows))

    online = state.values(["a"], 123 * HOP)[0]

    ranked = np.sort(values)
    wanted = [ranked[int(share * (len(ranked) - 1))] for share in (0.01, 0.5, 0.99)]
    np.testing.assert_allclose(online, wanted, rtol=RELATIVE_ERROR * 1.0001)
    np.testing.assert_array_equal(online, offline(layout, rows, [("a", 123 * HOP)])[0])


def test_of_events_at_one_time_first_and_last_are_decided_by_their_ids_in_any_order() -> None:
    layout = a_layout(0, [{"field": "v", "functions": ["first", "last"], "windows": ["1h"]}])
    rows: list[Row] = [("a", 100 * HOP, 0, float(at), None, f"id-{at}") for at in range(6)]
    by_tie = sorted(range(6), key=lambda at: text_numbers([f"id-{at}"])[0])

    for order in (rows, rows[::-1], rows[3:] + rows[:3]):
        state = FoldState(layout)
        for row in order:
            state.fold(**columns(layout, [row]))
        assert state.values(["a"], 101 * HOP)[0].tolist() == [by_tie[0], by_tie[-1]]


def test_a_layout_that_needs_only_cells_keeps_only_cells() -> None:
    few = a_layout(0, [{"field": "v", "functions": ["count", "mean", "rate"], "windows": ["1h"]}])
    more = a_layout(0)

    assert few.empty.shape == (1, 5)
    assert (few.ends, few.sketches) == ((), ())
    assert more.ends == ((0, "first"), (0, "last"), (1, "last"))
    assert more.sketches == ((0, "quantiles"), (2, "distinct"))


def test_a_slot_with_sketches_is_told_whole_and_a_part_of_one_is_refused() -> None:
    layout = a_layout(0)
    state, told = FoldState(layout), FoldState(layout)
    rows: list[Row] = [("a", 100 * HOP + at, 0, float(at), "x", f"{at}") for at in range(50)]
    ((_, slot, index),) = state.fold(**columns(layout, rows)).changed

    told.put("a", slot, state.slot("a", index)[1], state.sketches("a", index))

    np.testing.assert_array_equal(told.values(["a"], 101 * HOP), state.values(["a"], 101 * HOP))
    with pytest.raises(ValueError, match="has 2 sketches"):
        told.put("a", slot, state.slot("a", index)[1])
    with pytest.raises(ValueError, match="reshape"):
        told.put("b", slot, np.zeros((1, 5)), state.sketches("a", index))
    assert told.entities == ("a",)


def test_a_forgotten_entitys_sketches_leave_nothing_to_the_next() -> None:
    layout = a_layout(0)
    state = FoldState(layout)
    state.fold(**columns(layout, [("a", 100 * HOP, 0, 3.0, "x", "1")]))

    state.forget("a")
    state.fold(**columns(layout, [("b", 100 * HOP, 0, math.nan, None, "2")]))

    np.testing.assert_array_equal(state.values(["b"], 101 * HOP), state.values(["never"], 101 * HOP))


def test_aggregates_of_one_field_under_two_conditions_are_told_apart_by_name() -> None:
    aggregate = {"field": "v", "functions": ["count"], "windows": ["1h"]}
    slow = {**aggregate, "where": "v < 5", "name": "slow"}

    assert [each.name for each in a_layout(0, [aggregate, slow]).columns] == ["v_count_1h", "slow_count_1h"]
    with pytest.raises(ValueError, match="'v_count_1h' is the name of two features: give one"):
        a_layout(0, [aggregate, {**slow, "name": None}])


@pytest.mark.parametrize("function", ["p0", "p100", "p05", "median", "distinct", 7])
def test_a_function_that_is_none_is_told_with_those_there_are(function: Any) -> None:
    with pytest.raises(ValueError, match=r"write one of count, .*, or a quantile such as p50"):
        a_layout(0, [{"field": "v", "functions": [function], "windows": ["1h"]}])
