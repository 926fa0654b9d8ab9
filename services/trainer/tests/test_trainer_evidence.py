"""What is found of a candidate beside its gates, whatever kind of model it is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from trimtab_core.specs import Model, group_column, parse
from trimtab_trainer import job

MINUTE = 60_000
ROWS = 800


def a_job(folder: Path, task: str = "regression", rows: int = ROWS, **spec: Any) -> Model:
    """Put a job of some rows into `folder`: x decides, zone 1 is noisier, and noise is noise."""
    rng = np.random.default_rng(0)
    x, zone = rng.normal(size=rows), rng.integers(0, 3, rows).astype(np.float64)
    value = 20 + 3 * x + rng.normal(0, np.where(zone == 1, 3, 0.5))
    table = pa.table(
        {
            "key": [str(at) for at in range(rows)],
            "event_time_ms": np.arange(rows) * MINUTE,
            "request.x": x,
            "request.zone": zone,
            "noise": rng.normal(size=rows),
            **({group_column("zone"): [f"{each:g}" for each in zone]} if "gates" in spec else {}),
            "label": {
                "regression": value,
                "binary": (value > 20).astype(np.float64),
                "multiclass": np.digitize(value, [18, 22]).astype(np.float64),
            }[task],
        }
    )
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    document = {
        "task": task,
        "source": "trips",
        "features": ["request.x", "request.zone", "noise = request.x * 0"],
        "rollout": {"cap": 10},
        "label": {"source": "trips", "on": "id", "value": "y", "within": "1h"},
        "trainer": {"window": "30d", "kind": "linear", "holdout": 0.25},
        **spec,
    }
    model = parse("Model", {"metadata": {"name": "m"}, "spec": document})
    assert isinstance(model, Model)
    (folder / "job.json").write_text(json.dumps({"model": {"metadata": {"name": "m"}, "spec": document}}))
    return model


@pytest.mark.parametrize(("every", "asked"), [(1, 2_500), (16, 1_000)])
def test_a_fit_that_took_long_is_asked_less_of_what_it_leans_on(
    tmp_path: Path, every: int, asked: int
) -> None:
    a_job(tmp_path, rows=10_000)
    job_of = json.loads((tmp_path / "job.json").read_text())
    plan = {"plan": {"every": every, "stretches": 1}}
    (tmp_path / "job.json").write_text(json.dumps(job_of | plan))

    _, evidence = done(tmp_path)

    assert evidence["importance"]["rows"] == asked
    assert evidence["importance"]["features"][0]["feature"] == "request.x"


def done(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    assert job.main(folder, lambda _: None) == 0, (folder / "result.json").read_text()
    return json.loads((folder / "result.json").read_text()), json.loads(
        (folder / "evidence.json").read_text()
    )


def test_a_candidate_has_figures_with_intervals_slices_plots_and_what_it_leans_on(tmp_path: Path) -> None:
    a_job(tmp_path, evidence={"slices": ["zone"]})

    result, evidence = done(tmp_path)

    low, high = result["intervals"]["mae"]
    assert low < result["metrics"]["mae"] < high
    assert evidence["measures"]["mae"] == [result["metrics"]["mae"], low, high]
    assert result["metrics"].keys() >= {"mae", "rmse", "r2", "mape"}
    assert (evidence["rows"], evidence["champion"], evidence["learning"]) == (200, None, [])
    [sliced] = evidence["slices"]
    worst = max(sliced["slices"], key=lambda each: each["measures"]["mae"][0])
    assert (sliced["by"], worst["of"]) == ("zone", "1")
    assert evidence["curves"].keys() == {"calibration", "residuals", "over_time", "points"}
    [first, *rest] = evidence["importance"]["features"]
    assert (first["feature"], evidence["importance"]["rows"]) == ("request.x", 200)
    assert all(abs(each["rise"]) < 0.1 * first["rise"] for each in rest)


@pytest.mark.parametrize("kind", ["linear", "random_forest"])
def test_probabilities_have_theirs(tmp_path: Path, kind: str) -> None:
    parameters = {"linear": {}, "random_forest": {"n_estimators": 5}}[kind]
    a_job(tmp_path, "binary", trainer={"window": "30d", "kind": kind, "parameters": parameters})

    result, evidence = done(tmp_path)

    assert result["metrics"].keys() == {
        "log_loss", "error_rate", "brier", "ece", "precision", "recall", "f1", "roc_auc", "average_precision",
    }  # fmt: skip
    assert evidence["curves"].keys() == {"calibration", "confusion", "roc", "pr"}
    assert evidence["importance"]["metric"] == "log_loss"
    assert evidence["importance"]["features"][0]["feature"] == "request.x"


def test_classes_have_theirs_and_each_class_its_own(tmp_path: Path) -> None:
    label = {"source": "trips", "on": "id", "value": "y", "within": "1h", "classes": ["low", "mid", "high"]}
    a_job(tmp_path, "multiclass", label=label, rollout={}, evidence={"slices": ["zone"]})

    result, evidence = done(tmp_path)

    assert result["metrics"].keys() == {
        "log_loss", "error_rate", "brier", "ece", "balanced_accuracy", "f1_macro",
    }  # fmt: skip
    assert evidence["curves"].keys() == {"calibration", "calibration_by_class", "confusion"}
    classes = {each["of"]: each for each in evidence["classes"]["slices"]}
    table = {row["label"]: row["said"] for row in evidence["curves"]["confusion"]}
    assert list(table) == ["low", "mid", "high"]
    for at, (name, said) in enumerate(table.items()):
        assert sum(said) == classes[name]["rows"]
        assert classes[name]["measures"]["recall"][0] == pytest.approx(said[at] / sum(said))
    assert evidence["slices"][0]["slices"][0]["measures"].keys() == result["metrics"].keys()


def test_what_a_gate_slices_by_is_told_with_what_the_spec_names_once(tmp_path: Path) -> None:
    gate = {"metric": "mae", "slices": "zone", "max_worse": 0.1}
    a_job(tmp_path, gates=[gate], evidence={"slices": ["zone", "request.x"]})

    _, evidence = done(tmp_path)

    assert [each["by"] for each in evidence["slices"]] == ["zone", "request.x"]
    assert [each["rows"] for each in evidence["slices"][1]["slices"]] == [50] * 4


def test_a_learning_curve_is_drawn_if_it_is_asked_for(tmp_path: Path) -> None:
    a_job(tmp_path, evidence={"learning_curve": True})

    _, evidence = done(tmp_path)

    assert [each["rows"] for each in evidence["learning"]] == [68, 135, 270, 540]
    assert evidence["learning"][-1]["low"] < evidence["learning"][-1]["value"]


def test_the_same_rows_give_the_same_evidence_and_the_champion_is_beside_it(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    a_job(first), a_job(second)
    result, evidence = done(first)
    live = {"features": result["features"], "trained_to_ms": 0}
    (second / "champion.onnx").write_bytes((first / "model.onnx").read_bytes())
    asked = json.loads((second / "job.json").read_text()) | {"champion": live}
    (second / "job.json").write_text(json.dumps(asked))

    again, beside = done(second)

    assert beside["champion"]["rows"] == 200
    assert beside["champion"]["measures"]["mae"][0] == pytest.approx(again["metrics"]["champion_mae"])
    assert beside | {"champion": None} == evidence


@pytest.mark.parametrize("name", ["road", "views.x"])
def test_a_slice_that_is_no_feature_is_refused_with_the_way_on(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ValueError, match=f"'{name}' is no feature of the model: add request.{name} to features"
    ):
        a_job(tmp_path, evidence={"slices": [name]})
