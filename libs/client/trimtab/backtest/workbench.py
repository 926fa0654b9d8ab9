"""Candidates as the trainer would have made them at a time, and what the registry's gates would have said of them.

What two strategies order alike is fitted once: the same spec, the same rows.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from trimtab_core import baseline, gating, quality
from trimtab_core.baseline import Calibration, Settings
from trimtab_core.gating import Gate
from trimtab_core.specs import LatencyGateSpec, Model, ModelSpec, ModelTest, SizeGateSpec, Source, TrainerSpec
from trimtab_runtime.errors import Rejected
from trimtab_training import behaving, classes, export, families, fitting, making, reference, search, timing
from trimtab_training.errors import RunFailed
from trimtab_training.families import Floats
from trimtab_training.making import Shipped
from trimtab_training.progress import Telling

from trimtab.backtest.history import History

_BLOCK = 8_192
"""Rows of history that a candidate is asked at once."""


@dataclass(slots=True)
class Spent:
    """What fits have cost: seconds of CPU, which other work on the machine disturbs least."""

    seconds: float = 0.0
    fits: int = 0


@dataclass(eq=False)
class Candidate:
    """A version that may come to serve."""

    history: History
    places: NDArray[np.int64]
    """Of the rows of history that it was trained on and judged by."""
    rows: fitting.Rows
    judged: slice
    shipped: Shipped
    trainer: TrainerSpec
    """As a search has settled it."""
    fit: fitting.Fit
    spent: Spent
    seconds: float
    """Of CPU that its fits took, those of its reference aside."""
    _answers: dict[int, Floats] = field(default_factory=dict)
    _calibrations: dict[str, Calibration | None] = field(default_factory=dict)
    _references: dict[str, dict[str, NDArray[Any]]] = field(default_factory=dict)

    @property
    def trained_to_ms(self) -> int:
        """Event time of the newest row that it was fitted to."""
        return int(self.shipped.fitted_to.event_time_ms[-1])

    def answers(self, start: int, stop: int) -> Floats:
        """Return what it says of rows [start, stop) of history: predictions [rows], or probabilities [rows, classes]."""
        blocks = [self._block(at) for at in range(start // _BLOCK, (stop - 1) // _BLOCK + 1)]
        whole = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
        first = start // _BLOCK * _BLOCK
        return whole[start - first : stop - first]

    def _block(self, number: int) -> Floats:
        if number not in self._answers:
            rows = slice(number * _BLOCK, (number + 1) * _BLOCK)
            self._answers[number] = self.shipped.final.predict(self.history.features[rows])
        return self._answers[number]

    def answers_at(self, places: NDArray[np.int64]) -> Floats:
        """Return what it says of some rows of history."""
        return self.shipped.final.predict(self.history.features[places])

    def calibration(self, spec: ModelSpec, settings: Settings) -> Calibration | None:
        """Return what is usual for it by a spec's settings; None where nothing can be said."""
        if settings.key not in self._calibrations:
            self._calibrations[settings.key] = self._calibrated(spec, settings)
        return self._calibrations[settings.key]

    def _calibrated(self, spec: ModelSpec, settings: Settings) -> Calibration | None:
        try:
            return baseline.calibrate(self._reference(spec, settings), settings)
        except ValueError:  # as in monitoring, such a version is not watched
            return None

    def _reference(self, spec: ModelSpec, settings: Settings) -> dict[str, NDArray[Any]]:
        """Return what it is watched by, column by column; the same for windows by time of any number of rows."""
        place = settings.of_rows(0).key
        if place not in self._references:
            began, settled = time.process_time(), spec.model_copy(update={"trainer": self.trainer})
            seen, unseen = making.referred(settled, self.rows, self.judged, self.shipped, self.fit)
            self.spent.seconds += time.process_time() - began
            names, texts = self.history.names, self.history.texts
            self._references[place] = reference.columns(spec, names, texts, seen, unseen)
        return self._references[place]


Shelf = dict[tuple[str, int, int | None, bool], Candidate | RunFailed]
"""What was made of one history, by recipe, as of when, since when the world is another, and how it was judged."""
_QUICK: Final = {"every": 1, "stretches": 1}
_UNTOLD: Final = Telling(lambda _: None)
_quiet = _UNTOLD.heard(fitting.fit)


class Workbench:
    """Makes candidates of one model over one history, each once."""

    def __init__(
        self,
        model: Model,
        source: Source,
        history: History,
        *,
        tests: Sequence[ModelTest] = (),
        shelf: "Shelf | None" = None,
        on_fit: Callable[[], object] = lambda: None,
    ) -> None:
        """`tests` are the behavioural ones of the project, `shelf` has what others made of the same history; `on_fit` hears of each fit.

        Raises:
            Rejected: the model has a trainer of its own, whose environment only a trainer makes.
        """
        if model.spec.trainer.kind == "own":
            raise Rejected(
                "trainer.kind 'own' runs in an environment that a trainer makes, and is not backtested: name another kind"
            )
        self.model, self.history = model, history
        self.settings = Settings.of(model, source)
        self.stated = quality.stated_of(model, history.carries, {source.name: source}, {})
        self.spent = Spent()
        self._tests = [each for each in tests if each.spec.model == model.name]
        self._on_fit = on_fit
        self._shelf: Shelf = {} if shelf is None else shelf
        spec = model.spec
        self._recipe = repr((spec.task, spec.label, spec.trainer, spec.judged_by, spec.cap))

    def load(self) -> None:
        """Load what fits: of what is loaded later, a limit of threads would not hold.

        Raises:
            RunFailed: what the spec's family rests on is not installed.
        """
        kind = self.model.spec.trainer.kind
        trainer = TrainerSpec(kind="linear" if kind == "auto" else kind, window=1)
        families.of(self.model.spec.model_copy(update={"trainer": trainer}))

    def candidate(
        self, as_of_ms: int, changed_ms: int | None, *, quick: bool = False
    ) -> Candidate | RunFailed:
        """Return what a run as of a time makes of the rows known then, or why it fails.

        A `quick` one is judged by one fit, as a run is whose fits take long.
        """
        key = (self._recipe, as_of_ms, changed_ms, quick)
        if key not in self._shelf:
            try:
                self._shelf[key] = self._make(as_of_ms, changed_ms, quick)
            except RunFailed as error:
                self._shelf[key] = error
        return self._shelf[key]

    def labelled(self, as_of_ms: int) -> NDArray[np.int64]:
        """Return the places of the rows of the training window whose labels were known at a time."""
        at_ms, spec = self.history.at_ms, self.model.spec.trainer
        first, stop = np.searchsorted(at_ms, [as_of_ms - spec.window, as_of_ms], side="left")
        known: NDArray[np.int64] = np.flatnonzero(self.history.known_ms[first:stop] <= as_of_ms)
        return known + int(first)

    def _make(self, as_of_ms: int, changed_ms: int | None, quick: bool) -> Candidate:
        places, model = self.labelled(as_of_ms), self.model
        places = places[making.first_place(model.spec, len(places)) :]
        history = self.history
        rows = fitting.Rows(history.features[places], history.label[places], history.at_ms[places])
        judged = making.held_out(model.spec, rows)
        began, telling = time.process_time(), _UNTOLD
        job = {"changed_ms": changed_ms, "plan": _QUICK if quick else None}
        with TemporaryDirectory() as folder:
            model = search.settled(model, rows, judged, Path(folder), telling)
        shipped = making.ship(model.spec, rows, judged, job, telling, self._fit)
        seconds = time.process_time() - began
        self.spent.seconds += seconds
        return Candidate(
            history, places, rows, judged, shipped, model.spec.trainer, self._fit, self.spent, seconds
        )

    def _fit(self, *given: Any) -> Any:
        self.spent.fits += 1
        fitted = _quiet(*given)
        self._on_fit()
        return fitted

    def gates(self, candidate: Candidate, champion: Candidate | None, number: int) -> list[Gate]:
        """Return what the gates and tests say of a candidate beside the live version `number`, 0 for none."""
        spec, judged = self.model.spec, candidate.judged
        if not spec.gates and not self._tests:
            return []
        places, rows = candidate.places[judged], candidate.rows[judged]
        said = None
        if champion is not None:
            asked = making.asked_beside(rows.event_time_ms, champion.trained_to_ms)
            found = champion.answers_at(places[asked])
            said = np.full((len(rows), *found.shape[1:]), np.nan)
            said[asked] = found
        table = pa.table(
            {
                "label": rows.label,
                **classes.evaluated(candidate.shipped.predictions, said),
                **{name: values[places] for name, values in self.history.groups.items()},
            }
        )
        offered = self._offered(candidate, champion, rows)
        return gating.judge(spec, table, champion=number, candidate=offered)

    def _offered(
        self, candidate: Candidate, champion: Candidate | None, rows: fitting.Rows
    ) -> Mapping[str, Any]:
        """Return what is measured of a candidate's graph, as far as gates ask for it, and what its tests say."""
        spec, offered = self.model.spec, dict[str, Any]()
        if any(isinstance(gate, SizeGateSpec | LatencyGateSpec) for gate in spec.gates):
            graph = export.serialised(candidate.shipped.final.to_onnx())
            offered["model"] = {"size": len(graph)}
            if any(isinstance(gate, LatencyGateSpec) for gate in spec.gates):
                beside = None
                if champion is not None:
                    theirs = export.serialised(champion.shipped.final.to_onnx())
                    beside = (export.session(theirs), rows.features)
                offered["latency"] = timing.latency(export.session(graph), rows.features, beside)
        offered["tests"] = behaving.results(
            self._tests,
            candidate.shipped.final.predict,
            self.history.names,
            self.history.texts,
            spec.label.classes,
            rows.features,
        )
        return offered
