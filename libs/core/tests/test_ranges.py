"""What a search may try: three forms, each fault in a sentence at its place."""

import json
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from pydantic import ValidationError
from trimtab_core import specs
from trimtab_core.ranges import Range, parse_range


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"min": 0.01, "max": 0.3, "log": True}, Range(0.01, 0.3, log=True)),
        ({"min": 50.0, "max": 400.0}, Range(50, 400)),
        ({"min": 1, "max": 2.5}, Range(1, 2.5)),
        (["gini", "entropy"], Range(choices=("gini", "entropy"))),
        ([1.0, "sqrt"], Range(choices=(1.0, "sqrt"))),
        (7, Range(choices=(7,))),
        (False, Range(choices=(False,))),
    ],
)
def test_a_range_is_read_and_written_back(written: Any, read: Range) -> None:
    assert parse_range(written) == read
    assert parse_range(read.plain) == read
    assert repr(parse_range(json.loads(json.dumps(read.plain)))) == repr(read)


def test_a_range_is_of_whole_numbers_if_its_ends_are() -> None:
    assert parse_range({"min": 1.0, "max": 3.0}).whole
    assert not parse_range({"min": 1, "max": 3.5}).whole


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"min": 3, "max": 1}, "min 3 is not under max 1: write the lower first, or the value alone"),
        ({"min": 0, "max": 1, "log": True}, "min 0 has no logarithm: raise it above 0, or leave log out"),
        ({"min": 1, "max": 2, "log": "yes"}, "log: 'yes' is neither true nor false"),
        ({"min": 1}, r"\{'min': 1\} is no range of a parameter: write \{min: 0.01, max: 0.3\}"),
        ({"min": 1, "max": 2, "step": 3}, "is no range of a parameter"),
        ({"min": True, "max": 2}, "is no range of a parameter"),
        ({"min": 1, "max": float("inf")}, "is no range of a parameter"),
        ([], "an empty list leaves nothing to try"),
        ([[1], 2], "is no range of a parameter"),
        (None, "None is no range of a parameter"),
        ([1, 2, 1], "names a choice twice"),
    ],
)
def test_what_is_no_range_is_refused_with_the_form_of_one(written: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_range(written)


def a_model(**trainer: Any) -> dict[str, Any]:
    spec = {
        "task": "regression",
        "source": "t",
        "features": ["request.x"],
        "label": {"source": "t", "on": "id", "value": "y", "within": "1h"},
        "rollout": {"cap": 10},
        "trainer": {"window": "30d", **trainer},
    }
    return {"metadata": {"name": "m"}, "spec": spec}


ALPHA = {"linear": {"alpha": {"min": 1, "max": 9}}}


@pytest.mark.parametrize(
    ("trainer", "place", "said"),
    [
        ({"memory_mb": 511}, "memory_mb", "511 is too little for any fit"),
        ({"kind": "linear", "search": {}}, "search", "kind linear is not searched for: write kind: auto"),
        ({"kind": "auto", "parameters": {"alpha": 1}}, "parameters", "alpha of which family?"),
        (
            {"kind": "auto", "search": {"budget": "15m"}},
            "search.budget",
            "15m leaves nothing of trainer.timeout, 15m, for the fits that follow",
        ),
        (
            {"kind": "auto", "search": {"families": ["xgboost"], "parameters": ALPHA}},
            "search.parameters.linear",
            "linear is not among the families, xgboost",
        ),
        ({"kind": "auto", "search": {"families": ["linear", "linear"]}}, "search.families.1", "named twice"),
        (
            {"kind": "auto", "search": {"families": ["forest"]}},
            "search.families.0",
            "'forest' is not allowed",
        ),
        (
            {"kind": "auto", "search": {"parameters": {"linear": {"alpha": {"min": 2, "max": 1}}}}},
            "search.parameters.linear.alpha",
            "min 2 is not under max 1",
        ),
    ],
)
def test_what_is_wrong_with_a_search_is_said_at_its_place(trainer: Any, place: str, said: str) -> None:
    document = a_model(**trainer)
    with pytest.raises(ValidationError) as refused:
        specs.parse("Model", document)

    [(where, sentence)] = specs.faults(refused.value, "Model", document)
    assert ".".join(map(str, where)) == f"spec.trainer.{place}"
    assert said in sentence


def test_a_search_that_has_travelled_as_json_is_the_same() -> None:
    searched = {"trials": 5, "budget": "3m", "parameters": {**ALPHA, "xgboost": {"max_depth": [3, 4]}}}
    model = specs.parse("Model", a_model(kind="auto", search=searched))

    travelled = json_format.MessageToDict(json_format.ParseDict(specs.to_document(model), Struct()))

    assert specs.parse("Model", travelled) == model
