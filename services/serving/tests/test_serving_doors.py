"""Both doors over a real socket, on an instance without Kafka."""

import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from trimtab_contracts.registry.v1.registry_pb2 import Rollout
from trimtab_contracts.serving.v1.serving_pb2 import ExplainRequest, PredictRequest, ScoreRequest
from trimtab_contracts.serving.v1.serving_pb2_grpc import PredictionStub
from trimtab_core.slots import FoldState, Layout
from trimtab_runtime import door, telemetry
from trimtab_runtime.clock import iso, to_timestamp
from trimtab_serving import grpc_api, oip_api, testing
from trimtab_serving.app import register
from trimtab_serving.testing import Instance
from trimtab_stack import ports
from tritonclient.grpc import aio as triton
from tritonclient.grpc import service_pb2 as pb2
from tritonclient.grpc import service_pb2_grpc as pb2_grpc
from tritonclient.utils import InferenceServerException

DAY = 86_400_000
MIDNIGHT = 19_700 * DAY
PROJECT = testing.project()
MODEL = PROJECT.model.name
WEIGHTS = {1: [1.0, 0.0, 10.0], 2: [2.0, 0.0, 10.0], 3: [3.0, 0.0, 10.0]}


@pytest.fixture
async def instance(tmp_path: Path) -> AsyncIterator[Instance]:
    """Version 1 is live, version 2 on trial and answers nobody; zone 7 did 20 mph yesterday."""
    made = Instance(tmp_path / "state")
    fold = FoldState(Layout.of(PROJECT.speed.spec, PROJECT.dropoffs.spec.lateness))
    fold.fold(["7", "7"], np.array([MIDNIGHT, MIDNIGHT + 1]), np.array([[10.0], [30.0]]))
    versions = {
        number: testing.version(tmp_path, number, PROJECT.features, testing.linear_model(weights))
        for number, weights in WEIGHTS.items()
    }
    await made.hear(
        *PROJECT.specs,
        *testing.features(PROJECT.speed.name, fold, MIDNIGHT + DAY, 2),
        testing.deployment(
            MODEL,
            1,
            versions[1],
            challenger=versions[2],
            previous=versions[3],
            rollout=Rollout(id="r", strategy="canary", share=0),
        ),
    )
    yield made
    made.close()


@pytest.fixture
async def address(instance: Instance) -> AsyncIterator[str]:
    where = f"127.0.0.1:{ports.choose()}"
    add = partial(register, instance.predictions, instance.board)
    names = [grpc_api.SERVICE, oip_api.SERVICE]
    async with door.serving(where, add, names, threads=2, max_waiting=64) as set_ready:
        instance.board.ready = True
        set_ready(True)
        yield where


@pytest.fixture
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address) as opened:
        yield opened


def row(trip: str = "t", *, zone: int | None = 7, hours: int = 6, **fields: Any) -> bytes:
    at = iso(MIDNIGHT + hours * 3_600_000)
    return json.dumps({"trip": trip, "at": at, "zone": zone, "distance": 2.5} | fields).encode()


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_a_prediction_joins_the_features_of_the_rows_event_time(channel: grpc.aio.Channel) -> None:
    rows = [row("a"), row("b", hours=5), row("c", zone=9), row("d", zone=None)]

    answer = await PredictionStub(channel).Predict(PredictRequest(model=MODEL, rows=rows))

    # Before six in the morning the slot of midnight is not complete, and nobody drove in zone 9.
    assert list(answer.predictions) == [2.5 + 10 * 20, 2.5, 2.5, 2.5]
    assert list(answer.versions) == [1, 1, 1, 1]
    assert len(set(answer.ids)) == 4
    assert answer.features_until == to_timestamp(MIDNIGHT + DAY)


async def test_a_version_without_a_reference_is_not_explained(channel: grpc.aio.Channel) -> None:
    call = PredictionStub(channel).Explain(ExplainRequest(model=MODEL, rows=[row()]))

    assert await refused(call) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        f"version 1 of model '{MODEL}' has no reference rows to explain against: train it again, or register it with some",
    )


async def test_a_pinned_version_answers_and_is_not_logged(
    channel: grpc.aio.Channel, instance: Instance
) -> None:
    answer = await PredictionStub(channel).Predict(PredictRequest(model=MODEL, rows=[row()], version=3))

    assert list(answer.predictions) == [7.5 + 200]
    assert list(answer.versions) == [3]
    assert not any(batch.rows for batch in instance.log.drain([MODEL]))


async def test_features_of_views_may_be_given_for_a_pinned_version_all_of_them_and_a_value_each_row(
    channel: grpc.aio.Channel,
) -> None:
    def asked(version: int, *values: float) -> Any:
        given = [f"{PROJECT.speed.name}.mph_mean_1d"]
        request = PredictRequest(model=MODEL, rows=[row()], version=version, given=given, given_values=values)
        return PredictionStub(channel).Predict(request)

    assert list((await asked(3, 50)).predictions) == [7.5 + 500]
    assert (await refused(asked(0, 50)))[1].startswith("features are given and no version is pinned")
    assert (await refused(asked(3, 50, 60)))[1].startswith("there are 2 given values, and 1 rows of 1")


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (b"{", "no JSON object"),
        (b"[1]", "no JSON object"),
        (row(distance="far"), "distance 'far' is no number"),
        (row(distance=101), "distance 101 is outside"),
        (row(at="yesterday"), "at 'yesterday' is no time"),
        (json.dumps({"trip": "t", "at": iso(MIDNIGHT)}).encode(), "distance None is missing"),
    ],
)
async def test_a_row_that_is_not_of_the_source_is_refused_by_name(
    channel: grpc.aio.Channel, bad: bytes, sentence: str
) -> None:
    code, details = await refused(
        PredictionStub(channel).Predict(PredictRequest(model=MODEL, rows=[row(), bad]))
    )

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert f"row 1 of the request for model '{MODEL}'" in details
    assert sentence in details


async def test_what_is_not_there_is_named_with_the_status_that_fits(
    channel: grpc.aio.Channel, instance: Instance
) -> None:
    predict = PredictionStub(channel).Predict
    await instance.hear(testing.spec(testing.project("-new").model))

    assert await refused(predict(PredictRequest(model="nobody", rows=[row()]))) == (
        grpc.StatusCode.NOT_FOUND,
        "there is no model 'nobody': apply its spec first, or look at `trimtab get models`",
    )
    code, details = await refused(predict(PredictRequest(model="minutes-new", rows=[row()])))
    assert (code, "has no live version" in details) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    code, details = await refused(predict(PredictRequest(model=MODEL, rows=[row()], version=9)))
    assert (code, "pin one of 1, 2, 3" in details) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    code, details = await refused(predict(PredictRequest(model=MODEL)))
    assert (code, "has no rows" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)


async def test_health_and_reflection_are_on_the_same_port(channel: grpc.aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", grpc_api.SERVICE, oip_api.SERVICE):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    async for answer in stub.ServerReflectionInfo(asked):
        listed = {service.name for service in answer.list_services_response.service}
    assert {grpc_api.SERVICE, oip_api.SERVICE} <= listed


async def test_a_call_that_is_not_offered_says_so(channel: grpc.aio.Channel) -> None:
    stub = pb2_grpc.GRPCInferenceServiceStub(channel)

    code, details = await refused(stub.RepositoryIndex(pb2.RepositoryIndexRequest()))

    assert (code, "is not offered" in details) == (grpc.StatusCode.UNIMPLEMENTED, True)


async def test_a_fault_of_ours_is_not_the_callers(
    channel: grpc.aio.Channel, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance.board, "current", None)

    code, _ = await refused(PredictionStub(channel).Predict(PredictRequest(model=MODEL, rows=[row()])))

    assert code is grpc.StatusCode.INTERNAL


async def test_a_call_that_carries_a_trace_is_answered_within_it(
    channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, Any]] = []
    span = telemetry.span
    monkeypatch.setattr(
        telemetry, "span", lambda name, **rest: (opened.append((name, rest["parent"])), span(name, **rest))[1]
    )
    request, trace = PredictRequest(model=MODEL, rows=[row()]), "00-" + "a" * 32 + "-" + "b" * 16 + "-01"

    await PredictionStub(channel).Predict(request)
    await PredictionStub(channel).Predict(request, metadata=[("traceparent", trace)])

    assert opened == [("/trimtab.serving.v1.Prediction/Predict", trace)]


def tensor(name: str, values: np.ndarray[Any, Any], datatype: str) -> triton.InferInput:
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


FEATURES = np.array([[1, 2, 3], [4, 5, np.nan]], np.float32)


async def test_a_triton_client_gets_its_answer_from_the_version_that_it_names(address: str) -> None:
    async with triton.InferenceServerClient(address) as client:
        live = await client.infer(MODEL, [tensor("features", FEATURES, "FP32")], request_id="mine")
        pinned = await client.infer(MODEL, [tensor("features", FEATURES, "FP32")], model_version="3")

    np.testing.assert_array_equal(live.as_numpy("prediction"), [31, 4])
    np.testing.assert_array_equal(pinned.as_numpy("prediction"), [33, 12])
    assert (live.get_response().model_version, live.get_response().id) == ("1", "mine")
    assert pinned.get_response().model_version == "3"


async def test_typed_inputs_are_answered_like_raw_ones(channel: grpc.aio.Channel) -> None:
    request = pb2.ModelInferRequest(model_name=MODEL)
    declared = request.inputs.add(name="features", datatype="FP32", shape=[2, 3])
    declared.contents.fp32_contents.extend(FEATURES.ravel().tolist())

    answer = await pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)

    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [31, 4]
    assert (answer.outputs[0].name, answer.outputs[0].datatype, list(answer.outputs[0].shape)) == (
        "prediction",
        "FP32",
        [2],
    )


async def test_a_triton_client_with_a_key_takes_part_in_the_rollout_and_is_logged(
    address: str, instance: Instance
) -> None:
    keys = np.array([b"one", b"two"], np.object_)
    times = np.array([MIDNIGHT, MIDNIGHT + 5], np.int64)
    inputs = [
        tensor("features", FEATURES, "FP32"),
        tensor("key", keys, "BYTES"),
        tensor("event_time_ms", times, "INT64"),
    ]
    async with triton.InferenceServerClient(address) as client:
        await client.infer(MODEL, inputs)

    logged = [(answered, at) for batch in instance.log.drain([]) for answered, at in batch.rows]
    assert sorted(answered.keys[at] for answered, at in logged) == ["one", "two"]
    assert sorted(answered.event_time_ms[at] for answered, at in logged) == times.tolist()
    assert sorted(answered.challenger[at] for answered, at in logged if answered.challenger is not None) == [
        8,
        32,
    ]


async def test_everything_perf_analyzer_asks_before_it_starts_is_answered(address: str) -> None:
    async with triton.InferenceServerClient(address) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready(MODEL)
        assert await client.is_model_ready(MODEL, "2")
        assert not await client.is_model_ready(MODEL, "9")
        assert (await client.get_server_metadata()).name == "trimtab"
        metadata = await client.get_model_metadata(MODEL)
        config = (await client.get_model_config(MODEL)).config

    first = metadata.inputs[0]
    assert (first.name, first.datatype, list(first.shape)) == ("features", "FP32", [-1, 3])
    assert list(metadata.versions) == ["1", "2", "3"]
    assert [(each.name, each.optional) for each in config.input] == [
        ("features", False),
        ("key", True),
        ("event_time_ms", True),
    ]


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ([tensor("features", FEATURES[:, :2].copy(), "FP32")], r"the model takes \[rows, 3\]"),
        ([tensor("pixels", FEATURES, "FP32")], "takes no input 'pixels'"),
        ([tensor("key", np.array([b"a"], np.object_), "BYTES")], "no rows in an input 'features'"),
        (
            [tensor("features", FEATURES, "FP32"), tensor("key", np.array([b"a"], np.object_), "BYTES")],
            "2 rows came with 1 values of 'key'",
        ),
    ],
)
async def test_a_tensor_that_does_not_fit_is_named(
    address: str, inputs: list[triton.InferInput], sentence: str
) -> None:
    async with triton.InferenceServerClient(address) as client:
        with pytest.raises(InferenceServerException, match=sentence) as caught:
            await client.infer(MODEL, inputs)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


async def test_rows_of_named_features_are_answered_in_whatever_order_and_nothing_is_logged(
    channel: grpc.aio.Channel, instance: Instance
) -> None:
    score = PredictionStub(channel).Score
    names = [*reversed(PROJECT.features), "another"]
    rows = np.array([[30.0, 0.0, 1.0, 9.0], [40.0, 0.0, 2.0, 9.0]], np.float32)
    request = ScoreRequest(model=MODEL, features=names, values=rows.ravel().tolist())

    live = await score(request)
    request.version = 3
    pinned = await score(request)

    weights = np.array(WEIGHTS[1])
    assert (live.version, pinned.version) == (1, 3)
    assert list(live.predictions) == pytest.approx((rows[:, 2::-1] @ weights).tolist())
    assert list(pinned.predictions) == pytest.approx((rows[:, 2::-1] @ np.array(WEIGHTS[3])).tolist())

    code, said = await refused(score(ScoreRequest(model=MODEL, features=["another"], values=[1.0])))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "which is not among the features: add it" in said
    code, said = await refused(score(ScoreRequest(model=MODEL, features=names, values=[1.0])))
    assert said == "1 values make no rows of 4 features: send one of each for each row"
