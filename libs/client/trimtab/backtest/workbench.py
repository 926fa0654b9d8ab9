"""Candidates as the trainer would have made them at a time, and what the registry's gates would have said of them.

What two strategies order alike is fitted once: the same spec, the same rows.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
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
from trimtab.backtest.shelf import Shelf

_BLOCK = 8_192
"""Rows of history that a candidate is asked at once."""


@dataclass(slots=True)
class Spent:
    """What fits have cost: seconds of CPU, which other work on the machine disturbs least."""

    seconds: float = 0.0
    fits: int = 0

    def add(self, other: "Spent") -> None:
        """Count what was spent elsewhere."""
        self.seconds += other.seconds
        self.fits += other.fits


@dataclass(frozen=True, slots=True)
class Made:
    """What fits came to: all that has to be kept of a candidate."""

    places: NDArray[np.int64]
    """Of the rows of history that it was trained on and judged by."""
    judged: slice
    """Which of these it was judged by."""
    shipped: Shipped
    trainer: TrainerSpec
    """As a search has settled it."""
    seconds: float
    """Of CPU that its fits took, those of its reference aside."""


class Candidate:
    """A version that may come to serve."""

    def __init__(self, bench: "Workbench", key: "Key", made: Made) -> None:
        """`key` is by what `made` is kept."""
        self.places, self.judged = made.places, made.judged
        self.shipped, self.seconds = made.shipped, made.seconds
        self._bench, self._key, self._trainer = bench, key, made.trainer
        self._answers: dict[int, Floats] = {}

    @property
    def rows(self) -> fitting.Rows:
        """The rows that it was trained on and judged by."""
        return self._bench.rows(self.places)

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
            self._answers[number] = self.shipped.final.predict(self._bench.history.features[rows])
        return self._answers[number]

    def answers_at(self, places: NDArray[np.int64]) -> Floats:
        """Return what it says of some rows of history."""
        return self.shipped.final.predict(self._bench.history.features[places])

    def calibration(self, spec: ModelSpec, settings: Settings) -> Calibration | None:
        """Return what is usual for it by a spec's settings; None where nothing can be said."""
        key = (*self._key, "calibration", settings.key)
        found: Calibration | None = self._bench.shelf.once(key, lambda: self._calibrated(spec, settings))
        return found

    def _calibrated(self, spec: ModelSpec, settings: Settings) -> Calibration | None:
        place = settings.of_rows(0).key  # the same for windows by time of any number of rows
        settled, bench = spec.model_copy(update={"trainer": self._trainer}), self._bench
        try:
            seen, unseen = bench.once(
                (*self._key, "reference", place),
                lambda: making.referred(settled, self.rows, self.judged, self.shipped, bench.fit),
            )
            columns = reference.columns(spec, bench.history.names, bench.history.texts, seen, unseen)
            return baseline.calibrate(columns, settings)
        except ValueError:  # as in monitoring, such a version is not watched
            return None


Key = tuple[str, int, int | None, bool]
"""By recipe, as of when, since when the world is another, and how it was judged."""
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
        shelf: Shelf | None = None,
    ) -> None:
        """`tests` are the behavioural ones of the project, `shelf` has what others made of the same history.

        Raises:
            Rejected: the model has a trainer of its own, whose environment only a trainer makes.
        """
        if model.spec.trainer.kind == "own":
            raise Rejected(
                "trainer.kind 'own' runs in an environment that a trainer makes, and is not backtested: name another kind"
            )
        self.model, self.source, self.history = model, source, history
        self.settings = Settings.of(model, source)
        self.stated = quality.stated_of(model, history.carries, {source.name: source}, {})
        self.spent = Spent()
        self.tests = [each for each in tests if each.spec.model == model.name]
        self.on_fit: Callable[[], object] = lambda: None
        """Hears of each fit."""
        self.shelf = Shelf() if shelf is None else shelf
        self._candidates: dict[Key, Candidate | RunFailed] = {}
        spec = model.spec
        self._recipe = repr((spec.task, spec.label, spec.trainer, spec.judged_by, spec.cap))

    @contextmanager
    def on_one_thread(self) -> Iterator[None]:
        """Fit on one thread, as a run of the trainer does, whose bits depend on it.

        Raises:
            RunFailed: what the spec's family rests on is not installed.
        """
        kind = self.model.spec.trainer.kind
        trainer = TrainerSpec.model_validate({"kind": "linear" if kind == "auto" else kind, "window": "1d"})
        # Loaded first, for no limit holds of what is loaded later.
        families.of(self.model.spec.model_copy(update={"trainer": trainer}))
        with threadpool_limits(1):
            yield

    def candidate(
        self, as_of_ms: int, changed_ms: int | None, *, quick: bool = False
    ) -> Candidate | RunFailed:
        """Return what a run as of a time makes of the rows known then, or why it fails.

        A `quick` one is judged by one fit, as a run is whose fits take long.
        """
        key = (self._recipe, as_of_ms, changed_ms, quick)
        if key not in self._candidates:
            made = self.once(key, lambda: self._make(as_of_ms, changed_ms, quick))
            self._candidates[key] = made if isinstance(made, RunFailed) else Candidate(self, key, made)
        return self._candidates[key]

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what fits came to, and count what they cost, if they were not made before."""
        began = time.process_time()

        def counted() -> Any:
            made = make()
            self.spent.seconds += time.process_time() - began
            return made

        return self.shelf.once(key, counted)

    def labelled(self, as_of_ms: int) -> NDArray[np.int64]:
        """Return the places of the rows of the training window whose labels were known at a time."""
        at_ms, spec = self.history.at_ms, self.model.spec.trainer
        first, stop = np.searchsorted(at_ms, [as_of_ms - spec.window, as_of_ms], side="left")
        known: NDArray[np.int64] = np.flatnonzero(self.history.known_ms[first:stop] <= as_of_ms)
        return known + int(first)

    def rows(self, places: NDArray[np.int64]) -> fitting.Rows:
        """Return the rows of history at places, as they are fitted to."""
        history = self.history
        return fitting.Rows(history.features[places], history.label[places], history.at_ms[places])

    def _make(self, as_of_ms: int, changed_ms: int | None, quick: bool) -> Made | RunFailed:
        began, telling = time.process_time(), _UNTOLD
        places, model = self.labelled(as_of_ms), self.model
        job = {"changed_ms": changed_ms, "plan": _QUICK if quick else None}
        try:
            places = places[making.first_place(model.spec, len(places)) :]
            rows = self.rows(places)
            judged = making.held_out(model.spec, rows)
            with TemporaryDirectory() as folder:
                model = search.settled(model, rows, judged, Path(folder), telling)
            shipped = making.ship(model.spec, rows, judged, job, telling, self.fit)
        except RunFailed as error:
            return error
        return Made(places, judged, shipped, model.spec.trainer, time.process_time() - began)

    def fit(self, *given: Any) -> Any:
        """Fit, and count it."""
        self.spent.fits += 1
        fitted = _quiet(*given)
        self.on_fit()
        return fitted

    def gates(self, candidate: Candidate, champion: Candidate | None, number: int) -> list[Gate]:
        """Return what the gates and tests say of a candidate beside the live version `number`, 0 for none."""
        spec, judged = self.model.spec, candidate.judged
        if not spec.gates and not self.tests:
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
            self.tests,
            candidate.shipped.final.predict,
            self.history.names,
            self.history.texts,
            spec.label.classes,
            rows.features,
        )
        return offered
