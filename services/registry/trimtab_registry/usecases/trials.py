"""What serving reports and the judge says, and what follows for the rollout.

A verdict is applied only if it speaks about exactly the state at hand (rollout, step
and generation), else it is recorded as stale. Of what serving instances report, only
what is within its lease counts.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trimtab_runtime.clock import Clock

from trimtab_registry.usecases import lifecycle
from trimtab_registry.usecases.entities import Entry, Stage, Status, Verdict
from trimtab_registry.usecases.lifecycle import REGISTRY
from trimtab_registry.usecases.ports import Store, Unit
from trimtab_registry.usecases.rollouts import IllegalMove, Move, Phase, Standing


class Fleet:
    """The last word of each serving instance about each model."""

    def __init__(self) -> None:
        self._statuses: dict[str, dict[str, Status]] = {}

    def note(self, status: Status) -> None:
        """Take in a status; it replaces the instance's last one."""
        self._statuses.setdefault(status.model, {})[status.instance] = status

    def forget(self, model: str, instance: str) -> None:
        """Take in that an instance has gone."""
        self._statuses.get(model, {}).pop(instance, None)

    def models(self) -> list[str]:
        """Return the models of which anything is known."""
        return list(self._statuses)

    def of(self, model: str, now_ms: int) -> list[Status]:
        """Return what the instances that serve `model` say within their lease."""
        return [status for status in self._statuses.get(model, {}).values() if status.lease_until_ms > now_ms]


@dataclass(frozen=True, slots=True)
class Due:
    """What the instances' reports call for."""

    what: Literal["failed", "warm", "live", "stuck"]
    number: int
    """Of the version that it is about; of several that are warm the first."""
    sentence: str


class Trials:
    """Moves rollouts on."""

    def __init__(self, store: Store, fleet: Fleet, clock: Clock) -> None:
        self._store = store
        self._fleet = fleet
        self._clock = clock

    async def observe(self, model: str) -> None:
        """Do what the instances' reports about `model` call for.

        Most reports call for nothing, and cost one read. Asking twice does nothing twice.
        """
        if self._due(await self._store.standing(model)) is None:
            return
        async with self._store.begin() as unit:
            standing = await unit.lock(model)
            if due := self._due(standing):
                await self._act(unit, standing, due)

    def _due(self, standing: Standing) -> Due | None:
        return due(standing, self._fleet.of(standing.model, self._clock.now_ms()))

    async def _act(self, unit: Unit, standing: Standing, due: Due) -> None:
        now = self._clock.now_ms()
        version = await lifecycle.the_version(unit, standing.model, due.number)
        with lifecycle.step(due.what, version, standing.rollout):
            match due.what:
                case "failed":
                    await lifecycle.leave(unit, standing, due.number, due.sentence, actor=REGISTRY, at_ms=now)
                case "stuck":
                    await lifecycle.restore(unit, standing, due.sentence, actor=REGISTRY, at_ms=now)
                case "live":
                    await unit.go_live(standing.model, version.number, now)
                    standing = standing.confirm()
                    await unit.save(standing)
                    await lifecycle.set_stage(
                        unit, standing, version, Stage.LIVE, due.sentence, actor=REGISTRY, at_ms=now
                    )
                case "warm":
                    await self._warm(unit, standing, due, now)

    async def _warm(self, unit: Unit, standing: Standing, due: Due, now: int) -> None:
        trial = standing.trial
        if trial is None or trial.phase is Phase.LOADING_TO_SERVE:
            await lifecycle.promote(unit, standing, Move.WARM, due.sentence, actor=REGISTRY, at_ms=now)
            return
        standing = standing.move(Move.WARM, now)
        await unit.save(standing)
        for number in trial.challengers:
            version = await lifecycle.the_version(unit, standing.model, number)
            await lifecycle.set_stage(
                unit, standing, version, Stage.ON_TRIAL, due.sentence, actor=REGISTRY, at_ms=now, rollout_id=trial.id
            )  # fmt: skip

    async def judge(self, verdict: Verdict) -> None:
        """Apply `verdict`, or record it as stale; a redelivered one changes nothing."""
        async with self._store.begin() as unit:
            if not await unit.first_sight(verdict.id):
                return
            standing = await unit.lock(verdict.model)
            trial = standing.trial
            if trial is None or not standing.is_at(verdict.rollout_id, verdict.step, verdict.generation):
                await self._stale(unit, standing, verdict)
                return
            number = verdict.challenger or trial.challenger
            if number not in trial.challengers:
                await self._stale(unit, standing, verdict)
                return
            version = await lifecycle.the_version(unit, verdict.model, number)
            with lifecycle.step(f"verdict {verdict.outcome.lower()}", version, trial):
                await self._apply(unit, standing, verdict, number)

    async def _apply(self, unit: Unit, standing: Standing, verdict: Verdict, number: int) -> None:
        now, said = self._clock.now_ms(), verdict.sentence or verdict.outcome.lower()
        match verdict.outcome:
            case "PROMOTE":
                await lifecycle.promote(
                    unit, standing, Move.PROMOTE, said, actor=REGISTRY, at_ms=now, number=number
                )
            case "ROLL_BACK":
                await lifecycle.leave(unit, standing, number, said, actor=REGISTRY, at_ms=now)
            case "UNDECIDED":
                await lifecycle.drop(unit, standing, said, actor=REGISTRY, at_ms=now)
            case "ADVANCE":
                try:
                    standing = standing.move(Move.ADVANCE, now)
                except IllegalMove:
                    await self._stale(unit, standing, verdict)
                    return
                await unit.save(standing)
                await self._note(
                    unit, "advanced", said, verdict, share=standing.trial.share if standing.trial else 0
                )

    async def _stale(self, unit: Unit, standing: Standing, verdict: Verdict) -> None:
        trial = standing.trial
        at = (
            f"rollout {trial.id} is {trial.phase} at step {trial.step}, generation {trial.generation}"
            if trial
            else "no rollout is on"
        )
        spoke = f"rollout {verdict.rollout_id}, step {verdict.step}, generation {verdict.generation}"
        why = f"{verdict.outcome} was ignored: it speaks about {spoke}, and {at}"
        await self._note(unit, "stale_verdict", why, verdict)

    async def _note(self, unit: Unit, action: str, reason: str, verdict: Verdict, **more: int) -> None:
        details = {
            "verdict": verdict.id,
            "rollout_id": verdict.rollout_id,
            "step": verdict.step,
            **verdict.numbers,
            **more,
        }
        await unit.record(
            Entry(f"Model/{verdict.model}", action, REGISTRY, reason, self._clock.now_ms(), details)
        )


def due(standing: Standing, instances: Sequence[Status]) -> Due | None:
    """Return what the reports of the `instances` that serve a model call for, the most urgent first."""
    trial, champion = standing.trial, standing.champion
    current = [status for status in instances if status.generation >= standing.generation]
    if trial is not None:
        for number, status in itertools.product(trial.challengers, instances):
            loaded = status.of(number)
            # An older report may speak of an earlier attempt to load the same version.
            if loaded is not None and loaded.error and status.generation >= trial.generation:
                return Due("failed", number, f"{status.instance} could not load it: {loaded.error}")
        places = itertools.product(instances, trial.challengers)
        if trial.is_loading and instances and all(_is_warm(*place) for place in places):
            return Due("warm", trial.challenger, f"warm on all of {_names(instances)}")
    if champion is None or champion == standing.live:
        return None
    if (
        instances
        and len(current) == len(instances)
        and all(status.champion == champion for status in current)
    ):
        return Due("live", champion, f"answered by {_names(instances)}")
    if trial is None and standing.previous is not None:
        for status in current:
            loaded = status.of(champion)
            if loaded is not None and loaded.error:
                return Due("stuck", champion, f"{status.instance} could not load it: {loaded.error}")
    return None


def _is_warm(status: Status, number: int) -> bool:
    loaded = status.of(number)
    return loaded is not None and loaded.warm


def _names(instances: Sequence[Status]) -> str:
    return ", ".join(sorted(status.instance for status in instances))
