"""A table's history, held against what the loads themselves say; and features that look into it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trimtab_core.contract import RowContract
from trimtab_core.evolution import lost_columns, unlike
from trimtab_core.features import (
    FeatureFault,
    RequestEvaluator,
    TableFeature,
    inputs,
    names_read,
    required_fields,
    resolve,
    table_column,
    tables_named,
)
from trimtab_core.lookup import FROM_EVER, Change, Lookup, Version, changes
from trimtab_core.specs import FieldSpec, Source, SourceSpec, Table, TableSpec, faults, parse

ZONES: dict[str, Any] = {
    "parquet": "s3://bucket/zones.parquet",
    "key": "zone",
    "refresh": "1h",
    "fields": {
        "zone": {"type": "integer"},
        "area": {"type": "number", "unit": "km2"},
        "airport": {"type": "boolean", "nullable": True},
        "borough": {"type": "string", "nullable": True},
    },
}
KEYS, TIMES = "abc", range(0, 60, 3)

Rows = Mapping[str, Mapping[int, float]]


def a_table(**changes: Any) -> TableSpec:
    found = parse("Table", {"metadata": {"name": "zones"}, "spec": ZONES | changes})
    assert isinstance(found, Table)
    return found.spec


def a_source() -> SourceSpec:
    fields = {
        "id": {"type": "string"},
        "at": {"type": "timestamp"},
        "zone": {"type": "integer", "nullable": True},
        "to": {"type": "number", "nullable": True},
        "distance": {"type": "number", "nullable": True},
    }
    spec = {"key": "id", "event_time": "at", "lateness": "1h", "fields": fields}
    found = parse("Source", {"metadata": {"name": "s"}, "spec": spec})
    assert isinstance(found, Source)
    return found.spec


def expected(loads: list[tuple[int, Rows]], key: str, time: int) -> float | None:
    """Return what the loads say of a key at a time, by looking at them one after the other."""
    (_, first), *later = loads
    rows = first.get(key, {})
    found = rows[max((since for since in rows if since <= time), default=min(rows))] if rows else None
    for number, (at, wanted) in enumerate(later, start=1):
        if time >= at:
            rows = wanted.get(key, {})
            due = [since for since in rows if since <= time]
            found = rows[max(due)] if due else expected(loads[:number], key, at) if rows else None
    return found


a_load = st.dictionaries(
    st.sampled_from(KEYS),
    st.dictionaries(st.integers(0, 60), st.integers(0, 3).map(float), min_size=1, max_size=3),
)


@given(st.lists(a_load, min_size=1, max_size=5), st.lists(st.integers(5, 50), min_size=5, unique=True))
def test_a_lookup_says_of_every_key_and_time_what_the_loads_say(loads: list[Rows], times: list[int]) -> None:
    lookup, done = Lookup(("x",)), list[tuple[int, Rows]]()
    asked = [(key, time) for key in KEYS for time in TIMES]
    for at, load in zip(sorted(times), loads, strict=False):
        before = lookup.values(*zip(*asked, strict=True))
        wanted = {key: {since: {"x": x} for since, x in rows.items()} for key, rows in load.items()}
        for change in changes(lookup, wanted, kept=(), at_ms=at, brings=frozenset(), is_first=not done):
            lookup.apply(change)
        done.append((at, load))
        after = lookup.values(*zip(*asked, strict=True))

        told = np.array([expected(done, key, time) for key, time in asked], np.float64)
        np.testing.assert_array_equal(after[:, 0], told)
        if len(done) > 1:
            past = np.array([time < at for _, time in asked])
            np.testing.assert_array_equal(after[past], before[past])


def test_the_same_records_again_or_in_another_order_are_the_same_history() -> None:
    found = [
        Change("a", FROM_EVER, Version({"x": 1})),
        Change("a", 10, Version({"x": 2, "y": 5}, frozenset("y"))),
        Change("a", 20, Version(None)),
        Change("a", 30, Version({"x": 3})),
    ]
    once, again = Lookup(("x", "y")), Lookup(("x", "y"))
    for change in found:
        once.apply(change)
    for change in [*reversed(found), *found]:
        again.apply(change)
    times = [0, 10, 20, 30]

    told = once.values("aaaa", times)

    np.testing.assert_array_equal(told, [[1, 5], [2, 5], [np.nan, np.nan], [3, np.nan]])
    np.testing.assert_array_equal(again.values("aaaa", times), told)
    later = Lookup(("x",), once.versions)
    later.extend(["y"])
    np.testing.assert_array_equal(later.values("aaaa", times), told)


def test_what_a_column_held_when_it_was_of_another_type_is_not_known() -> None:
    lookup = Lookup(("x",), {"a": {FROM_EVER: Version({"x": "many"}), 10: Version({"x": 3})}})

    assert str(lookup.values("aa", [9, 10]).ravel().tolist()) == "[nan, 3.0]"


@pytest.mark.parametrize("many", [1, 30])
def test_features_look_into_a_table_as_of_the_rows_time(many: int) -> None:
    lookup = Lookup(("airport", "area"))
    lookup.apply(Change("3", FROM_EVER, Version({"area": 2.0, "airport": True, "borough": "x"})))
    lookup.apply(Change("3", 100, Version({"area": 4.0, "airport": None})))
    texts = ["zones[ zone ] . area", "zones[to].airport", "rate = request.distance / zones[zone].area"]
    features = resolve(texts, a_source(), {}, {"zones": a_table()})
    rows = [{"zone": 3, "to": 3.0, "distance": 8}] * 2 + [{"zone": None, "to": 4, "distance": 8}]

    assert [each.name for each in features][:2] == ["zones[zone].area", "zones[to].airport"]
    assert required_fields(features, {}) == {"zone", "to", "distance"}
    evaluator = RequestEvaluator(features, {"zones": lookup})
    found = evaluator.finish(evaluator.evaluate(rows * many, [99, 100, 100] * many))

    wanted = [[2, 1, 4], [4, np.nan, 2], [np.nan, np.nan, np.nan]]
    np.testing.assert_array_equal(found, wanted * many)


def test_all_numbers_of_a_table_are_its_columns_but_the_key() -> None:
    found = resolve(["zones[zone].*"], a_source(), {}, {"zones": a_table()})

    assert found == (
        TableFeature("zones[zone].area", "zones", "zone", "area"),
        TableFeature("zones[zone].airport", "zones", "zone", "airport"),
    )


def test_a_tables_name_with_a_dash_is_one_word_before_a_bracket() -> None:
    tables = {"my-zones": a_table()}
    (feature,) = resolve(["x = request.to - my-zones[zone].area"], a_source(), {}, tables)

    assert [each.name for each in inputs([feature])] == ["request.to", "my-zones[zone].area"]
    assert names_read(feature.name, (), tables) == {"request.to", "my-zones[zone].area"}
    assert tables_named(feature.name) == {"my-zones"}
    assert table_column("my-zones[zone].area") == ("my-zones", "area")
    assert table_column("zone_speed.mean") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("zone[zone].area", "names table 'zone', which is not there: did you mean 'zones'?"),
        ("zones[zon].area", "names field 'zon', which the source lacks: did you mean 'zone'?"),
        ("zones[id].area", "needs a field of type integer or number, and 'id' is a string"),
        ("zones[at].area", "needs a field of type integer or number, and 'at' is a timestamp"),
        ("zones[zone].are", "names column 'are', which the table lacks: did you mean 'area'?"),
        ("zones[zone].zone", "names column 'zone', which the table lacks"),
        ("zones[zone].borough", "needs a number or boolean, and column 'borough' is a string"),
        ("zones[zone]", "is not understood: write view.column"),
        ("x = zones[zone].are + 1", r"feature 'x': .* which the table lacks: did you mean 'area'\? \(at character 1"),
        ("x = zones[1].area", "is no part of an expression"),
        ("x = zones[zone]", "is no part of an expression"),
    ],
)  # fmt: skip
def test_a_feature_that_finds_nothing_in_a_table_says_why(text: str, said: str) -> None:
    with pytest.raises(FeatureFault, match=said.replace("?", r"\?") if "\\" not in said else said):
        resolve([text], a_source(), {}, {"zones": a_table()})


@pytest.mark.parametrize(
    ("spec", "place", "said"),
    [
        ({"parquet": None}, "parquet", "neither is given of parquet and postgres"),
        ({"postgres": {"query": "select 1", "connection": "w"}}, "parquet", "both are given"),
        ({"parquet": "zones.parquet"}, "parquet", "'zones.parquet' is no address: write one like s3://"),
        ({"key": "zon"}, "key", "'zon' is not among the fields: declare it, or name another"),
        ({"key": "area"}, "fields.area.type", "'number' is no type for the key: write integer or string"),
        (
            {"key": "borough"},
            "fields.borough.nullable",
            "True will not do for the key, which every row needs",
        ),
        ({"effective": "area"}, "fields.area.type", "'number' is no type for the effective: write timestamp"),
        ({"effective": "zone"}, "effective", "'zone' is the key too: name another field"),
        (
            {"fields": {"zone": {"type": "integer"}}},
            "fields",
            "hold nothing to look up: declare a column more",
        ),
        ({"refresh": "0s"}, "refresh", ""),
        (
            {"fields": ZONES["fields"] | {"area": {"type": "number", "expect": {"mean": "< 3"}}}},
            "fields.area.expect.mean",
            "'< 3' is for streams of rows, and a table is loaded whole: remove it",
        ),
        (
            {"fields": ZONES["fields"] | {"zone": {"type": "integer", "unique_within": "1d"}}},
            "fields.zone.unique_within",
            "'1d' is for streams of rows",
        ),
    ],
)
def test_a_spec_that_makes_no_table_says_where_and_why(spec: dict[str, Any], place: str, said: str) -> None:
    document = {"kind": "Table", "metadata": {"name": "zones"}, "spec": ZONES | spec}

    with pytest.raises(ValueError) as raised:  # noqa: PT011 - what it says is looked at
        parse("Table", document)

    told = {".".join(map(str, at)): sentence for at, sentence in faults(raised.value, "Table", document)}  # type: ignore[arg-type]
    assert said in told[f"spec.{place}"]


def test_a_spec_that_goes_on_with_a_history_keeps_its_key_and_types() -> None:
    fields = ZONES["fields"] | {"id": {"type": "string"}, "area": {"type": "integer"}}

    assert [place for place, _ in unlike(a_table(), a_table(key="id", fields=fields))] == [
        ("key",),
        ("fields", "area", "type"),
    ]
    assert unlike(a_table(), a_table(refresh="1d", parquet="/elsewhere.parquet")) == []


def test_a_column_that_goes_or_is_in_another_unit_is_lost_to_who_takes_it() -> None:
    fields = {name: field for name, field in ZONES["fields"].items() if name != "airport"}
    changed = a_table(fields=fields | {"area": {"type": "number", "unit": "mi2"}})

    assert lost_columns(a_table(), changed) == {
        "area": "its unit was 'km2' and would be 'mi2'",
        "airport": "it would be gone",
    }
    assert lost_columns(a_table(), a_table(fields=ZONES["fields"] | {"x": {"type": "number"}})) == {}


def test_rows_of_a_table_are_cleaned_and_judged_as_those_of_a_source() -> None:
    fields = {
        "zone": FieldSpec.model_validate({"type": "integer", "nulls": [-1]}),
        "area": FieldSpec.model_validate({"type": "number", "unit": "km", "sent_in": "m", "max": 5}),
    }
    rows: list[dict[str, Any]] = [{"zone": 1, "area": 2000}, {"zone": -1, "area": 6000}, {"zone": "x"}]

    found = RowContract(fields).check(rows)

    assert rows[0] == {"zone": 1, "area": 2}
    assert {at: [(each.code, each.field) for each in reasons] for at, reasons in found.items()} == {
        1: [("null_value", "zone"), ("out_of_range", "area")],
        2: [("wrong_type", "zone"), ("missing_field", "area")],
    }
