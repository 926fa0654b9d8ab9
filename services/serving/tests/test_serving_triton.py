"""The Open Inference Protocol's door, asked by tritonclient as its own examples and perf_analyzer ask."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import pytest
from trimtab_serving import testing
from trimtab_serving.testing import Instance
from tritonclient import grpc as blocking
from tritonclient.grpc import aio as triton
from tritonclient.grpc import service_pb2 as pb2
from tritonclient.grpc import service_pb2_grpc as pb2_grpc
from tritonclient.utils import InferenceServerException

MIDNIGHT = 19_700 * 86_400_000
MODEL = testing.project().model.name


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
    assert sorted(answered.challengers[0][at] for answered, at in logged if answered.challengers) == [
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
        (
            [
                tensor("features", FEATURES, "FP32"),
                tensor("key", np.array([b"a", b"b"], np.object_), "BYTES"),
                tensor("event_time_ms", np.array([MIDNIGHT, MIDNIGHT * 1000], np.int64), "INT64"),
            ],
            "1702080000000000 in 'event_time_ms' is no time: send milliseconds",
        ),
        (
            [
                tensor("features", FEATURES, "FP32"),
                tensor("key", np.array([b"a", b"b" * 5_000], np.object_), "BYTES"),
            ],
            "a value of 'key' has 5000 characters: send 4000 at most",
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


Answers = SimpleQueue[tuple[blocking.InferResult | None, InferenceServerException | None]]


@contextmanager
def streaming(address: str) -> Iterator[tuple[blocking.InferenceServerClient, Answers]]:
    """Open a stream as tritonclient's examples do, and put what it is told into a queue."""
    told: Answers = SimpleQueue()
    with blocking.InferenceServerClient(address) as client:
        client.start_stream(callback=lambda result, error: told.put((result, error)))
        yield client, told
        client.stop_stream()


async def test_a_stream_answers_in_order_and_outlives_a_request_that_fails(address: str) -> None:
    wide = np.zeros((1, 9), np.float32)

    def ask() -> list[tuple[Any, Any]]:
        with streaming(address) as (client, told):
            for number in range(20):
                features = wide if number == 7 else np.full((1, 3), number, np.float32)
                client.async_stream_infer(
                    MODEL, [tensor("features", features, "FP32")], request_id=str(number)
                )
            return [told.get(timeout=60) for _ in range(20)]

    answers = await asyncio.to_thread(ask)

    said = [float(result.as_numpy("prediction")[0]) for result, error in answers if error is None]
    assert said == [11 * number for number in range(20) if number != 7]
    ids = [result.get_response().id for result, error in answers if error is None]
    assert ids == [str(number) for number in range(20) if number != 7]
    assert "the model takes [rows, 3]" in answers[7][1].message()
    assert answers[0][0].get_response().parameters["triton_final_response"].bool_param


async def test_an_asynchronous_stream_is_answered_too(address: str) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for version in ("", "2", "9"):
            yield {
                "model_name": MODEL,
                "inputs": [tensor("features", FEATURES, "FP32")],
                "model_version": version,
            }

    async with triton.InferenceServerClient(address) as client:
        found = [each async for each in client.stream_infer(requests())]

    assert [result.get_response().model_version for result, error in found[:2]] == ["1", "2"]
    assert "version 9" in found[2][1].message()


async def test_the_examples_of_tritonclient_work_unchanged(address: str) -> None:
    def ask() -> tuple[list[float], list[float]]:
        with blocking.InferenceServerClient(address) as client:
            inputs = [blocking.InferInput("features", [2, 3], "FP32")]
            inputs[0].set_data_from_numpy(FEATURES)
            outputs = [blocking.InferRequestedOutput("prediction")]
            told: Answers = SimpleQueue()
            client.async_infer(
                model_name=MODEL,
                inputs=inputs,
                outputs=outputs,
                callback=lambda result, error: told.put((result, error)),
            )
            waited, error = told.get(timeout=60)
            assert error is None and waited is not None
            result = client.infer(
                MODEL,
                inputs,
                outputs=outputs,
                client_timeout=30,
                headers={"trace": "1"},
                compression_algorithm="gzip",
            )
            return waited.as_numpy("prediction").tolist(), result.as_numpy("prediction").tolist()

    assert await asyncio.to_thread(ask) == ([31, 4], [31, 4])


async def test_what_a_server_offers_can_be_asked(address: str, instance: Instance) -> None:
    await instance.hear(testing.spec(testing.project("-new").model))
    async with triton.InferenceServerClient(address) as client:
        metadata = await client.get_server_metadata()
        everything = (await client.get_model_repository_index()).models
        assert not await client.is_model_ready("nobody")

    assert set(metadata.extensions) >= {"model_configuration", "model_repository", "statistics"}
    assert [(each.name, each.version, each.state) for each in everything] == [
        (MODEL, "1", "READY"),
        (MODEL, "2", "READY"),
        (MODEL, "3", "READY"),
        ("minutes-new", "", "UNAVAILABLE"),
    ]
    assert "has no live version" in everything[3].reason


async def test_statistics_count_rows_requests_and_failures_by_version(address: str) -> None:
    async with triton.InferenceServerClient(address) as client:
        for _ in range(3):
            await client.infer(MODEL, [tensor("features", FEATURES, "FP32")])
        await client.infer(MODEL, [tensor("features", FEATURES[:1], "FP32")], model_version="2")
        with pytest.raises(InferenceServerException):
            await client.infer(MODEL, [tensor("pixels", FEATURES, "FP32")])
        found = {each.version: each for each in (await client.get_inference_statistics(MODEL)).model_stats}
        (second,) = (await client.get_inference_statistics(MODEL, "2")).model_stats
        everything = (await client.get_inference_statistics()).model_stats
        with pytest.raises(InferenceServerException, match="there is no model 'nobody'"):
            await client.get_inference_statistics("nobody")

    counted = [(found[version].inference_count, found[version].execution_count) for version in "123"]
    assert counted == [(6, 3), (1, 1), (0, 0)]
    assert [found["1"].inference_stats.success.count, found["1"].inference_stats.fail.count] == [3, 1]
    assert found["1"].inference_stats.success.ns > 0
    assert found["1"].last_inference >= 1_700_000_000_000
    assert second == found["2"]
    assert list(everything) == [found[version] for version in "123"]


async def test_what_is_loaded_is_the_registrys_to_say(address: str, instance: Instance) -> None:
    await instance.hear(testing.spec(testing.project("-new").model))
    async with triton.InferenceServerClient(address) as client:
        await client.load_model(MODEL)
        for call, sentence in (
            (client.load_model(MODEL, config="{}"), "the registry decides how it is loaded"),
            (client.load_model("minutes-new"), "has no live version"),
            (client.load_model("nobody"), "there is no model 'nobody'"),
            (client.unload_model(MODEL), "by `trimtab model retire minutes`"),
        ):
            with pytest.raises(InferenceServerException, match=sentence):
                await call
        assert await client.is_model_ready(MODEL)


async def test_the_arm_is_told_to_those_who_bring_a_key(address: str) -> None:
    inputs = [
        tensor("features", FEATURES, "FP32"),
        tensor("key", np.array([b"a", b"b"], np.object_), "BYTES"),
    ]
    async with triton.InferenceServerClient(address) as client:
        keyed = (await client.infer(MODEL, inputs)).get_response()
        alone = (await client.infer(MODEL, inputs[:1])).get_response()

    assert keyed.parameters["arm"].string_param == "champion"
    assert "arm" not in alone.parameters


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (triton.InferRequestedOutput("OUTPUT0"), "gives no output 'OUTPUT0': ask for prediction"),
        (triton.InferRequestedOutput("prediction", class_count=3), "is asked for with ['classification']"),
    ],
)
async def test_an_output_that_is_not_given_is_named(
    address: str, output: triton.InferRequestedOutput, sentence: str
) -> None:
    async with triton.InferenceServerClient(address) as client:
        with pytest.raises(InferenceServerException) as caught:
            await client.infer(MODEL, [tensor("features", FEATURES, "FP32")], outputs=[output])
    assert sentence in caught.value.message()


async def test_shared_memory_is_refused_in_a_sentence(address: str) -> None:
    shared = triton.InferInput("features", [1, 3], "FP32")
    shared.set_shared_memory("region", 12)
    async with triton.InferenceServerClient(address) as client:
        with pytest.raises(InferenceServerException, match="in shared memory, which is not read"):
            await client.infer(MODEL, [shared])
