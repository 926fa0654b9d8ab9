"""gRPC door of the trainer: order a run, look at runs, cancel one."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

from trimtab_contracts import topics
from trimtab_contracts.training.v1.training_pb2 import (
    CancelRunRequest,
    GetRunLogRequest,
    GetRunLogResponse,
    GetRunRequest,
    ListRunsRequest,
    ListRunsResponse,
    Progress,
    ReproduceRequest,
    RetrainCommand,
    Run,
    RunEvent,
    TrainRequest,
    TrainResponse,
    WatchRunRequest,
)
from trimtab_contracts.training.v1.training_pb2_grpc import TrainerServicer
from trimtab_runtime import artifacts, records, telemetry
from trimtab_runtime.clock import Clock, from_timestamp, to_timestamp
from trimtab_runtime.specbook import SpecBook

from trimtab_trainer.errors import NoLog, NothingArchived, UnknownRun
from trimtab_trainer.messages import artifact
from trimtab_trainer.usecases.entities import Told
from trimtab_trainer.usecases.jobs import Jobs
from trimtab_trainer.usecases.ports import Features, Store

ENDED = (RunEvent.SUCCEEDED, RunEvent.FAILED, RunEvent.CANCELLED)
_LOOK_S = 0.5


class TrainerApi(TrainerServicer):
    """Answers `trimtab.training.v1.Trainer`.

    An order becomes a command on `commands.retrain` like the policy's, so that every
    run has one and the ledger hears of it.
    """

    def __init__(
        self, store: Store, book: SpecBook, features: Features, jobs: Jobs, producer: Any, clock: Clock
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._book = book
        self._features = features
        self._producer = producer
        self._clock = clock

    async def Train(self, request: TrainRequest, context: Any) -> TrainResponse:
        """Order a candidate, as of the time given, or of how far the archive has come."""
        model, now_ms = self._book.model(request.model), self._clock.now_ms()
        if request.HasField("as_of"):
            as_of_ms: int | None = from_timestamp(request.as_of)
        else:
            as_of_ms = await self._features.watermark_ms(model.name)
        if as_of_ms is None:
            raise NothingArchived(model.name)
        command_id = uuid.uuid4().hex
        command = RetrainCommand(
            id=command_id,
            model=model.name,
            loop_id=command_id,
            trigger="manual",
            attempt=1,
            reason=request.reason,
            requested_by=request.requested_by,
            as_of=to_timestamp(as_of_ms),
            at=to_timestamp(now_ms),
        )
        with telemetry.span("order run", model=model.name):
            record = records.outgoing(
                topics.COMMANDS_RETRAIN,
                command,
                key=model.name,
                id=command_id,
                source="trainer",
                time_ms=now_ms,
                correlation=command_id,
            )
            await records.send_all(self._producer, [record])
        return TrainResponse(command_id=command_id)

    async def GetRun(self, request: GetRunRequest, context: Any) -> Run:
        """Return one run."""
        return _run(await self._told(request.run_id))

    async def ListRuns(self, request: ListRunsRequest, context: Any) -> ListRunsResponse:
        """Return the newest runs."""
        return ListRunsResponse(
            runs=[_run(told) for told in await self._store.list(request.model, request.limit or 50)]
        )

    async def CancelRun(self, request: CancelRunRequest, context: Any) -> Run:
        """End a run, and return it as it has ended."""
        told = await self._store.cancel(
            request.run_id, by=request.requested_by, reason=request.reason, now_ms=self._clock.now_ms()
        )
        return _run(told)

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
    )
