"""Gates as they are written: each form by its key, what is malformed told at its place."""

from typing import Any

import pytest
from pydantic import ValidationError
from trimtab_core import specs


def document(*gates: Any, task: str = "binary") -> dict[str, Any]:
    spec = {
        "task": task,
        "source": "trips",
        "features": ["request.x"],
        "label": {"source": "trips", "on": "id", "value": "y", "within": "1h"},
        "trainer": {"window": "30d"},
        "rollout": {"cap": 4},
        "gates": list(gates),
    }
    return {"metadata": {"name": "m"}, "spec": spec}


def test_every_form_reads_back_as_it_was_and_names_the_groups_that_it_needs() -> None:
    model = specs.parse(
        "Model",
        document(
            {"metric": "log_loss", "at_most": 1},
            {"metric": "log_loss", "slices": "zone", "max_worse": 0.1},
            {"fairness": "request.gender", "of": "selection_rate", "min_ratio": 0.8},
            {"metric": "calibration_error", "at_most": 0.05},
            {"latency": "p99", "at_most": "0.25ms"},
            {"latency": "p50", "versus": "champion", "max_ratio": 1.5},
            {"size": "model", "at_most": "50MB"},
        ),
    )
    assert isinstance(model, specs.Model)
    written = specs.to_document(model)

    assert model.spec.groups == ("zone", "gender")
    assert written["spec"]["gates"][4]["at_most"] == "250us"
    assert written["spec"]["gates"][6]["at_most"] == "50MB"
    assert specs.parse("Model", written) == model


def test_groups_are_watched_apart_from_gates_in_the_same_words_and_need_no_limit() -> None:
    watched = [
        {"fairness": "request.age", "of": "error_rate"},
        {"fairness": "zone", "of": "log_loss", "max_difference": 1},
    ]
    plain = document({"fairness": "gender", "of": "selection_rate", "min_ratio": 0.8, "unsure": "refuses"})
    plain["spec"]["monitoring"] = {"fairness": watched}
    model = specs.parse("Model", plain)
    assert isinstance(model, specs.Model)

    assert model.spec.groups == ("gender", "zone", "age")
    assert [(each.fairness, each.limited) for each in model.spec.fairness] == [
        ("gender", True), ("zone", True), ("age", False),
    ]  # fmt: skip
    assert specs.parse("Model", specs.to_document(model)) == model


@pytest.mark.parametrize(
    ("watched", "place", "said"),
    [
        ({"fairness": "g", "of": "mae"}, ("of",), "'mae' is not for binary: write selection_rate"),
        ({"fairness": "g", "of": "log_loss", "max_difference": 1, "min_ratio": 1}, (), "both are given"),
        ({"fairness": "g", "of": "log_loss", "unsure": "passes"}, ("unsure",), "there is no such key"),
        ({"fairness": "g", "of": "selection_rate", "threshold": 0.3}, ("threshold",), "a figure has one name: give one threshold"),
    ],
)  # fmt: skip
def test_what_is_watched_is_held_to_the_words_of_gates(
    watched: Any, place: tuple[str, ...], said: str
) -> None:
    bad = document({"fairness": "request.g", "of": "selection_rate", "min_ratio": 0.8})
    bad["spec"]["monitoring"] = {"fairness": [watched]}
    with pytest.raises(ValidationError) as refused:
        specs.parse("Model", bad)

    found = specs.faults(refused.value, "Model", bad)
    assert any(at == ("spec", "monitoring", "fairness", 0, *place) and said in told for at, told in found), (
        found
    )


@pytest.mark.parametrize(
    ("gate", "place", "said"),
    [
        ({"fairness": "g", "of": "error_rate"}, "", "neither is given of max_difference and min_ratio"),
        ({"fairness": "g", "of": "error_rate", "min_ratio": 0.8, "max_difference": 0}, "", "both are given"),
        ({"fairness": "g", "of": "mae", "max_difference": 1}, "of", "'mae' is not for binary: write selection_rate"),
        ({"fairness": "g", "of": "parity", "min_ratio": 1}, "of", "'parity' is not allowed: write 'selection_rate'"),
        ({"fairness": "g h", "of": "error_rate", "min_ratio": 1}, "fairness", "'g h' is no name of the form"),
        ({"fairness": "g", "of": "error_rate", "min_ratio": 1, "threshold": 0.4}, "threshold", "0.4 is for rates of"),
        ({"fairness": "g", "of": "error_rate", "min_ratio": 1, "at_most": 3}, "at_most", "there is no such key"),
        ({"metric": "calibration_error"}, "at_most", "it is missing"),
        ({"latency": "p95", "at_most": "1ms"}, "latency", "'p95' is not allowed: write 'p50' or 'p99'"),
        ({"latency": "p99", "at_most": "5 weeks"}, "at_most", "write a positive number and a unit (us, ms, s), like 5ms"),
        ({"latency": "p99"}, "", "neither is given of at_most and versus"),
        ({"latency": "p99", "max_ratio": 2}, "max_ratio", "2.0 stands without versus: champion"),
        ({"size": "model", "at_most": "50MBit"}, "at_most", "like 50MB"),
        ({}, "metric", "it is missing"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_told_at_its_place_and_hides_no_other_fault(
    gate: Any, place: str, said: str
) -> None:
    bad = document(gate, {"metric": "mae", "at_most": 1})
    with pytest.raises(ValidationError) as refused:
        specs.parse("Model", bad)

    found = specs.faults(refused.value, "Model", bad)
    at = ("spec", "gates", 0, *([place] if place else []))
    assert any(fault[0] == at and said in fault[1] for fault in found), found
    assert any(fault[0] == ("spec", "gates", 1, "metric") for fault in found)


def test_of_classes_the_most_probable_is_selected_whatever_the_threshold() -> None:
    gates = [
        {"metric": "calibration_error", "at_most": 0.1},
        {"fairness": "g", "of": "selection_rate", "min_ratio": 0.8, "threshold": 0.4},
    ]
    bad = document(*gates, task="multiclass")
    bad["spec"]["label"]["classes"] = ["a", "b", "c"]
    with pytest.raises(ValidationError) as refused:
        specs.parse("Model", bad)

    [(place, said)] = specs.faults(refused.value, "Model", bad)
    assert place == ("spec", "gates", 1, "threshold")
    assert said.endswith("and of classes the most probable one is selected: remove it")


def test_probabilities_are_of_classifications_alone() -> None:
    bad = document({"metric": "calibration_error", "at_most": 0.1}, task="regression")
    with pytest.raises(ValidationError, match="of probabilities, so not for regression: remove the gate"):
        specs.parse("Model", bad)
