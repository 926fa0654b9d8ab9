"""Both doors over a real socket, on an instance without Kafka."""

import json
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from trimtab_contracts.serving.v1.serving_pb2 import ExplainRequest, PredictRequest, ScoreRequest
from trimtab_contracts.serving.v1.serving_pb2_grpc import PredictionStub
from trimtab_runtime import rpc, telemetry
from trimtab_runtime.clock import iso, to_timestamp
from trimtab_runtime.errors import Overloaded
from trimtab_runtime.testing import eventually
from trimtab_serving import grpc_api, oip_api, rows, testing
from trimtab_serving.explaining import Explanations
from trimtab_serving.testing import Instance
from tritonclient.grpc import service_pb2 as pb2
from tritonclient.grpc import service_pb2_grpc as pb2_grpc

HOUR, DAY = 3_600_000, 86_400_000
MIDNIGHT = 19_700 * DAY
PROJECT = testing.project()
MODEL = PROJECT.model.name
WEIGHTS = {1: [1.0, 0.0, 10.0], 2: [2.0, 0.0, 10.0], 3: [3.0, 0.0, 10.0]}


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
    assert list(answer.arms) == ["champion"] * 4
    assert (list(answer.views), list(answer.until_ms)) == ([PROJECT.speed.name], [MIDNIGHT + DAY])
    boundary = MIDNIGHT + 6 * HOUR
    assert list(answer.as_of_ms) == [boundary, MIDNIGHT, boundary, boundary]


async def test_a_row_that_is_larger_than_any_source_takes_is_refused(
    channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MOST_ROW_BYTES", 1_000)
    asked = PredictRequest(model=MODEL, rows=[row(), row("t" * 1_000)])

    code, said = await refused(PredictionStub(channel).Predict(asked))

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "bytes: send 1000 at most" in said


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
    assert (list(answer.versions), list(answer.arms), len(answer.views)) == ([3], [], 1)
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

    code, details = await refused(stub.TraceSetting(pb2.TraceSettingRequest()))

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


async def test_a_stream_answers_in_order_and_outlives_a_request_that_fails(
    channel: grpc.aio.Channel, instance: Instance
) -> None:
    requests = [PredictRequest(model=MODEL, rows=[row(f"t{number}", distance=number)]) for number in range(9)]
    requests[3] = PredictRequest(model=MODEL, rows=[b"{"])
    requests[4] = PredictRequest(model="nobody", rows=[row()])
    stream = PredictionStub(channel).PredictStream(iter(requests))

    found = [each async for each in stream]

    assert [each.failure.code for each in found if each.HasField("failure")] == [3, 5]
    assert "row 0 of the request" in found[3].failure.message
    said = [each.answer.predictions[0] for each in found if each.HasField("answer")]
    assert said == [number + 200 for number in range(9) if number not in (3, 4)]
    logged = [answered.keys[at] for batch in instance.log.drain([]) for answered, at in batch.rows]
    assert sorted(logged) == [f"t{number}" for number in range(9) if number not in (3, 4)]


async def test_a_stream_takes_no_request_before_the_last_is_answered(instance: Instance) -> None:
    taken: list[int] = []

    def requests() -> Iterator[PredictRequest]:
        for number in range(9):
            taken.append(number)
            yield PredictRequest(model=MODEL, rows=[row()])

    api = grpc_api.PredictionApi(instance.predictions, Explanations(instance.board))
    answers = api.PredictStream(requests(), None)

    for number in range(3):
        assert next(answers).answer.predictions[0] == 202.5
        assert taken == list(range(number + 1))


async def test_a_stream_too_many_is_told_when_to_come_again(channel: grpc.aio.Channel) -> None:
    request, predict = PredictRequest(model=MODEL, rows=[row()]), PredictionStub(channel).PredictStream
    opened = [predict() for _ in range(64)]
    for stream in opened:
        await stream.write(request)
        assert (await stream.read()).answer.predictions[0] == 202.5

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await predict().read()

    error = rpc.error_of(refusal.value)
    assert isinstance(error, Overloaded)
    assert "64 streams are open already" in str(error)
    assert error.retry_after_s == 1
    for stream in opened:
        stream.cancel()

    async def has_room() -> bool:
        try:
            return bool((await predict(iter([request])).read()).answer.ids)
        except grpc.aio.AioRpcError:
            return False

    await eventually(has_room)
