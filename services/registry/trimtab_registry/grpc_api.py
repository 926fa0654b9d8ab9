"""gRPC door of the registry: translation only."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import json_format
from trimtab_contracts.registry.v1 import registry_pb2 as pb
from trimtab_contracts.registry.v1.registry_pb2_grpc import RegistryServicer
from trimtab_runtime import artifacts, rpc
from trimtab_runtime.clock import from_timestamp

from trimtab_registry import messages
from trimtab_registry.errors import NoEvidence, UnknownAlias, UnknownRun, Unsigned
from trimtab_registry.usecases import lifecycle
from trimtab_registry.usecases.applying import Specs
from trimtab_registry.usecases.approvals import Approvals
from trimtab_registry.usecases.collecting import Collector
from trimtab_registry.usecases.contests import Contests
from trimtab_registry.usecases.decisions import Decisions
from trimtab_registry.usecases.deleting import Deleting
from trimtab_registry.usecases.entities import Version
from trimtab_registry.usecases.externals import ExternalChecks
from trimtab_registry.usecases.naming import Names
from trimtab_registry.usecases.ports import Store
from trimtab_registry.usecases.rollouts import Standing
from trimtab_registry.usecases.tags import Tags

_MOST_MODELS = 1_000


class RegistryApi(RegistryServicer):
    """Answers `trimtab.registry.v1.Registry`."""

    def __init__(
        self, store: Store, specs: Specs, approvals: Approvals, decisions: Decisions, tags: Tags,
        names: Names, deleting: Deleting, collector: Collector, checks: ExternalChecks, contests: Contests,
    ) -> None:  # fmt: skip
        self._store = store
        self._specs = specs
        self._approvals = approvals
        self._decisions = decisions
        self._tags = tags
        self._names = names
        self._deleting = deleting
        self._collector = collector
        self._checks = checks
        self._contests = contests

    async def Apply(self, request: pb.ApplyRequest, context: Any) -> pb.ApplyResponse:
        """Make documents the wanted state, all or none; or only say what that would change."""
        documents = [json_format.MessageToDict(document) for document in request.documents]
        changes = await self._specs.apply(documents, request.actor, validate_only=request.validate_only)
        return pb.ApplyResponse(
            changes=[
                pb.ApplyResponse.Change(
                    kind=change.kind, name=change.name, action=change.action, generation=change.generation
                )
                for change in changes
            ]
        )

    async def GetResource(self, request: pb.GetResourceRequest, context: Any) -> pb.Resource:
        """Return a spec as applied, at present or in a generation."""
        return messages.resource(await self._specs.get(request.kind, request.name, request.generation))

    async def ListGenerations(
        self, request: pb.ListGenerationsRequest, context: Any
    ) -> pb.ListResourcesResponse:
        """Return every generation of a spec, oldest first."""
        found = await self._specs.history(request.kind, request.name)
        return pb.ListResourcesResponse(resources=[messages.resource(applied) for applied in found])

    async def DeleteResource(self, request: pb.DeleteResourceRequest, context: Any) -> pb.Resource:
        """Take a spec away that nothing leans on."""
        return messages.resource(
            await self._deleting.delete(
                request.kind, request.name, actor=request.actor, comment=request.comment
            )
        )

    async def ListResources(self, request: pb.ListResourcesRequest, context: Any) -> pb.ListResourcesResponse:
        """Return the specs of a kind, or of all."""
        found = await self._specs.list(request.kind)
        return pb.ListResourcesResponse(resources=[messages.resource(applied) for applied in found])

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        """Return some models by name: what serves, and what waits for a person."""
        limit = rpc.limit(request.limit, unless=100, most=_MOST_MODELS)
        found = await self._store.models(request.prefix, request.after, limit + 1)
        models = [messages.listed(model) for model in found[:limit]]
        return pb.ListModelsResponse(models=models, more=len(found) > limit)

    async def ListVersions(self, request: pb.ListVersionsRequest, context: Any) -> pb.ListVersionsResponse:
        """Return a model's versions, or the one that was live at a time, or that is called so."""
        await lifecycle.known(self._store, request.model)
        at = from_timestamp(request.live_at) if request.HasField("live_at") else None
        standing = await self._store.standing(request.model)
        found = [
            messages.version(version, standing) for version in await self._store.versions(request.model, at)
        ]
        if called := request.called:
            found = [each for each in found if called in (str(each.number), *each.aliases)]
            if not found and at is None:
                raise UnknownAlias(request.model, called)
        return pb.ListVersionsResponse(versions=found)

    async def GetDeployment(self, request: pb.GetDeploymentRequest, context: Any) -> pb.Deployment:
        """Return the wanted state of a model; its generation is 0 while nothing is wanted."""
        standing = await self._store.standing(request.model)
        if not standing.generation:
            await lifecycle.known(self._store, request.model)
        return await self._deployment(standing)

    async def Approve(self, request: pb.DecideRequest, context: Any) -> pb.Deployment:
        """Take in that a version is approved, and let it on if that is enough."""
        return await self._deployment(
            await self._approvals.approve(
                request.model, request.number, actor=request.actor, comment=request.comment
            )
        )

    async def Reject(self, request: pb.DecideRequest, context: Any) -> pb.Version:
        """Turn down a version that waits for approval."""
        return await self._version(
            await self._approvals.reject(
                request.model, request.number, actor=request.actor, comment=request.comment
            )
        )

    async def PostCheck(self, request: pb.PostCheckRequest, context: Any) -> pb.Version:
        """Take in what a tool outside says of a version."""
        return await self._version(
            await self._checks.post(
                request.model, request.number, request.name, passed=request.passed, actor=request.actor,
                comment=request.comment, url=request.url,
            )
        )  # fmt: skip

    async def Promote(self, request: pb.DecideRequest, context: Any) -> pb.Deployment:
        """Make a version the champion."""
        return await self._deployment(
            await self._decisions.promote(
                request.model, request.number, actor=request.actor, comment=request.comment
            )
        )

    async def Rollback(self, request: pb.RollbackRequest, context: Any) -> pb.Deployment:
        """Bring the previous champion back."""
        return await self._deployment(
            await self._decisions.roll_back(request.model, actor=request.actor, comment=request.comment)
        )

    async def BeginTest(self, request: pb.BeginTestRequest, context: Any) -> pb.Deployment:
        """Begin an A/B test of versions beside the champion."""
        return await self._deployment(
            await self._contests.begin(
                request.model, list(request.numbers), list(request.shares), actor=request.actor, comment=request.comment
            )
        )  # fmt: skip

    async def EndTrial(self, request: pb.EndTrialRequest, context: Any) -> pb.Deployment:
        """End what is on trial; the champion stays."""
        return await self._deployment(
            await self._contests.end(request.model, actor=request.actor, comment=request.comment)
        )

    async def Retire(self, request: pb.RetireRequest, context: Any) -> pb.RetireResponse:
        """Let a version go for good, or take a whole model out of service."""
        said = {"actor": request.actor, "comment": request.comment}
        if not request.number:
            return pb.RetireResponse(retired=await self._decisions.withdraw(request.model, **said))
        version = await self._decisions.retire(request.model, request.number, **said)
        return pb.RetireResponse(retired=[version.number])

    async def SetAlias(self, request: pb.SetAliasRequest, context: Any) -> pb.SetAliasResponse:
        """Make an alias name a version, or nothing."""
        before = await self._names.alias(
            request.model, request.alias, request.number, actor=request.actor, comment=request.comment
        )
        return pb.SetAliasResponse(before=before)

    async def TagVersion(self, request: pb.TagVersionRequest, context: Any) -> pb.Version:
        """Put tags on a version, and take others off."""
        return await self._version(
            await self._names.tag(
                request.model, request.number, dict(request.put), list(request.remove),
                actor=request.actor, comment=request.comment,
            )
        )  # fmt: skip

    async def CollectArtifacts(
        self, request: pb.CollectArtifactsRequest, context: Any
    ) -> pb.CollectArtifactsResponse:
        """Throw away the files whose time has come, or only say which would go."""
        if not request.dry_run and not request.actor:
            raise Unsigned("actor", "say who throws them away")
        found = await (self._collector.look() if request.dry_run else self._collector.sweep(request.actor))
        return messages.collected(found, self._collector.retention.keep_ms or 0)

    async def RebuildView(self, request: pb.RebuildViewRequest, context: Any) -> pb.Resource:
        """Begin a view's next generation."""
        return messages.resource(await self._specs.rebuild(request.name, request.actor, request.reason))

    async def TagDataset(self, request: pb.TagDatasetRequest, context: Any) -> pb.TagDatasetResponse:
        """Make a tag name the dataset of a run."""
        tag, before = await self._tags.put(
            request.name, request.run_id, actor=request.actor, comment=request.comment
        )
        return pb.TagDatasetResponse(
            tag=messages.dataset_tag(tag), before=messages.dataset_tag(before) if before else None
        )

    async def UntagDataset(self, request: pb.UntagDatasetRequest, context: Any) -> pb.UntagDatasetResponse:
        """Remove a tag."""
        tag = await self._tags.remove(request.name, actor=request.actor, comment=request.comment)
        return pb.UntagDatasetResponse(tag=messages.dataset_tag(tag))

    async def ListDatasetTags(
        self, request: pb.ListDatasetTagsRequest, context: Any
    ) -> pb.ListDatasetTagsResponse:
        """Return all tags by name."""
        return pb.ListDatasetTagsResponse(tags=[messages.dataset_tag(tag) for tag in await self._tags.list()])

    async def GetEvidence(self, request: pb.GetEvidenceRequest, context: Any) -> pb.GetEvidenceResponse:
        """Return what was found of the version that was made of a run."""
        async with self._store.begin() as unit:
            version = await unit.version_of_run(request.run_id)
        if version is None:
            raise UnknownRun(request.run_id)
        candidate = messages.candidate_message(version.candidate)
        if not candidate.HasField("evidence"):
            raise NoEvidence(request.run_id)
        content = await asyncio.to_thread(artifacts.fetch, candidate.evidence)
        return pb.GetEvidenceResponse(text=content.decode())

    async def GetAudit(self, request: pb.GetAuditRequest, context: Any) -> pb.GetAuditResponse:
        """Return who did what, newest first."""
        found = await self._store.audit(messages.audit_query(request))
        return pb.GetAuditResponse(entries=[messages.audit_entry(entry) for entry in found])

    async def ReadAudit(
        self, request: pb.ReadAuditRequest, context: Any
    ) -> AsyncIterator[pb.GetAuditResponse]:
        """Return the whole audit log, oldest first, some hundreds of entries at a time."""
        async for page in self._store.read_audit():
            yield pb.GetAuditResponse(entries=[messages.audit_entry(entry) for entry in page])

    async def _version(self, version: Version) -> pb.Version:
        return messages.version(version, await self._store.standing(version.model))

    async def _deployment(self, standing: Standing) -> pb.Deployment:
        return messages.deployment(standing, await self._store.named_by(standing))
