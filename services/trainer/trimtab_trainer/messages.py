"""The trainer's news as the messages of `runs`."""

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from trimtab_contracts.common.v1.common_pb2 import Artifact, GateResult, RunCost
from trimtab_contracts.registry.v1.registry_pb2 import Candidate as CandidateMessage
from trimtab_contracts.registry.v1.registry_pb2 import (
    Interval,
    Latency,
    Member,
    TableVersion,
    TrainingPlan,
    VersionRef,
)
from trimtab_contracts.training.v1.training_pb2 import RegisteredModel, RunEvent
from trimtab_contracts.training.v1.training_pb2 import Reproduction as ReproductionMessage
from trimtab_contracts.training.v1.training_pb2 import Trial as TrialMessage
from trimtab_core import recipes, specs
from trimtab_runtime.clock import from_timestamp, to_timestamp
from trimtab_training.trials import Trial

from trimtab_trainer.usecases.entities import (
    ENDED,
    Candidate,
    Champion,
    News,
    Part,
    Plan,
    Registered,
    Reproduction,
    Status,
    StoredFile,
)

_STATUS = {
    Status.QUEUED: RunEvent.QUEUED,
    Status.STARTED: RunEvent.STARTED,
    Status.SUCCEEDED: RunEvent.SUCCEEDED,
    Status.FAILED: RunEvent.FAILED,
    Status.CANCELLED: RunEvent.CANCELLED,
}


def to_message(news: News) -> RunEvent:
    """Return the message that tells `news`; its id is the run's with the status, so told twice it is the same."""
    job = news.job
    return RunEvent(
        id=f"{job.run_id}/{news.status}",
        run_id=job.run_id,
        command_id=job.command_id,
        loop_id=job.loop_id,
        model=job.model,
        trigger=job.trigger,
        status=_STATUS[news.status],
        as_of=to_timestamp(job.as_of_ms),
        at=to_timestamp(news.at_ms),
        error=news.error,
        cancelled_by=news.cancelled_by,
        cancel_reason=news.cancel_reason,
        candidate=candidate_message(job.run_id, news.candidate) if news.candidate else None,
        reproduces=job.reproduces,
        reproduction=_reproduction(news.reproduction) if news.reproduction else None,
        cost=_cost(news) if news.status in ENDED else None,
    )


def _cost(news: News) -> RunCost:
    job, fitted = news.job, news.candidate.fitted if news.candidate else None
    begun_ms = job.started_at_ms if job.started_at_ms is not None else news.at_ms
    return RunCost(
        wall_seconds=max(news.at_ms - begun_ms, 0) / 1000,
        cpu_seconds=fitted.cpu_s if fitted else None,
        rows=fitted.rows if fitted else 0,
        attempts=job.attempts,
    )


def _reproduction(found: Reproduction) -> ReproductionMessage:
    compared = ReproductionMessage.Compared
    return ReproductionMessage(
        identical=found.identical,
        compared=[
            compared(
                what=each.what,
                kind=compared.OUTCOME if each.outcome else compared.INPUT,
                before=each.before,
                again=each.again,
                same=each.same,
            )
            for each in found.compared
        ],
        sentence=found.sentence,
    )


def candidate_message(run_id: str, candidate: Candidate) -> CandidateMessage:
    """Return what a run offers as it is told."""
    fitted, rows, recipe = candidate.fitted, candidate.training_set, candidate.recipe
    parameters, document = Struct(), Struct()
    json_format.ParseDict(dict(fitted.parameters), parameters)
    json_format.ParseDict(specs.to_document(recipe.model), document)
    return CandidateMessage(
        run_id=run_id,
        model=artifact(candidate.model),
        reference=artifact(candidate.reference),
        evaluation=artifact(candidate.evaluation),
        evidence=artifact(candidate.evidence),
        features=fitted.features,
        metrics=fitted.metrics,
        champion_version=recipe.champion.number if recipe.champion else 0,
        model_generation=recipe.generation,
        tables=[TableVersion(table=table, version=version) for table, version in rows.tables],
        dataset_digest=rows.digest,
        rows=fitted.rows,
        parameters=parameters,
        seed=recipe.model.spec.trainer.seed,
        environment=fitted.environment,
        trained_from=to_timestamp(fitted.trained_from_ms),
        trained_to=to_timestamp(fitted.trained_to_ms),
        intervals={name: Interval(low=low, high=high) for name, (low, high) in fitted.intervals.items()},
        latency=json_format.ParseDict(dict(fitted.latency), Latency()) if fitted.latency else None,
        tests=[GateResult(**each) for each in fitted.tests],
        recipe=recipes.recipe(recipe.model.spec),
        document=document,
        definitions=recipe.definitions,
        champion=_champion(recipe.champion) if recipe.champion else None,
        plan=_plan(fitted.plan),
        classes=fitted.classes,
        texts=fitted.texts,
        members=[
            Member(version=part.version, run_id=part.run_id, weight=part.weight) for part in candidate.parts
        ],
    )


def _champion(live: Champion) -> VersionRef:
    return VersionRef(
        number=live.number,
        model=artifact(live.model),
        features=live.features,
        texts=live.texts,
        trained_to=to_timestamp(live.trained_to_ms),
    )


def _plan(plan: Plan) -> TrainingPlan:
    return TrainingPlan(
        window=plan.window,
        changed_at=None if plan.changed_ms is None else to_timestamp(plan.changed_ms),
        sentence=plan.sentence,
        every=plan.every,
        stretches=plan.stretches,
    )


def to_trial(trial: Trial, *, best: bool) -> TrialMessage:
    """Return the message of a trial, whose numbers count from 1."""
    parameters = Struct()
    json_format.ParseDict(dict(trial.parameters), parameters)
    return TrialMessage(
        number=trial.number + 1,
        family=trial.family,
        parameters=parameters,
        metric=trial.metric,
        value=trial.value,
        outcome=TrialMessage.Outcome.Value(trial.outcome.name),
        seconds=trial.seconds,
        error=trial.error,
        best=best,
    )


def registered(message: RegisteredModel) -> Registered:
    """Return the model that a command brings along."""
    return Registered(
        _stored(message.model) if message.HasField("model") else None,
        _stored(message.reference) if message.HasField("reference") else None,
        from_timestamp(message.trained_to) if message.HasField("trained_to") else None,
        message.origin,
        tuple(map(_part, message.parts)),
    )


def _part(message: RegisteredModel.Part) -> Part:
    member, version = message.member, message.version
    return Part(
        version=member.version,
        run_id=member.run_id,
        weight=member.weight,
        model=_stored(version.model),
        features=tuple(version.features),
        texts=tuple(version.texts),
        task=message.task,
        classes=tuple(version.classes),
    )


def _stored(file: Artifact) -> StoredFile:
    return StoredFile(file.uri, file.digest, file.size)


def artifact(stored: StoredFile) -> Artifact:
    """Return the name of a stored file."""
    return Artifact(uri=stored.uri, digest=stored.digest, size=stored.size)
