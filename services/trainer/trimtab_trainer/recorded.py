"""A run that succeeded, as its message tells of it: what it was made of, and what came out.

What has just been made once more is put into the same message first, so that both are
read by the same words and nothing but a difference can differ.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from trimtab_contracts.registry.v1.registry_pb2 import Candidate as CandidateMessage
from trimtab_contracts.training.v1.training_pb2 import RunEvent
from trimtab_core import specs
from trimtab_runtime.clock import from_timestamp
from trimtab_training.errors import RunFailed

from trimtab_trainer.errors import UnknownRun
from trimtab_trainer.messages import candidate_message
from trimtab_trainer.usecases.entities import (
    Candidate,
    Champion,
    Fitted,
    Plan,
    Recipe,
    StoredFile,
    TrainingSet,
)
from trimtab_trainer.usecases.ports import Store


class Runs:
    """Runs that gave a candidate, from the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def recorded(self, run_id: str) -> "RecordedRun":
        """Return one as it is on record.

        Raises:
            UnknownRun: there is none of the id.
            RunFailed: it gave no candidate, or is older than what it was made of is recorded.
        """
        told = await self._store.get(run_id)
        if told is None:
            raise UnknownRun(run_id)
        event = RunEvent.FromString(told.message)
        if event.status != RunEvent.SUCCEEDED or not event.HasField("candidate"):
            raise RunFailed(f"run {run_id!r} gave no candidate, so there is nothing to make again")
        if event.trigger == "registered":
            raise RunFailed(
                f"run {run_id!r} judged a model that was brought, so there is nothing to make again"
            )
        if not event.candidate.HasField("document"):
            raise RunFailed(
                f"run {run_id!r} is older than the record of what runs are made of: train the model again"
            )
        return RecordedRun(event.candidate, from_timestamp(event.as_of))

    def made(self, recipe: Recipe, rows: TrainingSet, fitted: Fitted) -> "RecordedRun":
        """Return what has just been made as it would be on record."""
        again = Candidate(
            model=_named(fitted.model),
            reference=_named(fitted.reference),
            evaluation=_named(fitted.evaluation),
            evidence=_named(fitted.evidence),
            fitted=fitted,
            training_set=rows,
            recipe=recipe,
        )
        return RecordedRun(candidate_message("", again), recipe.as_of_ms)


@dataclass(frozen=True)
class RecordedRun:
    """A candidate's message, read."""

    candidate: CandidateMessage
    as_of_ms: int

    @property
    def recipe(self) -> Recipe:
        """What it was made of."""
        made, plan = self.candidate, self.candidate.plan
        model = specs.read_back("Model", json_format.MessageToDict(made.document))[0]
        assert isinstance(model, specs.Model)
        changed_ms = from_timestamp(plan.changed_at) if plan.HasField("changed_at") else None
        return Recipe(
            model=model,
            generation=made.model_generation,
            as_of_ms=self.as_of_ms,
            champion=_champion(made) if made.HasField("champion") else None,
            changed_ms=changed_ms,
            definitions=dict(made.definitions),
            tables=tuple((table.table, table.version) for table in made.tables),
            plan=Plan(plan.window, changed_ms, plan.sentence, plan.every, plan.stretches),
        )

    def facts(self) -> Mapping[str, str]:
        """Return what else went into it: dataset, parameters, seed, environment."""
        made = self.candidate
        parameters = json_format.MessageToDict(made.parameters)
        return {
            "dataset": made.dataset_digest,
            "features": ", ".join(made.features),
            **_each("parameter", parameters, str),
            "seed": str(made.seed),
            "champion": made.champion.model.digest if made.HasField("champion") else "none",
            **_each("environment", made.environment, str),
        }

    def outcomes(self) -> Mapping[str, str]:
        """Return what came out of it: digests and metrics."""
        made = self.candidate
        return {
            "model.onnx": made.model.digest,
            "reference.arrow": made.reference.digest,
            "evaluation.arrow": made.evaluation.digest,
            "evidence.json": made.evidence.digest,
            "window": made.plan.window,
            "rows": str(made.rows),
            **_each("metric", made.metrics, repr),
        }


def _champion(made: CandidateMessage) -> Champion:
    live = made.champion
    return Champion(
        live.number,
        StoredFile(live.model.uri, live.model.digest, live.model.size),
        tuple(live.features),
        texts=tuple(live.texts),
        trained_to_ms=from_timestamp(live.trained_to),
    )


def _each(what: str, named: Mapping[str, Any], text: Callable[[Any], str]) -> dict[str, str]:
    return {f"{what} {name}": text(value) for name, value in sorted(named.items())}


def _named(path: Path) -> StoredFile:
    content = path.read_bytes()
    return StoredFile("", sha256(content).hexdigest(), len(content))
