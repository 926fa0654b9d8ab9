"""What a candidate is made of: the fit that ships, those that judge it, and the rows that monitoring will hold it against."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trimtab_core import losses
from trimtab_core.specs import ModelSpec

from trimtab_training import choosing, fitting, reference
from trimtab_training.errors import RunFailed
from trimtab_training.families import Exported, Floats
from trimtab_training.fitting import Effort, Fit, Rows
from trimtab_training.progress import Telling

log = logging.getLogger(__name__)

_LEAST_UNSEEN = 100
"""So many judged rows that the live version was not fitted to are enough to compare on."""


@dataclass(frozen=True, slots=True)
class Made:
    """What the fits came to."""

    final: Exported
    fitted_to: Rows
    predictions: Floats
    """Of the judged rows."""
    reference: Rows
    unseen: Floats
    """Of the rows of the reference, each by a fit that has not seen it."""
    plan: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shipped:
    """The fit that ships, and those that judge it."""

    final: Exported
    fitted_to: Rows
    predictions: Floats
    """Of the judged rows."""
    plan: dict[str, Any]
    window: choosing.Window
    since_ms: int | None
    """Since when the world is another, if windows were chosen among for that."""
    effort: Effort


def first_place(spec: ModelSpec, labelled: int, other: str = "") -> int:
    """Return the place of the first row that is trained on, of so many labelled ones; `other` says what was left out.

    Raises:
        RunFailed: they are too few.
    """
    least, most = spec.trainer.min_rows, spec.trainer.max_rows
    if labelled < least:
        raise RunFailed(
            f"there are {labelled} labelled rows and trainer.min_rows is {least}: wait, or lower it"
            + (f" ({other})" if other else "")
        )
    return 0 if most is None else max(0, labelled - most)


def held_out(spec: ModelSpec, rows: Rows) -> slice:
    """Return the places to judge by.

    Raises:
        RunFailed: too few rows are older.
    """
    judged = fitting.held_out(rows, spec)
    known = fitting.known(rows, judged.start, spec).stop
    if known < spec.trainer.min_rows // 2:
        raise RunFailed(
            f"only {known} rows are older than the held-out ones: widen trainer.window or shrink the holdout"
        )
    return judged


def asked_beside(event_time_ms: NDArray[np.int64], trained_to_ms: int) -> NDArray[np.bool_]:
    """Return of which judged rows the live version is asked, to be compared with.

    It is asked of those that it was not fitted to, for it knows the others' answers. Where too few are newer than its
    own training it is asked of all, and has the advantage: a candidate that is better even so is better.
    """
    unseen = event_time_ms > trained_to_ms
    return unseen if np.count_nonzero(unseen) >= _LEAST_UNSEEN else np.full(len(event_time_ms), True)


def fit(spec: ModelSpec, rows: Rows, judged: slice, job: Mapping[str, Any], telling: Telling) -> Made:
    """Fit what ships, what judges it, and what predicts the rows of its reference."""
    fit = telling.counted(fitting.fit)
    made = ship(spec, rows, judged, job, telling, fit)
    seen, unseen = referred(spec, rows, judged, made, fit)
    return Made(made.final, made.fitted_to, made.predictions, seen, unseen, made.plan)


def referred(
    spec: ModelSpec, rows: Rows, judged: slice, made: Shipped, fit: Fit = fitting.fit
) -> tuple[Rows, Floats]:
    """Return the rows of the reference, and a prediction of each by a fit that has not seen it."""
    place = reference.place(spec, rows, judged, made.since_ms, made.effort)
    unseen = reference.unseen(
        spec, rows, judged, made.predictions, place, made.window, made.since_ms, made.effort, fit
    )
    return rows[place], unseen


def ship(
    spec: ModelSpec, rows: Rows, judged: slice, job: Mapping[str, Any], telling: Telling, fit: Fit
) -> Shipped:
    """Fit what ships, and what judges it; the former first, for how long it takes says how much the latter may."""
    changed_ms = job.get("changed_ms")
    windows = choosing.possible(spec, rows, changed_ms)
    told, plan = len(windows) > 1, job.get("plan")
    known = fitting.known(rows, judged.start, spec).stop
    # A window of the new world alone may not be possible at each stretch; then fewer fits are made than were told.
    most = len(choosing.stretches(rows, judged, changed_ms if told else None, fitting.Effort()))
    telling.fits = len(windows) * most + fitting.FOLDS + (2 if told else 1)

    final, took_s = fitting.timed(fit, spec, rows)
    effort = (
        fitting.Effort(plan["every"], plan["stretches"])
        if plan
        else fitting.effort(spec, took_s, known, choices=len(windows))
    )

    def losses_of(label: Floats, said: Floats) -> Floats:
        return losses.clip(losses.loss(spec.judged_by, label, said), spec.cap)

    chosen = choosing.judge(spec, rows, judged, windows, changed_ms, losses_of, effort, fit)
    log.info("%s", chosen.sentence or "judged")
    fitted_to = rows
    if chosen.window is not choosing.Window.HISTORY:
        within = choosing.within(chosen.window, spec, rows, changed_ms)
        assert within is not None
        fitted_to, final = within, fit(spec, within)
    plan = {
        "window": chosen.window,
        "changed_ms": changed_ms,
        "sentence": chosen.sentence,
        "every": effort.every,
        "stretches": effort.stretches,
    }
    since = changed_ms if told else None
    return Shipped(final, fitted_to, chosen.predictions, plan, chosen.window, since, effort)
