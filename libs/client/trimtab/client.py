"""Trimtab from Python: the services' gRPC doors as one object.

    async with Trimtab.connect() as trimtab:
        answer = await trimtab.predict("trip-minutes", [{"trip_id": "1", ...}])

Failures are `Rejected` (the request is wrong) or `Unavailable` (try again later).
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Self, TypeVar

import grpc
import msgspec
import numpy as np
import pyarrow as pa
from google.protobuf import json_format
from numpy.typing import NDArray
from trimtab_contracts.features.v1 import features_pb2 as feature_store
from trimtab_contracts.features.v1.features_pb2_grpc import FeatureStoreStub
from trimtab_contracts.ingestion.v1 import ingestion_pb2 as ingestion
from trimtab_contracts.ingestion.v1.ingestion_pb2_grpc import IngestionStub
from trimtab_contracts.monitoring.v1 import monitoring_pb2 as monitoring
from trimtab_contracts.monitoring.v1.monitoring_pb2_grpc import MonitoringStub
from trimtab_contracts.registry.v1 import registry_pb2 as registry
from trimtab_contracts.registry.v1.registry_pb2_grpc import RegistryStub
from trimtab_contracts.serving.v1.serving_pb2_grpc import PredictionStub
from trimtab_contracts.training.v1 import training_pb2 as training
from trimtab_contracts.training.v1.training_pb2_grpc import TrainerStub
from trimtab_core import specs
from trimtab_runtime import rpc, specbook
from trimtab_runtime.clock import from_timestamp, to_timestamp
from trimtab_runtime.errors import NotFound, Rejected, Unavailable

from trimtab import finding, registering
from trimtab.calling import Door
from trimtab.datasets import Dataset, Events, TrainingSet, entity_columns, feature_table
from trimtab.finding import SERVICES as SERVICES
from trimtab.managing import Managing
from trimtab.observing import Observing
from trimtab.predicting import Predicting
from trimtab.registering import File as File

T = TypeVar("T", specs.Source, specs.Model)
MOST_ROWS = 2_000
"""Of one request of `ingest`."""
MOST_REQUEST_BYTES = 4 * 1024 * 1024
"""Of one request of `ingest` that has several rows: well under what gRPC lets through."""
_ANSWER_S = 15.0


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What became of a part of a file that was to be archived."""

    until: int
    """The archive has every row of the file up to this one, those aside that were left out."""
    repeats: int = 0
    """Rows that were dropped, for a value of theirs may come once."""
    refused: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """What the contract refuses, by row; if it is some, nothing was taken."""
    newest_ms: int | None = None
    """Event time of the newest row in the archive, told where no row was sent."""


class Trimtab(Managing, Observing, Predicting):
    """A running Trimtab."""

    def __init__(
        self, channels: Mapping[str, grpc.aio.Channel], *, instances: Sequence[grpc.aio.Channel] = ()
    ) -> None:
        """`instances` are channels to each one of ingestion, where there are several."""
        self._registry = Door("registry", RegistryStub(channels["registry"]))
        self._feature_store = Door("feature store", FeatureStoreStub(channels["feature_store"]))
        self._serving = Door("serving", PredictionStub(channels["serving"]))
        self._trainer = Door("trainer", TrainerStub(channels["trainer"]))
        self._monitoring = Door("monitoring", MonitoringStub(channels["monitoring"]))
        self._ingestion = Door("ingestion", IngestionStub(channels["ingestion"]))
        self._ingestions = [Door("ingestion", IngestionStub(each)) for each in instances] or [self._ingestion]

    @classmethod
    @asynccontextmanager
    async def connect(cls, addresses: Mapping[str, str] | None = None) -> AsyncIterator[Self]:
        """Open channels to the services; `addresses` maps each service's name to host:port, or to several IP addresses with ports.

        Without them it is the Trimtab that the environment's variables name, or else the stack in TRIMTAB_DIR, `.trimtab`.

        Raises:
            Rejected: a service has several addresses, and not all of them are IP addresses of one version.
            Unavailable: there is none.
        """
        addresses = finding.addresses(finding.environ(finding.home())) if addresses is None else addresses
        async with AsyncExitStack() as stack:
            channels = {
                name: await stack.enter_async_context(rpc.channel(addresses[name])) for name in SERVICES
            }
            each = addresses["ingestion"].split(",")
            yield cls(
                channels,
                instances=[await stack.enter_async_context(rpc.channel(at)) for at in each]
                if len(each) > 1
                else [],
            )

    async def apply(
        self,
        resources: Sequence[specs.Resource | Mapping[str, Any]],
        *,
        actor: str,
        validate_only: bool = False,
        files: Sequence[File] = (),
    ) -> list[registry.ApplyResponse.Change]:
        """Make `resources`, or documents, the wanted state, all or none of them, and return what changed.

        `files` are those that they name by digest, as a `Project` has them; they are sent first. With `validate_only`
        nothing is sent or changed, and what would be is returned.

        Raises:
            Rejected: some cannot be; its `faults` name every fault of every one.
        """
        for file in () if validate_only else files:
            await self.upload(file)
        request = registry.ApplyRequest(actor=actor, validate_only=validate_only)
        for resource in resources:
            document = dict(resource) if isinstance(resource, Mapping) else specs.to_document(resource)
            json_format.ParseDict(document, request.documents.add())
        return list((await self._registry.Apply(request)).changes)

    async def resources(self, kind: str = "") -> list[registry.Resource]:
        """Return what has been applied, of one kind or of all."""
        return list((await self._registry.ListResources(registry.ListResourcesRequest(kind=kind))).resources)

    async def source(self, name: str) -> specs.Source:
        """Return a source that has been applied.

        Raises:
            UnknownSource: none of the name has been.
        """
        return await self._applied(specs.Source, name, specbook.UnknownSource)

    async def model(self, name: str) -> specs.Model:
        """Return a model that has been applied.

        Raises:
            UnknownModel: none of the name has been.
        """
        return await self._applied(specs.Model, name, specbook.UnknownModel)

    async def _applied(self, kind: type[T], name: str, unknown: type[NotFound]) -> T:
        for resource in await self.resources(kind.__name__):
            if resource.name == name and isinstance(found := specbook.from_message(resource), kind):
                return found
        raise unknown(name)

    async def ingest(
        self,
        source: str,
        rows: Iterable[Mapping[str, Any] | bytes],
        *,
        ids: Iterable[str] = (),
        arrived_at_ms: Iterable[int] = (),
    ) -> int:
        """Write rows to raw.<source>, a request after the other, and return how many Kafka has acknowledged.

        Args:
            source: the name of one that has been applied.
            rows: objects, or JSON as it is. The source's contract judges them behind the topic.
            ids: what each row is called from here on; none, or one a row.
            arrived_at_ms: when each row arrived, if that is not now; none, or one a row.

        Raises:
            Rejected: a request cannot be taken whole, and none of its rows was; those before it stay.
            Unavailable: ingestion or Kafka is away; some rows of the last request may have been taken all the same.
        """
        accepted = 0
        for request in _requests(source, rows, ids, arrived_at_ms):
            accepted += int((await self._ingestion.Ingest(request, timeout=_ANSWER_S)).accepted)
        return accepted

    async def settle(self, source: str) -> None:
        """Wait until no row that ingestion took before is still on its way: each is in raw.<source>, or never will be.

        Raises:
            Unavailable: an instance of ingestion is away.
        """
        for door in self._ingestions:
            await door.Ingest(ingestion.IngestRequest(source=source), timeout=_ANSWER_S)

    async def backfill(
        self,
        source: str,
        file: str,
        *,
        after: int = 0,
        until: int = 0,
        numbers: Sequence[int] = (),
        rows: Sequence[bytes] = (),
        arrived_at_ms: Sequence[int] = (),
        timeout: float = 120.0,
    ) -> Backfilled:
        """Take a part of a file straight to the archive, or say what the contract refuses of it.

        Without a part, say how far the file, which its digest names, has come. A part begins behind the row `after`,
        where what is taken ends, and ends with the row `until`; rows are numbered from 1, and some may be left out.
        """
        request = feature_store.BackfillRequest(
            source=source,
            file=file,
            after=after,
            until=until,
            numbers=numbers,
            rows=rows,
            arrived_at_ms=arrived_at_ms,
        )
        told = await self._feature_store.Backfill(request, timeout=timeout)
        return Backfilled(
            told.until,
            told.repeats,
            {
                each.number: [f"{reason.code} {reason.field}".strip() for reason in each.reasons]
                for each in told.refused
            },
            from_timestamp(told.newest) if told.HasField("newest") else None,
        )

    async def rebuild(self, view: str, *, actor: str, reason: str) -> registry.Resource:
        """Begin a view's next generation: it is made anew from the archive, and answers as before until it is."""
        request = registry.RebuildViewRequest(name=view, actor=actor, reason=reason)
        answer: registry.Resource = await self._registry.RebuildView(request)
        return answer

    async def features(
        self,
        names: Sequence[str],
        entities: Mapping[str, Sequence[Any]] | None = None,
        *,
        at_ms: int | None = None,
        timeout: float = 30.0,
    ) -> pa.Table:
        """Return online features, `view.column` or `view.*`, of some entities at a time, or now.

        `entities` are columns of one length by the name of their field, as in `{"zone": [7, 8]}`. A row of the table
        holds the entities and, for each feature, its value (null where there is none) and what that is, in
        `<feature>.status`: present, missing, expired or stale. All views are read at one time, each as of its own hop
        boundary: the schema's metadata says which.
        """
        given = entities or {}
        request = feature_store.GetOnlineFeaturesRequest(features=names, entities=entity_columns(given))
        if at_ms is not None:
            request.at.CopyFrom(to_timestamp(at_ms))
        return feature_table(given, await self._feature_store.GetOnlineFeatures(request, timeout=timeout))

    async def join_features(
        self,
        names: Sequence[str],
        entities: Mapping[str, Sequence[Any]],
        at_ms: Sequence[int],
        *,
        timeout: float = 120.0,
    ) -> tuple[dict[str, NDArray[np.float64]], int]:
        """Return features of entities, [rows] by name, each as it was at a time of its own, from the archive.

        `names` and `entities` are as of `features`; at most 500,000 values are asked for at a time. The number beside them
        is up to when all is archived that they are made of: rows of later times have no values.
        """
        request = feature_store.JoinFeaturesRequest(
            features=names, entities=entity_columns(entities), at_ms=at_ms
        )
        answer = await self._feature_store.JoinFeatures(request, timeout=timeout)
        values = np.array(answer.values).reshape(len(at_ms), len(answer.names))
        until_ms = from_timestamp(answer.until) if answer.HasField("until") else 0
        return dict(zip(answer.names, values.T, strict=True)), until_ms

    async def training_set(
        self,
        model: str,
        start_ms: int,
        end_ms: int,
        *,
        as_of_ms: int | None = None,
        tables: Mapping[str, int] | None = None,
        timeout: float = 300.0,
    ) -> TrainingSet:
        """Return the labelled rows of a model in [start, end), each as it would have been answered then.

        Nothing is seen that had not arrived by `as_of_ms`, if it is given, nor what is not in the versions of `tables`,
        such as those that a run names. Rows whose label has not come within its
        time are left out, and counted.
        """
        request = feature_store.GetHistoricalFeaturesRequest(
            model=model,
            start=to_timestamp(start_ms),
            end=to_timestamp(end_ms),
            tables=[
                registry.TableVersion(table=name, version=version) for name, version in (tables or {}).items()
            ],
        )
        if as_of_ms is not None:
            request.as_of.CopyFrom(to_timestamp(as_of_ms))
        pieces, dataset = [], feature_store.HistoricalFeatures.Dataset()
        async for part in self._feature_store.stream("GetHistoricalFeatures", request, timeout=timeout):
            if part.HasField("dataset"):
                dataset = part.dataset
            else:
                pieces.append(part.arrow)
        return TrainingSet(
            model,
            start_ms,
            end_ms,
            as_of_ms,
            {table.table: table.version for table in dataset.tables},
            dataset.digest,
            dataset.rows,
            dataset.rows_without_label,
            pa.ipc.open_stream(b"".join(pieces)).read_all(),
            dataset.rows_of_other_classes,
        )

    async def datasets(self, model: str = "") -> list[Dataset]:
        """Return what the newest runs of a model, or of all, were trained on, and whatever else is tagged."""
        tags = await self._tags()
        known = {run.event.run_id: run for run in await self.runs(model)}
        older = sorted({tag.run_id for tag in tags if model in ("", tag.model)} - known.keys())
        runs = [*known.values(), *[await self._run(run_id) for run_id in older]]
        return [Dataset.of(run.event, tags) for run in runs if run.event.candidate.dataset_digest]

    async def dataset(self, name: str) -> Dataset:
        """Return the dataset that a tag names, or that a run was trained on.

        Raises:
            NotFound: there is no such tag or run, or the run was trained on nothing.
        """
        tags = await self._tags()
        try:
            run = await self._run(next((tag.run_id for tag in tags if tag.name == name), name))
        except NotFound as error:
            raise NotFound(
                f"there is no dataset {name!r}: name a tag or a run of `trimtab get datasets`"
            ) from error
        if not run.event.candidate.dataset_digest:
            raise NotFound(f"run {name!r} has no dataset: name one of `trimtab get datasets`")
        return Dataset.of(run.event, tags)

    async def remade(self, dataset: Dataset) -> TrainingSet:
        """Return the rows of a dataset, made once more by its model's spec as it is now, of the tables as they were.

        They are those that the run was trained on if the digest is the dataset's.
        """
        window = (await self.model(dataset.model)).spec.trainer.window
        return await self.training_set(
            dataset.model,
            dataset.as_of_ms - window,
            dataset.as_of_ms,
            as_of_ms=dataset.as_of_ms,
            tables=dataset.tables,
        )

    async def tag_dataset(
        self, dataset: str, tag: str, *, actor: str, comment: str = ""
    ) -> registry.TagDatasetResponse:
        """Make a tag name a dataset, which is called by a tag or a run; the answer says what it named before."""
        answer: registry.TagDatasetResponse = await self._registry.TagDataset(
            registry.TagDatasetRequest(
                name=tag, run_id=(await self.dataset(dataset)).run, actor=actor, comment=comment
            )
        )
        return answer

    async def untag_dataset(self, tag: str, *, actor: str, comment: str = "") -> registry.DatasetTag:
        """Remove a tag, and return what it named."""
        request = registry.UntagDatasetRequest(name=tag, actor=actor, comment=comment)
        found: registry.DatasetTag = (await self._registry.UntagDataset(request)).tag
        return found

    async def _tags(self) -> list[registry.DatasetTag]:
        return list((await self._registry.ListDatasetTags(registry.ListDatasetTagsRequest())).tags)

    async def _run(self, run_id: str) -> training.Run:
        found: training.Run = await self._trainer.GetRun(training.GetRunRequest(run_id=run_id))
        return found

    async def events(
        self,
        source: str,
        start_ms: int | None = None,
        end_ms: int | None = None,
        *,
        most_rows: int | None = None,
        timeout: float = 300.0,
    ) -> Events:
        """Return the archived events of a source in [start, end): from the first, up to the last, where not given.

        Of more than `most_rows` (1,000,000, if it is not given) a sample, by the hashes of their ids: it favours no row,
        and is the same each time. `total` says how many there are; with `most_rows=0` that alone is asked for.
        """
        request = feature_store.ReadEventsRequest(source=source, most_rows=most_rows)
        for name, at_ms in (("start", start_ms), ("end", end_ms)):
            if at_ms is not None:
                getattr(request, name).CopyFrom(to_timestamp(at_ms))
        pieces, extent = [], feature_store.ArchivedEvents.Extent()
        async for part in self._feature_store.stream("ReadEvents", request, timeout=timeout):
            if part.HasField("extent"):
                extent = part.extent
            else:
                pieces.append(part.arrow)
        return Events.of(source, extent, b"".join(pieces))

    async def audit_skew(
        self,
        model: str,
        *,
        since_ms: int | None = None,
        until_ms: int | None = None,
        timeout: float = 600.0,
    ) -> feature_store.AuditSkewResponse:
        """Compare what serving logged of a model with what the archive says, for predictions of [since, until)."""
        request = feature_store.AuditSkewRequest(model=model)
        if since_ms is not None:
            request.since.CopyFrom(to_timestamp(since_ms))
        if until_ms is not None:
            request.until.CopyFrom(to_timestamp(until_ms))
        answer: feature_store.AuditSkewResponse = await self._feature_store.AuditSkew(
            request, timeout=timeout
        )
        return answer

    async def train(self, model: str, *, reason: str, actor: str, as_of_ms: int | None = None) -> str:
        """Order a candidate, and return the command's id, which is also the loop's."""
        request = training.TrainRequest(model=model, reason=reason, requested_by=actor)
        if as_of_ms is not None:
            request.as_of.CopyFrom(to_timestamp(as_of_ms))
        return str((await self._trainer.Train(request)).command_id)

    async def upload(self, file: File) -> str:
        """Have the trainer keep a file, and return its digest, by which a spec or a call names it."""
        return await registering.upload(self._trainer, file)

    async def register(
        self,
        model: str,
        file: File,
        *,
        actor: str,
        comment: str = "",
        reference: File | None = None,
        trained_to_ms: int | None = None,
    ) -> str:
        """Order the evaluation of an ONNX file as a version of a model, and return the command's id, which is also the loop's.

        `reference` is Parquet, with a column for each feature and `label`: what is usual for the model is taken from
        there. With `trained_to_ms`, the event time of the newest row that it was trained on, newer ones alone judge it.
        """
        return await registering.register(
            self._trainer,
            model,
            file,
            actor=actor,
            comment=comment,
            reference=reference,
            trained_to_ms=trained_to_ms,
        )

    async def combine(
        self, model: str, versions: Mapping[str, float], *, actor: str, comment: str = ""
    ) -> str:
        """Order the evaluation of the weighted mean of some versions, each by its number or an alias; return the command's id.

        Weights count by their share of all. The mean is a version of its own, held to what any other is.
        """
        return await registering.combine(self, self._trainer, model, versions, actor=actor, comment=comment)

    async def runs(self, model: str = "") -> list[training.Run]:
        """Return the runs of a model, newest first."""
        return list((await self._trainer.ListRuns(training.ListRunsRequest(model=model))).runs)

    async def run(self, run_id: str) -> training.Run:
        """Return one run."""
        answer: training.Run = await self._trainer.GetRun(training.GetRunRequest(run_id=run_id))
        return answer

    async def watch_run(self, run_id: str, *, patience_s: float = 60.0) -> AsyncIterator[training.Run]:
        """Yield a run now and whenever it has changed, until it has ended; a trainer that is away is waited for."""
        clock = asyncio.get_running_loop().time
        heard = clock()
        while True:
            try:
                request = training.WatchRunRequest(run_id=run_id)
                async for run in self._trainer.stream("WatchRun", request):
                    heard = clock()
                    yield run
                return
            except Unavailable:
                if clock() - heard > patience_s:
                    raise
                await asyncio.sleep(0.5)

    async def cancel_run(self, run_id: str, *, reason: str, actor: str) -> training.Run:
        """End a run that has not ended."""
        request = training.CancelRunRequest(run_id=run_id, reason=reason, requested_by=actor)
        answer: training.Run = await self._trainer.CancelRun(request)
        return answer

    async def note_run(self, run_id: str, text: str, *, actor: str) -> training.Run:
        """Write a note on a run; what was written stays."""
        run: training.Run = await self._trainer.NoteRun(
            training.NoteRunRequest(run_id=run_id, text=text, by=actor)
        )
        return run

    async def evidence(self, run_id: str) -> dict[str, Any]:
        """Return what was found of the version that was made of a run: figures with intervals, slices, tables of plots.

        Raises:
            NotFound: there is no version of it, or it came without.
        """
        answer = await self._registry.GetEvidence(registry.GetEvidenceRequest(run_id=run_id))
        found: dict[str, Any] = msgspec.json.decode(answer.text)
        return found

    async def reproduce(self, run_id: str, *, actor: str) -> training.Run:
        """Order a run that makes another once more; once it has ended its event's `reproduction` compares the two."""
        request = training.ReproduceRequest(run_id=run_id, requested_by=actor)
        answer: training.Run = await self._trainer.Reproduce(request)
        return answer

    async def run_log(self, run_id: str) -> str:
        """Return what the training process of a run that has ended wrote."""
        return str((await self._trainer.GetRunLog(training.GetRunLogRequest(run_id=run_id))).text)

    async def run_trials(self, run_id: str) -> list[training.Trial]:
        """Return what a run's search has tried so far, in order; nothing, where its kind was named."""
        return list((await self._trainer.ListTrials(training.ListTrialsRequest(run_id=run_id))).trials)

    async def models(
        self, prefix: str = "", *, after: str = "", limit: int = 100
    ) -> registry.ListModelsResponse:
        """Return some models by name, 1,000 at most: what serves, and which versions wait for a person."""
        request = registry.ListModelsRequest(prefix=prefix, after=after, limit=limit)
        answer: registry.ListModelsResponse = await self._registry.ListModels(request)
        return answer

    async def versions(self, model: str, *, live_at_ms: int | None = None) -> list[registry.Version]:
        """Return a model's versions, or only the one that served at a time of the wall clock."""
        request = registry.ListVersionsRequest(model=model)
        if live_at_ms is not None:
            request.live_at.CopyFrom(to_timestamp(live_at_ms))
        return list((await self._registry.ListVersions(request)).versions)

    async def deployment(self, model: str) -> registry.Deployment:
        """Return the wanted state of a model."""
        answer: registry.Deployment = await self._registry.GetDeployment(
            registry.GetDeploymentRequest(model=model)
        )
        return answer

    async def decide(self, what: str, model: str, number: int, *, actor: str, comment: str) -> Any:
        """Approve, reject or promote a version; `what` is the name of the call."""
        request = registry.DecideRequest(model=model, number=number, actor=actor, comment=comment)
        return await getattr(self._registry, what)(request)

    async def post_check(
        self,
        model: str,
        number: int,
        name: str,
        *,
        passed: bool,
        actor: str,
        comment: str = "",
        url: str = "",
    ) -> registry.Version:
        """Say what a check of a version came to, and return the version; one that failed rejects it or takes it back."""
        request = registry.PostCheckRequest(
            model=model, number=number, name=name, passed=passed, actor=actor, comment=comment, url=url
        )
        answer: registry.Version = await self._registry.PostCheck(request)
        return answer

    async def rollback(self, model: str, *, actor: str, comment: str) -> registry.Deployment:
        """Bring the previous champion back."""
        answer: registry.Deployment = await self._registry.Rollback(
            registry.RollbackRequest(model=model, actor=actor, comment=comment)
        )
        return answer

    async def audit(
        self,
        resource: str = "",
        *,
        actor: str = "",
        action: str = "",
        since_ms: int | None = None,
        until_ms: int | None = None,
        limit: int = 100,
    ) -> list[registry.AuditEntry]:
        """Return who did what in [since, until) of the wall clock, newest first; what is empty excludes nothing."""
        request = registry.GetAuditRequest(resource=resource, actor=actor, action=action, limit=limit)
        if since_ms is not None:
            request.since.CopyFrom(to_timestamp(since_ms))
        if until_ms is not None:
            request.until.CopyFrom(to_timestamp(until_ms))
        return list((await self._registry.GetAudit(request)).entries)

    async def read_audit(self) -> AsyncIterator[Sequence[registry.AuditEntry]]:
        """Yield the whole audit log, oldest first, some hundreds of entries at a time."""
        async for part in self._registry.stream("ReadAudit", registry.ReadAuditRequest()):
            yield part.entries

    async def loops(self, model: str = "", *, open_only: bool = False) -> list[monitoring.Loop]:
        """Return the loop ledger, oldest first."""
        request = monitoring.ListLoopsRequest(model=model, open_only=open_only)
        return list((await self._monitoring.ListLoops(request)).loops)

    async def loop(self, id: str) -> monitoring.Loop:
        """Return one loop."""
        answer: monitoring.Loop = await self._monitoring.GetLoop(monitoring.GetLoopRequest(id=id))
        return answer

    async def alerts(self, subject: str = "", *, open_only: bool = False) -> list[monitoring.HeldAlert]:
        """Return the alerts about a model, source or table, or all, newest first."""
        request = monitoring.ListAlertsRequest(subject=subject, open_only=open_only)
        return list((await self._monitoring.ListAlerts(request)).alerts)

    async def silence(
        self, subject: str, until_ms: int, *, kind: str = "", actor: str, reason: str = ""
    ) -> monitoring.Silence:
        """Let nobody be told of a subject's alerts, of one kind or of all, until then by the wall clock."""
        request = monitoring.SilenceAlertsRequest(
            subject=subject, kind=kind, until=to_timestamp(until_ms), actor=actor, reason=reason
        )
        answer: monitoring.Silence = await self._monitoring.SilenceAlerts(request)
        return answer

    async def silences(self) -> list[monitoring.Silence]:
        """Return the silences that hold."""
        return list((await self._monitoring.ListSilences(monitoring.ListSilencesRequest())).silences)

    async def end_silence(self, id: int) -> None:
        """End a silence now."""
        await self._monitoring.EndSilence(monitoring.EndSilenceRequest(id=id))

    async def trial(self, model: str) -> monitoring.Trial:
        """Return how the versions on trial of a model stand beside its champion; none, if none are."""
        answer: monitoring.Trial = await self._monitoring.GetTrial(monitoring.GetTrialRequest(model=model))
        return answer

    async def health(self, model: str) -> monitoring.ModelHealth:
        """Return what monitoring sees of a model."""
        answer: monitoring.ModelHealth = await self._monitoring.GetModelHealth(
            monitoring.GetModelHealthRequest(model=model)
        )
        return answer

    async def wanted_labels(self, model: str, *, limit: int = 0) -> list[monitoring.WantedLabel]:
        """Return the predictions whose label would tell most and has not come yet, newest first."""
        request = monitoring.ListWantedLabelsRequest(model=model, limit=limit)
        return list((await self._monitoring.ListWantedLabels(request)).labels)


def _requests(
    source: str, rows: Iterable[Mapping[str, Any] | bytes], ids: Iterable[str], arrived_at_ms: Iterable[int]
) -> Iterator[ingestion.IngestRequest]:
    """Cut rows into requests, by count and by bytes."""
    request, size = ingestion.IngestRequest(source=source), 0
    for row, row_id, arrived in zip_longest(rows, ids, arrived_at_ms):
        if row is None:
            raise Rejected("there are more ids or arrivals than rows: give one for each row, or none at all")
        payload = row if isinstance(row, bytes) else msgspec.json.encode(row)
        if request.rows and (len(request.rows) == MOST_ROWS or size + len(payload) > MOST_REQUEST_BYTES):
            yield request
            request, size = ingestion.IngestRequest(source=source), 0
        request.rows.append(payload)
        request.ids.extend([] if row_id is None else [row_id])
        request.arrived_at_ms.extend([] if arrived is None else [arrived])
        size += len(payload)
    if request.rows:
        yield request
