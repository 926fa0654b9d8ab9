"""What serving says on Kafka: records made from plain values."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from trimtab_contracts import topics
from trimtab_contracts.common.v1.common_pb2 import Watermark
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Metric
from trimtab_contracts.serving.v1.serving_pb2 import PredictionBatch, Score, ServingStatus
from trimtab_contracts.topics import Topic
from trimtab_runtime import records
from trimtab_runtime.clock import Clock, to_timestamp
from trimtab_runtime.records import Outgoing

from trimtab_serving import outcomes
from trimtab_serving.fleet import Standing
from trimtab_serving.meter import Traffic
from trimtab_serving.predictionlog import Answered, Batch
from trimtab_serving.usecases import Answer

LEASE_MS = 6_000

pack = msgspec.msgpack.Encoder().encode
"""Return a record as bytes, for the journal."""
unpack = msgspec.msgpack.Decoder(Outgoing).decode
"""Return what `pack` packed."""


class Messages:
    """Makes the records of one instance."""

    def __init__(self, instance: str, clock: Clock) -> None:
        self._instance = instance
        self._clock = clock
        self._run = f"{clock.now_ms():x}"
        self._numbers = itertools.count()

    def predictions(self, batch: Batch) -> Outgoing:
        """Return a batch of the prediction log; its id is never used again."""
        message = PredictionBatch(
            model=batch.model,
            instance=self._instance,
            id=f"{self._instance}/{self._run}-{next(self._numbers)}",
            watermark_ms=batch.watermark_ms,
        )
        if batch.rows:
            _fill(message, batch)
        record = records.outgoing(
            topics.PREDICTIONS,
            message,
            key=batch.model,
            id=message.id,
            source=self._instance,
            time_ms=batch.watermark_ms,
        )
        return msgspec.structs.replace(record, partition=batch.partition)

    def score(
        self, topic: Topic[Score], model: str, answer: Answer, at: int, event: Any, event_time_ms: int
    ) -> Outgoing:
        """Return what was said of an event, the `at`-th of an answer, for the partition that it came from."""
        said, key = answer.predictions[at], (event.key or b"").decode(errors="replace")
        message = Score(
            model=model,
            id=answer.ids[at],
            event_id=records.ids([event])[0],
            key=key,
            event_time=to_timestamp(event_time_ms),
            prediction=float(said.argmax() if answer.classes else said),
            version=answer.versions[at],
        )
        if answer.classes:
            message.class_name = answer.classes[int(message.prediction)]
            message.probabilities.update(zip(answer.classes, said.tolist(), strict=True))
        record = records.outgoing(
            topic, message, key=key, id=message.id, source=self._instance, time_ms=event_time_ms
        )
        return msgspec.structs.replace(record, partition=event.partition)

    def status(self, standing: Standing) -> Outgoing:
        """Return a heartbeat; it holds until the lease is over."""
        now, wanted = self._clock.now_ms(), standing.wanted
        message = ServingStatus(
            model=wanted.model,
            instance=self._instance,
            generation=standing.generation,
            champion_version=standing.champion_version,
            versions=[
                ServingStatus.Loaded(number=number, warm=warm, error=error, cold=number in standing.cold)
                for number, warm, error in standing.versions
            ],
            lease_until=to_timestamp(now + LEASE_MS),
            at=to_timestamp(now),
            memory_bytes=standing.bytes,
        )
        return records.outgoing(
            topics.SERVING_STATUS,
            message,
            key=f"{wanted.model}@{self._instance}",
            id=f"{wanted.model}@{self._instance}/{self._run}-{next(self._numbers)}",
            source=self._instance,
            time_ms=now,
            correlation=wanted.loop_id,
            traceparent=wanted.traceparent,
        )

    def watermark(self, view: str, time_ms: int) -> Outgoing:
        """Return how far the features of `view` have come here."""
        message = Watermark(
            stage="serving",
            name=view,
            partition=0,
            partitions=1,
            time=to_timestamp(time_ms),
            instance=self._instance,
        )
        key = f"serving/{view}/0/{self._instance}"
        return records.outgoing(
            topics.WATERMARKS, message, key=key, id=f"{key}/{time_ms}", source=self._instance, time_ms=time_ms
        )

    def metrics(self, traffic: Traffic, from_ms: int, to_ms: int) -> list[Outgoing]:
        """Return what happened to a model's requests between two times of the wall clock."""
        values = {
            "predictions": float(traffic.predictions),
            "failures": float(traffic.failures),
            "latency_p50_ms": traffic.p50_ms,
            "latency_p99_ms": traffic.p99_ms,
        }
        return [
            self._metric(traffic.model, name, value, traffic.predictions, from_ms, to_ms)
            for name, value in values.items()
            if not math.isnan(value)
        ]

    def gauges(self, found: Mapping[str, float], from_ms: int, to_ms: int) -> list[Outgoing]:
        """Return what the whole instance was like between two times; these metrics are of no model."""
        return [self._metric("", name, value, 0, from_ms, to_ms) for name, value in found.items()]

    def _metric(self, model: str, name: str, value: float, rows: int, from_ms: int, to_ms: int) -> Outgoing:
        of = model or self._instance
        message = Metric(
            id=f"{self._instance}/{of}/{name}/{to_ms}",
            model=model,
            name=name,
            value=value,
            window_from=to_timestamp(from_ms),
            window_to=to_timestamp(to_ms),
            rows=rows,
        )
        return records.outgoing(
            topics.METRICS_SERVING, message, key=of, id=message.id, source=self._instance, time_ms=to_ms
        )


def _fill(message: PredictionBatch, batch: Batch) -> None:
    served, rows = batch.rows[0][0].served, batch.rows
    message.champion_version = served.champion.number
    message.rollout_id = served.arms.rollout_id
    message.generation = served.generation
    message.classes.extend(outcomes.classes_of(served))
    message.ids.extend([answered.ids[at] for answered, at in rows])
    message.keys.extend([answered.keys[at] for answered, at in rows])
    message.event_time_ms.extend([answered.event_time_ms[at] for answered, at in rows])
    message.answered_ms.extend([answered.answered_ms for answered, _ in rows])
    said = [answered.champion[at] for answered, at in rows]
    if message.classes:
        message.champion_probabilities.extend(_column(said))
    message.champion.extend(_answers(said))
    message.latency_us.extend([answered.latency_us for answered, _ in rows])
    if any(answered.features_until_ms for answered, _ in rows):
        message.features_until_ms.extend([answered.features_until_ms or 0 for answered, _ in rows])
    message.feature_names.extend(served.champion.features)
    message.features.extend(_column([answered.features[at] for answered, at in rows]))
    if served.champion.texts:
        message.text_names.extend(served.champion.texts)
        for answered, at in rows:
            if answered.texts is not None:
                message.texts.extend(answered.texts[at])
    message.arms = len(served.arms.bounds)
    if served.challengers:
        message.champion_us.extend(_took_us(rows, 0))
    for arm, version in enumerate(served.challengers, 1):
        theirs = [answered.challengers[arm - 1][at] for answered, at in rows]
        chances = _column(theirs) if message.classes else []
        is_arm = [answered.arms[at] == arm for answered, at in rows]
        if arm == 1:
            message.challenger_version = version.number
            message.challenger_probabilities.extend(chances)
            message.challenger.extend(_answers(theirs))
            message.challenger_answered.extend(is_arm)
            message.challenger_us.extend(_took_us(rows, arm))
        else:
            message.others.add(
                version=version.number, said=_answers(theirs), probabilities=chances, answered=is_arm,
                took_us=_took_us(rows, arm),
            )  # fmt: skip


def _took_us(rows: Sequence[tuple[Answered, int]], arm: int) -> list[int]:
    """Return how long an arm ran for each row, of a request at its first."""
    return [0 if at else answered.took_us[arm] for answered, at in rows]


def _answers(said: Sequence[Any]) -> list[float]:
    """Return one number a row: the prediction, or the number of the most probable class."""
    found = np.array(said, np.float64)
    if found.ndim == 1:
        return _column(said)
    return _column(np.where(np.isfinite(found[:, 0]), np.argmax(found, axis=1), np.nan))  # type: ignore[arg-type]


def _column(values: Sequence[Any]) -> list[float]:
    found: list[float] = np.array(values, np.float64).reshape(-1).tolist()
    return found
