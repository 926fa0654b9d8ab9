"""PostgreSQL home of jobs: a queue held by lease.

A claim, and each renewal, is one statement, so two trainers never hold one job. What
a job came to and the news of it (an outbox row) are one transaction, which refuses a
worker whose lease has passed to another, of the same process or not. A cancellation
is such a transaction too, and takes the job from whoever has it, so of it and the
outcome whichever is stored first is what became of the run.
"""

from collections.abc import Sequence

import asyncpg
import msgspec
from trimtab_contracts import topics
from trimtab_runtime import outbox, records
from trimtab_runtime.clock import from_datetime, to_datetime
from trimtab_runtime.postgres import Connection, outages
from trimtab_training.progress import Progress
from trimtab_training.trials import Trial

from trimtab_trainer.errors import RunEnded, UnknownRun
from trimtab_trainer.messages import to_message
from trimtab_trainer.usecases.entities import ENDED, Job, News, Note, Registered, Status, StoredFile, Told

_encode = msgspec.json.Encoder().encode
_progress_of = msgspec.json.Decoder(Progress).decode
_trial_of = msgspec.json.Decoder(Trial).decode
_file_of = msgspec.json.Decoder(StoredFile).decode
_notes_of = msgspec.json.Decoder(tuple[Note, ...]).decode
_registered_of = msgspec.json.Decoder(Registered).decode

_CLAIM = """
UPDATE jobs SET status = 'running', leased_by = $1, lease_until = $2, attempts = attempts + 1,
                started_at = coalesce(started_at, $3), progress = NULL
WHERE run_id = (
    SELECT run_id FROM jobs AS waiting
    WHERE (status = 'queued' AND (reproduces <> '' OR NOT EXISTS (
              SELECT FROM jobs WHERE model = waiting.model AND status = 'running' AND reproduces = '')))
       OR (status = 'running' AND lease_until < $3)
    ORDER BY turn LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING *
"""
_HELD = "SELECT FROM jobs WHERE run_id = $1 AND leased_by = $2 AND attempts = $3 AND status = 'running'"
_KEEP_TRIAL = f"""
INSERT INTO trials (run_id, number, search, trial) SELECT $1, $4, $5, $6 WHERE EXISTS ({_HELD})
ON CONFLICT (run_id, number) DO UPDATE SET search = excluded.search, trial = excluded.trial
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
                    "INSERT INTO jobs (run_id, command_id, model, loop_id, trigger, as_of, traceparent, queued_at, event, turn,"
                    " registered, changed_at, reproduces)"
                    " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
                    " ON CONFLICT (command_id) DO NOTHING RETURNING run_id",
                    job.run_id,
                    job.command_id,
                    job.model,
                    job.loop_id,
                    job.trigger,
                    to_datetime(job.as_of_ms),
                    job.traceparent,
                    to_datetime(job.queued_at_ms),
                    to_message(news).SerializeToString(),
                    to_datetime(job.turn_ms),
                    _encode(job.registered).decode() if job.registered else None,
                    None if job.changed_ms is None else to_datetime(job.changed_ms),
                    job.reproduces,
                )
                if added is not None:
                    await _announce(connection, news)
                return added is not None

    async def claim(self, owner: str, *, now_ms: int, lease_ms: int) -> Job | None:
        """Take the job whose turn it is, of those that wait or whose trainer has let its lease lapse."""
        with outages():
            try:
                row = await self._pool.fetchrow(
                    _CLAIM, owner, to_datetime(now_ms + lease_ms), to_datetime(now_ms)
                )
            except asyncpg.UniqueViolationError:
                return None  # another trainer has just begun a job of that model
        return _job(row) if row else None

    async def last_change(self, model: str, as_of_ms: int) -> int | None:
        """Return since when the world is another, as the newest order that knew it said up to `as_of_ms`; None if none did."""
        with outages():
            found = await self._pool.fetchval(
                "SELECT changed_at FROM jobs WHERE model = $1 AND as_of <= $2 AND changed_at IS NOT NULL"
                " ORDER BY as_of DESC LIMIT 1",
                model,
                to_datetime(as_of_ms),
            )
        return None if found is None else from_datetime(found)

    async def renew(self, job: Job, owner: str, *, until_ms: int, progress: Progress) -> bool:
        """Hold the lease longer, and say how far the job is; False if it is no longer this attempt's."""
        with outages():
            held = await self._pool.fetchval(
                "UPDATE jobs SET lease_until = $4, progress = $5"
                " WHERE run_id = $1 AND leased_by = $2 AND attempts = $3 AND status = 'running' RETURNING 1",
                job.run_id,
                owner,
                job.attempts,
                to_datetime(until_ms),
                _encode(progress).decode(),
            )
        return held is not None

    async def record(self, news: News, owner: str) -> bool:
        """Store what became of a job and the news of it; False, and nothing stored, if it is no longer this attempt's."""
        done = news.status in ENDED
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

    async def cancel(self, run_id: str, *, by: str, reason: str, now_ms: int) -> Told:
        """End a run that has not ended, and tell; one that was cancelled before stays as it is.

        Raises:
            UnknownRun: there is none of the id.
            RunEnded: it has succeeded or failed.
        """
        with outages():
            async with self._pool.acquire() as connection, connection.transaction():
                row = await connection.fetchrow("SELECT * FROM jobs WHERE run_id = $1 FOR UPDATE", run_id)
                if row is None:
                    raise UnknownRun(run_id)
                if row["status"] == Status.CANCELLED:
                    return _told(row)
                if row["status"] in ENDED:
                    raise RunEnded(run_id, row["status"])
                news = News(_job(row), Status.CANCELLED, now_ms, cancelled_by=by, cancel_reason=reason)
                ended = await connection.fetchrow(
                    "UPDATE jobs SET status = 'cancelled', event = $2, finished_at = $3 WHERE run_id = $1 RETURNING *",
                    run_id,
                    to_message(news).SerializeToString(),
                    to_datetime(now_ms),
                )
                await _announce(connection, news)
                assert ended is not None
                return _told(ended)

    async def keep_log(self, job: Job, log: StoredFile) -> None:
        """Name the log of a job's attempt; that of an older attempt changes nothing."""
        with outages():
            await self._pool.execute(
                "UPDATE jobs SET log = $3 WHERE run_id = $1 AND attempts = $2",
                job.run_id,
                job.attempts,
                _encode(log).decode(),
            )

    async def resume(self, job: Job, owner: str, *, of: str) -> Sequence[Trial]:
        """Return the trials that earlier attempts ended of a search for `of`, and forget those for anything else."""
        with outages():
            await self._pool.execute(
                f"DELETE FROM trials WHERE run_id = $1 AND search <> $4 AND EXISTS ({_HELD})",
                job.run_id,
                owner,
                job.attempts,
                of,
            )
        return await self.trials(job.run_id)

    async def keep_trials(self, job: Job, owner: str, trials: Sequence[Trial], *, of: str) -> None:
        """Keep trials that ended, unless the job is no longer this attempt's."""
        with outages():
            await self._pool.executemany(
                _KEEP_TRIAL,
                [
                    (job.run_id, owner, job.attempts, trial.number, of, _encode(trial).decode())
                    for trial in trials
                ],
            )

    async def trials(self, run_id: str) -> Sequence[Trial]:
        """Return the trials of a run, in order."""
        with outages():
            rows = await self._pool.fetch(
                "SELECT trial FROM trials WHERE run_id = $1 ORDER BY number", run_id
            )
        return [_trial_of(row["trial"]) for row in rows]

    async def note(self, run_id: str, note: Note) -> Told:
        """Add a note to a run.

        Raises:
            UnknownRun: there is none of the id.
        """
        with outages():
            row = await self._pool.fetchrow(
                "UPDATE jobs SET notes = notes || jsonb_build_array($2::jsonb) WHERE run_id = $1 RETURNING *",
                run_id,
                _encode(note).decode(),
            )
        if row is None:
            raise UnknownRun(run_id)
        return _told(row)

    async def get(self, run_id: str) -> Told | None:
        """Return what was told last of a run."""
        with outages():
            row = await self._pool.fetchrow("SELECT * FROM jobs WHERE run_id = $1", run_id)
        return _told(row) if row else None

    async def list(self, model: str, limit: int) -> Sequence[Told]:
        """Return the newest runs of a model, or of all where it is empty."""
        with outages():
            rows = await self._pool.fetch(
                "SELECT * FROM jobs WHERE $1 IN ('', model) ORDER BY queued_at DESC LIMIT $2", model, limit
            )
        return [_told(row) for row in rows]


async def _announce(connection: Connection, news: News) -> None:
    """Tell `news`, unless it is of a run that is only made once more: nobody waits for that but who asked."""
    if news.job.reproduces:
        return
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


def _told(row: asyncpg.Record) -> Told:
    return Told(
        _job(row),
        row["event"],
        _progress_of(row["progress"]) if row["progress"] else None,
        _file_of(row["log"]) if row["log"] else None,
        _notes_of(row["notes"]),
    )


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
        registered=_registered_of(row["registered"]) if row["registered"] else None,
        changed_ms=from_datetime(row["changed_at"]) if row["changed_at"] else None,
        reproduces=row["reproduces"],
    )
