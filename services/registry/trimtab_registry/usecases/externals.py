"""What tools outside say of a version: checks that it waits for, and that can take it back.

All that a model's spec required when the version came have to be posted as passed
before people are asked, or, where nobody is asked, before it is loaded. One that failed
is a veto for as long as the version may serve: it rejects what waits, drops what is on
trial, and takes the champion back to the one before. All is decided under the model's
lock; who posted, in which roles, is in the audit log.
"""

from collections.abc import Collection
from dataclasses import replace

from trimtab_core import specs
from trimtab_runtime.clock import Clock, iso

from trimtab_registry.errors import NotNow, NotTheirs, UnknownCheck, Unsigned
from trimtab_registry.usecases import lifecycle
from trimtab_registry.usecases.candidates import staleness
from trimtab_registry.usecases.entities import Check, Checks, Stage, Version
from trimtab_registry.usecases.lifecycle import REGISTRY
from trimtab_registry.usecases.ports import Store, Unit
from trimtab_registry.usecases.roles import Roles
from trimtab_registry.usecases.rollouts import Standing

_OVER = (Stage.REFUSED, Stage.REJECTED, Stage.ROLLED_BACK, Stage.RETIRED)


class ExternalChecks:
    """Takes the word of tools outside."""

    def __init__(self, store: Store, clock: Clock, roles: Roles) -> None:
        self._store = store
        self._clock = clock
        self._roles = roles

    async def post(
        self,
        model: str,
        number: int,
        name: str,
        *,
        passed: bool,
        actor: str,
        comment: str = "",
        url: str = "",
    ) -> Version:
        """Take in what a check says of a version, do what follows from it, and return the version.

        Raises:
            UnknownModel, UnknownVersion: there is no such thing.
            Unsigned: nobody posts it.
            UnknownCheck: neither the version waits for a check of that name, nor does the model's spec name it.
            NotTheirs: it is for others to post.
            NotNow: the version is over, or waited for it until now.
        """
        spec = await lifecycle.model_spec(self._store, model)
        async with self._store.begin() as unit:
            standing, now = await unit.lock(model), self._clock.now_ms()
            version = await lifecycle.the_version(unit, model, number)
            checks = self._may_be_posted(spec, version, name, actor, now)
            roles = self._roles.held_by(actor)
            checks = checks.having(Check(name, passed, actor, roles, now, comment, url))
            said = f"{name} {'passed' if passed else 'failed'}" + (f": {comment}" if comment else "")
            with lifecycle.step(f"check {name}", version):
                await unit.set_checks(version, checks)
                await lifecycle.audit(
                    unit, version, "check_passed" if passed else "check_failed", said, actor=actor, at_ms=now,
                    check=name, url=url, roles=list(roles),
                )  # fmt: skip
                if not passed:
                    await self._veto(unit, standing, version, said, actor, now)
                elif version.stage is Stage.AWAITING_CHECKS and not checks.pending:
                    await self._go_on(unit, standing, version, spec, checks, now)
            return await lifecycle.the_version(unit, model, number)

    def _may_be_posted(
        self, spec: specs.ModelSpec, version: Version, name: str, actor: str, now: int
    ) -> Checks:
        """Return what was posted of a version so far, if `actor` may post `name` now."""
        if not actor:
            raise Unsigned("actor", "say who posts the check")
        asked = spec.rollout.checks
        checks = version.checks or Checks(by=asked.by if asked else ())
        known: Collection[str] = dict.fromkeys((*checks.required, *(asked.required if asked else ())))
        if name not in known:
            raise UnknownCheck(version.model, name, known)
        if checks.by and actor not in (may := self._roles.of(checks.by)):
            raise NotTheirs(version.model, version.number, actor, checks.by, may)
        called = f"version {version.number} of {version.model!r}"
        if version.stage in _OVER:
            raise NotNow(f"{called} is {version.stage.value}, and no check of it changes that: train another")
        if version.stage is Stage.AWAITING_CHECKS and checks.is_over(now):
            raise NotNow(f"{called} waited for checks until {iso(checks.until_ms or 0)}: train another")
        return checks

    async def _veto(
        self, unit: Unit, standing: Standing, version: Version, said: str, actor: str, now: int
    ) -> None:
        """Take back a version, however far it has come; one that has been replaced stays as it is."""
        if version.stage in (Stage.AWAITING_CHECKS, Stage.AWAITING_APPROVAL):
            await lifecycle.set_stage(unit, standing, version, Stage.REJECTED, said, actor=actor, at_ms=now)
        elif version.number in standing.challengers:
            await lifecycle.leave(unit, standing, version.number, said, actor=actor, at_ms=now)
        elif standing.champion == version.number and standing.previous is not None:
            # Who is on trial beside it has been compared with what is now known to be bad: it goes too.
            standing = await lifecycle.drop(unit, standing, said, actor=actor, at_ms=now)
            await lifecycle.restore(unit, standing, said, actor=actor, at_ms=now)

    async def _go_on(
        self,
        unit: Unit,
        standing: Standing,
        version: Version,
        spec: specs.ModelSpec,
        checks: Checks,
        now: int,
    ) -> None:
        """Let a version on whose checks have all passed: to people, if it waits for any, or to its rollout."""
        passed = f"its checks passed: {', '.join(checks.required)}"
        if stale := staleness(spec, standing, version.candidate):
            await lifecycle.set_stage(
                unit, standing, version, Stage.REFUSED, f"{passed}, but {stale}", actor=REGISTRY, at_ms=now
            )
        elif (approval := version.approval) is not None:
            if (
                approval.until_ms is not None
            ):  # people have as long as they would have had without the wait for checks
                waited_ms = now - version.created_at_ms
                await unit.set_approval(version, replace(approval, until_ms=approval.until_ms + waited_ms))
            said = f"{passed}; it waits for a person to approve or reject it"
            await lifecycle.set_stage(
                unit, standing, version, Stage.AWAITING_APPROVAL, said, actor=REGISTRY, at_ms=now
            )
        else:
            await lifecycle.begin(
                unit, standing, version, spec.rollout.strategy, spec.rollout.ladder,
                actor=REGISTRY, sentence=passed, at_ms=now,
            )  # fmt: skip
