"""How closed predictions become windows: always the same, however they came.

Rows are taken in order of (time, id). A window of `data` holds predictions, one of
`performance` those that have a label, so that each is as long as what it is held
against; a few of those are a look of `concept`, which is held against nothing by itself. A window by count is
full with its last row. One by time holds what its stretch of time has, is full when all of that is closed, and may be full by count before.
A new live version starts both afresh, and a row that an older one still
answered after that is counted and not windowed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab_core.drift import Column
from trimtab_core.losses import Metric, Task, are_probabilities, clip, loss
from trimtab_core.specs import ModelSpec
from trimtab_core.watched import Place, Row, Scored, Series, Watch

Floats = NDArray[np.float64]
_texts_of = msgspec.json.Decoder(list[str]).decode
_NOWHERE: Final[Place] = (0, "")
_LAST_ID: Final = "\U0010ffff"
"""Which no id comes after."""


@dataclass(slots=True)
class Partial:
    """The rows of the windows being filled; `Watch` says how many they must be."""

    data: list[Row] = field(default_factory=list)
    performance: list[Scored] = field(default_factory=list)
    concept: list[Scored] = field(default_factory=list)
    data_after: Place = _NOWHERE
    """Up to where rows are of the window before, or of another version."""
    performance_after: Place = _NOWHERE

    @property
    def series(self) -> tuple[Series, Series, Series]:
        """What `Watch` remembers of data, performance and concept."""
        data, performance = (
            _series(self.data, self.data_after),
            _series(self.performance, self.performance_after),
        )
        return data, performance, _series(self.concept)

    def matches(self, watch: Watch) -> bool:
        """Whether these are the rows that `watch` speaks of."""
        return self.series == (watch.data, watch.performance, watch.concept)


class Extent(NamedTuple):
    """What a window covers: the rows of its version after one place up to another, told as a stretch of time."""

    after: Place
    until: Place
    from_ms: int
    to_ms: int
    whole: bool = True
    """Whether it was not cut off by another version's going live."""


@dataclass(frozen=True, slots=True)
class DataWindow:
    """A full window of predictions."""

    version: int
    rows: Sequence[Row]
    kind: Literal["data"] = "data"
    extent: Extent | None = None
    """None where it is from its first row to its last."""

    @property
    def covers(self) -> Extent:
        """What it covers."""
        return self.extent or _from_first_to_last(self.rows, _NOWHERE)

    @property
    def end(self) -> Place:
        """The place at which it was full."""
        return self.covers.until


@dataclass(frozen=True, slots=True)
class PerformanceWindow:
    """A full window of labelled predictions, or as `concept` the few of them that a change is looked for in."""

    version: int
    rows: Sequence[Scored]
    kind: Literal["performance", "concept"] = "performance"
    extent: Extent | None = None
    """None where it is from its first row to its last."""

    @property
    def covers(self) -> Extent:
        """What it covers."""
        return self.extent or _from_first_to_last(self.rows, _NOWHERE)

    @property
    def end(self) -> Place:
        """The place at which it was full."""
        return self.covers.until

    @property
    def losses(self) -> Floats:
        """What each row lost: its clipped loss, times what it weighs."""
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
    watch: Watch, partial: Partial, rows: Sequence[Row], losses: Floats, window: int, look: int | None = None,
    *, every_ms: int | None = None, closed_ms: int = 0,
) -> tuple[Watch, Partial, list[Window]]:  # fmt: skip
    """Take in `rows` with what each lost, NaN without a label; return what is full, in order of its end.

    `window` is how many rows fill a window, and `look` how many labelled ones a look of `concept`, None if there are none.
    Windows by time begin at multiples of `every_ms`; `closed_ms` is up to when there will be no more rows than these.

    `partial` stays as it was, for the transaction may yet be undone.
    """
    partial = replace(
        partial, data=list(partial.data), performance=list(partial.performance), concept=list(partial.concept)
    )
    full: list[Window] = []
    version, generation, end_ms = watch.version, watch.generation, 0
    for row, lost in zip(rows, losses.tolist(), strict=True):
        if every_ms is not None and row.at_ms >= end_ms:
            full += _passed(version, partial, every_ms, row.at_ms)
            end_ms = (row.at_ms // every_ms + 1) * every_ms
        if row.generation > generation:
            if row.version != version and (version or every_ms is None):
                if every_ms is not None:
                    full += _cut(version, partial, every_ms, row.at_ms)
                partial = Partial(data_after=(row.at_ms, ""), performance_after=(row.at_ms, ""))
            version, generation = row.version, row.generation
        elif row.version != version:
            continue
        partial.data.append(row)
        if len(partial.data) == window:
            full.append(_data(version, partial, _from_first_to_last(partial.data, partial.data_after)))
        if lost == lost:
            scored = Scored(row.at_ms, row.id, lost, row)
            if look is not None:
                partial.concept.append(scored)
                if len(partial.concept) == look:
                    full.append(PerformanceWindow(version, partial.concept, "concept"))
                    partial.concept = []
            partial.performance.append(scored)
            if len(partial.performance) == window:
                extent = _from_first_to_last(partial.performance, partial.performance_after)
                full.append(_performance(version, partial, extent))
    if every_ms is not None:
        full += _passed(version, partial, every_ms, closed_ms + 1)
    data, performance, concept = partial.series
    watch = replace(
        watch,
        version=version,
        generation=generation,
        data=data,
        performance=performance,
        concept=concept,
        predictions=watch.predictions + len(rows),
        labels=watch.labels + sum(row.label is not None for row in rows),
    )
    return watch, partial, full


def afresh(watch: Watch, settings: str) -> tuple[Watch, Partial]:
    """Begin windows by other settings with the first row that is not closed."""
    after = (watch.closed_ms, _LAST_ID) if watch.closed_ms else _NOWHERE
    partial = Partial(data_after=after, performance_after=after)
    data, performance, concept = partial.series
    return replace(watch, settings=settings, data=data, performance=performance, concept=concept), partial


def restore(watch: Watch, rows: Sequence[Row], losses: Floats) -> Partial:
    """Return the rows of the windows being filled, from closed rows that hold at least those.

    Rows and labels that came after their time was closed were not counted then, and do not make a window longer now.
    """
    whole = Partial(data_after=watch.data.after, performance_after=watch.performance.after)
    for row, lost in zip(rows, losses.tolist(), strict=True):
        if row.version != watch.version:
            continue
        if watch.data.rows and (row.at_ms, row.id) >= (watch.data.first_ms, watch.data.first_id):
            whole.data.append(row)
        for series, held in ((watch.performance, whole.performance), (watch.concept, whole.concept)):
            if series.rows and lost == lost and (row.at_ms, row.id) >= (series.first_ms, series.first_id):
                held.append(Scored(row.at_ms, row.id, lost, row))
    return replace(
        whole,
        data=whole.data[: watch.data.rows],
        performance=whole.performance[: watch.performance.rows],
        concept=whole.concept[: watch.concept.rows],
    )


def champion_losses(spec: ModelSpec, rows: Sequence[Row]) -> Floats:
    """Return what the live version lost on each row: the clipped loss, times what the row weighs."""
    return plain_losses(spec, rows) * weights(rows)


def plain_losses(spec: ModelSpec, rows: Sequence[Row]) -> Floats:
    """Return the clipped loss of what the live version said of each row, whatever it weighs."""
    said = [row.champion for row in rows]
    return _losses_of(
        spec.task, spec.judged_by, spec.cap, rows, said, [r.champion_probabilities for r in rows]
    )


def challenger_losses(task: Task, metric: Metric, cap: float, rows: Sequence[Row]) -> Floats:
    """Return what the version on trial lost on each row: the clipped loss, times what the row weighs."""
    said = [row.challenger for row in rows]
    lost = _losses_of(task, metric, cap, rows, said, [row.challenger_probabilities for row in rows])
    return lost * weights(rows)


def weights(rows: Sequence[Row]) -> Floats:
    """Return what each row weighs, NaN where it counts for nothing."""
    return np.array([np.nan if row.weight is None else row.weight for row in rows])


def _losses_of(
    task: Task, metric: Metric, cap: float, rows: Sequence[Row],
    said: Sequence[float | None], probabilities: Sequence[bytes | None],
) -> Floats:  # fmt: skip
    labels = [row.label for row in rows]
    if task != "multiclass":
        return clipped_losses(metric, cap, labels, said)
    return _clipped(metric, cap, *_of_classes(labels, probabilities))


def _chances(probabilities: Sequence[bytes | None]) -> Floats:
    """Return probabilities [rows, classes], NaN where there are none."""
    lengths = {len(each) if each else 0 for each in probabilities}
    width = max(lengths, default=0) // 8
    if len(lengths) == 1 and width:
        return np.frombuffer(b"".join(each for each in probabilities if each)).reshape(-1, width)
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
    return _clipped(metric, cap, *_of_values(labels, said, chances=metric in ("log_loss", "error_rate")))


def readable(task: Task, rows: Sequence[Row]) -> tuple[Floats, Floats]:
    """Return the labels, and the live version's predictions or probabilities [rows, classes], of the rows that have both."""
    labels = [row.label for row in rows]
    if task == "multiclass":
        label, said, known = _of_classes(labels, [row.champion_probabilities for row in rows])
    else:
        label, said, known = _of_values(labels, [row.champion for row in rows], chances=task == "binary")
    return label[known], said[known]


def _of_values(
    labels: Sequence[float | None], said: Sequence[float | None], *, chances: bool
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return labels, predictions, which may have to be `chances` of a label of 0 or 1, and of which rows both can be read."""
    label, prediction = np.array(labels, np.float64), np.array(said, np.float64)
    known = np.isfinite(label) & np.isfinite(prediction)
    if chances:
        known &= ((label == 0) | (label == 1)) & are_probabilities(prediction)
    return label, prediction, known


def _of_classes(
    labels: Sequence[float | None], probabilities: Sequence[bytes | None]
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return labels, probabilities [rows, classes], and of which rows both can be read."""
    label, chances = np.array(labels, np.float64), _chances(probabilities)
    known = np.isfinite(label) & are_probabilities(chances).all(axis=1) & (chances.shape[1] > 0)
    return label, chances, known


def _clipped(metric: Metric, cap: float, label: Floats, said: Floats, known: NDArray[np.bool_]) -> Floats:
    losses = np.full(len(label), np.nan)
    losses[known] = clip(loss(metric, label[known], said[known]), cap)
    return losses


def _data(version: int, partial: Partial, extent: Extent) -> DataWindow:
    """Return the window that the rows of `partial` make, and begin the next."""
    made = DataWindow(version, partial.data, extent=extent)
    partial.data, partial.data_after = [], extent.until
    return made


def _performance(version: int, partial: Partial, extent: Extent) -> PerformanceWindow:
    made = PerformanceWindow(version, partial.performance, extent=extent)
    partial.performance, partial.performance_after = [], extent.until
    return made


def _passed(version: int, partial: Partial, every_ms: int, now_ms: int) -> list[Window]:
    """Return the windows by time whose end is not after a time; no row before it is still to come."""
    found: list[Window] = []
    if partial.data and (extent := _in_time(partial.data, partial.data_after, every_ms)).to_ms <= now_ms:
        found.append(_data(version, partial, extent))
    if not partial.performance:
        return found
    extent = _in_time(partial.performance, partial.performance_after, every_ms)
    if extent.to_ms <= now_ms:
        found.append(_performance(version, partial, extent))
    return found


def _cut(version: int, partial: Partial, every_ms: int, at_ms: int) -> list[Window]:
    """Return the windows by time that another version cuts off at a time."""
    found: list[Window] = []
    last = max((_place(rows[-1]) for rows in (partial.data, partial.performance) if rows), default=_NOWHERE)
    if partial.data:
        extent = _in_time(partial.data, partial.data_after, every_ms)
        found.append(_data(version, partial, extent._replace(until=last, to_ms=at_ms, whole=False)))
    if partial.performance:
        extent = _in_time(partial.performance, partial.performance_after, every_ms)
        found.append(_performance(version, partial, extent._replace(until=last, to_ms=at_ms, whole=False)))
    return found


def _from_first_to_last(rows: Sequence[Row] | Sequence[Scored], after: Place) -> Extent:
    """Return what a window covers that is full with its last row; rows without a label before its first are its own."""
    first, last = _place(rows[0]), _place(rows[-1])
    return Extent((first[0], "") if after == _NOWHERE else after, last, first[0], last[0])


def _in_time(rows: Sequence[Row] | Sequence[Scored], after: Place, every_ms: int) -> Extent:
    """Return what a window covers that ends with the stretch of time in which its first row is."""
    start = rows[0].at_ms // every_ms * every_ms
    end = start + every_ms
    from_ms = start if after <= (start, "") else rows[0].at_ms
    return Extent(max(after, (start, "")), (end - 1, _LAST_ID), from_ms, end)


def _series(rows: Sequence[Row] | Sequence[Scored], after: Place = _NOWHERE) -> Series:
    return Series(len(rows), *_place(rows[0]), after) if rows else Series(after=after)


def _place(row: Row | Scored) -> Place:
    return row.at_ms, row.id
