"""Rows become what a version takes: views looked up by all fields of their entity, and expressions computed from them."""

import json
from typing import Any

import numpy as np
import pytest
from trimtab_core import specs
from trimtab_core.lookup import Lookup
from trimtab_core.slots import FoldState
from trimtab_runtime.reftables import RefTable
from trimtab_serving import testing
from trimtab_serving.errors import BadRow, CannotServe
from trimtab_serving.online import OnlineView
from trimtab_serving.rows import RowReader
from trimtab_serving.testing import Raw

HOP = 6 * 3_600_000
MIDNIGHT = 19_700 * 86_400_000
PROJECT = testing.project()
EXPECTED = "expected = request.distance / speed.mph_mean_1d * 60"


def a_view(entity: Any, *events: tuple[str, float]) -> OnlineView:
    spec = PROJECT.speed.spec.model_dump(mode="json", exclude_none=True)
    view = specs.FeatureView.model_validate(
        {"metadata": {"name": "speed"}, "spec": spec | {"entity": entity}}
    )
    made = OnlineView(view, PROJECT.dropoffs, 1)
    state = FoldState(made.layout)
    state.fold(
        [entity for entity, _ in events],
        np.full(len(events), MIDNIGHT - HOP),
        np.array([[mph] for _, mph in events]),
    )
    for sent in testing.features("speed", state, MIDNIGHT, 2):
        assert sent.partition is not None
        made.apply(sent.partition, [Raw(sent.topic, sent.partition, 0, sent.key, sent.value, [])])
    return made


def asked(view: OnlineView, features: tuple[str, ...], *rows: dict[str, Any]) -> list[list[float]]:
    reader = RowReader(PROJECT.model, PROJECT.pickups, {"speed": view}, {})
    reader.prepare(features)
    payloads = [json.dumps({"trip": "t", "at": MIDNIGHT + 5} | row).encode() for row in rows]
    found: list[list[float]] = reader.inputs(reader.read(payloads, features), features)[0].tolist()
    return found


@pytest.mark.parametrize("many", [1, 9])
def test_an_expression_reads_a_view_that_is_no_feature_by_itself(many: int) -> None:
    view = a_view("zone", ("3", 20.0))
    rows = [{"zone": 3, "distance": 5}] * many + [{"zone": 4, "distance": 5}, {"zone": None, "distance": 5}]

    found = asked(view, ("request.distance", EXPECTED), *rows)

    np.testing.assert_array_equal(found, [[5, 15]] * many + [[5, np.nan]] * 2)


def test_an_entity_of_several_fields_is_looked_up_by_all_of_them() -> None:
    view = a_view(["zone", "trip"], ('["3","t"]', 20.0), ('["3","u"]', 30.0))

    found = asked(
        view,
        ("speed.mph_mean_1d",),
        {"zone": 3},
        {"zone": 3.0, "trip": "u"},
        {"zone": 4},
        {"zone": None},
    )

    np.testing.assert_array_equal(found, [[20], [30], [np.nan], [np.nan]])


def test_a_version_whose_expression_means_nothing_any_more_cannot_be_served() -> None:
    reader = RowReader(PROJECT.model, PROJECT.pickups, {}, {})

    with pytest.raises(CannotServe, match="names view 'speed', which is not there"):
        reader.prepare((EXPECTED,))


def test_a_version_that_looks_into_what_is_no_column_cannot_be_served() -> None:
    tables = {"zones": RefTable(PROJECT.zones.spec, Lookup(("area",)), ("area",))}
    reader = RowReader(PROJECT.model, PROJECT.pickups, {}, tables)

    with pytest.raises(CannotServe, match="names column 'size', which the table lacks"):
        reader.prepare(("zones[zone].size",))


def test_features_of_views_that_are_given_take_the_place_of_the_online_ones() -> None:
    reader = RowReader(PROJECT.model, PROJECT.pickups, {"speed": a_view("zone", ("3", 20.0))}, {})
    features = ("request.distance", EXPECTED)
    reader.prepare(features)
    asked = reader.read(
        [json.dumps({"trip": "t", "at": MIDNIGHT, "zone": 3, "distance": 5}).encode()], features
    )

    found = reader.inputs(asked, features, {"speed.mph_mean_1d": np.array([60.0])})[0]

    assert found.tolist() == [[5, 5]]
    with pytest.raises(BadRow, match=r"'speed.mph_mean_1d' is not among the features that are given"):
        reader.inputs(asked, features, {})
