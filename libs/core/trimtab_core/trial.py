"""The judge of a rollout, fed with closed rows.

Rows count in order of (time, id), up to the longest wait after the first and not
beyond, so the answer does not depend on how they were batched. A verdict is said
once a step, and only about a step at which the rollout stands.

Each arm of an A/B test is judged against the champion at alpha / arms (Bonferroni), so
that any of those that are not better is promoted with probability at most alpha, and
all their confidence sequences hold at once with 1 - alpha. Every arm scores every row,
so what is compared is paired; the first to have the evidence decides.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab_core import judge
from trimtab_core.judge import JudgeSpec, JudgeState, JudgeVerdict
from trimtab_core.losses import Metric
from trimtab_core.specs import ModelSpec
from trimtab_core.watched import Others, Outcome, Row, Said, Standing, Trial, Verdict
from trimtab_core.windows import DataWindow, challenger_losses

Floats = NDArray[np.float64]

_OUTCOMES: dict[str, Outcome] = {
    "advance": "ADVANCE",
    "promote": "PROMOTE",
    "rollback": "ROLL_BACK",
    "undecided": "UNDECIDED",
}


others_of = msgspec.json.Decoder(Others).decode


def take(
    trials: Sequence[Trial], rows: Sequence[Row], champion_losses: Floats, spec: ModelSpec
) -> tuple[Trial, ...]:
    """Take in closed rows; those of the newest rollout count, from the first that a challenger was asked for."""
    start, trials = 0, tuple(trials)
    for at, row in enumerate(rows):
        if row.rollout_id and row.challenger_version and (not trials or _is_newer(row, trials[0])):
            trials = _all_fed(trials, rows[start:at], champion_losses[start:at], spec)
            trials, start = (_begin(row, spec),), at
    return _all_fed(trials, rows[start:], champion_losses[start:], spec)


def verdict(
    model: str, trials: Sequence[Trial], standing: Standing, metric: Metric, *, closed_ms: int, recorded_ms: int
) -> Verdict | None:  # fmt: skip
    """Return what is to be said of the step at which the rollout stands, if anything new is.

    Of several arms it is about the one that was decided first; at the longest wait, about the one with the most evidence.
    """
    if not trials or trials[0].rollout_id != standing.rollout_id or trials[0].said_at_step == standing.step:
        return None
    arms = {arm.version for arm in standing.on_trial}
    said = [
        (trial, found)
        for trial in trials
        if trial.challenger in arms
        and (found := judged(trial, standing, closed_ms=closed_ms)).action != "continue"
    ]
    if not said:
        return None
    trial, found = min(said, key=_decided_first)
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
        sentence=_sentence(trial, found, outcome, metric, among=len(trials)),
        at_ms=at_ms,
        recorded_ms=recorded_ms,
    )


def judged(trial: Trial, standing: Standing, *, closed_ms: int) -> JudgeVerdict:
    """Return how an arm of the present rollout stands beside the champion."""
    waited_s = (min(closed_ms, trial.deadline_ms) - trial.first_ms) / 1000
    if standing.arms:
        return judge.verdict(replace(trial.spec, steps=(0,)), trial.state, waited_s)
    return judge.verdict(replace(trial.spec, steps=standing.steps), trial.state, waited_s, standing.step)


def _decided_first(said: tuple[Trial, JudgeVerdict]) -> tuple[float, float]:
    trial, found = said
    return (math.inf if trial.decided_ms is None else trial.decided_ms), -found.e_better


def _is_newer(row: Row, trial: Trial) -> bool:
    return row.rollout_id != trial.rollout_id and row.generation > trial.generation


def judge_spec(spec: ModelSpec, arms: int) -> JudgeSpec:
    """Return how each version of a rollout that began with so many is judged."""
    rollout = spec.rollout
    return JudgeSpec(spec.most, rollout.alpha / arms, steps=rollout.steps, within_s=rollout.within / 1000)


def _begin(row: Row, spec: ModelSpec) -> Trial:
    return Trial(
        rollout_id=row.rollout_id,
        generation=row.generation,
        challenger=row.challenger_version,
        first_ms=row.at_ms,
        spec=judge_spec(spec, others_of(row.others).arms if row.others else 1),
    )


def _all_fed(
    trials: tuple[Trial, ...], rows: Sequence[Row], champion_losses: Floats, spec: ModelSpec
) -> tuple[Trial, ...]:
    """Return each arm after further rows, which may be the first that an arm was warm for."""
    if not trials:
        return trials
    said = {at: each for at, each in said_beside(rows).items() if rows[at].rollout_id == trials[0].rollout_id}
    known = {trial.challenger: trial for trial in trials}
    for at, others in said.items():
        for number in (rows[at].challenger_version, *(each.version for each in others)):
            if number not in known:
                known[number] = replace(trials[0], challenger=number, state=JudgeState(), decided_ms=None)
    if len(known) == 1:
        return (_fed(trials[0], rows, champion_losses, spec),)
    return tuple(
        _fed(trial, said_by(number, rows, said), champion_losses, spec) for number, trial in known.items()
    )


def said_beside(rows: Sequence[Row]) -> dict[int, Sequence[Said]]:
    """Return what versions beside the challenger said, by the place of the row."""
    return {at: others_of(row.others).said for at, row in enumerate(rows) if row.others}


def on_trial(rows: Sequence[Row], said: Mapping[int, Sequence[Said]]) -> tuple[int, ...]:
    """Return the versions that answered beside the live one in the newest rollout of rows; `said` is as in `said_beside`."""
    newest = next((at for at in reversed(range(len(rows))) if rows[at].challenger_version), None)
    if newest is None:
        return ()
    return rows[newest].challenger_version, *(each.version for each in said.get(newest, ()))


def said_by(number: int, rows: Sequence[Row], said: Mapping[int, Sequence[Said]]) -> list[Row]:
    """Return the rows as if a version were their challenger; without an answer where it was not asked."""
    found = []
    for at, row in enumerate(rows):
        if row.challenger_version != number:
            mine = next((each for each in said.get(at, ()) if each.version == number), Said(number, None))
            chances = None if mine.probabilities is None else np.array(mine.probabilities).tobytes()
            row = row._replace(challenger=mine.answer, challenger_probabilities=chances)
        found.append(row)
    return found


def of_arms(window: DataWindow) -> list[DataWindow]:
    """Return a window as each version on trial answered it, of the rows that it answered."""
    beside, found = said_beside(window.rows), list[DataWindow]()
    for number in on_trial(window.rows, beside):
        mine = [
            row._replace(
                version=number, champion=row.challenger, champion_probabilities=row.challenger_probabilities
            )
            for row in said_by(number, window.rows, beside)
            if row.challenger is not None
        ]
        if mine:
            found.append(DataWindow(number, mine, extent=window.covers))
    return found


def _fed(trial: Trial, rows: Sequence[Row], champion_losses: Floats, spec: ModelSpec) -> Trial:
    if not rows or trial.state.decided is not None:
        return trial
    mine = np.array([row.rollout_id == trial.rollout_id and row.at_ms <= trial.deadline_ms for row in rows])
    if not mine.any():
        return trial
    if spec.monitoring.labelled == "wanted" and trial.spec.cap < spec.most:
        # Labels come for wanted rows alone since it began: what such a row weighs would be cut off.
        trial = replace(trial, spec=replace(trial.spec, cap=spec.most), state=JudgeState())
    cap = min(spec.cap, trial.spec.cap)
    theirs = challenger_losses(spec.task, spec.judged_by, cap, rows)
    (paired,) = np.nonzero(mine & np.isfinite(champion_losses) & np.isfinite(theirs))
    state = judge.update(trial.spec, trial.state, champion_losses[paired], theirs[paired])
    decided_ms = None
    if state.decided is not None:
        decided_ms = rows[int(paired[state.n - trial.state.n - 1])].at_ms
    return replace(trial, state=state, decided_ms=decided_ms)


def _sentence(trial: Trial, found: JudgeVerdict, outcome: Outcome, metric: Metric, *, among: int) -> str:
    better = "less" if found.mean_difference >= 0 else "more"
    measured = (
        f"over {found.n} labelled predictions the {metric} of version {trial.challenger} was "
        f"{abs(found.mean_difference):.3g} {better} than the champion's a row, e-value {found.e_better:.3g}"
    )
    said = {
        "ADVANCE": "It earns a larger share",
        "PROMOTE": "It is better",
        "ROLL_BACK": "It is worse",
        "UNDECIDED": f"{'None' if among > 1 else 'Neither'} is better after {trial.spec.within_s / 86_400:.1f} days, so the champion stays",
    }
    test = f", one of {among} arms" if among > 1 else ""
    return f"{said[outcome]}: {measured} (promoted at {1 / trial.spec.alpha:.0f}{test})."
