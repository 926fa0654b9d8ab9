"""The trainer's news as the messages of `runs`."""

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from trimtab_contracts.common.v1.common_pb2 import Artifact
from trimtab_contracts.registry.v1.registry_pb2 import Candidate as CandidateMessage
from trimtab_contracts.registry.v1.registry_pb2 import TableVersion
from trimtab_contracts.training.v1.training_pb2 import RunEvent
from trimtab_runtime.clock import to_timestamp

from trimtab_trainer.usecases.entities import Candidate, News, Status, StoredFile

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
        candidate=_candidate(job.run_id, news.candidate) if news.candidate else None,
    )


def _candidate(run_id: str, candidate: Candidate) -> CandidateMessage:
    fitted, rows = candidate.fitted, candidate.training_set
    parameters = Struct()
    json_format.ParseDict(dict(fitted.parameters), parameters)
    return CandidateMessage(
        run_id=run_id,
        model=artifact(candidate.model),
        reference=artifact(candidate.reference),
        evaluation=artifact(candidate.evaluation),
        features=fitted.features,
        metrics=fitted.metrics,
        champion_version=candidate.champion_version,
        model_generation=candidate.model_generation,
        tables=[TableVersion(table=table, version=version) for table, version in rows.tables],
        dataset_digest=rows.digest,
        rows=fitted.rows,
        parameters=parameters,
        seed=candidate.seed,
        environment=fitted.environment,
        trained_from=to_timestamp(fitted.trained_from_ms),
        trained_to=to_timestamp(fitted.trained_to_ms),
        classes=fitted.classes,
        texts=fitted.texts,
    )


def artifact(stored: StoredFile) -> Artifact:
    """Return the name of a stored file."""
    return Artifact(uri=stored.uri, digest=stored.digest, size=stored.size)
