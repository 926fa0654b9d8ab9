"""The retrain policy: drift, or what is due without it, in; at most one command out.

What the policy remembers, the loop's row and the command are one transaction that
locks the model, so an episode that is heard twice, late or out of order gives one
command. A refusal is written to the loop's row as a sentence, and so is another when
its cause changes, and what a dry run would have ordered. While data is bad, nothing is
ordered: neither a model's own faults nor those of what it is made of are trained on.
"""

import logging
from dataclasses import replace
from typing import Final

from trimtab_core import policy, quality
from trimtab_core.policy import Decision, PolicySpec, Trigger
from trimtab_core.specs import Model
from trimtab_core.watched import Drift, Due
from trimtab_runtime import telemetry
from trimtab_runtime.clock import Clock

from trimtab_monitoring.usecases import loops
from trimtab_monitoring.usecases.entities import Alert, Command, Loop
from trimtab_monitoring.usecases.ports import Specs, Store, Unit

log = logging.getLogger(__name__)

REQUESTED_BY = "retrain policy"

BAD_DATA: Final = ("expectation", "silence", "skew")
"""Kinds of alerts about a model, or a source that it is made of, that stand in the way of a retrain."""


class Retraining:
    """Answers drift, and what is due without it."""

    def __init__(self, store: Store, specs: Specs, clock: Clock) -> None:
        self._store = store
        self._specs = specs
        self._clock = clock

    async def answer(self, drift: Drift) -> None:
        """Decide about a drift event; one that was heard before changes nothing.

        Raises:
            NotFound: there is no such model.
            Unavailable: PostgreSQL is away.
        """
        model = self._specs.model(drift.model)
        async with self._store.begin(drift.model) as unit:
            if not await unit.first_sight(f"drift/{drift.episode}"):
                return
            loop = await unit.loop(drift.episode) or loops.triggered(drift, telemetry.traceparent())
            fault = await self._fault(unit, model, loop.drift.fault if loop.drift else "")
            signal = drift.signal(drift.at_ms, fault)
            decision = policy.decide(PolicySpec.of(model.spec.retrain), unit.policy, signal)
            await self._follow(unit, loop, drift.kind, drift.episode, decision, drift.at_ms)
            log.info("drift %s of %s: %s", drift.episode, drift.model, decision.reason)

    async def look_again(
        self, unit: Unit, episode: str, now_ms: int, fault: str, severity: float | None = None
    ) -> None:
        """Decide again about an episode that goes on, at the event time `now_ms`, in the caller's transaction.

        `fault` says what is bad of the data that the model is asked with, if anything is. `severity` is how severe it is
        now, or as it was told, if that is not known. A refusal for the same cause is left as it was first said.

        The first answer to a drift event is left to `answer`, so that it does not
        depend on which of the two came first.
        """
        loop = await unit.loop(episode)
        if loop is None or loop.drift is None or loop.state == "triggered":
            return
        model = self._specs.model(loop.model)
        signal = loop.drift.signal(now_ms, await self._fault(unit, model, fault), severity)
        decision = policy.reconsider(PolicySpec.of(model.spec.retrain), unit.policy, signal)
        if decision.action == "decline":
            await self._decline(unit, loop, decision, now_ms)
        else:
            with telemetry.span("reconsider drift", parent=loop.traceparent, model=loop.model):
                drift = loop.drift
                if decision.attempt > 1:  # a loop of its own, named by its command
                    assert decision.command_id is not None
                    await unit.put_loop(loops.decided(loop, decision, now_ms))
                    drift = replace(drift, recorded_ms=self._clock.now_ms())
                    loop = replace(loops.triggered(drift, telemetry.traceparent()), id=decision.command_id)
                await self._follow(unit, loop, drift.kind, drift.episode, decision, now_ms)

    async def due(self, unit: Unit, model: Model, due: Due, fault: str) -> Due | None:
        """Decide about a retrain that is due, in the caller's transaction; cooldown and budget hold as for drift.

        Return it if it is to be asked about again once the data is well; `fault` is as of `look_again`.
        """
        signal = due.signal(model.name, await self._fault(unit, model, fault))
        decision = policy.decide(PolicySpec.of(model.spec.retrain), unit.policy, signal)
        with telemetry.span("retrain due", model=model.name, trigger=due.trigger):
            now_ms, traceparent = self._clock.now_ms(), telemetry.traceparent()
            loop = await unit.loop(due.id) or loops.due(model.name, due, now_ms, traceparent)
            await self._follow(unit, loop, due.trigger, due.id, decision, due.at_ms)
        log.info("%s of %s: %s", due.trigger, model.name, decision.reason)
        return due if decision.cause == "quality" else None

    async def _fault(self, unit: Unit, model: Model, own: str) -> str:
        """Return what is bad of the data of a model, or of a source that it is made of."""
        if own:
            return own
        subjects = [model.name, *quality.sources_of(model, self._specs.views)]
        standing = [each for each in await unit.standing(subjects, BAD_DATA) if self._still_holds(each)]
        return f"{standing[0].subject}: {standing[0].sentence}" if standing else ""

    def _still_holds(self, alert: Alert) -> bool:
        """Return whether an alert speaks of what is still asked for: of an expectation that went, nobody says that it holds."""
        if alert.kind != "expectation":
            return True
        source, (*_, name, statistic) = self._specs.sources.get(alert.subject), alert.occasion.split("/")
        field = source.spec.fields.get(name) if source is not None else None
        return field is not None and statistic in field.expect.limits

    async def _follow(
        self, unit: Unit, loop: Loop, trigger: Trigger, episode: str, decision: Decision, as_of_ms: int
    ) -> None:
        """Do what was decided of `loop`, and write it down."""
        if decision.action == "retrain":
            await self._command(unit, loop, trigger, episode, decision, as_of_ms)
        elif decision.action == "rehearse":
            await unit.save_policy(decision.state)
            loop = loops.decided(loop, decision, as_of_ms)
            await unit.put_loop(loops.rehearsed(loop, decision, self._clock.now_ms()))
        else:
            await self._decline(unit, loop, decision, as_of_ms)

    async def _decline(self, unit: Unit, loop: Loop, decision: Decision, as_of_ms: int) -> None:
        """Write down why nothing is ordered, where that is news: the cause is another, and not that it was ordered before."""
        after = loops.decided(loop, decision, as_of_ms)
        if decision.cause != "duplicate" and after != loop:
            await unit.put_loop(loops.declined(after, decision, self._clock.now_ms()))

    async def _command(
        self, unit: Unit, loop: Loop, trigger: Trigger, episode: str, decision: Decision, as_of_ms: int
    ) -> None:
        """Send the command of `decision` as part of `loop`."""
        assert decision.command_id is not None
        command = Command(
            id=decision.command_id,
            model=loop.model,
            loop_id=loop.id,
            trigger=trigger,
            episode=episode,
            attempt=decision.attempt,
            reason=decision.reason,
            requested_by=REQUESTED_BY,
            as_of_ms=as_of_ms,
            at_ms=self._clock.now_ms(),
            changed_ms=loop.drift.changed_ms if loop.drift else None,
        )
        await unit.save_policy(decision.state)
        await unit.put_loop(loops.commanded(loops.decided(loop, decision, as_of_ms), command))
        await unit.tell([command])
