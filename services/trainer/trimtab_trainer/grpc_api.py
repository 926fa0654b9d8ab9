"""gRPC door of the trainer: order a run, look at runs."""

import uuid
from typing import Any

from trimtab_contracts import topics
from trimtab_contracts.training.v1.training_pb2 import (
    GetRunRequest,
    ListRunsRequest,
    ListRunsResponse,
    RetrainCommand,
    Run,
    RunEvent,
    TrainRequest,
    TrainResponse,
)
from trimtab_contracts.training.v1.training_pb2_grpc import TrainerServicer
from trimtab_runtime import records, telemetry
from trimtab_runtime.clock import Clock, from_timestamp, to_timestamp
from trimtab_runtime.specbook import SpecBook

from trimtab_trainer.errors import NothingArchived, UnknownRun
from trimtab_trainer.usecases import Features, Store, Told


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
        found = await self._store.get(request.run_id)
        if found is None:
            raise UnknownRun(request.run_id)
        return _run(found)

    async def ListRuns(self, request: ListRunsRequest, context: Any) -> ListRunsResponse:
        """Return the newest runs."""
        return ListRunsResponse(
            runs=[_run(told) for told in await self._store.list(request.model, request.limit or 50)]
        )


def _run(told: Told) -> Run:
    run = Run(event=RunEvent.FromString(told.message), queued_at=to_timestamp(told.job.queued_at_ms))
    if told.job.started_at_ms is not None:
        run.started_at.CopyFrom(to_timestamp(told.job.started_at_ms))
    if told.job.finished_at_ms is not None:
        run.finished_at.CopyFrom(to_timestamp(told.job.finished_at_ms))
    return run
