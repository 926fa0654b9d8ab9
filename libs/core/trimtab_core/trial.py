"""The judge of a rollout, fed with closed rows.

Rows count in order of (time, id), up to the longest wait after the first and not
beyond, so the answer does not depend on how they were batched. A verdict is said
once a step, and only about a step at which the rollout stands.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trimtab_core import judge
from trimtab_core.judge import JudgeSpec, JudgeVerdict
from trimtab_core.losses import Metric
from trimtab_core.specs import ModelSpec
from trimtab_core.watched import Outcome, Row, Standing, Trial, Verdict
from trimtab_core.windows import challenger_losses

Floats = NDArray[np.float64]

_OUTCOMES: dict[str, Outcome] = {
    "advance": "ADVANCE",
    "promote": "PROMOTE",
    "rollback": "ROLL_BACK",
    "undecided": "UNDECIDED",
}


def take(trial: Trial | None, rows: Sequence[Row], champion_losses: Floats, spec: ModelSpec) -> Trial | None:
    """Take in closed rows; those of the newest rollout count, from the first that its challenger was asked for."""
    start = 0
    for at, row in enumerate(rows):
        if row.rollout_id and row.challenger_version and (trial is None or _is_newer(row, trial)):
            trial = _fed(trial, rows[start:at], champion_losses[start:at], spec)
            trial, start = _begin(row, spec), at
    return _fed(trial, rows[start:], champion_losses[start:], spec)


def verdict(
    model: str, trial: Trial, standing: Standing, metric: Metric, *, closed_ms: int, recorded_ms: int
) -> Verdict | None:
    """Return what is to be said of the step at which the rollout stands, if anything new is."""
    if trial.rollout_id != standing.rollout_id or not standing.steps or trial.said_at_step == standing.step:
        return None
    waited_s = (min(closed_ms, trial.deadline_ms) - trial.first_ms) / 1000
    steps = replace(trial.spec, steps=standing.steps)
    found = judge.verdict(steps, trial.state, waited_s, standing.step)
    if found.action == "continue":
        return None
    at_ms = trial.decided_ms if trial.decided_ms is not None else min(closed_ms, trial.deadline_ms)
    outcome = _OUTCOMES[found.action]
    return Verdict(
        id=f"{trial.rollout_id}/{standing.step}/{outcome.lower()}",
        model=model,
        rollout_id=trial.rollout_id,
        step=standing.step,
        challenger=trial.challenger,
        generation=standing.generation,
        outcome=outcome,
        rows=found.n,
        mean_difference=found.mean_difference,
        evidence=found.e_better,
        alpha=trial.spec.alpha,
        sentence=_sentence(trial, found, outcome, metric),
        at_ms=at_ms,
        recorded_ms=recorded_ms,
    )


def _is_newer(row: Row, trial: Trial) -> bool:
    return row.rollout_id != trial.rollout_id and row.generation > trial.generation


def _begin(row: Row, spec: ModelSpec) -> Trial:
    rollout = spec.rollout
    return Trial(
        rollout_id=row.rollout_id,
        generation=row.generation,
        challenger=row.challenger_version,
        first_ms=row.at_ms,
        spec=JudgeSpec(spec.cap, rollout.alpha, steps=rollout.steps, within_s=rollout.within / 1000),
    )


def _fed(trial: Trial | None, rows: Sequence[Row], champion_losses: Floats, spec: ModelSpec) -> Trial | None:
    if trial is None or not rows or trial.state.decided is not None:
        return trial
    mine = np.array([row.rollout_id == trial.rollout_id and row.at_ms <= trial.deadline_ms for row in rows])
    if not mine.any():
        return trial
    theirs = challenger_losses(spec.task, spec.judged_by, trial.spec.cap, rows)
    (paired,) = np.nonzero(mine & np.isfinite(champion_losses) & np.isfinite(theirs))
    state = judge.update(trial.spec, trial.state, champion_losses[paired], theirs[paired])
    decided_ms = None
    if state.decided is not None:
        decided_ms = rows[int(paired[state.n - trial.state.n - 1])].at_ms
    return replace(trial, state=state, decided_ms=decided_ms)


def _sentence(trial: Trial, found: JudgeVerdict, outcome: Outcome, metric: Metric) -> str:
    better = "less" if found.mean_difference >= 0 else "more"
    measured = (
        f"over {found.n} labelled predictions the {metric} of version {trial.challenger} was "
        f"{abs(found.mean_difference):.3g} {better} than the champion's a row, e-value {found.e_better:.3g}"
    )
    said = {
        "ADVANCE": "It earns a larger share",
        "PROMOTE": "It is better",
        "ROLL_BACK": "It is worse",
        "UNDECIDED": f"Neither is better after {trial.spec.within_s / 86_400:.1f} days, so the champion stays",
    }
    return f"{said[outcome]}: {measured} (promoted at {1 / trial.spec.alpha:.0f})."
