"""What an MLflow server is shown of runs and versions; a real one, read with MLflow's own client."""

import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient
from trimtab_contracts.common.v1.common_pb2 import Artifact
from trimtab_contracts.registry.v1.registry_pb2 import Candidate, TableVersion, VersionEvent
from trimtab_contracts.training.v1.training_pb2 import RunEvent
from trimtab_runtime import artifacts
from trimtab_runtime.clock import to_timestamp
from trimtab_runtime.errors import Rejected, Unavailable
from trimtab_stack.testing import MLflowServer
from trimtab_trainer import mlflow
from trimtab_trainer.errors import BadTrackingUri
from trimtab_trainer.mlflow import Mirror


class Deployed:
    """What is wanted, as the test says."""

    champion = challenger = 0

    def numbers(self, model: str) -> tuple[int, int]:
        return self.champion, self.challenger


class Seen:
    """A mirror of the real server, and MLflow's own client beside it."""

    def __init__(self, client: httpx.AsyncClient, uri: str, folder: Path) -> None:
        self.deployed = Deployed()
        self.mirror = Mirror(client, self.deployed)
        self.theirs = MlflowClient(uri, registry_uri=uri)
        self.model = f"trips-{uuid.uuid4().hex[:8]}"
        self._folder = folder

    def event(self, run: str, status: Any, **more: Any) -> RunEvent:
        event = RunEvent(
            id=f"{run}/{status}", run_id=run, loop_id=f"loop-{run}", model=self.model, trigger="data",
            status=status, as_of=to_timestamp(5_000), at=to_timestamp(9_000), **more,
        )  # fmt: skip
        if status == RunEvent.SUCCEEDED:
            event.candidate.CopyFrom(self.candidate(run))
        return event

    def candidate(self, run: str) -> Candidate:
        def put(text: str) -> Artifact:
            return artifacts.put(self._folder, f"{text} of {run}".encode())

        made = Candidate(
            run_id=run, model=put("graph"), reference=put("reference"), evaluation=put("evaluation"), seed=7, rows=90,
            metrics={"mae": 2.5, "champion_mae": 3.0}, dataset_digest="d1gest", environment={"onnx": "1.23"},
            tables=[TableVersion(table="events/trips", version=4)],
        )  # fmt: skip
        made.parameters["kind"] = "linear"
        return made

    async def told(self, run: str) -> None:
        for status in (RunEvent.QUEUED, RunEvent.STARTED, RunEvent.SUCCEEDED):
            await self.mirror.run(self.event(run, status))

    async def stage(self, run: str, number: int, stage: Any) -> None:
        await self.mirror.version(
            VersionEvent(model=self.model, number=number, run_id=run, loop_id=f"loop-{run}", stage=stage)
        )

    def runs(self) -> list[Any]:
        experiment = self.theirs.get_experiment_by_name(self.model)
        return list(self.theirs.search_runs([experiment.experiment_id])) if experiment else []

    def downloaded(self, run: str, path: str, folder: Path) -> str:
        return Path(self.theirs.download_artifacts(run, path, str(folder))).read_text()

    def aliases(self) -> dict[str, str]:
        """Return our number of the version that each alias names."""
        named = self.theirs.get_registered_model(self.model).aliases
        return {
            alias: self.theirs.get_model_version(self.model, version).tags["trimtab.version"]
            for alias, version in named.items()
        }


@pytest.fixture
async def seen(mlflow_server: MLflowServer, tmp_path: Path) -> AsyncIterator[Seen]:
    async with mlflow.opened(mlflow_server.url) as client:
        yield Seen(client, mlflow_server.url, tmp_path)


@pytest.mark.real
async def test_a_run_is_shown_with_what_it_was_made_of_and_came_to(seen: Seen, tmp_path: Path) -> None:
    await seen.told("run-1")

    [run] = seen.runs()
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"mae": 2.5, "champion_mae": 3.0}
    assert run.data.params["kind"] == "linear" and run.data.params["seed"] == "7"
    tags = run.data.tags
    assert {tags[f"trimtab.{name}"] for name in ("run_id", "loop_id", "dataset_digest", "tables")} == {
        "run-1", "loop-run-1", "d1gest", "events/trips@4",
    }  # fmt: skip
    assert seen.downloaded(run.info.run_id, "model/model.onnx", tmp_path) == "graph of run-1"
    assert {each.path for each in seen.theirs.list_artifacts(run.info.run_id)} == {
        "model", "reference.arrow", "evaluation.arrow",
    }  # fmt: skip


@pytest.mark.real
async def test_what_is_told_again_changes_nothing(seen: Seen) -> None:
    for _ in range(2):
        await seen.told("run-1")
    for _ in range(2):
        await seen.stage("run-1", 1, VersionEvent.ACCEPTED)

    assert len(seen.runs()) == 1
    assert len(seen.theirs.search_model_versions(f"name = '{seen.model}'")) == 1


@pytest.mark.real
async def test_a_run_whose_artifacts_are_gone_has_ended_all_the_same(seen: Seen, tmp_path: Path) -> None:
    await seen.mirror.run(seen.event("run-1", RunEvent.STARTED))
    event = seen.event("run-1", RunEvent.SUCCEEDED)
    shutil.rmtree(tmp_path)

    with pytest.raises(Rejected):
        await seen.mirror.run(event)

    [run] = seen.runs()
    assert (run.info.status, run.data.metrics["mae"]) == ("FINISHED", 2.5)


@pytest.mark.real
async def test_a_run_that_failed_or_was_cancelled_says_so(seen: Seen) -> None:
    await seen.mirror.run(seen.event("run-1", RunEvent.FAILED, error="there are 3 labelled rows"))
    await seen.mirror.run(seen.event("run-2", RunEvent.CANCELLED))

    assert {run.info.status for run in seen.runs()} == {"FAILED", "KILLED"}
    assert "there are 3 labelled rows" in {run.data.tags.get("trimtab.error") for run in seen.runs()}


@pytest.mark.real
async def test_versions_are_registered_and_aliases_say_what_serves(seen: Seen) -> None:
    for run in ("run-1", "run-2"):
        await seen.told(run)
    await seen.stage("run-1", 1, VersionEvent.ACCEPTED)
    seen.deployed.champion = 1
    await seen.stage("run-1", 1, VersionEvent.LIVE)
    assert seen.aliases() == {"champion": "1"}

    seen.deployed.challenger = 2
    await seen.stage("run-2", 2, VersionEvent.ON_TRIAL)
    assert seen.aliases() == {"champion": "1", "challenger": "2"}

    seen.deployed.champion, seen.deployed.challenger = 2, 0
    await seen.stage("run-2", 2, VersionEvent.LIVE)
    assert seen.aliases() == {"champion": "2"}

    seen.deployed.champion = 1
    await seen.stage("run-2", 2, VersionEvent.ROLLED_BACK)
    assert seen.aliases() == {"champion": "1"}
    newest = seen.theirs.get_model_version_by_alias(seen.model, "champion")
    assert (
        newest.run_id in {run.info.run_id for run in seen.runs()} and newest.tags["trimtab.stage"] == "live"
    )


@pytest.mark.real
async def test_a_version_of_a_run_that_it_was_never_told_of_is_left_out(seen: Seen) -> None:
    with pytest.raises(Rejected, match="was told of no run run-9"):
        await seen.stage("run-9", 1, VersionEvent.LIVE)


@pytest.mark.real
async def test_a_server_that_is_away_is_asked_again_and_what_was_half_told_is_told_whole(
    seen: Seen, mlflow_server: MLflowServer
) -> None:
    await seen.mirror.run(seen.event("run-1", RunEvent.STARTED))
    mlflow_server.kill()
    try:
        with pytest.raises(Unavailable, match="does not answer"):
            await seen.mirror.run(seen.event("run-1", RunEvent.SUCCEEDED))
    finally:
        mlflow_server.start()

    await seen.mirror.run(seen.event("run-1", RunEvent.SUCCEEDED))

    [run] = seen.runs()
    assert (run.info.status, run.data.metrics["mae"]) == ("FINISHED", 2.5)


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "http://", "sqlite:///x.db"])
async def test_a_setting_that_names_no_server_is_refused_with_the_remedy(uri: str) -> None:
    with pytest.raises(BadTrackingUri, match="write http://host:port"):
        async with mlflow.opened(uri):
            pass


@pytest.mark.parametrize(
    ("status", "fault"), [(500, Unavailable), (429, Unavailable), (403, Unavailable), (404, Rejected)]
)
async def test_what_may_pass_is_waited_for_and_what_will_not_is_refused(
    status: int, fault: type[Exception]
) -> None:
    answers = httpx.MockTransport(lambda request: httpx.Response(status, text="no"))
    async with httpx.AsyncClient(transport=answers, base_url="http://mlflow/") as client:
        with pytest.raises(fault, match=str(status)):
            await Mirror(client, Deployed()).run(RunEvent(run_id="r", model="m", status=RunEvent.SUCCEEDED))
