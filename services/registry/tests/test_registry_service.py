"""The registry as a process on a real Kafka and PostgreSQL, which is killed and comes back."""

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from grpc_health.v1 import health_pb2, health_pb2_grpc
from trimtab_contracts import topics
from trimtab_contracts.common.v1.common_pb2 import Artifact
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Verdict
from trimtab_contracts.registry.v1 import registry_pb2 as pb
from trimtab_contracts.registry.v1.registry_pb2_grpc import RegistryStub
from trimtab_contracts.serving.v1.serving_pb2 import ServingStatus
from trimtab_contracts.training.v1.training_pb2 import RunEvent
from trimtab_registry.store import PostgresStore
from trimtab_registry.testing import an_evaluation, documents
from trimtab_registry.usecases.decisions import Decisions
from trimtab_registry.usecases.roles import Roles
from trimtab_runtime import admin, artifacts, bus, records, rpc
from trimtab_runtime.clock import SystemClock, to_timestamp
from trimtab_runtime.errors import NotFound, Rejected
from trimtab_runtime.follow import Follower
from trimtab_runtime.postgres import open_pool
from trimtab_runtime.testing import eventually
from trimtab_stack import ports
from trimtab_stack.kafka import Kafka

pytestmark = pytest.mark.real
M = TypeVar("M", bound=Message)
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class World:
    """Everything around one registry process: the other services' topics, and its door."""

    def __init__(self, servers: str, dsn: str, folder: Path) -> None:
        self.servers = servers
        self.dsn = dsn
        self.folder = folder
        self.schema = f"registry_{uuid.uuid4().hex[:8]}"
        self.prefix = f"r{uuid.uuid4().hex[:6]}-"
        self.model = f"{self.prefix}minutes"
        self.address = f"127.0.0.1:{ports.choose()}"
        self.heard: dict[str, list[Any]] = {}
        self.producer: Any = None

    @asynccontextmanager
    async def registry(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run a registry process until the end of the block."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "trimtab_registry",
            env={
                **os.environ,  # noqa: TID251 - the child gets ours, and what a stack would tell it
                "TRIMTAB_KAFKA_SERVERS": self.servers,
                "TRIMTAB_POSTGRES_DSN": self.dsn,
                "TRIMTAB_GRPC_ADDRESS": self.address,
                "TRIMTAB_REGISTRY_SCHEMA": self.schema,
                "TRIMTAB_TRACE_FILE": str(self.folder / "trace.jsonl"),
            },
        )
        try:
            async with rpc.channel(self.address) as channel:
                await eventually(lambda: _serves(channel, process), what="a ready registry")
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 60) in (0, -signal.SIGKILL)

    async def send(
        self, topic: topics.Topic[M], message: M, key: str, id: str, trace: str | None = None
    ) -> None:
        record = records.outgoing(topic, message, key=key, id=id, source="test", time_ms=1, traceparent=trace)
        await records.send_all(self.producer, [record])

    async def run_succeeds(self, name: str, champion: int) -> None:
        content = an_evaluation(error=1.0, champion_error=3.0 if champion else None)
        file = await asyncio.to_thread(artifacts.put, self.folder, content)
        run = RunEvent(
            id=f"{self.prefix}{name}/succeeded",
            run_id=self.prefix + name,
            model=self.model,
            loop_id=f"loop-{name}",
            status=RunEvent.SUCCEEDED,
            as_of=to_timestamp(1_000),
            candidate=pb.Candidate(
                run_id=self.prefix + name,
                model=Artifact(uri="/nowhere", digest=name),
                evaluation=file,
                features=["distance"],
                champion_version=champion,
            ),
        )
        for _ in range(2):  # a redelivery changes nothing
            await self.send(topics.RUNS, run, self.model, run.id, f"00-{TRACE}-00f067aa0ba902b7-01")

    async def serving_says(self, *warm: int, champion: int) -> None:
        now = SystemClock().now_ms()
        status = ServingStatus(
            model=self.model,
            instance="serving-0",
            generation=self.wanted().generation,
            champion_version=champion,
            versions=[ServingStatus.Loaded(number=number, warm=True) for number in warm],
            lease_until=to_timestamp(now + 600_000),
        )
        await self.send(topics.SERVING_STATUS, status, f"{self.model}@serving-0", f"{self.model}{now}")

    def wanted(self) -> pb.Deployment:
        """Return the last deployment that was told."""
        told: list[pb.Deployment] = self.told(topics.DEPLOYMENTS)
        return told[-1] if told else pb.Deployment()

    def told(self, topic: topics.Topic[M]) -> list[M]:
        return [topic.decode(raw.value) for raw in self.heard.get(topic.name, [])]

    def stages(self, number: int) -> list[str]:
        return [
            pb.VersionEvent.Stage.Name(event.stage)
            for event in self.told(topics.VERSIONS)
            if event.number == number
        ]

    async def _hear(self, topic: str, _: int, batch: Sequence[Any]) -> None:
        ours = [raw for raw in batch if (raw.key or b"").decode().rpartition("/")[2].startswith(self.prefix)]
        self.heard.setdefault(topic, []).extend(ours)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["World"]:
        """Listen to what the registry tells."""
        await admin.ensure_topics(self.servers, topics.STATIC)
        listened = [topics.SPECS, topics.DEPLOYMENTS, topics.VERSIONS, topics.AUDIT]
        follower = Follower(self.servers, [topic.name for topic in listened], self._hear)
        self.producer = await bus.start_producer(self.servers)
        try:
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(follower.run())
                yield self
                reading.cancel()
        finally:
            await self.producer.stop()


async def _serves(channel: Any, process: asyncio.subprocess.Process) -> bool:
    assert process.returncode is None, "the registry ended"
    try:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
    except Exception:  # not listening yet
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@pytest.fixture
async def world(kafka_servers: str, postgres_dsn: str, tmp_path: Path) -> AsyncIterator[World]:
    async with World(kafka_servers, postgres_dsn, tmp_path).open() as opened:
        yield opened


async def until(probe: Callable[[], object], what: str) -> None:
    async def ask() -> bool:
        return bool(probe())

    await eventually(ask, what=what)


async def call(world: World, method: str, request: Any) -> Any:
    async with rpc.channel(world.address) as channel:
        try:
            return await getattr(RegistryStub(channel), method)(request, timeout=60)
        except Exception as error:
            raise rpc.error_of(error) from error  # type: ignore[arg-type]


async def apply(world: World, **model: Any) -> Any:
    sent = [json_format.ParseDict(document, Struct()) for document in documents(world.prefix, **model)]
    return await call(world, "Apply", pb.ApplyRequest(documents=sent, actor="ann"))


async def first_version_is_live(world: World) -> None:
    await apply(
        world, gates=[{"metric": "mae", "versus": "champion"}], rollout={"cap": 60, "strategy": "shadow"}
    )
    await world.run_succeeds("first", champion=0)
    await until(lambda: world.wanted().challenger.number == 1, "an order to load the first version")
    await world.serving_says(1, champion=0)
    await until(lambda: world.wanted().champion.number == 1, "the first champion")
    await world.serving_says(1, champion=1)
    await until(lambda: world.stages(1) == ["ACCEPTED", "LIVE"], "the first version live")


async def test_a_version_goes_from_run_to_live_and_back_over_real_parts(world: World) -> None:
    async with world.registry():
        await first_version_is_live(world)
        await until(
            lambda: [it.name for it in world.told(topics.SPECS)][-1:] == [world.model], "the specs on Kafka"
        )

        await world.run_succeeds("second", champion=1)
        await until(lambda: world.wanted().challenger.number == 2, "an order to load the challenger")
        await world.serving_says(1, 2, champion=1)
        await until(lambda: world.stages(2) == ["ACCEPTED", "ON_TRIAL"], "the trial")
        trial = world.wanted()
        verdict = Verdict(
            id=f"{world.prefix}verdict", model=world.model, rollout_id=trial.rollout.id, step=0,
            generation=trial.generation, outcome=Verdict.PROMOTE, sentence="better by 2 minutes", rows=200,
        )  # fmt: skip
        await world.send(topics.VERDICTS, verdict, world.model, verdict.id)
        await until(lambda: world.wanted().champion.number == 2, "the new champion")
        await world.serving_says(1, 2, champion=2)
        await until(lambda: world.stages(2)[-1] == "LIVE", "the new version live")

        wanted = await call(
            world, "Rollback", pb.RollbackRequest(model=world.model, actor="ann", comment="complaints")
        )
        assert (wanted.champion.number, wanted.generation) == (1, 5)
        await until(lambda: world.wanted() == wanted, "the rollback on Kafka")

        entries = (await call(world, "GetAudit", pb.GetAuditRequest(resource=f"Model/{world.model}"))).entries
        assert [entry.action for entry in entries[::-1]] == [
            "created", "accepted", "promoted", "live", "accepted", "on_trial", "promoted", "live", "rolled_back", "restored",
        ]  # fmt: skip
        sequences = [entry.sequence for entry in entries[::-1]]
        await until(
            lambda: [it.sequence for it in world.told(topics.AUDIT) if "Model" in it.resource] == sequences,
            "the same entries on Kafka",
        )
    traces = {dict(raw.headers)["traceparent"].decode().split("-")[1] for raw in world.heard["versions"]}
    assert traces == {TRACE}, "every step is told in the trace of the loop's run"


async def test_a_crash_between_commit_and_publish_is_healed(world: World) -> None:
    async with world.registry() as process:
        await first_version_is_live(world)
        await world.run_succeeds("second", champion=1)
        await until(lambda: world.wanted().challenger.number == 2, "an order to load the challenger")
        process.kill()
        await process.wait()

    async with open_pool(world.dsn, world.schema, package="trimtab_registry") as pool:
        # What the killed process would leave behind: a change that was committed, and nobody told of it.
        await Decisions(PostgresStore(pool), SystemClock(), Roles()).promote(
            world.model, 2, actor="ann", comment=""
        )
    assert world.wanted().generation == 3
    bogus = pb.Deployment(model=world.model, generation=77)
    await world.send(topics.DEPLOYMENTS, bogus, world.model, "eve")

    async with world.registry():
        await until(
            lambda: world.wanted().generation == 4, "the change that was not told, after the bogus one"
        )
        assert (world.wanted().rollout.strategy, world.wanted().challenger.number) == ("immediate", 2)
        await world.serving_says(1, 2, champion=1)
        await until(lambda: world.wanted().champion.number == 2, "the new champion")
        generations = [told.generation for told in world.told(topics.DEPLOYMENTS) if told.generation != 77]
        assert generations == sorted(generations)


async def test_errors_come_back_as_sentences(world: World) -> None:
    async with world.registry():
        with pytest.raises(Rejected) as caught:
            await apply(
                world, label={"source": "nobody", "on": "trip", "value": "minutes", "within": "4 parsecs"}
            )
        assert f"Model/{world.model}: spec.label.within: '4 parsecs' is no duration" in str(caught.value)
        assert [fault.path for fault in caught.value.faults] == ["spec.label.within"]
        with pytest.raises(NotFound, match="there is no Model 'nobody'"):
            await call(world, "GetDeployment", pb.GetDeploymentRequest(model="nobody"))


async def test_what_people_end_is_told_and_stays_ended_over_a_restart(world: World) -> None:
    model, by = world.model, {"actor": "ann", "comment": "no more taxis"}
    async with world.registry():
        await first_version_is_live(world)
        cancelled = RunEvent(
            id=f"{world.prefix}other/cancelled", run_id=f"{world.prefix}other", model=model, status=RunEvent.CANCELLED,
            cancelled_by="bob", cancel_reason="wrong data",
        )  # fmt: skip
        for _ in range(2):
            await world.send(topics.RUNS, cancelled, model, cancelled.id)
        await call(world, "SetAlias", pb.SetAliasRequest(model=model, alias="stable", number=1, **by))
        with pytest.raises(Rejected, match="is called 'stable'"):
            await call(world, "Retire", pb.RetireRequest(model=model, **by))
        await call(world, "SetAlias", pb.SetAliasRequest(model=model, alias="stable", **by))
        retired = await call(world, "Retire", pb.RetireRequest(model=model, **by))
        assert list(retired.retired) == [1]
        await until(lambda: not world.wanted().HasField("champion"), "the end of the service on Kafka")
        await call(world, "DeleteResource", pb.DeleteResourceRequest(kind="Model", name=model, **by))
        await until(lambda: world.heard[topics.SPECS.name][-1].value is None, "the tombstone")

        async def audited() -> bool:
            asked = pb.GetAuditRequest(resource=f"Model/{model}", action="run_cancelled")
            entries = (await call(world, "GetAudit", asked)).entries
            return [(entry.actor, entry.reason) for entry in entries] == [("bob", "wrong data")]

        await eventually(audited, what="the cancelled run in the audit log")
        told = len(world.heard[topics.SPECS.name])

    async with world.registry():
        with pytest.raises(NotFound):
            await call(world, "GetResource", pb.GetResourceRequest(kind="Model", name=model))
        asked = pb.ListGenerationsRequest(kind="Model", name=model)
        history = (await call(world, "ListGenerations", asked)).resources
        assert [(each.generation, each.deleted) for each in history] == [(1, False), (2, True)]
        assert len(world.heard[topics.SPECS.name]) == told, "what was told last is so, and is not told again"


async def test_a_broker_that_is_away_holds_the_news_back_and_no_decision(
    postgres_dsn: str, tmp_path: Path
) -> None:
    broker = Kafka(tmp_path / "kafka", ports.choose())
    await asyncio.to_thread(broker.start)
    try:
        async with World(broker.servers, postgres_dsn, tmp_path).open() as world, world.registry():
            await first_version_is_live(world)
            await world.run_succeeds("second", champion=1)
            await until(lambda: world.wanted().challenger.number == 2, "an order to load the challenger")
            await asyncio.to_thread(broker.kill)
            by = {"actor": "ann", "comment": "quick"}
            await call(world, "Promote", pb.DecideRequest(model=world.model, number=2, **by))
            await call(world, "SetAlias", pb.SetAliasRequest(model=world.model, alias="next", number=2, **by))
            wanted = await call(world, "GetDeployment", pb.GetDeploymentRequest(model=world.model))
            await asyncio.to_thread(broker.start)
            await until(lambda: world.wanted() == wanted, "what was decided while nobody could be told")
            generations = [told.generation for told in world.told(topics.DEPLOYMENTS)]
            assert generations == sorted(set(generations))
            entries = (await call(world, "GetAudit", pb.GetAuditRequest(limit=2))).entries
            assert [entry.action for entry in entries] == ["aliased", "hurried"]
    finally:
        await asyncio.to_thread(broker.kill)
