"""Events that are scored as they arrive, on an instance without Kafka."""

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiokafka import TopicPartition
from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import Rollout
from trimtab_contracts.serving.v1.serving_pb2 import PredictionBatch, Score
from trimtab_core import specs
from trimtab_core.slots import FoldState, Layout
from trimtab_runtime import records
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.featurelog import partition_of
from trimtab_runtime.records import Outgoing
from trimtab_serving import testing
from trimtab_serving.errors import ModelBusy
from trimtab_serving.streaming import Streams, Worker
from trimtab_serving.testing import Instance, Raw

DAY = 86_400_000
MIDNIGHT = 19_700 * DAY
PROJECT = testing.project(score=["stream"])
MODEL, SOURCE = PROJECT.model.name, PROJECT.pickups.name


@pytest.fixture
async def instance(tmp_path: Path) -> AsyncIterator[Instance]:
    """A canary at half of the keys: versions answer their number, plus ten times the zone's speed of 20 mph."""
    made = Instance(tmp_path / "state")
    fold = FoldState(Layout.of(PROJECT.speed.spec, PROJECT.dropoffs.spec.lateness))
    fold.fold(["7", "7"], np.array([MIDNIGHT, MIDNIGHT + 1]), np.array([[10.0], [30.0]]))
    one, two = (
        testing.version(tmp_path, n, PROJECT.features, testing.linear_model([0, 0, 10], bias=n))
        for n in (1, 2)
    )
    await made.hear(
        *PROJECT.specs,
        *testing.features(PROJECT.speed.name, fold, MIDNIGHT + DAY, 2),
        testing.deployment(
            MODEL, 1, one, challenger=two, rollout=Rollout(id="r", strategy="canary", share=50)
        ),
    )
    yield made
    made.close()


def streams(instance: Instance) -> Streams:
    made = Streams("", instance.book, instance.board, instance.fleet.wants, instance.meter, instance.clock)
    made.update()
    return made


def worker(instance: Instance) -> Worker:
    return streams(instance)._worker(TopicPartition(f"events.{SOURCE}", 1))


def event(offset: int, value: bytes | None = None) -> Raw:
    at = MIDNIGHT + DAY // 2 + offset
    trip = f"t{offset}"
    row = (
        json.dumps({"trip": trip, "at": iso(at), "zone": 7, "distance": 1}).encode()
        if value is None
        else value
    )
    headers = records.row_headers(id=f"e{offset}", source=SOURCE, event_time_ms=at, arrived_at_ms=at)
    return Raw(f"events.{SOURCE}", 1, offset, trip.encode(), row, headers)


def watermark(offset: int, time_ms: int) -> Raw:
    headers = records.watermark_headers(source=SOURCE, time_ms=time_ms, origin=1, origins=2)
    return Raw(f"events.{SOURCE}", 1, offset, None, b"", headers)


async def worked(worker: Worker, *batch: Raw) -> Sequence[Outgoing]:
    await worker.prepare(batch)
    return worker.process(batch)


def batches(found: Sequence[Outgoing]) -> list[PredictionBatch]:
    return [topics.PREDICTIONS.decode(each.value or b"") for each in found if each.topic == "predictions"]


def scores(found: Sequence[Outgoing]) -> list[Score]:
    return [topics.SCORES.decode(each.value or b"") for each in found if each.topic == f"scores.{SOURCE}"]


async def test_an_event_is_answered_and_logged_as_a_request_for_its_row_is(instance: Instance) -> None:
    events = [event(n) for n in range(40)]
    asked = instance.predictions.predict(MODEL, [each.value or b"" for each in events])

    found = await worked(worker(instance), *events)

    said = scores(found)
    assert [each.prediction for each in said] == asked.predictions.tolist()
    assert [each.version for each in said] == list(asked.versions)
    assert set(asked.versions) == {1, 2}
    assert [(each.event_id, each.key) for each in said] == [(f"e{n}", f"t{n}") for n in range(40)]
    assert {each.partition for each in found if each.topic == f"scores.{SOURCE}"} == {1}
    logged = {
        prediction: (key, time, champion, arm)
        for each in batches(found)
        for prediction, key, time, champion, arm in zip(
            each.ids, each.keys, each.event_time_ms, each.champion, each.challenger_answered, strict=True
        )
    }
    assert logged == {
        each.id: (each.key, from_timestamp(each.event_time), 201, each.version == 2) for each in said
    }
    for record, batch in zip(
        [each for each in found if each.topic == "predictions"], batches(found), strict=True
    ):
        assert {partition_of(key, topics.PREDICTIONS.partitions) for key in batch.keys} == {record.partition}


async def test_a_prediction_has_the_same_id_whoever_scores_its_event(instance: Instance) -> None:
    first, second = [scores(await worked(worker(instance), event(1), event(2))) for _ in range(2)]

    assert [each.id for each in first] == [each.id for each in second]
    assert len({each.id for each in first}) == 2


async def test_the_logs_watermark_is_that_of_the_events_in_every_partition(instance: Instance) -> None:
    it = worker(instance)
    moved = batches(await worked(it, event(1), watermark(2, MIDNIGHT + DAY)))
    still = batches(await worked(it, event(3)))

    assert [each.watermark_ms for each in moved] == [MIDNIGHT + DAY] * topics.PREDICTIONS.partitions
    assert [(len(each.ids), each.watermark_ms) for each in still] == [(1, MIDNIGHT + DAY)]
    assert {each.instance for each in moved + still} == {f"stream/{SOURCE}/1"}


async def test_an_event_that_cannot_be_scored_is_a_dead_letter_and_the_others_are_answered(
    instance: Instance,
) -> None:
    found = await worked(worker(instance), event(1), event(2, b'{"trip": "t"}'), event(3))

    [letter] = [topics.DEADLETTER.decode(each.value or b"") for each in found if each.topic == "deadletter"]
    assert (letter.offset, letter.reasons[0].code) == (2, "not_scored")
    assert "distance None is missing" in letter.reasons[0].message
    assert [each.event_id for each in scores(found)] == ["e1", "e3"]


@pytest.mark.parametrize(
    "error", [Unavailable("Triton is away"), ModelBusy("a graph", 8)], ids=["away", "busy"]
)
async def test_events_wait_while_what_answers_them_is_away_or_full(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    it = worker(instance)

    def raising(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(it._predictions, "predict", raising)
    with pytest.raises(Unavailable, match=str(error)):
        await it.prepare([event(1), event(2)])
    assert it.process([]) == []


async def test_events_wait_for_a_version_that_is_to_answer_and_pass_by_a_model_that_has_none(
    tmp_path: Path,
) -> None:
    made = Instance(tmp_path / "state")
    await made.hear(*PROJECT.specs)
    assert await worked(worker(made), event(1)) == []

    await made.hear(testing.deployment(MODEL, 1, testing.version(tmp_path, 1, PROJECT.features, b"rubbish")))
    with pytest.raises(
        Unavailable, match=f"wait for model '{MODEL}': .* is no model that ONNX Runtime can open"
    ):
        await worker(made).prepare([event(1)])
    made.close()


async def test_nothing_is_scored_while_one_of_the_models_is_waited_for(
    instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = PROJECT.model.model_copy(update={"metadata": specs.Metadata(name="others")})
    rubbish = testing.version(tmp_path, 3, PROJECT.features, b"rubbish")
    await instance.hear(testing.spec(other), testing.deployment(other.name, 1, rubbish))
    it, asked = worker(instance), list[str]()
    predict = it._predictions.predict

    def noting(model: str, rows: Sequence[bytes]) -> Any:
        asked.append(model)
        return predict(model, rows)

    monkeypatch.setattr(it._predictions, "predict", noting)
    with pytest.raises(Unavailable, match="wait for model 'others'"):
        await it.prepare([event(1)])
    assert asked == []

    mended = testing.version(tmp_path, 4, PROJECT.features, testing.linear_model([0, 0, 10], bias=4))
    await instance.hear(testing.deployment(other.name, 2, mended))
    await it.prepare([event(1)])
    assert sorted(asked) == sorted([MODEL, other.name])


async def test_a_model_that_answers_requests_alone_scores_no_events(instance: Instance) -> None:
    await instance.hear(testing.spec(testing.project().model, 2))

    assert await worked(worker(instance), event(1)) == []


def guesses(**fields: Any) -> specs.Source:
    """Return a source of the model's predictions."""
    known = {"trip": {"type": "string"}, "at": {"type": "timestamp"}, "zone": {"type": "integer"}}
    document = {
        "predictions_of": MODEL,
        "key": "trip",
        "event_time": "at",
        "lateness": "2h",
        "fields": known | fields,
    }
    return specs.Source.model_validate({"metadata": {"name": "guesses"}, "spec": document})


async def test_what_is_said_of_an_event_is_a_row_of_the_sources_that_are_made_of_it(
    instance: Instance,
) -> None:
    said = {
        "prediction": {"type": "number"},
        "prediction_id": {"type": "string"},
        "prediction_version": {"type": "integer"},
    }
    await instance.hear(
        testing.spec(guesses(**said)),
        testing.spec(guesses().model_copy(update={"metadata": specs.Metadata(name="bare")})),
    )
    events = [event(1), watermark(2, MIDNIGHT), event(3, b'{"trip": "t"}'), event(4)]

    found = await worked(worker(instance), *events)

    rows = [each for each in found if each.topic == "raw.guesses"]
    scored = scores(found)
    assert [json.loads(each.value or b"") for each in rows[:2]] == [
        {"trip": each.key, "at": iso(from_timestamp(each.event_time)), "zone": 7, "prediction": each.prediction,
         "prediction_id": each.id, "prediction_version": each.version}
        for each in scored
    ]  # fmt: skip
    for row, its in zip(rows, [events[0], events[3]], strict=False):
        was, now = records.origin(its), records.origin(Raw("", 1, 0, None, b"", row.headers))
        assert (row.key, row.partition, now.event_time_ms, now.arrived_at_ms) == (
            its.key, 1, was.event_time_ms, was.arrived_at_ms,
        )  # fmt: skip
        assert records.IS_JSON in row.headers
    assert [dict(each.headers)["ce_id"].decode() for each in rows[:2]] == [each.id for each in scored]
    until = records.origin(Raw("", 1, 0, None, b"", rows[2].headers))
    assert (len(rows), until.is_watermark, until.event_time_ms, rows[2].partition) == (3, True, MIDNIGHT, 1)
    bare = [json.loads(each.value) for each in found if each.topic == "raw.bare" and each.value]
    assert [set(each) for each in bare] == [{"trip", "at", "zone"}] * 2


async def test_time_goes_on_in_a_source_of_predictions_while_its_model_has_no_version(tmp_path: Path) -> None:
    made = Instance(tmp_path / "state")
    await made.hear(*PROJECT.specs, testing.spec(guesses()))

    [moved] = await worked(worker(made), event(1), watermark(2, MIDNIGHT))

    assert (moved.topic, moved.key, moved.partition) == ("raw.guesses", None, 1)
    made.close()


def test_what_a_model_scores_is_said_once_and_something() -> None:
    model: dict[str, Any] = PROJECT.model.spec.model_dump(mode="json", exclude_none=True)

    assert model["score"] == ["stream"]
    with pytest.raises(ValueError, match="score"):
        testing.project(score=[])
