"""A model of classes, and one of texts: what is answered by both doors, and what is logged."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest
from onnx import TensorProto, helper
from trimtab_contracts.registry.v1.registry_pb2 import Rollout, VersionRef
from trimtab_contracts.serving.v1.serving_pb2 import (
    ExplainRequest,
    PredictRequest,
    PredictResponse,
    ScoreRequest,
)
from trimtab_contracts.serving.v1.serving_pb2_grpc import PredictionStub
from trimtab_contracts.topics import PREDICTIONS
from trimtab_core import specs
from trimtab_runtime import door
from trimtab_runtime.clock import ManualClock
from trimtab_serving import carrying, grpc_api, oip_api, testing, versions
from trimtab_serving.app import register
from trimtab_serving.errors import BadRow, BadTensor, CannotServe
from trimtab_serving.explaining import Explanations
from trimtab_serving.messages import Messages
from trimtab_serving.testing import Instance
from trimtab_stack import ports
from trimtab_training import export, signature
from tritonclient.grpc import InferInput
from tritonclient.grpc import aio as triton
from tritonclient.grpc import service_pb2 as pb2

CLASSES = ("slow", "fair", "quick")
LABEL = {"source": "dropoffs", "on": "trip", "value": "zone", "within": "4h", "classes": CLASSES}
PROJECT = testing.project(task="multiclass", features=["request.distance"], label=LABEL, rollout={})
MODEL = PROJECT.model.name
FEATURES = ("request.distance",)
CHAMPION = [[-1.0, 0.0, 1.0]]
CHALLENGER = [[1.0, 0.0, -1.0, 9.0]]
"""It knows a class more."""


@pytest.fixture
async def instance(tmp_path: Path) -> AsyncIterator[Instance]:
    made = Instance(tmp_path / "state")
    await made.hear(*PROJECT.specs)
    yield made
    made.close()


def champion(folder: Path) -> VersionRef:
    return testing.version(folder, 1, FEATURES, testing.classifier(CHAMPION), classes=CLASSES)


async def on_trial(instance: Instance, folder: Path, share: int) -> None:
    wider = testing.version(folder, 2, FEATURES, testing.classifier(CHALLENGER), classes=(*CLASSES, "absent"))
    rollout = Rollout(id="r", strategy="canary", share=share)
    await instance.hear(testing.deployment(MODEL, 2, champion(folder), challenger=wider, rollout=rollout))


def ask(instance: Instance, *distances: float, trips: Sequence[Any] = ("t0", "t1")) -> PredictResponse:
    rows = [
        json.dumps({"trip": trip, "at": "2024-01-01T00:00:00Z", "zone": 7, "distance": distance}).encode()
        for trip, distance in zip(trips, distances, strict=False)
    ]
    api = grpc_api.PredictionApi(instance.predictions, Explanations(instance.board))
    return api.Predict(PredictRequest(model=MODEL, rows=rows), None)


def logged(instance: Instance) -> list[Any]:
    made = Messages("serving-0", ManualClock(0))
    batches = [made.predictions(batch).value for batch in instance.log.drain([]) if batch.rows]
    return [PREDICTIONS.decode(value) for value in batches if value]


def softmax(*scores: float) -> Any:
    raised = np.exp(scores)
    return pytest.approx(raised / raised.sum(), rel=1e-5)


async def test_an_answer_names_the_class_and_gives_all_chances(instance: Instance, tmp_path: Path) -> None:
    await instance.hear(testing.deployment(MODEL, 1, champion(tmp_path)))

    answer = ask(instance, 2.0, 0.0)

    assert list(answer.classes) == ["quick", "slow"]
    assert list(answer.class_names) == list(CLASSES)
    assert list(answer.predictions) == [2, 0]
    assert list(answer.probabilities[:3]) == softmax(-2, 0, 2)
    found = logged(instance)
    assert {(*batch.classes,) for batch in found} == {CLASSES}
    chances = [chance for batch in found for chance in batch.champion_probabilities]
    assert sorted(chances) == pytest.approx(sorted(answer.probabilities))
    assert sorted(said for batch in found for said in batch.champion) == [0, 2]
    assert not any(batch.challenger_probabilities for batch in found)


@pytest.mark.parametrize(("share", "said"), [(0, "quick"), (100, "absent")])
async def test_a_challenger_may_know_a_class_more(
    instance: Instance, tmp_path: Path, share: int, said: str
) -> None:
    await on_trial(instance, tmp_path, share)

    answer = ask(instance, 2.0)

    assert (list(answer.classes), list(answer.versions)) == ([said], [2 if share else 1])
    assert list(answer.class_names) == [*CLASSES, "absent"]
    (batch,) = logged(instance)
    assert list(batch.champion_probabilities) == softmax(-2, 0, 2, -np.inf)
    assert list(batch.challenger_probabilities) == softmax(2, 0, -2, 18)
    assert (list(batch.champion), list(batch.challenger)) == ([2], [3])


async def test_a_challenger_without_an_answer_is_logged_as_having_none(
    instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await on_trial(instance, tmp_path, 100)
    run = versions.Version.run
    # A session that is handed nothing raises, as one does that has come to harm.
    monkeypatch.setattr(
        versions.Version, "run", lambda it, *asked: run(it, *(asked if it.number == 1 else [None]))
    )

    answer = ask(instance, 2.0)

    assert (list(answer.classes), list(answer.versions)) == (["quick"], [1])
    (batch,) = logged(instance)
    assert np.isnan([*batch.challenger, *batch.challenger_probabilities]).all()


async def test_a_triton_client_gets_both_outputs(instance: Instance, tmp_path: Path) -> None:
    await instance.hear(testing.deployment(MODEL, 1, champion(tmp_path)))
    where = f"127.0.0.1:{ports.choose()}"
    add, names = partial(register, instance.predictions, instance.board), [grpc_api.SERVICE, oip_api.SERVICE]
    async with door.serving(where, add, names, threads=2, max_waiting=64) as set_ready:
        set_ready(True)
        async with triton.InferenceServerClient(where) as client, grpc.aio.insecure_channel(where) as channel:
            asked = triton.InferInput("features", [2, 1], "FP32")
            asked.set_data_from_numpy(np.array([[2.0], [-2.0]], np.float32))
            found = await client.infer(MODEL, [asked])
            told = await client.get_model_metadata(MODEL)
            rows = [json.dumps({"trip": "t", "at": "2024-01-01T00:00:00Z", "distance": 2.0}).encode()]
            ours = await PredictionStub(channel).Predict(PredictRequest(model=MODEL, rows=rows))

    assert found.as_numpy("prediction").tolist() == [2, 0]
    assert found.as_numpy("probabilities").shape == (2, 3)
    assert [(it.name, list(it.shape)) for it in told.outputs] == [
        ("prediction", [-1]),
        ("probabilities", [-1, 3]),
    ]
    assert list(ours.classes) == ["quick"]


def test_a_graph_of_other_classes_than_its_record_names_is_not_served() -> None:
    with pytest.raises(CannotServe, match="gives 3 numbers for 1 rows"):
        versions.load("m", testing.graph(testing.classifier(CHAMPION)), 1, FEATURES, classes=("a", "b"))


def by_note() -> bytes:
    """Return a model that adds 100 to the number where the first text is `busy`."""
    nodes = [
        helper.make_node("TfIdfVectorizer", ["texts"], ["busy"], mode="TF", pool_strings=["busy"],
                         ngram_counts=[0], ngram_indexes=[0], min_gram_length=1, max_gram_length=1, max_skip_count=0),
        helper.make_node("Mul", ["busy", "hundred"], ["more"]),
        helper.make_node("Add", ["features", "more"], ["added"]),
        helper.make_node("Reshape", ["added", "flat"], ["prediction"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "by_note",
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, 1]),
            helper.make_tensor_value_info("texts", TensorProto.STRING, [None, 1]),
        ],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None])],
        [
            helper.make_tensor("hundred", TensorProto.FLOAT, [], [100.0]),
            helper.make_tensor("flat", TensorProto.INT64, [1], [-1]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


WORDS = ("text(request.trip)",)


async def test_texts_go_to_the_graph_and_to_the_log_as_they_were_seen(
    instance: Instance, tmp_path: Path
) -> None:
    live = testing.version(tmp_path, 1, FEATURES, by_note())
    live.texts.extend(WORDS)
    await instance.hear(testing.deployment(MODEL, 1, live))

    answer = ask(instance, 2.0, 3.0, trips=["BUSY", "never heard of"])

    assert list(answer.predictions) == [102, 3]
    found = logged(instance)
    assert {(*batch.text_names,) for batch in found} == {WORDS}
    assert sorted(text for batch in found for text in batch.texts) == ["busy", "never heard of"]
    with pytest.raises(BadRow, match="trip 7 is no string: send one"):
        ask(instance, 1.0, trips=[7])


def explain(instance: Instance, distance: float, trip: str) -> Any:
    row = {"trip": trip, "at": "2024-01-01T00:00:00Z", "zone": 7, "distance": distance}
    api = grpc_api.PredictionApi(instance.predictions, Explanations(instance.board))
    request = ExplainRequest(model=MODEL, rows=[json.dumps(row).encode()], samples=4)
    return api.Explain(request, None)


async def test_a_text_contributes_beside_the_numbers(instance: Instance, tmp_path: Path) -> None:
    reference = pa.table({FEATURES[0]: [1.0, 3.0], WORDS[0]: ["busy", "calm"]})
    live = testing.version(tmp_path, 1, FEATURES, by_note(), reference)
    live.texts.extend(WORDS)
    await instance.hear(testing.deployment(MODEL, 1, live))

    answer = explain(instance, 5.0, "BUSY")

    assert list(answer.features) == [*FEATURES, *WORDS]
    [why] = answer.explanations
    assert (list(why.values), list(why.texts)) == ([5.0], ["busy"])
    assert list(why.contributions) == [3, 50]
    assert (why.base, why.prediction) == (52, 105)


async def test_of_classes_the_chance_of_the_most_probable_is_explained(
    instance: Instance, tmp_path: Path
) -> None:
    onnx, reference = testing.classifier(CHAMPION), pa.table({FEATURES[0]: [0.0]})
    live = testing.version(tmp_path, 1, FEATURES, onnx, reference, classes=CLASSES)
    await instance.hear(testing.deployment(MODEL, 1, live))

    [why] = explain(instance, 2.0, "t").explanations

    assert why.class_name == "quick"
    chance = np.exp(2) / (np.exp(-2) + 1 + np.exp(2))
    assert [why.base, why.prediction] == pytest.approx([1 / 3, chance], rel=1e-5)
    assert why.base + sum(why.contributions) == pytest.approx(why.prediction)


async def test_a_triton_client_brings_its_texts(instance: Instance, tmp_path: Path) -> None:
    live = testing.version(tmp_path, 1, FEATURES, by_note())
    live.texts.extend(WORDS)
    await instance.hear(testing.deployment(MODEL, 1, live))
    api = oip_api.InferenceApi(instance.predictions, instance.board, "1")

    def infer(**texts: Any) -> Any:
        numbers = InferInput("features", [2, 1], "FP32")
        numbers.set_data_from_numpy(np.zeros((2, 1), np.float32))
        inputs = [numbers]
        if texts:
            inputs.append(InferInput("texts", list(texts["texts"].shape), "BYTES"))
            inputs[1].set_data_from_numpy(texts["texts"])
        request = pb2.ModelInferRequest(model_name=MODEL)
        for each in inputs:
            request.inputs.append(each._get_tensor())
            request.raw_input_contents.append(each._get_content())
        return api.ModelInfer(request, None)

    found = infer(texts=np.array([["busy"], ["calm"]], object))
    assert np.frombuffer(found.raw_output_contents[0], np.float32).tolist() == [100, 0]
    told = api.ModelMetadata(pb2.ModelMetadataRequest(name=MODEL), None)
    assert [(it.name, it.datatype, list(it.shape)) for it in told.inputs][:2] == [
        ("features", "FP32", [-1, 1]),
        ("texts", "BYTES", [-1, 1]),
    ]
    with pytest.raises(BadTensor, match=r"2 rows came with none in an input 'texts': send one for each"):
        infer()
    with pytest.raises(BadTensor, match=r"has shape \[1, 2\], and the model takes \[rows, 1\]"):
        infer(texts=np.array([["busy", "calm"]], object))


async def test_rows_of_texts_are_scored_and_classes_with_their_chances(
    instance: Instance, tmp_path: Path
) -> None:
    api = grpc_api.PredictionApi(instance.predictions, Explanations(instance.board))
    live = testing.version(tmp_path, 1, FEATURES, by_note())
    live.texts.extend(WORDS)
    await instance.hear(testing.deployment(MODEL, 1, live))
    asked = ScoreRequest(
        model=MODEL,
        features=FEATURES,
        values=[1.0, 2.0],
        text_names=["other", *WORDS],
        texts=["x", "busy", "y", "calm"],
    )

    assert list(api.Score(asked, None).predictions) == [101, 2]
    del asked.texts[2:]
    with pytest.raises(BadTensor, match="2 rows of numbers came with 1 of texts: send one of each"):
        api.Score(asked, None)
    with pytest.raises(
        BadTensor, match=f"takes '{re.escape(WORDS[0])}', which is not among the features: add it"
    ):
        api.Score(ScoreRequest(model=MODEL, features=FEATURES, values=[1.0]), None)

    await instance.hear(testing.deployment(MODEL, 2, champion(tmp_path)))
    found = api.Score(ScoreRequest(model=MODEL, features=FEATURES, values=[2.0, 0.0]), None)
    assert list(found.predictions) == [2, 0]
    assert list(found.probabilities[:3]) == softmax(-2, 0, 2)


def test_a_graph_that_a_person_brought_is_served_with_its_texts_and_its_classes() -> None:
    of_texts = signature.adapted(by_note(), FEATURES, "regression", texts=WORDS)
    classes = signature.adapted(testing.classifier(CHAMPION), FEATURES, "multiclass", classes=CLASSES)
    numbers = np.array([[2.0]], np.float32)

    live = versions.load("m", testing.graph(export.serialised(of_texts)), 1, FEATURES, texts=WORDS)
    assert live.run(numbers, np.array([["busy"]], object)).tolist() == [102]
    live = versions.load("m", testing.graph(export.serialised(classes)), 1, FEATURES, classes=CLASSES)
    assert live.classes == CLASSES
    assert live.run(numbers)[0] == softmax(-2, 0, 2)


def test_a_graph_of_texts_whose_record_names_none_is_not_served() -> None:
    with pytest.raises(CannotServe, match="and not one float input 'features': export it anew"):
        versions.load("m", testing.graph(by_note()), 1, FEATURES)
    with pytest.raises(CannotServe, match="takes 1 texts and its record names 2"):
        versions.load("m", testing.graph(by_note()), 1, FEATURES, texts=("request.a", "request.b"))


async def test_a_row_of_predictions_names_the_class_and_the_probabilities_that_its_source_has(
    instance: Instance, tmp_path: Path
) -> None:
    await instance.hear(testing.deployment(MODEL, 1, champion(tmp_path)))
    row = {"trip": "t", "at": "2023-11-20T00:00:00Z", "distance": 3.0}
    answer = instance.predictions.predict(MODEL, [json.dumps(row).encode()])
    fields = {
        "trip": {"type": "string"},
        "at": {"type": "timestamp"},
        "prediction": {"type": "string"},
        "probability_quick": {"type": "number"},
    }
    spec = {"predictions_of": MODEL, "key": "trip", "event_time": "at", "lateness": "2h", "fields": fields}
    source = specs.Source.model_validate({"metadata": {"name": "guesses"}, "spec": spec})
    event = testing.Raw("events.pickups", 0, 0, b"t", json.dumps(row).encode(), [])

    [made] = carrying.rows(source, answer, [event], [1_700_000_000_000])

    said = float(answer.predictions[0][2])
    expected = {"trip": "t", "at": row["at"], "prediction": "quick", "probability_quick": said}
    assert json.loads(made.value or b"") == expected
