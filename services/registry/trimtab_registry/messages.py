"""What the registry keeps, as messages, and what it hears, as its own words."""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from trimtab_contracts.common.v1.common_pb2 import Artifact, GateResult
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Verdict as VerdictMessage
from trimtab_contracts.registry.v1 import registry_pb2 as pb
from trimtab_contracts.serving.v1.serving_pb2 import ServingStatus
from trimtab_contracts.training.v1.training_pb2 import RunEvent
from trimtab_core.durations import format_duration
from trimtab_core.gating import Gate
from trimtab_runtime import rpc
from trimtab_runtime.clock import from_timestamp, to_timestamp

from trimtab_registry.usecases.collecting import Let
from trimtab_registry.usecases.entities import (
    Applied,
    Approval,
    AuditQuery,
    CancelledRun,
    Candidate,
    Checks,
    Document,
    Entry,
    FinishedRun,
    Listed,
    Loaded,
    StageChange,
    Status,
    StoredFile,
    Tag,
    Verdict,
    Version,
)
from trimtab_registry.usecases.holding import computed
from trimtab_registry.usecases.rollouts import Standing


def struct(document: Mapping[str, Any]) -> Struct:
    """Return plain data as a Struct."""
    return json_format.ParseDict(dict(document), Struct())


def document(message: Any) -> dict[str, Any]:
    """Return a message's JSON mapping as plain data."""
    plain: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return plain


def resource(applied: Applied) -> pb.Resource:
    """Return a spec as applied."""
    return pb.Resource(
        kind=applied.kind,
        name=applied.name,
        generation=applied.generation,
        document=struct(applied.document),
        digest=applied.digest,
        applied_by=applied.applied_by,
        applied_at=to_timestamp(applied.applied_at_ms),
        deleted=applied.deleted,
    )


def named_by(standing: Standing) -> set[int]:
    """Return the numbers of the versions that a deployment holds."""
    numbers = (standing.champion, *standing.challengers, standing.previous)
    return {number for number in numbers if number is not None}


def deployment(standing: Standing, versions: Mapping[int, Version]) -> pb.Deployment:
    """Return the wanted state of a model; `versions` holds all that `named_by` names."""
    wanted = pb.Deployment(
        model=standing.model,
        generation=standing.generation,
        loop_id=standing.loop_id,
        champion=_named(versions, standing.champion),
        challenger=_named(versions, standing.challenger),
        previous=_named(versions, standing.previous),
        others=[_reference(versions[each]) for each in standing.challengers if each != standing.challenger],
    )
    if standing.generation:
        wanted.at.CopyFrom(to_timestamp(standing.changed_at_ms))
    if (trial := standing.trial) is not None:
        wanted.rollout.CopyFrom(
            pb.Rollout(
                id=trial.id,
                strategy=trial.strategy,
                step=trial.step,
                steps=trial.steps,
                share=trial.share,
                opened_at=to_timestamp(trial.opened_at_ms),
                arms=[
                    pb.Arm(
                        number=arm.number,
                        share=arm.share,
                        left=arm.left,
                        loop_id="" if arm.left else versions[arm.number].loop_id,
                    )
                    for arm in trial.arms
                ],
            )
        )
    return wanted


def _named(versions: Mapping[int, Version], number: int | None) -> pb.VersionRef | None:
    return None if number is None else _reference(versions[number])


def _reference(version: Version) -> pb.VersionRef:
    candidate = candidate_message(version.candidate)
    return pb.VersionRef(
        number=version.number,
        model=candidate.model,
        reference=candidate.reference,
        features=candidate.features,
        trained_to=candidate.trained_to,
        tables=candidate.tables,
        recipe=candidate.recipe,
        classes=candidate.classes,
        texts=candidate.texts,
    )


def candidate_message(candidate: Candidate) -> pb.Candidate:
    """Return a candidate whole, as the run offered it."""
    return json_format.ParseDict(dict(candidate.document), pb.Candidate(), ignore_unknown_fields=True)


def read_candidate(document: Document) -> Candidate:
    """Return a candidate from its `document`, as stored."""
    evaluation = document.get("evaluation", {})
    return Candidate(
        run_id=document.get("run_id", ""),
        evaluation=StoredFile(
            evaluation.get("uri", ""), evaluation.get("digest", ""), int(evaluation.get("size", 0))
        ),
        champion_version=int(document.get("champion_version", 0)),
        document=document,
    )


def candidate(message: pb.Candidate) -> Candidate:
    """Return what a run offers."""
    return read_candidate(document(message))


def artifact(file: StoredFile) -> Artifact:
    """Return the name of a stored file."""
    return Artifact(uri=file.uri, digest=file.digest, size=file.size)


def gate(found: Gate) -> GateResult:
    """Return what a gate found."""
    return GateResult(
        gate=found.gate,
        passed=found.passed,
        value=found.value,
        limit=found.limit,
        low=found.low,
        high=found.high,
        sentence=found.sentence,
    )


def version(held: Version, standing: Standing) -> pb.Version:
    """Return a version with its lineage, and what it is called where its model stands so."""
    message = pb.Version(
        model=held.model,
        number=held.number,
        stage=pb.VersionEvent.Stage.Value(held.stage.value),
        candidate=candidate_message(held.candidate),
        gates=[gate(found) for found in held.gates],
        loop_id=held.loop_id,
        created_at=to_timestamp(held.created_at_ms),
        aliases=[*computed(standing, held.number), *held.aliases],
        tags=held.tags,
    )
    if held.let_go_ms is not None:
        message.let_go.CopyFrom(to_timestamp(held.let_go_ms))
    if held.files_gone_ms is not None:
        message.files_gone.CopyFrom(to_timestamp(held.files_gone_ms))
    if held.live_from_ms is not None:
        message.live_from.CopyFrom(to_timestamp(held.live_from_ms))
    if held.live_to_ms is not None:
        message.live_to.CopyFrom(to_timestamp(held.live_to_ms))
    if held.approval is not None:
        message.approval.CopyFrom(approval(held.approval))
    if held.checks is not None:
        message.checks.CopyFrom(checks(held.checks))
    return message


def listed(held: Listed) -> pb.ListModelsResponse.Model:
    """Return a model in a list."""
    waiting = [
        pb.ListModelsResponse.Waiting(number=number, approval=approval(asked))
        for number, asked in held.waiting.items()
    ]
    return pb.ListModelsResponse.Model(
        name=held.name,
        generation=held.generation,
        applied_by=held.applied_by,
        champion=held.champion or 0,
        challenger=held.challenger or 0,
        waiting=waiting,
    )


def approval(held: Approval) -> pb.Approval:
    """Return what a version waits for, and who has approved."""
    given = [
        pb.Approval.Given(actor=each.actor, comment=each.comment, at=to_timestamp(each.at_ms))
        for each in held.given
    ]
    message = pb.Approval(by=held.by, approvers=held.approvers, given=given)
    if held.until_ms is not None:
        message.until.CopyFrom(to_timestamp(held.until_ms))
    return message


def checks(held: Checks) -> pb.Checks:
    """Return what a version waits for from outside, and what was posted."""
    posted = [
        pb.Checks.Check(
            name=each.name,
            passed=each.passed,
            actor=each.actor,
            roles=each.roles,
            at=to_timestamp(each.at_ms),
            comment=each.comment,
            url=each.url,
        )
        for each in held.posted
    ]
    message = pb.Checks(required=held.required, by=held.by, posted=posted)
    if held.until_ms is not None:
        message.until.CopyFrom(to_timestamp(held.until_ms))
    return message


def version_event(change: StageChange) -> pb.VersionEvent:
    """Return the news of a version."""
    held = change.version
    return pb.VersionEvent(
        id=f"{held.model}/{held.number}/{change.stage.value}/{change.generation}",
        model=held.model,
        number=held.number,
        run_id=held.candidate.run_id,
        loop_id=held.loop_id,
        stage=pb.VersionEvent.Stage.Value(change.stage.value),
        gates=[gate(found) for found in held.gates],
        sentence=change.sentence,
        actor=change.actor,
        at=to_timestamp(change.at_ms),
        rollout_id=change.rollout_id,
    )


def audit_entry(entry: Entry) -> pb.AuditEntry:
    """Return a line of the audit log."""
    return pb.AuditEntry(
        sequence=entry.sequence,
        resource=entry.resource,
        action=entry.action,
        actor=entry.actor,
        reason=entry.reason,
        details=struct(entry.details),
        at=to_timestamp(entry.at_ms),
        previous=entry.previous,
        hash=entry.hash,
    )


def audit_query(request: pb.GetAuditRequest) -> AuditQuery:
    """Return which entries of the audit log are asked for."""
    return AuditQuery(
        resource=request.resource,
        actor=request.actor,
        action=request.action,
        since_ms=from_timestamp(request.since) if request.HasField("since") else None,
        until_ms=from_timestamp(request.until) if request.HasField("until") else None,
        limit=rpc.limit(request.limit, unless=100, most=10_000),
    )


def collected(found: Sequence[Let], retention_ms: int) -> pb.CollectArtifactsResponse:
    """Return the versions that nothing refers to, with what of them goes."""
    return pb.CollectArtifactsResponse(
        files=[
            pb.CollectArtifactsResponse.Files(
                model=each.version.model,
                number=each.version.number,
                files=len(each.files),
                bytes=each.size,
                at=to_timestamp(each.at_ms),
                gone=each.gone,
            )
            for each in found
        ],
        retention=format_duration(retention_ms),
    )


def dataset_tag(tag: Tag) -> pb.DatasetTag:
    """Return a tag, with the dataset that it names."""
    return pb.DatasetTag(
        name=tag.name,
        run_id=tag.run_id,
        model=tag.model,
        dataset_digest=tag.digest,
        tagged_by=tag.tagged_by,
        tagged_at=to_timestamp(tag.tagged_at_ms),
    )


def finished_run(event: RunEvent) -> FinishedRun:
    """Return a run that succeeded."""
    return FinishedRun(
        id=event.id,
        model=event.model,
        loop_id=event.loop_id,
        as_of_ms=from_timestamp(event.as_of),
        candidate=candidate(event.candidate),
    )


def cancelled_run(event: RunEvent) -> CancelledRun:
    """Return a run that somebody ended."""
    return CancelledRun(
        id=event.id,
        run_id=event.run_id,
        model=event.model,
        loop_id=event.loop_id,
        actor=event.cancelled_by or "trainer",
        reason=event.cancel_reason,
        at_ms=from_timestamp(event.at),
    )


def verdict(message: VerdictMessage) -> Verdict:
    """Return what the judge says; its numbers go to the audit log as they are."""
    numbers = {
        "rows": message.rows,
        "mean_difference": message.mean_difference,
        "evidence": message.evidence,
        "alpha": message.alpha,
    }
    return Verdict(
        id=message.id,
        model=message.model,
        rollout_id=message.rollout_id,
        step=message.step,
        generation=message.generation,
        outcome=VerdictMessage.Outcome.Name(message.outcome),  # type: ignore[arg-type]
        sentence=message.sentence,
        numbers=numbers,
        challenger=message.challenger_version,
    )


def status(message: ServingStatus) -> Status:
    """Return what a serving instance says of a model."""
    return Status(
        model=message.model,
        instance=message.instance,
        generation=message.generation,
        champion=message.champion_version,
        versions=tuple(Loaded(held.number, held.warm, held.error) for held in message.versions),
        lease_until_ms=from_timestamp(message.lease_until),
    )
