"""Serving from a bundle: with nothing else around, then beside a Kafka that has news, and never from a tampered one."""

import asyncio
import json
import os
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import VersionRef
from trimtab_contracts.serving.v1.serving_pb2 import PredictRequest, PredictResponse
from trimtab_contracts.serving.v1.serving_pb2_grpc import PredictionStub
from trimtab_core.slots import FoldState, Layout
from trimtab_runtime import admin, bundle, bus, records
from trimtab_runtime.bundle import Bundle, Record
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.pipeline import read_partition
from trimtab_runtime.records import Outgoing
from trimtab_runtime.testing import eventually
from trimtab_serving import testing
from trimtab_stack import ports

pytestmark = pytest.mark.real

DAY = 86_400_000
MIDNIGHT = 19_700 * DAY
KEY = b"a secret of the edge"


class Edge:
    """A bundle of version 1, which answers 1 plus ten times the zone's speed, 20 mph, and a machine to serve it on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.project = testing.project(f"-{uuid.uuid4().hex[:8]}")
        self.model = self.project.model.name
        self.address = f"127.0.0.1:{ports.choose()}"
        self.bundle, self.key = path / "minutes.bundle", path / "key"
        self.key.write_bytes(KEY)
        view = self.project.speed
        fold = FoldState(Layout.of(view.spec, self.project.dropoffs.spec.lateness))
        fold.fold(["7", "7"], np.array([MIDNIGHT, MIDNIGHT + 1]), np.array([[10.0], [30.0]]))
        made = self.version(1)
        found = [
            *self.project.specs,
            *testing.features(view.name, fold, MIDNIGHT + DAY, 2),
            testing.deployment(self.model, 1, made),
        ]
        content = Path(made.model.uri).read_bytes()
        Path(made.model.uri).unlink()
        kept = [Record(each.topic, each.partition or 0, each.key or b"", each.value or b"") for each in found]
        bundle.write(
            self.bundle,
            Bundle(self.model, 1, MIDNIGHT, MIDNIGHT + DAY, kept, {made.model.digest: content}),
            KEY,
        )

    def version(self, number: int) -> VersionRef:
        return testing.version(
            self.path, number, self.project.features, testing.linear_model([0, 0, 10], bias=number)
        )

    def start(self, **environ: str) -> "subprocess.Popen[str]":
        given = {name: value for name, value in os.environ.items() if not name.startswith("TRIMTAB_")}  # noqa: TID251
        own = {"TRIMTAB_GRPC_ADDRESS": self.address, "TRIMTAB_SERVING_CATCH_UP_S": "1", **environ}
        words = ["--bundle", str(self.bundle), "--key", str(self.key)]
        return subprocess.Popen(
            [sys.executable, "-m", "trimtab_serving", *words],
            cwd=self.path,
            env=given | own,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )

    @contextmanager
    def serving(self, **environ: str) -> "Iterator[subprocess.Popen[str]]":
        process = self.start(**environ)
        try:
            yield process
        finally:
            process.terminate()
            process.communicate()

    async def ask(self, trip: str) -> PredictResponse | None:
        at = iso(MIDNIGHT + DAY // 2)
        row = json.dumps({"trip": trip, "at": at, "zone": 7, "distance": 1}).encode()
        with suppress(grpc.aio.AioRpcError):  # it is about to begin
            async with grpc.aio.insecure_channel(self.address) as channel:
                return await PredictionStub(channel).Predict(
                    PredictRequest(model=self.model, rows=[row]), timeout=5
                )
        return None


@pytest.fixture
def edge(tmp_path: Path) -> Edge:
    return Edge(tmp_path)


async def test_a_bundle_answers_with_nothing_else_around_and_is_caught_up_with_when_kafka_comes(
    edge: Edge, kafka_servers: str
) -> None:
    with edge.serving():
        alone = await eventually(lambda: edge.ask("alone"), what="an answer from the bundle")
    assert alone is not None
    assert (list(alone.predictions), list(alone.versions)) == ([201], [1])
    assert from_timestamp(alone.features_until) == MIDNIGHT + DAY

    other = testing.project(f"-{uuid.uuid4().hex[:8]}")
    view = topics.FEATURES.named(edge.project.speed.name, partitions=2)
    await admin.ensure_topics(
        kafka_servers, [*topics.STATIC, view, topics.TABLES.named(edge.project.zones.name)]
    )
    await publish(
        kafka_servers,
        *other.specs,
        testing.deployment(other.model.name, 1, edge.version(1)),
        testing.deployment(edge.model, 2, edge.version(2), previous=edge.version(1)),
    )
    with edge.serving(TRIMTAB_KAFKA_SERVERS=kafka_servers):

        async def answers_anew() -> bool:
            answer = await edge.ask("later")
            return answer is not None and list(answer.versions) == [2]

        async def is_logged() -> bool:
            return alone.ids[0] in await logged(kafka_servers, edge.model)

        await eventually(answers_anew, what="an answer by what is deployed by now")
        await eventually(is_logged, what="what was answered before there was a Kafka, in the log")
        async with grpc.aio.insecure_channel(edge.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError, match="no model"):
                await PredictionStub(channel).Predict(PredictRequest(model=other.model.name, rows=[b"{}"]))


async def test_a_tampered_bundle_is_refused_with_the_part_that_is_wrong(edge: Edge) -> None:
    rewrite(edge.bundle)

    process = edge.start()
    _, said = await asyncio.to_thread(process.communicate)

    assert process.returncode == 1
    assert "part records/deployments is not what was signed: get it anew" in said
    assert not (edge.path / "trimtab-serving").exists()


def rewrite(path: Path) -> None:
    """Change what a bundle says is to be served, and nothing else."""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    parts["records/deployments"] = parts["records/deployments"].replace(b'"1"', b'"2"')
    with zipfile.ZipFile(path, "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)


async def publish(servers: str, *found: Outgoing) -> None:
    async with bus.open_producer(servers) as producer:
        await records.send_all(producer, found)


async def logged(servers: str, model: str) -> list[str]:
    found = []
    for partition in range(topics.PREDICTIONS.partitions):
        async for batch in read_partition(servers, topics.PREDICTIONS.name, partition):
            for record in batch:
                with suppress(topics.Undecodable):  # which others may have left there
                    message = topics.PREDICTIONS.decode(record.value)
                    found += list(message.ids) if message.model == model else []
    return found
