"""A search by Optuna's tree-structured Parzen estimator, with the median's pruning.

Trials are chosen `at_once` together, each by a sampler with a seed of its own from all
that ended in earlier rounds. So which trial is the fifth depends on the seed, the rows and the
first four alone, wherever and however often it is run: side by side, on another machine, or
again by whoever takes a dead trainer's job over, who chooses the same and looks up what is known.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import optuna
from trimtab_core import losses
from trimtab_core.durations import format_duration
from trimtab_core.specs import ModelSpec, SearchSpec
from trimtab_runtime.errors import Unavailable

from trimtab_training import fitting, spaces
from trimtab_training.errors import RunFailed
from trimtab_training.families import Floats
from trimtab_training.progress import Telling
from trimtab_training.trials import Outcome, Trial, best

log = logging.getLogger(__name__)
Judge = Callable[[ModelSpec, int], Floats]
"""Returns what the rows of a stretch lose by a fit of the spec's family to what was known before it.

It raises `Unavailable` where that says nothing of the family; whatever else it raises costs the search one trial.
"""
_STRETCHES = fitting.STRETCHES
_RANDOM_TRIALS = 10
_COMPLETE_BEFORE_PRUNING = 8


def of_family(spec: ModelSpec, family: str, parameters: Mapping[str, spaces.Value]) -> ModelSpec:
    """Return a spec that names a family and its parameters in the place of a search."""
    trainer = spec.trainer.model_copy(update={"kind": family, "parameters": dict(parameters), "search": None})
    return spec.model_copy(update={"trainer": trainer})


class Search:
    """One search: asks Optuna what to try, tries it, and tells."""

    def __init__(
        self, spec: ModelSpec, earlier: Sequence[Trial], telling: Telling, judge: Judge, *, side_by_side: bool
    ) -> None:
        self._spec = spec
        self._search = spec.trainer.search or SearchSpec()
        self._families = spaces.chosen_among(self._search)
        self._earlier = {trial.number: trial for trial in earlier}
        self._telling = telling
        self._judge = judge
        self._threads = self._search.at_once if side_by_side else 1
        self._budget_s = (self._search.budget or spec.trainer.timeout // 2) / 1000
        self._began_s = time.monotonic() - max((trial.spent_s for trial in earlier), default=0.0)
        self._done: list[Trial] = []
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_COMPLETE_BEFORE_PRUNING)
        )
        for family in self._families:
            first = {
                f"{family}.{name}": tried.first for name, tried in spaces.of_family(family, spec).items()
            }
            self._study.enqueue_trial({"family": family} | first)

    @property
    def ended_by(self) -> str:
        """What ended the search."""
        return "trials" if len(self._done) == self._search.trials else "budget"

    def run(self) -> tuple[Trial, Sequence[Trial]]:
        """Return the best trial, and all.

        Raises:
            RunFailed: none was complete.
        """
        with ThreadPoolExecutor(self._threads) as threads:
            while (first := len(self._done)) < self._search.trials and not self._over():
                numbers = range(first, min(first + self._search.at_once, self._search.trials))
                asked = [(number, *self._ask(number)) for number in numbers]
                self._tell_next()
                # One by one where there is one thread, so that what is told is what is at work.
                run = threads.map if self._threads > 1 else map
                for ended in run(self._try, asked):
                    if ended is None:
                        return self._winner()
                    self._end(ended)
                for (_, trial, *_), ended in zip(asked, self._done[first:], strict=True):
                    self._teach(trial, ended)
        return self._winner()

    def _ask(self, number: int) -> tuple[optuna.Trial, str, dict[str, spaces.Value]]:
        """Choose what to try; the trial is Optuna's, which it is told the outcome of."""
        seed = int(np.random.SeedSequence([self._spec.trainer.seed % 2**63, number]).generate_state(1)[0])
        self._study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_RANDOM_TRIALS)
        trial = self._study.ask()
        family = trial.suggest_categorical("family", self._families)
        tried = spaces.of_family(family, self._spec)
        return (
            trial,
            family,
            {name: _suggest(trial, f"{family}.{name}", each) for name, each in tried.items()},
        )

    def _try(self, asked: tuple[int, optuna.Trial, str, dict[str, spaces.Value]]) -> Trial | None:
        """Return what a trial came to; None if the budget ended first."""
        number, trial, family, parameters = asked
        known, metric = self._earlier.get(number), self._spec.judged_by
        if known and not known.family:  # its process died of it
            spent_s = time.monotonic() - self._began_s
            return replace(known, family=family, parameters=parameters, metric=metric, spent_s=spent_s)
        if known and (known.family, known.parameters) == (family, parameters):
            for at, value in enumerate(known.values):
                trial.report(value, at)
            return known
        if self._over():
            return None
        spec = of_family(self._spec, family, parameters)
        began_s, lost, values = time.monotonic(), np.empty(0), list[float]()
        outcome, error = Outcome.COMPLETE, ""
        try:
            for at in range(_STRETCHES):
                lost = np.concatenate([lost, self._judge(spec, at)])
                values.append(losses.aggregate(metric, lost))
                trial.report(values[-1], at)
                if at < _STRETCHES - 1 and (trial.should_prune() or self._over()):
                    outcome = Outcome.PRUNED
                    break
        except Unavailable:
            raise
        except Exception as fault:  # whatever a family makes of odd parameters
            log.info("trial %d failed", number + 1, exc_info=not isinstance(fault, RunFailed))
            outcome, error = Outcome.FAILED, _said(fault)
        now_s = time.monotonic()
        return Trial(
            number, family, parameters, metric, outcome, tuple(values), now_s - began_s, now_s - self._began_s, error
        )  # fmt: skip

    def _end(self, ended: Trial) -> None:
        self._done.append(ended)
        if self._earlier.get(ended.number) is not ended:
            log.info("%s", _line(ended))
            self._telling.ended(ended)
        if len(self._done) < self._search.trials:
            self._tell_next()

    def _teach(self, trial: optuna.Trial, ended: Trial) -> None:
        """Let Optuna know what a trial came to, once all of its round have ended: none is measured by its neighbours."""
        match ended.outcome:
            case Outcome.COMPLETE:
                self._study.tell(trial, ended.value)
            case Outcome.PRUNED:
                self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            case Outcome.FAILED:
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def _tell_next(self) -> None:
        leader = best(self._done)
        self._telling.searching(len(self._done) + 1, self._search.trials, str(leader or ""))

    def _over(self) -> bool:
        """Return whether the budget is spent; never before one trial is complete, for what would be found then?"""
        return time.monotonic() - self._began_s >= self._budget_s and best(self._done) is not None

    def _winner(self) -> tuple[Trial, Sequence[Trial]]:
        winner = best(self._done)
        if winner is None:
            last = self._done[-1]
            raise RunFailed(
                f"none of {len(self._done)} trials came to anything; the last, {_named(last)}: {last.error}: "
                "see `trimtab run trials`, and narrow trainer.search"
            )
        if self.ended_by == "budget":
            spent = format_duration(round(self._budget_s * 1000))
            log.info("the budget of %s ended the search after %d trials", spent, len(self._done))
        log.info("found in %d trials: %s", len(self._done), _named(winner))
        return winner, self._done


def _suggest(trial: optuna.Trial, name: str, tried: spaces.Tried) -> spaces.Value:
    of = tried.range
    if of.choices:
        chosen = trial.suggest_categorical(name, of.choices)
        assert chosen is not None  # no range has it
        return chosen
    if of.whole:
        return trial.suggest_int(name, int(of.low), int(of.high), log=of.log)
    return trial.suggest_float(name, of.low, of.high, log=of.log)


def _said(fault: Exception) -> str:
    told = str(fault).strip().partition("\n")[0]
    return told if isinstance(fault, RunFailed) else f"{type(fault).__name__}: {told}"


def _named(trial: Trial) -> str:
    return f"{trial.family} with " + ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in trial.parameters.items()
    )


def _line(trial: Trial) -> str:
    came_to = trial.error if trial.value is None else f"{trial.metric} {trial.value:.4g}"
    return f"trial {trial.number + 1} {trial.outcome} after {trial.seconds:.1f} s: {came_to}: {_named(trial)}"
