"""What feature expressions mean."""

from typing import Any

import numpy as np
import pytest
from trimtab_core.contract import entity_key
from trimtab_core.features import (
    MOST_CHARACTERS,
    FeatureFault,
    RequestEvaluator,
    numbers,
    required_fields,
    resolve,
    texts,
)
from trimtab_core.specs import FeatureView, FeatureViewSpec, Source, SourceSpec, parse


def a_source() -> SourceSpec:
    fields = {
        "id": {"type": "string"},
        "at": {"type": "timestamp", "timezone": "America/New_York"},
        "zone": {"type": "integer"},
        "distance": {"type": "number", "nullable": True},
    }
    source = parse(
        "Source",
        {
            "metadata": {"name": "s"},
            "spec": {"key": "id", "event_time": "at", "lateness": "1h", "fields": fields},
        },
    )
    assert isinstance(source, Source)
    return source.spec


def a_view(entity: Any = "zone") -> FeatureViewSpec:
    spec = {
        "source": "s", "entity": entity, "hop": "1h", "ttl": "7d",
        "aggregates": [{"field": "mph", "functions": ["count", "mean"], "windows": ["1d"]}],
    }  # fmt: skip
    view = parse("FeatureView", {"metadata": {"name": "v"}, "spec": spec})
    assert isinstance(view, FeatureView)
    return view.spec


def test_expressions_are_spelled_out_in_order() -> None:
    views = {"speed": a_view()}

    found = resolve(["request.distance", "speed.*", "hour(at)"], a_source(), views)

    assert [each.name for each in found] == [
        "request.distance",
        "speed.mph_count_1d",
        "speed.mph_mean_1d",
        "hour(at)",
    ]
    assert required_fields(found, views) == {"distance", "zone", "at"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("request.distanc", "did you mean 'distance'?"),
        (
            "request.at",
            "needs a field of type integer or number or boolean or string, and 'at' is a timestamp",
        ),
        ("text(request.zone)", "needs a field of type string, and 'zone' is a integer"),
        ("text(speed.mph_mean_1d)", "write text(request.field)"),
        ("odd = request.id * 2", "'request.id' is a text, and an expression takes numbers"),
        ("sped.*", "did you mean 'speed'?"),
        ("speed.mph_mean_2d", "did you mean 'mph_mean_1d'?"),
        ("hour(zone)", "needs a field of type timestamp"),
        ("distance", "is not understood"),
        ("far.mph_mean_1d", "no field of the model's source"),
    ],
)
def test_an_expression_that_means_nothing_is_told_with_the_remedy(text: str, sentence: str) -> None:
    with pytest.raises(FeatureFault) as raised:
        resolve([text], a_source(), {"speed": a_view(), "far": a_view("planet")})

    assert sentence in str(raised.value)


def test_an_entity_is_one_field_or_several_different_ones() -> None:
    assert (a_view(None).entities, a_view(["zone"]).entities) == ((), ("zone",))
    both = a_view(["zone", "id"])
    assert (both.entity, both.entities) == (("zone", "id"), ("zone", "id"))
    assert FeatureViewSpec.model_validate(both.model_dump(mode="json", exclude_none=True)) == both
    assert required_fields(resolve(["v.*"], a_source(), {"v": both}), {"v": both}) == {"zone", "id"}
    for wrong in ([], ["zone", "zone"], "no field", ["zone", 3], {"zone": 1}):
        with pytest.raises(ValueError, match="is no entity: write a field, or a list of different fields"):
            a_view(wrong)


def test_an_entity_is_known_by_its_texts_and_is_nobody_where_one_is_null() -> None:
    assert (entity_key([3.0]), entity_key([]), entity_key(["a", None])) == ("3", "", None)
    assert entity_key([3.0, 'é"', True]) == '["3","é\\"","True"]'  # it is on disk: this may never change


def test_a_feature_named_twice_is_refused() -> None:
    with pytest.raises(FeatureFault, match="named twice"):
        resolve(["speed.*", "speed.mph_mean_1d"], a_source(), {"speed": a_view()})


def test_rows_fill_their_own_columns_and_leave_those_of_views() -> None:
    found = resolve(
        ["request.distance", "speed.mph_mean_1d", "hour(at)", "weekday(at)"], a_source(), {"speed": a_view()}
    )

    matrix = RequestEvaluator(found).evaluate(
        [{"distance": 2.5, "at": "2018-01-03 18:30:00"}, {"distance": None, "at": "2018-07-01T03:00:00Z"}]
    )

    np.testing.assert_array_equal(matrix, [[2.5, np.nan, 18, 2], [np.nan, np.nan, 23, 5]])


def test_one_row_is_read_as_among_many() -> None:
    found = resolve(["request.distance", "month( at )", "hour(at)", "weekday(at)"], a_source(), {})
    evaluator = RequestEvaluator(found)
    rows = [
        {"distance": 2, "at": "2018-01-03 23:30:00"},
        {"distance": None, "at": "2018-07-01T03:00:00.5Z"},
        {"at": "never"},
        {"distance": True, "at": 1_514_998_865_000},
        {},
        {"distance": 0.5, "at": None},
    ]

    assert [each.name for each in found] == ["request.distance", "month(at)", "hour(at)", "weekday(at)"]
    np.testing.assert_array_equal(
        evaluator.evaluate(rows), np.concatenate([evaluator.evaluate([row]) for row in rows])
    )
    assert evaluator.evaluate([]).shape == (0, 4)


def test_a_string_is_a_category_or_words_beside_the_numbers() -> None:
    found = resolve(["request.id", "request.distance", "text( request.id )"], a_source(), {})
    evaluator = RequestEvaluator(found)
    long = "Ab " * MOST_CHARACTERS
    rows = [{"id": "Ärger!", "distance": 2}, {"id": None}, {"id": long}]

    assert [it.name for it in numbers(found)] == ["request.distance"]
    assert [(it.name, it.words) for it in texts(found)] == [("request.id", False), ("text(request.id)", True)]
    assert required_fields(found, {}) == {"id", "distance"}
    assert evaluator.texts(rows).tolist() == [
        ["Ärger!", "ärger!"],
        ["", ""],
        [long[:MOST_CHARACTERS], long[:MOST_CHARACTERS].lower()],
    ]
    np.testing.assert_array_equal(evaluator.finish(evaluator.evaluate(rows))[:, 0], [2, np.nan, np.nan])
