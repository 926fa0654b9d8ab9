"""A service's own schema in PostgreSQL, brought up to date by numbered files.

Each service keeps to the schema of its name. A migration runs once, whole or not at
all, and whichever of several starting instances comes first runs it.
"""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import resources
from typing import TYPE_CHECKING

import asyncpg

from trimtab_runtime.errors import Unavailable

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
else:
    Connection = asyncpg.Connection
"""A connection, whether it was taken from a pool or not."""

_LOCK = 7_270_001  # advisory lock of migrations
_FILE = re.compile(r"(\d{4})_\w+\.sql")
_AWAY = (
    OSError,  # a timeout is one
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,  # the disk is full, memory or connections have run out
    asyncpg.OperatorInterventionError,  # it is being shut down or started
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,  # a replica that has not been promoted yet
    asyncpg.TransactionRollbackError,  # a deadlock, say: the same again may go well
)
"""What has nothing to do with what was asked, and passes."""


@asynccontextmanager
async def open_pool(dsn: str, schema: str, *, package: str, size: int = 8) -> AsyncIterator[asyncpg.Pool]:
    """Open a pool whose connections see `schema`, with the migrations of `package` applied.

    Raises:
        Unavailable: no PostgreSQL answers at `dsn`.
    """
    with outages():
        pool = await asyncpg.create_pool(
            dsn, min_size=1, max_size=size, server_settings={"search_path": schema}, command_timeout=60
        )
    try:
        with outages():
            await migrate(pool, schema, package)
        yield pool
    finally:
        await pool.close()


@contextmanager
def outages() -> Iterator[None]:
    """Turn the many ways in which PostgreSQL is away into `Unavailable`."""
    try:
        yield
    except _AWAY as error:
        raise Unavailable(f"PostgreSQL is away: {type(error).__name__} {error}".strip()) from error


async def migrate(pool: asyncpg.Pool, schema: str, package: str) -> None:
    """Run those files of `<package>/migrations` that the schema has not seen, in order."""
    folder = resources.files(package) / "migrations"
    files = sorted(
        (entry.name, entry.read_text()) for entry in folder.iterdir() if _FILE.fullmatch(entry.name)
    )
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, at timestamptz DEFAULT now())"
        )
        seen = {row["name"] for row in await connection.fetch("SELECT name FROM migrations")}
        for name, text in files:
            if name not in seen:
                await connection.execute(text)
                await connection.execute("INSERT INTO migrations (name) VALUES ($1)", name)
