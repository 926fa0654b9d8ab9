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
    ListTrialsRequest,
    ListTrialsResponse,
    NoteRunRequest,
    Progress,
    RetrainCommand,
    Run,
    RunEvent,
    TrainRequest,
    TrainResponse,
    WatchRunRequest,
)
from trimtab_contracts.training.v1.training_pb2 import Note as NoteMessage
from trimtab_contracts.training.v1.training_pb2_grpc import TrainerServicer
from trimtab_runtime import artifacts, records, telemetry
from trimtab_runtime.clock import Clock, from_timestamp, to_timestamp
from trimtab_runtime.specbook import SpecBook

from trimtab_trainer.errors import BadNote, NoLog, NothingArchived, UnknownRun
from trimtab_trainer.messages import artifact, to_trial
from trimtab_trainer.usecases.entities import Note, Told
from trimtab_trainer.usecases.ports import Features, Store
from trimtab_trainer.usecases.trials import best

ENDED = (RunEvent.SUCCEEDED, RunEvent.FAILED, RunEvent.CANCELLED)
MOST_NOTE = 4_000
_LOOK_S = 0.5


class TrainerApi(TrainerServicer):
    """Answers `trimtab.training.v1.Trainer`.

    An order becomes a command on `commands.retrain` like the policy's, so that every
    run has one and the ledger hears of it.
    """

    def __init__(self, store: Store, book: SpecBook, features: Features, producer: Any, clock: Clock) -> None:
        self._store = store
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

    async def NoteRun(self, request: NoteRunRequest, context: Any) -> Run:
        """Add what somebody wrote to a run, and return it."""
        text = request.text.strip()
        if not text or len(text) > MOST_NOTE:
            raise BadNote(f"text has {len(text)} characters: write a note of 1 to {MOST_NOTE:,}")
        if not request.by:
            raise BadNote("by is empty: say who writes the note")
        return _run(await self._store.note(request.run_id, Note(text, request.by, self._clock.now_ms())))

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
