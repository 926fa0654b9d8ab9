"""Class weights are for classes."""

from typing import Any

import pytest
from pydantic import ValidationError
from trimtab_core.specs import faults, parse


def a_model(task: str) -> dict[str, Any]:
    spec = {
        "task": task,
        "source": "trips",
        "features": ["request.x"],
        "rollout": {"cap": 4},
        "label": {"source": "trips", "on": "id", "value": "y", "within": "1h"},
        "trainer": {"window": "30d", "kind": "xgboost", "class_weight": "balanced"},
    }
    if task == "multiclass":
        spec["label"] = {**spec["label"], "classes": ["a", "b", "c"]}  # type: ignore[dict-item]
    return {"metadata": {"name": "m"}, "spec": spec}


def test_of_a_regression_they_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValidationError) as refused:
        parse("Model", a_model("regression"))

    assert faults(refused.value, "Model", a_model("regression")) == [
        (
            ("spec", "trainer", "class_weight"),
            "'balanced' is for classes, and the task is regression: remove it",
        )
    ]


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_of_classes_they_are_taken(task: str) -> None:
    parse("Model", a_model(task))
