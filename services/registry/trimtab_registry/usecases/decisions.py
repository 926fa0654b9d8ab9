"""What people decide about what serves: promote a version, or go back to the one before.

A decision overrides the judge, never the rule that there is one champion, and is in
the audit log with who took it and why.
"""

from trimtab_runtime.clock import Clock

from trimtab_registry.errors import NotNow, UnknownVersion, Unsigned
from trimtab_registry.usecases import lifecycle
from trimtab_registry.usecases.entities import Stage, Version
from trimtab_registry.usecases.ports import Store
from trimtab_registry.usecases.rollouts import Move, Phase, Standing


class Decisions:
    """Takes people's decisions."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def promote(self, model: str, number: int, *, actor: str, comment: str) -> Standing:
        """Make a version the champion: at once if it is on trial, else as soon as it is warm everywhere.

        A version that is no challenger (one that was live before, was refused or was rolled back) needs a comment, for it
        overrules what the evidence said. Another challenger gives way.

        Raises:
            UnknownModel, UnknownVersion: there is no such thing.
            Unsigned: nobody takes the decision, or it lacks its reason.
            NotNow: the version is the champion, is on its way, waits for checks or approval, or was rejected.
        """
        if not actor:
            raise Unsigned("actor", "say who promotes")
        async with self._store.begin() as unit:
            standing, now = await unit.lock(model), self._clock.now_ms()
            version = await unit.version(model, number)
            if version is None:
                await lifecycle.known(self._store, model)
                raise UnknownVersion(model, number)
            _may_be_promoted(standing, version, comment)
            said = f"promoted by {actor}" + (f": {comment}" if comment else "")
            with lifecycle.step("promote", version):
                if standing.challenger != number:
                    return await lifecycle.begin(
                        unit, standing, version, "immediate", (), actor=actor, sentence=said, at_ms=now
                    )
                if standing.trial is not None and standing.trial.phase is Phase.ON_TRIAL:
                    return await lifecycle.promote(unit, standing, Move.HURRY, said, actor=actor, at_ms=now)
                standing = standing.move(Move.HURRY, now)
                await unit.save(standing)
                await lifecycle.audit(unit, version, "hurried", said, actor=actor, at_ms=now)
                return standing

    async def roll_back(self, model: str, *, actor: str, comment: str) -> Standing:
        """Make the champion before, which is kept warm, the champion again; a challenger is dropped.

        Raises:
            UnknownModel: there is no such model.
            NotNow: no earlier champion is kept warm.
        """
        if not actor:
            raise Unsigned("actor", "say who rolls back")
        await lifecycle.known(self._store, model)
        async with self._store.begin() as unit:
            standing, now = await unit.lock(model), self._clock.now_ms()
            if standing.previous is None or standing.champion is None:
                raise NotNow(
                    f"model {model!r} has no earlier champion that is kept warm: promote one of its versions instead"
                )
            said = f"rolled back by {actor}" + (f": {comment}" if comment else "")
            with lifecycle.step("rollback", await lifecycle.the_version(unit, model, standing.champion)):
                standing = await lifecycle.drop(unit, standing, said, actor=actor, at_ms=now)
                return await lifecycle.restore(unit, standing, said, actor=actor, at_ms=now)


def _may_be_promoted(standing: Standing, version: Version, comment: str) -> None:
    called = f"version {version.number} of {version.model!r}"
    if standing.champion == version.number:
        raise NotNow(f"{called} is the champion already")
    if version.stage is Stage.AWAITING_CHECKS:
        pending = ", ".join(version.checks.pending) if version.checks else ""
        raise NotNow(
            f"{called} waits for checks ({pending}): have them posted, or reject it by one that failed"
        )
    if version.stage is Stage.AWAITING_APPROVAL:
        raise NotNow(f"{called} waits for approval: approve it, or reject it")
    if version.stage is Stage.REJECTED:
        raise NotNow(f"{called} was rejected: train another")
    if standing.challenger == version.number:
        if standing.trial is not None and standing.trial.phase is Phase.LOADING_TO_SERVE:
            raise NotNow(f"{called} becomes champion as soon as it is warm: wait for it")
    elif not comment:
        raise Unsigned(
            "comment", f"{called} is {version.stage.value} and no challenger, so say why it should serve"
        )
