"""Rows of a table as they are where it is kept: a Parquet file, or a query of a PostgreSQL.

Each call blocks. Values come as JSON would have them, so that a contract judges a table
as it judges a stream; a NaN is null. Columns that the spec does not declare stay where
they are.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import asyncpg
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from trimtab_core.specs import PostgresQuery, TableSpec
from trimtab_runtime.errors import TrimtabError, Unavailable
from trimtab_runtime.postgres import outages

from trimtab_ingestion.errors import BadConnections, TableAway, TableUnfit

MOST_ROWS: Final = 200_000
"""Of a table; every reader keeps all of it in memory."""
_CONNECT_S, _QUERY_S = 10.0, 300.0

Rows = list[dict[str, Any]]


def connections(setting: str) -> dict[str, str]:
    """Return the addresses of servers by name.

    Raises:
        BadConnections: the setting is not of the form `name=address name=address`.
    """
    found = {}
    for place, part in enumerate(setting.split(), start=1):
        name, _, address = part.partition("=")
        if not name or not address.startswith(("postgresql://", "postgres://")):
            raise BadConnections(place)
        found[name] = address
    return found


def read(spec: TableSpec, servers: Mapping[str, str]) -> Rows:
    """Return all rows of a table.

    Raises:
        TableUnfit: there are too many, or a column is missing; or the spec names what is not there.
        TableAway: it cannot be read now.
    """
    try:
        if spec.parquet is not None:
            return _of_parquet(spec.parquet, spec)
        assert spec.postgres is not None
        return asyncio.run(_of_postgres(spec.postgres, spec, servers))
    except TrimtabError:
        raise
    except Exception as error:  # the stores behind fsspec fail with errors that share no base
        raise TableAway(f"{_where(spec)} cannot be read: {type(error).__name__}: {error}") from error


def _of_parquet(address: str, spec: TableSpec) -> Rows:
    try:
        with fsspec.open(address, "rb") as file, pq.ParquetFile(file) as parquet:
            _check_columns(spec, parquet.schema_arrow.names)
            _check_count(spec, parquet.metadata.num_rows)
            table = parquet.read(columns=list(spec.fields))
    except FileNotFoundError as error:
        raise TableAway(f"{address} is not there: write the file, or name another") from error
    except pa.ArrowInvalid as error:
        raise TableUnfit(f"{address} is no Parquet file: {error}") from error
    except ImportError as error:
        raise TableUnfit(f"{address} cannot be opened: {error}, beside ingestion") from error
    columns = [[_plain(value) for value in _listed(table[name])] for name in spec.fields]
    return _rows(spec.fields, zip(*columns, strict=True))


async def _of_postgres(asked: PostgresQuery, spec: TableSpec, servers: Mapping[str, str]) -> Rows:
    address = servers.get(asked.connection)
    if address is None:
        known = ", ".join(sorted(servers)) or "none"
        raise TableUnfit(
            f"connection {asked.connection!r} is not among those of TRIMTAB_INGESTION_CONNECTIONS ({known}): "
            "set its address there"
        )
    try:
        with outages():
            found = await _fetched(address, asked, spec)
    except Unavailable as error:
        raise TableAway(f"{_where(spec)} cannot be read: {error}") from error
    except asyncpg.PostgresError as error:
        raise TableUnfit(
            f"{_where(spec)} cannot be asked ({error}): mend the query, or its rights"
        ) from error
    _check_count(spec, len(found))
    return _rows(spec.fields, ([_plain(row[name]) for name in spec.fields] for row in found))


async def _fetched(address: str, asked: PostgresQuery, spec: TableSpec) -> list[asyncpg.Record]:
    try:
        connection = await asyncpg.connect(address, timeout=_CONNECT_S, command_timeout=_QUERY_S)
    except ValueError:
        # What is wrong with the address may be the password, so it is not said.
        raise TableUnfit(
            f"the address of connection {asked.connection!r} is none: mend it in TRIMTAB_INGESTION_CONNECTIONS"
        ) from None
    try:
        async with connection.transaction(readonly=True):
            statement = await connection.prepare(asked.query)
            _check_columns(spec, [each.name for each in statement.get_attributes()])
            cursor = await statement.cursor()
            found = await cursor.fetch(MOST_ROWS + 1)
        await connection.close()
    except asyncpg.ReadOnlySQLTransactionError as error:
        raise TableUnfit(f"{_where(spec)} would write ({error}): write one that reads") from error
    finally:
        connection.terminate()
    return found


def _where(spec: TableSpec) -> str:
    if spec.postgres is not None:
        return f"the query of {spec.postgres.connection}"
    return str(spec.parquet)


def _check_columns(spec: TableSpec, there: Sequence[str]) -> None:
    if missing := [name for name in spec.fields if name not in there]:
        raise TableUnfit(
            f"{_where(spec)} has no column {missing[0]!r}, and the spec declares it; there are "
            f"{', '.join(there) or 'none'}: add the column, or drop the field"
        )


def _check_count(spec: TableSpec, count: int) -> None:
    if count > MOST_ROWS:
        raise TableUnfit(
            f"{_where(spec)} has more than {MOST_ROWS} rows, which every reader would hold in memory: "
            "make it a source, and a feature view of that"
        )


def _rows(names: Iterable[str], values: Iterable[Sequence[Any]]) -> Rows:
    names = list(names)
    return [dict(zip(names, row, strict=True)) for row in values]


def _listed(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    found: list[Any] = column.to_pylist()
    return found


def _plain(value: Any) -> Any:
    """Return a value as JSON has it, where JSON has it."""
    match value:
        case float() if value != value:
            return None
        case Decimal():
            return float(value) if value == value else None
        case date():  # a datetime is one
            return value.isoformat()
        case UUID():
            return str(value)
    return value
