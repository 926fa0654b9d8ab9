"""From a run to a version, and from there to a rollout or to a refusal.

Every run that succeeded becomes a version, once. A version that is accepted while
another challenger is undecided takes its place, and the other is rolled back as
superseded: the newer one saw newer data, and waiting would only make it older.
A comparison with a version that is no longer the champion proves nothing about the
one that is, so a candidate that owes its gates to such a comparison is refused.
"""

import asyncio
from dataclasses import dataclass
from functools import partial

from trimtab_core import gating, specs
from trimtab_core.gating import Gate
from trimtab_runtime import telemetry
from trimtab_runtime.clock import Clock
from trimtab_runtime.errors import Rejected

from trimtab_registry.usecases import evaluation, lifecycle
from trimtab_registry.usecases.entities import (
    Approval,
    CancelledRun,
    Candidate,
    Checks,
    Entry,
    FinishedRun,
    Stage,
)
from trimtab_registry.usecases.lifecycle import REGISTRY
from trimtab_registry.usecases.ports import Fetch, Store, Unit
from trimtab_registry.usecases.rollouts import Standing


@dataclass(frozen=True, slots=True)
class Findings:
    """What the gates said; `fault` if the evaluation could not be read."""

    gates: tuple[Gate, ...] = ()
    fault: str = ""


class Candidates:
    """Takes in runs."""

    def __init__(self, store: Store, fetch: Fetch, clock: Clock) -> None:
        self._store = store
        self._fetch = fetch
        self._clock = clock

    async def consider(self, run: FinishedRun) -> None:
        """Record `run` as a version, and let it on if it passes its gates.

        A run already seen changes nothing, so a redelivered event is harmless.

        Raises:
            UnknownModel: the model was never applied.
            Unavailable: the evaluation, or PostgreSQL, cannot be read now.
        """
        spec = await lifecycle.model_spec(self._store, run.model)
        with telemetry.span("registry gates", model=run.model, run=run.candidate.run_id, loop_id=run.loop_id):
            findings = await self._judge(spec, run.candidate)
            async with self._store.begin() as unit:
                if not await unit.first_sight(run.id):
                    return
                await self._admit(unit, run, spec, findings)

    async def note_cancelled(self, run: CancelledRun) -> None:
        """Append to the audit log that a run was cancelled, once; the trainer has ended it already."""
        async with self._store.begin() as unit:
            if await unit.first_sight(run.id):
                await unit.record(
                    Entry(
                        f"Model/{run.model}",
                        "run_cancelled",
                        run.actor,
                        run.reason or f"run {run.run_id} was cancelled",
                        run.at_ms,
                        {"run_id": run.run_id} | ({"loop_id": run.loop_id} if run.loop_id else {}),
                    )
                )

    async def _judge(self, spec: specs.ModelSpec, candidate: Candidate) -> Findings:
        if not spec.gates and not candidate.document.get("tests"):
            return Findings()
        try:
            content = await self._fetch(candidate.evaluation)
            judge = partial(
                evaluation.judge,
                spec,
                content,
                champion=candidate.champion_version,
                candidate=candidate.document,
            )
            return Findings(tuple(await asyncio.to_thread(judge)))
        except Rejected as error:
            return Findings(fault=str(error))

    async def _admit(self, unit: Unit, run: FinishedRun, spec: specs.ModelSpec, findings: Findings) -> None:
        standing, now = await unit.lock(run.model), self._clock.now_ms()
        refusal = _refusal(findings) or staleness(spec, standing, run.candidate)
        stage, approval, checks = Stage.ACCEPTED, None, None
        if refusal:
            stage = Stage.REFUSED
        else:
            if spec.rollout.approval != "auto":
                stage, approval = Stage.AWAITING_APPROVAL, _asked(spec.rollout.approval, now)
            if spec.rollout.checks is not None:
                stage, checks = Stage.AWAITING_CHECKS, _expected(spec.rollout.checks, now)
        version = await unit.add_version(
            run, stage, findings.gates, traceparent=telemetry.traceparent(), at_ms=now, approval=approval,
            checks=checks,
        )  # fmt: skip
        passed = f"it passed all {len(findings.gates)} gates" if findings.gates else "it has no gates to pass"
        if stage is Stage.ACCEPTED:
            await lifecycle.begin(
                unit, standing, version, spec.rollout.strategy, spec.rollout.ladder,
                actor=REGISTRY, sentence=passed, at_ms=now,
            )  # fmt: skip
            return
        waits = f"checks: {', '.join(checks.required)}" if checks else "a person to approve or reject it"
        sentence = refusal or f"{passed} and waits for {waits}"
        await lifecycle.set_stage(unit, standing, version, stage, sentence, actor=REGISTRY, at_ms=now)


def _asked(approval: specs.ApprovalSpec | str, now_ms: int) -> Approval:
    """Return what a candidate waits for that comes now."""
    if not isinstance(approval, specs.ApprovalSpec):
        return Approval()
    until_ms = None if approval.expires is None else now_ms + approval.expires
    return Approval(approval.by, approval.approvers, approval.comment, until_ms)


def _expected(checks: specs.ChecksSpec, now_ms: int) -> Checks:
    """Return the checks that a candidate waits for that comes now."""
    until_ms = None if checks.expires is None else now_ms + checks.expires
    return Checks(checks.required, checks.by, until_ms)


def _refusal(findings: Findings) -> str:
    """Return why the gates refuse a candidate, or nothing."""
    if findings.fault:
        return findings.fault
    refused = gating.failed(findings.gates)
    if not refused:
        return ""
    return f"{len(refused)} of {len(findings.gates)} gates refused it: " + " ".join(
        gate.sentence for gate in refused
    )


def staleness(spec: specs.ModelSpec, standing: Standing, candidate: Candidate) -> str:
    """Return why a candidate's comparison says nothing about today's champion, or nothing."""
    beside, champion = candidate.champion_version, standing.champion or 0
    comparisons = [gating.name_of(gate) for gate in spec.gates if gating.is_comparison(gate)]
    if beside == champion or not comparisons:
        return ""
    then = f"version {beside}" if beside else "no champion"
    now = f"version {champion} is the champion" if champion else "there is no champion"
    return (
        f"it was evaluated beside {then} and {now} now, so {', '.join(comparisons)} says nothing: train again"
    )
