"""What people say of a version that waits for approval, and what happens if they say too little.

The rule is that of the model's spec when the version came: a later spec is for later
versions. Nobody approves twice, so of two approvers neither is alone, whoever ordered
the run; one who may reject ends it. People are waited for by the wall clock. All is
decided under the model's lock, so of an approval, a rejection and the end of the time
one comes first, and the others find a version that no longer waits.
"""

import asyncio
import logging
from dataclasses import replace

from trimtab_runtime.clock import Clock, iso
from trimtab_runtime.errors import Unavailable

from trimtab_registry.errors import NotNow, NotTheirs, Unsigned
from trimtab_registry.usecases import lifecycle
from trimtab_registry.usecases.candidates import staleness
from trimtab_registry.usecases.entities import Approval, Given, Stage, Version
from trimtab_registry.usecases.lifecycle import REGISTRY
from trimtab_registry.usecases.ports import Store, Unit
from trimtab_registry.usecases.roles import Roles
from trimtab_registry.usecases.rollouts import Standing

log = logging.getLogger(__name__)

_EVERY_S = 5.0


class Approvals:
    """Takes people's word for a version, or against it."""

    def __init__(self, store: Store, clock: Clock, roles: Roles) -> None:
        self._store = store
        self._clock = clock
        self._roles = roles

    async def approve(self, model: str, number: int, *, actor: str, comment: str) -> Standing:
        """Take in that `actor` approves a version, let it on if that is enough, and return where the model stands then.

        Raises:
            UnknownModel, UnknownVersion: there is no such thing.
            Unsigned: nobody approves, or a comment is missing.
            NotTheirs: it is for others to approve.
            NotNow: it does not wait for approval, or not for theirs, or the champion it was compared with has been replaced.
        """
        spec = await lifecycle.model_spec(self._store, model)
        async with self._store.begin() as unit:
            standing, now = await unit.lock(model), self._clock.now_ms()
            version, approval = await self._awaiting(unit, model, number, actor, now)
            if approval.comment and not comment:
                raise Unsigned("comment", f"an approval of {model!r} needs one, so say why")
            if any(given.actor == actor for given in approval.given):
                raise NotNow(f"{actor} has approved version {number} of {model!r} already: another has to")
            if stale := staleness(spec, standing, version.candidate):
                raise NotNow(f"version {number} of {model!r} cannot be approved: {stale}")
            approval = replace(approval, given=(*approval.given, Given(actor, now, comment)))
            said = f"approved: {comment}" if comment else "approved"
            with lifecycle.step("approve", version):
                await unit.set_approval(version, approval)
                await lifecycle.audit(unit, version, "approved", said, actor=actor, at_ms=now)
                if not approval.is_complete:
                    return standing
                if approval.approvers > 1:
                    said = f"approved by {', '.join(given.actor for given in approval.given)}"
                return await lifecycle.begin(
                    unit, standing, version, spec.rollout.strategy, spec.rollout.ladder,
                    actor=actor, sentence=said, at_ms=now,
                )  # fmt: skip

    async def reject(self, model: str, number: int, *, actor: str, comment: str) -> Version:
        """Turn down a version that waits for approval, whoever has approved it, and return it.

        Raises:
            UnknownModel, UnknownVersion: there is no such thing.
            Unsigned: nobody rejects.
            NotTheirs: it is for others to reject.
            NotNow: it does not wait for approval.
        """
        await lifecycle.known(self._store, model)
        async with self._store.begin() as unit:
            standing, now = await unit.lock(model), self._clock.now_ms()
            version, _ = await self._awaiting(unit, model, number, actor, now)
            said = f"rejected: {comment}" if comment else "rejected"
            return await self._reject(unit, standing, version, said, actor, now)

    async def expire(self) -> None:
        """Reject what has waited too long, for people or for checks."""
        for seen in await self._store.overdue(self._clock.now_ms()):
            async with self._store.begin() as unit:
                standing, now = await unit.lock(seen.model), self._clock.now_ms()
                version = await lifecycle.the_version(unit, seen.model, seen.number)
                if said := _too_late(version, now):
                    await self._reject(unit, standing, version, said, REGISTRY, now)

    async def keep_time(self) -> None:
        """Reject what has waited too long, until cancelled; a PostgreSQL that is away is waited for."""
        while True:
            try:
                await self.expire()
            except Unavailable as error:
                log.warning("what has waited too long waits on: %s", error)
            await asyncio.sleep(_EVERY_S)

    async def _reject(
        self, unit: Unit, standing: Standing, version: Version, said: str, actor: str, now: int
    ) -> Version:
        with lifecycle.step("reject", version):
            await lifecycle.set_stage(unit, standing, version, Stage.REJECTED, said, actor=actor, at_ms=now)
        return replace(version, stage=Stage.REJECTED)

    async def _awaiting(
        self, unit: Unit, model: str, number: int, actor: str, now: int
    ) -> tuple[Version, Approval]:
        """Return a version that waits for a word of `actor`, and what it waits for."""
        if not actor:
            raise Unsigned("actor", "say who decides")
        version = await lifecycle.the_version(unit, model, number)
        approval = version.approval
        if version.stage is not Stage.AWAITING_APPROVAL or approval is None:
            raise NotNow(
                f"version {number} of {model!r} is {version.stage.value} and does not wait for approval: "
                "look at its history in the audit log"
            )
        if approval.is_over(now):
            raise NotNow(
                f"version {number} of {model!r} waited for approval until {iso(approval.until_ms or 0)}: train another"
            )
        may = self._roles.of(approval.by)
        if approval.by and actor not in may:
            raise NotTheirs(model, number, actor, approval.by, may)
        return version, approval


def _too_late(version: Version, now_ms: int) -> str:
    """Return why a version is to be rejected for want of time, or nothing."""
    approval, checks = version.approval, version.checks
    if version.stage is Stage.AWAITING_APPROVAL and approval and approval.is_over(now_ms):
        return f"not approved in time: {approval} had by {iso(approval.until_ms or 0)}"
    if version.stage is Stage.AWAITING_CHECKS and checks and checks.is_over(now_ms):
        return (
            f"not checked in time: {', '.join(checks.pending)} had not passed by {iso(checks.until_ms or 0)}"
        )
    return ""
