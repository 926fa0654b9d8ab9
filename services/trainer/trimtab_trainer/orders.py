"""Orders of runs: each is a command on `commands.retrain` like the policy's, so that every run has one and the ledger hears of it."""

import uuid
from typing import Any

from trimtab_contracts import topics
from trimtab_contracts.training.v1.training_pb2 import RegisteredModel, RetrainCommand
from trimtab_runtime import records, telemetry
from trimtab_runtime.clock import Clock, to_timestamp
from trimtab_runtime.specbook import SpecBook

from trimtab_trainer.errors import NothingArchived
from trimtab_trainer.usecases.ports import Features


class Orders:
    """Orders runs."""

    def __init__(self, book: SpecBook, features: Features, producer: Any, clock: Clock) -> None:
        self._book = book
        self._features = features
        self._producer = producer
        self._clock = clock

    async def place(
        self, model: str, *, trigger: str, reason: str, requested_by: str, id: str = "", episode: str = "",
        as_of_ms: int | None = None, registered: RegisteredModel | None = None,
    ) -> str:  # fmt: skip
        """Order a run, as of the time given or of how far the archive has come, and return the command's id.

        Raises:
            NotFound: there is no such model.
            NothingArchived: no time is given, and nothing of the model's is archived.
            Unavailable: the feature store is away.
        """
        name, now_ms = self._book.model(model).name, self._clock.now_ms()
        if as_of_ms is None:
            as_of_ms = await self._features.watermark_ms(name)
        if as_of_ms is None:
            raise NothingArchived(name)
        command_id = id or uuid.uuid4().hex
        command = RetrainCommand(
            id=command_id,
            model=name,
            loop_id=command_id,
            trigger=trigger,
            episode=episode,
            attempt=1,
            reason=reason,
            requested_by=requested_by,
            as_of=to_timestamp(as_of_ms),
            at=to_timestamp(now_ms),
            registered=registered,
        )
        with telemetry.span("order run", model=name):
            record = records.outgoing(
                topics.COMMANDS_RETRAIN,
                command,
                key=name,
                id=command_id,
                source="trainer",
                time_ms=now_ms,
                correlation=command_id,
            )
            await records.send_all(self._producer, [record])
        return command_id
