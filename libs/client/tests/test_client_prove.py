"""`trimtab test`: a project's tests are run before it is applied, and told as CI reads them."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from trimtab import project, proving
from trimtab.cli import app, prove
from trimtab_contracts.registry.v1.registry_pb2 import Deployment, VersionRef
from trimtab_core import specs
from trimtab_runtime.clock import to_timestamp
from trimtab_runtime.errors import NotFound
from typer.testing import CliRunner

SPECS = """
kind: Source
metadata: {name: rides}
spec:
  key: id
  event_time: at
  lateness: 1h
  fields:
    id: {type: string}
    at: {type: timestamp}
    zone: {type: integer, min: 1}
    mph: {type: number}
---
kind: FeatureView
metadata: {name: speed}
spec: {source: rides, entity: zone, hop: 1h, ttl: 1d, aggregates: [{field: mph, functions: [mean], windows: [1h]}]}
"""
TESTS = """kind: ContractTest
metadata: {name: rides}
spec:
  source: rides
  events:
    - name: usual
      event: {id: a, at: 2020-03-01T12:00:00Z, zone: 1, mph: 10}
    - name: nowhere
      event: {id: a, at: 2020-03-01T12:00:00Z, zone: 0, mph: 10}
      refused: [out_of_range zone]
---
kind: FeatureTest
metadata: {name: speed}
spec:
  view: speed
  events:
    - {at: 2020-03-01T12:10:00Z, zone: 1, mph: 10}
    - {at: 2020-03-01T12:20:00Z, zone: 1, mph: 20}
  expect:
    - {at: 2020-03-01T13:00:00Z, entity: {zone: 1}, values: {mph_mean_1h: 15}}
"""
BEHAVIOUR = """
kind: ModelTest
metadata: {name: minutes}
spec:
  model: minutes
  golden:
    - {name: ten, features: {request.distance: 10}, answer: 30}
  direction:
    - {name: further, change: {request.distance: "+1"}, never: less}
"""


def a_project(folder: Path, tests: str = TESTS) -> Path:
    (folder / "specs.yaml").write_text(SPECS)
    (folder / "tests").mkdir()
    (folder / "tests" / "all.yaml").write_text(tests)
    return folder


def run(folder: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["test", str(folder), "--dir", str(folder / "none"), *words])
    return done.exit_code, done.output


def test_examples_that_hold_pass_and_are_never_applied(tmp_path: Path) -> None:
    code, said = run(a_project(tmp_path))

    assert (code, said) == (0, "tests: 3 passed\n")
    assert [each.key for each in project.load(tmp_path).resources] == ["Source/rides", "FeatureView/speed"]


def test_each_failure_is_a_line_with_its_place_and_the_exit_is_1(tmp_path: Path) -> None:
    wrong = TESTS.replace("mph_mean_1h: 15", "mph_mean_1h: 16").replace("[out_of_range zone]", "[late]")
    code, said = run(a_project(tmp_path, wrong))

    assert code == 1
    place = tmp_path / "tests" / "all.yaml"
    contract, feature, summary = said.splitlines()
    assert contract.startswith(f"FAILED {place}:8: ContractTest/rides: nowhere: it is not refused for late; ")
    assert feature == (
        f"FAILED {place}:20: FeatureTest/speed: 1: zone 1 at 2020-03-01T13:00:00Z: mph_mean_1h is 15, and 16 was expected"
    )
    assert summary == "tests: 1 passed, 2 failed"


def test_behaviour_waits_where_no_trimtab_runs_and_says_so(tmp_path: Path) -> None:
    code, said = run(a_project(tmp_path, BEHAVIOUR), "--junit", str(tmp_path / "junit.xml"))

    assert code == 0
    assert said.startswith(
        "waits  2 of behaviour: it is held against the next candidate, for no live version"
    )
    assert said.endswith("tests: 2 waiting\n")
    (suite,) = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert (suite.get("name"), suite.get("tests"), suite.get("skipped")) == ("ModelTest/minutes", "2", "2")


def test_the_results_are_there_as_junit_and_as_json(tmp_path: Path) -> None:
    a_project(tmp_path, TESTS.replace("mph_mean_1h: 15", "mph_mean_1h: 16"))
    code, said = run(tmp_path, "--junit", str(tmp_path / "junit.xml"), "--json")

    assert code == 1
    assert [each["state"] for each in json.loads(said)] == ["passed", "passed", "failed"]
    contract, feature = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert (contract.get("tests"), contract.get("failures")) == ("2", "0")
    (case,) = feature
    assert (case.get("classname"), case.get("line")) == ("FeatureTest/speed", "20")
    (failure,) = case
    assert failure.get("message") == "mph_mean_1h is 15, and 16 was expected"


def test_a_results_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="cannot be written"):
        prove.write_junit(tmp_path / "none" / "junit.xml", [])


def test_a_malformed_test_is_a_fault_with_file_and_line(tmp_path: Path) -> None:
    a_project(tmp_path, TESTS.replace("refused:", "refuse:").replace("13:00:00Z", "13 o'clock"))

    with pytest.raises(project.BadProject) as refused:
        project.load(tmp_path)
    first, second = map(str, refused.value.places)
    assert f"{tmp_path}/tests/all.yaml:10: spec.events.1.refuse: there is no such key" in first
    assert 'all.yaml:20: spec.expect.0.at: "2020-03-01T13 o\'clock" is no time' in second


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        (
            TESTS.replace("source: rides", "source: ride"),
            "'ride' is no source of this project, which has rides",
        ),
        (TESTS.replace("view: speed", "view: spede"), "'spede' is no view of this project, which has speed"),
    ],
)
def test_a_test_of_what_is_not_in_the_project_fails(tmp_path: Path, tests: str, said: str) -> None:
    code, found = run(a_project(tmp_path, tests))

    assert code == 1
    assert said in found


class Live:
    """A Trimtab whose live version answers three minutes a mile, but no more than `most`."""

    def __init__(self, most: float = 1e9, version: int = 3) -> None:
        self.most, self.version = most, version

    async def deployment(self, model: str) -> Deployment:
        if model != "minutes":
            raise NotFound("there is none")
        if not self.version:
            return Deployment(model=model)
        ref = VersionRef(number=self.version, features=["request.distance"], trained_to=to_timestamp(9_000))
        return Deployment(model=model, champion=ref)

    async def model(self, name: str) -> specs.Model:
        spec = {
            "task": "regression", "source": "rides", "features": ["request.distance"], "rollout": {"cap": 1},
            "label": {"source": "rides", "on": "id", "value": "mph", "within": "1h"},
            "trainer": {"window": "10s", "holdout": 0.5},
        }  # fmt: skip
        found = specs.parse("Model", {"metadata": {"name": name}, "spec": spec})
        assert isinstance(found, specs.Model)
        return found

    async def training_set(self, model: str, start_ms: int, end_ms: int) -> Any:
        assert (start_ms, end_ms) == (4_001, 9_001)

        class Found:
            def arrow(self) -> pa.Table:
                return pa.table({"request.distance": [1.0, 5.0, 12.0]})

        return Found()

    async def score(self, model: str, features: list[str], rows: Any, *, version: int, **texts: Any) -> Any:
        assert version == self.version and not texts["texts"].size
        return np.minimum(3.0 * rows[:, 0], self.most).astype(np.float64)


async def against(live: Any, behaviour: str = BEHAVIOUR) -> list[proving.Outcome]:
    return await proving.against_live(live, project.parse(behaviour, file="t.yaml"))


async def test_behaviour_is_held_against_the_live_version_on_the_newest_rows() -> None:
    assert [outcome.state for outcome in await against(Live())] == ["passed", "passed"]

    golden, further = await against(Live(most=12.0), BEHAVIOUR.replace("+1", "-1"))
    assert str(golden) == (
        "t.yaml:7: ModelTest/minutes: ten: of version 3: Golden row 'ten' is answered 12, but 30 within 0 is expected."
    )
    assert "gets less on 1 of 3 rows" in further.said


class OfClasses(Live):
    """A Trimtab whose live version takes a note for bad if it says awful."""

    async def deployment(self, model: str) -> Deployment:
        deployment = await super().deployment(model)
        deployment.champion.texts.append("text(request.note)")
        deployment.champion.classes.extend(["bad", "fair", "good"])
        return deployment

    async def training_set(self, model: str, start_ms: int, end_ms: int) -> Any:
        class Found:
            def arrow(self) -> pa.Table:
                notes = pa.array(["so awful", None, "fine"], pa.string())
                return pa.table({"request.distance": [1.0, 5.0, None], "text(request.note)": notes})

        return Found()

    async def score(self, model: str, features: list[str], rows: Any, *, version: int, **given: Any) -> Any:
        assert given["text_names"] == ["text(request.note)"] and len(rows) == len(given["texts"])
        awful = np.array(["awful" in note for note in given["texts"][:, 0]])
        return np.where(awful[:, None], [[0.8, 0.1, 0.1]], [[0.1, 0.3, 0.6]])


OF_CLASSES = """
kind: ModelTest
metadata: {name: minutes}
spec:
  model: minutes
  golden: [{name: bad, features: {request.distance: 1, "text(request.note)": AWFUL}, answer: bad}]
  direction: [{name: worse, change: {"text(request.note)": awful}, never: more, of: good}]
  invariance: [{name: note, change: {"text(request.note)": [fine, ""]}}]
"""


async def test_behaviour_of_classes_and_texts_is_held_against_the_live_version() -> None:
    bad, note, worse = await against(OfClasses(), OF_CLASSES)

    assert [each.state for each in (bad, worse, note)] == ["passed", "passed", "failed"]
    assert "most from 0.8 to 0.1 with text(request.note) 'so awful' set to 'fine'" in note.said


async def test_behaviour_waits_for_a_model_that_is_not_there_or_does_not_serve() -> None:
    unknown = await against(Live(), BEHAVIOUR.replace("model: minutes", "model: hours"))
    idle = await against(Live(version=0))

    assert [outcome.state for outcome in [*unknown, *idle]] == ["waits"] * 4
    assert "has not been applied yet" in unknown[0].said
    assert "has no live version yet" in idle[0].said
