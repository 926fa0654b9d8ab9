"""The contract that both stores keep: all or nothing, in order, one at a time for each model."""

import asyncio
import json
import random
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from importlib import resources
from typing import Any, Protocol

import asyncpg
import pytest
from trimtab_contracts import topics
from trimtab_core.auditchain import Chain
from trimtab_core.gating import Gate
from trimtab_registry.errors import NotNow
from trimtab_registry.formats import schema_faults
from trimtab_registry.store import PostgresStore
from trimtab_registry.testing import Harness, MemoryStore, a_run, documents
from trimtab_registry.usecases import checks
from trimtab_registry.usecases.applying import Specs
from trimtab_registry.usecases.approvals import Approvals
from trimtab_registry.usecases.decisions import Decisions
from trimtab_registry.usecases.entities import (
    Applied,
    Approval,
    AuditQuery,
    Check,
    Checks,
    Entry,
    FinishedRun,
    Listed,
    Stage,
    StageChange,
    Tag,
    Version,
)
from trimtab_registry.usecases.externals import ExternalChecks
from trimtab_registry.usecases.ports import Need, Store, Unit
from trimtab_registry.usecases.roles import Roles
from trimtab_registry.usecases.rollouts import Move, Standing
from trimtab_runtime.clock import ManualClock, to_datetime
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.postgres import open_pool
from trimtab_runtime.records import Outgoing

GATE = Gate("mae at most 6", True, 2.5, 6.0, None, 3.0, "2.5 is at most 6.")


class Told(Protocol):
    """Reads the outbox."""

    async def __call__(self) -> Sequence[str]: ...


@pytest.fixture
async def pool(postgres_dsn: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_pool(
        postgres_dsn, f"registry_{uuid.uuid4().hex[:8]}", package="trimtab_registry"
    ) as pool:
        yield pool


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.real)])
def store(request: pytest.FixtureRequest) -> Store:
    return MemoryStore() if request.param == "memory" else PostgresStore(request.getfixturevalue("pool"))


async def news(store: Store) -> list[tuple[str, str]]:
    """Return topic and key of what is in the outbox, in order."""
    if isinstance(store, MemoryStore):
        return [_place(sent) for sent in store.outbox]
    assert isinstance(store, PostgresStore)
    rows = await store._pool.fetch("SELECT topic, key FROM outbox ORDER BY sequence")
    return [(row["topic"], row["key"].decode()) for row in rows]


def _place(sent: Outgoing) -> tuple[str, str]:
    return sent.topic, (sent.key or b"").decode()


def applied(generation: int = 1, name: str = "pickups") -> Applied:
    document = documents()[0]
    return Applied("Source", name, generation, document, checks.digest(document), "ann", 1_000 * generation)


async def add(unit: Unit, name: str, stage: Stage = Stage.ACCEPTED) -> Version:
    return await unit.add_version(a_run(name), stage, [GATE], traceparent="00-ab-cd-01", at_ms=7_000)


async def begin(unit: Unit, standing: Standing, number: int) -> Standing:
    standing = standing.begin(
        number,
        "canary",
        (10, 100),
        opened_at_ms=5,
        loop_id=f"loop-{number}",
        traceparent="00-ab-cd-01",
        at_ms=8_000,
    )
    await unit.save(standing)
    return standing


async def test_a_tag_is_kept_moved_and_forgotten(store: Store) -> None:
    gold = Tag("gold", "one", "minutes", "", "ann", 9_000)
    async with store.begin() as unit:
        await unit.lock("minutes")
        for name in ("one", "two"):
            await add(unit, name)
        await unit.put_tag(gold)
        assert await unit.tags() == {"gold": gold}
        found = await unit.version_of_run("two")
        assert (found and found.number, await unit.version_of_run("none")) == (2, None)
    assert await store.tags() == [gold]

    moved = replace(gold, run_id="two", tagged_by="bob", tagged_at_ms=9_500)
    async with store.begin() as unit:
        await unit.put_tag(moved)
    assert await store.tags() == [moved]

    async with store.begin() as unit:
        await unit.remove_tag("gold")
    assert await store.tags() == []


async def test_a_spec_is_read_back_in_its_newest_generation(store: Store) -> None:
    async with store.begin() as unit:
        await unit.put(applied())
        await unit.put(applied(name="dropoffs"))
    async with store.begin() as unit:
        await unit.put(applied(2))
        assert await unit.applied() == {
            "Source/dropoffs": applied(name="dropoffs"),
            "Source/pickups": applied(2),
        }

    assert await store.resource("Source", "pickups") == applied(2)
    assert await store.resource("Source", "nobody") is None
    assert [held.name for held in await store.resources("Source")] == ["dropoffs", "pickups"]
    assert await store.resources("Model") == []
    assert await news(store) == [("specs", f"Source/{name}") for name in ("pickups", "dropoffs", "pickups")]


async def test_a_version_is_read_back_as_it_was_added(store: Store) -> None:
    async with store.begin() as unit:
        await unit.lock("minutes")
        first, second = await add(unit, "first"), await add(unit, "second", Stage.REFUSED)
        assert await unit.version("minutes", 2) == second

    assert (first.number, second.number) == (1, 2)
    assert list(await store.versions("minutes")) == [first, second]
    assert await store.version("minutes", 1) == first
    assert await store.version("minutes", 3) is None
    assert await store.version("hours", 1) is None
    assert first.gates == (GATE,)


async def test_a_stage_is_kept_and_told(store: Store) -> None:
    async with store.begin() as unit:
        await unit.lock("minutes")
        version = await add(unit, "first")
        await unit.set_stage(StageChange(version, Stage.REFUSED, "no", "registry", 9_000, 0))

    assert [held.stage for held in await store.versions("minutes")] == [Stage.REFUSED]
    assert await news(store) == [("versions", "minutes")]


async def test_where_a_model_stands_is_read_back_whole(store: Store) -> None:
    async with store.begin() as unit:
        standing = await unit.lock("minutes")
        assert standing == Standing("minutes")
        await add(unit, "first")
        await add(unit, "second")
        standing = (await begin(unit, standing, 1)).move(Move.WARM, 9_000).confirm()
        await unit.save(standing)
        standing = (await begin(unit, standing, 2)).move(Move.WARM, 9_100)
        await unit.save(standing)

    assert standing.trial is not None
    assert await store.standing("minutes") == standing
    assert await store.standings() == [standing]
    assert await store.standing("nobody") == Standing("nobody")


async def test_a_rollout_whose_challenger_changes_is_read_back_in_the_loop_of_the_new_one(
    store: Store,
) -> None:
    async with store.begin() as unit:
        await add(unit, "first")
        standing = await begin(unit, await unit.lock("minutes"), 1)
        assert standing.rollout is not None
        other = replace(standing.rollout, loop_id="loop-other", traceparent="00-ef-gh-01")
        await unit.save(replace(standing, rollout=other))

    assert (await store.standing("minutes")).rollout == other


async def test_a_deployment_is_told_only_when_its_generation_rises(store: Store) -> None:
    async with store.begin() as unit:
        await add(unit, "first")
        standing = await begin(unit, await unit.lock("minutes"), 1)
        await unit.save(standing)
    assert await news(store) == [("deployments", "minutes")]
    async with store.begin() as unit:
        standing = (await unit.lock("minutes")).move(Move.WARM, 9_000)
        await unit.save(standing)
        await unit.save(standing.confirm())
    assert await news(store) == [("deployments", "minutes")] * 2
    async with store.begin() as unit:
        await unit.announce(await unit.lock("minutes"))
    assert await news(store) == [("deployments", "minutes")] * 3


async def test_a_unit_that_fails_leaves_nothing(store: Store) -> None:
    async def fail() -> None:
        async with store.begin() as unit:
            assert await unit.first_sight("run")
            await unit.put(applied())
            standing = await unit.lock("minutes")
            await add(unit, "first")
            await begin(unit, standing, 1)
            await unit.go_live("minutes", 1, 1_000)
            await unit.record(Entry("Model/minutes", "x", "ann", "", 1))
            raise Unavailable("it went away")

    with pytest.raises(Unavailable):
        await fail()

    assert not await store.resources()
    assert not await store.versions("minutes")
    assert await store.standings() == []
    assert not await store.audit(AuditQuery())
    assert await news(store) == []
    async with store.begin() as unit:
        assert await unit.first_sight("run")


async def test_an_id_is_new_once(store: Store) -> None:
    async with store.begin() as unit:
        assert await unit.first_sight("a")
    async with store.begin() as unit:
        assert not await unit.first_sight("a")
        assert await unit.first_sight("b")


async def test_what_was_live_at_a_time_is_known_for_ever(store: Store) -> None:
    async with store.begin() as unit:
        await unit.lock("minutes")
        await add(unit, "first")
        await add(unit, "second")
        await unit.go_live("minutes", 1, 1_000)
        await unit.go_live("minutes", 2, 2_000)
        await unit.go_live("minutes", 1, 3_000)

    async def live_at(ms: int) -> list[tuple[int, int | None, int | None]]:
        found = await store.versions("minutes", ms)
        return [(held.number, held.live_from_ms, held.live_to_ms) for held in found]

    assert await live_at(999) == []
    assert await live_at(1_000) == [(1, 1_000, 2_000)]
    assert await live_at(2_000) == [(2, 2_000, 3_000)]
    assert await live_at(9_000) == [(1, 3_000, None)]
    assert [(held.live_from_ms, held.live_to_ms) for held in await store.versions("minutes")] == [
        (3_000, None), (2_000, 3_000),
    ]  # fmt: skip


async def test_the_audit_log_is_read_newest_first(store: Store) -> None:
    entries = [
        Entry(f"Model/{name}", f"action-{name}", "ann", "because", at, {"n": 1})
        for at, name in enumerate("aba", 5)
    ]
    async with store.begin() as unit:
        for entry in entries:
            await unit.record(entry)

    found = await store.audit(AuditQuery())
    assert [replace(entry, sequence=0, previous="", hash="") for entry in found] == entries[::-1]
    assert [entry.sequence for entry in found] == sorted((entry.sequence for entry in found), reverse=True)
    assert [entry.at_ms for entry in await store.audit(AuditQuery(resource="Model/a"))] == [7, 5]
    assert len(await store.audit(AuditQuery(limit=1))) == 1
    assert [entry.at_ms for entry in await store.audit(AuditQuery(since_ms=6, until_ms=7))] == [6]
    assert [entry.at_ms for entry in await store.audit(AuditQuery(action="action-b", actor="ann"))] == [6]
    assert not await store.audit(AuditQuery(actor="bob"))
    assert await news(store) == [("audit", entry.resource) for entry in entries]


async def test_concurrent_promotions_leave_one_champion(store: Store) -> None:
    async def provide(_: Sequence[Need]) -> None: ...

    clock = ManualClock(20_000)
    await Specs(store, provide, schema_faults, clock, Roles()).apply(documents(), "ann")
    async with store.begin() as unit:
        standing = await unit.lock("minutes")
        for number in range(1, 5):
            await add(unit, f"run-{number}", Stage.REFUSED)
        await unit.save((await begin(unit, standing, 1)).move(Move.WARM, 9_000))
    decisions = Decisions(store, clock, Roles())

    async def promote(number: int) -> None:
        await decisions.promote("minutes", number, actor="ann", comment="race")

    outcomes = await asyncio.gather(*map(promote, [2, 3, 4] * 4), return_exceptions=True)

    assert all(outcome is None or isinstance(outcome, NotNow) for outcome in outcomes)
    standing = await store.standing("minutes")
    assert (standing.champion, standing.challenger in (2, 3, 4)) == (1, True)
    stages = [held.stage for held in await store.versions("minutes")]
    assert stages.count(Stage.ACCEPTED) == 1, "every other challenger gave way"
    begun = sum(outcome is None for outcome in outcomes)
    assert standing.generation == 2 + 2 * begun - 1, "each change raised the generation once: none was lost"


async def test_a_test_of_several_versions_is_kept_arm_by_arm_through_verdicts_at_once(store: Store) -> None:
    harness = Harness(store=store)
    await harness.apply()
    async with store.begin() as unit:
        standing = await unit.lock("minutes")
        for number in range(1, 5):
            await add(unit, f"run-{number}", Stage.ACCEPTED if number == 1 else Stage.REFUSED)
        await unit.save((await begin(unit, standing, 1)).move(Move.WARM, 9_000))
    begun = await harness.contests.begin("minutes", [2, 3, 4], [30, 20, 10], actor="ann", comment="race")
    assert await store.standing("minutes") == begun
    await harness.serve()

    at = await store.standing("minutes")
    assert at.trial is not None
    told = {"rollout_id": at.trial.id, "step": 0, "generation": at.trial.generation}
    await asyncio.gather(
        *(harness.verdict("ROLL_BACK", challenger=number, **told) for number in (2, 3, 4)),
        harness.verdict("PROMOTE", challenger=4, **told),
    )

    standing = await store.standing("minutes")
    if standing.trial is not None:
        assert sum(arm.left for arm in standing.trial.arms) == standing.trial.step == 1
        (left,) = [arm.number for arm in standing.trial.arms if arm.left]
        assert standing.challengers == tuple(number for number in (2, 3, 4) if number != left)
        await harness.verdict("PROMOTE", challenger=standing.challengers[-1])
    standing = await store.standing("minutes")
    assert standing.champion in (3, 4) and standing.rollout is not None
    assert (standing.rollout.challenger, standing.previous) == (standing.champion, 1)
    stages = [held.stage for held in await store.versions("minutes")]
    assert stages.count(Stage.ROLLED_BACK) == 2, "one verdict of a step was taken, the others were stale"


async def waiting(store: Store, *, approvers: int) -> Approvals:
    """Have version 1 wait for `approvers` of ann, bob and carl until 30 s, and return what takes their word."""

    async def provide(_: Sequence[Need]) -> None: ...

    clock, roles = ManualClock(20_000), Roles.parse("risk:ann,bob;ml:carl")
    await Specs(store, provide, schema_faults, clock, roles).apply(documents(), "ann")
    async with store.begin() as unit:
        await unit.lock("minutes")
        asked = Approval(("risk", "ml"), approvers, until_ms=30_000)
        version = await unit.add_version(
            a_run("first"), Stage.AWAITING_APPROVAL, [], traceparent=None, at_ms=7_000, approval=asked
        )
    assert await store.version("minutes", 1) == version
    return Approvals(store, clock, roles)


async def outcome(store: Store) -> tuple[Stage, list[str], bool]:
    """Return how far version 1 is, what was done to it, and whether serving is told to load it."""
    version = await store.version("minutes", 1)
    assert version is not None
    done = [e.action for e in await store.audit(AuditQuery(resource="Model/minutes"))][::-1][1:]
    return version.stage, done, (await store.standing("minutes")).challenger == 1


async def test_approvers_at_once_let_a_version_on_once(store: Store) -> None:
    approvals = await waiting(store, approvers=2)

    async def approve(actor: str) -> None:
        await approvals.approve("minutes", 1, actor=actor, comment="")

    said = await asyncio.gather(*map(approve, ["ann", "bob", "carl"] * 3), return_exceptions=True)

    assert sum(each is None for each in said) == 2
    assert all(each is None or isinstance(each, NotNow) for each in said)
    assert await outcome(store) == (Stage.ACCEPTED, ["approved", "approved", "accepted"], True)


async def test_an_approval_a_rejection_and_the_end_of_the_time_at_once_have_one_outcome(store: Store) -> None:
    approvals = await waiting(store, approvers=1)
    late = Approvals(store, ManualClock(30_000), Roles())

    said = await asyncio.gather(
        approvals.approve("minutes", 1, actor="ann", comment=""),
        approvals.reject("minutes", 1, actor="bob", comment=""),
        late.expire(),
        approvals.approve("minutes", 1, actor="carl", comment=""),
        late.expire(),
        return_exceptions=True,
    )

    assert sum(isinstance(each, NotNow) for each in said) >= 2
    assert await outcome(store) in (
        (Stage.ACCEPTED, ["approved", "accepted"], True),
        (Stage.REJECTED, ["rejected"], False),
    )
    assert not await store.overdue(30_000)


async def checked(store: Store) -> ExternalChecks:
    """Have version 1 wait for two checks until 30 s, and return what takes them."""
    await waiting(store, approvers=1)
    async with store.begin() as unit:
        await unit.lock("minutes")
        asked = Checks(("smoke", "e2e"), until_ms=30_000)
        version = await unit.add_version(
            a_run("second"), Stage.AWAITING_CHECKS, [], traceparent=None, at_ms=7_000, checks=asked
        )
    assert await store.version("minutes", 2) == version
    return ExternalChecks(store, ManualClock(20_000), Roles.parse("ci:bot"))


async def test_what_was_posted_of_a_version_is_kept_with_who_posted_it(store: Store) -> None:
    checks = await checked(store)
    await checks.post("minutes", 2, "smoke", passed=True, actor="bot", comment="fine", url="https://ci/1")

    version = await store.version("minutes", 2)
    assert version is not None
    posted = Check("smoke", True, "bot", ("ci",), 20_000, "fine", "https://ci/1")
    assert version.checks == Checks(("smoke", "e2e"), until_ms=30_000, posted=(posted,))
    assert [held.number for held in await store.overdue(30_000)] == [1, 2]
    assert not await store.overdue(29_999)


async def test_checks_at_once_let_a_version_on_once_or_reject_it(store: Store) -> None:
    checks = await checked(store)

    async def post(name: str, passed: bool) -> None:
        await checks.post("minutes", 2, name, passed=passed, actor="bot")

    said = await asyncio.gather(
        post("smoke", True), post("e2e", True), post("e2e", False), post("smoke", True), return_exceptions=True
    )  # fmt: skip

    assert all(each is None or isinstance(each, NotNow) for each in said)
    version = await store.version("minutes", 2)
    assert version is not None
    assert version.stage in (Stage.REJECTED, Stage.ROLLED_BACK), "the failed one always wins in the end"
    assert (await store.standing("minutes")).challenger is None


@pytest.mark.real
@pytest.mark.parametrize("change", ["UPDATE audit SET actor = 'eve'", "DELETE FROM audit", "TRUNCATE audit"])
async def test_postgres_refuses_to_change_the_audit_log(pool: asyncpg.Pool, change: str) -> None:
    async with PostgresStore(pool).begin() as unit:
        await unit.record(Entry("Model/a", "x", "ann", "", 1))
    with pytest.raises(asyncpg.RaiseError, match="append-only"):
        await pool.execute(change)


@pytest.mark.real
async def test_postgres_itself_refuses_a_second_live_version(pool: asyncpg.Pool) -> None:
    async with PostgresStore(pool).begin() as unit:
        await unit.lock("minutes")
        await add(unit, "first")
    insert = "INSERT INTO reigns (model, number, live_from) VALUES ('minutes', 1, now())"
    await pool.execute(insert)
    with pytest.raises(asyncpg.UniqueViolationError):
        await pool.execute(insert)


def test_every_topic_that_is_told_names_the_registry_as_producer() -> None:
    told = {topics.SPECS, topics.DEPLOYMENTS, topics.VERSIONS, topics.AUDIT}
    by_the_runtime = {topics.DEADLETTER, topics.METRICS_QUALITY}
    assert told | by_the_runtime == {topic for topic in topics.ALL if "registry" in topic.producers}


async def chain_fault(store: Store) -> str:
    """Return the first entry of the audit log that does not fit, or nothing."""
    chain = Chain()
    async for page in store.read_audit():
        for entry in page:
            if fault := chain.take(entry.line, previous=entry.previous, hash=entry.hash):
                return fault
    return ""


async def some_entries(store: Store, *actors: str) -> None:
    async with store.begin() as unit:
        for actor in actors:
            await unit.record(Entry("Model/a", "x", actor, "", 1, {"n": 1}))


async def test_models_are_listed_by_name_with_what_serves_and_what_waits(store: Store) -> None:
    await waiting(store, approvers=2)
    async with store.begin() as unit:
        standing = await unit.lock("minutes")
        await add(unit, "second")
        standing = (await begin(unit, standing, 2)).move(Move.WARM, 9_100)
        await unit.save(standing)
        await add(unit, "third")
        await begin(unit, standing, 3)
        for name in ("hours", "minutes-x"):
            await unit.put(replace(applied(name=name), kind="Model"))
        await unit.put(replace(applied(2, name="hours"), kind="Model"))

    async def names(*asked: Any) -> list[str]:
        return [model.name for model in await store.models(*asked)]

    assert await names("", "", 9) == ["hours", "minutes", "minutes-x"]
    assert await names("minutes", "", 9) == ["minutes", "minutes-x"]
    assert await names("", "hours", 1) == ["minutes"]
    hours, minutes = await store.models("", "", 2)
    assert hours == Listed("hours", 2, "ann")
    assert (minutes.champion, minutes.challenger) == (2, 3)
    assert minutes.waiting == {1: Approval(("risk", "ml"), 2, until_ms=30_000)}


async def test_units_that_append_at_once_leave_one_whole_chain(store: Store) -> None:
    chance = random.Random(7)
    lost = 0

    async def append(number: int, count: int, fails: bool) -> None:
        nonlocal lost
        model = f"model-{number % 5}"
        try:
            async with store.begin() as unit:
                await unit.lock(model)
                for at in range(count):
                    details = {"share": chance.random(), "ünï": [number, None, -0.0, {"": True}]}
                    await unit.record(Entry(f"Model/{model}", "x", "ann", "because", 1_000 + at, details))
                if fails:
                    raise Unavailable("it went away")
        except Unavailable:
            lost += count

    counts = [chance.randrange(4) for _ in range(60)]
    await asyncio.gather(*[append(number, count, number % 7 == 0) for number, count in enumerate(counts)])

    assert await chain_fault(store) == ""
    log = [entry async for page in store.read_audit() for entry in page]
    assert [entry.sequence for entry in log] == list(range(1, sum(counts) - lost + 1)), "without a gap"
    assert await news(store) == [("audit", entry.resource) for entry in log], "and told in its order"


@pytest.mark.real
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE audit SET actor = 'eve' WHERE sequence = 2", "entry 2 is not what was recorded"),
        ("UPDATE audit SET details = '{\"n\": 2}' WHERE sequence = 2", "entry 2 is not what was recorded"),
        ("DELETE FROM audit WHERE sequence = 2", "entry 3 does not follow entry 1"),
        ("DELETE FROM audit WHERE sequence = 3", "entry 4 does not follow entry 2"),
        ("UPDATE audit SET sequence = sequence + 1 WHERE sequence = 3", "entry 4 is not what was recorded"),
    ],
)
async def test_a_change_behind_the_registrys_back_is_found(
    pool: asyncpg.Pool, change: str, said: str
) -> None:
    store = PostgresStore(pool)
    await some_entries(store, "ann", "bob", "carl")
    await pool.execute("ALTER TABLE audit DISABLE TRIGGER append_only")
    await pool.execute(change)
    await some_entries(store, *([] if "+ 1" in change else ["dora"]))

    assert (await chain_fault(store)).startswith(said)


@pytest.mark.real
async def test_what_an_older_registry_kept_is_chained_and_waits_on_as_it_is_brought_up_to_date(
    postgres_dsn: str,
) -> None:
    schema, first = f"registry_{uuid.uuid4().hex[:8]}", "0001_registry.sql"
    migrations = resources.files("trimtab_registry") / "migrations"
    details = {"evidence": 0.1, "rows": 200, "tiny": -5e-324, "é": ["a", None, False, {}], "e": {"😀": 1e300}}
    async with asyncpg.create_pool(postgres_dsn, min_size=1, server_settings={"search_path": schema}) as old:
        await old.execute(f"CREATE SCHEMA {schema}; CREATE TABLE migrations (name text PRIMARY KEY)")
        await old.execute((migrations / first).read_text())
        await old.execute("INSERT INTO migrations VALUES ($1)", first)
        for number in range(3):
            insert = "INSERT INTO audit (resource, action, actor, reason, details, at) VALUES ($1, 'x', 'ann', $2, $3, $4)"
            at = to_datetime(1_700_000_000_123 + number)
            await old.execute(insert, "Model/a", "naïve: 5:x", json.dumps({**details, "n": number}), at)
            await old.execute(
                "SELECT nextval(pg_get_serial_sequence('audit', 'sequence'))"
            )  # a gap, as of a failure

        await old.execute(
            "INSERT INTO versions (model, number, run_id, stage, candidate, gates, loop_id, as_of, created_at)"
            " VALUES ('a', 1, 'r', 'AWAITING_APPROVAL', '{}', '[]', '', now(), now())"
        )

    async with open_pool(postgres_dsn, schema, package="trimtab_registry") as pool:
        store = PostgresStore(pool)
        await some_entries(store, "bob")

        held = await store.version("a", 1)
        assert held is not None and held.approval == Approval(), "anybody may approve what waits already"

        assert await chain_fault(store) == ""
        assert [e.sequence async for page in store.read_audit() for e in page] == [1, 3, 5, 6]
        with pytest.raises(asyncpg.RaiseError, match="append-only"):
            await pool.execute("DELETE FROM audit")


async def test_aliases_tags_and_what_became_of_files_are_kept_and_taken_back(store: Store) -> None:
    async with store.begin() as unit:
        await unit.lock("minutes")
        version = await add(unit, "one")
        await add(unit, "two")
        await unit.set_names(replace(version, aliases=("calm", "stable"), tags={"city": "oslo"}))
        await unit.set_files(replace(version, let_go_ms=5_000))
        found = await unit.called("minutes", "stable")
        assert found and (found.number, found.aliases, dict(found.tags), found.let_go_ms) == (
            1, ("calm", "stable"), {"city": "oslo"}, 5_000,
        )  # fmt: skip
        assert await unit.called("minutes", "nobody") is None
        assert await unit.called("hours", "stable") is None

    async with store.begin() as unit:
        await unit.lock("minutes")
        held = await unit.version("minutes", 1)
        assert held == found
        await unit.set_names(replace(version, aliases=(), tags={}))
        await unit.set_files(replace(version, files_gone_ms=6_000))
    held = await store.version("minutes", 1)
    assert held and (held.aliases, dict(held.tags), held.let_go_ms, held.files_gone_ms) == (
        (),
        {},
        None,
        6_000,
    )


async def test_versions_with_files_are_those_that_came_before_a_time_or_were_let_go(store: Store) -> None:
    async def found(before_ms: int) -> list[int]:
        return [each.number async for page in store.with_files(before_ms) for each in page]

    async with store.begin() as unit:
        await unit.lock("minutes")
        one, two = await add(unit, "one"), await add(unit, "two")  # at 7,000
    assert (await found(7_000), await found(7_001)) == ([], [1, 2])
    async with store.begin() as unit:
        await unit.lock("minutes")
        await unit.set_files(replace(one, let_go_ms=9_000))
        await unit.set_files(replace(two, files_gone_ms=9_000))
    assert (await found(7_000), await found(7_001)) == ([1], [1])


async def test_digests_are_those_of_current_specs_and_of_versions_that_have_files(store: Store) -> None:
    a, b, c, d = (letter * 64 for letter in "abcd")

    def naming(digest: str) -> FinishedRun:
        run = a_run(digest[:1])
        named = {**run.candidate.document, "model": {"uri": f"/x/{digest}", "digest": digest}}
        return replace(run, candidate=replace(run.candidate, document=named))

    async with store.begin() as unit:
        await unit.lock("minutes")
        for digest in (a, b):
            made = await unit.add_version(naming(digest), Stage.REFUSED, [], traceparent=None, at_ms=1)
        await unit.put(replace(applied(), document={"wheel": c}))
        await unit.put(replace(applied(2), document={"wheel": d}))
    assert await store.digests(set()) == {a, b, d}
    assert await store.digests({("minutes", 1), ("hours", 2)}) == {b, d}
    async with store.begin() as unit:
        await unit.lock("minutes")
        await unit.set_files(replace(made, files_gone_ms=9_000))
        await unit.put(replace(applied(3), deleted=True))
    assert await store.digests(set()) == {a}


async def test_a_deleted_spec_is_a_tombstone_to_readers_and_stays_in_its_history(store: Store) -> None:
    async with store.begin() as unit:
        await unit.put(applied())
        await unit.put(replace(applied(2), deleted=True))
        assert await unit.applied() == {}
        assert await unit.last_generation("Source", "pickups") == 2
        assert await unit.last_generation("Source", "nobody") == 0
    assert await store.resource("Source", "pickups") is None
    assert await store.resources() == []
    assert [(held.generation, held.deleted) for held in await store.generations("Source", "pickups")] == [
        (1, False), (2, True),
    ]  # fmt: skip
    if isinstance(store, MemoryStore):
        values = [sent.value for sent in store.outbox]
    else:
        assert isinstance(store, PostgresStore)
        values = [
            row["value"] for row in await store._pool.fetch("SELECT value FROM outbox ORDER BY sequence")
        ]
    assert values[0] is not None and values[1] is None

    async with store.begin() as unit:
        await unit.put(applied(3))
    assert await store.resource("Source", "pickups") == applied(3)


async def test_a_deleted_model_is_listed_no_more_until_it_is_applied_again(store: Store) -> None:
    def model(name: str, generation: int, *, deleted: bool = False) -> Applied:
        return replace(applied(generation, name), kind="Model", deleted=deleted)

    async with store.begin() as unit:
        for name in ("a", "b", "c"):
            await unit.put(model(name, 1))
        await unit.put(model("a", 2, deleted=True))
        await unit.put(model("b", 2, deleted=True))
        await unit.put(model("b", 3))
    assert [(each.name, each.generation) for each in await store.models("", "", 2)] == [("b", 3), ("c", 1)]
