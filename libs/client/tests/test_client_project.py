"""A project's YAML: what loads, and what is said of what does not."""

from pathlib import Path

import pytest
from trimtab import project
from trimtab.project import BadProject
from trimtab_core.specs import Model

DEMO = Path(project.__file__).parent / "demo" / "project"


def test_the_demos_project_loads() -> None:
    resources = project.load(DEMO)

    assert sorted((each.kind, each.name) for each in resources) == [
        ("FeatureView", "zone_speed"),
        ("Model", "trip-minutes"),
        ("Source", "dropoffs"),
        ("Source", "pickups"),
    ]


def test_on_is_a_key_and_not_a_truth() -> None:
    model = next(each for each in project.load(DEMO) if isinstance(each, Model))

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

    assert [str(fault).removeprefix(f"{tmp_path}/") for fault in raised.value.faults] == [
        "a.yaml:2: metadata.name: 'Trips' is no name of the form ^[a-z][a-z0-9_-]*$: change it",
        "a.yaml:6: spec.lateness: '2x' is no duration: write a positive number and a unit (ms, s, m, h or d), like 6h",
        "a.yaml:8: spec.fields.id.type: 'strng' is not allowed: write 'string', 'integer', 'number', 'boolean' or 'timestamp'",
        "a.yaml:10: spec.fields.x: pattern is for strings, and this field is a integer: remove it",
        "b.yaml:1: kind: 'Sorce' is no kind of resource: write one of Source, FeatureView, Model",
        "b.yaml:3: : this is no mapping: write apiVersion, kind, metadata and spec",
        "c.yaml:2: : this is no YAML (expected the node content, but found '<stream end>'): mend the syntax",
    ]


def test_a_misspelt_key_and_a_missing_one_are_told_apart() -> None:
    _, faults = project.parse(
        "kind: FeatureView\nmetadata: {name: v}\nspec:\n  sorce: s\n  hop: 1h\n  ttl: 1d\n  aggregates: []\n"
    )

    sentences = {fault.key: fault.sentence for fault in faults}
    assert sentences["spec.source"] == "it is missing: add it"
    assert sentences["spec.sorce"].startswith("there is no such key (its value is 's')")
    assert "spec.aggregates" in sentences


def test_a_place_without_yaml_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadProject, match="no YAML file in the folder"):
        project.load(tmp_path)
