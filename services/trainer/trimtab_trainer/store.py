"""PostgreSQL home of jobs: a queue held by lease.

A claim, and each renewal, is one statement, so two trainers never hold one job. What
a job came to and the news of it (an outbox row) are one transaction, which refuses a
worker whose lease has passed to another, of the same process or not.
"""

from collections.abc import Sequence

import asyncpg
from trimtab_contracts import topics
from trimtab_runtime import outbox, records
from trimtab_runtime.clock import from_datetime, to_datetime
from trimtab_runtime.postgres import Connection, outages

from trimtab_trainer.messages import to_message
from trimtab_trainer.usecases import Job, News, Status, Told

_CLAIM = """
UPDATE jobs SET status = 'running', leased_by = $1, lease_until = $2, attempts = attempts + 1,
                started_at = coalesce(started_at, $3)
WHERE run_id = (
    SELECT run_id FROM jobs AS waiting
    WHERE (status = 'queued' AND NOT EXISTS (SELECT FROM jobs WHERE model = waiting.model AND status = 'running'))
       OR (status = 'running' AND lease_until < $3)
    ORDER BY queued_at LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING *
"""


class PostgresStore:
    """Jobs in the trainer's schema."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def add(self, news: News) -> bool:
        """Queue a job and the news of it; False if its command has a job already."""
        job = news.job
        with outages():
            async with self._pool.acquire() as connection, connection.transaction():
                added = await connection.fetchval(
                    "INSERT INTO jobs (run_id, command_id, model, loop_id, trigger, as_of, traceparent, queued_at, event)"
                    " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (command_id) DO NOTHING RETURNING run_id",
                    job.run_id,
                    job.command_id,
                    job.model,
                    job.loop_id,
                    job.trigger,
                    to_datetime(job.as_of_ms),
                    job.traceparent,
                    to_datetime(job.queued_at_ms),
                    to_message(news).SerializeToString(),
                )
                if added is not None:
                    await _announce(connection, news)
                return added is not None

    async def claim(self, owner: str, *, now_ms: int, lease_ms: int) -> Job | None:
        """Take the oldest job that waits, or whose trainer has let its lease lapse."""
        with outages():
            try:
                row = await self._pool.fetchrow(
                    _CLAIM, owner, to_datetime(now_ms + lease_ms), to_datetime(now_ms)
                )
            except asyncpg.UniqueViolationError:
                return None  # another trainer has just begun a job of that model
        return _job(row) if row else None

    async def renew(self, job: Job, owner: str, *, until_ms: int) -> bool:
        """Hold the lease longer; False if the job is no longer `owner`'s, or is by now in another attempt."""
        with outages():
            held = await self._pool.fetchval(
                "UPDATE jobs SET lease_until = $4"
                " WHERE run_id = $1 AND leased_by = $2 AND attempts = $3 AND status = 'running' RETURNING 1",
                job.run_id,
                owner,
                job.attempts,
                to_datetime(until_ms),
            )
        return held is not None

    async def record(self, news: News, owner: str) -> bool:
        """Store what became of a job and the news of it; False, and nothing stored, if that attempt is no longer `owner`'s."""
        done = news.status in (Status.SUCCEEDED, Status.FAILED)
        with outages():
            async with self._pool.acquire() as connection, connection.transaction():
                held = await connection.fetchval(
                    "UPDATE jobs SET event = $4, status = coalesce($5, status), finished_at = $6"
                    " WHERE run_id = $1 AND leased_by = $2 AND attempts = $3 AND status = 'running' RETURNING 1",
                    news.job.run_id,
                    owner,
                    news.job.attempts,
                    to_message(news).SerializeToString(),
                    news.status.value if done else None,
                    to_datetime(news.at_ms) if done else None,
                )
                if held is not None:
                    await _announce(connection, news)
                return held is not None

    async def get(self, run_id: str) -> Told | None:
        """Return what was told last of a run."""
        with outages():
            row = await self._pool.fetchrow("SELECT * FROM jobs WHERE run_id = $1", run_id)
        return Told(_job(row), row["event"]) if row else None

    async def list(self, model: str, limit: int) -> Sequence[Told]:
        """Return the newest runs of a model, or of all where it is empty."""
        with outages():
            rows = await self._pool.fetch(
                "SELECT * FROM jobs WHERE $1 IN ('', model) ORDER BY queued_at DESC LIMIT $2", model, limit
            )
        return [Told(_job(row), row["event"]) for row in rows]


async def _announce(connection: Connection, news: News) -> None:
    message = to_message(news)
    record = records.outgoing(
        topics.RUNS,
        message,
        key=message.model,
        id=message.id,
        source="trainer",
        time_ms=news.at_ms,
        correlation=message.loop_id,
        traceparent=news.job.traceparent,
    )
    await outbox.put(connection, [record])


def _job(row: asyncpg.Record) -> Job:
    return Job(
        run_id=row["run_id"],
        command_id=row["command_id"],
        model=row["model"],
        loop_id=row["loop_id"],
        trigger=row["trigger"],
        as_of_ms=from_datetime(row["as_of"]),
        traceparent=row["traceparent"],
        queued_at_ms=from_datetime(row["queued_at"]),
        attempts=row["attempts"],
        started_at_ms=from_datetime(row["started_at"]) if row["started_at"] else None,
        finished_at_ms=from_datetime(row["finished_at"]) if row["finished_at"] else None,
    )
