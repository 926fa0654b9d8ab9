"""PostgreSQL home of specs, versions, rollouts and the audit log.

Each method of a unit that changes something writes the news of it to the outbox in
the same transaction, so state and news are kept together or not at all. A model's row
is locked while it changes; all else about the model changes under that lock. The audit
log is one chain: its head is locked last, from the append to the commit.
"""

import json
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import asyncpg
from trimtab_core.gating import Gate
from trimtab_runtime import outbox, telemetry
from trimtab_runtime.clock import to_datetime
from trimtab_runtime.postgres import Connection, outages
from trimtab_runtime.records import Outgoing

from trimtab_registry import messages, news, rows
from trimtab_registry.usecases.entities import (
    Applied,
    Approval,
    AuditQuery,
    Checks,
    Entry,
    FinishedRun,
    Listed,
    Stage,
    StageChange,
    Tag,
    Version,
)
from trimtab_registry.usecases.rollouts import Standing

if TYPE_CHECKING:
    Database = asyncpg.Pool | Connection

_STANDING = """
SELECT m.*, r.challenger, r.strategy, r.steps, r.step, r.phase, r.generation AS step_generation, r.opened_at,
       r.loop_id AS rollout_loop_id, r.traceparent, r.arms
FROM models m LEFT JOIN rollouts r ON r.id = m.rollout
"""
_VERSION = """
SELECT v.*, l.live_from, l.live_to FROM versions v
LEFT JOIN LATERAL (
    SELECT live_from, live_to FROM reigns WHERE model = v.model AND number = v.number
    ORDER BY live_from DESC, live_to DESC NULLS FIRST LIMIT 1
) l ON true
"""
_LIVE_AT = """
SELECT v.*, l.live_from, l.live_to FROM reigns l JOIN versions v USING (model, number)
WHERE l.model = $1 AND l.live_from <= $2 AND (l.live_to IS NULL OR l.live_to > $2)
"""
_SAVE_MODEL = """
UPDATE models SET generation = $2, champion = $3, previous = $4, live = $5, loop_id = $6, changed_at = $7, rollout = $8
WHERE name = $1
"""
_SAVE_BOTH = f"""
WITH rollout AS (
    INSERT INTO rollouts (id, model, challenger, strategy, steps, step, phase, generation, opened_at, loop_id, traceparent,
                          arms)
    VALUES ($8, $1, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
    ON CONFLICT (id) DO UPDATE SET strategy = excluded.strategy, steps = excluded.steps, step = excluded.step,
                                   phase = excluded.phase, generation = excluded.generation,
                                   challenger = excluded.challenger, arms = excluded.arms,
                                   loop_id = excluded.loop_id, traceparent = excluded.traceparent
)
{_SAVE_MODEL}
"""

_OVERDUE = """
(v.stage = 'AWAITING_APPROVAL' AND (v.approval ->> 'until_ms')::bigint <= $1
 OR v.stage = 'AWAITING_CHECKS' AND (v.checks ->> 'until_ms')::bigint <= $1)
"""

_APPEND = """
WITH head AS (UPDATE audit_head SET sequence = $1, hash = $9)
INSERT INTO audit (sequence, resource, action, actor, reason, details, at, previous, hash)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""
_AUDIT = """
SELECT * FROM audit
WHERE $1 IN ('', resource) AND $2 IN ('', actor) AND $3 IN ('', action)
  AND ($4::timestamptz IS NULL OR at >= $4) AND ($5::timestamptz IS NULL OR at < $5)
ORDER BY sequence DESC LIMIT $6
"""
_MODELS = """
SELECT listed.*, m.champion, r.challenger, w.waiting FROM (
    SELECT DISTINCT ON (name) name, generation, applied_by FROM resources
    WHERE kind = 'Model' AND name > $2 AND starts_with(name, $1) AND NOT EXISTS (
        SELECT FROM resources gone WHERE gone.kind = 'Model' AND gone.name = resources.name AND gone.deleted
          AND NOT EXISTS (SELECT FROM resources again WHERE again.kind = 'Model' AND again.name = gone.name
                          AND again.generation > gone.generation)
    )
    ORDER BY name, generation DESC LIMIT $3
) listed
LEFT JOIN models m USING (name)
LEFT JOIN rollouts r ON r.id = m.rollout AND r.phase NOT IN ('promoted', 'dropped')
LEFT JOIN LATERAL (
    SELECT jsonb_object_agg(number, approval ORDER BY number) AS waiting FROM versions
    WHERE model = listed.name AND stage = 'AWAITING_APPROVAL'
) w ON true
ORDER BY listed.name
"""
_WITH_FILES = f"""
{_VERSION} WHERE v.files_gone_at IS NULL AND (v.created_at < $1 OR v.let_go_at IS NOT NULL)
  AND (v.model, v.number) > ($2, $3)
ORDER BY v.model, v.number LIMIT $4
"""
_DIGESTS = """
SELECT DISTINCT found[1] AS digest FROM (
    SELECT candidate::text AS text FROM versions v WHERE files_gone_at IS NULL AND NOT EXISTS (
        SELECT FROM unnest($1::text[], $2::bigint[]) AS besides (model, number)
        WHERE besides.model = v.model AND besides.number = v.number
    )
    UNION ALL
    SELECT document::text FROM (
        SELECT DISTINCT ON (kind, name) document, deleted FROM resources ORDER BY kind, name, generation DESC
    ) newest WHERE NOT deleted
) texts, regexp_matches(text, '[0-9a-f]{64}', 'g') AS found
"""
_PAGE = 500
"""Entries of the audit log that are read at a time."""

_TAGS = """
SELECT t.*, v.model, coalesce(v.candidate->>'dataset_digest', '') AS digest
FROM dataset_tags t JOIN versions v USING (run_id) ORDER BY t.name
"""


class _Reads:
    """What both the store and a unit can read."""

    def __init__(self, database: "Database") -> None:
        self._database = database

    async def version(self, model: str, number: int) -> Version | None:
        """Return a version."""
        row = await self._database.fetchrow(f"{_VERSION} WHERE v.model = $1 AND v.number = $2", model, number)
        return rows.version(row) if row else None

    async def numbered(self, model: str, numbers: Iterable[int]) -> Mapping[int, Version]:
        """Return those versions of a model that there are, by number."""
        found = await self._database.fetch(
            f"{_VERSION} WHERE v.model = $1 AND v.number = ANY($2)", model, list(numbers)
        )
        return {row["number"]: rows.version(row) for row in found}


class PostgresUnit(_Reads):
    """A transaction."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._connection = connection
        self._told: dict[str, int] = {}
        """The generation of each locked model that its news is at."""
        self._news: list[Outgoing] = []
        self._entries: list[tuple[Entry, str | None]] = []
        """What was recorded, and the trace that it was recorded in."""
        self._named: dict[str, set[int]] = {}
        """The versions that the deployment of each locked model held."""
        self._versions: dict[str, dict[int, Version]] = {}
        """What was read: while a model is locked, only the unit itself changes its versions."""

    async def finish(self) -> None:
        """Append what was recorded to the audit log, and leave all news in the outbox.

        The append comes last in the transaction: from there to the commit no other can append.
        """
        if self._entries:
            head = await self._connection.fetchrow("SELECT sequence, hash FROM audit_head FOR UPDATE")
            assert head is not None
            (sequence, previous), chained = head, list[Entry]()
            for recorded, traceparent in self._entries:
                entry = recorded.following(sequence, previous)
                sequence, previous = entry.sequence, entry.hash
                chained.append(entry)
                self._news.append(news.of_entry(entry, traceparent))
            await self._connection.executemany(_APPEND, map(rows.of_entry, chained))
        await outbox.put(self._connection, self._news)

    async def first_sight(self, id: str) -> bool:
        """Remember `id`; False if it was there before."""
        return await outbox.first_sight(self._connection, id)

    async def applied(self) -> Mapping[str, Applied]:
        """Return the current specs by kind/name, and keep others from applying until the unit ends."""
        await self._connection.execute("LOCK TABLE resources IN SHARE ROW EXCLUSIVE MODE")
        return {held.key: held for held in await _resources(self._connection)}

    async def version(self, model: str, number: int) -> Version | None:
        """Return a version."""
        return (await self.numbered(model, [number])).get(number)

    async def numbered(self, model: str, numbers: Iterable[int]) -> Mapping[int, Version]:
        """Return those versions of a model that there are, by number.

        With the first of them come those that the model's deployment held when it was locked: they are asked for next.
        """
        wanted, held = set(numbers), self._versions.setdefault(model, {})
        if wanted - held.keys():
            held |= await super().numbered(model, wanted | self._named.get(model, set()))
        return {number: held[number] for number in wanted & held.keys()}

    async def last_generation(self, kind: str, name: str) -> int:
        """Return the newest generation of a spec, whether or not it took it away; 0 if there never was one."""
        found = await self._connection.fetchval(
            "SELECT coalesce(max(generation), 0) FROM resources WHERE kind = $1 AND name = $2", kind, name
        )
        return int(found)

    async def put(self, applied: Applied) -> None:
        """Store a generation of a spec, and the news of it."""
        await self._connection.execute(
            "INSERT INTO resources VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            applied.kind,
            applied.name,
            applied.generation,
            json.dumps(applied.document),
            applied.digest,
            applied.applied_by,
            to_datetime(applied.applied_at_ms),
            applied.deleted,
        )
        await self.publish(applied)

    async def publish(self, applied: Applied) -> None:
        """Tell again of a spec."""
        self._news.append(news.of_spec(applied))

    async def lock(self, model: str) -> Standing:
        """Return where a model stands, and keep others from changing it until the unit ends."""
        lock = "SELECT name FROM models WHERE name = $1 FOR UPDATE"
        if await self._connection.fetchval(lock, model) is None:
            await self._connection.execute(
                "INSERT INTO models (name) VALUES ($1) ON CONFLICT DO NOTHING", model
            )
            await self._connection.execute(lock, model)
        # Read only now: a statement that waits for the lock joins what it saw before it waited.
        (row,) = await self._connection.fetch(f"{_STANDING} WHERE m.name = $1", model)
        standing = rows.standing(row)
        self._told[model], self._named[model] = standing.generation, messages.named_by(standing)
        return standing

    async def save(self, standing: Standing) -> None:
        """Store where a locked model stands, and the news of it if its generation has risen."""
        model = (
            standing.model, standing.generation, standing.champion, standing.previous, standing.live, standing.loop_id,
            to_datetime(standing.changed_at_ms),
        )  # fmt: skip
        if (rollout := standing.rollout) is None:
            await self._connection.execute(_SAVE_MODEL, *model, None)
        else:
            await self._connection.execute(
                _SAVE_BOTH, *model, rollout.id, rollout.challenger, rollout.strategy, rollout.steps, rollout.step,
                rollout.phase.value, rollout.generation, to_datetime(rollout.opened_at_ms), rollout.loop_id,
                rollout.traceparent, rows.of_arms(rollout.arms),
            )  # fmt: skip
        if standing.generation > self._told[standing.model]:
            self._told[standing.model] = standing.generation
            await self.announce(standing)

    async def announce(self, standing: Standing) -> None:
        """Tell again what is wanted of a model."""
        versions = await self.numbered(standing.model, messages.named_by(standing))
        self._news.append(news.of_deployment(standing, versions))

    async def add_version(
        self, run: FinishedRun, stage: Stage, gates: Sequence[Gate], *, traceparent: str | None, at_ms: int,
        approval: Approval | None = None, checks: Checks | None = None,
    ) -> Version:  # fmt: skip
        """Store a locked model's next version, and what it waits for."""
        number = await self._connection.fetchval(
            "INSERT INTO versions (model, number, run_id, stage, candidate, gates, loop_id, traceparent, as_of, created_at,"
            " approval, checks) SELECT $1, coalesce(max(number), 0) + 1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11"
            " FROM versions WHERE model = $1"
            " RETURNING number",
            run.model,
            run.candidate.run_id,
            stage.value,
            json.dumps(run.candidate.document),
            json.dumps([asdict(gate) for gate in gates]),
            run.loop_id,
            traceparent,
            to_datetime(run.as_of_ms),
            to_datetime(at_ms),
            rows.of_approval(approval),
            rows.of_checks(checks),
        )
        return Version(
            model=run.model, number=number, stage=stage, candidate=run.candidate, gates=tuple(gates),
            loop_id=run.loop_id, traceparent=traceparent, as_of_ms=run.as_of_ms, created_at_ms=at_ms,
            approval=approval, checks=checks,
        )  # fmt: skip

    async def version_of_run(self, run_id: str) -> Version | None:
        """Return the version that was made of a run."""
        place = await self._connection.fetchrow(
            "SELECT model, number FROM versions WHERE run_id = $1", run_id
        )
        return await self.version(place["model"], place["number"]) if place else None

    async def tags(self) -> Mapping[str, Tag]:
        """Return the tags by name, and keep others from changing them until the unit ends."""
        await self._connection.execute("LOCK TABLE dataset_tags IN SHARE ROW EXCLUSIVE MODE")
        return {row["name"]: rows.tag(row) for row in await self._connection.fetch(_TAGS)}

    async def put_tag(self, tag: Tag) -> None:
        """Store a tag, in place of one of its name."""
        await self._connection.execute(
            "INSERT INTO dataset_tags VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO UPDATE"
            " SET run_id = excluded.run_id, tagged_by = excluded.tagged_by, tagged_at = excluded.tagged_at",
            tag.name,
            tag.run_id,
            tag.tagged_by,
            to_datetime(tag.tagged_at_ms),
        )

    async def remove_tag(self, name: str) -> None:
        """Forget a tag."""
        await self._connection.execute("DELETE FROM dataset_tags WHERE name = $1", name)

    async def called(self, model: str, alias: str) -> Version | None:
        """Return the version of a model that people gave an alias."""
        row = await self._connection.fetchrow(
            f"{_VERSION} WHERE v.model = $1 AND $2 = ANY(v.aliases)", model, alias
        )
        return rows.version(row) if row else None

    async def set_names(self, version: Version) -> None:
        """Store the aliases and tags of a version of a locked model."""
        self._versions.clear()
        await self._connection.execute(
            "UPDATE versions SET aliases = $3, tags = $4 WHERE model = $1 AND number = $2",
            version.model,
            version.number,
            version.aliases,
            json.dumps(dict(version.tags)),
        )

    async def set_files(self, version: Version) -> None:
        """Store since when the files of a version may be thrown away, and when they were."""
        self._versions.clear()
        let_go, gone = (
            None if ms is None else to_datetime(ms) for ms in (version.let_go_ms, version.files_gone_ms)
        )
        await self._connection.execute(
            "UPDATE versions SET let_go_at = $3, files_gone_at = $4 WHERE model = $1 AND number = $2",
            version.model,
            version.number,
            let_go,
            gone,
        )

    async def set_approval(self, version: Version, approval: Approval) -> None:
        """Store who has approved a version of a locked model."""
        self._versions.clear()
        await self._connection.execute(
            "UPDATE versions SET approval = $3 WHERE model = $1 AND number = $2",
            version.model,
            version.number,
            rows.of_approval(approval),
        )

    async def set_checks(self, version: Version, checks: Checks) -> None:
        """Store what was posted of a version of a locked model."""
        self._versions.clear()
        await self._connection.execute(
            "UPDATE versions SET checks = $3 WHERE model = $1 AND number = $2",
            version.model,
            version.number,
            rows.of_checks(checks),
        )

    async def set_stage(self, change: StageChange) -> None:
        """Store how far a version has come, and the news of it."""
        held = change.version
        self._versions.clear()
        await self._connection.execute(
            "UPDATE versions SET stage = $3 WHERE model = $1 AND number = $2",
            held.model,
            held.number,
            change.stage.value,
        )
        self._news.append(news.of_stage(change))

    async def go_live(self, model: str, number: int, at_ms: int) -> None:
        """End the time of the version that was live, and begin that of this one."""
        await self.end_live(model, at_ms)
        await self._connection.execute(
            "INSERT INTO reigns (model, number, live_from) VALUES ($1, $2, $3)",
            model,
            number,
            to_datetime(at_ms),
        )

    async def end_live(self, model: str, at_ms: int) -> None:
        """End the time of the version that was live; none is, after it."""
        self._versions.clear()
        await self._connection.execute(
            "UPDATE reigns SET live_to = greatest($2, live_from) WHERE model = $1 AND live_to IS NULL",
            model,
            to_datetime(at_ms),
        )

    async def record(self, entry: Entry) -> None:
        """Append to the audit log as the unit ends, and send the news of it."""
        self._entries.append((entry, telemetry.traceparent()))


class PostgresStore(_Reads):
    """The registry's schema."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        super().__init__(pool)
        self._pool = pool

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[PostgresUnit]:
        """Open a unit of work; an error leaves nothing of it."""
        with outages():
            async with self._pool.acquire() as connection, connection.transaction():
                unit = PostgresUnit(connection)
                yield unit
                await unit.finish()

    async def resources(self, kind: str = "") -> Sequence[Applied]:
        """Return the current specs of a kind, or of all, by kind and name."""
        with outages():
            return await _resources(self._pool, "$1 IN ('', kind)", kind)

    async def resource(self, kind: str, name: str) -> Applied | None:
        """Return a current spec."""
        with outages():
            return next(iter(await _resources(self._pool, "kind = $1 AND name = $2", kind, name)), None)

    async def generations(self, kind: str, name: str) -> Sequence[Applied]:
        """Return every generation of a spec, oldest first, those included that took it away."""
        with outages():
            found = await self._pool.fetch(
                "SELECT * FROM resources WHERE kind = $1 AND name = $2 ORDER BY generation", kind, name
            )
        return [rows.applied(row) for row in found]

    async def standing(self, model: str) -> Standing:
        """Return where a model stands."""
        with outages():
            row = await self._pool.fetchrow(f"{_STANDING} WHERE m.name = $1", model)
        return rows.standing(row) if row else Standing(model)

    async def standings(self) -> Sequence[Standing]:
        """Return where every model stands of which something is wanted."""
        with outages():
            found = await self._pool.fetch(f"{_STANDING} WHERE m.generation > 0 ORDER BY m.name")
        return [rows.standing(row) for row in found]

    async def version(self, model: str, number: int) -> Version | None:
        """Return a version."""
        with outages():
            return await super().version(model, number)

    async def named_by(self, standing: Standing) -> Mapping[int, Version]:
        """Return the versions that a model's deployment holds, by number."""
        with outages():
            return await self.numbered(standing.model, messages.named_by(standing))

    async def versions(self, model: str, live_at_ms: int | None = None) -> Sequence[Version]:
        """Return a model's versions by number, or the one that was live at a time."""
        with outages():
            if live_at_ms is None:
                found = await self._pool.fetch(f"{_VERSION} WHERE v.model = $1 ORDER BY v.number", model)
            else:
                found = await self._pool.fetch(_LIVE_AT, model, to_datetime(live_at_ms))
        return [rows.version(row) for row in found]

    async def tags(self) -> Sequence[Tag]:
        """Return all tags by name."""
        with outages():
            return [rows.tag(row) for row in await self._pool.fetch(_TAGS)]

    async def models(self, prefix: str, after: str, limit: int) -> Sequence[Listed]:
        """Return the first `limit` models whose names have a prefix and follow `after`, by name."""
        with outages():
            found = await self._pool.fetch(_MODELS, prefix, after, limit)
        return [rows.listed(row) for row in found]

    async def overdue(self, now_ms: int) -> Sequence[Version]:
        """Return the versions that have waited too long, for checks or for approval, by model and number."""
        with outages():
            found = await self._pool.fetch(f"{_VERSION} WHERE {_OVERDUE} ORDER BY v.model, v.number", now_ms)
        return [rows.version(row) for row in found]

    async def with_files(self, before_ms: int) -> AsyncIterator[Sequence[Version]]:
        """Yield, in pages by model and number, the versions whose files are there and that came before a time or were let go."""
        after: tuple[str, int] = ("", 0)
        while True:
            with outages():
                found = await self._pool.fetch(_WITH_FILES, to_datetime(before_ms), *after, _PAGE)
            if not found:
                return
            after = (found[-1]["model"], found[-1]["number"])
            yield [rows.version(row) for row in found]

    async def digests(self, besides: Collection[tuple[str, int]]) -> AbstractSet[str]:
        """Return what looks like a digest in any current spec, and in any version whose files are there, `besides` some."""
        models, numbers = [model for model, _ in besides], [number for _, number in besides]
        with outages():
            return {row["digest"] for row in await self._pool.fetch(_DIGESTS, models, numbers)}

    async def audit(self, query: AuditQuery) -> Sequence[Entry]:
        """Return the entries that are meant, newest first."""
        since, until = (None if ms is None else to_datetime(ms) for ms in (query.since_ms, query.until_ms))
        with outages():
            found = await self._pool.fetch(
                _AUDIT, query.resource, query.actor, query.action, since, until, query.limit
            )
        return [rows.entry(row) for row in found]

    async def read_audit(self) -> AsyncIterator[Sequence[Entry]]:
        """Yield the whole audit log in pages, oldest first.

        No transaction is held open: entries are committed in the order of their sequence.
        """
        after = 0
        while True:
            with outages():
                found = await self._pool.fetch(
                    "SELECT * FROM audit WHERE sequence > $1 ORDER BY sequence LIMIT $2", after, _PAGE
                )
            if not found:
                return
            after = found[-1]["sequence"]
            yield [rows.entry(row) for row in found]


async def _resources(database: "Database", condition: str = "true", *values: Any) -> list[Applied]:
    found = await database.fetch(
        f"SELECT DISTINCT ON (kind, name) * FROM resources WHERE {condition} ORDER BY kind, name, generation DESC",
        *values,
    )
    return [rows.applied(row) for row in found if not row["deleted"]]
