"""PostgreSQL's unit of work on one model: a transaction that holds the model's row.

Every change of what is remembered of a model goes through one of these, so changes
of a model come one after the other, and its news leaves with the change or not at
all.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec
from trimtab_core.policy import PolicyState
from trimtab_core.watched import Asked, Published, Reading, Row, Watch
from trimtab_runtime import outbox
from trimtab_runtime.postgres import Connection, outages

from trimtab_monitoring import news
from trimtab_monitoring.usecases.entities import Alert, LabelStream, Loop, News, ReportOrder, WantedLabel
from trimtab_monitoring.usecases.together import MOST_ROWS, ToClose, Together, ahead_of

encode = msgspec.json.Encoder().encode
loop_of = msgspec.json.Decoder(Loop).decode
_alert_of = msgspec.json.Decoder(Alert).decode
readings_of = msgspec.json.Decoder(list[Reading]).decode
_published_of = msgspec.json.Decoder(Published).decode
_watch_of = msgspec.json.Decoder(Watch).decode
_policy_of = msgspec.json.Decoder(PolicyState).decode

# The first label that follows, as in training sets. However stale its statistics are, the planner is kept to looking each
# up: by the LIMIT, and by the + 0, or it takes the newest labels, which it knows nothing of yet, for few, and reads all of
# their time for each prediction.
_JOINED_OF = """
SELECT p.event_time_ms, p.id, p.version, p.generation, p.challenger_version, p.rollout_id, p.champion, p.challenger,
       p.features, CASE WHEN NOT $8 OR drawn.weight IS NOT NULL THEN label.value END,
       p.champion_probabilities, p.challenger_probabilities, p.texts, p.key, p.others, CASE WHEN $8 THEN drawn.weight ELSE 1 END
FROM predictions AS p LEFT JOIN LATERAL (
    SELECT CASE WHEN class IS NULL THEN value ELSE array_position($7::text[], class) - 1 END AS value FROM labels
    WHERE stream = $2 AND key = p.key AND event_time_ms + 0 BETWEEN p.event_time_ms AND p.event_time_ms + $3
    ORDER BY event_time_ms + 0 LIMIT 1
) AS label ON true LEFT JOIN LATERAL (
    SELECT (wanted->>'weight')::float8 AS weight FROM wanted WHERE $8 AND model = p.model AND id = p.id LIMIT 1
) AS drawn ON true
WHERE p.model = {model} AND p.event_time_ms > {after} AND p.event_time_ms <= {until}
ORDER BY p.event_time_ms, p.id
LIMIT $6
"""
_PREDICTED_OF = """
SELECT event_time_ms, id, version, generation, challenger_version, rollout_id, champion, challenger,
       features, NULL::float8, champion_probabilities, challenger_probabilities, texts, key, others
FROM predictions WHERE model = {model} AND event_time_ms > {after} AND event_time_ms <= {until}
ORDER BY event_time_ms, id LIMIT $4
"""
_PREDICTED = _PREDICTED_OF.format(model="$1", after="$2", until="$3")
_PREDICTED_ALL = f"""
SELECT asked.model, predicted.* FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS asked(model, after_ms, until_ms)
CROSS JOIN LATERAL ({_PREDICTED_OF.format(model="asked.model", after="asked.after_ms", until="asked.until_ms")}) AS predicted
"""
_KEEP = """
INSERT INTO history (model, to_ms, id, subject, name, feature, version, reading)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::jsonb[])
ON CONFLICT (model, to_ms, id) DO UPDATE SET sequence = DEFAULT, reading = excluded.reading
"""
_ASKED = """
SELECT event_time_ms, id, challenger_version, champion, challenger, champion_us, challenger_us, others FROM predictions
WHERE model = $1 AND (event_time_ms, id) > ($2, $3) AND event_time_ms <= $4 AND rollout_id = $5 AND champion_us IS NOT NULL
ORDER BY event_time_ms, id LIMIT $6
"""
# By a list of keys, which costs one pass over the labels at worst; a join over days of them may cost one for each row.
_ONLY_LABELS = """
SELECT key, min(event_time_ms),
       CASE WHEN min(class) IS NULL THEN min(value) ELSE array_position($3::text[], min(class)) - 1 END
FROM labels WHERE stream = $1 AND key = ANY($2) GROUP BY key HAVING count(*) = 1
"""
_JOINED = _JOINED_OF.format(model="$1", after="$4", until="$5")
_JOINED_ALL = f"""
SELECT asked.model, joined.* FROM unnest($1::text[], $4::bigint[], $5::bigint[]) AS asked(model, after_ms, until_ms)
CROSS JOIN LATERAL ({_JOINED_OF.format(model="asked.model", after="asked.after_ms", until="asked.until_ms")}) AS joined
"""
_LOCK_ALL = """
SELECT model, watch FROM models WHERE model = ANY($1) ORDER BY model FOR UPDATE
"""
_LEAVE_OPEN = "INSERT INTO published (model, from_ms, next_ms, published) VALUES ($1, $2, $3, $4)"
_OPEN_ALL = "SELECT model, min(next_ms) FROM published WHERE model = ANY($1) GROUP BY model"
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
) AND (NOT $7 OR EXISTS (SELECT FROM wanted WHERE model = p.model AND id = p.id))
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
async def begin_all(pool: asyncpg.Pool, asked: Sequence[ToClose]) -> AsyncIterator[Mapping[str, Together]]:
    """Open units of work on many models, whose rows are locked in order of their names.

    Raises:
        Unavailable: PostgreSQL is away.
    """
    with outages():
        async with pool.acquire() as connection, connection.transaction():
            asked = sorted(asked, key=lambda each: each.model)
            models = [each.model for each in asked]
            locked = await connection.fetch(_LOCK_ALL, models)
            if len(locked) < len(models):
                await connection.execute(_BEGIN_ALL, models)
                locked = await connection.fetch(_LOCK_ALL, models)
            watches = {row["model"]: _watch_of(row["watch"]) if row["watch"] else Watch() for row in locked}
            rows = await _rows_of_all(connection, asked, watches)
            after = [ahead_of(watches[model]) for model in models]
            until = [each.predicted_ms for each in asked]
            predictions = _by_model(
                await connection.fetch(_PREDICTED_ALL, models, after, until, MOST_ROWS + 1)
            )
            first_open = {row[0]: row[1] for row in await connection.fetch(_OPEN_ALL, models)}
            units = {}
            for each in asked:
                name = each.model
                read = rows.get(name, ()), predictions.get(name, ())
                units[name] = Together(each, watches[name], *read, first_open.get(name))
            yield units
            await _keep_all(connection, units)


async def _rows_of_all(
    connection: Connection, asked: Sequence[ToClose], watches: Mapping[str, Watch]
) -> dict[str, list[Row]]:
    alike: dict[LabelStream, list[ToClose]] = {}
    for each in asked:
        alike.setdefault(each.labels, []).append(each)
    found: dict[str, list[Row]] = {}
    for labels, group in alike.items():
        models = [each.model for each in group]
        after, until = [watches[each.model].closed_ms for each in group], [each.until_ms for each in group]
        found |= _by_model(
            await connection.fetch(
                _JOINED_ALL,
                models,
                labels.name,
                labels.within_ms,
                after,
                until,
                MOST_ROWS + 1,
                labels.classes,
                labels.wanted,
            )
        )
    return found


def _by_model(found: Sequence[asyncpg.Record]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    for model, *values in found:
        rows.setdefault(model, []).append(Row(*values))
    return rows


async def _keep_all(connection: Connection, units: Mapping[str, Together]) -> None:
    saved = {model: unit.saved for model, unit in units.items() if unit.saved is not None}
    closed = [watch.closed_ms for watch in saved.values()]
    await connection.execute(_SAVE_ALL, list(saved), [text(watch) for watch in saved.values()], closed)
    kept = [
        (model, series, text(each)) for model, unit in units.items() for series, each in unit.kept.items()
    ]
    if kept:
        await connection.executemany(_KEEP_READINGS, kept)
    opened = [
        (model, published.after[0], next_ms, text(published))
        for model, unit in units.items()
        for published, next_ms in unit.opened
    ]
    if opened:
        await connection.executemany(_LEAVE_OPEN, opened)
    await _tell(connection, [each for unit in units.values() for each in unit.told])


async def _tell(connection: Connection, told: Sequence[News]) -> None:
    """Leave `told` in the outbox, and the readings among it in the history."""
    await outbox.put(connection, list(news.outgoing(told)))
    await keep(connection, [(it.model, it) for it in told if isinstance(it, Reading)])


async def keep(connection: Connection, readings: Sequence[tuple[str, Reading]]) -> None:
    """Keep readings, each with its shelf, in the transaction that tells them; of one that is there twice the last."""
    held = {(shelf, it.id): (shelf, it) for shelf, it in readings}.values()
    if held:
        columns = zip(
            *(
                (shelf, it.to_ms, it.id, it.subject, it.name, it.feature, it.version, text(it))
                for shelf, it in held
            ),
            strict=True,
        )
        await connection.execute(_KEEP, *map(list, columns))


async def fetch_rows(
    connection: Connection | asyncpg.Pool, model: str, labels: LabelStream, after_ms: int, until_ms: int,
    limit: int | None,
) -> list[Row]:  # fmt: skip
    """Return predictions of (after, until] with their labels, in order."""
    found = await connection.fetch(
        _JOINED,
        model,
        labels.name,
        labels.within_ms,
        after_ms,
        until_ms,
        limit,
        labels.classes,
        labels.wanted,
    )
    rows = [Row(*row) for row in found]
    if not labels.late_ms or not rows:
        return rows
    return await _with_late(connection, labels, rows)


async def _with_late(
    connection: Connection | asyncpg.Pool, labels: LabelStream, rows: list[Row]
) -> list[Row]:
    """Return rows with the labels that came later than `within` to those that have none, where their key has no other."""
    wanted = list({row.key for row in rows if row.lacks_label})
    if not wanted:
        return rows
    known = {
        key: (at_ms, value)
        for key, at_ms, value in await connection.fetch(_ONLY_LABELS, labels.name, wanted, labels.classes)
    }
    latest_ms = labels.within_ms + labels.late_ms

    def complete(row: Row) -> Row:
        at_ms, value = known.get(row.key, (-1, None)) if row.lacks_label else (-1, None)
        return row._replace(label=value) if row.at_ms <= at_ms <= row.at_ms + latest_ms else row

    return [complete(row) for row in rows]


async def _whole_instants(
    fetch: Callable[[int, int | None], Awaitable[list[Row]]], until_ms: int, at_most: int | None
) -> tuple[list[Row], int]:
    """Return about `at_most` rows, all of each instant, by `fetch(until, limit)`, and up to when they are complete."""
    rows = await fetch(until_ms, None if at_most is None else at_most + 1)
    if at_most is None or len(rows) <= at_most:
        return rows, until_ms
    last = rows[-1].at_ms
    if whole := [row for row in rows if row.at_ms < last]:
        return whole, last - 1
    return await fetch(last, None), last


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

        async def fetch(until_ms: int, limit: int | None) -> list[Row]:
            return await fetch_rows(self._connection, self._model, labels, after_ms, until_ms, limit)

        return await _whole_instants(fetch, until_ms, at_most)

    async def predictions(
        self, *, after_ms: int, until_ms: int, at_most: int | None = None
    ) -> tuple[list[Row], int]:
        """Return the predictions of (after, until] without their labels, and up to when they are complete."""

        async def fetch(until_ms: int, limit: int | None) -> list[Row]:
            found = await self._connection.fetch(_PREDICTED, self._model, after_ms, until_ms, limit)
            return [Row(*row) for row in found]

        return await _whole_instants(fetch, until_ms, at_most)

    async def asked(
        self, rollout_id: str, *, from_ms: int, after_id: str, until_ms: int, at_most: int
    ) -> list[Asked]:
        """Return the requests of a rollout in which versions were timed, in order."""
        rows = await self._connection.fetch(
            _ASKED, self._model, from_ms, after_id, until_ms, rollout_id, at_most
        )
        return [Asked(*row) for row in rows]

    async def groups(self, labels: LabelStream, *, after_ms: int, until_ms: int) -> dict[str, str]:
        """Return what an event of the very time and key of a prediction says, by the prediction's id, of (after, until]."""
        rows = await self._connection.fetch(
            "SELECT p.id, l.class FROM predictions AS p JOIN labels AS l USING (key, event_time_ms)"
            " WHERE p.model = $1 AND l.stream = $2 AND event_time_ms > $3 AND event_time_ms <= $4",
            self._model, labels.name, after_ms, until_ms,
        )  # fmt: skip
        return {row["id"]: row["class"] for row in rows}

    async def labelled(self, labels: LabelStream, *, after_ms: int, before_ms: int) -> int:
        """Return how many predictions between the two times, both left out, have a label."""
        found: int = await self._connection.fetchval(
            _LABELLED,
            self._model,
            labels.name,
            labels.within_ms,
            after_ms,
            before_ms,
            labels.classes,
            labels.wanted,
        )
        return found

    async def trained_to(self, version: int) -> int | None:
        """Return the event time of the newest row that a version was fitted to, if it is known."""
        found: int | None = await self._connection.fetchval(
            "SELECT trained_to_ms FROM versions WHERE model = $1 AND number = $2", self._model, version
        )
        return found

    async def standing(self, subjects: Sequence[str], kinds: Sequence[str]) -> list[Alert]:
        """Return the alerts of these kinds about any of the subjects that are open, oldest first."""
        rows = await self._connection.fetch(
            "SELECT alert FROM alerts WHERE resolved_ms IS NULL AND subject = ANY($1) AND alert->>'kind' = ANY($2)"
            " ORDER BY at_ms, place",
            list(subjects),
            list(kinds),
        )
        return [_alert_of(row["alert"]) for row in rows]

    async def loop(self, id: str) -> Loop | None:
        """Return a loop."""
        found = await self._connection.fetchval("SELECT loop FROM loops WHERE id = $1", id)
        return loop_of(found) if found else None

    async def loop_of(self, version: int) -> Loop | None:
        """Return the newest loop that gave a version."""
        found = await self._connection.fetchval(
            "SELECT loop FROM loops WHERE model = $1 AND (loop->'version')::bigint = $2 ORDER BY sequence DESC LIMIT 1",
            self._model,
            version,
        )
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

    async def put_wanted(self, wanted: Sequence[WantedLabel]) -> None:
        """Remember which predictions are to be labelled, as long as those are kept."""
        await self._connection.execute(
            "INSERT INTO wanted (model, id, wanted) SELECT $1, * FROM unnest($2::text[], $3::jsonb[])"
            " ON CONFLICT DO NOTHING",
            self._model, [it.id for it in wanted], [text(it) for it in wanted],
        )  # fmt: skip

    async def readings(self, series: str) -> list[Reading]:
        """Return those that are kept of a series."""
        found = await self._connection.fetchval(
            "SELECT readings FROM readings WHERE model = $1 AND series = $2", self._model, series
        )
        return readings_of(found) if found else []

    async def features(self, version: int) -> Sequence[str]:
        """Return what the predictions of a version carry."""
        found: Sequence[str] | None = await self._connection.fetchval(
            "SELECT features FROM versions WHERE model = $1 AND number = $2", self._model, version
        )
        return found or ()

    async def leave_open(self, published: Published, *, next_ms: int, number: int | None = None) -> None:
        """Remember a window that was told until `next_ms`; with a `number`, in the place of what has that."""
        if number is not None:
            await self._connection.execute(
                "UPDATE published SET next_ms = $2, published = $3 WHERE number = $1",
                number,
                next_ms,
                text(published),
            )
            return
        place = (self._model, published.after[0], next_ms)
        await self._connection.execute(_LEAVE_OPEN, *place, text(published))

    async def left_open(self, *, before_ms: int, at_most: int) -> list[tuple[int, Published]]:
        """Return windows that are to be looked at again by `before_ms`, by number, the longest due first."""
        rows = await self._connection.fetch(
            "SELECT number, published FROM published WHERE model = $1 AND next_ms <= $2 ORDER BY next_ms, number LIMIT $3",
            self._model, before_ms, at_most,
        )  # fmt: skip
        return [(row["number"], _published_of(row["published"])) for row in rows]

    async def settle(self, number: int) -> None:
        """Forget a window that was told."""
        await self._connection.execute("DELETE FROM published WHERE number = $1", number)

    async def order_report(self, order: ReportOrder) -> None:
        """Queue a report, once an episode."""
        await self._connection.execute(
            "INSERT INTO reports (episode, report) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            order.episode,
            text(order),
        )

    async def tell(self, told: Sequence[News]) -> None:
        """Leave `told` in the outbox, and the readings among it in the history."""
        await _tell(self._connection, told)
