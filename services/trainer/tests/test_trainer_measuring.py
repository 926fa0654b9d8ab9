"""What a run measures of the graph that it exports: how long a row takes, and what its tests say."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf import json_format
from trimtab_contracts.registry.v1.registry_pb2 import Latency
from trimtab_core.specs import Model, ModelTest, parse, to_document
from trimtab_trainer import job
from trimtab_training import export, fitting, inputs, timing
from trimtab_training.behaving import results


def a_model(*gates: dict[str, Any], kind: str = "linear", **parameters: Any) -> Model:
    spec = {
        "task": "regression",
        "source": "trips",
        "features": ["request.distance", "request.vendor"],
        "rollout": {"cap": 10},
        "label": {"source": "trips", "on": "id", "value": "y", "within": "1h"},
        "trainer": {"window": "30d", "kind": kind, "parameters": parameters},
        "gates": list(gates),
    }
    model = parse("Model", {"metadata": {"name": "m"}, "spec": spec})
    assert isinstance(model, Model)
    return model


def some_rows(count: int = 600) -> fitting.Rows:
    rng = np.random.default_rng(0)
    features = np.column_stack([rng.uniform(0, 10, count), rng.integers(1, 3, count)]).astype(np.float32)
    return fitting.Rows(features, 3.0 * features[:, 0] + rng.normal(0, 0.1, count), np.arange(count) * 60_000)


def graph_of(model: Model) -> Any:
    """Return a fitted model's graph, ready to be asked."""
    return export.session(export.serialised(fitting.fit(model.spec, some_rows()).to_onnx()))


def a_test(**cases: Any) -> ModelTest:
    test = parse("ModelTest", {"metadata": {"name": "b"}, "spec": {"model": "m", **cases}})
    assert isinstance(test, ModelTest)
    return test


def test_a_row_takes_some_time_and_so_many_times_what_it_takes_the_champion() -> None:
    rows = some_rows().features
    light = graph_of(a_model())

    alone = timing.latency(light, rows, None)
    beside = timing.latency(light, rows, (light, rows))

    message = json_format.ParseDict(alone, Latency())
    assert message.p50.ms.low <= message.p50.ms.value <= message.p50.ms.high
    assert not message.p99.HasField("ratio")
    assert json_format.ParseDict(beside, Latency()).p50.ratio.value > 0
    assert beside["calls"] >= 40


TESTS_OF_M = {
    "golden": [{"name": "ten", "features": {"request.distance": 10, "request.vendor": 1}, "answer": 30, "within": 1}],
    "invariance": [{"name": "vendor", "change": {"request.vendor": [1, 2]}, "at_most": 0.2}],
    "direction": [{"name": "shorter", "change": {"request.distance": "-1"}, "never": "less"}],
}  # fmt: skip


def test_tests_are_held_against_the_exported_graph() -> None:
    names, rows = ["request.distance", "request.vendor"], some_rows()
    answers = partial(export.answers, graph_of(a_model()))
    assert results([], answers, names, [], [], rows.features) == []

    found = results([a_test(**TESTS_OF_M)], answers, names, [], [], rows.features)

    assert [(each["gate"], each["passed"]) for each in found] == [
        ("test b: ten", True),
        ("test b: vendor", True),
        ("test b: shorter", False),
    ]
    assert "gets less on 600 of 600 rows (100.0%)" in found[-1]["sentence"]


def test_tests_of_classes_and_texts_are_held_against_the_exported_graph() -> None:
    spec = to_document(a_model())["spec"] | {
        "task": "multiclass", "rollout": {}, "features": ["request.distance", "text(request.note)"],
        "label": {"source": "trips", "on": "id", "value": "y", "within": "1h", "classes": ["bad", "fair", "good"]},
    }  # fmt: skip
    model = parse("Model", {"metadata": {"name": "m"}, "spec": spec})
    assert isinstance(model, Model)
    distance = np.random.default_rng(0).uniform(0, 10, (600, 1)).astype(np.float32)
    awful = np.arange(600) % 3 == 0
    label = np.where(awful, 0, np.where(distance[:, 0] > 5, 2, 1)).astype(np.float64)
    shown = inputs.Inputs(distance, np.where(awful, "awful ride", "ride")[:, None].astype(object), (True,))
    fitted = fitting.fit(model.spec, fitting.Rows(shown, label, np.arange(600) * 60_000))
    note = "text(request.note)"
    cases = {
        "golden": [
            {"name": "awful", "features": {"request.distance": 9, note: "Awful ride"}, "answer": "bad"}
        ],
        "direction": [{"name": "worse", "change": {note: "an AWFUL ride"}, "never": "less", "of": "bad"}],
        "invariance": [{"name": "further", "change": {"request.distance": 9}, "at_most": 0.1}],
    }

    answers = partial(export.answers, export.session(export.serialised(fitted.to_onnx())))
    found = results([a_test(**cases)], answers, ["request.distance"], [note], model.spec.label.classes, shown)

    assert [(each["gate"], each["passed"]) for each in found] == [
        ("test b: awful", True),
        ("test b: further", False),
        ("test b: worse", True),
    ]


def test_a_run_tells_both_and_what_gates_group_by_is_no_feature(tmp_path: Path) -> None:
    rows = some_rows()
    table = pa.table(
        {
            "key": [str(at) for at in range(len(rows))],
            "event_time_ms": rows.event_time_ms,
            "request.distance": rows.features[:, 0].astype(np.float64),
            "request.vendor": rows.features[:, 1].astype(np.float64),
            "label": rows.label,
            "group:gender": ["f", "m"] * (len(rows) // 2),
        }
    )
    with (
        pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as writer,
    ):
        writer.write_table(table)
    model = a_model({"fairness": "request.gender", "of": "mae", "max_difference": 1})
    (tmp_path / "job.json").write_text(json.dumps({"model": to_document(model)}))
    (tmp_path / "tests.json").write_text(json.dumps([to_document(a_test(**TESTS_OF_M))]))

    assert job.main(tmp_path, lambda _: None) == 0

    result = json.loads((tmp_path / "result.json").read_text())
    assert result["features"] == ["request.distance", "request.vendor"]
    assert len(result["tests"]) == 3
    assert result["latency"]["p99"]["ms"]["value"] > 0
    with pa.ipc.open_file(tmp_path / "evaluation.arrow") as reader:
        assert set(reader.read_all()["gender"].to_pylist()) == {"f", "m"}


@pytest.mark.parametrize("trees", [1, 40])
def test_a_forest_is_told_from_a_tree_by_how_long_it_takes_beside_it(trees: int) -> None:
    small = graph_of(a_model(kind="random_forest", n_estimators=1))
    graph = graph_of(a_model(kind="random_forest", n_estimators=trees))

    rows = some_rows().features

    found = timing.latency(graph, rows, (small, rows))

    assert found["p50"]["ratio"]["low"] <= found["p50"]["ratio"]["high"]
