"""An A/B test of several versions: each row has one arm, every version scores it, and no version can hurt a caller."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trimtab_contracts.registry.v1.registry_pb2 import Arm, Rollout
from trimtab_contracts.serving.v1.serving_pb2 import PredictionBatch
from trimtab_contracts.topics import PREDICTIONS
from trimtab_runtime.clock import ManualClock, iso
from trimtab_serving import oip_api, testing
from trimtab_serving.messages import Messages
from trimtab_serving.testing import Instance
from trimtab_serving.usecases import Answer
from trimtab_serving.versions import Version
from tritonclient.grpc import InferInput
from tritonclient.grpc import service_pb2 as pb2

PROJECT = testing.project()
MODEL = PROJECT.model.name
TRIPS = [f"t{number}" for number in range(200)]
SAID = {1: 202.5, 2: 205.0, 3: 207.5}
ARMS = {1: "champion", 2: "challenger-2", 3: "challenger-3"}


async def under_test(instance: Instance, folder: Path, *, left: int = 0, generation: int = 2) -> None:
    """Have 2 and 3 tested beside 1, for 40 % of the keys each; or 3 alone, once `left` is 2."""
    one, two, three = (
        testing.version(folder, number, PROJECT.features, testing.linear_model([float(number), 0.0, 10.0]))
        for number in (1, 2, 3)
    )
    arms = [Arm(number=2, share=40, left=left == 2), Arm(number=3, share=40)]
    rollout = Rollout(id="r", strategy="ab", share=40 if left else 80, arms=arms)
    challenger, *others = [three] if left else [two, three]
    await instance.hear(
        testing.deployment(MODEL, generation, one, challenger=challenger, others=others, rollout=rollout)
    )


def ask(instance: Instance, *trips: str) -> Answer:
    at = iso(19_700 * 86_400_000 + 6 * 3_600_000)
    rows = [json.dumps({"trip": trip, "at": at, "zone": 7, "distance": 2.5}).encode() for trip in trips]
    return instance.predictions.predict(MODEL, rows)


def logged(instance: Instance) -> list[PredictionBatch]:
    made = Messages("serving-0", ManualClock(0))
    batches = [made.predictions(batch).value for batch in instance.log.drain([]) if batch.rows]
    return [PREDICTIONS.decode(value) for value in batches if value]


async def test_each_row_is_answered_by_its_arm_and_all_answers_are_logged(
    instance: Instance, tmp_path: Path
) -> None:
    await under_test(instance, tmp_path)

    answer = ask(instance, *TRIPS)

    counts = [list(answer.versions).count(number) for number in (1, 2, 3)]
    assert all(abs(count / 200 - share) < 0.12 for count, share in zip(counts, (0.2, 0.4, 0.4), strict=True))
    assert list(answer.arms) == [ARMS[number] for number in answer.versions]
    assert answer.predictions.tolist() == [SAID[number] for number in answer.versions]
    assert list(ask(instance, *TRIPS).versions) == list(answer.versions), "a key keeps its arm"

    told = dict(zip(answer.ids, answer.versions, strict=True))
    for batch in logged(instance):
        (other,) = batch.others
        assert (batch.champion_version, batch.challenger_version, other.version, batch.arms) == (1, 2, 3, 2)
        assert {*batch.champion} | {*batch.challenger} | {*other.said} == {*SAID.values()}
        for at, name in enumerate(batch.ids):
            version = told.pop(name, 0)
            if version:
                assert (batch.challenger_answered[at], other.answered[at]) == (version == 2, version == 3)
    assert not told


async def test_when_a_version_leaves_its_keys_alone_move_to_the_champion(
    instance: Instance, tmp_path: Path
) -> None:
    await under_test(instance, tmp_path)
    before = ask(instance, *TRIPS).versions
    await under_test(instance, tmp_path, left=2, generation=3)

    assert list(ask(instance, *TRIPS).versions) == [1 if number == 2 else number for number in before]
    assert {
        (batch.challenger_version, batch.arms) for batch in logged(instance) if batch.generation == 3
    } == {(3, 2)}


async def test_how_long_each_version_ran_is_logged_once_a_request(instance: Instance, tmp_path: Path) -> None:
    await under_test(instance, tmp_path)
    ask(instance, *TRIPS)

    batches = logged(instance)
    for columns in (
        [batch.champion_us for batch in batches],
        [batch.challenger_us for batch in batches],
        [batch.others[0].took_us for batch in batches],
    ):
        assert [len(column) for column in columns] == [len(batch.ids) for batch in batches]
        assert sum(us > 0 for column in columns for us in column) == 1


@pytest.mark.parametrize("harm", ["raises", "says nothing"])
async def test_a_version_that_fails_costs_no_caller_anything_and_the_others_go_on(
    instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    await under_test(instance, tmp_path)
    before, run = ask(instance, *TRIPS).versions, Version.run
    logged(instance)

    def harmed(version: Version, *asked: Any) -> Any:
        if version.number != 2:
            return run(version, *asked)
        return run(version, None) if harm == "raises" else np.full_like(run(version, *asked), np.nan)  # type: ignore[arg-type]

    monkeypatch.setattr(Version, "run", harmed)
    answer = ask(instance, *TRIPS)

    assert list(answer.versions) == [1 if number == 2 else number for number in before]
    assert list(answer.arms) == [ARMS[number] for number in answer.versions]
    assert answer.predictions.tolist() == [SAID[number] for number in answer.versions]
    for batch in logged(instance):
        assert np.isnan(batch.challenger).all()
        assert [us > 0 for us in batch.challenger_us] == [us > 0 for us in batch.champion_us], "it was asked"
        assert {*batch.others[0].said} == {207.5}
        assert not any(batch.challenger_answered)


async def test_a_version_that_is_not_warm_yet_leaves_its_keys_to_the_champion(
    instance: Instance, tmp_path: Path
) -> None:
    await under_test(instance, tmp_path)
    before = ask(instance, *TRIPS).versions
    (tmp_path / "elsewhere").mkdir()
    broken = testing.version(tmp_path / "elsewhere", 2, PROJECT.features, b"no graph")
    one, three = (
        testing.version(tmp_path, number, PROJECT.features, testing.linear_model([float(number), 0.0, 10.0]))
        for number in (1, 3)
    )
    rollout = Rollout(
        id="r", strategy="ab", share=80, arms=[Arm(number=2, share=40), Arm(number=3, share=40)]
    )
    await instance.hear(testing.deployment(MODEL, 3, one, challenger=broken, others=[three], rollout=rollout))

    assert list(ask(instance, *TRIPS).versions) == [1 if number == 2 else number for number in before]


async def test_the_open_protocol_names_the_arm_and_answers_a_request_by_one_version(
    instance: Instance, tmp_path: Path
) -> None:
    await under_test(instance, tmp_path)
    api = oip_api.InferenceApi(instance.predictions, instance.board, "1")
    numbers = InferInput("features", [2, 3], "FP32")
    numbers.set_data_from_numpy(np.array([[2.5, 12, 20], [2.5, 12, 20]], np.float32))
    seen = set()
    for trip in TRIPS[:30]:
        keys = InferInput("key", [2], "BYTES")
        keys.set_data_from_numpy(np.array([trip, "another"], object))
        request = pb2.ModelInferRequest(model_name=MODEL)
        for each in (numbers, keys):
            request.inputs.append(each._get_tensor())
            request.raw_input_contents.append(each._get_content())
        answer = api.ModelInfer(request, None)
        version = int(answer.model_version)
        seen.add(version)
        assert answer.parameters["arm"].string_param == ARMS[version]
        said = np.frombuffer(answer.raw_output_contents[0], np.float32)
        assert len(set(said.tolist())) == 1
        request.model_version = "3"
        pinned = api.ModelInfer(request, None)
        assert (pinned.model_version, "arm" in pinned.parameters) == ("3", False)
    assert seen == {1, 2, 3}
