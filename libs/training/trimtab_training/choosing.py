"""What of the window a candidate is fitted to, where the world is known to have changed within it.

Three windows are tried: the history as the spec weighs it; the history with what is
older than the change weighed down until it counts no more than what is newer; and what
is newer alone, once there is enough of it. They are judged as the candidate is, by
stretches of the held-out rows in time order. A stretch is answered by the window that
did best on those before it, so what the gates read has chosen by the past alone; the
candidate is fitted to the window that did best on all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from trimtab_core.specs import ModelSpec
from trimtab_runtime.clock import iso

from trimtab_training import fitting
from trimtab_training.families import Floats
from trimtab_training.fitting import Effort, Fit, Rows

_SHARE = 10
_LEAST = 50
"""Rows of the new world that windows are compared on at least."""
Losses = Callable[[Floats, Floats], Floats]
"""The loss of each row, of labels and predictions, as the rollout will judge it."""


class Window(StrEnum):
    """What is fitted to."""

    HISTORY = "history"
    BALANCED = "balanced"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the candidate is to be fitted to, what the held-out rows were answered with on the way, and why."""

    window: Window
    predictions: Floats
    sentence: str


def possible(spec: ModelSpec, rows: Rows, changed_ms: int | None) -> tuple[Window, ...]:
    """Return the windows that may be fitted to; the first is the one that may always."""
    if changed_ms is None or not rows.event_time_ms[0] < changed_ms <= rows.event_time_ms[-1]:
        return (Window.HISTORY,)
    newer = np.count_nonzero(rows.event_time_ms >= changed_ms)
    if newer < _LEAST:
        return (Window.HISTORY,)
    return (Window.HISTORY, Window.BALANCED, *([Window.AFTER] if newer >= enough(spec, len(rows)) else []))


def enough(spec: ModelSpec, rows: int) -> int:
    """Return how many rows of the new world may stand alone among so many.

    Unless the spec says, it is a tenth of them: the few first days of a new world foretell the next, and nothing of the
    seasons that the history knows.
    """
    return spec.trainer.after_drift.min_rows or max(spec.trainer.min_rows, rows // _SHARE)


def within(window: Window, spec: ModelSpec, rows: Rows, changed_ms: int | None) -> Rows | None:
    """Return the rows to fit to, weighed; None if there are not enough of the new world among them."""
    if changed_ms is None or window is Window.HISTORY:
        return rows
    new = rows.event_time_ms >= changed_ms
    if window is Window.AFTER:
        return rows[new] if np.count_nonzero(new) >= enough(spec, len(rows)) else None
    count = fitting.weights(spec, rows)
    count = np.ones(len(rows)) if count is None else count
    older, newer = float(count[~new].sum()), float(count[new].sum())
    if not older or not newer:
        return None
    return Rows(rows.features, rows.label, rows.event_time_ms, np.where(new, 1.0, min(1.0, newer / older)))


def judge(
    spec: ModelSpec,
    rows: Rows,
    judged: slice,
    windows: Sequence[Window],
    changed_ms: int | None,
    losses: Losses,
    effort: Effort,
    fit: Fit,
) -> Chosen:
    """Answer every judged row by a fit to what was known when its stretch began, and choose a window on the way."""
    said: list[Floats] = []
    score = _Score(Window.BALANCED if Window.BALANCED in windows else Window.HISTORY)
    for stretch in stretches(rows, judged, changed_ms if len(windows) > 1 else None, effort):
        past, answers = rows[fitting.known(rows, stretch[0], spec)], {}
        for window in windows:
            seen = within(window, spec, past, changed_ms)
            if seen is not None:
                answers[window] = fit(spec, effort.seen(seen)).predict(rows.features[stretch])
        said.append(next(answers[each] for each in (score.best, *windows) if each in answers))
        if len(windows) > 1 and changed_ms is not None:
            new = rows.event_time_ms[stretch] >= changed_ms
            label = rows.label[stretch]
            score.add({window: losses(label, told)[new] for window, told in answers.items()})
    return Chosen(score.best, np.concatenate(said), _sentence(spec, rows, windows, changed_ms, score))


def stretches(rows: Rows, judged: slice, changed_ms: int | None, effort: Effort) -> list[NDArray[np.int64]]:
    """Return the places of each stretch of the held-out rows.

    A change among them begins one, so that what is newer, however little it is, can be told from what was known of it.
    """
    places = np.arange(judged.start, judged.stop)
    if changed_ms is None:
        cut = np.array_split(places, effort.stretches)
    else:
        newer = rows.event_time_ms[judged] >= changed_ms
        cut = [places[~newer], *np.array_split(places[newer], effort.stretches)]
    return [stretch for stretch in cut if stretch.size]


class _Score:
    """The losses of each window on rows of the new world, by stretch."""

    def __init__(self, unknown: Window) -> None:
        self._unknown = unknown
        self._stretches: list[Mapping[Window, Floats]] = []

    def add(self, found: Mapping[Window, Floats]) -> None:
        """Take in a stretch."""
        self._stretches.append(found)

    @property
    def best(self) -> Window:
        """The window that did best; where too few rows tell, the one to begin with."""
        _, means = self.means()
        return min(means, key=lambda window: means[window], default=self._unknown)

    def means(self) -> tuple[int, Mapping[Window, float]]:
        """Return the mean losses on the rows that all which are compared have answered, and how many these are.

        As many windows are compared as were possible in the end, or the two with all of the history; nothing where too
        few rows tell.
        """
        for named in (set(self._stretches[-1]), {Window.HISTORY, Window.BALANCED}) if self._stretches else ():
            same = [found for found in self._stretches if named <= set(found)]
            rows = sum(len(found[Window.HISTORY]) for found in same)
            if rows >= _LEAST and len(named) > 1:
                order = [window for window in Window if window in named]
                return rows, {each: sum(float(found[each].sum()) for found in same) / rows for each in order}
        return 0, {}


def _sentence(
    spec: ModelSpec, rows: Rows, windows: Sequence[Window], changed_ms: int | None, score: _Score
) -> str:
    if changed_ms is None:
        return ""
    newer = int(np.count_nonzero(rows.event_time_ms >= changed_ms))
    change = f"the world changed at {iso(changed_ms)}"
    if newer == len(rows):
        return ""
    if len(windows) == 1:
        return f"{change}, and {newer} of {len(rows)} rows are newer: nothing can be chosen by them"
    count, means = score.means()
    if not means:
        return f"{change}, {newer} rows are newer, and too few of them are held out to choose by: {_NAMES[score.best]}"
    told = ", ".join(f"{_NAMES[each]} {mean:.4g}" for each, mean in means.items())
    few = "" if Window.AFTER in means else f"; {enough(spec, len(rows))} rows since then may stand alone"
    return f"{change}; on {count} held-out rows since then: {told}. Fitted to {_NAMES[score.best]}{few}"


_NAMES = {
    Window.HISTORY: "the history as the spec weighs it",
    Window.BALANCED: "the history with the older world weighed down",
    Window.AFTER: "the rows since then alone",
}
