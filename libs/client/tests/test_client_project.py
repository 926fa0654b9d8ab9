"""A project's YAML: what loads, and what is said of what does not."""

from pathlib import Path

import pytest
from trimtab import project
from trimtab.project import BadProject
from trimtab_core import specs
from trimtab_core.specs import Model
from trimtab_runtime.errors import Fault, Rejected

DEMO = Path(project.__file__).parent / "demo" / "project"


def test_the_demos_project_loads() -> None:
    resources = project.load(DEMO).resources

    assert sorted((each.kind, each.name) for each in resources) == [
        ("FeatureView", "zone_speed"),
        ("Model", "trip-minutes"),
        ("Source", "dropoffs"),
        ("Source", "pickups"),
    ]


def test_on_is_a_key_and_not_a_truth() -> None:
    model = next(each for each in project.load(DEMO).resources if isinstance(each, Model))

    assert model.spec.label.on == "trip_id"


def test_every_fault_is_told_with_file_line_key_value_and_remedy(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "kind: Source\nmetadata: {name: Trips}\nspec:\n  key: id\n  event_time: at\n  lateness: 2x\n"
        "  fields:\n    id: {type: strng}\n    at: {type: timestamp}\n    x: {type: integer, pattern: a}\n"
    )
    (tmp_path / "b.yaml").write_text("kind: Sorce\n---\n[1]\n")
    (tmp_path / "c.yaml").write_text("kind: [\n")

    with pytest.raises(BadProject) as raised:
        project.load(tmp_path)

    assert [str(fault).removeprefix(f"{tmp_path}/") for fault in raised.value.places] == [
        "a.yaml:2: metadata.name: 'Trips' is no name of the form ^[a-z][a-z0-9_-]*$: change it",
        "a.yaml:6: spec.lateness: '2x' is no duration: write a positive number and a unit (ms, s, m, h or d), like 6h",
        "a.yaml:8: spec.fields.id.type: 'strng' is not allowed: write 'string', 'integer', 'number', 'boolean' or 'timestamp'",
        "a.yaml:10: spec.fields.x.pattern: 'a' is for strings, and this field is a integer: remove it",
        "b.yaml:1: kind: 'Sorce' is no kind of resource: write one of Source, FeatureView, Table, Model, ModelTest",
        "b.yaml:3: this is no mapping: write apiVersion, kind, metadata and spec",
        "c.yaml:2: this is no YAML (expected the node content, but found '<stream end>'): mend the syntax",
    ]


def test_a_misspelt_key_and_a_missing_one_are_told_apart() -> None:
    with pytest.raises(BadProject) as raised:
        project.parse(
            "kind: FeatureView\nmetadata: {name: v}\nspec:\n  sorce: s\n  hop: 1h\n  ttl: 1d\n  aggregates: []\n"
        )

    sentences = {fault.key: fault.sentence for fault in raised.value.places}
    assert sentences["spec.source"] == "it is missing: add it"
    assert sentences["spec.sorce"].startswith("there is no such key (its value is 's')")
    assert "spec.aggregates" in sentences


def test_a_place_without_yaml_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadProject, match="the folder has no YAML file"):
        project.load(tmp_path)


SOURCE = """kind: Source
metadata: {name: trips}
spec:
  key: id
  event_time: when
  lateness: 2h
  fields:
    id: {type: string, nullable: true, min: 3}
    at: {type: timestamp, timezone: Mars/Olympus}
    when: {type: string}
"""


@pytest.mark.parametrize(
    ("format", "key", "said"),
    [
        ("xml", "type", "'xml' is not allowed: write 'json', 'avro' or 'protobuf'"),
        ("{type: json, schema: x}", "schema", "JSON is read without one: remove it, or write type: avro or"),
        ("{type: protobuf, schema: x}", "message", "it is missing: say which message of the schema"),
        (
            "{type: protobuf, message: M}",
            "message",
            "'M' is for a Protobuf schema that is written here: remove",
        ),
        (
            "{type: avro, schema: x, message: M}",
            "message",
            "'M' is for a Protobuf schema that is written here",
        ),
        ("{type: avro, text: x}", "text", "there is no such key (its value is 'x'): remove it, or mend its"),
    ],
)
def test_a_format_that_does_not_go_together_is_told_at_its_line(format: str, key: str, said: str) -> None:
    text = f"""kind: Source
metadata: {{name: trips}}
spec:
  key: id
  event_time: at
  format: {format}
  lateness: 2h
  fields: {{id: {{type: string}}, at: {{type: timestamp}}}}
"""
    with pytest.raises(BadProject) as raised:
        project.parse(text)

    (fault,) = raised.value.places
    assert (fault.line, fault.key) == (6, f"spec.format.{key}")
    assert fault.sentence.startswith(said)


def test_what_does_not_go_together_is_told_at_its_own_line_all_at_once() -> None:
    text = (
        SOURCE
        + """---
kind: FeatureView
metadata: {name: v}
spec:
  source: trips
  hop: 1h
  ttl: 2h
  aggregates:
    - field: mph
      functions: [count, count]
      windows: [90m, 3h]
      where: mph is fast
"""
    )
    with pytest.raises(BadProject) as raised:
        project.parse(text, file="f")

    assert [(fault.line, fault.key) for fault in raised.value.places] == [
        (8, "spec.fields.id.min"),
        (8, "spec.fields.id.nullable"),
        (9, "spec.fields.at.timezone"),
        (10, "spec.fields.when.type"),
        (18, "spec.aggregates"),
        (18, "spec.aggregates"),
        (21, "spec.aggregates.0.windows.0"),
        (21, "spec.aggregates.0.windows.1"),
        (22, "spec.aggregates.0.where"),
    ]
    assert str(raised.value.places[0]) == (
        "f:8: spec.fields.id.min: 3.0 is for numbers, and this field is a string: remove it"
    )


def test_what_does_not_go_together_is_told_beside_what_cannot_be_read() -> None:
    text = SOURCE.replace("lateness: 2h", "lateness: soon").replace("type: timestamp", "type: tmestamp")
    with pytest.raises(BadProject) as raised:
        project.parse(text, file="f")

    assert [(fault.line, fault.key) for fault in raised.value.places] == [
        (6, "spec.lateness"),
        (8, "spec.fields.id.min"),
        (8, "spec.fields.id.nullable"),
        (9, "spec.fields.at.type"),
        (10, "spec.fields.when.type"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: !mine x\n", "f:1: this is no YAML (could not determine a constructor"),
        ("a: 1\n\x07: 2\n", "f:2: character 0x7 is not allowed in YAML: remove it"),
        ("kind: []\n", "f:1: kind: [] is no kind of resource"),
        ("kind: {a: 1}\n", "f:1: kind: {'a': 1} is no kind of resource"),
        ("{[a]: 1}\n", "f:1: this is no YAML (found unhashable key)"),
        ("- 1\n", "f:1: this is no mapping"),
        ("just words\n", "f:1: this is no mapping"),
        ("&a [*a]\n", "f:1: this is no mapping"),
        ("kind: Source\nkind: Model\n", "f:2: kind: the key is there twice: keep one of them"),
        ("kind: Source\nmetadata: {name: s}\nspec: 2020-02-30\n", "f:3: spec: '2020-02-30' is no mapping"),
        ("kind: Source\nmetadata: {name: s, 1: 2}\n", "f:2: metadata.1"),
        ("kind: Source\nmetadata: &m {name: *m}\n", "f:2: metadata.name: "),
        (
            "\n".join(
                ["a0: &a0 [1]", *[f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 40)]]
            ),
            "f:1: kind: None",
        ),
        ("[" * 3000, "f:1: this is no YAML that can be read"),
    ],
)
def test_whatever_is_written_there_is_told_in_a_sentence(text: str, said: str) -> None:
    with pytest.raises(BadProject) as raised:
        project.parse(text, file="f")

    assert said in str(raised.value)
    assert all(fault.file == "f" for fault in raised.value.places)


def test_files_that_cannot_be_read_are_told_with_the_rest(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"kind: Source\n# caf\xe9\n")
    (tmp_path / "b.yaml").mkdir()
    (tmp_path / "c.yaml").write_text("kind: Sorce\n")

    with pytest.raises(BadProject) as raised:
        project.load(tmp_path)

    assert [str(fault).removeprefix(f"{tmp_path}/") for fault in raised.value.places] == [
        "a.yaml:2: byte 0xe9 is no UTF-8: save the file in that encoding",
        "b.yaml: it cannot be read (Is a directory): mend that, or name another",
        "c.yaml:1: kind: 'Sorce' is no kind of resource: write one of Source, FeatureView, Table, Model, ModelTest",
    ]


@pytest.mark.parametrize("text", ["", "---\n", "# nothing\n"])
def test_a_file_without_a_resource_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)

    with pytest.raises(BadProject, match="no resource is written there"):
        project.load(tmp_path)


def test_a_fault_that_the_registry_finds_is_placed_in_the_file() -> None:
    held = project.parse(
        SOURCE.replace("nullable: true, min: 3", "nullable: false")
        .replace(", timezone: Mars/Olympus", "")
        .replace("when", "at", 1)
        .replace("when", "on"),
        file="f",
    )
    refusal = Rejected(
        faults=[
            Fault("Source/trips", "spec.fields.at", "'at' will not do"),
            Fault("Model/old", "spec.features.0", "'x' is gone"),
        ]
    )

    assert [str(fault) for fault in held.placed(refusal)] == [
        "f:9: spec.fields.at: 'at' will not do",
        "Model/old (applied before): spec.features.0: 'x' is gone",
    ]
    assert held.placed(Rejected("no")) == []


GOOD_VIEW = """---
kind: FeatureView
metadata: {name: v}
spec: {source: trips, hop: 1h, ttl: 2h, aggregates: [{field: mph, functions: [count], windows: [1h]}]}
"""


@pytest.mark.parametrize(
    ("faulty", "beside"),
    [
        (SOURCE, ["Source/trips"]),
        (SOURCE.replace("spec:", "spec:\n  version: 2"), ["Source/trips.v2"]),
        (
            "kind: Sorce\nmetadata: {name: trips}\n",
            ["Source/trips", "FeatureView/trips", "Table/trips", "Model/trips", "ModelTest/trips"],
        ),
        ("kind: Source\n", None),
        ("kind: [\n", None),
        ("- trips\n", None),
    ],
)
def test_the_registry_is_asked_about_the_readable_beside_the_names_of_the_others(
    tmp_path: Path, faulty: str, beside: list[str] | None
) -> None:
    (tmp_path / "a.yaml").write_text(faulty)
    (tmp_path / "b.yaml").write_text(GOOD_VIEW)

    found = project.read(tmp_path)

    assert [each.name for each in found.resources] == ["v"]
    names = found.unreadable and list(map(specs.called, found.unreadable))
    assert names == beside
    refusal = Rejected(
        faults=[Fault("FeatureView/v", "spec.entity", "no"), Fault(beside[0] if beside else "", "spec", "no")]
    )
    if beside:
        assert [fault.key for fault in found.placed(refusal)] == ["spec.entity"]
