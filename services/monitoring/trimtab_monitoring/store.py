"""PostgreSQL home of monitoring.

`take` stores what one poll brought in one transaction and lets through what is there
already, so redelivery changes nothing. What is decided about a model goes through a
unit of work (`unit.py`), which locks the model's row.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import asyncpg
import msgspec
from trimtab_core.baseline import Calibration, Uncalibrated
from trimtab_core.watched import Row, Watch
from trimtab_runtime.clock import to_datetime
from trimtab_runtime.postgres import Connection, outages

from trimtab_monitoring import unit
from trimtab_monitoring.errors import BadBatch
from trimtab_monitoring.unit import PostgresUnit, fetch_rows, loop_of, readings_of, text
from trimtab_monitoring.usecases.entities import (
    Arrivals,
    Health,
    Labelled,
    LabelStream,
    Loop,
    Mark,
    Predicted,
    ReportOrder,
    StoredFile,
    Version,
    WantedLabel,
    events_stream,
    predictions_stream,
)
from trimtab_monitoring.usecases.ports import MOST_REPORTED
from trimtab_monitoring.usecases.together import ToClose, Together

_calibration_of = msgspec.json.Decoder(Calibration).decode
_file_of = msgspec.json.Decoder(StoredFile).decode
_order_of = msgspec.json.Decoder(ReportOrder).decode
_wanted_of = msgspec.json.Decoder(WantedLabel).decode
_watch_of = msgspec.json.Decoder(Watch).decode

REPORT_ATTEMPTS = 3

_PREDICTIONS = """
INSERT INTO predictions (model, version, generation, challenger_version, rollout_id,
                         id, key, event_time_ms, champion, challenger, features,
                         champion_probabilities, challenger_probabilities, texts, champion_us, challenger_us, others)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::bigint[],
                     $9::float8[], $10::float8[], $11::bytea[], $12::bytea[], $13::bytea[], $14::bytea[], $15::int[], $16::int[],
                     $17::bytea[])
ON CONFLICT DO NOTHING
"""
_LABELS = """
INSERT INTO labels (stream, key, event_time_ms, value, class)
SELECT $1, * FROM unnest($2::text[], $3::bigint[], $4::float8[], $5::text[])
ON CONFLICT DO NOTHING
"""
_MARKS = """
INSERT INTO marks (stream, instance, partition, partitions, time_ms)
SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::int[], $5::bigint[])
ON CONFLICT (stream, instance, partition) DO UPDATE
SET partitions = excluded.partitions, time_ms = greatest(marks.time_ms, excluded.time_ms), heard_at = now()
"""
_REACH = """
SELECT stream, min(time_ms) AS time_ms, count(*) >= max(partitions) AS complete, max(heard_at) < $2 AS silent
FROM marks WHERE stream = ANY($1) GROUP BY stream, instance
"""
_MOVES = """
SELECT stream, sum(time_ms)::bigint AS sum FROM marks WHERE heard_at > $1 GROUP BY stream
"""
_WANTED = """
SELECT wanted FROM wanted JOIN predictions AS p USING (model, id)
WHERE model = $1 AND NOT EXISTS (
    SELECT FROM labels
    WHERE stream = $2 AND key = p.key AND event_time_ms BETWEEN p.event_time_ms AND p.event_time_ms + $3
)
ORDER BY p.event_time_ms DESC, id LIMIT $4
"""
_FIRST_OF_NEWEST = """
SELECT min(event_time_ms) FROM (
    SELECT event_time_ms FROM predictions
    WHERE model = $1 AND version = $2 AND event_time_ms >= $3 AND event_time_ms < $4 ORDER BY event_time_ms DESC LIMIT $5
) AS newest
"""
_NEXT_REPORT = """
UPDATE reports SET attempts = attempts + 1, tried_at = now()
WHERE episode = (
    SELECT episode FROM reports
    WHERE attempts < $1 AND (tried_at IS NULL OR tried_at < now() - interval '5 minutes')
    ORDER BY sequence LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING report
"""


class PostgresStore:
    """Everything in monitoring's schema."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._features: dict[tuple[str, int], tuple[str, ...]] = {}

    async def take(self, arrivals: Arrivals) -> None:
        """Store predictions, labels and marks together.

        Raises:
            BadBatch: predictions of a version carry other features than before.
        """
        fresh: dict[tuple[str, int], tuple[str, ...]] = {}
        with outages():
            async with self._pool.acquire() as connection, connection.transaction():
                for predicted in arrivals.predicted:
                    await self._know_features(connection, predicted, fresh)
                if arrivals.predicted:
                    await _put_predictions(connection, arrivals.predicted)
                for labelled in arrivals.labelled:
                    await _put_labels(connection, labelled)
                if arrivals.marks:
                    await _put_marks(connection, arrivals.marks)
        self._features |= fresh

    async def _know_features(
        self, connection: Connection, predicted: Predicted, fresh: dict[tuple[str, int], tuple[str, ...]]
    ) -> None:
        """Hold the predictions to the features of their version; `fresh` are those that this transaction states."""
        place = (predicted.model, predicted.version)
        features = self._features.get(place) or fresh.get(place)
        if features is None:
            known = await connection.fetchval(
                "INSERT INTO versions (model, number, features) VALUES ($1, $2, $3) ON CONFLICT (model, number)"
                " DO UPDATE SET features = coalesce(versions.features, excluded.features) RETURNING features",
                *place, predicted.carries,
            )  # fmt: skip
            features = fresh[place] = tuple(known)
        if features != predicted.carries:
            raise BadBatch(
                f"predictions of version {predicted.version} of {predicted.model!r} carry {predicted.carries}, "
                f"and until now carried {features}: a version's features do not change"
            )

    async def reach(
        self, sources: Mapping[str, str], *, silent_ms: int, now_ms: int
    ) -> dict[str, tuple[int, int]]:
        """Return how far the predictions of models have come, and how far the label source of each."""
        streams = {*map(predictions_stream, sources), *map(events_stream, sources.values())}
        with outages():
            rows = await self._pool.fetch(_REACH, list(streams), to_datetime(now_ms - silent_ms))
        writers: dict[str, list[asyncpg.Record]] = {}
        for row in rows:
            writers.setdefault(row["stream"], []).append(row)
        found: dict[str, int] = {}
        for stream, all_of_it in writers.items():
            heard = [row for row in all_of_it if not row["silent"]] or all_of_it
            if all(row["complete"] for row in heard):
                found[stream] = min(row["time_ms"] for row in heard)
        places = {
            model: (predictions_stream(model), events_stream(source)) for model, source in sources.items()
        }
        return {
            model: (found[predictions], found[events])
            for model, (predictions, events) in places.items()
            if predictions in found and events in found
        }

    async def moves(self, *, since_ms: int) -> dict[str, int]:
        """Return by stream the sum of those of its marks that were heard since."""
        with outages():
            rows = await self._pool.fetch(_MOVES, to_datetime(since_ms))
        return {row["stream"]: row["sum"] for row in rows}

    def begin(self, model: str) -> AbstractAsyncContextManager[PostgresUnit]:
        """Open a unit of work on a model."""
        return unit.begin(self._pool, model)

    def begin_all(self, asked: Sequence[ToClose]) -> AbstractAsyncContextManager[Mapping[str, Together]]:
        """Open units of work on many models, in one transaction."""
        return unit.begin_all(self._pool, asked)

    async def put_versions(self, versions: Sequence[Version]) -> None:
        """Remember versions and their references."""
        with outages():
            await self._pool.executemany(
                "INSERT INTO versions (model, number, reference, trained_to_ms) VALUES ($1, $2, $3, $4)"
                " ON CONFLICT (model, number) DO UPDATE SET reference = coalesce(versions.reference, excluded.reference),"
                " trained_to_ms = coalesce(versions.trained_to_ms, excluded.trained_to_ms)",
                [
                    (it.model, it.number, text(it.reference) if it.reference else None, it.trained_to_ms)
                    for it in versions
                ],
            )

    async def version(self, model: str, number: int) -> Version | None:
        """Return a version, with the features that its predictions carry."""
        with outages():
            row = await self._pool.fetchrow(
                "SELECT reference, features, trained_to_ms FROM versions WHERE model = $1 AND number = $2",
                model,
                number,
            )
        if row is None:
            return None
        reference = _file_of(row["reference"]) if row["reference"] else None
        return Version(model, number, reference, tuple(row["features"] or ()), row["trained_to_ms"])

    async def calibration(
        self, model: str, version: int, settings: str
    ) -> tuple[Calibration | Uncalibrated | None, int]:
        """Return what was worked out for a version under `settings`, and of a calibration how many bytes it has as JSON."""
        with outages():
            row = await self._pool.fetchrow(
                "SELECT calibration, fault FROM calibrations WHERE model = $1 AND version = $2 AND settings = $3",
                model, version, settings,
            )  # fmt: skip
        if row is None:
            return None, 0
        if row["fault"]:
            return Uncalibrated(row["fault"]), 0
        return _calibration_of(row["calibration"]), len(row["calibration"])

    async def put_calibration(
        self, model: str, version: int, settings: str, found: Calibration | Uncalibrated
    ) -> None:
        """Keep what was worked out; who works it out again comes to the same."""
        fault = found.fault if isinstance(found, Uncalibrated) else None
        document = None if isinstance(found, Uncalibrated) else text(found)
        with outages():
            await self._pool.execute(
                "INSERT INTO calibrations (model, version, settings, calibration, fault) VALUES ($1, $2, $3, $4, $5)"
                " ON CONFLICT DO NOTHING",
                model, version, settings, document, fault,
            )  # fmt: skip

    async def loops(self, model: str, *, open_only: bool) -> list[Loop]:
        """Return the loops of a model, or of all where it is empty, oldest first."""
        with outages():
            rows = await self._pool.fetch(
                "SELECT loop FROM loops WHERE $1 IN ('', model) AND (open OR NOT $2) ORDER BY sequence",
                model,
                open_only,
            )
        return [loop_of(row["loop"]) for row in rows]

    async def find_loop(self, id: str) -> Loop | None:
        """Return the loop of this id, or the only one whose id begins so."""
        with outages():
            found = await self._pool.fetchval("SELECT loop FROM loops WHERE id = $1", id)
            if found is None and id:
                begun = "SELECT loop FROM loops WHERE starts_with(id, $1) LIMIT 2"
                rows = await self._pool.fetch(begun, id)
                found = rows[0]["loop"] if len(rows) == 1 else None
        return loop_of(found) if found else None

    async def watch(self, model: str) -> Watch:
        """Return what is remembered of a model."""
        with outages():
            held = await self._pool.fetchval("SELECT watch FROM models WHERE model = $1", model)
        return _watch_of(held) if held else Watch()

    async def health(self, model: str) -> Health:
        """Return what is known of a model."""
        watch = await self.watch(model)
        with outages():
            waiting = await self._pool.fetchval(
                "SELECT count(*) FROM predictions WHERE model = $1 AND event_time_ms > $2",
                model,
                watch.closed_ms,
            )
            rows = await self._pool.fetch(
                "SELECT readings FROM readings WHERE model = $1 ORDER BY series", model
            )
        return Health(watch, waiting, [reading for row in rows for reading in readings_of(row["readings"])])

    async def wanted(self, model: str, labels: LabelStream, at_most: int) -> list[WantedLabel]:
        """Return the newest predictions that are to be labelled and have no label yet."""
        with outages():
            rows = await self._pool.fetch(_WANTED, model, labels.name, labels.within_ms, at_most)
        return [_wanted_of(row["wanted"]) for row in rows]

    async def next_report(self) -> ReportOrder | None:
        """Return the oldest report that is still to be made; if it fails, it comes again after five minutes."""
        with outages():
            found = await self._pool.fetchval(_NEXT_REPORT, REPORT_ATTEMPTS)
        return _order_of(found) if found else None

    async def report_done(self, episode: str) -> None:
        """Take a report off the queue."""
        with outages():
            await self._pool.execute("DELETE FROM reports WHERE episode = $1", episode)

    async def report_rows(self, order: ReportOrder) -> list[Row]:
        """Return the rows that a report is about, the newest `MOST_REPORTED` at most."""
        return await self.newest_rows(
            order.model, order.version, order.labels, since_ms=order.from_ms, until_ms=order.to_ms + 1, at_most=MOST_REPORTED
        )  # fmt: skip

    async def newest_rows(
        self, model: str, version: int, labels: LabelStream, *, since_ms: int, until_ms: int, at_most: int
    ) -> list[Row]:
        """Return the newest predictions of a version in [since, until), joined with their labels, in order."""
        with outages():
            first_ms = await self._pool.fetchval(
                _FIRST_OF_NEWEST, model, version, since_ms, until_ms, at_most
            )
            if first_ms is None:
                return []
            rows = await fetch_rows(self._pool, model, labels, first_ms - 1, until_ms - 1, None)
        return [row for row in rows if row.version == version][-at_most:]

    async def reports_from(self, model: str) -> int | None:
        """Return where the rows of the reports of `model` that are still to be made begin; None if there are none."""
        with outages():
            found: int | None = await self._pool.fetchval(
                "SELECT min((report->>'from_ms')::bigint) FROM reports WHERE report->>'model' = $1 AND attempts < $2",
                model,
                REPORT_ATTEMPTS,
            )
        return found

    async def published_from(self, model: str) -> int | None:
        """Return where the windows begin of which labels may still correct what was told; None if there are none."""
        with outages():
            found: int | None = await self._pool.fetchval(
                "SELECT min(from_ms) FROM published WHERE model = $1", model
            )
        return found

    async def forget(self, model: str, *, before_ms: int, at_most: int) -> int:
        """Delete up to `at_most` predictions older than `before_ms`."""
        return await self._delete("predictions", "model", model, before_ms, at_most)

    async def forget_labels(self, stream: str, *, before_ms: int, at_most: int) -> int:
        """Delete up to `at_most` labels older than `before_ms`."""
        return await self._delete("labels", "stream", stream, before_ms, at_most)

    async def _delete(self, table: str, column: str, name: str, before_ms: int, at_most: int) -> int:
        with outages():
            status = await self._pool.execute(
                f"DELETE FROM {table} WHERE ctid = ANY(ARRAY("
                f"SELECT ctid FROM {table} WHERE {column} = $1 AND event_time_ms < $2 LIMIT $3))",
                name, before_ms, at_most,
            )  # fmt: skip
        return int(status.rpartition(" ")[2])


async def _put_predictions(connection: Connection, predicted: Sequence[Predicted]) -> None:
    """Store predictions of several models by one statement, which costs a fleet as little as it costs one model."""
    columns: tuple[list[Any], ...] = tuple([] for _ in range(17))
    for each in predicted:
        rows = len(each.ids)
        none = [None] * rows
        of_all = (each.model, each.version, each.generation, each.challenger_version, each.rollout_id)
        of_each = (
            each.ids, each.keys, each.event_time_ms, each.champion, each.challenger or none, each.features,
            each.champion_probabilities or none, each.challenger_probabilities or none, each.texts or none,
            [us or None for us in each.champion_us or none], [us or None for us in each.challenger_us or none],
            each.others or none,
        )  # fmt: skip
        for column, values in zip(columns, (*([value] * rows for value in of_all), *of_each), strict=True):
            column += values
    await connection.execute(_PREDICTIONS, *columns)


async def _put_labels(connection: Connection, labelled: Labelled) -> None:
    await connection.execute(
        _LABELS, labelled.stream, labelled.keys, labelled.event_time_ms, labelled.values,
        labelled.classes or [None] * len(labelled.keys),
    )  # fmt: skip


async def _put_marks(connection: Connection, marks: Sequence[Mark]) -> None:
    await connection.execute(
        _MARKS,
        [mark.stream for mark in marks],
        [mark.instance for mark in marks],
        [mark.partition for mark in marks],
        [mark.partitions for mark in marks],
        [mark.time_ms for mark in marks],
    )
