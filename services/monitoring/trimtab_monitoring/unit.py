"""PostgreSQL's unit of work on one model: a transaction that holds the model's row.

Every change of what is remembered of a model goes through one of these, so changes
of a model come one after the other, and its news leaves with the change or not at
all.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec
from trimtab_core.policy import PolicyState
from trimtab_core.watched import Reading, Row, Watch
from trimtab_runtime import outbox
from trimtab_runtime.postgres import Connection, outages

from trimtab_monitoring import news
from trimtab_monitoring.usecases.entities import LabelStream, Loop, News, ReportOrder
from trimtab_monitoring.usecases.together import MOST_ROWS, Asked, Together

encode = msgspec.json.Encoder().encode
loop_of = msgspec.json.Decoder(Loop).decode
_watch_of = msgspec.json.Decoder(Watch).decode
_policy_of = msgspec.json.Decoder(PolicyState).decode

# The first label that follows, as in training sets. However stale its statistics are, the planner is kept to looking each
# up: by the LIMIT, and by the + 0, or it takes the newest labels, which it knows nothing of yet, for few, and reads all of
# their time for each prediction.
_JOINED = """
SELECT p.event_time_ms, p.id, p.version, p.generation, p.challenger_version, p.rollout_id, p.champion, p.challenger,
       p.features, label.value, p.champion_probabilities, p.challenger_probabilities, p.texts
FROM predictions AS p LEFT JOIN LATERAL (
    SELECT CASE WHEN class IS NULL THEN value ELSE array_position($7::text[], class) - 1 END AS value FROM labels
    WHERE stream = $2 AND key = p.key AND event_time_ms + 0 BETWEEN p.event_time_ms AND p.event_time_ms + $3
    ORDER BY event_time_ms + 0 LIMIT 1
) AS label ON true
WHERE p.model = {model} AND p.event_time_ms > {after} AND p.event_time_ms <= {until}
ORDER BY p.event_time_ms, p.id
LIMIT $6
"""
JOINED = _JOINED.format(model="$1", after="$4", until="$5")
_JOINED_ALL = f"""
SELECT asked.model, joined.* FROM unnest($1::text[], $4::bigint[], $5::bigint[]) AS asked(model, after_ms, until_ms)
CROSS JOIN LATERAL ({_JOINED.format(model="asked.model", after="asked.after_ms", until="asked.until_ms")}) AS joined
"""
_LOCK_ALL = """
SELECT model, watch FROM models WHERE model = ANY($1) ORDER BY model FOR UPDATE
"""
_BEGIN_ALL = "INSERT INTO models (model) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING"
_SAVE_ALL = """
UPDATE models SET watch = saved.watch, closed_ms = saved.closed_ms
FROM unnest($1::text[], $2::jsonb[], $3::bigint[]) AS saved(model, watch, closed_ms) WHERE models.model = saved.model
"""
_KEEP_READINGS = """
INSERT INTO readings (model, series, readings) VALUES ($1, $2, $3)
ON CONFLICT (model, series) DO UPDATE SET readings = excluded.readings
"""
_LABELLED = """
SELECT count(*) FROM predictions AS p
WHERE p.model = $1 AND p.event_time_ms > $4 AND p.event_time_ms < $5 AND EXISTS (
    SELECT FROM labels
    WHERE stream = $2 AND key = p.key AND event_time_ms + 0 BETWEEN p.event_time_ms AND p.event_time_ms + $3
    AND (class IS NULL OR class = ANY($6))
)
"""


def text(value: Any) -> str:
    """Return `value` as the JSON text that a jsonb parameter takes."""
    return encode(value).decode()


@asynccontextmanager
async def begin(pool: asyncpg.Pool, model: str) -> AsyncIterator["PostgresUnit"]:
    """Open a unit of work on `model`.

    Raises:
        Unavailable: PostgreSQL is away.
    """
    with outages():
        async with pool.acquire() as connection, connection.transaction():
            lock = "SELECT watch, policy FROM models WHERE model = $1 FOR UPDATE"
            row = await connection.fetchrow(lock, model)
            if row is None:
                await connection.execute(
                    "INSERT INTO models (model) VALUES ($1) ON CONFLICT DO NOTHING", model
                )
                row = await connection.fetchrow(lock, model)
                assert row is not None
            watch = _watch_of(row["watch"]) if row["watch"] else Watch()
            policy = _policy_of(row["policy"]) if row["policy"] else PolicyState()
            yield PostgresUnit(connection, model, watch, policy)


@asynccontextmanager
async def begin_all(pool: asyncpg.Pool, asked: Sequence[Asked]) -> AsyncIterator[Mapping[str, Together]]:
    """Open units of work on many models, whose rows are locked in order of their names.

    Raises:
        Unavailable: PostgreSQL is away.
    """
    with outages():
        async with pool.acquire() as connection, connection.transaction():
            models = [each.model for each in asked]
            locked = await connection.fetch(_LOCK_ALL, models)
            if len(locked) < len(models):
                await connection.execute(_BEGIN_ALL, models)
                locked = await connection.fetch(_LOCK_ALL, models)
            watches = {row["model"]: _watch_of(row["watch"]) if row["watch"] else Watch() for row in locked}
            rows = await _fetch_rows_of_all(connection, asked, watches)
            units = {
                each.model: Together(each, watches[each.model], rows.get(each.model, [])) for each in asked
            }
            yield units
            await _keep_all(connection, units)


async def _fetch_rows_of_all(
    connection: Connection, asked: Sequence[Asked], watches: Mapping[str, Watch]
) -> dict[str, list[Row]]:
    alike: dict[LabelStream, list[Asked]] = {}
    for each in asked:
        alike.setdefault(each.labels, []).append(each)
    found: dict[str, list[Row]] = {}
    for labels, group in alike.items():
        models = [each.model for each in group]
        after, until = [watches[each.model].closed_ms for each in group], [each.until_ms for each in group]
        rows = await connection.fetch(
            _JOINED_ALL, models, labels.name, labels.within_ms, after, until, MOST_ROWS + 1, labels.classes
        )
        for row in rows:
            model, *values = row
            found.setdefault(model, []).append(Row(*values))
    return found


async def _keep_all(connection: Connection, units: Mapping[str, Together]) -> None:
    saved = {model: unit.saved for model, unit in units.items() if unit.saved is not None}
    closed = [watch.closed_ms for watch in saved.values()]
    await connection.execute(_SAVE_ALL, list(saved), [text(watch) for watch in saved.values()], closed)
    kept = [
        (model, series, text(each)) for model, unit in units.items() for series, each in unit.kept.items()
    ]
    if kept:
        await connection.executemany(_KEEP_READINGS, kept)
    await outbox.put(connection, list(news.outgoing([each for unit in units.values() for each in unit.told])))


async def fetch_rows(
    connection: Connection | asyncpg.Pool, model: str, labels: LabelStream, after_ms: int, until_ms: int,
    limit: int | None,
) -> list[Row]:  # fmt: skip
    """Return predictions of (after, until] with their labels, in order."""
    found = await connection.fetch(
        JOINED, model, labels.name, labels.within_ms, after_ms, until_ms, limit, labels.classes
    )
    return [Row(*row) for row in found]


class PostgresUnit:
    """One transaction on one model."""

    def __init__(self, connection: Connection, model: str, watch: Watch, policy: PolicyState) -> None:
        self.watch = watch
        self.policy = policy
        self._connection = connection
        self._model = model

    async def save_watch(self, watch: Watch) -> None:
        """Remember `watch`."""
        await self._connection.execute(
            "UPDATE models SET watch = $2, closed_ms = $3 WHERE model = $1",
            self._model,
            text(watch),
            watch.closed_ms,
        )
        self.watch = watch

    async def save_policy(self, policy: PolicyState) -> None:
        """Remember what the retrain policy remembers."""
        await self._connection.execute(
            "UPDATE models SET policy = $2 WHERE model = $1", self._model, text(policy)
        )
        self.policy = policy

    async def rows(
        self, labels: LabelStream, *, after_ms: int, until_ms: int, at_most: int | None = None
    ) -> tuple[list[Row], int]:
        """Return the predictions of (after, until] with their labels, and up to when they are complete."""
        limit = None if at_most is None else at_most + 1
        rows = await fetch_rows(self._connection, self._model, labels, after_ms, until_ms, limit)
        if at_most is None or len(rows) <= at_most:
            return rows, until_ms
        last = rows[-1].at_ms
        if whole := [row for row in rows if row.at_ms < last]:
            return whole, last - 1
        return await fetch_rows(self._connection, self._model, labels, after_ms, last, None), last

    async def labelled(self, labels: LabelStream, *, after_ms: int, before_ms: int) -> int:
        """Return how many predictions between the two times, both left out, have a label."""
        found: int = await self._connection.fetchval(
            _LABELLED, self._model, labels.name, labels.within_ms, after_ms, before_ms, labels.classes
        )
        return found

    async def trained_to(self, version: int) -> int | None:
        """Return the event time of the newest row that a version was fitted to, if it is known."""
        found: int | None = await self._connection.fetchval(
            "SELECT trained_to_ms FROM versions WHERE model = $1 AND number = $2", self._model, version
        )
        return found

    async def loop(self, id: str) -> Loop | None:
        """Return a loop."""
        found = await self._connection.fetchval("SELECT loop FROM loops WHERE id = $1", id)
        return loop_of(found) if found else None

    async def put_loop(self, loop: Loop) -> None:
        """Write a loop down."""
        await self._connection.execute(
            "INSERT INTO loops (id, model, open, loop) VALUES ($1, $2, $3, $4)"
            " ON CONFLICT (id) DO UPDATE SET open = excluded.open, loop = excluded.loop",
            loop.id, loop.model, loop.open, text(loop),
        )  # fmt: skip

    async def first_sight(self, id: str) -> bool:
        """Remember `id`; False if it was there before."""
        return await outbox.first_sight(self._connection, id)

    async def keep_readings(self, series: str, readings: Sequence[Reading]) -> None:
        """Keep the newest readings of a series."""
        await self._connection.execute(_KEEP_READINGS, self._model, series, text(readings))

    async def order_report(self, order: ReportOrder) -> None:
        """Queue a report, once an episode."""
        await self._connection.execute(
            "INSERT INTO reports (episode, report) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            order.episode,
            text(order),
        )

    async def tell(self, told: Sequence[News]) -> None:
        """Leave `told` in the outbox."""
        await outbox.put(self._connection, list(news.outgoing(told)))
