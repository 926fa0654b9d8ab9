"""What the rows of the registry's tables say."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import asyncpg
from trimtab_core.gating import Gate
from trimtab_runtime.clock import from_datetime, to_datetime

from trimtab_registry import messages
from trimtab_registry.usecases.entities import (
    Applied,
    Approval,
    Check,
    Checks,
    Entry,
    Given,
    Listed,
    Stage,
    Tag,
    Version,
)
from trimtab_registry.usecases.rollouts import Arm, Phase, Rollout, Standing


def applied(row: asyncpg.Record) -> Applied:
    """Return a generation of a spec."""
    return Applied(
        kind=row["kind"],
        name=row["name"],
        generation=row["generation"],
        document=json.loads(row["document"]),
        digest=row["digest"],
        applied_by=row["applied_by"],
        applied_at_ms=from_datetime(row["applied_at"]),
        deleted=row["deleted"],
    )


def tag(row: asyncpg.Record) -> Tag:
    """Return a tag, with the dataset that it names."""
    return Tag(
        name=row["name"],
        run_id=row["run_id"],
        model=row["model"],
        digest=row["digest"],
        tagged_by=row["tagged_by"],
        tagged_at_ms=from_datetime(row["tagged_at"]),
    )


def entry(row: asyncpg.Record) -> Entry:
    """Return a line of the audit log."""
    return Entry(
        resource=row["resource"],
        action=row["action"],
        actor=row["actor"],
        reason=row["reason"],
        at_ms=from_datetime(row["at"]),
        details=json.loads(row["details"]),
        sequence=row["sequence"],
        previous=row["previous"],
        hash=row["hash"],
    )


def of_entry(entry: Entry) -> tuple[Any, ...]:
    """Return the row of a line of the audit log."""
    return (
        entry.sequence,
        entry.resource,
        entry.action,
        entry.actor,
        entry.reason,
        json.dumps(entry.details),
        to_datetime(entry.at_ms),
        entry.previous,
        entry.hash,
    )


def standing(row: asyncpg.Record) -> Standing:
    """Return where a model stands, from its row beside that of its last rollout."""
    rollout = None
    if row["rollout"] is not None:
        rollout = Rollout(
            id=row["rollout"],
            challenger=row["challenger"],
            strategy=row["strategy"],
            steps=tuple(row["steps"]),
            opened_at_ms=from_datetime(row["opened_at"]),
            loop_id=row["rollout_loop_id"],
            traceparent=row["traceparent"],
            phase=Phase(row["phase"]),
            step=row["step"],
            generation=row["step_generation"],
            arms=tuple(Arm(**arm) for arm in json.loads(row["arms"])),
        )
    return Standing(
        model=row["name"],
        generation=row["generation"],
        champion=row["champion"],
        previous=row["previous"],
        live=row["live"],
        rollout=rollout,
        loop_id=row["loop_id"],
        changed_at_ms=from_datetime(row["changed_at"]),
    )


def version(row: asyncpg.Record) -> Version:
    """Return a version, from its row and a time for which it was live."""
    return Version(
        model=row["model"],
        number=row["number"],
        stage=Stage(row["stage"]),
        candidate=messages.read_candidate(json.loads(row["candidate"])),
        gates=tuple(Gate(**gate) for gate in json.loads(row["gates"])),
        loop_id=row["loop_id"],
        traceparent=row["traceparent"],
        as_of_ms=from_datetime(row["as_of"]),
        created_at_ms=from_datetime(row["created_at"]),
        live_from_ms=from_datetime(row["live_from"]) if row["live_from"] else None,
        live_to_ms=from_datetime(row["live_to"]) if row["live_to"] else None,
        approval=_approval(json.loads(row["approval"])) if row["approval"] else None,
        aliases=tuple(row["aliases"]),
        tags=json.loads(row["tags"]),
        let_go_ms=from_datetime(row["let_go_at"]) if row["let_go_at"] else None,
        files_gone_ms=from_datetime(row["files_gone_at"]) if row["files_gone_at"] else None,
        checks=_checks(json.loads(row["checks"])) if row["checks"] else None,
    )


def listed(row: asyncpg.Record) -> Listed:
    """Return a model in a list."""
    waiting = json.loads(row["waiting"]) if row["waiting"] else {}
    return Listed(
        name=row["name"],
        generation=row["generation"],
        applied_by=row["applied_by"],
        champion=row["champion"],
        challenger=row["challenger"],
        waiting={int(number): _approval(held) for number, held in waiting.items()},
    )


def of_arms(arms: Sequence[Arm]) -> str:
    """Return the column of the versions in an A/B test."""
    return json.dumps([asdict(arm) for arm in arms])


def of_approval(approval: Approval | None) -> str | None:
    """Return the column of what a version waits for."""
    return json.dumps(asdict(approval)) if approval else None


def of_checks(checks: Checks | None) -> str | None:
    """Return the column of what was posted of a version, and what it waits for."""
    return json.dumps(asdict(checks)) if checks else None


def _checks(held: dict[str, Any]) -> Checks:
    posted = tuple(Check(**{**each, "roles": tuple(each["roles"])}) for each in held["posted"])
    return Checks(**{**held, "required": tuple(held["required"]), "by": tuple(held["by"]), "posted": posted})


def _approval(held: dict[str, Any]) -> Approval:
    given = tuple(Given(**each) for each in held.get("given", ()))
    return Approval(**{**held, "by": tuple(held.get("by", ())), "given": given})
