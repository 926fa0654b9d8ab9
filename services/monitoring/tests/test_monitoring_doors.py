"""The Kafka doors: what they hear, what they read, what they tell."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import numpy as np
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from trimtab_contracts import topics
from trimtab_contracts.monitoring.v1 import monitoring_pb2 as pb
from trimtab_contracts.registry.v1.registry_pb2 import Arm, Deployment, Rollout, VersionRef
from trimtab_contracts.serving.v1.serving_pb2 import OtherAnswers, PredictionBatch
from trimtab_core import trial
from trimtab_core.watched import Others, Reading, Said
from trimtab_monitoring import intake, messages, news
from trimtab_monitoring.consumers import Deployments, subscriptions
from trimtab_monitoring.errors import BadBatch
from trimtab_monitoring.intake import Intake
from trimtab_monitoring.usecases.arriving import LabelReader, label_streams
from trimtab_monitoring.usecases.entities import Closed, Command, LabelStream, Loop, Version, WantedLabel
from trimtab_monitoring.usecases.ledger import Ledger
from trimtab_runtime import admin
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.specbook import SpecBook

Make = Callable[..., Any]


def batch(**more: Any) -> PredictionBatch:
    columns: dict[str, Any] = {
        "ids": ["a", "b"], "keys": ["k1", "k2"], "event_time_ms": [1, 2], "champion": [0.5, 0.6],
        "feature_names": ["x", "z"], "features": [1.0, 2.0, 3.0, float("nan")], "champion_version": 3,
    }  # fmt: skip
    return PredictionBatch(model="m", id="s/1", **{**columns, **more})


def test_monitoring_hears_exactly_what_the_table_says(world: Any) -> None:
    shared = {
        it.topic.name
        for it in subscriptions(Ledger(world.store, world.clock), lambda _: None, Mock(), Mock())
    }
    much = {topics.PREDICTIONS.name, topics.EVENTS.name}
    stream, everyone = {topics.DRIFT.name}, {topics.SPECS.name, topics.DEPLOYMENTS.name}

    assert shared | much | stream | everyone == topics.heard_by("monitoring")


async def test_the_intake_goes_on_with_a_consumer_of_its_own_whenever_kafka_was_away_and_holds_what_it_gets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ready, made, held = asyncio.Event(), list[Mock](), list[Any]()
    topics_made = AsyncMock(side_effect=[Unavailable("no controller"), None, None])

    def consumer(*_: Any) -> Mock:
        lost = (
            KafkaError("Unexpected error during coordination") if len(made) == 1 else asyncio.CancelledError
        )
        made.append(
            Mock(
                start=AsyncMock(),
                stop=AsyncMock(),
                getmany=AsyncMock(side_effect=lost),
                subscription=set,
                partitions_for_topic=lambda _: {0, 1, 2},
            )
        )
        return made[-1]

    monkeypatch.setattr(intake, "member", consumer)
    monkeypatch.setattr(admin, "ensure_topics", topics_made)
    monkeypatch.setattr(intake, "_BACKOFF_S", 0)
    with pytest.raises(asyncio.CancelledError):
        await Intake(
            "nowhere", Mock(), SpecBook(), Mock(), moved=Mock(), hold=lambda *of: held.append(of)
        ).run(ready)

    assert ready.is_set()
    assert [each.subscribe.called for each in made] == [False, True, True]
    assert all(each.stop.called for each in made)
    listener = made[-1].subscribe.call_args.kwargs["listener"]
    listener.on_partitions_revoked([TopicPartition("predictions", 0)])
    listener.on_partitions_assigned([TopicPartition(topic, 2) for topic in ("events.a", "predictions")])
    assert held == [([2], 3)]


def test_a_batch_is_read_row_by_row() -> None:
    found = messages.predicted(
        batch(challenger_version=4, challenger=[0.1, 0.2], rollout_id="r", generation=7)
    )

    assert (found.version, found.challenger_version, found.rollout_id, found.generation) == (3, 4, "r", 7)
    assert (found.ids, found.keys, found.challenger) == (["a", "b"], ["k1", "k2"], [0.1, 0.2])
    np.testing.assert_array_equal(np.frombuffer(found.features[1]), [3.0, np.nan])


@pytest.mark.parametrize(
    "fault",
    [
        {"keys": ["k1"]},
        {"features": [1.0]},
        {"challenger_version": 4},
        {"event_time_ms": []},
        {"champion": [1.0]},
    ],
)
def test_a_batch_whose_columns_do_not_fit_is_refused(fault: dict[str, Any]) -> None:
    with pytest.raises(BadBatch, match="s/1"):
        messages.predicted(batch(**fault))


def test_what_further_versions_of_an_ab_test_said_is_read_row_by_row() -> None:
    nan, answers = float("nan"), {"champion_probabilities": [0.5] * 4, "challenger_probabilities": [0.5] * 4}
    others = [
        OtherAnswers(version=5, said=[1, nan], probabilities=[0.2, 0.8, nan, nan], answered=[True, False])
    ]
    found = messages.predicted(
        batch(
            challenger_version=4, challenger=[1, 0], classes=["no", "yes"], arms=3, others=others, **answers
        )
    )

    assert [trial.others_of(each) for each in found.others or ()] == [
        Others(3, (Said(5, 1.0, (0.2, 0.8)),)),
        Others(3, (Said(5, None),)),
    ]
    assert messages.predicted(batch()).others is None
    with pytest.raises(BadBatch, match="1 answers of version 5"):
        messages.predicted(batch(arms=2, others=[OtherAnswers(version=5, said=[1])]))


def test_a_deployment_tells_the_arms_that_are_still_in_a_test() -> None:
    arms = [Arm(number=4, share=30, left=True), Arm(number=5, share=20, loop_id="five")]
    told = Deployment(model="m", generation=9, rollout=Rollout(id="r", strategy="ab", step=1, arms=arms))
    told.champion.number, told.challenger.number = 3, 5
    told.others.add(number=6)

    assert messages.standing(told).on_trial == ((5, 20, "five"),)
    assert [version.number for version in messages.versions(told)] == [3, 5, 6]


def test_a_label_is_read_by_the_fields_that_the_model_names() -> None:
    reader = LabelReader(LabelStream("truths", "trip", "minutes", 1))

    assert reader.read(b'{"trip": "a", "minutes": 3, "other": [1]}') == ("a", 3.0)
    assert reader.read(b'{"trip": 17, "minutes": true}') == ("17", 1.0)
    assert reader.read(b'{"trip": 17.0, "minutes": 0.5}') == ("17", 0.5)


@pytest.mark.parametrize(
    "row",
    [
        b'{"trip": "a"}',
        b'{"minutes": 3}',
        b'{"trip": "a", "minutes": "3"}',
        b'{"trip": null, "minutes": 3}',
        b"[",
    ],
)
def test_a_row_that_is_no_label_is_passed_over(row: bytes) -> None:
    assert LabelReader(LabelStream("truths", "trip", "minutes", 1)).read(row) is None


def test_models_that_read_a_source_alike_share_its_labels(make_model: Make) -> None:
    models = [
        make_model("a"),
        make_model("b"),
        make_model("c", label={"source": "truths", "on": "id", "value": "w", "within": "1h"}),
    ]

    found = label_streams(models)

    assert [stream.name for stream in found["truths"]] == ["truths/id/y", "truths/id/w"]


async def test_a_standing_is_shown_after_its_versions_are_stored_and_an_older_one_is_ignored() -> None:
    stored: list[Version] = []
    seen: list[str] = []

    async def on_versions(versions: Any) -> None:
        assert deployments.standing("m") is None or stored
        stored.extend(versions)

    async def on_standings(models: Any) -> None:
        seen.extend(models)

    deployments = Deployments(on_versions, on_standings)
    newer = Deployment(
        model="m", generation=3, loop_id="l", champion=VersionRef(number=1), challenger=VersionRef(number=2),
        rollout=Rollout(id="r", step=1, steps=[10, 50]),
    )  # fmt: skip
    older = Deployment(model="m", generation=2, champion=VersionRef(number=1))
    values = [topics.DEPLOYMENTS.encode(newer), b"rubbish", topics.DEPLOYMENTS.encode(older)]

    await deployments._hear(
        "deployments", 0, [SimpleNamespace(key=b"m", value=value, offset=0) for value in values]
    )

    standing = deployments.standing("m")
    assert standing is not None
    assert (standing.generation, standing.champion, standing.challenger, standing.loop_id) == (3, 1, 2, "l")
    assert (standing.rollout_id, standing.step, standing.steps) == ("r", 1, (10, 50))
    assert {version.number for version in stored} == {1, 2}
    assert seen == ["m"]


def test_news_goes_to_its_topic_under_its_key_and_id() -> None:
    reading = Reading("performance", "m", 2, "mae", 3.0, 10, 20, 5, threshold=4.0)
    command = Command("c", "m", "l", "data", "e", 1, "because", "retrain policy", 30, 40)

    metric, closed, order = news.outgoing([reading, Closed("m", 50), command])

    assert (metric.topic, metric.key) == ("metrics.performance", b"m")
    assert json.loads(metric.value or b"")["threshold"] == 4.0
    assert (closed.topic, closed.key) == ("watermarks", b"monitoring/m/0/")
    assert dict(order.headers)["ce_correlationid"] == b"l"
    assert dict(order.headers)["ce_id"] == b"c"


def test_an_estimate_is_told_with_its_bounds_and_what_is_not_known_without_a_value() -> None:
    estimate = Reading("performance", "m", 2, "estimated_mae", 0.0, 10, 20, 5, low=0.0, high=1.5)
    nothing = replace(estimate, value=None, low=None, high=None, unknown="It is not known.")
    asked = WantedLabel("m", 2, "p", "k", 1_500, 0.5, None, 0.25, 1_000, 2_000, 100)

    known, unknown, label = (
        (record.topic, json.loads(record.value or b""))
        for record in news.outgoing([estimate, nothing, asked])
    )

    assert known[0] == unknown[0] == "metrics.performance"
    assert (known[1]["value"], known[1]["low"], known[1]["high"]) == (0, 0, 1.5)
    assert not {"value", "low", "high"} & unknown[1].keys()
    assert unknown[1]["unknown"] == "It is not known."
    assert label[0] == "labels.wanted"
    assert (label[1]["key"], label[1]["chance"], label[1]["id"]) == ("k", 0.25, "m/p")
    assert "expected_loss" not in label[1]


def test_a_loop_is_told_with_its_trace_and_without_what_it_has_not() -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"

    told = messages.loop(
        Loop("l", "m", "data", traceparent=f"00-{trace}-b7ad6b7169203331-01", steps={"triggered": 1_500})
    )

    assert (told.trace_id, told.open, told.HasField("drift"), told.HasField("settled_at")) == (
        trace,
        True,
        False,
        False,
    )
    assert told.steps["triggered"].nanos == 500_000_000


async def test_a_drift_event_is_read_back_as_it_was_told(world: Any, flow: Make) -> None:
    await world.ready()
    await world.live(flow(0, 200), flow(200, 300, shift=2.0))

    drift = next(it for it in world.drifts() if it.kind == "data")

    event = messages.drift_event(drift)
    assert messages.drift(pb.DriftEvent.FromString(event.SerializeToString())) == drift
    assert (event.id, event.loop_id) == (drift.episode, drift.episode)
