"""What is usual for a version, worked out once from its own reference.

The same reference and settings give the same calibration, wherever and whenever it
is made. `false_alarms` of the spec holds for all kinds of drift together: each kind
is given an equal share. It holds once more for faults of quality, which are no drift.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trimtab_core import calibration as levels
from trimtab_core import estimation, labelling, quality, slicing
from trimtab_core.calibration import DriftThresholds, LevelThreshold, Rule
from trimtab_core.concept import FEWEST_ROWS, ChangeThreshold, calibrate_change
from trimtab_core.drift import Column, Kind, Reference, fit_reference
from trimtab_core.durations import Rate, Span, format_duration
from trimtab_core.estimation import Estimator
from trimtab_core.features import are_words, round_of
from trimtab_core.losses import Metric, clip
from trimtab_core.measures import Measure, unfit
from trimtab_core.quality import Usual
from trimtab_core.seasons import Season
from trimtab_core.sliced import Known
from trimtab_core.specs import LEAST_WINDOW, Model, Source, WindowSize
from trimtab_core.windows import Window

Floats = NDArray[np.float64]

KINDS: Final = 3
"""Kinds of drift that are always watched, and share the rate of false alarms: data, prediction, performance."""
LOOKS: Final = 10
"""So many times a window a change of the concept is looked for."""
NOT_FEATURES: Final = frozenset({"prediction", "loss", "event_time_ms", "key", "label", "probabilities"})
"""Columns of a reference that are no features."""
_MOST: Final = 0.05
"""False alarms a window at most, however thin the traffic: a rate so high that it asks for more would mean nothing."""
_UNTIMED: Final = 0.01
"""False alarms a window where the reference does not tell how many rows a day has."""
MOST_ROWS: Final = 20_000
"""A window by time that has so many rows is full, whatever its time."""
_METHOD: Final = 4
"""Counts up whenever scores, levels or what is kept of them change their meaning: what was worked out otherwise is then worked out anew."""
_SIZES: Final = tuple(round(LEAST_WINDOW * 2 ** (step / 4)) for step in range(29))
"""Rows of which windows by time are calibrated, each a fifth more than the one before: beyond the last, tolerances and not noise decide."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What of a spec a calibration depends on."""

    window: int
    """Rows of a window; of those by time, the number that one is judged by."""
    false_alarms: Rate
    rule: Rule
    metric: Metric
    cap: float
    categorical: tuple[str, ...]
    """Features that are numbers of kinds, and `prediction` where that is the number of a class; a text is a category by itself."""
    concept: bool = False
    """Whether the losses are watched for a change row by row too; it then has a share of the false alarms."""
    clear: float = levels.ORDINARY
    """Share of the windows that end an episode while nothing changes."""
    measures: tuple[tuple[str, Measure], ...] = ()
    """Measures other than the usual, each of a feature, of `prediction` or of a kind of them."""
    season_ms: int | None = None
    """How long the season is whose like phases are compared, None if all rows are."""
    every_ms: int | None = None
    """How long a window by time is."""
    slices: tuple[str, ...] = ()
    """The features by whose values losses and drift are told apart, as rows carry them."""
    classifier: bool = False
    """Whether the features together are told apart by a classifier too."""
    wanted: int | None = None
    """So many predictions of a window get a label at most, those that are asked for; None if all can."""

    @classmethod
    def of(cls, model: Model, source: Source | None) -> "Settings":
        """Return the settings that a model's spec states; `source` tells which of its features are categories."""
        monitoring = model.spec.monitoring
        fields = source.spec.fields if source else {}
        categorical = [
            f"request.{name}" for name, it in fields.items() if it.type == "boolean" or it.enum is not None
        ]
        size = monitoring.window
        return cls(
            window=_SIZES[0] if isinstance(size, Span) else size,
            false_alarms=monitoring.false_alarms,
            rule=Rule(*monitoring.persistence),
            metric=model.spec.judged_by,
            cap=model.spec.cap,
            categorical=(
                *sorted(set(categorical) & set(model.spec.features)),
                *(["prediction"] if model.spec.task == "multiclass" else []),
            ),
            concept=monitoring.concept or "concept" in model.spec.retrain.on,
            clear=monitoring.clear,
            measures=tuple(sorted(model.spec.measures.items())),
            season_ms=monitoring.season,
            every_ms=size.ms if isinstance(size, Span) else None,
            slices=model.spec.slices,
            classifier=monitoring.classifier,
            wanted=monitoring.labels_wanted if monitoring.labelled == "wanted" else None,
        )

    @property
    def full(self) -> int:
        """How many rows fill a window."""
        return self.window if self.every_ms is None else MOST_ROWS

    def of_rows(self, rows: int) -> "Settings":
        """Return those by which a window of so many rows is judged: the nearest size below that windows are calibrated for."""
        if self.every_ms is None:
            return self
        return replace(self, window=max((size for size in _SIZES if size <= rows), default=_SIZES[0]))

    def judges(self, window: Window) -> bool:
        """Whether a window has rows enough to be held against anything, and was not cut off."""
        return window.covers.whole and (self.every_ms is None or len(window.rows) >= LEAST_WINDOW)

    @property
    def look(self) -> int | None:
        """How many labelled rows are looked at together for a change of the concept, None if that is not watched."""
        return max(1, self.window // LOOKS) if self.concept else None

    @property
    def shares(self) -> int:
        """How many kinds of drift share the rate of false alarms."""
        return KINDS + self.concept

    @property
    def key(self) -> str:
        """The settings as text, and how a calibration is worked out from them: equal texts, equal calibrations of a reference."""
        rule = f"{self.rule.k} of {self.rule.n}"
        named = ",".join(self.categorical)
        concept = "; concept" if self.concept else ""
        every = f" of {Span(self.every_ms)}" if self.every_ms is not None else ""
        slices = f"; by {','.join(self.slices)}" if self.slices else ""
        clear = f"; clear {self.clear:g}" if self.clear != levels.ORDINARY else ""
        measures = "".join(f"; {name} by {measure}" for name, measure in self.measures)
        season = f"; {format_duration(self.season_ms)}" if self.season_ms else ""
        stated = f"{self.window}{every}; {self.false_alarms}; {rule}; {self.metric} <= {self.cap:g}"
        classifier = "; classifier" if self.classifier else ""
        wanted = f"; {self.wanted} wanted" if self.wanted is not None else ""
        return f"method {_METHOD}; {stated}; {named}{concept}{clear}{measures}{season}{slices}{classifier}{wanted}"

    def measure(self, name: str, kind: Kind) -> Measure:
        """Return the measure that is asked for of a column."""
        asked = dict(self.measures)
        return asked.get(name, asked.get(kind, "distance"))


@dataclass(frozen=True, slots=True)
class Calibration:
    """What windows of a version are held against.

    `limits` holds the score from which on each feature, `prediction` and `loss` is
    over its level by itself.
    """

    features: tuple[str, ...]
    references: Mapping[str, Reference]
    data: DriftThresholds | None
    """None where there is no feature."""
    prediction: DriftThresholds
    performance: LevelThreshold
    limits: Mapping[str, float]
    change: ChangeThreshold | None = None
    """None where a change of the concept is not watched."""
    estimator: Estimator | None = None
    """None where what rows lose was not learnt, which deciding does not need."""
    notes: tuple[str, ...] = ()
    """What is asked for and not done, and why, a sentence each."""
    quality: Mapping[str, Usual] = field(default_factory=dict)
    """By feature; empty in what was worked out before quality was watched."""
    slices: Mapping[str, Mapping[str, slicing.Usual]] = field(default_factory=dict)
    """By feature and value, what losses were usual."""
    sliced: Mapping[str, Known] = field(default_factory=dict)
    """By feature, where values lie in each of its slices."""


@dataclass(frozen=True, slots=True)
class Uncalibrated:
    """Why nothing can be said of a version's windows, in one sentence."""

    fault: str

    @property
    def why(self) -> str:
        """It as the end of a sentence; of what a child process said, the last of it."""
        return (self.fault.strip() or "it failed and said nothing").splitlines()[-1].rstrip(".")


NO_REFERENCE: Final = Uncalibrated("there is no reference of held-out rows that can be read: train it again")


def calibrate(
    columns: Mapping[str, Column], settings: Settings, *, seed: int = 0, estimator: Estimator | None = None
) -> Calibration:
    """Work out a version's calibration from the columns of its reference, in order of time.

    `estimator` is what `learn_losses` gives. Where labels come for wanted rows alone, losses are calibrated as those would have them.

    Raises:
        ValueError: the reference is not what its format promises.
    """
    if missing := {"prediction", "loss"} - columns.keys():
        raise ValueError(f"the reference has no {' and no '.join(sorted(missing))}: train the version again")
    rate = false_alarms_a_window(columns.get("event_time_ms"), settings)
    features = [name for name in columns if name not in NOT_FEATURES]
    unseen = _unseen(features, columns.get("event_time_ms"))
    features = [name for name in features if name not in unseen]
    kinds = {name: _kind(name, columns[name], settings) for name in features}
    of_prediction: Kind = "categorical" if "prediction" in settings.categorical else "numeric"
    measures, notes = _measures(kinds | {"prediction": of_prediction}, settings)
    notes += unseen.values()
    season = None
    if settings.season_ms is not None:
        try:
            season = Season.of(settings.season_ms, columns.get("event_time_ms"))
        except ValueError as error:
            notes.append(f"{error}; windows are compared with all of it.")
    drift = {
        "window": settings.window,
        "false_alarms": rate,
        "rule": settings.rule,
        "seed": seed,
        "clear": settings.clear,
    }
    references = fit_reference(columns, {**kinds, "prediction": of_prediction}, measures, season)
    alike = drift | {"season": season, "references": references}
    if settings.classifier and len(kinds) < 2:
        notes.append("A classifier tells two features apart or more, and there are fewer: it is left out.")
    of_features = alike | {"classifier": settings.classifier}
    data = levels.calibrate(columns, kinds, **of_features) if kinds else None  # type: ignore[arg-type]
    prediction = levels.calibrate(columns, {"prediction": of_prediction}, **alike)  # type: ignore[arg-type]
    times = columns.get("event_time_ms")
    labelled = _labelled_share(times, settings)
    rate_of_losses = false_alarms_a_window(times, settings, labelled)
    losses = _losses(columns, settings, estimator, seed)
    known = round(len(columns["loss"]) * labelled) if settings.wanted is not None else None
    of_losses = drift | {"false_alarms": rate_of_losses, "known": known}
    performance = levels.calibrate_mean(losses, **of_losses)  # type: ignore[arg-type]
    limits = {name: _limit(data, name, references.get(name)) for name in data.nulls} if data else {}
    return Calibration(
        features=tuple(features),
        references=references,
        data=data,
        prediction=prediction,
        performance=performance,
        limits={
            **limits,
            "prediction": _limit(prediction, "prediction", references["prediction"]),
            "loss": _loss_limit(performance),
        },
        change=calibrate_change(
            losses,
            rows_between=max(_labels_a_window(times, settings) / rate_of_losses, FEWEST_ROWS),
            seed=seed,
        )
        if settings.concept
        else None,
        estimator=estimator,
        notes=tuple(notes),
        quality=quality.learn(
            columns, kinds, window=settings.window, false_alarms=min(rate * settings.shares, _MOST)
        ),
        slices={
            name: slicing.usual(columns[name], columns["loss"], settings.cap)
            for name in settings.slices
            if name in columns
        },
        sliced={name: Known.of(name, columns, references) for name in settings.slices if name in columns},
    )


def _losses(
    columns: Mapping[str, Column], settings: Settings, estimator: Estimator | None, seed: int
) -> Floats:
    """Return what labelled rows lose, in order of time: of the wanted ones each loss as often as it is asked for, by its weight."""
    known, worth = np.isfinite(columns["loss"]), np.full(len(columns["loss"]), np.nan)
    if settings.wanted is None:
        return clip(columns["loss"][known], settings.cap)
    if estimator is not None and not estimator.unknown:
        worth = estimation.foreseen(estimator, columns)
        known = np.isfinite(worth)
    losses = clip(columns["loss"][known], settings.cap)
    if not losses.size:
        return losses
    window = _rows_a_window(columns.get("event_time_ms"), settings)
    return labelling.weighed(losses, worth[known], window, settings.wanted, seed=seed)


def learn_losses(columns: Mapping[str, Column], settings: Settings) -> Estimator:
    """Learn from the columns of a reference, in order of time, what a row without a label is expected to lose."""
    features = [name for name in columns if name not in NOT_FEATURES]
    return estimation.fit(columns, features, metric=settings.metric, cap=settings.cap, window=settings.window)


def _unseen(features: Sequence[str], event_time_ms: Floats | None) -> dict[str, str]:
    """Return the features that show what a clock says and cannot be watched, each with a note of why.

    A reference shorter than two rounds of a clock has seen only some of what it shows, so it would always drift.
    """
    if event_time_ms is None or not len(event_time_ms):
        return {}
    covers = float(event_time_ms[-1] - event_time_ms[0])
    return {
        name: f"{name} is not watched: two rounds of it take {format_duration(2 * round_ms)}, and the reference covers less."
        for name in features
        if (round_ms := round_of(name)) is not None and covers < 2 * round_ms
    }


def _measures(kinds: Mapping[str, Kind], settings: Settings) -> tuple[dict[str, Measure], list[str]]:
    """Return the measure of each column, and a note of each that is asked for where it cannot be had."""
    found, notes = dict[str, Measure](), list[str]()
    for name, kind in kinds.items():
        found[name] = settings.measure(name, kind)
        if of := unfit(found[name], numeric=kind == "numeric"):
            notes.append(f"{name} is {kind} and {found[name]} a measure of {of}: distance is used for it.")
            found[name] = "distance"
    return found, notes


def window_rows(size: WindowSize, event_time_ms: NDArray[Any]) -> int:
    """Return how many rows a window has on average, of rows at such times, in order."""
    if isinstance(size, int):
        return size
    took_ms = float(event_time_ms[-1] - event_time_ms[0]) if len(event_time_ms) > 1 else 0.0
    rows = (len(event_time_ms) - 1) * size.ms / took_ms if took_ms > 0 else 0.0
    return int(min(max(rows, LEAST_WINDOW), MOST_ROWS))


def _rows_a_window(event_time_ms: Floats | None, settings: Settings) -> int:
    if settings.every_ms is None or event_time_ms is None:
        return settings.window
    return window_rows(Span(settings.every_ms), event_time_ms)


def _labelled_share(event_time_ms: Floats | None, settings: Settings) -> float:
    """Return the share of predictions that can get a label."""
    if settings.wanted is None:
        return 1.0
    return min(settings.wanted / _rows_a_window(event_time_ms, settings), 1.0)


def _labels_a_window(event_time_ms: Floats | None, settings: Settings) -> float:
    """Return how many labelled rows a window of them has on average, if all that can get a label do."""
    rows = _rows_a_window(event_time_ms, settings)
    return rows if settings.every_ms is None else rows * _labelled_share(event_time_ms, settings)


def _kind(name: str, column: Column, settings: Settings) -> Kind:
    if are_words(name):
        return "text"
    return "categorical" if column.dtype == object or name in settings.categorical else "numeric"


def false_alarms_a_window(event_time_ms: Floats | None, settings: Settings, share: float = 1.0) -> float:
    """Return the chance of a false alarm that one kind of drift has in one window of that `share` of the predictions.

    It follows from how many windows the reference's traffic fills in the time that the
    spec's rate speaks of; of windows by time there is one for each of theirs, or more where they are full before.
    """
    if event_time_ms is None or len(event_time_ms) < 2 or event_time_ms[-1] <= event_time_ms[0]:
        return _UNTIMED / settings.shares
    rows_a_ms = share * (len(event_time_ms) - 1) / float(event_time_ms[-1] - event_time_ms[0])
    windows_a_ms = rows_a_ms / settings.full
    if settings.every_ms is not None:
        windows_a_ms = max(windows_a_ms, 1 / settings.every_ms)
    windows = windows_a_ms * settings.false_alarms.per_ms
    return min(settings.false_alarms.count / windows, _MOST) / settings.shares


def _limit(thresholds: DriftThresholds, name: str, reference: Reference | None) -> float:
    """Return where a score is over its level by itself; that of several together has no reference of its own."""
    null, most = thresholds.nulls[name], reference.most if reference else math.inf
    tolerance = thresholds.tolerance[reference.tolerated if reference else name]
    least = float(np.hypot(tolerance, null.median))
    furthest = min(null.quantiles[-1] + 100 * null.tail, most)
    return max(least, _first_over(lambda score: float(null.p(score)), thresholds.level, furthest))


def _loss_limit(threshold: LevelThreshold) -> float:
    """Return the mean loss from which on a window is over."""
    null = threshold.null
    furthest = max(null.quantiles[-1], 0.0) + 100 * null.tail
    rise = _first_over(lambda rise: float(null.p(rise)), threshold.level, furthest)
    return threshold.mean + max(rise, threshold.tolerance * threshold.mean)


def _first_over(p_of: Callable[[float], float], level: float, furthest: float) -> float:
    """Return where the falling `p_of` first is at most `level`, in [0, furthest], by bisection."""
    low, high = 0.0, furthest
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if p_of(middle) <= level else (middle, high)
    return high
