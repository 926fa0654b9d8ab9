"""Keeps score from what went through the system.

It reads the prediction log and the drop-offs as any analyst could, joins them, and
scores the first version on the very rows that were served, from the features that
were logged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from trimtab_contracts import topics
from trimtab_contracts.common.v1.common_pb2 import Artifact
from trimtab_contracts.serving.v1.serving_pb2 import PredictionBatch
from trimtab_core import losses
from trimtab_runtime import artifacts
from trimtab_runtime.follow import Follower
from trimtab_runtime.ort import onnxruntime

CAP = 60.0
"""Minutes at most that a trip's error counts: the cap of the demo's rollout."""
METRIC = "mean absolute error in minutes, each error counted as at most 60"


@dataclass(frozen=True, slots=True)
class Score:
    """Errors over some labelled predictions."""

    rows: int
    as_served: float
    never_retrained: float


class Scoreboard:
    """Predictions joined with what came true."""

    def __init__(self, servers: str, label_source: str, label_field: str) -> None:
        self._field = label_field
        self._label_topic = topics.EVENTS.named(label_source).name
        self.follower = Follower(servers, [topics.PREDICTIONS.name, self._label_topic], self._hear)
        self._first: onnxruntime.InferenceSession | None = None
        self._place: dict[str, int] = {}
        self._times: list[int] = []
        self._served: list[float] = []
        self._never: list[float] = []
        self._labels: list[float] = []
        self._early: dict[str, float] = {}

    def compare_with(self, first: Artifact) -> None:
        """Score this version beside what serves, from here on."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._first = onnxruntime.InferenceSession(artifacts.fetch(first), options)

    def score(self, start_ms: int, end_ms: int) -> Score | None:
        """Return the errors over the labelled predictions of [start, end); None if there are none."""
        times, label = np.array(self._times), np.array(self._labels)
        (rows,) = np.nonzero((times >= start_ms) & (times < end_ms) & ~np.isnan(label))
        if not rows.size:
            return None
        served, never = (np.array(said)[rows] for said in (self._served, self._never))
        return Score(rows.size, _error(label[rows], served), _error(label[rows], never))

    async def _hear(self, topic: str, _: int, batch: Sequence[Any]) -> None:
        for record in batch:
            if topic == self._label_topic:
                self._label(record)
            else:
                self._predicted(topics.PREDICTIONS.decode(record.value))

    def _label(self, record: Any) -> None:
        key = record.key.decode() if record.key else ""
        if key:
            value = float(msgspec.json.decode(record.value)[self._field])
            if (place := self._place.get(key)) is not None:
                self._labels[place] = value
            elif self._first is not None:
                self._early[key] = (
                    value  # another topic's record may be read before the prediction it follows
                )

    def _predicted(self, batch: PredictionBatch) -> None:
        if not batch.ids or self._first is None:
            return
        width = len(batch.feature_names)
        features = np.array(batch.features, np.float32).reshape(-1, width)
        never = np.asarray(self._first.run(None, {"features": features})[0], np.float64).reshape(-1)
        arms = batch.challenger_answered or [False] * len(batch.ids)
        challenger = batch.challenger or batch.champion
        for at, key in enumerate(batch.keys):
            if key not in self._place:
                self._place[key] = len(self._times)
                self._times.append(batch.event_time_ms[at])
                self._served.append(challenger[at] if arms[at] else batch.champion[at])
                self._never.append(float(never[at]))
                self._labels.append(self._early.pop(key, np.nan))


def _error(label: NDArray[np.float64], said: NDArray[np.float64]) -> float:
    return float(np.minimum(losses.loss("mae", label, said), CAP).mean())
