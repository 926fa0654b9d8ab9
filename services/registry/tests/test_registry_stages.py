"""One table says what may become of a version, and no order of events, on either store, gets past it."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import VersionEvent
from trimtab_registry.store import PostgresStore
from trimtab_registry.testing import Harness
from trimtab_registry.testing.harness import DAY_MS, MODEL
from trimtab_registry.usecases.entities import AuditQuery, Stage
from trimtab_registry.usecases.rollouts import Standing
from trimtab_registry.usecases.stages import BORN, STAGES, IllegalStage, check
from trimtab_runtime.errors import Conflict, Rejected
from trimtab_runtime.postgres import open_pool

NUMBER = st.integers(1, 4)
EVENTS = st.one_of(
    st.tuples(st.just("run"), st.sampled_from(["good", "stale"])),
    st.tuples(st.sampled_from(["approve", "reject", "promote", "retire", "alias", "unalias", "pin", "unpin"]), NUMBER),
    st.tuples(st.sampled_from(["rollback", "withdraw", "serve", "sweep", "expire"]), st.just(0)),
    st.tuples(st.sampled_from(["passed", "failed"]), NUMBER),
    st.tuples(st.just("broken"), NUMBER),
    st.tuples(st.just("verdict"), st.sampled_from(["ADVANCE", "PROMOTE", "ROLL_BACK", "UNDECIDED"])),
)  # fmt: skip
GATES = [{"metric": "mae", "versus": "champion"}]
LATER: tuple[dict[str, Any], ...] = (
    {"strategy": "shadow"},
    {"strategy": "shadow", "checks": ["smoke"]},
    {"strategy": "canary", "steps": [10, 100], "checks": ["smoke"], "approval": "manual"},
)
"""The rollouts that models come to have as their runs go on."""
WAIT_OR_ARE_OVER = (Stage.RETIRED, Stage.REJECTED, Stage.AWAITING_CHECKS, Stage.AWAITING_APPROVAL)


def test_every_stage_has_its_line_and_all_but_the_last_lead_on() -> None:
    assert set(STAGES) == set(Stage)
    assert [stage for stage in Stage if not STAGES[stage]] == [Stage.RETIRED]
    reached = set(BORN).union(*STAGES.values())
    assert reached == set(Stage)


def test_what_the_table_does_not_list_is_refused() -> None:
    with pytest.raises(IllegalStage, match="version 3 of 'minutes' cannot go from RETIRED to LIVE"):
        check("minutes", 3, Stage.RETIRED, Stage.LIVE)
    with pytest.raises(IllegalStage):
        check("minutes", 3, Stage.AWAITING_APPROVAL, Stage.LIVE)
    check("minutes", 3, Stage.REFUSED, Stage.REFUSED)  # as it comes


async def happen(registry: Harness, what: str, how: Any, count: int) -> None:
    """Let one event happen; that it is refused is as good as that it is not."""
    standing = await registry.standing()
    by: dict[str, str] = {"actor": "ann", "comment": "why not"}
    try:
        match what:
            case "run":
                beside = (standing.champion or 0) if how == "good" else 99
                await registry.consider(f"run-{count}", champion=beside)
            case "approve":
                await registry.approvals.approve(MODEL, how, **by)
            case "reject":
                await registry.approvals.reject(MODEL, how, **by)
            case "passed" | "failed":
                await registry.checks.post(MODEL, how, "smoke", passed=what == "passed", **by)
            case "promote":
                await registry.decisions.promote(MODEL, how, **by)
            case "retire":
                await registry.decisions.retire(MODEL, how, **by)
            case "alias":
                await registry.names.alias(MODEL, "stable", how, **by)
            case "unalias":
                await registry.names.alias(MODEL, "stable", 0, **by)
            case "pin":
                await registry.names.tag(MODEL, how, {"pin": "kept"}, [], **by)
            case "unpin":
                await registry.names.tag(MODEL, how, {}, ["pin"], **by)
            case "rollback":
                await registry.decisions.roll_back(MODEL, **by)
            case "withdraw":
                await registry.decisions.withdraw(MODEL, **by)
            case "serve":
                await registry.serve()
            case "broken":
                await registry.report(errors={how: "it is no model"})
            case "verdict":
                await registry.verdict(how)
            case "sweep":
                registry.clock.advance(2 * DAY_MS)
                await registry.collector.sweep()
            case "expire":
                registry.clock.advance(DAY_MS)
                await registry.approvals.expire()
    except (Rejected, Conflict):
        return


async def holds(registry: Harness, before: Standing, what: str) -> None:
    """Check what is true whatever has happened."""
    standing, versions = await registry.standing(), await registry.store.versions(MODEL)
    stages = {version.number: version.stage for version in versions}
    wanted = [n for n in (standing.champion, standing.challenger, standing.previous) if n is not None]
    assert len(wanted) == len(set(wanted))
    if before.champion is not None and what != "withdraw":
        assert standing.champion is not None, "once there is a champion there is one"
    for number in wanted:
        assert stages[number] not in WAIT_OR_ARE_OVER
        assert versions[number - 1].files_gone_ms is None, "what serves, or may at once, has its files"
    live = [version.number for version in versions if version.live_from_ms and version.live_to_ms is None]
    assert live == ([] if standing.live is None else [standing.live])
    named = [version for version in versions if "stable" in version.aliases]
    assert len(named) <= 1 and all(version.stage is not Stage.RETIRED for version in named)
    assert all(version.files_gone_ms is None for version in named)


async def play(registry: Harness, events: Sequence[tuple[str, Any]]) -> None:
    await registry.apply(
        gates=GATES, rollout={"strategy": "canary", "steps": [10, 100], "approval": "manual"}
    )
    for count, (what, how) in enumerate(events):
        before = await registry.standing()
        if what == "run" and how == "good" and count % 2:
            await registry.apply(gates=GATES, rollout=LATER[count // 2 % len(LATER)])
        await happen(registry, what, how, count)
        await holds(registry, before, what)


def follows_the_table(told: Sequence[VersionEvent]) -> None:
    at: dict[int, Stage] = {}
    for event in told:
        stage = Stage(VersionEvent.Stage.Name(event.stage))
        assert stage in (STAGES[at[event.number]] if event.number in at else BORN), event
        at[event.number] = stage


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(EVENTS, min_size=5, max_size=30))
def test_in_any_order_of_events_one_champion_serves_and_every_stage_follows_the_table(
    events: list[tuple[str, Any]],
) -> None:
    registry = Harness()
    asyncio.run(play(registry, events))
    follows_the_table(registry.events())
    entries = [entry.action for entry in registry.audited()]
    for event in registry.events():
        assert VersionEvent.Stage.Name(event.stage).lower() in entries


@asynccontextmanager
async def on_postgres(dsn: str) -> AsyncIterator[tuple[Harness, Any]]:
    async with open_pool(dsn, f"registry_{uuid.uuid4().hex[:8]}", package="trimtab_registry") as pool:
        yield Harness(store=PostgresStore(pool)), pool


def untraced(standing: Standing) -> Standing:
    """Return a standing without the trace that it was made in, which is of one time."""
    rollout = standing.rollout
    return replace(standing, rollout=replace(rollout, traceparent=None) if rollout else None)


@pytest.mark.real
@settings(max_examples=2, suppress_health_check=[HealthCheck.too_slow])
@given(events=st.lists(EVENTS, min_size=20, max_size=30))
def test_on_postgres_the_same_events_come_to_the_same(
    events: list[tuple[str, Any]], postgres_dsn: str
) -> None:
    async def both() -> None:
        memory = Harness()
        await play(memory, events)
        async with on_postgres(postgres_dsn) as (real, pool):
            await play(real, events)
            told = await pool.fetch("SELECT value FROM outbox WHERE topic = 'versions' ORDER BY sequence")
            follows_the_table([topics.VERSIONS.decode(row["value"]) for row in told])
            assert untraced(await real.standing()) == untraced(await memory.standing())
            left, right = [await each.store.versions(MODEL) for each in (real, memory)]
            assert [replace(each, traceparent=None) for each in left] == [
                replace(each, traceparent=None) for each in right
            ]
            query = AuditQuery(resource=f"Model/{MODEL}", limit=1_000)
            assert [(e.action, e.reason) for e in await real.store.audit(query)] == [
                (e.action, e.reason) for e in await memory.store.audit(query)
            ]

    asyncio.run(both())
