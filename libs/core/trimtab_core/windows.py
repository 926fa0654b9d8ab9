"""How closed predictions become windows: always the same, however they came.

Rows are taken in order of (time, id). A window of `data` holds predictions, one of
`performance` those that have a label, so that each is as long as what it is held
against; a few of those are a look of `concept`, which is held against nothing by itself. A new live version starts both afresh, and a row that an older one still
answered after that is counted and not windowed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab_core.drift import Column
from trimtab_core.losses import Metric, Task, are_probabilities, clip, loss
from trimtab_core.specs import ModelSpec
from trimtab_core.watched import Row, Scored, Series, Watch

Floats = NDArray[np.float64]
_texts_of = msgspec.json.Decoder(list[str]).decode


@dataclass(slots=True)
class Partial:
    """The rows of the windows being filled; `Watch` says how many they must be."""

    data: list[Row] = field(default_factory=list)
    performance: list[Scored] = field(default_factory=list)
    concept: list[Scored] = field(default_factory=list)

    def matches(self, watch: Watch) -> bool:
        """Whether these are the rows that `watch` speaks of."""
        held = (_series(self.data), _series(self.performance), _series(self.concept))
        return held == (watch.data, watch.performance, watch.concept)


@dataclass(frozen=True, slots=True)
class DataWindow:
    """A full window of predictions."""

    version: int
    rows: Sequence[Row]
    kind: Literal["data"] = "data"

    @property
    def end(self) -> tuple[int, str]:
        """The place of its last row."""
        return self.rows[-1].at_ms, self.rows[-1].id


@dataclass(frozen=True, slots=True)
class PerformanceWindow:
    """A full window of labelled predictions, or as `concept` the few of them that a change is looked for in."""

    version: int
    rows: Sequence[Scored]
    kind: Literal["performance", "concept"] = "performance"

    @property
    def end(self) -> tuple[int, str]:
        """The place of its last row."""
        return self.rows[-1].at_ms, self.rows[-1].id

    @property
    def losses(self) -> Floats:
        """The clipped losses."""
        return np.array([row.loss for row in self.rows])


Window = DataWindow | PerformanceWindow


def columns(rows: Sequence[Row], features: Sequence[str]) -> dict[str, Column]:
    """Return the features, the predictions and the times of rows by name; `features` are what each carries: numbers, and then texts."""
    matrix = np.frombuffer(b"".join(row.features for row in rows)).reshape(len(rows), -1)
    numbers, texts = features[: matrix.shape[1]], features[matrix.shape[1] :]
    found: dict[str, Column] = dict(zip(numbers, matrix.T, strict=True))
    if texts:
        words = [_texts_of(row.texts) if row.texts else [""] * len(texts) for row in rows]
        found |= zip(texts, np.array(words, object).T, strict=True)
    found["prediction"] = np.array([row.champion for row in rows])
    found["event_time_ms"] = np.array([row.at_ms for row in rows])
    return found


def said(rows: Sequence[Row], features: Sequence[str]) -> dict[str, Column]:
    """Return the `columns` of rows, and where they are of classes the live version's `probabilities` [rows, classes]."""
    found = columns(rows, features)
    if any(row.champion_probabilities for row in rows):
        found["probabilities"] = _chances([row.champion_probabilities for row in rows])
    return found


def fill(
    watch: Watch, partial: Partial, rows: Sequence[Row], losses: Floats, window: int, look: int | None = None
) -> tuple[Watch, Partial, list[Window]]:
    """Take in `rows` with the clipped loss of each, NaN without a label; return what is full, in order of its end.

    `look` is how many labelled rows a look of `concept` has, None if there are none.

    `partial` stays as it was, for the transaction may yet be undone.
    """
    partial = Partial(list(partial.data), list(partial.performance), list(partial.concept))
    full: list[Window] = []
    version, generation = watch.version, watch.generation
    for row, lost in zip(rows, losses.tolist(), strict=True):
        if row.generation > generation:
            if row.version != version:
                partial = Partial()
            version, generation = row.version, row.generation
        elif row.version != version:
            continue
        partial.data.append(row)
        if len(partial.data) == window:
            full.append(DataWindow(version, partial.data))
            partial.data = []
        if lost == lost:
            scored = Scored(row.at_ms, row.id, lost)
            if look is not None:
                partial.concept.append(scored)
                if len(partial.concept) == look:
                    full.append(PerformanceWindow(version, partial.concept, "concept"))
                    partial.concept = []
            partial.performance.append(scored)
            if len(partial.performance) == window:
                full.append(PerformanceWindow(version, partial.performance))
                partial.performance = []
    watch = replace(
        watch,
        version=version,
        generation=generation,
        data=_series(partial.data),
        performance=_series(partial.performance),
        concept=_series(partial.concept),
        predictions=watch.predictions + len(rows),
        labels=watch.labels + sum(row.label is not None for row in rows),
    )
    return watch, partial, full


def restore(watch: Watch, rows: Sequence[Row], losses: Floats) -> Partial:
    """Return the rows of the windows being filled, from closed rows that hold at least those.

    Rows and labels that came after their time was closed were not counted then, and do not make a window longer now.
    """
    whole = Partial()
    for row, lost in zip(rows, losses.tolist(), strict=True):
        if row.version != watch.version:
            continue
        if watch.data.rows and (row.at_ms, row.id) >= (watch.data.first_ms, watch.data.first_id):
            whole.data.append(row)
        for series, held in ((watch.performance, whole.performance), (watch.concept, whole.concept)):
            if series.rows and lost == lost and (row.at_ms, row.id) >= (series.first_ms, series.first_id):
                held.append(Scored(row.at_ms, row.id, lost))
    return Partial(
        whole.data[: watch.data.rows],
        whole.performance[: watch.performance.rows],
        whole.concept[: watch.concept.rows],
    )


def champion_losses(spec: ModelSpec, rows: Sequence[Row]) -> Floats:
    """Return the clipped loss of what the live version said of each row."""
    said = [row.champion for row in rows]
    return _losses_of(
        spec.task, spec.judged_by, spec.cap, rows, said, [r.champion_probabilities for r in rows]
    )


def challenger_losses(task: Task, metric: Metric, cap: float, rows: Sequence[Row]) -> Floats:
    """Return the clipped loss of what the version on trial said of each row."""
    said = [row.challenger for row in rows]
    return _losses_of(task, metric, cap, rows, said, [row.challenger_probabilities for row in rows])


def _losses_of(
    task: Task, metric: Metric, cap: float, rows: Sequence[Row],
    said: Sequence[float | None], probabilities: Sequence[bytes | None],
) -> Floats:  # fmt: skip
    labels = [row.label for row in rows]
    if task != "multiclass":
        return clipped_losses(metric, cap, labels, said)
    chances = _chances(probabilities)
    label = np.array([np.nan if value is None else value for value in labels])
    readable = np.isfinite(label) & are_probabilities(chances).all(axis=1) & (chances.shape[1] > 0)
    losses = np.full(len(rows), np.nan)
    losses[readable] = clip(loss(metric, label[readable], chances[readable]), cap)
    return losses


def _chances(probabilities: Sequence[bytes | None]) -> Floats:
    """Return probabilities [rows, classes], NaN where there are none."""
    width = max((len(each) for each in probabilities if each), default=0) // 8
    chances = np.full((len(probabilities), width), np.nan)
    for at, each in enumerate(probabilities):
        if each:  # of an older version, which may know fewer classes: it gave the others no chance
            known = np.frombuffer(each)
            chances[at] = np.nan if np.isnan(known).any() else 0.0
            chances[at, : len(known)] = known
    return chances


def clipped_losses(
    metric: Metric, cap: float, labels: Sequence[float | None], said: Sequence[float | None]
) -> Floats:
    """Return the loss of each row, clipped to `cap`; NaN where it has no label, no prediction, or one the metric cannot read."""
    label = np.array([np.nan if value is None else value for value in labels])
    prediction = np.array([np.nan if value is None else value for value in said])
    readable = np.isfinite(label) & np.isfinite(prediction)
    if metric in ("log_loss", "error_rate"):
        readable &= ((label == 0) | (label == 1)) & are_probabilities(prediction)
    losses = np.full(len(label), np.nan)
    losses[readable] = clip(loss(metric, label[readable], prediction[readable]), cap)
    return losses


def _series(rows: Sequence[Row] | Sequence[Scored]) -> Series:
    return Series(len(rows), rows[0].at_ms, rows[0].id) if rows else Series()
