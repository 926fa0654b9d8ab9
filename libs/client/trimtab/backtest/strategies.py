"""Never, scheduled, on drift, always: the same history lived four times, and what each came to.

They differ in what orders a retrain and in nothing else: the same first version, gates and
rollout, and the policy's cooldown and budget (`always` has neither, for it is to show what
retraining without end would buy). `on_drift` is the spec as it is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from trimtab_core import gating
from trimtab_core.durations import Rate
from trimtab_core.losses import Metric, aggregate
from trimtab_core.policy import PolicySpec
from trimtab_core.specs import Model, ModelTest, RetrainSpec
from trimtab_core.watched import Due, Watch
from trimtab_runtime.errors import Rejected
from trimtab_training.errors import RunFailed

from trimtab.backtest import abreast, living
from trimtab.backtest.history import History, Project
from trimtab.backtest.living import NOBODY, Life, Strategy, Watching, nothing_due
from trimtab.backtest.shelf import Shelf
from trimtab.backtest.workbench import Candidate, Spent, Workbench

NAMES: Final = ("never", "scheduled", "on_drift", "always")
ALWAYS: Final = 30
"""Retrains that `always` makes over all of history, unless it is told how often."""
_STEP_MS: Final = 3_600_000
_DAY_MS: Final = 86_400_000
_SCHEDULES: Final = ((7 * _DAY_MS, "0 * * * *"), (90 * _DAY_MS, "0 3 * * *"), (400 * _DAY_MS, "0 3 * * 1"))
"""How often `scheduled` retrains where the spec has no schedule, by how long history is; else once a month."""
_MONTHLY: Final = "0 3 1 * *"
LONG_S: Final = 0.5
"""Seconds that the first version's fits take, from which on starting processes costs less than they save."""
_OUTLIERS: Final = 0.001
"""So much of the rows may have times that lie anywhere."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked of a backtest."""

    strategies: Sequence[str] = NAMES
    from_ms: int | None = None
    """From when on rows are answered, as of which the first version is trained; chosen, if not given."""
    step_ms: int | None = None
    """Of lockstep; an hour, if not given."""
    schedule: str = ""
    every_ms: int | None = None
    """How often `always` retrains."""
    abreast: bool = False
    """Whether each strategy may be lived in a process of its own, where fits take long enough for that to pay."""


@dataclass(frozen=True, slots=True)
class Backtest:
    """What came of it."""

    model: Model
    history: History
    from_ms: int
    metric: Metric
    lives: Mapping[str, Life]
    every_ms: int
    step_ms: int
    first_seconds: float
    first_rows: int
    spent: Spent
    remarks: Sequence[str] = ()
    """What a person should know of a spec that was guessed."""

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Of which rows there is an answer and a label."""
        return ~np.isnan(next(iter(self.lives.values())).losses)

    def value(self, name: str) -> float:
        """Return what a strategy's losses come to."""
        return aggregate(self.metric, self.lives[name].losses[self.answered])


def _labelled_whole(model: Model) -> Model:
    """Return a model as of a history, in which whatever has a label has it whether it was asked for or not."""
    monitoring = model.spec.monitoring.model_copy(update={"labelled": "all"})
    return model.model_copy(update={"spec": model.spec.model_copy(update={"monitoring": monitoring})})


def run(
    project: Project,
    history: History,
    wishes: Wishes,
    *,
    tests: Sequence[ModelTest] = (),
    shelf: Shelf | None = None,
    watching: Watching = NOBODY,
) -> Backtest:
    """Live history by each strategy; `shelf` has what was made of it before.

    If the shelf is shared and fits take long, each strategy is lived in a process of its own, and comes to the same.

    Raises:
        Rejected: no first version comes of it, or no row is left to be answered.
        Unavailable: a process of a strategy's was ended from outside.
    """
    model = _labelled_whole(project.model)
    bench = Workbench(model, project.sources[model.spec.source], history, tests=tests, shelf=shelf)
    from_ms = begin(bench) if wishes.from_ms is None else wishes.from_ms
    last_ms = int(history.at_ms[-1])
    if int(history.at_ms[0]) == last_ms:
        raise Rejected(
            f"each row is of {history.when(last_ms)}, so nothing came later: name another column of times"
        )
    if from_ms >= last_ms:
        raise Rejected(f"history ends at {history.when(last_ms)}: let it be answered from before that")
    bench.on_fit = partial(watching.on_fit, "")
    with bench.on_one_thread():
        first = _first(bench, from_ms)
    end_ms = int(history.at_ms[int((len(history) - 1) * (1 - _OUTLIERS))])
    span_ms = max(end_ms - from_ms, 1)
    step_ms = wishes.step_ms or _STEP_MS
    every_ms = wishes.every_ms or max(span_ms // (ALWAYS + 1), step_ms)
    schedule = wishes.schedule or model.spec.retrain.schedule or _schedule(span_ms)
    chosen = [_strategy(name, model, schedule, from_ms, every_ms) for name in wishes.strategies]
    apart = bench.shelf.folder is not None and first.seconds >= LONG_S
    lives = (abreast.live if apart else living.live)(bench, chosen, from_ms, step_ms, watching)
    found = Backtest(
        model, history, from_ms, model.spec.judged_by, lives, every_ms, step_ms, first.seconds,
        len(first.shipped.fitted_to), bench.spent,
    )  # fmt: skip
    if not found.answered.any():
        raise Rejected(
            f"no row after {history.when(from_ms)} has a label: let it be answered from before that"
        )
    return found


def begin(bench: Workbench) -> int:
    """Return from when on rows are answered: once a training window has passed, or a third of the rows, whichever is first."""
    at_ms, spec = bench.history.at_ms, bench.model.spec
    start = int(at_ms[int(len(at_ms) * _OUTLIERS)])
    third = int(at_ms[len(at_ms) // 3])
    known = np.sort(bench.history.known_ms[~np.isnan(bench.history.label)])
    least = int(known[min(2 * spec.trainer.min_rows, len(known) - 1)]) + 1
    return max(min(start + spec.trainer.window, third), least)


def _first(bench: Workbench, from_ms: int) -> Candidate:
    found = bench.candidate(from_ms, None)
    when = bench.history.when(from_ms)
    if isinstance(found, RunFailed):
        raise Rejected(f"the first version, as of {when}, cannot be trained: {found}")
    if refused := gating.failed(bench.gates(found, None, 0)):
        raise Rejected(
            f"the first version, as of {when}, is refused, and nothing would ever answer: {refused[0].sentence}"
        )
    return found


def _schedule(span_ms: int) -> str:
    return next((schedule for until, schedule in _SCHEDULES if span_ms < until), _MONTHLY)


def _strategy(name: str, model: Model, schedule: str, from_ms: int, every_ms: int) -> Strategy:
    spec = model.spec.retrain.model_copy(update={"dry_run": False})  # a backtest is one already
    if name == "on_drift":
        return Strategy(name, model, PolicySpec.of(spec), watches=True)
    told: dict[str, Any] = {"on": (), "schedule": None, "new_rows": None}
    if name == "scheduled":
        told |= {
            "schedule": None if spec.new_rows and not spec.schedule else schedule,
            "new_rows": spec.new_rows,
        }
        spec = spec.model_copy(update=told)
        return Strategy(name, _with(model, spec), PolicySpec.of(spec))
    free = {"cooldown": 0, "at_most": Rate(10**9, _DAY_MS)} if name == "always" else {}
    spec = spec.model_copy(update=told | free)
    due = partial(_always, from_ms, every_ms) if name == "always" else nothing_due
    return Strategy(name, _with(model, spec), PolicySpec.of(spec), due=due, quick=name == "always")


def _with(model: Model, retrain: RetrainSpec) -> Model:
    return model.model_copy(update={"spec": model.spec.model_copy(update={"retrain": retrain})})


def _always(from_ms: int, every_ms: int, before: Watch, until_ms: int) -> Sequence[Due]:
    """Return what is due at equal stretches of time, whatever happens."""
    if not before.closed_ms:
        return []
    first = (before.closed_ms - from_ms) // every_ms + 1
    last = (until_ms - from_ms) // every_ms
    times = [from_ms + number * every_ms for number in range(max(first, 1), last + 1)]
    return [Due("schedule", f"always/{at}", at, "That it is time again") for at in times]
