"""Online and offline agree with each other and with plain Python, whatever the order of events."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimtab_core.pointintime import join_labels, point_in_time
from trimtab_core.slots import FoldState, Layout
from trimtab_core.specs import FeatureView, parse

HOP = 3_600_000
LATENESS = 2 * HOP


def a_layout() -> Layout:
    spec = {
        "source": "s",
        "entity": "e",
        "hop": "1h",
        "ttl": "2d",
        "aggregates": [
            {
                "field": "v",
                "functions": ["count", "sum", "mean", "stddev", "min", "max"],
                "windows": ["1h", "4h"],
            },
            {"field": "v", "functions": ["count", "mean"], "windows": ["2h"], "where": "w < 5"},
        ],
    }
    view = parse(
        "FeatureView", {"metadata": {"name": "v"}, "spec": {**spec, "aggregates": spec["aggregates"][:1]}}
    )
    assert isinstance(view, FeatureView)
    return Layout.of(view.spec, LATENESS)


events = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.integers(100 * HOP, 112 * HOP),  # event time
        st.integers(0, LATENESS),  # how late
        st.one_of(st.none(), st.floats(-1e6, 1e6)),
    ),
    max_size=60,
)
Event = tuple[str, int, int, float | None]


def naive(seen: list[Event], entity: str, at: int, window: int) -> list[float]:
    boundary = at // HOP * HOP
    values = [v for e, t, _, v in seen if e == entity and v is not None and boundary - window <= t < boundary]
    if not values:
        return [0, 0, math.nan, math.nan, math.nan, math.nan]
    mean = math.fsum(values) / len(values)
    spread = (
        math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
        if len(values) > 1
        else math.nan
    )
    return [len(values), math.fsum(values), mean, spread, min(values), max(values)]


def expected(seen: list[Event], entity: str, at: int) -> list[float]:
    one, four = naive(seen, entity, at, HOP), naive(seen, entity, at, 4 * HOP)
    return [each for pair in zip(one, four, strict=True) for each in pair]


def columns(seen: list[Event]) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    values = np.array([[math.nan if v is None else v] for *_, v in seen]).reshape(-1, 1)
    at = np.array([t for _, t, _, _ in seen], np.int64)
    return [e for e, *_ in seen], at, values, at + np.array([late for _, _, late, _ in seen], np.int64)


def same(found: np.ndarray, wanted: list[float]) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-3 * 1e-6)


@settings(max_examples=150)
@given(events, st.integers(1, 7), st.integers(100 * HOP, 114 * HOP))
def test_online_values_are_those_of_plain_python_as_events_arrive(seen, size, at) -> None:  # type: ignore[no-untyped-def]
    state, arriving = FoldState(a_layout()), sorted(seen, key=lambda event: event[1] + event[2])
    for start in range(0, len(arriving), size):
        names, times, values, _ = columns(arriving[start : start + size])
        assert state.fold(names, times, values).too_old == 0 or max(times) - min(times) > 4 * HOP

    for entity in ("a", "b", "c", "never"):
        # Slots that the ring has let go by `at` are not asked for: it holds the longest window, the lateness and two more.
        newest = max((t for e, t, _, _ in seen if e == entity), default=at)
        if at >= newest - 2 * HOP:
            same(state.values([entity], at)[0], expected(seen, entity, at))


@settings(max_examples=150)
@given(events, st.randoms(use_true_random=False), st.integers(1, 7), st.integers(100 * HOP, 114 * HOP))
def test_online_slots_and_the_offline_join_agree_for_the_same_events_in_any_order(  # type: ignore[no-untyped-def]
    seen, random, size, at
) -> None:
    arrived = [event for event in seen if event[1] + event[2] <= at]
    state, one_order, other_order = FoldState(a_layout()), random.sample(arrived, len(arrived)), seen[:]
    random.shuffle(other_order)
    for start in range(0, len(one_order), size):
        state.fold(*columns(one_order[start : start + size])[:3])
    entities = ["a", "b", "c", "never"]

    online = state.values(entities, at)
    offline = point_in_time(a_layout(), *columns(other_order), entities, np.full(4, at))

    np.testing.assert_allclose(online, offline, rtol=1e-9, atol=1e-9)
    for row, entity in zip(offline, entities, strict=True):
        same(row, expected(arrived, entity, at))


@settings(max_examples=150)
@given(
    events,
    st.lists(st.tuples(st.sampled_from(["a", "b", "x"]), st.integers(100 * HOP, 114 * HOP)), max_size=20),
)
def test_offline_values_see_what_had_happened_and_arrived(seen, spine) -> None:  # type: ignore[no-untyped-def]
    names, times, values, arrived = columns(seen)

    found = point_in_time(
        a_layout(),
        names,
        times,
        values,
        arrived,
        [e for e, _ in spine],
        np.array([t for _, t in spine], np.int64),
    )

    assert found.shape == (len(spine), 12)
    for row, (entity, at) in zip(found, spine, strict=True):
        same(row, expected([event for event in seen if event[1] + event[2] <= at], entity, at))


@settings(max_examples=50)
@given(events)
def test_a_state_is_recovered_from_its_slots(seen) -> None:  # type: ignore[no-untyped-def]
    state, recovered = FoldState(a_layout()), FoldState(a_layout())
    for event in seen:
        names, times, values, _ = columns([event])
        for entity, slot, index in state.fold(names, times, values).changed:
            held, partials = state.slot(entity, index)
            assert held == slot
            recovered.put(entity, slot, partials)

    at = 112 * HOP
    np.testing.assert_array_equal(state.values(list("abc"), at), recovered.values(list("abc"), at))


def test_an_event_older_than_the_ring_is_counted_and_changes_nothing() -> None:
    layout = a_layout()
    state = FoldState(layout)
    state.fold(["a"], np.array([layout.ring * HOP]), np.array([[1.0]]))

    folded = state.fold(["a"], np.array([0]), np.array([[9.0]]))

    assert (folded.too_old, folded.changed) == (1, [])


def test_a_label_counts_once_it_has_come_in_time() -> None:
    labels, missing = join_labels(
        spine_keys=["a", "b", "c", "d", "e"],
        spine_at_ms=np.array([10, 10, 10, 10, 10]),
        label_keys=["a", "a", "b", "c", "d"],
        label_values=np.array([1.0, 2.0, 3.0, 4.0, 5.0]),
        label_at_ms=np.array([15, 12, 9, 21, 20]),
        label_arrived_ms=np.array([15, 12, 9, 21, 99]),
        within_ms=10,
        as_of_ms=50,
    )

    assert labels[0] == pytest.approx(2.0)
    assert np.isnan(labels[1:]).all()
    assert missing == 4
