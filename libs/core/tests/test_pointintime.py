"""Online values, offline values and plain Python over raw events are one."""

import bisect
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimtab_core import pointintime
from trimtab_core.pointintime import join_labels, point_in_time
from trimtab_core.slots import FoldState, Layout
from trimtab_core.specs import FeatureView, parse

HOP = 3_600_000
FUNCTIONS = ["count", "sum", "mean", "stddev", "min", "max"]
Row = tuple[str, int, int, float, float]
"""Entity, event time, arrival, v and w."""


def a_layout(lateness_ms: int) -> Layout:
    spec = {
        "source": "s", "entity": "e", "hop": "1h", "ttl": "2d",
        "aggregates": [
            {"field": "v", "functions": FUNCTIONS, "windows": ["2h", "5h"]},
            {"field": "w", "functions": ["count", "max"], "windows": ["3h"], "where": "v < 500"},
        ],
    }  # fmt: skip
    view = parse("FeatureView", {"metadata": {"name": "v"}, "spec": spec})
    assert isinstance(view, FeatureView)
    return Layout.of(view.spec, lateness_ms)


def plain(rows: list[Row], entity: str, at: int) -> list[float]:
    """Compute the features from raw events, with nothing of slots in it."""
    boundary = at // HOP * HOP
    seen = [row for row in rows if row[0] == entity and row[2] <= at and row[1] < boundary]
    values: dict[str, list[float]] = {}
    for hours in (2, 5):
        found = [v for _, t, _, v, _ in seen if t >= boundary - hours * HOP and not math.isnan(v)]
        mean = math.fsum(found) / len(found) if found else math.nan
        spread = math.fsum((v - mean) ** 2 for v in found) / (len(found) - 1) if len(found) > 1 else math.nan
        ends = [min(found, default=math.nan), max(found, default=math.nan)]
        values[str(hours)] = [len(found), math.fsum(found), mean, math.sqrt(spread), *ends]
    chosen = [w for _, t, _, v, w in seen if t >= boundary - 3 * HOP and v < 500 and not math.isnan(w)]
    both = [each for pair in zip(values["2"], values["5"], strict=True) for each in pair]
    return [*both, len(chosen), max(chosen, default=math.nan)]


def columns(rows: list[Row]) -> dict[str, Any]:
    return {
        "entities": [row[0] for row in rows],
        "event_time_ms": np.array([row[1] for row in rows], np.int64),
        "values": np.array([[v, w if v < 500 else math.nan] for *_, v, w in rows], np.float64).reshape(-1, 2),
        "arrived_at_ms": np.array([row[2] for row in rows], np.int64),
    }


def same(found: Any, wanted: Any) -> None:
    """Hold values to 1e-9, and the spread of values that are equal but for rounding to 1e-9 of the least value, 1."""
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


numbers = st.one_of(st.floats(1, 1000), st.just(math.nan))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[int, list[Row], list[tuple[str, int]]]:
    lateness = draw(st.sampled_from([0, HOP // 2, 2 * HOP, 9 * HOP]))
    rows = st.tuples(
        st.sampled_from("ab"), st.integers(100 * HOP, 108 * HOP), st.integers(0, lateness), numbers, numbers
    )
    events = [(e, t, t + late, v, w) for e, t, late, v, w in draw(st.lists(rows, max_size=50))]
    spine = draw(st.lists(st.tuples(st.sampled_from("abz"), st.integers(100 * HOP, 120 * HOP)), max_size=20))
    return lateness, events, spine


@settings(max_examples=400)
@given(worlds(), st.integers(1, 9))
def test_online_and_offline_and_plain_python_agree(world, size) -> None:  # type: ignore[no-untyped-def]
    lateness, events, spine = world
    layout = a_layout(lateness)

    offline = point_in_time(
        layout,
        **columns(events),
        spine_entities=[entity for entity, _ in spine],
        spine_at_ms=np.array([at for _, at in spine], np.int64),
    )

    assert offline.shape == (len(spine), len(layout.columns))
    for found, (entity, at) in zip(offline, spine, strict=True):
        same(found, plain(events, entity, at))
        state = FoldState(layout)
        arrived = sorted((row for row in events if row[2] <= at), key=lambda row: row[2])
        for start in range(0, len(arrived), size):
            part = columns(arrived[start : start + size])
            assert state.fold(part["entities"], part["event_time_ms"], part["values"]).too_old == 0
        same(state.values([entity], at)[0], found)


def test_many_events_and_rows_agree_with_plain_python() -> None:
    rng = np.random.default_rng(7)
    times = 100 * HOP + rng.integers(0, 30 * HOP, 3_000)
    late = np.where(rng.random(3_000) < 0.2, rng.integers(0, 6 * HOP, 3_000), 0)
    events = [
        ("abc"[at % 3], int(time), int(time + wait), float(v), float(w))
        for at, (time, wait, v, w) in enumerate(
            zip(times, late, *rng.uniform(1, 900, (2, 3_000)), strict=True)
        )
    ]
    spine = [
        ("abcz"[at % 4], int(time)) for at, time in enumerate(100 * HOP + rng.integers(0, 40 * HOP, 400))
    ]

    found = point_in_time(
        a_layout(6 * HOP),
        **columns(events),
        spine_entities=[entity for entity, _ in spine],
        spine_at_ms=np.array([at for _, at in spine]),
    )

    same(found, [plain(events, *asked) for asked in spine])


def test_a_late_event_is_seen_from_the_millisecond_at_which_it_arrived() -> None:
    late = [
        ("a", 100 * HOP, 101 * HOP + 1, 1.0, 1.0),
        ("a", 100 * HOP, 103 * HOP, 2.0, 1.0),
        ("b", 100 * HOP, 101 * HOP + 1, 1.0, 1.0),
    ]
    asked = [101 * HOP, 101 * HOP + 1, 103 * HOP - 1, 103 * HOP, 101 * HOP, 101 * HOP + 1]

    found = point_in_time(
        a_layout(3 * HOP), **columns(late), spine_entities=list("aaaabb"), spine_at_ms=np.array(asked)
    )

    assert found[:, 1].tolist() == [0, 1, 1, 2, 0, 1]


@pytest.mark.parametrize(
    ("events", "spine"),
    [
        (np.array([3, 4]), ["3", "4"]),
        (["3", "4"], np.array([3, 4], np.int32)),
        (np.array([3.0, 4.0]), pa.array(["3", "4"], pa.large_string())),
        (pa.chunked_array([[3], [4]]), pa.array([3, 4], pa.int16())),
        (pa.array(["3", "4"]).dictionary_encode(), np.array(["3", "4"])),
        (np.array([3.5, 4.0]), ["3.5", "4"]),
        (np.array([True, False]), ["True", "False"]),
    ],
)
def test_an_entity_is_known_by_its_text(events: Any, spine: Any) -> None:
    found = point_in_time(
        a_layout(0), events, np.array([0, 0]), np.array([[1.0, 1.0], [2.0, 2.0]]), np.array([0, 0]), spine,
        np.array([HOP, HOP]),
    )  # fmt: skip

    assert found[:, 2].tolist() == [1.0, 2.0]


def test_an_event_without_an_entity_counts_for_none_and_a_row_without_one_has_no_events() -> None:
    found = point_in_time(
        a_layout(0), [None, "a", ""], np.zeros(3, np.int64), np.ones((3, 2)), np.zeros(3, np.int64),
        [None, "a", "", "b"], np.full(4, HOP),
    )  # fmt: skip

    assert found[:, 0].tolist() == [0, 1, 1, 0]


keys = st.sampled_from(["k", "l", "m", None])


@settings(max_examples=300)
@given(
    st.lists(st.tuples(keys, st.integers(0, 20)), max_size=10),
    st.lists(st.tuples(keys, st.integers(0, 30), st.integers(0, 9), numbers), max_size=15),
)
def test_a_row_has_the_first_label_of_its_key_that_came_in_time(spine, labels) -> None:  # type: ignore[no-untyped-def]
    found, missing = join_labels(
        [key for key, _ in spine],
        np.array([at for _, at in spine], np.int64),
        [key for key, *_ in labels],
        np.array([value for *_, value in labels], np.float64),
        np.array([at for _, at, _, _ in labels], np.int64),
        np.array([at + late for _, at, late, _ in labels], np.int64),
        within_ms=8,
        as_of_ms=25,
    )

    wanted = []
    for key, at in spine:
        fitting = [
            (when, when + late, value)
            for other, when, late, value in labels
            if key is not None
            and other == key
            and at <= when <= at + 8
            and when + late <= 25
            and value == value
        ]
        wanted.append(min(fitting, key=lambda each: each[:2])[2] if fitting else math.nan)
    np.testing.assert_array_equal(found, wanted)
    assert missing == np.isnan(wanted).sum()


@pytest.mark.parametrize("span", [50, 2**61])
def test_pairs_are_found_however_far_their_numbers_lie_apart(span: int) -> None:
    rng = np.random.default_rng(3)
    pairs = sorted(
        zip(rng.integers(0, 5, 400).tolist(), rng.integers(-span, span, 400).tolist(), strict=True)
    )
    ids, numbers = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    asked = [
        (of, at) for of in range(-1, 7) for at in (-span - 1, *rng.integers(-span, span, 20).tolist(), span)
    ]

    found = pointintime._Index(ids, numbers).first(
        *(np.array(column, np.int64) for column in zip(*asked, strict=True))
    )

    assert found.tolist() == [bisect.bisect_left(pairs, pair) for pair in asked]
