"""PostgreSQL home of how much came of each source, and how good it was.

An hour counts a batch once: what comes again is of a record of raw.<source> that is counted in. What is judged of a source
is one transaction that holds its row, and so are the readings that it tells.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import astuple
from typing import Final

import asyncpg
import msgspec
from trimtab_core.flow import FlowState, Hour
from trimtab_core.watched import Reading
from trimtab_runtime import outbox
from trimtab_runtime.clock import to_datetime
from trimtab_runtime.postgres import Connection, outages

from trimtab_monitoring import news
from trimtab_monitoring.unit import keep, text
from trimtab_monitoring.usecases.entities import News, predictions_stream
from trimtab_monitoring.usecases.flowing import Came, Figure, Hourly, Seen
from trimtab_monitoring.usecases.history import shelf_of

_MOST_TOTAL: Final = 1e290
_state_of = msgspec.json.Decoder(FlowState).decode

_COUNT = """
INSERT INTO flows (source, partition, hour_ms, events, repeats, newest_ms, place) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (source, partition, hour_ms) DO UPDATE
SET events = flows.events + excluded.events, repeats = flows.repeats + excluded.repeats, place = excluded.place,
    newest_ms = greatest(flows.newest_ms, excluded.newest_ms), heard_at = now()
WHERE flows.place < excluded.place
"""
_SAY = """
INSERT INTO hourly (source, partition, place, hour_ms, name, field, rows, total, least, most, low, high, held)
VALUES ($1, $2, $3, $4, $5, $6, $7, $12, $8, $8, $9, $10, $11)
ON CONFLICT (source, hour_ms, partition, name, field) DO UPDATE
SET rows = hourly.rows + excluded.rows, total = hourly.total + excluded.total, place = excluded.place,
    least = least(hourly.least, excluded.least), most = greatest(hourly.most, excluded.most),
    low = excluded.low, high = excluded.high, held = hourly.held AND excluded.held
WHERE hourly.place < excluded.place
"""
_SAID = """
SELECT hour_ms, name, field, sum(rows)::bigint AS rows, sum(total) AS total, min(least) AS least, max(most) AS most,
       max(low) AS low, max(high) AS high, bool_and(held) AS held
FROM hourly WHERE source = $1 AND hour_ms >= $2 AND hour_ms < $3 GROUP BY hour_ms, name, field ORDER BY hour_ms, name, field
"""
_HOURS = """
SELECT hour_ms AS at_ms, coalesce(came.events, 0) AS events, coalesce(came.repeats, 0) AS repeats,
       coalesce(round(said.refused), 0)::bigint AS refused, said.delay_ms
FROM (
    SELECT hour_ms, sum(events)::bigint AS events, sum(repeats)::bigint AS repeats FROM flows
    WHERE source = $1 AND hour_ms > $2 GROUP BY hour_ms
) AS came FULL JOIN (
    SELECT hour_ms, sum(total) FILTER (WHERE name = 'refused_share') AS refused,
           sum(total) FILTER (WHERE name = 'delay_ms') / sum(rows) FILTER (WHERE name = 'delay_ms') AS delay_ms
    FROM hourly WHERE source = $1 AND hour_ms > $2 AND name IN ('refused_share', 'delay_ms') GROUP BY hour_ms
) AS said USING (hour_ms)
ORDER BY hour_ms
"""


class PostgresFlows:
    """What came of sources, in monitoring's schema."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def count(self, came: Sequence[Came], figures: Sequence[Figure]) -> None:
        """Count what came and what was said of it; what was counted before changes nothing."""
        counts = [
            (it.source, it.partition, it.hour_ms, it.events, it.repeats, it.newest_ms, it.place)
            for it in came
        ]
        with outages():
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.executemany(_COUNT, counts)
                await connection.executemany(_SAY, [(*astuple(it), _total(it)) for it in figures])

    @asynccontextmanager
    async def begin(self, source: str) -> AsyncIterator["PostgresFlow"]:
        """Open a unit of work on a source."""
        with outages():
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(
                    "INSERT INTO flow_states (source) VALUES ($1) ON CONFLICT DO NOTHING", source
                )
                held = await connection.fetchval(
                    "SELECT state FROM flow_states WHERE source = $1 FOR UPDATE", source
                )
                yield PostgresFlow(connection, source, _state_of(held) if held else FlowState())

    async def forget(self, source: str, *, before_ms: int) -> None:
        """Delete the hours that began before a time."""
        with outages():
            for table in ("flows", "hourly"):
                await self._pool.execute(
                    f"DELETE FROM {table} WHERE source = $1 AND hour_ms < $2", source, before_ms
                )


def _total(figure: Figure) -> float:
    """Return the sum of a figure's rows, within what many of them can be added up to."""
    return min(max(figure.value * figure.rows, -_MOST_TOTAL), _MOST_TOTAL)


class PostgresFlow:
    """One transaction on one source."""

    def __init__(self, connection: Connection, source: str, state: FlowState) -> None:
        self.state = state
        self._connection = connection
        self._source = source

    async def hours(self, from_ms: int) -> list[Hour]:
        """Return the hours of which something came, of those that began after a time, in order."""
        rows = await self._connection.fetch(_HOURS, self._source, from_ms)
        return [Hour(**row) for row in rows]

    async def said(self, from_ms: int, until_ms: int) -> list[Hourly]:
        """Return what was said of the hours that began in [from, until), in order."""
        rows = await self._connection.fetch(_SAID, self._source, from_ms, until_ms)
        return [Hourly(**row) for row in rows]

    async def seen(self, models: Sequence[str], heard_before_ms: int) -> Seen | None:
        """Return how far the source has come, and how far those who are asked with it; None if nothing has come yet."""
        row = await self._connection.fetchrow(
            "SELECT max(newest_ms) AS newest_ms, max(heard_at) < $2 AS quiet,"
            " (SELECT max(time_ms) FROM marks WHERE stream = ANY($3)) AS asked_ms FROM flows WHERE source = $1",
            self._source,
            to_datetime(heard_before_ms),
            [predictions_stream(model) for model in models],
        )
        if row is None or row["newest_ms"] is None:
            return None
        return Seen(row["newest_ms"], row["quiet"], row["asked_ms"])

    async def save(self, state: FlowState, told: Sequence[News]) -> None:
        """Remember `state`, publish `told` once the transaction is committed, and keep the readings among it."""
        await self._connection.execute(
            "UPDATE flow_states SET state = $2 WHERE source = $1", self._source, text(state)
        )
        await outbox.put(self._connection, list(news.outgoing(told)))
        shelf = shelf_of(self._source)
        await keep(self._connection, [(shelf, it) for it in told if isinstance(it, Reading)])
        self.state = state
