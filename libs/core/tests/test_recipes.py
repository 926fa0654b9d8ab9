"""What a model is made of, and what is not part of that."""

from typing import Any

import pytest
from trimtab_core.recipes import difference, recipe
from trimtab_core.specs import ModelSpec


def a_spec(trainer: dict[str, Any] | None = None, **changes: Any) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "task": "regression",
            "source": "trips",
            "features": ["request.x", "hour(at)"],
            "label": {"source": "trips", "on": "id", "value": "y", "within": "1h"},
            "rollout": {"cap": 10},
            "trainer": {"window": "30d", "kind": "linear", **(trainer or {})},
            **changes,
        }
    )


@pytest.mark.parametrize(
    "same",
    [
        a_spec({"timeout": "1h", "memory_mb": 900, "holdout": 0.3, "min_rows": 500}),
        a_spec({"seed": 0}),  # as it is anyway
        a_spec(gates=[{"metric": "mae", "at_most": 6}], monitoring={"window": 100}),
        a_spec({"judging": "full", "after_drift": {"min_rows": 50}}),
        a_spec(retrain={"new_rows": 10}, rollout={"cap": 11, "strategy": "immediate"}),
        a_spec(
            card={"purpose": "to plan"}, evidence={"learning_curve": True}, alerts={"at_least": "critical"}
        ),
    ],
)
def test_how_a_model_is_judged_watched_told_of_and_run_is_no_part_of_its_recipe(same: ModelSpec) -> None:
    assert difference(recipe(a_spec()), recipe(same)) is None


@pytest.mark.parametrize("search", [{}, {"budget": "2m", "at_once": 8}])
def test_what_a_search_may_use_up_is_no_part_of_it(search: dict[str, Any]) -> None:
    assert recipe(a_spec({"kind": "auto"})) == recipe(a_spec({"kind": "auto", "search": search}))
    trials = [recipe(a_spec({"kind": "auto", "search": {"trials": 9, **more}})) for more in ({}, search)]
    assert trials[0] == trials[1] != recipe(a_spec({"kind": "auto"}))


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (a_spec({"seed": 1}), "trainer"),
        (a_spec({"window": "31d"}), "trainer"),
        (a_spec({"parameters": {"alpha": 2}}), "trainer"),
        (a_spec({"kind": "own", "wheel": f"own.whl@sha256:{64 * 'a'}"}), "trainer"),
        (a_spec(rollout={"cap": 10, "judge": "rmse"}), "trainer"),  # a fit follows what it is judged by
        (a_spec(features=["request.x"]), "spec"),
        (a_spec(features=["hour(at)", "request.x"]), "spec"),
        (a_spec(label={"source": "trips", "on": "id", "value": "y", "within": "2h"}), "spec"),
        (a_spec({"seed": 1}, features=["request.x"]), "spec"),
    ],
)
def test_what_a_model_is_made_of_is(other: ModelSpec, what: str) -> None:
    assert difference(recipe(a_spec()), recipe(other)) == what
