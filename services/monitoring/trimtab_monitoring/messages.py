"""Monitoring's words as messages, and messages as its words."""

from collections.abc import Iterable, Sequence
from typing import Any, cast, get_args

import msgspec
import numpy as np
from trimtab_contracts.common.v1.common_pb2 import Artifact, GateResult, Watermark
from trimtab_contracts.monitoring.v1 import monitoring_pb2 as pb
from trimtab_contracts.registry.v1.registry_pb2 import Deployment, VersionEvent, VersionRef
from trimtab_contracts.serving.v1.serving_pb2 import PredictionBatch
from trimtab_contracts.training.v1.training_pb2 import RetrainCommand, RunEvent
from trimtab_core.watched import Drift, FeatureDrift, Reading, Rise, Standing, Verdict
from trimtab_runtime import telemetry
from trimtab_runtime.clock import from_timestamp, to_timestamp

from trimtab_monitoring.errors import BadBatch
from trimtab_monitoring.usecases.entities import (
    Alert,
    Closed,
    Command,
    Gate,
    Health,
    HeldAlert,
    Loop,
    Predicted,
    Severity,
    Silence,
    StoredFile,
    Version,
)
from trimtab_monitoring.usecases.loops import RunNews, StageNews

_RUN_STATES = {
    RunEvent.STARTED: "training",
    RunEvent.SUCCEEDED: "gating",
    RunEvent.FAILED: "failed",
    RunEvent.CANCELLED: "cancelled",
}


def predicted(batch: PredictionBatch) -> Predicted:
    """Return the rows of a batch.

    Raises:
        BadBatch: its columns do not fit together.
    """
    rows, width = len(batch.ids), len(batch.feature_names)
    columns: dict[str, Sequence[Any]] = {
        "keys": batch.keys, "event_time_ms": batch.event_time_ms, "champion": batch.champion,
    }  # fmt: skip
    if batch.challenger_version:
        columns["challenger"] = batch.challenger
    for name, column in columns.items():
        if len(column) != rows:
            raise BadBatch(
                f"batch {batch.id} has {rows} ids and {len(column)} of {name}: send one of each a row"
            )
    if len(batch.features) != rows * width:
        raise BadBatch(
            f"batch {batch.id} has {len(batch.features)} feature values: {rows} rows of {width} have {rows * width}"
        )
    classes = len(batch.classes)
    chances = {"champion_probabilities": batch.champion_probabilities}
    if batch.challenger_version:
        chances["challenger_probabilities"] = batch.challenger_probabilities
    for name, column in chances.items():
        if len(column) != rows * classes:
            raise BadBatch(
                f"batch {batch.id} has {len(column)} of {name}: {rows} rows of {classes} classes have {rows * classes}"
            )
    words = len(batch.text_names)
    if len(batch.texts) != rows * words:
        raise BadBatch(
            f"batch {batch.id} has {len(batch.texts)} texts: {rows} rows of {words} have {rows * words}"
        )
    return Predicted(
        model=batch.model,
        version=batch.champion_version,
        challenger_version=batch.challenger_version,
        rollout_id=batch.rollout_id,
        generation=batch.generation,
        feature_names=tuple(batch.feature_names),
        ids=list(batch.ids),
        keys=list(batch.keys),
        event_time_ms=list(batch.event_time_ms),
        champion=list(batch.champion),
        challenger=list(batch.challenger) if batch.challenger_version else None,
        features=_by_row(batch.features, rows),
        **{name: _by_row(column, rows) for name, column in chances.items() if classes},
        text_names=tuple(batch.text_names),
        texts=[msgspec.json.encode(batch.texts[at * words : at * words + words]) for at in range(rows)]
        if words
        else None,
    )


def _by_row(values: Sequence[float], rows: int) -> list[bytes]:
    """Return each row's part of `values`, row by row, as float64."""
    packed = np.array(values, np.float64).tobytes()
    size = len(packed) // rows if rows else 0
    return [packed[at * size : at * size + size] for at in range(rows)]


def standing(deployment: Deployment) -> Standing:
    """Return where a model stands."""
    rollout = deployment.rollout
    return Standing(
        model=deployment.model,
        generation=deployment.generation,
        champion=deployment.champion.number,
        challenger=deployment.challenger.number,
        rollout_id=rollout.id,
        step=rollout.step,
        steps=tuple(rollout.steps),
        loop_id=deployment.loop_id,
    )


def versions(deployment: Deployment) -> list[Version]:
    """Return the versions that a deployment names."""
    named = [deployment.champion, deployment.challenger, deployment.previous]
    return [_version(deployment.model, reference) for reference in named if reference.number]


def _version(model: str, reference: VersionRef) -> Version:
    file = reference.reference
    stored = StoredFile(file.uri, file.digest, file.size) if file.uri else None
    trained_to_ms = from_timestamp(reference.trained_to) if reference.HasField("trained_to") else None
    return Version(model, reference.number, stored, trained_to_ms=trained_to_ms)


def artifact(file: StoredFile) -> Artifact:
    """Return the name of a stored file."""
    return Artifact(uri=file.uri, digest=file.digest, size=file.size)


def command(message: RetrainCommand) -> Command:
    """Return an order to train."""
    return Command(
        id=message.id,
        model=message.model,
        loop_id=message.loop_id,
        trigger=message.trigger,
        episode=message.episode,
        attempt=message.attempt,
        reason=message.reason,
        requested_by=message.requested_by,
        as_of_ms=from_timestamp(message.as_of),
        at_ms=from_timestamp(message.at),
        changed_ms=from_timestamp(message.changed_at) if message.HasField("changed_at") else None,
    )


def run_news(event: RunEvent) -> RunNews | None:
    """Return what became of a run; None while it waits."""
    state = _RUN_STATES.get(event.status)
    if state is None:
        return None
    return RunNews(
        id=event.id,
        run_id=event.run_id,
        command_id=event.command_id,
        loop_id=event.loop_id,
        model=event.model,
        trigger=event.trigger,
        state=state,  # type: ignore[arg-type]
        as_of_ms=from_timestamp(event.as_of),
        at_ms=from_timestamp(event.at),
        error=event.error,
        cancelled_by=event.cancelled_by,
        cancel_reason=event.cancel_reason,
    )


def stage_news(event: VersionEvent) -> StageNews:
    """Return what became of a version."""
    return StageNews(
        id=event.id,
        model=event.model,
        number=event.number,
        run_id=event.run_id,
        loop_id=event.loop_id,
        stage=VersionEvent.Stage.Name(event.stage),  # type: ignore[arg-type]
        rollout_id=event.rollout_id,
        gates=[_gate(gate) for gate in event.gates],
        sentence=event.sentence,
        at_ms=from_timestamp(event.at),
    )


def _gate(gate: GateResult) -> Gate:
    return Gate(
        gate=gate.gate,
        passed=gate.passed,
        value=gate.value,
        limit=gate.limit,
        low=gate.low if gate.HasField("low") else None,
        high=gate.high if gate.HasField("high") else None,
        sentence=gate.sentence,
    )


def drift(event: pb.DriftEvent) -> Drift:
    """Return the drift that an event tells of."""
    return Drift(
        episode=event.episode,
        model=event.model,
        version=event.version,
        kind=event.kind,  # type: ignore[arg-type]
        at_ms=from_timestamp(event.at),
        from_ms=from_timestamp(event.window_from),
        rows=event.rows,
        score=event.score,
        threshold=event.threshold,
        severity=event.severity,
        features=tuple(FeatureDrift(it.feature, it.score, it.p_value, it.drifted) for it in event.features),
        summary=event.summary,
        report=event.report,
        recorded_ms=from_timestamp(event.recorded_at),
        changed_ms=from_timestamp(event.changed_at) if event.HasField("changed_at") else None,
        slices=tuple(
            Rise(it.feature, it.slice, it.rows, it.usual, it.value, it.share) for it in event.slices
        ),
    )


def drift_event(found: Drift) -> pb.DriftEvent:
    """Return the event that tells of drift; its id, its loop's and its episode's are one."""
    return pb.DriftEvent(
        id=found.episode,
        model=found.model,
        version=found.version,
        kind=found.kind,
        episode=found.episode,
        loop_id=found.episode,
        at=to_timestamp(found.at_ms),
        window_from=to_timestamp(found.from_ms),
        rows=found.rows,
        score=found.score,
        threshold=found.threshold,
        severity=found.severity,
        features=[
            pb.FeatureDrift(feature=it.feature, score=it.score, p_value=it.p_value, drifted=it.drifted)
            for it in found.features
        ],
        summary=found.summary,
        report=found.report,
        recorded_at=to_timestamp(found.recorded_ms),
        changed_at=None if found.changed_ms is None else to_timestamp(found.changed_ms),
        slices=[
            pb.SliceRise(
                feature=it.feature,
                slice=it.slice,
                rows=it.rows,
                usual=it.usual,
                value=it.value,
                share=it.share,
            )
            for it in found.slices
        ],
    )


def metric(reading: Reading) -> pb.Metric:
    """Return a reading."""
    return pb.Metric(
        id=reading.id,
        model=reading.model,
        version=reading.version,
        name=reading.name,
        feature=reading.feature,
        value=reading.value,
        threshold=reading.threshold,
        window_from=to_timestamp(reading.from_ms),
        window_to=to_timestamp(reading.to_ms),
        rows=reading.rows,
        revision=reading.revision,
        arm=reading.arm,
        slice=reading.slice,
    )


def verdict(found: Verdict) -> pb.Verdict:
    """Return what the judge says."""
    return pb.Verdict(
        id=found.id,
        model=found.model,
        rollout_id=found.rollout_id,
        step=found.step,
        challenger_version=found.challenger,
        generation=found.generation,
        outcome=pb.Verdict.Outcome.Value(found.outcome),
        rows=found.rows,
        mean_difference=found.mean_difference,
        evidence=found.evidence,
        alpha=found.alpha,
        sentence=found.sentence,
        at=to_timestamp(found.at_ms),
        recorded_at=to_timestamp(found.recorded_ms),
    )


def retrain_command(given: Command) -> RetrainCommand:
    """Return an order to train."""
    return RetrainCommand(
        id=given.id,
        model=given.model,
        loop_id=given.loop_id,
        trigger=given.trigger,
        episode=given.episode,
        attempt=given.attempt,
        reason=given.reason,
        requested_by=given.requested_by,
        as_of=to_timestamp(given.as_of_ms),
        at=to_timestamp(given.at_ms),
        changed_at=None if given.changed_ms is None else to_timestamp(given.changed_ms),
    )


def alert(raised: Alert) -> pb.Alert:
    """Return an alert."""
    return pb.Alert(
        id=raised.id,
        subject=raised.subject,
        severity=raised.severity,
        kind=raised.kind,
        sentence=raised.sentence,
        at=to_timestamp(raised.at_ms),
        occasion=raised.occasion,
        resolved=raised.resolved,
    )


def raised(message: pb.Alert) -> Alert:
    """Read an alert, whoever raised it."""
    severity = message.severity if message.severity in get_args(Severity) else "warning"
    return Alert(
        id=message.id,
        subject=message.subject,
        severity=cast(Severity, severity),
        kind=message.kind,
        sentence=message.sentence,
        at_ms=from_timestamp(message.at),
        occasion=message.occasion,
        resolved=message.resolved,
    )


def held_alert(held: HeldAlert) -> pb.HeldAlert:
    """Return an alert as it stands."""
    message = pb.HeldAlert(alert=alert(held.alert), waiting=held.waiting, fault=held.fault)
    if held.resolved_ms is not None:
        message.resolved_at.CopyFrom(to_timestamp(held.resolved_ms))
    return message


def silence(held: Silence) -> pb.Silence:
    """Return a silence."""
    return pb.Silence(
        id=held.id,
        subject=held.subject,
        kind=held.kind,
        until=to_timestamp(held.until_ms),
        actor=held.actor,
        reason=held.reason,
    )


def watermark(closed: Closed) -> Watermark:
    """Return how far a model is closed, whichever instance closed it."""
    return Watermark(
        stage="monitoring", name=closed.model, partition=0, partitions=1, time=to_timestamp(closed.time_ms)
    )


def loop(held: Loop) -> pb.Loop:
    """Return a loop."""
    message = pb.Loop(
        id=held.id,
        model=held.model,
        trigger=held.trigger,
        state=held.state,
        open=held.open,
        drift=drift_event(held.drift) if held.drift else None,
        reason=held.reason,
        command_id=held.command_id,
        run_id=held.run_id,
        version=held.version,
        gates=[
            GateResult(
                gate=it.gate, passed=it.passed, value=it.value, limit=it.limit, low=it.low, high=it.high, sentence=it.sentence
            )
            for it in held.gates
        ],
        verdict=verdict(held.verdict) if held.verdict else None,
        outcome=held.outcome,
        trace_id=telemetry.trace_id(held.traceparent) if held.traceparent else "",
        steps={state: to_timestamp(at_ms) for state, at_ms in held.steps.items()},
    )  # fmt: skip
    if held.drift:
        message.drift_at.CopyFrom(to_timestamp(held.drift.at_ms))
    if held.settled_ms is not None:
        message.settled_at.CopyFrom(to_timestamp(held.settled_ms))
    return message


def health(model: str, version: int, found: Health) -> pb.ModelHealth:
    """Return what a screen shows of a model."""
    watch = found.watch
    message = pb.ModelHealth(
        model=model,
        version=version,
        predictions=watch.predictions + found.waiting,
        labels=watch.labels,
        unlabelled=watch.predictions - watch.labels,
        metrics=_metrics(found.readings),
    )
    if watch.closed_ms:
        message.watermark.CopyFrom(to_timestamp(watch.closed_ms))
    return message


def _metrics(readings: Iterable[Reading]) -> list[pb.Metric]:
    return [metric(reading) for reading in readings]
