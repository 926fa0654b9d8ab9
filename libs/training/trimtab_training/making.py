"""What a candidate is made of: the fit that ships, those that judge it, and the rows that monitoring will hold it against."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimtab_core import losses
from trimtab_core.specs import ModelSpec

from trimtab_training import choosing, fitting, reference
from trimtab_training.families import Exported, Floats
from trimtab_training.fitting import Rows
from trimtab_training.progress import Telling

log = logging.getLogger(__name__)


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


def fit(spec: ModelSpec, rows: Rows, judged: slice, job: Mapping[str, Any], telling: Telling) -> Made:
    """Fit what ships, and what judges it; the former first, for how long it takes says how much the latter may."""
    changed_ms = job.get("changed_ms")
    windows = choosing.possible(spec, rows, changed_ms)
    told, plan = len(windows) > 1, job.get("plan")
    known = fitting.known(rows, judged.start, spec).stop
    # A window of the new world alone may not be possible at each stretch; then fewer fits are made than were told.
    most = len(choosing.stretches(rows, judged, changed_ms if told else None, fitting.Effort()))
    telling.fits = len(windows) * most + fitting.FOLDS + (2 if told else 1)
    fit = telling.counted(fitting.fit)

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
    since = changed_ms if told else None
    place = reference.place(spec, rows, judged, since, effort)
    unseen = reference.unseen(
        spec, rows, judged, chosen.predictions, place, chosen.window, since, effort, fit
    )
    plan = {
        "window": chosen.window,
        "changed_ms": changed_ms,
        "sentence": chosen.sentence,
        "every": effort.every,
        "stretches": effort.stretches,
    }
    return Made(final, fitted_to, chosen.predictions, rows[place], unseen, plan)
