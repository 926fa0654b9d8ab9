"""Which changes of a contract break its producers or its readers, and which do not."""

import copy
from typing import Any

import pytest
from trimtab_core.evolution import breaking, changed_columns, differences
from trimtab_core.specs import FeatureViewSpec, FieldSpec, Source, SourceSpec, parse

BEFORE: dict[str, Any] = {
    "key": "id",
    "event_time": "at",
    "lateness": "2h",
    "rules": ["minutes > 0"],
    "fields": {
        "id": {"type": "string", "pattern": "[a-z]+"},
        "other": {"type": "string"},
        "at": {"type": "timestamp", "timezone": "America/New_York"},
        "then": {"type": "timestamp"},
        "minutes": {"type": "number", "min": 0, "max": 100, "unit": "min"},
        "miles": {"type": "number", "unit": "mi", "sent_in": "km", "nullable": True},
        "kind": {"type": "string", "enum": ["day", "night"], "trim": True, "nulls": ["-"], "default": "day"},
        "bare": {"type": "number"},
        "count": {"type": "integer", "default": 0},
    },
}
_GONE = "(gone)"


def changed(changes: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what breaks if the keys in `changes`, with dots between, have other values."""
    after = copy.deepcopy(BEFORE)
    for path, value in changes.items():
        *way, last = path.split(".")
        at = after
        for part in way:
            at = at[part]
        if value is _GONE:
            del at[last]
        else:
            at[last] = value
    broken = breaking(spec(BEFORE), spec(after))
    return [(".".join(map(str, place)), said) for place, said in broken]


def spec(document: dict[str, Any]) -> SourceSpec:
    source = parse("Source", {"metadata": {"name": "s"}, "spec": document})
    assert isinstance(source, Source)
    return source.spec


BREAKS: list[tuple[dict[str, Any], str, str]] = [
    ({"key": "other"}, "key", "'other' was 'id', which producers and readers hold to"),
    ({"event_time": "then"}, "event_time", "'then' was 'at'"),
    ({"predictions_of": "m"}, "predictions_of", "'m' was None: its events would mean something else"),
    ({"format": "avro"}, "format.type", "'avro' was 'json', in which producers send it"),
    ({"lateness": "1h"}, "lateness", "'1h' is shorter than it was, 2h: rows that came in time would be late"),
    ({"unknown_fields": "reject"}, "unknown_fields", "'reject' was 'keep'"),
    ({"rules": ["minutes > 0", "minutes < 50"]}, "rules.1", "'minutes < 50' is a new rule"),
    ({"rules": ["minutes > 1"]}, "rules.0", "'minutes > 1' is a new rule"),
    ({"fields.bare": _GONE}, "fields.bare", "'bare' is gone, and readers may use it"),
    ({"fields.new": {"type": "string"}}, "fields.new", "'new' is a new field that no row may lack"),
    ({"fields.bare.type": "integer"}, "fields.bare.type", "'integer' was 'number'"),
    ({"fields.count.type": "number"}, "fields.count.type", "'number' was 'integer'"),
    ({"fields.bare.nullable": True}, "fields.bare.nullable", "True was False: readers were promised a value"),
    ({"fields.miles.nullable": False}, "fields.miles.nullable", "False was True: rows without a value were good"),
    ({"fields.count.default": _GONE}, "fields.count.default", "None was 0: rows without a value were good"),
    ({"fields.other.trim": True}, "fields.other.trim", "True was False: a blank text would be null"),
    ({"fields.kind.trim": False}, "fields.kind.trim", "False was True: texts would come with their white space"),
    ({"fields.minutes.nulls": [7]}, "fields.minutes.nulls.0", "7 was a value, and would be null, which is refused"),
    ({"fields.kind.nulls": []}, "fields.kind.nulls", "'-' meant null"),
    ({"fields.minutes.unit": "h", "fields.minutes.sent_in": "min"}, "fields.minutes.unit", "'h' was 'min', in which readers take it"),
    ({"fields.miles.sent_in": "m"}, "fields.miles.sent_in", "'m' was 'km', in which producers send it"),
    ({"fields.minutes.sent_in": "h"}, "fields.minutes.sent_in", "'h' was 'min', in which producers send it"),
    ({"fields.bare": {"type": "number", "unit": "m", "sent_in": "km"}}, "fields.bare.unit", "'m' was None"),
    ({"fields.at.timezone": "Europe/Zurich"}, "fields.at.timezone", "'Europe/Zurich' was 'America/New_York'"),
    ({"fields.minutes.min": 1}, "fields.minutes.min", "1 was 0: values below it were good"),
    ({"fields.minutes.max": 99}, "fields.minutes.max", "99 was 100: values above it were good"),
    ({"fields.bare.max": 9}, "fields.bare.max", "9 was no upper bound"),
    ({"fields.kind.enum": ["day"]}, "fields.kind.enum", "['day'] was ['day', 'night']: 'night' was good"),
    ({"fields.other.enum": ["a"]}, "fields.other.enum", "['a'] was any value"),
    ({"fields.id.pattern": "[a-c]+"}, "fields.id.pattern", "'[a-c]+' was '[a-z]+'"),
    ({"fields.other.pattern": "a"}, "fields.other.pattern", "'a' was any text"),
]  # fmt: skip
COMPATIBLE: list[dict[str, Any]] = [
    {},
    {"format": "json"},
    {"lateness": "3h"},
    {"keep": "10d"},
    {"unknown_fields": "drop"},
    {"rules": []},
    {"rules": [" minutes  >0.0"]},
    {"expect_rows": 10},
    {"partitions": 4},
    {"fields.new": {"type": "string", "nullable": True}},
    {"fields.new": {"type": "string", "default": "?"}},
    {"fields.bare.default": 0},
    {"fields.miles": {**BEFORE["fields"]["miles"], "nullable": False, "default": 0}},
    {"fields.other": {"type": "string", "trim": True, "default": "?"}},
    {"fields.miles.nulls": [-200]},
    {"fields.minutes.nulls": [-200, "N/A"]},
    {"fields.bare.unit": "m"},
    {"fields.then.timezone": "UTC"},
    {"fields.minutes.min": -1, "fields.minutes.max": _GONE},
    {"fields.kind.enum": ["day", "night", "dusk"]},
    {"fields.kind.enum": _GONE},
    {"fields.id.pattern": _GONE},
    {"fields.count.default": 1},
    {"fields.bare.expect": {"mean": [0, 1]}},
    {"fields.id.unique_within": "2d"},
]


@pytest.mark.parametrize(("changes", "place", "said"), BREAKS)
def test_a_change_that_breaks_somebody_is_told_with_its_place_both_values_and_the_remedy(
    changes: dict[str, Any], place: str, said: str
) -> None:
    (broken,) = changed(changes)

    assert broken[0] == place
    assert broken[1].startswith(said)
    assert ": set version: 2 to run both side by side, or " in broken[1]


@pytest.mark.parametrize("changes", COMPATIBLE, ids=str)
def test_a_change_that_breaks_nobody_passes(changes: dict[str, Any]) -> None:
    assert changed(changes) == []


AVRO = {"type": "avro", "schema": '{"type": "record", "name": "A", "fields": []}'}
OTHER = {**AVRO, "schema": AVRO["schema"].replace("A", "B")}
PROTO = {"type": "protobuf", "schema": "message A {}", "message": "A"}


@pytest.mark.parametrize(
    ("before", "after", "place", "said"),
    [
        ("avro", "protobuf", "format.type", "'protobuf' was 'avro', in which producers send it"),
        (AVRO, "json", "format.type", "'json' was 'avro'"),
        ("avro", AVRO, "format", "it says the schema itself, and records begin with the id of theirs"),
        (PROTO, "protobuf", "format", "it has no schema any more, and records do not begin with an id"),
        (AVRO, OTHER, "format.schema", "it is another, and a record is read by the very schema"),
        (PROTO, {**PROTO, "message": "B"}, "format.message", "'B' was 'A'"),
        (AVRO, {**AVRO, "schema": AVRO["schema"].replace(" ", "\n ")}, "", ""),
        (PROTO, {**PROTO, "schema": "message A { optional int32 x = 1; }"}, "", ""),
        ("protobuf", "protobuf", "", ""),
    ],
)
def test_a_change_of_format_breaks_producers_unless_old_records_are_read_by_the_new_schema(
    before: Any, after: Any, place: str, said: str
) -> None:
    found = breaking(spec(BEFORE | {"format": before}), spec(BEFORE | {"format": after}))

    assert [".".join(map(str, where)) for where, _ in found] == ([place] if place else [])
    assert all(told.startswith(said) for _, told in found)


def test_everything_that_breaks_is_told_at_once() -> None:
    assert [place for place, _ in changed({"lateness": "1h", "fields.minutes.max": 9, "fields.bare": _GONE})] == [
        "lateness", "fields.minutes.max", "fields.bare",
    ]  # fmt: skip


def test_every_key_of_a_contract_is_known_to_break_or_not_to() -> None:
    tried = [path for changes in (*(each[0] for each in BREAKS), *COMPATIBLE) for path in changes]
    of_source = {path for path in tried if "." not in path} | {"fields", "version"}
    of_field = {path.split(".")[2] for path in tried if path.count(".") == 2}

    assert of_source == set(SourceSpec.model_fields)
    assert of_field == set(FieldSpec.model_fields)


def test_documents_differ_key_by_key() -> None:
    before = {"spec": {"a": 1, "b": {"c": [1]}, "gone": 2}}
    after = {"spec": {"a": 1.0, "b": {"c": [1, 2]}, "new": {"d": 1}}}

    assert list(differences(before, after)) == [
        (("spec", "b", "c"), [1], [1, 2]),
        (("spec", "new"), None, {"d": 1}),
        (("spec", "gone"), 2, None),
    ]


def view(**aggregate: Any) -> FeatureViewSpec:
    shown = {"field": "x", "functions": ["mean"], "windows": ["1d"], **aggregate}
    return FeatureViewSpec.model_validate({"source": "s", "hop": "1h", "ttl": "2d", "aggregates": [shown]})


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"name": "n"}, {"name": "n", "field": "y"}, "its `field` was 'x' and would be 'y'"),
        (
            {"name": "n", "where": "x < 3"},
            {"name": "n", "field": "y", "where": "x < 4"},
            "its `field` was 'x' and would be 'y' and its `where` was 'x < 3' and would be 'x < 4'",
        ),
        ({"where": "x < 3"}, {}, "its `where` was 'x < 3' and would be None"),
        (
            {"name": "n_distinct", "functions": ["count"]},
            {"name": "n", "functions": ["distinct_count"]},
            "its `function` was 'count' and would be 'distinct_count'",
        ),
        ({}, {"name": "n"}, "it would be gone"),
    ],
)
def test_a_column_is_what_it_is_made_of(before: dict[str, Any], after: dict[str, Any], said: str) -> None:
    assert list(changed_columns(view(**before), view(**after)).values()) == [said]


def test_a_condition_that_is_written_otherwise_is_the_same() -> None:
    before, after = view(where="x < 3 and k == 'a'"), view(where='(x<3) and\nk == "a"')

    assert changed_columns(before, after) == {}
