"""A project's examples say what a contract lets in and what features come to, and are run as the services run them."""

from typing import Any

import pytest
from trimtab_core import examples, specs

FIELDS = {
    "id": {"type": "string"},
    "at": {"type": "timestamp", "timezone": "America/New_York"},
    "zone": {"type": "integer", "min": 1, "max": 263},
    "mph": {"type": "number", "nullable": True, "nulls": [-1], "unit": "mi/h"},
}


def a_source() -> specs.SourceSpec:
    spec = {
        "key": "id",
        "event_time": "at",
        "lateness": "2h",
        "fields": FIELDS,
        "rules": ["mph < 100 or zone == 7"],
    }
    parsed = specs.parse("Source", {"metadata": {"name": "rides"}, "spec": spec})
    assert isinstance(parsed, specs.Source)
    return parsed.spec


def a_view(**changes: Any) -> specs.FeatureViewSpec:
    speed = {"field": "mph", "functions": ["count", "mean", "last"], "windows": ["2h"], "where": "mph < 80"}
    spec = {"source": "rides", "entity": "zone", "hop": "1h", "ttl": "1d", "aggregates": [speed], **changes}
    parsed = specs.parse("FeatureView", {"metadata": {"name": "speed"}, "spec": spec})
    assert isinstance(parsed, specs.FeatureView)
    return parsed.spec


def said_of(event: dict[str, Any], **example: Any) -> str:
    row = {"id": "a", "at": "2020-03-01T07:00:00", "zone": 1, "mph": 20, **event}
    document = {"source": "rides", "events": [{"name": "x", "event": row, **example}]}
    ((_, said),) = examples.contract(specs.ContractTestSpec.model_validate(document), a_source())
    return said


def test_an_event_that_fits_is_let_in_and_cleaned() -> None:
    assert said_of({}) == ""
    assert said_of({"mph": -1}, becomes={"mph": None}) == ""
    assert said_of({"mph": -1}, becomes={"mph": 3, "zone": 1}) == "mph becomes None, not 3"


@pytest.mark.parametrize(
    ("event", "refused", "said"),
    [
        ({"zone": 300}, ["out_of_range"], ""),
        ({"zone": 300}, ["out_of_range zone"], ""),
        ({"zone": 300, "id": None}, ["out_of_range zone", "null_value id"], ""),
        ({"mph": 200}, ["broken_rule"], ""),
        ({}, ["out_of_range"], "it is let in, and out_of_range was expected"),
        ({"zone": 300}, [], "it is refused: zone 300 is outside [1, 263]: mend the producer"),
        ({"zone": 300}, ["out_of_range mph"], "it is not refused for out_of_range mph; it is also refused for out_of_range"),
        ({"zone": 300, "id": 3}, ["out_of_range zone"], "it is also refused for wrong_type id"),
    ],
)  # fmt: skip
def test_an_event_is_refused_for_exactly_the_reasons_that_are_named(
    event: dict[str, Any], refused: list[str], said: str
) -> None:
    found = said_of(event, refused=refused)
    assert found.startswith(said)
    assert bool(found) is bool(said)


def test_an_event_is_late_by_when_it_is_said_to_arrive() -> None:
    assert said_of({}, arrived_at="2020-03-01T13:59:00Z") == ""
    assert said_of({}, arrived_at="2020-03-01T14:01:00Z", refused=["late"]) == ""
    assert "it is not refused for future" in said_of(
        {}, refused=["future"], arrived_at="2020-03-01T14:01:00Z"
    )


EVENTS = [
    {"at": "2020-03-01T07:10:00-05:00", "zone": 1, "mph": 10},
    {"at": "2020-03-01T07:50:00", "zone": 1, "mph": 30},
    {"at": "2020-03-01T07:55:00", "zone": 1, "mph": 90},
    {"at": "2020-03-01T08:30:00", "zone": 1, "mph": 50},
    {"at": "2020-03-01T07:30:00", "zone": 2, "mph": -1},
]


def featured(
    *expect: dict[str, Any], events: list[dict[str, Any]] | None = None, **view: Any
) -> list[tuple[str, str]]:
    document = {"view": "speed", "events": EVENTS if events is None else events, "expect": list(expect)}
    return list(examples.features(specs.FeatureTestSpec.model_validate(document), a_view(**view), a_source()))


def test_features_are_those_of_the_fold_at_the_boundary_before_a_time() -> None:
    of_one = {"entity": {"zone": 1}}
    found = featured(
        {
            "at": "2020-03-01T13:20:00Z",
            **of_one,
            "values": {"mph_count_2h": 2, "mph_mean_2h": 20, "mph_last_2h": 30},
        },
        {"at": "2020-03-01T14:00:00Z", **of_one, "values": {"mph_count_2h": 3, "mph_mean_2h": 30}},
        {"at": "2020-03-01T17:00:00Z", **of_one, "values": {"mph_count_2h": 0, "mph_mean_2h": None}},
        {"at": "2020-03-01T14:00:00Z", "entity": {"zone": 2}, "values": {"mph_count_2h": 0}},
    )
    assert [said for _, said in found] == ["", "", "", ""]
    assert found[0][0] == "1: zone 1 at 2020-03-01T13:20:00Z"


def test_a_feature_that_is_something_else_is_told_with_both_values() -> None:
    at = {"at": "2020-03-01T13:20:00Z", "entity": {"zone": 1}}
    ((_, said),) = featured({**at, "values": {"mph_mean_2h": 20.5, "mph_count_2h": None, "mph_max_2h": 1}})

    assert "mph_mean_2h is 20, and 20.5 was expected" in said
    assert "mph_count_2h is 2, and was expected to be unknown" in said
    assert "the view has no feature 'mph_max_2h': there are mph_count_2h, mph_last_2h, mph_mean_2h" in said
    assert featured({**at, "values": {"mph_mean_2h": 20.5}, "within": 0.1})[0][1] == ""


def test_an_event_that_the_contract_refuses_is_no_example_of_a_feature() -> None:
    expected = {"at": "2020-03-01T13:20:00Z", "entity": {"zone": 1}, "values": {"mph_mean_2h": 1}}
    bad = [{"at": "2020-03-01T07:10:00", "zone": 1, "mph": "fast"}]
    assert featured(expected, events=bad) == [
        ("events", "event 1 is refused: mph 'fast' is no number: send one")
    ]
    ((_, said),) = featured(expected, events=[{"at": "2020-03-01T07:10:00", "zon": 1}])
    assert said == "event 1 has 'zon', which is no field of source 'rides'"


def test_an_entity_is_named_by_the_views_fields() -> None:
    expected = {"at": "2020-03-01T13:20:00Z", "values": {"mph_count_2h": 3}}
    assert "the view is told apart by zone" in featured(expected)[0][1]
    assert featured({**expected, "values": {"mph_count_2h": 2}}, entity=None)[0][1] == ""
