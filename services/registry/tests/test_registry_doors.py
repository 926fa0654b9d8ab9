"""The doors translate, hear what the table says, and let no rubbish in."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from trimtab_contracts import topics
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Verdict
from trimtab_contracts.registry.v1 import registry_pb2 as pb
from trimtab_contracts.serving.v1.serving_pb2 import ServingStatus
from trimtab_contracts.training.v1.training_pb2 import RunEvent
from trimtab_registry import messages, readback
from trimtab_registry.consumers import StatusDoor, subscriptions
from trimtab_registry.errors import NoEvidence, UnknownModel, UnknownResource, UnknownRun
from trimtab_registry.grpc_api import RegistryApi
from trimtab_registry.testing import Harness, a_run, an_evaluation, documents
from trimtab_registry.usecases.rollouts import Phase
from trimtab_runtime import artifacts
from trimtab_runtime.clock import to_timestamp
from trimtab_runtime.errors import Rejected


@pytest.fixture
async def registry() -> Harness:
    """A registry whose version 1 waits for serving to load it."""
    harness = Harness()
    await harness.apply()
    await harness.consider("first")
    return harness


@pytest.fixture
def api(registry: Harness) -> RegistryApi:
    return registry.api()


def raw(
    status: ServingStatus | None, *, key: bytes = b"minutes@serving-0", value: bytes | None = None
) -> Any:
    body = topics.SERVING_STATUS.encode(status) if status else value
    return SimpleNamespace(key=key, value=body, offset=7)


def warm(registry: Harness, champion: int = 0) -> ServingStatus:
    return ServingStatus(
        model="minutes",
        instance="serving-0",
        generation=9,
        champion_version=champion,
        versions=[ServingStatus.Loaded(number=1, warm=True)],
        lease_until=to_timestamp(registry.clock.now_ms() + 1_000),
    )


def test_the_registry_hears_exactly_what_the_table_says(registry: Harness) -> None:
    shared = {subscription.topic.name for subscription in subscriptions(registry.candidates, registry.trials)}
    assert shared | {topics.SERVING_STATUS.name} == topics.heard_by("registry")


async def test_only_runs_that_succeeded_become_versions(registry: Harness) -> None:
    runs = subscriptions(registry.candidates, registry.trials)[0]
    for status in (RunEvent.QUEUED, RunEvent.STARTED, RunEvent.FAILED):
        event = RunEvent(id=str(status), model="minutes", status=status)
        record = SimpleNamespace(message=event, topic="runs", traceparent=None)
        await runs.handler([cast(Any, record)])

    assert len(await registry.stages()) == 1


async def test_a_verdict_without_an_outcome_is_refused(registry: Harness) -> None:
    verdicts = subscriptions(registry.candidates, registry.trials)[1]
    record = SimpleNamespace(message=Verdict(id="v", model="minutes"), topic="verdicts", traceparent=None)
    with pytest.raises(Rejected, match="has no outcome"):
        await verdicts.handler([cast(Any, record)])


async def test_models_are_listed_a_page_at_a_time_with_whom_they_wait_for() -> None:
    registry = Harness("risk:ann,bob")
    await registry.apply(rollout={"approval": {"by": ["risk"], "approvers": 2, "expires": "7d"}})
    await registry.consider("first")
    await registry.approvals.approve("minutes", 1, actor="ann", comment="fine")
    api = registry.api()

    answer = await api.ListModels(pb.ListModelsRequest(limit=1), None)

    (model,) = answer.models
    assert (model.name, model.generation, model.champion, answer.more) == ("minutes", 1, 0, False)
    (waiting,) = model.waiting
    assert (waiting.number, list(waiting.approval.by), waiting.approval.approvers) == (1, ["risk"], 2)
    assert [(given.actor, given.comment) for given in waiting.approval.given] == [("ann", "fine")]
    assert waiting.approval.until.seconds == 7 * 86_400 + 10
    (version,) = (await api.ListVersions(pb.ListVersionsRequest(model="minutes"), None)).versions
    assert version.approval == waiting.approval
    assert not (await api.ListModels(pb.ListModelsRequest(prefix="h"), None)).models
    with pytest.raises(Rejected, match=r"^limit -1 is below 0"):
        await api.ListModels(pb.ListModelsRequest(limit=-1), None)
    with pytest.raises(Rejected, match=r"^limit -1 is below 0"):
        await api.GetAudit(pb.GetAuditRequest(limit=-1), None)


async def test_reports_are_acted_on_only_once_all_older_ones_were_read(registry: Harness) -> None:
    door = StatusDoor(registry.fleet, registry.trials)
    await door._hear("serving.status", 0, [raw(warm(registry))])
    rollout = (await registry.standing()).rollout
    assert rollout is not None
    assert rollout.phase is Phase.LOADING_TO_SERVE

    await door.become_current()
    assert (await registry.standing()).champion == 1
    await door._hear("serving.status", 0, [raw(warm(registry, champion=1))])
    assert (await registry.standing()).live == 1


async def test_rubbish_and_goodbyes_on_the_status_topic_stop_nothing(registry: Harness) -> None:
    door = StatusDoor(registry.fleet, registry.trials)
    await door.become_current()
    unknown = warm(registry)
    unknown.model = "nobody"
    await door._hear(
        "serving.status", 0, [raw(None, value=b"{"), raw(unknown), raw(None, key=b"x"), raw(warm(registry))]
    )

    assert (await registry.standing()).champion == 1
    await door._hear("serving.status", 0, [raw(None)])
    assert registry.fleet.of("minutes", registry.clock.now_ms()) == []


async def test_what_was_told_last_is_left_alone_and_all_else_is_told_again(registry: Harness) -> None:
    told: dict[tuple[str, str], Any] = {
        ("specs", held.key): messages.resource(held) for held in await registry.specs.list("")
    }
    told["deployments", "minutes"] = registry.deployments()[-1]
    assert await readback.heal(registry.store, told) == []

    told["deployments", "minutes"] = pb.Deployment(model="minutes", generation=99)
    del told["specs", "Source/pickups"]
    assert await readback.heal(registry.store, told) == ["specs/Source/pickups", "deployments/minutes"]
    assert registry.deployments()[-1] == registry.deployments()[-2]


async def test_apply_answers_with_what_changed(registry: Harness, api: RegistryApi) -> None:
    sent = [
        json_format.ParseDict(document, Struct()) for document in documents("other-", rollout={"cap": 60})
    ]
    answer = await api.Apply(pb.ApplyRequest(documents=sent, actor="ann"), None)

    assert [(change.kind, change.name, change.action, change.generation) for change in answer.changes][-1] == (
        "Model", "other-minutes", "created", 1,
    )  # fmt: skip
    found = await api.GetResource(pb.GetResourceRequest(kind="Model", name="other-minutes"), None)
    assert (found.generation, found.applied_by) == (1, "ann")
    assert found.document["spec"]["label"]["on"] == "trip"
    listed = await api.ListResources(pb.ListResourcesRequest(kind="Model"), None)
    assert [resource.name for resource in listed.resources] == ["minutes", "other-minutes"]


async def test_versions_deployments_and_audit_are_answered(registry: Harness, api: RegistryApi) -> None:
    await registry.serve()
    (version,) = (await api.ListVersions(pb.ListVersionsRequest(model="minutes"), None)).versions
    assert (version.number, version.stage, version.candidate.run_id) == (1, pb.VersionEvent.LIVE, "first")
    assert version.live_from == to_timestamp(10_000)
    before = pb.ListVersionsRequest(model="minutes", live_at=to_timestamp(9_000))
    assert not (await api.ListVersions(before, None)).versions

    assert (
        await api.GetDeployment(pb.GetDeploymentRequest(model="minutes"), None)
    ) == registry.deployments()[-1]
    entries = (await api.GetAudit(pb.GetAuditRequest(resource="Model/minutes", limit=2), None)).entries
    assert [entry.action for entry in entries] == ["live", "promoted"]


async def test_a_model_without_versions_has_an_empty_deployment() -> None:
    registry = Harness()
    await registry.apply()
    api = registry.api()
    wanted = await api.GetDeployment(pb.GetDeploymentRequest(model="minutes"), None)

    assert wanted == pb.Deployment(model="minutes")


async def test_people_decide_through_the_door(registry: Harness, api: RegistryApi) -> None:
    await registry.serve()
    await registry.consider("second", champion=1)
    await registry.serve()
    wanted = await api.Promote(pb.DecideRequest(model="minutes", number=2, actor="ann"), None)
    assert (wanted.champion.number, wanted.previous.number) == (2, 1)
    wanted = await api.Rollback(pb.RollbackRequest(model="minutes", actor="ann", comment="oh"), None)
    assert (wanted.champion.number, wanted.HasField("previous")) == (1, False)


async def test_unknown_things_are_not_found(api: RegistryApi) -> None:
    with pytest.raises(UnknownModel, match="there is no Model 'nobody'"):
        await api.ListVersions(pb.ListVersionsRequest(model="nobody"), None)
    with pytest.raises(UnknownModel):
        await api.GetDeployment(pb.GetDeploymentRequest(model="nobody"), None)
    with pytest.raises(UnknownResource):
        await api.GetResource(pb.GetResourceRequest(kind="Source", name="nobody"), None)
    with pytest.raises(UnknownModel):
        await api.Rollback(pb.RollbackRequest(model="nobody", actor="ann"), None)


async def test_the_evidence_of_a_version_is_what_its_run_kept(
    api: RegistryApi, registry: Harness, tmp_path: Path
) -> None:
    run = a_run("second")
    candidate = messages.candidate_message(run.candidate)
    candidate.evidence.CopyFrom(artifacts.put(tmp_path, b'{"rows": 3}'))
    registry.files[candidate.evaluation.uri] = an_evaluation()
    await registry.candidates.consider(replace(run, candidate=messages.candidate(candidate)))

    assert (await api.GetEvidence(pb.GetEvidenceRequest(run_id="second"), None)).text == '{"rows": 3}'
    with pytest.raises(
        NoEvidence, match="'first' came without evidence, from a trainer of an earlier release"
    ):
        await api.GetEvidence(pb.GetEvidenceRequest(run_id="first"), None)
    with pytest.raises(UnknownRun):
        await api.GetEvidence(pb.GetEvidenceRequest(run_id="third"), None)
