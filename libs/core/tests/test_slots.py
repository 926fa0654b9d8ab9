"""The online state: what a batch changes, what is forgotten, and that order and batching do not matter."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimtab_core.slots import FoldState, Layout
from trimtab_core.specs import FeatureView, parse

HOP = 3_600_000
FUNCTIONS = ["count", "sum", "mean", "stddev", "min", "max"]


def a_layout(lateness_ms: int = 2 * HOP) -> Layout:
    spec = {
        "source": "s", "entity": "e", "hop": "1h", "ttl": "2d",
        "aggregates": [{"field": "v", "functions": FUNCTIONS, "windows": ["1h", "4h"]}],
    }  # fmt: skip
    view = parse("FeatureView", {"metadata": {"name": "v"}, "spec": spec})
    assert isinstance(view, FeatureView)
    return Layout.of(view.spec, lateness_ms)


Event = tuple[str, int, float]


def fold(state: FoldState, events: list[Event]) -> tuple[list[tuple[str, int, int]], int]:
    entities, times, values = [e for e, _, _ in events], [t for _, t, _ in events], [[v] for *_, v in events]
    folded = state.fold(entities, np.array(times, np.int64), np.array(values, np.float64).reshape(-1, 1))
    return folded.changed, folded.too_old


# Within what the ring holds, so that no order makes an event too old.
kept_events = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.integers(100 * HOP, 104 * HOP),
        st.one_of(st.floats(1, 1000), st.just(math.nan)),
    ),
    max_size=40,
)


@settings(max_examples=200)
@given(kept_events, st.randoms(use_true_random=False), st.integers(1, 9), st.integers(100 * HOP, 108 * HOP))
def test_values_do_not_depend_on_order_or_batching(events, random, size, at) -> None:  # type: ignore[no-untyped-def]
    once, pieces = FoldState(a_layout()), FoldState(a_layout())
    fold(once, events)
    shuffled = random.sample(events, len(events))
    for start in range(0, len(events), size):
        assert fold(pieces, shuffled[start : start + size])[1] == 0

    found, wanted = (state.values(list("abc"), at) for state in (pieces, once))
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 40 * HOP), st.floats(-9, 9)), min_size=1, max_size=40
    ),
    st.integers(1, 9),
)
def test_a_batch_tells_each_slot_that_it_changed_once_and_only_those(events, size) -> None:  # type: ignore[no-untyped-def]
    state, told = FoldState(a_layout()), FoldState(a_layout())
    for start in range(0, len(events), size):
        changed, _ = fold(state, events[start : start + size])
        assert len(changed) == len({(entity, index) for entity, _, index in changed})
        for entity, slot, index in changed:
            assert index == slot % state.layout.ring
            told.put(entity, slot, state.slot(entity, index)[1])

    for entity in state.entities:
        for index in range(state.layout.ring):
            slot, partials = state.slot(entity, index)
            held, copied = told.slot(entity, index)
            assert slot == held
            np.testing.assert_array_equal(partials, copied)


def test_an_old_slot_read_back_does_not_displace_a_newer_one() -> None:
    state = FoldState(a_layout())
    ring = state.layout.ring
    fold(state, [("a", (ring + 3) * HOP, 7.0)])

    state.put("a", 3, np.array([[1.0, 1.0, 0.0, 1.0, 1.0]]))

    slot, partials = state.slot("a", 3)
    assert (slot, partials[0].tolist()) == (ring + 3, [1.0, 7.0, 0.0, 7.0, 7.0])


def test_a_newer_slot_displaces_the_older_one_of_its_place_even_within_a_batch() -> None:
    state = FoldState(a_layout())
    ring = state.layout.ring

    changed, too_old = fold(state, [("a", (ring + 3) * HOP, 7.0), ("a", 3 * HOP, 1.0)])

    assert (changed, too_old) == ([("a", ring + 3, 3)], 0)
    assert fold(state, [("a", 3 * HOP, 1.0), ("b", 3 * HOP, 1.0)]) == ([("b", 3, 3)], 1)


def test_events_before_1970_are_too_old() -> None:
    state = FoldState(a_layout())

    assert fold(state, [("a", -1, 1.0), ("a", -9 * HOP, 1.0), ("a", 0, 1.0)]) == ([("a", 0, 0)], 2)


def test_one_event_has_a_mean_and_no_spread_and_none_has_only_counts() -> None:
    state = FoldState(a_layout())
    fold(state, [("a", 0, 5.0), ("b", 0, math.nan)])

    by_name = [each.name for each in state.layout.columns]
    values = dict(zip(by_name, state.values(["a"], HOP)[0].tolist(), strict=True))
    assert values["v_mean_1h"] == values["v_sum_1h"] == 5
    assert math.isnan(values["v_stddev_1h"])
    for nothing in state.values(["b", "never"], HOP):
        values = dict(zip(by_name, nothing.tolist(), strict=True))
        assert values["v_count_1h"] == values["v_sum_1h"] == 0
        assert all(math.isnan(values[f"v_{name}_1h"]) for name in ("mean", "stddev", "min", "max"))
    assert (state.last_event_slot("b"), state.last_event_slot("never")) == (0, -1)


def test_an_entity_is_expired_once_neither_its_ttl_nor_the_ring_reaches_it() -> None:
    state = FoldState(a_layout())
    fold(state, [("a", HOP - 1, 1.0)])
    ring_ms = state.layout.ring * HOP

    assert state.expired(HOP + ring_ms, ttl_ms=4 * HOP) == ["a"]
    assert state.expired(HOP + ring_ms - 1, ttl_ms=4 * HOP) == []
    assert state.expired(HOP + ring_ms, ttl_ms=48 * HOP) == []
    assert state.expired(HOP + 48 * HOP, ttl_ms=48 * HOP) == ["a"]


def test_a_forgotten_entity_leaves_nothing_to_the_next() -> None:
    state = FoldState(a_layout())
    fold(state, [(f"e{number}", 0, 1.0) for number in range(40)])

    state.forget("e7")
    state.forget("never")

    assert len(state) == 39
    with pytest.raises(KeyError):
        state.slot("e7", 0)
    assert state.values(["e7"], HOP)[0, 0] == 0
    fold(state, [("new", HOP, 2.0)])
    assert state.values(["new"], 2 * HOP)[0].tolist()[:2] == [1, 1]
    assert set(state.entities) == {f"e{number}" for number in range(40) if number != 7} | {"new"}
    assert state.values([f"e{number}" for number in range(40)], HOP)[:, 0].sum() == 39
