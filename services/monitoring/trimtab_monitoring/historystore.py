"""PostgreSQL home of the history of readings; the column `model` names the shelf that one stands on."""

from collections.abc import Sequence

import asyncpg
import msgspec
from trimtab_core.watched import Reading
from trimtab_runtime.postgres import outages

from trimtab_monitoring.usecases.history import START, Place, Wanted

_reading_of = msgspec.json.Decoder(Reading).decode

_WANTED = """
FROM history WHERE model = $1 AND ($2::text[] = '{}' OR name = ANY($2)) AND ($3::text[] = '{}' OR feature = ANY($3))
AND $4::bigint IN (0, version) AND $5::text IN ('', subject) AND ($6::bigint IS NULL OR to_ms >= $6)
AND ($7::bigint IS NULL OR to_ms < $7) AND ($8::text[] = '{}' OR coalesce(reading->>'arm', '') = ANY($8))
AND ($9::text[] = '{}' OR coalesce(reading->>'slice', '') = ANY($9))
AND ($10::text[] = '{}' OR coalesce(reading->>'slice', '') <> '' AND coalesce(nullif(reading->>'slice_of', ''), feature) = ANY($10))
"""
_PAGE = f"SELECT to_ms, id, reading {_WANTED} AND (to_ms, id) > ($11::bigint, $12::text) ORDER BY to_ms, id LIMIT $13"
_BEFORE = f"SELECT to_ms, id {_WANTED} ORDER BY to_ms DESC, id DESC OFFSET $11 LIMIT 1"
_POSITION = """
SELECT coalesce(min(sequence) FILTER (WHERE to_ms >= $2::bigint) - 1, max(sequence), 0) FROM history WHERE model = $1
"""
_POSITIONS = """
SELECT model, (SELECT max(sequence) FROM history WHERE history.model = watched.model) AS position
FROM unnest($1::text[]) AS watched (model)
"""
_FORGET = """
DELETE FROM history WHERE ctid = ANY(ARRAY(SELECT ctid FROM history WHERE model = $1 AND to_ms < $2 LIMIT $3))
"""


class PostgresHistory:
    """Readings in monitoring's schema; units of work put them there (`unit.keep`)."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def page(self, wanted: Wanted, after: Place, limit: int) -> list[tuple[Place, Reading]]:
        """Return the first readings behind a place, each with its own, in order of time."""
        with outages():
            rows = await self._pool.fetch(_PAGE, *_filters(wanted), *after, limit)
        return [((row["to_ms"], row["id"]), _reading_of(row["reading"])) for row in rows]

    async def before_newest(self, wanted: Wanted, number: int) -> Place:
        """Return the place behind which the newest `number` readings are."""
        with outages():
            row = await self._pool.fetchrow(_BEFORE, *_filters(wanted), number)
        return (row["to_ms"], row["id"]) if row else START

    async def told(self, shelf: str, after: int, limit: int) -> list[tuple[int, Reading]]:
        """Return readings behind a position, each with its own, in the order in which they were told."""
        with outages():
            rows = await self._pool.fetch(
                "SELECT sequence, reading FROM history WHERE model = $1 AND sequence > $2 ORDER BY sequence LIMIT $3",
                shelf, after, limit,
            )  # fmt: skip
        return [(row["sequence"], _reading_of(row["reading"])) for row in rows]

    async def position(self, shelf: str, since_ms: int | None) -> int:
        """Return the position behind which all readings of windows are that end at or after a time, or the last."""
        with outages():
            found: int = await self._pool.fetchval(_POSITION, shelf, since_ms)
        return found

    async def positions(self, shelves: Sequence[str]) -> dict[str, int]:
        """Return the last position of each shelf that has one."""
        with outages():
            rows = await self._pool.fetch(_POSITIONS, list(shelves))
        return {row["model"]: row["position"] for row in rows if row["position"] is not None}

    async def forget(self, shelf: str, *, before_ms: int, at_most: int) -> int:
        """Delete up to `at_most` readings of windows that ended before a time, and return how many went."""
        with outages():
            status = await self._pool.execute(_FORGET, shelf, before_ms, at_most)
        return int(status.rpartition(" ")[2])


def _filters(wanted: Wanted) -> tuple[object, ...]:
    return (
        wanted.shelf, list(wanted.names), list(wanted.features), wanted.version, wanted.subject, wanted.since_ms,
        wanted.until_ms, list(wanted.arms), list(wanted.slices), list(wanted.slices_of),
    )  # fmt: skip
