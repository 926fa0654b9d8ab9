"""Gates that are not about one metric, from a run to what became of its version."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from trimtab_contracts.common.v1.common_pb2 import Artifact, GateResult
from trimtab_contracts.registry.v1.registry_pb2 import Latency
from trimtab_core.gating import Gate
from trimtab_registry.errors import BadSpecs
from trimtab_registry.testing import Harness, a_run, documents
from trimtab_registry.usecases.entities import Stage

BINARY: dict[str, Any] = {"task": "binary", "rollout": {}}


def rows(of: dict[str, float], count: int = 1_000) -> bytes:
    """Return an evaluation of groups, of each of which a share is selected, with certainty and half the time rightly."""
    rng = np.random.default_rng(0)
    said = np.concatenate([np.where(rng.random(count) < share, 0.9, 0.1) for share in of.values()])
    table = pa.table(
        {
            "label": np.arange(said.size) % 2.0,
            "prediction": said,
            "champion_prediction": pa.nulls(said.size, pa.float64()),
            "zone": np.repeat(list(of), count),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def took(ms: float, champion_ms: float | None = None) -> Latency:
    bounded = Latency.Bounded
    quantile = Latency.Quantile(ms=bounded(value=ms, low=ms * 0.9, high=ms * 1.1))
    if champion_ms is not None:
        quantile.champion_ms = champion_ms
        times = ms / champion_ms
        quantile.ratio.CopyFrom(bounded(value=times, low=times * 0.9, high=times * 1.1))
    return Latency(p50=quantile, p99=quantile, calls=1_000)


async def gates(registry: Harness, number: int = 1) -> tuple[Gate, ...]:
    version = await registry.store.version("minutes", number)
    assert version is not None
    return version.gates


async def test_a_model_that_selects_one_group_oftener_is_refused_with_both_rates() -> None:
    registry = Harness()
    await registry.specs.apply(
        documents(**BINARY, gates=[{"fairness": "request.zone", "of": "selection_rate", "min_ratio": 0.8}]),
        "ann",
    )
    await registry.consider("fair", content=rows({"1": 0.5, "2": 0.5}))
    await registry.consider("unfair", content=rows({"1": 0.2, "2": 0.5}))

    assert await registry.stages() == [Stage.ACCEPTED, Stage.REFUSED]
    (found,) = await gates(registry, 2)
    assert found.gate == "selection_rate between zone"
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high < found.limit == 0.8
    assert registry.events()[-1].sentence.startswith("1 of 1 gates refused it: The selection rate is 0.")


async def test_a_model_that_is_too_sure_is_refused() -> None:
    registry = Harness()
    await registry.specs.apply(
        documents(**BINARY, gates=[{"metric": "calibration_error", "at_most": 0.1}]), "ann"
    )
    await registry.consider("sure", content=rows({"1": 0.5}))

    assert await registry.stages() == [Stage.REFUSED]
    (found,) = await gates(registry)
    assert (found.gate, found.passed) == ("calibration_error at most 0.1", False)
    assert found.low is not None
    assert 0.1 < found.low < found.value < 0.5


@pytest.mark.parametrize(
    ("gate", "name", "stage"),
    [
        ({"latency": "p99", "at_most": "2ms"}, "p99 latency at most 2 ms", Stage.LIVE),
        ({"latency": "p99", "at_most": "1ms"}, "p99 latency at most 1 ms", Stage.REFUSED),
        ({"latency": "p50", "versus": "champion", "max_ratio": 3}, "p50 latency versus champion", Stage.LIVE),
        ({"latency": "p50", "versus": "champion", "max_ratio": 1.5}, "p50 latency versus champion", Stage.REFUSED),
        ({"size": "model", "at_most": "3B"}, "size at most 3 B", Stage.LIVE),
        ({"size": "model", "at_most": "2B"}, "size at most 2 B", Stage.REFUSED),
    ],
)  # fmt: skip
async def test_what_a_graph_costs_is_held_to_its_limit(gate: Any, name: str, stage: Stage) -> None:
    registry = Harness()
    await registry.apply()
    await registry.consider("first")
    await registry.serve()
    await registry.apply(gates=[gate], rollout={"strategy": "immediate"})
    await registry.consider("second", champion=1, latency=took(2.0, champion_ms=1.0))
    await registry.serve()

    assert (await registry.stages())[1] is stage
    (found,) = await gates(registry, 2)
    assert (found.gate, found.passed) == (name, stage is Stage.LIVE)
    assert f"the limit of at most {found.limit:g}" in found.sentence


async def test_what_was_not_measured_is_no_pass() -> None:
    registry = Harness()
    await registry.apply(gates=[{"latency": "p99", "at_most": "2ms"}])
    await registry.consider("first")

    assert await registry.stages() == [Stage.REFUSED]
    assert "the p99 latency was not measured: train again" in registry.events()[-1].sentence


async def test_a_champion_that_could_not_be_timed_leaves_a_comparison_unsaid() -> None:
    registry = Harness()
    await registry.apply()
    await registry.consider("first")
    await registry.serve()
    await registry.apply(gates=[{"latency": "p99", "versus": "champion", "max_ratio": 2}])
    await registry.consider("second", champion=1, latency=took(2.0))
    await registry.consider("stale", latency=took(2.0))

    assert await registry.stages() == [Stage.LIVE, Stage.REFUSED, Stage.REFUSED]
    assert "version 1, which is live, could not be timed beside it" in registry.events()[-2].sentence
    assert "p99 latency versus champion says nothing: train again" in registry.events()[-1].sentence


@pytest.mark.parametrize(("passed", "stage"), [(True, Stage.ACCEPTED), (False, Stage.REFUSED)])
async def test_what_a_behavioural_test_said_is_a_gate_of_a_model_without_others(
    passed: bool, stage: Stage
) -> None:
    registry = Harness()
    await registry.apply()
    said = GateResult(gate="test b: further", passed=passed, value=0.5, limit=0.1, sentence="It gets less.")
    await registry.consider("first", tests=[said])

    assert await registry.stages() == [stage]
    assert await gates(registry) == (Gate("test b: further", passed, 0.5, 0.1, None, None, "It gets less."),)


def a_test(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "trimtab/v1", "kind": "ModelTest", "metadata": {"name": "b"}, "spec": spec}


async def test_tests_travel_with_apply_and_need_no_topics_of_their_own() -> None:
    registry = Harness()
    direction = [{"name": "further", "change": {"request.distance": "+1"}, "never": "less"}]
    test = a_test(model="minutes", direction=direction)
    changes = await registry.specs.apply([*documents(), test], "ann")

    assert (changes[-1].kind, changes[-1].action) == ("ModelTest", "created")
    assert (await registry.specs.apply([test], "ann"))[0].action == "unchanged"
    assert (await registry.store.resource("ModelTest", "b")) is not None
    await registry.specs.provide_all()


@pytest.mark.parametrize(
    ("spec", "path", "said"),
    [
        ({"model": "hours"}, "spec.model", "'hours' is no model: apply it too, or name one of: minutes"),
        (
            {"model": "minutes", "golden": [{"name": "g", "features": {"request.distanze": 1}, "answer": 1}]},
            "spec.golden.0.features", "is no feature of model 'minutes': did you mean 'request.distance'?",
        ),
        (
            {"model": "minutes", "invariance": [{"name": "g", "change": {"request.distance": "+-1", "pace": 1}}]},
            "spec.invariance.0.change.request.distance", "'+-1' is no change of 'request.distance', a number: write",
        ),
        (
            {"model": "minutes", "invariance": [{"name": "g", "change": {"request.distance": 1}}]},
            "spec.invariance.0.change",
            "'request.distance' is changed, and 'pace', which is computed from it, is not: change both",
        ),
    ],
)  # fmt: skip
async def test_a_test_that_does_not_fit_its_model_is_a_fault(
    spec: dict[str, Any], path: str, said: str
) -> None:
    features = ["speed.*", "request.distance", "pace = request.distance / speed.minutes_mean_1d"]
    with pytest.raises(BadSpecs) as refused:
        await Harness().specs.apply([*documents(features=features), a_test(**spec)], "ann")

    ((fault),) = refused.value.faults
    assert (fault.resource, fault.path) == ("ModelTest/b", path)
    assert said in fault.sentence


async def test_a_model_that_loses_a_feature_breaks_its_tests() -> None:
    registry = Harness()
    test = a_test(model="minutes", golden=[{"name": "g", "features": {"request.distance": 1}, "answer": 1}])
    await registry.specs.apply([*documents(), test], "ann")

    with pytest.raises(BadSpecs, match=r"'request\.distance' is no feature of model 'minutes'"):
        await registry.specs.apply(documents(features=["speed.*"]), "ann")


def test_a_run_says_what_it_measured() -> None:
    run = a_run("first", latency=took(2.0), evaluation=Artifact(uri="x"))
    assert run.candidate.document["latency"]["p99"]["ms"]["value"] == 2.0
