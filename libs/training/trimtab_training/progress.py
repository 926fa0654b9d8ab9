"""How far a run is, as its child process tells it.

scikit-learn calls nobody back from within a fit, but it prints: so a fit's output is
read, what names an iteration is told, and the rest is left out. Were it to print
otherwise, the iterations would be missing and nothing else.
"""

import io
import logging
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeVar

from trimtab_training.trials import Trial

log = logging.getLogger(__name__)


class Stage(StrEnum):
    """What a run is at."""

    WAITING = "waiting"
    READING = "reading"
    SEARCHING = "searching"
    FITTING = "fitting"
    EVALUATING = "evaluating"
    EXPORTING = "exporting"
    EXPLAINING = "explaining"
    STORING = "storing"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: which of its fits, and which iteration of it where the kind of model has any, both from 1."""

    stage: Stage
    fit: int = 0
    fits: int = 0
    iteration: int = 0
    iterations: int = 0
    waits_for: str = ""
    """A sentence, if what it needs is not there yet."""
    trial: int = 0
    """Which of a search's trials, from 1; after the search the last."""
    trials: int = 0
    best: str = ""
    """The best trial so far: metric, value and family."""
    ended: Trial | None = None
    """A trial that has just ended: told once, and kept by itself."""


Tell = Callable[[Progress], object]
F = TypeVar("F", bound=Callable[..., Any])

_ITERATION = re.compile(r"\[(\d+)/(\d+)\]|building tree (\d+) of (\d+)")


class Telling:
    """Tells each stage and each fit, and writes it to the log."""

    def __init__(self, tell: Tell, *, fits: int = 1) -> None:
        """`fits` are as many as there will be at most; it may be set once that is known."""
        self.fits = fits
        self._tell = tell
        self._now = Progress(Stage.FITTING)

    def reach(self, stage: Stage) -> None:
        """Tell that a stage has begun."""
        log.info("%s", stage)
        self._tell(Progress(stage))

    def searching(self, trial: int, trials: int, best: str) -> None:
        """Tell which of a search's trials has begun, and the best of those before."""
        self._now = replace(self._now, stage=Stage.SEARCHING, trial=trial, trials=trials, best=best)
        self._tell(self._now)

    def searched(self, trials: int, best: str) -> None:
        """Know of a search that is over; what is told from now on follows it."""
        self._now = replace(self._now, trial=trials, trials=trials, best=best)

    def ended(self, trial: Trial) -> None:
        """Tell what became of a trial."""
        self._tell(replace(self._now, ended=trial))

    def heard(self, fit: F) -> F:
        """Return `fit` such that the iterations of each call of it are told."""

        def heard(*given: Any) -> Any:
            with redirect_stdout(_Printed(self._iterate)):
                return fit(*given)

        return heard  # type: ignore[return-value]

    def counted(self, fit: F) -> F:
        """Return `fit` such that each call of it is told as the next of the fits, with its iterations."""

        def told(*given: Any) -> Any:
            at = self._now.fit + 1
            self._now = replace(self._now, stage=Stage.FITTING, fit=at, fits=max(self.fits, at))
            log.info("fitting %d of %d", self._now.fit, self._now.fits)
            self._tell(self._now)
            return self.heard(fit)(*given)

        return told  # type: ignore[return-value]

    def _iterate(self, iteration: int, iterations: int) -> None:
        self._tell(replace(self._now, iteration=iteration, iterations=iterations))


class _Printed(io.TextIOBase):
    """What is printed in the place of the standard output."""

    def __init__(self, iterate: Callable[[int, int], None]) -> None:
        self._iterate = iterate

    def write(self, text: str) -> int:
        if found := _ITERATION.search(text):
            at, of = (int(number) for number in found.groups() if number)
            self._iterate(at, of)
        return len(text)
