"""Judging: which versions on trial are better, worse, fail or are slow, and what versions have bought.

A rollout is judged in transactions of its own, ahead of the closing, so that a window
that waits for a calibration holds no verdict back, unless labels come for wanted rows
alone: then it is not known before which those are. Each labelled row is taken in once
and in order, by the judge or by the closing, whichever comes to it first, so verdicts
and gains follow from the rows alone.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from trimtab_core import ahead, guarding, trial, windows, worth
from trimtab_core.baseline import Settings
from trimtab_core.specs import Model
from trimtab_core.watched import Earning, Row, Standing, Watch
from trimtab_runtime import telemetry
from trimtab_runtime.clock import Clock

from trimtab_monitoring.usecases import ledger, loops
from trimtab_monitoring.usecases.entities import LabelStream
from trimtab_monitoring.usecases.estimating import MOST_ROWS, Judges
from trimtab_monitoring.usecases.ports import Rollouts, Store, Unit

Floats = NDArray[np.float64]


class Judging:
    """Judges rollouts."""

    def __init__(self, store: Store, rollouts: Rollouts, judges: Judges, clock: Clock) -> None:
        self._store = store
        self._rollouts = rollouts
        self._judges = judges
        self._clock = clock

    def is_on(self, model: str) -> bool:
        """Whether versions of a model are on trial."""
        standing = self._rollouts.standing(model)
        return standing is not None and bool(standing.on_trial)

    async def judge(self, model: Model, until: int, predicted: int) -> bool:
        """Take in what `model` answered, or a part of it, and say what there is to say of its rollout; return whether more is left.

        Predictions are complete up to `predicted`, and with their labels up to `until`.

        Raises:
            Unavailable: PostgreSQL is away.
        """
        standing = self._rollouts.standing(model.name)
        if standing is None or not standing.on_trial:
            return False
        async with self._store.begin(model.name) as unit:
            watch, reached = unit.watch, unit.watch.judged_to
            until = ahead.closable(model.spec, watch.ahead, until)
            if until > reached:
                rows, reached = await unit.rows(
                    LabelStream.of(model), after_ms=reached, until_ms=until, at_most=MOST_ROWS
                )
                losses = windows.champion_losses(model.spec, rows)
                watch = await take(unit, model, self._judges.settings(model), watch, rows, losses)
                watch = replace(watch, judged_ms=reached)
            watch = await self._guard(unit, model, standing, watch, predicted)
            watch = await self._say(unit, model, standing, watch)
            if watch != unit.watch:
                await unit.save_watch(watch)
        return reached < until

    async def _guard(
        self, unit: Unit, model: Model, standing: Standing, watch: Watch, predicted: int
    ) -> Watch:
        """Hold the versions to the guardrails, by all requests of the rollout that are complete."""
        guards, more = guarding.begun(watch.guards, standing, model.spec, watch.closed_ms), True
        while more and not guarding.are_tripped(guards):
            requests = await unit.asked(
                guards.rollout_id,
                from_ms=guards.from_ms,
                after_id=guards.after_id,
                until_ms=predicted,
                at_most=MOST_ROWS,
            )
            more = len(requests) == MOST_ROWS
            guards = guarding.take(guards, requests, None if more else predicted)
        return replace(watch, guards=guards)

    async def _say(self, unit: Unit, model: Model, standing: Standing, watch: Watch) -> Watch:
        """Say what the guardrails or the judge have to say of the step at which the rollout stands."""
        on_trial, guards = watch.trial, watch.guards
        # What either has said of this step is still to be done: another word would come too late for it.
        here = standing.rollout_id, standing.step
        if any(it is not None and (it.rollout_id, it.said_at_step) == here for it in (on_trial, guards)):
            return watch
        now_ms = self._clock.now_ms()
        found = guarding.verdict(model.name, guards, standing, now_ms)
        if found is None and on_trial is not None:
            found = trial.verdict(
                model.name, watch.trials, standing, model.spec.judged_by,
                closed_ms=watch.judged_to, recorded_ms=now_ms,
            )  # fmt: skip
        loops_of = {arm.version: arm.loop_id for arm in standing.on_trial}
        loop = await unit.loop(loops_of[found.challenger]) if found is not None else None
        if found is None or loop is None or not loops.is_on_trial(loop, standing.rollout_id):
            return watch
        with telemetry.span(f"verdict {found.outcome.lower()}", parent=loop.traceparent, model=model.name):
            await unit.put_loop(loops.judged(loop, found))
            await unit.tell([found])
        if found.guardrail:
            return replace(watch, guards=guards and replace(guards, said_at_step=standing.step))
        return replace(watch, trial=on_trial and replace(on_trial, said_at_step=standing.step))


async def take(
    unit: Unit, model: Model, settings: Settings, watch: Watch, rows: Sequence[Row], losses: Floats
) -> Watch:
    """Take in closed rows, with the clipped loss of each, and tell what versions have bought; rows that were taken in before do not count."""
    start = next((at for at, row in enumerate(rows) if row.at_ms > watch.judged_to), len(rows))
    rows, losses = rows[start:], losses[start:]
    trials = trial.take(watch.trials, rows, losses, model.spec)
    earning, replaced = worth.take(watch.earning, rows, losses, trials, settings.window, settings.every_ms)
    earning = await _tell_gains(unit, model, replaced, earning)
    return replace(watch.judging(trials), earning=earning)


async def _tell_gains(unit: Unit, model: Model, replaced: Sequence[Earning], live: Earning) -> Earning:
    """Write down what versions have bought: those that were replaced for the last time, the live one now and then.

    The first time that one is clearly worse than the version before, its retrain counts as one that did not help.
    """
    for each in (*replaced, live):
        found = worth.gain(each, model.spec.judged_by)
        worse = None if each.weighed else worth.is_worse(each, model.spec.most, model.spec.rollout.alpha)
        if found is None or (each is live and worse is None and not worth.is_due(live)):
            continue
        if (loop := await unit.loop_of(each.version)) is not None:
            loop = replace(loop, gain=found, worse=loop.worse or bool(worse))
            await unit.put_loop(loop)
            if worse:
                await ledger.learn(unit, loop)
        if each is live:
            live = replace(live, told=live.rows, weighed=live.weighed or worse is not None)
    return live
