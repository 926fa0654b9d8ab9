"""Features and datasets in a notebook: what a table holds, and how datasets are told apart."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from google.protobuf import json_format
from trimtab.cli.lineage import Lineage
from trimtab.datasets import TrainingSet, compared, entity_columns, feature_table
from trimtab_contracts.features.v1.features_pb2 import GetOnlineFeaturesResponse
from trimtab_contracts.registry.v1.registry_pb2 import Resource
from trimtab_core import specs
from trimtab_runtime.clock import to_timestamp
from trimtab_runtime.errors import Rejected

NAN = float("nan")


def a_set(**columns: list[Any]) -> TrainingSet:
    rows = pa.table(
        columns or {"key": ["a", "b"], "event_time_ms": [1, 2], "x": [1.0, NAN], "label": [1.0, 2.0]}
    )
    return TrainingSet("m", 0, 1000, None, {"events/s": 3}, "d1", rows.num_rows, 4, rows)


def test_an_answer_is_a_table_with_what_each_value_is() -> None:
    view = GetOnlineFeaturesResponse.View(name="v", as_of=to_timestamp(3_600_000), freshness_ms=12)
    answer = GetOnlineFeaturesResponse(
        names=["v.a", "v.b"], values=[1, 2, NAN, 4], statuses=bytes([0, 3, 1, 2]), views=[view]
    )

    table = feature_table({"zone": [7, 8]}, answer)

    assert table.to_pylist() == [
        {"zone": 7, "v.a": 1, "v.a.status": "present", "v.b": 2, "v.b.status": "stale"},
        {"zone": 8, "v.a": None, "v.a.status": "missing", "v.b": 4, "v.b.status": "expired"},
    ]
    assert json.loads(table.schema.metadata[b"trimtab"]) == {
        "v": {"as_of": "1970-01-01T01:00:00.000Z", "watermark": None, "freshness_ms": 12}
    }


def test_entities_are_asked_for_by_the_texts_that_name_them() -> None:
    [numbers, texts] = entity_columns({"zone": np.array([7, 8]), "open": [True, "north"]})  # type: ignore[dict-item]

    assert (numbers.field, list(numbers.values)) == ("zone", ["7", "8"])
    assert list(texts.values) == ["True", "north"]
    with pytest.raises(Rejected, match="entity None of 'zone' names nothing"):
        entity_columns({"zone": [1, None]})


def test_a_dataset_is_written_with_what_names_it(tmp_path: Path) -> None:
    a_set().write(tmp_path / "x.parquet")

    read = pyarrow.parquet.read_table(tmp_path / "x.parquet")
    assert read.column_names == ["key", "event_time_ms", "x", "label"]
    named = json.loads(read.schema.metadata[b"trimtab"])
    assert (named["tables"], named["digest"], named["rows_without_label"]) == ({"events/s": 3}, "d1", 4)
    with pytest.raises(Rejected, match="cannot be written"):
        a_set().write(tmp_path / "none" / "x.parquet")


def test_without_pandas_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(a_set().pandas().columns) == ["key", "event_time_ms", "x", "label"]

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(Rejected, match="pandas is not installed: `pip install pandas`"):
        a_set().pandas()


def test_two_datasets_are_compared_column_by_column() -> None:
    left, right = a_set().arrow(), a_set(key=["a"], x=[3.0], y=[1]).arrow()

    found = {row.pop("column"): row for row in compared(left, right)}

    assert list(found) == ["x", "label", "y"]
    assert found["x"] == {
        "left type": "double", "left mean": 1.0, "left std": 0.0, "left nulls": 0.5,
        "right type": "double", "right mean": 3.0, "right std": 0.0, "right nulls": 0.0,
    }  # fmt: skip
    assert (found["y"]["left type"], found["y"]["right type"]) == (None, "int64")


def resources() -> list[Resource]:
    fields = {
        "id": {"type": "string"},
        "at": {"type": "timestamp"},
        "zone": {"type": "integer"},
        "x": {"type": "number"},
    }
    source = {"key": "id", "event_time": "at", "lateness": "2h", "fields": fields}
    view = {
        "source": "rides",
        "entity": "zone",
        "hop": "1h",
        "ttl": "30d",
        "aggregates": [{"field": "x", "functions": ["mean"], "windows": ["2h"]}],
    }
    model = {
        "task": "regression", "source": "asks", "features": ["request.x", "speed.*", "hour(at)", "y = zones[zone].area / 2"],
        "label": {"source": "asks", "on": "id", "value": "x", "within": "1h"},
        "trainer": {"kind": "linear", "window": "1d"}, "rollout": {"cap": 60},
    }  # fmt: skip
    table = {
        "postgres": {"query": "select * from zones", "connection": "warehouse"},
        "key": "zone",
        "refresh": "1h",
        "fields": {"zone": {"type": "integer"}, "area": {"type": "number"}},
    }
    found = []
    for kind, name, spec in (
        ("Source", "asks", source), ("Source", "rides", source), ("FeatureView", "speed", view),
        ("FeatureView", "idle", {**view, "entity": None}), ("Table", "zones", table), ("Model", "m", model),
    ):  # fmt: skip
        document = specs.to_document(specs.parse(kind, {"metadata": {"name": name}, "spec": spec}))
        found.append(json_format.ParseDict({"kind": kind, "name": name, "document": document}, Resource()))
    return found


def a_chained_source() -> Resource:
    """Return a source of the predictions of model m."""
    [asks] = [each for each in resources() if each.name == "asks"]
    made = Resource()
    made.CopyFrom(asks)
    made.name = "guesses"
    made.document.fields["metadata"].struct_value.update({"name": "guesses"})
    made.document.fields["spec"].struct_value.update({"predictions_of": "m"})
    return made


def test_the_wide_form_says_who_uses_what() -> None:
    lineage = Lineage(resources())

    views = {row["view"]: row for row in lineage.rows("FeatureView")}
    assert (views["speed"]["entity"], views["speed"]["features"], views["speed"]["models"]) == (
        "zone",
        "x_mean_2h",
        "m",
    )
    assert (views["speed"]["hop"], views["speed"]["ttl"]) == ("1h", "30d")
    assert (views["idle"]["entity"], views["idle"]["models"]) == ("none: one row for all", "")
    sources = {row["source"]: row for row in lineage.rows("Source")}
    assert (sources["rides"]["views"], sources["rides"]["models"]) == ("speed, idle", "m")
    assert (sources["asks"]["views"], sources["asks"]["models"]) == ("", "m")
    assert [(row["model"], row["views"], row["tables"], row["label"]) for row in lineage.rows("Model")] == [
        ("m", "speed", "zones", "asks.x")
    ]
    assert lineage.rows("Table") == [
        {
            "table": "zones",
            "from": "a query of warehouse",
            "key": "zone",
            "columns": "area",
            "refresh": "1h",
            "models": "m",
        }
    ]
    assert (lineage.consumers("rides"), lineage.consumers("asks")) == (
        (["speed", "idle"], ["m"]),
        ([], ["m"]),
    )
    assert lineage.uses("m", "rides") == ["features of speed"]
    assert lineage.uses("m", "asks") == ["rows", "label"]


def test_the_wide_form_says_what_a_source_of_predictions_is_made_of() -> None:
    lineage = Lineage([*resources(), a_chained_source()])

    assert {row["source"]: row["predictions of"] for row in lineage.rows("Source")} == {
        "asks": "", "rides": "", "guesses": "m",
    }  # fmt: skip
    [model] = lineage.rows("Model")
    assert model["predictions are events of"] == "guesses"
