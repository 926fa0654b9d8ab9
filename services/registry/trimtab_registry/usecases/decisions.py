"""What people decide about what serves: promote a version, go back to the one before, or let one go.

A decision overrides the judge, never the rule that there is one champion, and is in
the audit log with who took it and why.
"""

from collections.abc import Mapping
from dataclasses import replace

from trimtab_runtime.clock import Clock

from trimtab_registry.errors import NotNow, NotTheirs, UnknownVersion, Unsigned
from trimtab_registry.usecases import lifecycle
from trimtab_registry.usecases.entities import Applied, Stage, Version
from trimtab_registry.usecases.holding import held_by
from trimtab_registry.usecases.ports import Store, Unit
from trimtab_registry.usecases.roles import Roles
from trimtab_registry.usecases.rollouts import Move, Phase, Standing


class Decisions:
    """Takes people's decisions."""

    def __init__(self, store: Store, clock: Clock, roles: Roles) -> None:
        self._store = store
        self._clock = clock
        self._roles = roles

    async def promote(self, model: str, number: int, *, actor: str, comment: str) -> Standing:
        """Make a version the champion: at once if it is on trial, else as soon as it is warm everywhere.

        A version that is no challenger (one that was live before, was refused or was rolled back) needs a comment, for it
        overrules what the evidence said. Another challenger gives way.

        Raises:
            UnknownModel, UnknownVersion: there is no such thing.
            Unsigned: nobody takes the decision, or it lacks its reason.
            NotTheirs: it is for the roles that approve the model's versions.
            NotNow: the version is the champion, is on its way, waits for checks or approval, was rejected or retired, or has lost its
                files.
        """
        if not actor:
            raise Unsigned("actor", "say who promotes")
        check_role(self._roles, await lifecycle.known(self._store, model), number, actor)
        async with self._store.begin() as unit:
            standing, now = await unit.lock(model), self._clock.now_ms()
            version = await unit.version(model, number)
            if version is None:
                raise UnknownVersion(model, number)
            _may_be_promoted(standing, version, comment)
            said = f"promoted by {actor}" + (f": {comment}" if comment else "")
            with lifecycle.step("promote", version):
                if number not in standing.challengers:
                    return await lifecycle.begin(
                        unit, standing, version, "immediate", (), actor=actor, sentence=said, at_ms=now
                    )
                if standing.trial is not None and standing.trial.phase is Phase.ON_TRIAL:
                    return await lifecycle.promote(
                        unit, standing, Move.HURRY, said, actor=actor, at_ms=now, number=number
                    )
                return await lifecycle.hurry(unit, standing, version, said, actor=actor, at_ms=now)

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

    async def retire(self, model: str, number: int, *, actor: str, comment: str) -> Version:
        """Let a version go for good: it serves never again, and its files go when their time has come.

        Raises:
            UnknownModel, UnknownVersion: there is no such thing.
            Unsigned: nobody takes the decision.
            NotNow: it is in use, or retired already.
        """
        if not actor:
            raise Unsigned("actor", "say who retires it")
        await lifecycle.known(self._store, model)
        async with self._store.begin() as unit:
            standing = await unit.lock(model)
            version = await lifecycle.the_version(unit, model, number)
            if version.stage is Stage.RETIRED:
                raise NotNow(f"version {number} of {model!r} is retired already")
            if held := held_by(standing, version):
                raise NotNow(f"version {number} of {model!r} cannot be retired, for it {' and '.join(held)}")
            return await self._retire(unit, standing, version, actor, comment)

    async def withdraw(self, model: str, *, actor: str, comment: str) -> list[int]:
        """Take a model out of service: a challenger is dropped, nothing serves, and what served is retired; say which that is.

        Raises:
            UnknownModel: there is no such model.
            Unsigned: nobody takes the decision, or it lacks its reason.
            NotNow: nothing of it serves, or what does has an alias or a pin.
        """
        if not actor:
            raise Unsigned("actor", "say who takes it out of service")
        if not comment:
            raise Unsigned("comment", f"nothing would serve in place of {model!r}, so say why")
        await lifecycle.known(self._store, model)
        async with self._store.begin() as unit:
            standing, now = await unit.lock(model), self._clock.now_ms()
            named = (standing.champion, standing.live, standing.previous, *standing.challengers)
            numbers = sorted({number for number in named if number is not None})
            if not numbers:
                raise NotNow(f"nothing of model {model!r} serves")
            said = f"{model} was taken out of service by {actor}: {comment}"
            standing = await lifecycle.drop(unit, standing, said, actor=actor, at_ms=now)
            standing = standing.withdraw(now)
            await unit.save(standing)
            await unit.end_live(model, now)
            for number in numbers:
                version = await lifecycle.the_version(unit, model, number)
                if held := held_by(standing, version):
                    raise NotNow(
                        f"version {number} of {model!r} cannot be retired, for it {' and '.join(held)}"
                    )
                await self._retire(unit, standing, version, actor, said)
            return numbers

    async def _retire(
        self, unit: Unit, standing: Standing, version: Version, actor: str, why: str
    ) -> Version:
        said, now = why or f"retired by {actor}", self._clock.now_ms()
        with lifecycle.step("retire", version):
            await lifecycle.set_stage(unit, standing, version, Stage.RETIRED, said, actor=actor, at_ms=now)
        return replace(version, stage=Stage.RETIRED)


def check_role(roles: Roles, model: Applied, number: int, actor: str, how: str = "is promoted by") -> None:
    """Refuse who has none of the roles that approve the model's versions: there is no way around them."""
    approval = model.document.get("spec", {}).get("rollout", {}).get("approval", {})
    named = approval.get("by", ()) if isinstance(approval, Mapping) else ()
    if named and actor not in (may := roles.of(named)):
        raise NotTheirs(model.name, number, actor, named, may, how)


def _may_be_promoted(standing: Standing, version: Version, comment: str) -> None:
    called = f"version {version.number} of {version.model!r}"
    if standing.champion == version.number:
        raise NotNow(f"{called} is the champion already")
    check_is_let_on(version)
    if version.number in standing.challengers:
        if standing.trial is not None and standing.trial.phase is Phase.LOADING_TO_SERVE:
            raise NotNow(f"{called} becomes champion as soon as it is warm: wait for it")
    elif not comment:
        raise Unsigned(
            "comment", f"{called} is {version.stage.value} and no challenger, so say why it should serve"
        )


def check_is_let_on(version: Version) -> None:
    """Refuse a version that nobody may let serve as things are.

    Raises:
        NotNow: it waits for checks or approval, was rejected or retired, or has lost its files.
    """
    called = f"version {version.number} of {version.model!r}"
    if version.stage is Stage.AWAITING_CHECKS:
        pending = ", ".join(version.checks.pending) if version.checks else ""
        raise NotNow(
            f"{called} waits for checks ({pending}): have them posted, or reject it by one that failed"
        )
    if version.stage is Stage.AWAITING_APPROVAL:
        raise NotNow(f"{called} waits for approval: approve it, or reject it")
    if version.stage in (Stage.REJECTED, Stage.RETIRED):
        raise NotNow(f"{called} was {version.stage.value.lower()}: train another")
    lifecycle.check_files(version)
