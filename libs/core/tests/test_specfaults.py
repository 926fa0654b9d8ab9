"""What is wrong with a spec's monitoring is told in Trimtab's words: the field, its value, and what to write."""

from typing import Any

import pytest
from pydantic import ValidationError
from trimtab_core import specs
from trimtab_core.specs import MonitoringSpec

RATE = "write a positive count, 'per' and a duration, like '1 per 90d'"
K_OF_N = "write two whole numbers from 1 to 30, like [2, 3]"


def document(part: str, **said: Any) -> dict[str, Any]:
    spec = {
        "task": "binary",
        "source": "trips",
        "features": ["request.zone", "text(request.note)"],
        "label": {"source": "trips", "on": "id", "value": "y", "within": "1h"},
        "trainer": {"window": "30d"},
        part: said,
    }
    return {"metadata": {"name": "m"}, "spec": spec}


@pytest.mark.parametrize(
    ("part", "field", "value", "said"),
    [
        ("monitoring", "false_alarms", 0.05, f"0.05 is no rate: {RATE}"),
        ("monitoring", "false_alarms", {"count": 1, "per_ms": 5}, f"{{'count': 1, 'per_ms': 5}} is no rate: {RATE}"),
        ("retrain", "at_most", 4, f"4 is no rate: {RATE}"),
        ("monitoring", "persistence", "2 of 3", f"'2 of 3' is no k of n: {K_OF_N}"),
        ("monitoring", "persistence", [2], f"[2] is no k of n: {K_OF_N}"),
        ("monitoring", "persistence", [True, 3], f"[True, 3] is no k of n: {K_OF_N}"),
        ("monitoring", "persistence", [50, 10_000], f"[50, 10000] is no k of n: {K_OF_N}"),
        ("monitoring", "slices", "zone", "'zone' is no list: write one, like [zone]"),
        ("monitoring", "slices", ["a"] * 9, "['a', 'a', 'a', 'a', 'a', 'a', ...] has too many: write at most 8"),
        ("retrain", "on", "data", "'data' is no list: write one, like [data]"),
        ("alerts", "rules", {"metric": "mae"}, "{'metric': 'mae'} is no list: write one, like [{'metric': 'mae'}]"),
        ("alerts", "rules", [3], "3 is no mapping: write keys, each with its value"),
        ("monitoring", "measures", ["psi"], "['psi'] is no mapping: write keys, each with its value"),
        ("monitoring", "labels_wanted", True, "True is no whole number: write one"),
        ("retrain", "new_rows", 2.5, "2.5 is no whole number: write one"),
        ("retrain", "new_rows", 0, "0 is too small: write a number of at least 1"),
        ("monitoring", "season", True, "True is no duration: write a positive number and a unit (ms, s, m, h or d), like 6h"),
        ("monitoring", "season", 7, "7 is no duration: write a positive number and a unit (ms, s, m, h or d), like 6h"),
        ("retrain", "cooldown", 1.5, "1.5 is no duration: write a positive number and a unit (ms, s, m, h or d), like 6h"),
        ("monitoring", "clear", "half", "'half' is no number: write one"),
        ("monitoring", "clear", 2, "2 is too large: write a number below 1"),
        ("retrain", "dry_run", "maybe", "'maybe' is neither true nor false: write one of them"),
        ("retrain", "schedule", 3, "3 is no text: write it in quotes, like '3'"),
        ("monitoring", "slices", ["text(request.note)"],
         "'text(request.note)' is of words, and a slice is of one value: name a feature of few values"),
    ],
)  # fmt: skip
def test_a_value_that_will_not_do_is_told_with_what_to_write(
    part: str, field: str, value: Any, said: str
) -> None:
    bad = document(part, **{field: value})
    with pytest.raises(ValidationError) as refused:
        specs.parse("Model", bad)

    [(place, sentence)] = specs.faults(refused.value, "Model", bad)
    assert place[:3] == ("spec", part, field)
    assert sentence == said


def test_numbers_that_travelled_as_doubles_are_read_as_they_were_written() -> None:
    model = specs.parse("Model", document("monitoring", persistence=[2.0, 3.0], labels_wanted=5.0))

    assert isinstance(model, specs.Model)
    assert (model.spec.monitoring.persistence, model.spec.monitoring.labels_wanted) == ((2, 3), 5)


def test_what_was_accepted_once_is_read_without_what_of_its_watch_is_refused_now() -> None:
    stored = document("monitoring", persistence=[50, 10_000], window=50)
    good, bad = {"metric": "drift", "above": 2}, {"metric": "mae", "above": 6}
    stored["spec"]["alerts"] = {"rules": [bad, good]}

    found, refused = specs.read_back("Model", stored)

    assert isinstance(found, specs.Model)
    assert [rule.metric for rule in found.spec.rules] == ["drift"]
    assert (found.spec.monitoring.window, found.spec.monitoring.persistence) == (
        50,
        MonitoringSpec().persistence,
    )
    assert {place[:3] for place, _ in refused} == {
        ("spec", "alerts", "rules"),
        ("spec", "monitoring", "persistence"),
    }
    assert stored["spec"]["alerts"]["rules"] == [bad, good]
    with pytest.raises(ValidationError):
        specs.read_back("Model", document("label", source="trips"))


def test_what_was_right_only_with_what_is_refused_now_is_left_out_with_it() -> None:
    stored = document(
        "monitoring", labelled="wanted", labels_wanted=-1, measures={"nope": "psi", "together": "classifier"}
    )
    bad, good, leaning = (
        {"metric": "drift", "feature": name, "above": 0.5} for name in ("nope", "zone", "told apart")
    )
    stored["spec"]["alerts"] = {"rules": [bad, good, leaning]}

    found, refused = specs.read_back("Model", stored)

    assert isinstance(found, specs.Model)
    assert (found.spec.monitoring, len(found.spec.rules)) == (MonitoringSpec(), 1)
    assert {place[2:4] for place, _ in refused} == {
        ("labelled",), ("labels_wanted",), ("measures", "nope"), ("rules", 0), ("rules", 2)
    }  # fmt: skip


def test_what_cannot_be_read_hides_no_fault_of_another_part() -> None:
    bad = document("monitoring", labelled="some", slices=["nope"], measures={"nope": "psi"})
    bad["spec"]["alerts"] = {"rules": [{"metric": "drift", "feature": "nope", "above": 1}]}
    with pytest.raises(ValidationError) as refused:
        specs.parse("Model", bad)

    told = {place[2:4] for place, _ in specs.faults(refused.value, "Model", bad)}

    assert told == {("labelled",), ("slices", 0), ("measures", "nope"), ("rules", 0)}
