"""gRPC door of the trainer: order a run, bring a model along or make one of several, look at runs, cancel one."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

from trimtab_contracts.training.v1.training_pb2 import (
    CancelRunRequest,
    CombineRequest,
    GetRunLogRequest,
    GetRunLogResponse,
    GetRunRequest,
    ListRunsRequest,
    ListRunsResponse,
    ListTrialsRequest,
    ListTrialsResponse,
    NoteRunRequest,
    Progress,
    RegisteredModel,
    RegisterRequest,
    ReproduceRequest,
    Run,
    RunEvent,
    TrainRequest,
    TrainResponse,
    UploadRequest,
    UploadResponse,
    WatchRunRequest,
)
from trimtab_contracts.training.v1.training_pb2 import Note as NoteMessage
from trimtab_contracts.training.v1.training_pb2_grpc import TrainerServicer
from trimtab_runtime import artifacts, rpc, telemetry
from trimtab_runtime.clock import Clock, from_timestamp, to_timestamp
from trimtab_training.trials import best

from trimtab_trainer.ensembles import ensemble
from trimtab_trainer.errors import BadNote, NoLog, UnknownRun
from trimtab_trainer.messages import artifact, to_trial
from trimtab_trainer.orders import Orders
from trimtab_trainer.uploads import Uploads
from trimtab_trainer.usecases.entities import Note, Told
from trimtab_trainer.usecases.jobs import Jobs
from trimtab_trainer.usecases.ports import Store

ENDED = (RunEvent.SUCCEEDED, RunEvent.FAILED, RunEvent.CANCELLED)
MOST_NOTE = 4_000
_MOST_RUNS = 10_000
_LOOK_S = 0.5


class TrainerApi(TrainerServicer):
    """Answers `trimtab.training.v1.Trainer`."""

    def __init__(self, store: Store, orders: Orders, jobs: Jobs, uploads: Uploads, clock: Clock) -> None:
        self._store = store
        self._orders = orders
        self._jobs = jobs
        self._uploads = uploads
        self._clock = clock

    async def Train(self, request: TrainRequest, context: Any) -> TrainResponse:
        """Order a candidate, as of the time given, or of how far the archive has come."""
        as_of_ms = from_timestamp(request.as_of) if request.HasField("as_of") else None
        command_id = await self._orders.place(
            request.model,
            trigger="manual",
            reason=request.reason,
            requested_by=request.requested_by,
            as_of_ms=as_of_ms,
        )
        return TrainResponse(command_id=command_id)

    async def Upload(self, parts: AsyncIterator[UploadRequest], context: Any) -> UploadResponse:
        """Keep a file by its digest."""
        return UploadResponse(artifact=artifact(await self._uploads.take(parts)))

    async def Register(self, request: RegisterRequest, context: Any) -> TrainResponse:
        """Order the evaluation of a model that was uploaded, as of how far the archive has come."""
        brought = RegisteredModel(
            model=artifact(self._uploads.find(request.digest)),
            reference=artifact(self._uploads.find(request.reference)) if request.reference else None,
            trained_to=request.trained_to if request.HasField("trained_to") else None,
            origin=request.origin,
        )
        return await self._judge(request, brought, f"{request.origin} is registered")

    async def Combine(self, request: CombineRequest, context: Any) -> TrainResponse:
        """Order the evaluation of the mean of some versions, as of how far the archive has come."""
        made = await ensemble(self._store, request.model, request.members)
        return await self._judge(request, made, f"{made.origin} are combined")

    async def _judge(
        self, request: RegisterRequest | CombineRequest, brought: RegisteredModel, said: str
    ) -> TrainResponse:
        command_id = await self._orders.place(
            request.model,
            trigger="registered",
            reason=said + (f": {request.comment}" if request.comment else ""),
            requested_by=request.requested_by,
            registered=brought,
        )
        return TrainResponse(command_id=command_id)

    async def GetRun(self, request: GetRunRequest, context: Any) -> Run:
        """Return one run."""
        return _run(await self._told(request.run_id))

    async def ListRuns(self, request: ListRunsRequest, context: Any) -> ListRunsResponse:
        """Return the newest runs."""
        limit = rpc.limit(request.limit, unless=50, most=_MOST_RUNS)
        return ListRunsResponse(runs=[_run(told) for told in await self._store.list(request.model, limit)])

    async def CancelRun(self, request: CancelRunRequest, context: Any) -> Run:
        """End a run, and return it as it has ended."""
        told = await self._store.cancel(
            request.run_id, by=request.requested_by, reason=request.reason, now_ms=self._clock.now_ms()
        )
        return _run(told)

    async def NoteRun(self, request: NoteRunRequest, context: Any) -> Run:
        """Add what somebody wrote to a run, and return it."""
        text = request.text.strip()
        if not text or len(text) > MOST_NOTE:
            raise BadNote(f"text has {len(text)} characters: write a note of 1 to {MOST_NOTE:,}")
        if not request.by:
            raise BadNote("by is empty: say who writes the note")
        return _run(await self._store.note(request.run_id, Note(text, request.by, self._clock.now_ms())))

    async def Reproduce(self, request: ReproduceRequest, context: Any) -> Run:
        """Queue a run that makes another once more, and return it."""
        with telemetry.span("order reproduction", run=request.run_id):
            queued = await self._jobs.reproduce(request.run_id, id=uuid.uuid4().hex)
        return _run(await self._told(queued))

    async def WatchRun(self, request: WatchRunRequest, context: Any) -> AsyncIterator[Run]:
        """Return a run now and whenever it has changed, until it has ended; whichever trainer is at it."""
        before = None
        while True:
            run = _run(await self._told(request.run_id))
            if run != before:
                yield run
            if run.event.status in ENDED:
                return
            before = run
            await asyncio.sleep(_LOOK_S)

    async def GetRunLog(self, request: GetRunLogRequest, context: Any) -> GetRunLogResponse:
        """Return what the training process of a run wrote."""
        told = await self._told(request.run_id)
        if told.log is None:
            raise NoLog(request.run_id)
        content = await asyncio.to_thread(artifacts.fetch, artifact(told.log))
        return GetRunLogResponse(text=content.decode(errors="replace"))

    async def ListTrials(self, request: ListTrialsRequest, context: Any) -> ListTrialsResponse:
        """Return what a run's search has tried so far."""
        await self._told(request.run_id)
        trials = await self._store.trials(request.run_id)
        leader = best(trials)
        return ListTrialsResponse(trials=[to_trial(trial, best=trial is leader) for trial in trials])

    async def _told(self, run_id: str) -> Told:
        found = await self._store.get(run_id)
        if found is None:
            raise UnknownRun(run_id)
        return found


def _run(told: Told) -> Run:
    run = Run(
        event=RunEvent.FromString(told.message),
        queued_at=to_timestamp(told.job.queued_at_ms),
        attempt=told.job.attempts,
        progress=_progress(told) if told.progress else None,
        log=artifact(told.log) if told.log else None,
        notes=[NoteMessage(text=note.text, by=note.by, at=to_timestamp(note.at_ms)) for note in told.notes],
    )
    if told.job.started_at_ms is not None:
        run.started_at.CopyFrom(to_timestamp(told.job.started_at_ms))
    if told.job.finished_at_ms is not None:
        run.finished_at.CopyFrom(to_timestamp(told.job.finished_at_ms))
    return run


def _progress(told: Told) -> Progress:
    at = told.progress
    assert at is not None
    return Progress(
        stage=Progress.Stage.Value(at.stage.name),
        fit=at.fit,
        fits=at.fits,
        iteration=at.iteration,
        iterations=at.iterations,
        waits_for=at.waits_for,
        trial=at.trial,
        trials=at.trials,
        best=at.best,
    )
