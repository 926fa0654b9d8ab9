"""The service as a process, over the real Kafka and PostgreSQL: it watches, is killed, and goes on."""

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from trimtab.calling import Door
from trimtab.observing import Observing
from trimtab_contracts import topics
from trimtab_contracts.monitoring.v1.monitoring_pb2 import (
    GetModelHealthRequest,
    ListLoopsRequest,
    ListWantedLabelsRequest,
    Loop,
    Verdict,
)
from trimtab_contracts.monitoring.v1.monitoring_pb2_grpc import MonitoringStub
from trimtab_contracts.registry.v1.registry_pb2 import Deployment, Resource, Rollout, VersionEvent, VersionRef
from trimtab_contracts.serving.v1.serving_pb2 import PredictionBatch
from trimtab_core import specs
from trimtab_monitoring.usecases.entities import Predicted
from trimtab_runtime import admin, artifacts, bus, records, rpc
from trimtab_runtime.clock import from_timestamp, to_timestamp
from trimtab_runtime.records import Outgoing
from trimtab_runtime.testing import eventually
from trimtab_stack import ports

pytestmark = [pytest.mark.real, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]

HOUR = 3_600_000
Make = Callable[..., Any]


class Service:
    """`python -m trimtab_monitoring`."""

    def __init__(self, environ: dict[str, str], log: Path) -> None:
        self._environ = environ
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "trimtab_monitoring", env=self._environ, stdout=log, stderr=log
            )

    async def end(self, number: int) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return await self._process.wait()


class Outside:
    """Everything around monitoring: what others tell it, and what it tells them."""

    def __init__(self, servers: str, data_dir: Path, producer: Any, stub: Any, service: Service) -> None:
        self.servers = servers
        self.data_dir = data_dir
        self.producer = producer
        self.stub = stub
        self.service = service

    async def tell(self, topic: topics.Topic[Any], message: Any, *, key: str) -> None:
        record = records.outgoing(topic, message, key=key, id=uuid.uuid4().hex, source="test", time_ms=1)
        await records.send_all(self.producer, [record])

    async def apply(self, resource: specs.Source | specs.Model) -> None:
        document = Struct()
        json_format.ParseDict(specs.to_document(resource), document)
        message = Resource(kind=resource.kind, name=resource.name, generation=1, document=document)
        await self.tell(topics.SPECS, message, key=f"{resource.kind}/{resource.name}")

    async def deploy(self, model: str, columns: dict[str, Any], **more: Any) -> None:
        table = pa.table(columns)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        reference = artifacts.put(self.data_dir, sink.getvalue().to_pybytes())
        champion = VersionRef(number=1, reference=reference)
        await self.tell(topics.DEPLOYMENTS, Deployment(model=model, champion=champion, **more), key=model)

    async def predict(self, rows: Predicted, *, watermark_ms: int) -> None:
        """Send predictions as serving does: by partition, each with the watermark."""
        for partition in range(topics.PREDICTIONS.partitions):
            mine = range(partition, len(rows.ids), topics.PREDICTIONS.partitions)
            batch = PredictionBatch(
                model=rows.model, instance="s", id=uuid.uuid4().hex, watermark_ms=watermark_ms,
                champion_version=rows.version, generation=rows.generation, rollout_id=rows.rollout_id,
                challenger_version=rows.challenger_version, feature_names=rows.feature_names,
                ids=[rows.ids[at] for at in mine], keys=[rows.keys[at] for at in mine],
                event_time_ms=[rows.event_time_ms[at] for at in mine], champion=[rows.champion[at] for at in mine],
                challenger=[rows.challenger[at] for at in mine] if rows.challenger else [],
                features=np.frombuffer(b"".join(rows.features[at] for at in mine)).tolist(),
                champion_us=[rows.champion_us[at] for at in mine] if rows.champion_us else [],
                challenger_us=[rows.challenger_us[at] for at in mine] if rows.challenger_us else [],
            )  # fmt: skip
            record = records.outgoing(
                topics.PREDICTIONS, batch, key=rows.model, id=batch.id, source="s", time_ms=1
            )
            out = Outgoing(record.topic, record.key, record.value, record.headers, partition)
            await records.send_all(self.producer, [out])

    async def come_true(self, source: str, keys: Sequence[str], times: Sequence[int], values: Any) -> None:
        """Send labels as ingestion does, then the watermark a little after the last."""
        topic = topics.EVENTS.named(source).name
        rows = [
            Outgoing(
                topic, key.encode(), f'{{"id": "{key}", "y": {value}}}'.encode(),
                records.row_headers(id=key, source=source, event_time_ms=at + 1, arrived_at_ms=at + 1), 0,
            )
            for key, at, value in zip(keys, times, values, strict=True)
        ]  # fmt: skip
        await records.send_all(self.producer, rows)
        await self.pass_time(source, times[-1] + HOUR)

    async def pass_time(self, source: str, until_ms: int) -> None:
        headers = records.watermark_headers(source=source, time_ms=until_ms, origin=0, origins=1)
        topic = topics.EVENTS.named(source).name
        await records.send_all(self.producer, [Outgoing(topic, None, b"", headers, 0)])

    async def all_of(self, topic: topics.Topic[Any], model: str) -> list[Any]:
        """Return all that was ever told of a model on a topic."""
        consumer = AIOKafkaConsumer(
            topic.name,
            bootstrap_servers=self.servers,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        await consumer.start()
        try:
            found: list[Any] = []
            ends = await consumer.end_offsets(consumer.assignment())
            while any([await consumer.position(place) < end for place, end in ends.items()]):
                for batch in (await consumer.getmany(timeout_ms=100)).values():
                    found += [topic.decode(record.value) for record in batch if record.key == model.encode()]
            return found
        finally:
            await consumer.stop()

    async def told(self, topic: topics.Topic[Any], model: str, count: int, **like: str) -> list[Any]:
        """Return what was told of a model on a topic, of it what is like that, once it is as many: news follow the database."""

        async def probe() -> list[Any] | None:
            found = [
                it
                for it in await self.all_of(topic, model)
                if all(getattr(it, name) == like[name] for name in like)
            ]
            return found if len(found) >= count else None

        found = await eventually(probe, what=f"{count} of {model} like {like} on {topic.name}")
        assert found
        return found

    async def loops(self, model: str) -> list[Loop]:
        return list((await self.stub.ListLoops(ListLoopsRequest(model=model))).loops)

    async def health(self, model: str) -> Any:
        return await self.stub.GetModelHealth(GetModelHealthRequest(model=model))

    async def closed(self, model: str, until_ms: int) -> None:
        async def probe() -> bool:
            try:
                return from_timestamp((await self.health(model)).watermark) >= until_ms
            except grpc.RpcError:  # it is starting, or has not heard of the model yet
                return False

        await eventually(probe, what=f"closing of {model}")

    async def loop_in(self, model: str, state: str, deadline_s: float = 120) -> Loop:
        async def probe() -> Loop | None:
            return next((loop for loop in await self.loops(model) if loop.state == state), None)

        found = await eventually(probe, what=f"a loop of {model} in {state}", deadline_s=deadline_s)
        assert found
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outside(
    kafka_servers: str, postgres_dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Outside]:
    async with _outside(kafka_servers, postgres_dsn, tmp_path_factory.mktemp("monitoring")) as found:
        yield found


@asynccontextmanager
async def _outside(servers: str, dsn: str, folder: Path) -> AsyncIterator[Outside]:
    await admin.ensure_topics(servers, topics.STATIC)
    address = f"127.0.0.1:{ports.choose()}"
    environ = {
        **os.environ,  # noqa: TID251 - a child needs PATH and HOME
        "TRIMTAB_KAFKA_SERVERS": servers, "TRIMTAB_POSTGRES_DSN": dsn, "TRIMTAB_GRPC_ADDRESS": address,
        "TRIMTAB_DATA_DIR": str(folder / "data"), "TRIMTAB_STATE_DIR": str(folder / "state"), "DO_NOT_TRACK": "1",
    }  # fmt: skip
    service = Service(environ, folder / "log")
    producer = await bus.start_producer(servers)
    await service.start()
    try:
        async with rpc.channel(address) as channel:
            yield Outside(servers, folder / "data", producer, MonitoringStub(channel), service)
    finally:
        code = await service.end(signal.SIGTERM)
        await producer.stop()
        print((folder / "log").read_text()[-5_000:])
    assert code == 0


async def _a_watched_model(outside: Outside, make_model: Make, make_source: Make, reference: Any) -> str:
    name = f"m{uuid.uuid4().hex[:8]}"
    asks, truths = make_source(f"{name}-asks"), make_source(f"{name}-truths", partitions=1)
    model = make_model(name, source=asks.name, labels=truths.name)
    await admin.ensure_topics(outside.servers, [topics.EVENTS.named(truths.name, partitions=1)])
    for resource in (asks, truths, model):
        await outside.apply(resource)
    await outside.deploy(name, reference, generation=1)

    async def known() -> bool:
        try:
            return (await outside.health(name)).version == 1
        except grpc.RpcError:  # it is starting, or has not heard of the model yet
            return False

    await eventually(known, what=f"{name} in monitoring")
    return name


async def _live(outside: Outside, model: str, part: Any) -> None:
    await outside.predict(part.predicted(model=model), watermark_ms=part.times[-1])
    labelled = part.labelled(after_ms=0)
    await outside.come_true(f"{model}-truths", labelled.keys, labelled.event_time_ms, labelled.values)
    await outside.closed(model, part.times[-1])


async def test_a_window_is_estimated_and_labels_are_asked_for_while_none_has_come(
    outside: Outside, flow: Make, make_model: Make, make_source: Make, reference: Any
) -> None:
    asking = partial(make_model, monitoring={"window": 100, "false_alarms": "1 per 90d", "labels_wanted": 5})
    model = await _a_watched_model(outside, asking, make_source, reference)
    part = flow(0, 120)
    await outside.pass_time(f"{model}-truths", part.times[0])
    await outside.predict(part.predicted(model=model), watermark_ms=part.times[-1])

    async def estimated() -> Any:
        return next((it for it in (await outside.health(model)).metrics), None)

    estimate = await eventually(estimated, what=f"an estimate of {model}")
    assert (estimate.name, estimate.rows, estimate.unknown) == ("estimated_mae", 100, "")
    assert estimate.low < estimate.value < estimate.high
    assert await outside.told(topics.METRICS_PERFORMANCE, model, 1, name="estimated_mae") == [estimate]
    asked = (await outside.stub.ListWantedLabels(ListWantedLabelsRequest(model=model))).labels
    assert len(asked) == 5
    with pytest.raises(grpc.RpcError, match="limit -1 is below 0"):
        await outside.stub.ListWantedLabels(ListWantedLabelsRequest(model=model, limit=-1))
    told = await outside.told(topics.LABELS_WANTED, model, 5)
    assert {it.id: it for it in told} == {it.id: it for it in asked}

    labelled = part.labelled(after_ms=0)
    await outside.come_true(f"{model}-truths", labelled.keys, labelled.event_time_ms, labelled.values)
    await outside.closed(model, part.times[-1])
    (realised,) = await outside.told(topics.METRICS_PERFORMANCE, model, 1, name="mae")
    assert estimate.low < realised.value < estimate.high
    assert not (await outside.stub.ListWantedLabels(ListWantedLabelsRequest(model=model))).labels


async def test_labels_of_wanted_rows_alone_tell_how_all_do_and_those_of_others_count_for_nothing(
    outside: Outside, flow: Make, make_model: Make, make_source: Make, reference: Any
) -> None:
    monitoring = {"window": 100, "false_alarms": "1 per 90d", "labels_wanted": 50, "labelled": "wanted"}
    held = np.random.default_rng(5)
    scale = np.where(np.abs(reference["request.x"]) > 1.6, 2.0, 0.2)
    uneven = reference | {"loss": np.abs(held.normal(size=scale.size)) * scale}
    model = await _a_watched_model(outside, partial(make_model, monitoring=monitoring), make_source, uneven)
    part = flow(0, 200)
    lost = np.where(np.abs(part.x) > 1.6, 1.6, 0.16)
    await outside.pass_time(f"{model}-truths", part.times[0])
    await outside.predict(part.predicted(model=model), watermark_ms=part.times[-1])
    asked = [int(it.prediction_id[1:]) for it in await outside.told(topics.LABELS_WANTED, model, 100)]

    part.labels = 2 * part.x + 9.0
    part.labels[asked] = (2 * part.x + lost)[asked]
    labelled = part.labelled(after_ms=0)
    await outside.come_true(f"{model}-truths", labelled.keys, labelled.event_time_ms, labelled.values)
    await outside.closed(model, part.times[-1])

    (realised,) = await outside.told(topics.METRICS_PERFORMANCE, model, 1, name="mae")
    assert lost[asked].mean() > 1.3 * lost.mean()
    assert (realised.rows, realised.value) == (100, pytest.approx(lost.mean(), rel=0.1))
    shares = await outside.told(topics.METRICS_PERFORMANCE, model, 2, name="labelled_share")
    assert [(it.value, it.rows) for it in shares] == [(1.0, 50)] * 2
    assert await outside.loops(model) == []


async def test_drift_gives_one_command_and_its_story(
    outside: Outside, flow: Make, make_model: Make, make_source: Make, reference: Any
) -> None:
    sliced = partial(make_model, monitoring={"window": 100, "false_alarms": "1 per 90d", "slices": ["z"]})
    model = await _a_watched_model(outside, sliced, make_source, reference)
    await _live(outside, model, flow(0, 300))
    assert await outside.loops(model) == []

    await _live(outside, model, flow(300, 400, shift=1.5))
    loop = await outside.loop_in(model, "commanded")

    (event,) = await outside.told(topics.DRIFT, model, 1, kind="data")
    assert (loop.id, loop.drift.id, loop.trigger) == (event.episode, event.id, "data")
    assert len(loop.trace_id) == 32
    assert set(loop.steps) == {"triggered", "commanded"}

    last = json_format.MessageToDict(event)
    for _ in range(3):
        await outside.tell(topics.DRIFT, event, key=model)
    other = type(event)()
    json_format.ParseDict({**last, "id": "other", "episode": "other", "kind": "prediction"}, other)
    await outside.tell(topics.DRIFT, other, key=model)
    declined = await outside.loop_in(model, "declined")
    assert "does not call for a retrain" in declined.reason

    (command,) = await outside.told(topics.COMMANDS_RETRAIN, model, 1)
    assert (command.id, command.loop_id, command.as_of) == (loop.command_id, loop.id, event.at)
    metrics = await outside.told(topics.METRICS_PERFORMANCE, model, 7, name="mae", slice="")
    assert [metric.rows for metric in metrics] == [100] * 7
    assert all(metric.HasField("threshold") for metric in metrics)
    parts = await outside.told(topics.METRICS_DRIFT, model, 14, slice_of="request.z")
    assert {(it.name, it.feature, it.slice, it.rows) for it in parts} == {
        ("drift", "request.x", "other", 100), ("prediction_drift", "", "other", 100),
    }  # fmt: skip


class Client(Observing):
    """The part of the Python client that asks for metrics and reports."""

    def __init__(self, stub: Any) -> None:
        self._monitoring = Door("monitoring", stub)


async def test_a_kill_in_the_middle_of_a_window_loses_nothing_and_repeats_nothing_and_late_labels_still_correct_it(
    outside: Outside, flow: Make, make_model: Make, make_source: Make, reference: Any
) -> None:
    model = await _a_watched_model(outside, make_model, make_source, reference)
    first, second, late = flow(0, 150), flow(150, 150), list(range(0, 100, 10))
    whole = first.labels.copy()
    first.labels[late] = np.nan
    await _live(outside, model, first)
    await outside.predict(second.predicted(model=model), watermark_ms=second.times[-1])
    client = Client(outside.stub)
    watch = client.watch_metrics(model, names=["mae"], since_ms=0)
    heard = [await anext(watch)]

    await outside.service.end(signal.SIGKILL)
    await outside.service.start()
    await _live(outside, model, second)

    health = await outside.health(model)
    assert (health.predictions, health.labels, health.unlabelled) == (300, 290, 10)

    first.labels = whole
    labels = first.labelled(late, after_ms=0)
    await outside.come_true(f"{model}-truths", labels.keys, labels.event_time_ms, labels.values)
    await _live(outside, model, flow(10 * 24 * 60, 1))

    async def revised() -> list[Any]:
        told = await outside.all_of(topics.METRICS_PERFORMANCE, model)
        return told if {it.name for it in told if it.revision} >= {"mae", "labelled_share"} else []

    told = await eventually(revised, what=f"revisions of what was told of {model}")
    times, known = [*first.times, *second.times], [at for at in range(300) if at not in late]
    maes = {
        (from_timestamp(it.window_from), from_timestamp(it.window_to), it.revision): it.rows
        for it in told
        if it.name == "mae"
    }
    begin, end = times[known[0]], times[known[99]]
    assert maes == {
        (begin, end, 0): 100,
        (begin, end, 1): 110,
        (times[known[100]], times[known[199]], 0): 100,
    }
    shares = [(it.value, it.rows, it.revision) for it in told if it.name == "labelled_share"]
    assert shares == [(0.9, 100, 0), (1.0, 100, 0), (1.0, 100, 0), (1.0, 100, 1)]
    assert await outside.loops(model) == []

    heard += [await anext(watch), await anext(watch)]
    await watch.aclose()  # type: ignore[attr-defined]
    assert {(it.id, it.revision) for it in heard} == {(it.id, it.revision) for it in told if it.name == "mae"}
    found = (await client.metrics(model, names=["mae"])).messages
    assert [(from_timestamp(it.window_from), it.revision) for it in found] == [
        (begin, 1),
        (times[known[100]], 0),
    ]
    assert (await client.metrics(model, names=["mae"], limit=1)).messages == found[1:]
    drift = (await client.metrics(model, subject="drift")).messages
    told = await outside.told(topics.METRICS_DRIFT, model, len(drift))
    assert {metric.id for metric in drift} == {metric.id for metric in told}
    made = await client.report(model, rows=150)
    assert (made.version, made.rows) == (1, 150)
    assert b"request.x" in made.html
    assert "metrics" in json.loads(made.json)


async def _a_model_on_trial(
    outside: Outside, make_model: Make, make_source: Make, reference: Any
) -> tuple[str, Rollout]:
    model = await _a_watched_model(outside, make_model, make_source, reference)
    rollout = Rollout(id=f"{model}/2/2", strategy="shadow", steps=[0])
    challenger = VersionRef(number=2)
    await outside.deploy(
        model, reference, generation=2, challenger=challenger, rollout=rollout, loop_id=f"{model}-loop"
    )
    event = VersionEvent(
        id=uuid.uuid4().hex, model=model, number=2, loop_id=f"{model}-loop", stage=VersionEvent.ON_TRIAL,
        rollout_id=rollout.id, at=to_timestamp(1_000),
    )  # fmt: skip
    await outside.tell(topics.VERSIONS, event, key=model)
    await outside.loop_in(model, "on_trial")
    return model, rollout


async def test_a_trial_is_judged_and_its_verdict_told_once(
    outside: Outside, flow: Make, make_model: Make, make_source: Make, reference: Any
) -> None:
    model, rollout = await _a_model_on_trial(outside, make_model, make_source, reference)
    part = flow(0, 300, error=2.0, generation=2, challenger_version=2, rollout_id=rollout.id)
    part.challenger = part.labels + 0.1
    await _live(outside, model, part)

    loop = await outside.loop_in(model, "promoting")
    assert loop.verdict.mean_difference > 0
    (verdict,) = await outside.told(topics.VERDICTS, model, 1)
    assert verdict.id == f"{rollout.id}/0/promote" == loop.verdict.id
    assert verdict.generation == 2


async def test_a_challenger_that_fails_is_taken_back_while_its_labels_are_still_to_come(
    outside: Outside, flow: Make, make_model: Make, make_source: Make, reference: Any
) -> None:
    model, rollout = await _a_model_on_trial(outside, make_model, make_source, reference)
    part = flow(0, 300, generation=2, challenger_version=2, rollout_id=rollout.id, took_us=(1_000, 1_200))
    part.challenger = np.where(np.arange(300) % 3, part.labels, np.nan)
    await outside.pass_time(f"{model}-truths", part.times[0])

    await outside.predict(part.predicted(model=model), watermark_ms=part.times[-1])

    loop = await outside.loop_in(model, "rolling_back")
    (verdict,) = await outside.told(topics.VERDICTS, model, 1)
    assert (verdict.guardrail, verdict.outcome, verdict.id) == (
        "failures",
        Verdict.ROLL_BACK,
        f"{rollout.id}/0/failures",
    )
    assert loop.verdict == verdict
    assert (await outside.health(model)).labels == 0


async def test_rubbish_is_a_dead_letter_and_the_stream_goes_on(
    outside: Outside, flow: Make, make_model: Make, make_source: Make, reference: Any
) -> None:
    model = await _a_watched_model(outside, make_model, make_source, reference)
    crooked = PredictionBatch(model=model, id=f"{model}-crooked", ids=["a"], champion_version=1)
    await outside.tell(topics.PREDICTIONS, crooked, key=model)
    await outside.producer.send_and_wait(
        topics.PREDICTIONS.name, b"\xff\xff\xff", key=model.encode(), partition=0
    )

    await _live(outside, model, flow(0, 20))

    letters = await outside.told(topics.DEADLETTER, model, 2)
    assert {letter.reasons[0].code for letter in letters} == {"rejected", "undecodable"}
