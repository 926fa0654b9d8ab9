"""PostgreSQL home of alerts, of what is still to be told of them, and of silences."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import asyncpg
import msgspec
from trimtab_runtime.postgres import outages

from trimtab_monitoring.unit import text
from trimtab_monitoring.usecases.entities import Alert, Delivery, HeldAlert, Silence

_alert_of = msgspec.json.Decoder(Alert).decode

_AT_ONCE: Final = 500
_MOST: Final = 1_000

_FIRED = """
INSERT INTO alerts (place, subject, at_ms, alert) VALUES ($1, $2, $3, $4)
ON CONFLICT (place) DO UPDATE
SET at_ms = excluded.at_ms, alert = excluded.alert,
    resolved_ms = CASE WHEN alerts.resolved_ms >= excluded.at_ms THEN alerts.resolved_ms END
WHERE alerts.at_ms <= excluded.at_ms
"""
_OVER = """
UPDATE alerts SET resolved_ms = $2 WHERE place = $1 AND at_ms <= $2 AND resolved_ms IS NULL RETURNING place
"""
_TAKE = """
WITH first AS (
    SELECT sink, place FROM alert_deliveries AS due WHERE due_ms <= $1 AND NOT EXISTS (
        SELECT FROM alert_deliveries AS before
        WHERE before.sink = due.sink AND before.place = due.place AND before.sequence < due.sequence
          AND NOT (before.silent AND before.due_ms > $1)
    )
    ORDER BY sequence LIMIT $3 FOR UPDATE SKIP LOCKED
)
UPDATE alert_deliveries AS due SET due_ms = $2, silent = false
FROM first WHERE due.sink = first.sink AND due.place = first.place AND due.due_ms <= $1
RETURNING due.sequence, due.sink, due.alert, due.attempts
"""
"""Who takes the first of an occasion that is left takes what is due behind it too: nobody else can, until the first has been told."""
_TOLD = """
UPDATE alerts SET told = array_remove(coalesce(told, '{}'), sink) || CASE WHEN is_on THEN ARRAY[sink] ELSE '{}' END
FROM unnest($1::text[], $2::text[], $3::boolean[]) AS news (sink, place, is_on) WHERE alerts.place = news.place
"""
_FORGET = """
DELETE FROM alert_deliveries USING unnest($1::text[], $2::text[]) AS told (sink, id)
WHERE alert_deliveries.sink = told.sink AND alert_deliveries.id = told.id
"""
_FORGET_BEFORE = """
DELETE FROM alert_deliveries USING alert_deliveries AS over
WHERE over.sink = $1 AND over.id = $2 AND alert_deliveries.sink = $1 AND alert_deliveries.place = over.place
  AND alert_deliveries.sequence < over.sequence
"""
_WAS_TOLD = """
SELECT told IS NULL OR $2 = ANY (told) FROM alerts WHERE place = $1 FOR UPDATE
"""
_ALERTS = """
SELECT alert, resolved_ms,
       coalesce(array_agg(sink ORDER BY sink) FILTER (WHERE sink IS NOT NULL), '{}') AS waiting,
       coalesce(max(fault), '') AS fault
FROM alerts LEFT JOIN (
    SELECT DISTINCT ON (sink, place) sink, place, fault FROM alert_deliveries ORDER BY sink, place, fault DESC
) AS deliveries USING (place)
WHERE ($1 = '' OR subject = $1) AND (NOT $2 OR resolved_ms IS NULL)
GROUP BY place, at_ms, alert, resolved_ms ORDER BY at_ms DESC, place LIMIT $3
"""
_PUT_OFF = """
UPDATE alert_deliveries SET due_ms = $3, silent = $4 = '', attempts = CASE WHEN $4 <> '' THEN attempts + 1 ELSE 0 END,
    fault = CASE WHEN $4 <> '' THEN $4 ELSE fault END
FROM unnest($1::text[], $2::text[]) AS told (sink, id)
WHERE alert_deliveries.sink = told.sink AND alert_deliveries.id = told.id
"""


class PostgresAlerts:
    """Alerts in monitoring's schema."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def remember(self, alert: Alert, sinks: Sequence[str], due_ms: int) -> None:
        """Keep an alert, and that `sinks` are to be told."""
        with outages():
            async with self._pool.acquire() as connection, connection.transaction():
                fresh = await connection.fetchval(
                    "INSERT INTO inbox (id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING id",
                    f"alert/{alert.id}",
                )
                if fresh is None:
                    return
                if alert.resolved:
                    if await connection.fetchval(_OVER, alert.place, alert.at_ms) is None:
                        return
                else:
                    await connection.execute(_FIRED, alert.place, alert.subject, alert.at_ms, text(alert))
                await connection.executemany(
                    "INSERT INTO alert_deliveries (sink, id, place, alert, due_ms) VALUES ($1, $2, $3, $4, $5)",
                    [(sink, alert.id, alert.place, text(alert), due_ms) for sink in sinks],
                )

    async def take_due(self, now_ms: int, until_ms: int) -> list[Delivery]:
        """Return some of what is due, oldest first, and let nobody else have it before `until_ms`."""
        with outages():
            rows = await self._pool.fetch(_TAKE, now_ms, until_ms, _AT_ONCE)
        return [
            Delivery(row["sink"], _alert_of(row["alert"]), row["attempts"])
            for row in sorted(rows, key=lambda row: row["sequence"])
        ]

    async def delivered(self, deliveries: Sequence[Delivery]) -> None:
        """Forget what was told."""
        newest = {(each.sink, each.alert.place): not each.alert.resolved for each in deliveries}
        sinks, places = [sink for sink, _ in newest], [place for _, place in newest]
        with outages():
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(_TOLD, sinks, places, list(newest.values()))
                await connection.execute(_FORGET, *_places(deliveries))

    async def put_off(self, deliveries: Sequence[Delivery], due_ms: int, fault: str = "") -> None:
        """Try again at `due_ms`, the end of a silence; or, with a fault, which is kept, after a try that counts."""
        with outages():
            await self._pool.execute(_PUT_OFF, *_places(deliveries), due_ms, fault)

    async def settle(self, over: Delivery, due_ms: int) -> None:
        """Drop what a sink was still to be told about an occasion that is over; tell the end at `due_ms` if it knows of it."""
        with outages():
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(_FORGET_BEFORE, over.sink, over.alert.id)
                if await connection.fetchval(_WAS_TOLD, over.alert.place, over.sink):
                    await connection.execute(_PUT_OFF, *_places([over]), due_ms, "")
                else:
                    await connection.execute(_FORGET, *_places([over]))

    async def alerts(self, subject: str, *, open_only: bool) -> list[HeldAlert]:
        """Return the alerts about a subject, or all where it is empty, newest first."""
        with outages():
            rows = await self._pool.fetch(_ALERTS, subject, open_only, _MOST)
        return [
            HeldAlert(_alert_of(row["alert"]), row["resolved_ms"], tuple(row["waiting"]), row["fault"])
            for row in rows
        ]

    async def silence(self, silence: Silence) -> Silence:
        """Keep a silence, and return it with its id."""
        with outages():
            number = await self._pool.fetchval(
                "INSERT INTO silences (subject, kind, until_ms, actor, reason) VALUES ($1, $2, $3, $4, $5) RETURNING id",
                silence.subject, silence.kind, silence.until_ms, silence.actor, silence.reason,
            )  # fmt: skip
        return replace(silence, id=number)

    async def silences(self, now_ms: int) -> list[Silence]:
        """Return those that hold."""
        with outages():
            rows = await self._pool.fetch("SELECT * FROM silences WHERE until_ms > $1 ORDER BY id", now_ms)
        return [_silence(row) for row in rows]

    async def end_silence(self, id: int) -> Silence | None:
        """Take a silence away, make due what it put off, and return it."""
        with outages():
            async with self._pool.acquire() as connection, connection.transaction():
                row = await connection.fetchrow("DELETE FROM silences WHERE id = $1 RETURNING *", id)
                if row is None:
                    return None
                await connection.execute(
                    "UPDATE alert_deliveries SET due_ms = 0 WHERE silent AND due_ms = $1", row["until_ms"]
                )
        return _silence(row)


def _silence(row: asyncpg.Record) -> Silence:
    return Silence(row["id"], row["subject"], row["kind"], row["until_ms"], row["actor"], row["reason"])


def _places(deliveries: Sequence[Delivery]) -> tuple[list[str], list[str]]:
    return [each.sink for each in deliveries], [each.alert.id for each in deliveries]
