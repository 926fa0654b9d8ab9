"""What the page on gates shows is what the specs take."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from trimtab import project
from trimtab_core import specs

PAGE = (Path(__file__).parents[2] / "docs/gates.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
MODEL: dict[str, Any] = {
    "source": "pickups",
    "features": ["request.distance"],
    "label": {"source": "dropoffs", "on": "trip_id", "value": "minutes", "within": "4h"},
    "trainer": {"window": "90d"},
}


def test_the_page_shows_gates_checks_and_all_kinds_of_tests() -> None:
    assert len(BLOCKS) == 5
    assert all(
        word in PAGE for word in ("kind: ModelTest", "kind: ContractTest", "kind: FeatureTest", "checks:")
    )


def test_the_tests_of_texts_and_classes_on_the_page_go_with_a_model_of_such() -> None:
    [document] = [yaml.safe_load(text) for text in BLOCKS if "name: verdict-behaviour" in text]
    test = specs.parse("ModelTest", document)

    assert isinstance(test, specs.ModelTest)
    texts = {"text(request.comment)", "request.city"}
    assert list(test.spec.disagreements(texts, set(), ["bad", "fair", "good"])) == []


def block(key: str) -> Any:
    return next(yaml.safe_load(text) for text in BLOCKS if text.startswith(key))


def gates() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = block("gates:")["gates"]
    return found


@pytest.mark.parametrize("gate", gates(), ids=str)
def test_a_gate_on_the_page_is_one_that_a_model_of_some_task_takes(gate: dict[str, Any]) -> None:
    task = "regression" if gate.get("metric") == "mae" else "binary"
    spec = {**MODEL, "task": task, "gates": [gate], "rollout": {"cap": 60}}
    parsed = specs.parse("Model", {"metadata": {"name": "m"}, "spec": spec})

    assert isinstance(parsed, specs.Model)
    assert len(parsed.spec.gates) == 1


def test_the_checks_on_the_page_are_ones_that_a_model_takes() -> None:
    spec = {**MODEL, "task": "binary", "rollout": block("rollout:")["rollout"]}
    parsed = specs.parse("Model", {"metadata": {"name": "m"}, "spec": spec})

    assert isinstance(parsed, specs.Model)
    assert parsed.spec.rollout.checks == specs.ChecksSpec(required=("smoke", "e2e"))


def test_the_groups_on_the_page_of_quality_are_ones_that_the_demos_model_takes() -> None:
    demo = project.load(Path(project.__file__).parent / "demo" / "project")
    [model] = [each for each in demo.resources if isinstance(each, specs.Model)]
    page = (Path(__file__).parents[2] / "docs/quality.md").read_text()
    [text] = re.findall(r"```yaml\n(monitoring:\n  fairness:.*?)```", page, re.DOTALL)
    document = specs.to_document(model)
    document["spec"]["monitoring"] |= yaml.safe_load(text)["monitoring"]
    parsed = specs.parse("Model", document)

    assert isinstance(parsed, specs.Model)
    assert [each.limited for each in parsed.spec.fairness] == [True, False]


def test_the_tests_on_the_page_load_and_those_that_need_no_model_hold_in_the_demos_project(
    tmp_path: Path,
) -> None:
    from trimtab import proving

    demo = Path(project.__file__).parent / "demo" / "project"
    for file in demo.glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    for number, text in enumerate(text for text in BLOCKS if text.startswith("kind:")):
        (tmp_path / f"tests-{number}.yaml").write_text(text)
    loaded = project.load(tmp_path)

    outcomes = list(proving.offline(loaded))
    assert [str(outcome) for outcome in outcomes if outcome.state != "passed"] == []
    assert len(outcomes) == 3
    assert {each.spec.model for each in proving.behaviours(loaded)} == {"trip-minutes", "verdict"}
