"""What no feature shows by itself, and new subjects of texts: how often a window is told, at an equal rate of false alarms.

Each measure gives a window one number, larger for further, and has its level from windows without a change.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from typing import Literal

import drift_peers
import numpy as np
from drift_streams import Columns, correlated, gaussian, shifted, signed, subject, texts, waved
from threadpoolctl import threadpool_limits
from trimtab_core.calibration import TOLERANCE, DriftThresholds, Rule, calibrate, judge_window
from trimtab_core.drift import Kind, Reference, fit_reference

Measure = Callable[[Columns], float]
ROWS, WINDOW, RATE = 10_000, 500, 1 / 20
QUIET, MOVED = 200, 40
"""Windows without a change, and with each."""
FEATURES = 10
JOINT: Mapping[str, Callable[[Columns], Columns]] = {
    **{f"shift of {by:g} sigma": partial(shifted, by) for by in (0.25, 0.5)},
    "correlation of 0.3 between two": partial(correlated, 0.3),
    **{f"{by:.0%} of a feature a sine of another": partial(waved, by) for by in (0.6, 1.0)},
    **{f"{by:.0%} of a sign the product of two others'": partial(signed, by) for by in (0.3, 1.0)},
}
SUBJECTS = (1 / 10, 1 / 4, 1 / 2)


@dataclass(frozen=True)
class Told:
    """The share of the windows with a change that a measure tells, and of the quiet ones that Trimtab does by its own level."""

    moved: Mapping[str, Mapping[str, float]]
    """By the change and by who measures."""
    quiet: Mapping[str, float]
    windows: int
    """With each change."""


@dataclass(frozen=True)
class Ours:
    """Trimtab's least p of a window, of which a smaller one is further."""

    references: Mapping[str, Reference]
    thresholds: DriftThresholds

    @classmethod
    def of(cls, reference: Columns, kinds: Mapping[str, Kind], *, classifier: bool = False) -> "Ours":
        """Calibrate, without the tolerances."""
        references = fit_reference(reference, kinds)
        free = dict.fromkeys(TOLERANCE, 0.0)
        return cls(
            references,
            calibrate(
                reference, kinds, window=WINDOW, false_alarms=RATE, rule=Rule(1, 1), tolerance=free,
                references=references, classifier=classifier,
            ),
        )  # fmt: skip

    def __call__(self, window: Columns) -> float:
        """Return the window's number."""
        return -judge_window(self.thresholds, self.references, window).min_p

    def tells(self, window: Columns) -> bool:
        """Return whether the window is over as it would be live: its own level, and with the tolerances."""
        shipped = replace(self.thresholds, tolerance=TOLERANCE)
        return judge_window(shipped, self.references, window).over


def find(what: Literal["joint", "subjects"], share: float) -> Told:
    """Return what is told of changes of features together, or of subjects of texts, with such a share of the usual windows."""
    return (_joint if what == "joint" else _subjects)(share)


def _joint(share: float) -> Told:
    """Compare the least p of the features, with and without a classifier of ours, and boosted trees."""
    rng = np.random.default_rng(2)
    reference, kinds = gaussian(rng, ROWS, FEATURES)
    windows = (gaussian(rng, WINDOW, FEATURES)[0] for _ in count())
    ours = {
        "Trimtab": Ours.of(reference, kinds),
        "Trimtab with together: classifier": Ours.of(reference, kinds, classifier=True),
    }
    theirs = {"boosted trees, AUC out of fold": drift_peers.Classifier(reference)}
    return _told(ours, theirs, windows, JOINT, share)


def _subjects(share: float) -> Told:
    """Compare measures of a text, of which some have got a new subject."""
    rng = np.random.default_rng(3)
    most = QUIET + MOVED * len(SUBJECTS)
    columns, kinds = texts(rng, ROWS + most * WINDOW, 1)
    reference = {name: column[:ROWS] for name, column in columns.items()}
    windows = (
        {name: column[first : first + WINDOW] for name, column in columns.items()}
        for first in range(ROWS, ROWS + most * WINDOW, WINDOW)
    )
    ours = {"Trimtab": Ours.of(reference, kinds)}
    theirs: dict[str, Measure] = {
        "Evidently's domain classifier of texts": drift_peers.Texts(reference),
        "chi-square of the words": drift_peers.Words(reference),
        "KS, greatest of a word": drift_peers.Words(reference, greatest=True),
    }
    changes = {f"{by:.0%} of the texts on a new subject": partial(subject, rng, by) for by in SUBJECTS}
    return _told(ours, theirs, windows, changes, share)


def _told(
    ours: Mapping[str, Ours],
    theirs: Mapping[str, Measure],
    windows: Iterator[Columns],
    changes: Mapping[str, Callable[[Columns], Columns]],
    share: float,
) -> Told:
    measures: dict[str, Measure] = {**ours, **theirs}
    with threadpool_limits(1):  # as monitoring does
        quiet = list(islice(windows, max(100, round(QUIET * share))))
        of_quiet = {name: [measure(each) for each in quiet] for name, measure in measures.items()}
        levels = {name: float(np.quantile(of, 1 - RATE)) for name, of in of_quiet.items()}
        moved = dict[str, dict[str, float]]()
        for what, change in changes.items():
            after = [change(each) for each in islice(windows, max(10, round(MOVED * share)))]
            moved[what] = {
                name: float(np.mean([measure(each) > levels[name] for each in after]))
                for name, measure in measures.items()
            }
            moved[what] |= {
                f"{name}, as shipped": float(np.mean([measure.tells(each) for each in after]))
                for name, measure in ours.items()
            }
        raised = {
            name: float(np.mean([-each <= measure.thresholds.level for each in of_quiet[name]]))
            for name, measure in ours.items()
        }
    return Told(moved, raised, len(after))
