"""Monitoring's words as messages, and messages as its words."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast, get_args

import msgspec
import numpy as np
from trimtab_contracts.common.v1.common_pb2 import Artifact, GateResult, RunCost, Watermark
from trimtab_contracts.monitoring.v1 import monitoring_pb2 as pb
from trimtab_contracts.registry.v1.registry_pb2 import Deployment, VersionEvent, VersionRef
from trimtab_contracts.serving.v1.serving_pb2 import PredictionBatch
from trimtab_contracts.training.v1.training_pb2 import RetrainCommand, RunEvent
from trimtab_core import guardrails
from trimtab_core import trial as core_trial
from trimtab_core.contract import ReasonCode
from trimtab_core.flow import HOUR_MS
from trimtab_core.metricnames import OF_AN_HOUR
from trimtab_core.specs import ModelSpec
from trimtab_core.watched import (
    Arm,
    Drift,
    FeatureDrift,
    Guard,
    Others,
    Reading,
    Rise,
    Said,
    Standing,
    Trial,
    Verdict,
    Watch,
)
from trimtab_core.worth import Gain
from trimtab_runtime import telemetry
from trimtab_runtime.clock import from_timestamp, to_timestamp

from trimtab_monitoring.errors import BadBatch
from trimtab_monitoring.usecases.entities import (
    Alert,
    Closed,
    Command,
    Cost,
    Gate,
    Health,
    HeldAlert,
    Loop,
    Predicted,
    Severity,
    Silence,
    StoredFile,
    Version,
    WantedLabel,
)
from trimtab_monitoring.usecases.flowing import Came, Figure
from trimtab_monitoring.usecases.history import Wanted
from trimtab_monitoring.usecases.loops import RunNews, StageNews

_REASONS = frozenset(f"refused_{code}" for code in ReasonCode)
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
    times = {"champion_us": batch.champion_us, "challenger_us": batch.challenger_us}
    times = {name: column for name, column in times.items() if column}
    for name, column in (columns | times).items():
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
    for other in batch.others:
        if (len(other.said), len(other.probabilities)) != (rows, rows * classes):
            raise BadBatch(
                f"batch {batch.id} has {len(other.said)} answers of version {other.version} and {len(other.probabilities)} "
                f"probabilities: {rows} rows of {classes} classes have {rows} and {rows * classes}"
            )
        if len(other.took_us) not in (0, rows):
            raise BadBatch(
                f"batch {batch.id} has {rows} ids and {len(other.took_us)} of took_us of version {other.version}: send one of "
                "each a row"
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
        champion_us=list(batch.champion_us) or None,
        challenger_us=list(batch.challenger_us) or None,
        others=[msgspec.json.encode(_others(batch, at)) for at in range(rows)] if batch.arms else None,
    )


def _others(batch: PredictionBatch, at: int) -> Others:
    """Return what the versions beside the challenger said of a row."""
    classes = len(batch.classes)
    said = []
    for other in batch.others:
        answer, chances = other.said[at], tuple(other.probabilities[at * classes : at * classes + classes])
        took_us = other.took_us[at] if other.took_us else 0
        if answer == answer:
            said.append(Said(other.version, answer, chances, took_us))
        else:
            said.append(Said(other.version, None, took_us=took_us))
    return Others(batch.arms, tuple(said))


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
        arms=tuple(Arm(arm.number, arm.share, arm.loop_id) for arm in rollout.arms if not arm.left),
    )


def versions(deployment: Deployment) -> list[Version]:
    """Return the versions that a deployment names."""
    named = [deployment.champion, deployment.challenger, *deployment.others, deployment.previous]
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
        cost=_cost(event.cost) if event.HasField("cost") else None,
    )


def _cost(cost: RunCost) -> Cost:
    cpu_s = cost.cpu_seconds if cost.HasField("cpu_seconds") else None
    return Cost(cost.wall_seconds, cpu_s, cost.rows, cost.attempts)


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
        person="" if event.actor == "registry" else event.actor,
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
        low=reading.low,
        high=reading.high,
        unknown=reading.unknown,
        window_from=to_timestamp(reading.from_ms),
        window_to=to_timestamp(reading.to_ms),
        rows=reading.rows,
        revision=reading.revision,
        arm=reading.arm,
        slice=reading.slice,
        slice_of=reading.slice_of,
        held=reading.held,
    )


def wanted_label(asked: WantedLabel) -> pb.WantedLabel:
    """Return a prediction that is to be labelled."""
    return pb.WantedLabel(
        id=f"{asked.model}/{asked.id}",
        model=asked.model,
        version=asked.version,
        prediction_id=asked.id,
        key=asked.key,
        at=to_timestamp(asked.at_ms),
        prediction=asked.prediction,
        expected_loss=asked.expected,
        chance=asked.chance,
        window_from=to_timestamp(asked.from_ms),
        window_to=to_timestamp(asked.to_ms),
        rows=asked.rows,
    )


def came(message: pb.Metric) -> Came | None:
    """Return what ingestion says came in an hour; None if the metric says something else."""
    if message.name != "events":
        return None
    _, partition, offset, *_ = message.id.split("/")
    events = round(message.value)
    return Came(
        source=message.model,
        partition=int(partition),
        place=int(offset),
        hour_ms=from_timestamp(message.window_from),
        events=events,
        repeats=message.rows - events,
        newest_ms=from_timestamp(message.window_to),
    )


def figure(message: pb.Metric) -> Figure | None:
    """Return what ingestion says of a batch or a window of a source; None if the metric is none that is told by the hour."""
    # Of a batch of a source the id begins with its topic, partition and offset; models and tables have metrics of these names too.
    topic, partition, offset = f"{message.id}//".split("/")[:3]
    of_source = topic.endswith(f".{message.model}") and offset.isdigit()
    reason = message.name in _REASONS
    if not (message.name in OF_AN_HOUR or reason) or not of_source:
        return None
    return Figure(
        source=message.model,
        partition=int(partition),
        place=int(offset),
        hour_ms=from_timestamp(message.window_to) // HOUR_MS * HOUR_MS,
        name=message.name,
        field=message.feature,
        rows=message.rows,
        value=message.value / max(message.rows, 1) if reason else message.value,
        low=message.low if message.HasField("low") else None,
        high=message.high if message.HasField("high") else None,
        held=message.held if message.HasField("held") else None,
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
        guardrail=found.guardrail,
    )


def trial(name: str, spec: ModelSpec, watch: Watch, standing: Standing | None) -> pb.Trial:
    """Return how the versions on trial stand; none, where none is judged."""
    found = pb.Trial(model=name, metric=spec.judged_by)
    if standing is None:
        return found
    found.champion = standing.champion
    if watch.judged_to:
        found.closed.CopyFrom(to_timestamp(watch.judged_to))
    if not standing.on_trial:
        return found
    arms = {arm.version: arm for arm in standing.on_trial}
    trials = watch.trials if watch.trials and watch.trials[0].rollout_id == standing.rollout_id else ()
    alpha = trials[0].spec.alpha if trials else spec.rollout.alpha / standing.began
    found.rollout_id, found.loop_id = standing.rollout_id, standing.loop_id
    found.alpha, found.needed = alpha * standing.began, 1 / alpha
    if trials:
        found.first_at.CopyFrom(to_timestamp(trials[0].first_ms))
        found.until.CopyFrom(to_timestamp(trials[0].deadline_ms))
    guards = watch.guards.arms if watch.guards and watch.guards.rollout_id == standing.rollout_id else ()
    if guards:
        found.guardrail_needed = guardrails.needed(guards[0].spec)
    held = {each.challenger: each for each in trials}
    guarded = {each.challenger: each for each in guards}
    for version in dict.fromkeys([*arms, *held, *guarded]):
        told = _arm(version, arms.get(version), held.get(version), standing, watch.judged_to)
        if (guard := guarded.get(version)) is not None:
            told.guardrails.extend(_guardrails(guard))
        found.arms.append(told)
    return found


def _guardrails(guard: Guard) -> Iterator[pb.Trial.Guardrail]:
    for each in guardrails.rails(guard.spec, guard.state):
        yield pb.Trial.Guardrail(
            name=each.which,
            requests=each.tally.requests,
            challenger_alone=each.tally.theirs,
            champion_alone=each.tally.ours,
            allowed=each.allowed,
            limit_ms=guard.state.limit_us / 1000 if each.which == "latency" else 0.0,
            evidence=each.evidence,
        )


def _arm(
    version: int, arm: Arm | None, held: Trial | None, standing: Standing, closed_ms: int
) -> pb.Trial.Arm:
    told = pb.Trial.Arm(version=version, share=arm.share if arm else 0, left=arm is None)
    if held is not None:
        now = core_trial.judged(held, standing, closed_ms=closed_ms)
        told.rows, told.mean_difference, told.low, told.high = now.n, now.mean_difference, now.low, now.high
        told.e_better, told.e_worse = now.e_better, now.e_worse
    return told


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
        decisions=[
            pb.Decided(at=to_timestamp(it.at_ms), cause=it.cause, sentence=it.sentence) for it in held.decisions
        ],
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
    if held.taken_back_ms is not None:
        message.taken_back_at.CopyFrom(to_timestamp(held.taken_back_ms))
    if (cost := held.cost) is not None:
        message.cost.CopyFrom(
            RunCost(wall_seconds=cost.wall_s, cpu_seconds=cost.cpu_s, rows=cost.rows, attempts=cost.attempts)
        )
    if held.gain is not None:
        message.gain.CopyFrom(_gain(held.gain))
    return message


def _gain(found: Gain) -> pb.Gain:
    return pb.Gain(
        before=found.before,
        a_row=found.a_row,
        low=found.low,
        high=found.high,
        compared=found.compared,
        paired=found.paired,
        rows=found.rows,
        metric=found.metric,
    )


def health(model: str, version: int, found: Health) -> pb.ModelHealth:
    """Return what a screen shows of a model."""
    watch = found.watch
    message = pb.ModelHealth(
        model=model,
        version=version,
        predictions=watch.predictions + found.waiting,
        labels=watch.labels,
        unlabelled=watch.predictions - watch.labels,
        metrics=metrics(found.readings),
        faults=[fault.sentence for fault in sorted(watch.faults.values(), key=lambda it: not it.blocks)],
    )
    if watch.closed_ms:
        message.watermark.CopyFrom(to_timestamp(watch.closed_ms))
    return message


def metrics(readings: Iterable[Reading]) -> list[pb.Metric]:
    """Return readings."""
    return [metric(reading) for reading in readings]


def wanted(filter: pb.MetricFilter) -> Wanted:
    """Return which readings are asked for."""
    return Wanted(
        model=filter.model,
        source=filter.source,
        names=tuple(filter.names),
        features=tuple(filter.features),
        arms=tuple(filter.arms),
        slices=tuple(filter.slices),
        slices_of=tuple(filter.slices_of),
        version=filter.version,
        subject=filter.subject,
        since_ms=at_ms(filter, "since"),
        until_ms=at_ms(filter, "until"),
    )


def at_ms(message: Any, field: str) -> int | None:
    """Return the time in a field of a message, or None if it has none."""
    return from_timestamp(getattr(message, field)) if message.HasField(field) else None
