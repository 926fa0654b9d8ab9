"""Tables from a real Parquet file and a real PostgreSQL, loaded by a process that is killed."""

import asyncio
import itertools
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import json_format
from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import Resource
from trimtab_core import specs
from trimtab_core.lookup import FROM_EVER, Version
from trimtab_runtime import bus, records
from trimtab_runtime.admin import ensure_topics
from trimtab_runtime.pipeline import read_partition
from trimtab_runtime.records import Outgoing
from trimtab_runtime.reftables import RefTables
from trimtab_runtime.specbook import SpecBook
from trimtab_runtime.testing import eventually
from trimtab_stack import environment, ports
from trimtab_stack.services import ServiceProcess

pytestmark = pytest.mark.real
LEAD_MS = 4_000


class World:
    """One ingestion, and tables that are where it loads them from."""

    def __init__(self, servers: str, dsn: str, path: Path) -> None:
        self.servers, self.dsn, self.path = servers, dsn, path
        self.name = uuid.uuid4().hex[:8]
        self.book = SpecBook()
        environ = {
            **environment.inherited(),
            "TRIMTAB_KAFKA_SERVERS": servers,
            "TRIMTAB_GRPC_ADDRESS": f"127.0.0.1:{ports.choose()}",
            "TRIMTAB_INSTANCE": f"ingestion-{self.name}",
            "TRIMTAB_INGESTION_CONNECTIONS": f"nobody=postgresql://127.0.0.1:1/x real={dsn}",
            "TRIMTAB_INGESTION_TABLE_LEAD_S": str(LEAD_MS / 1000),
        }
        self.process = ServiceProcess("ingestion", 0, environ, path / "ingestion.log")

    def file(self, table: str) -> Path:
        return self.path / f"{table}.parquet"

    def write(self, table: str, **areas: float) -> None:
        rows = pa.table({"zone": list(areas), "area": list(areas.values())})
        pq.write_table(rows, self.file(f"{table}.new"))
        self.file(f"{table}.new").rename(self.file(table))

    async def apply(self, table: str, **where: Any) -> str:
        """Make a table's topic and publish its spec, as the registry does; return its whole name."""
        name = f"{table}-{self.name}"
        fields = {"zone": {"type": "string"}, "area": {"type": "number"}}
        spec = {"key": "zone", "refresh": "1s", "fields": fields, **where}
        found = specs.parse("Table", {"metadata": {"name": name}, "spec": spec})
        self.book.put(found)
        await ensure_topics(self.servers, [*topics.STATIC, topics.TABLES.named(name)])
        resource = Resource(kind="Table", name=name, generation=1)
        json_format.ParseDict(specs.to_document(found), resource.document)
        async with bus.open_producer(self.servers) as producer:
            record = Outgoing(topics.SPECS.name, found.key.encode(), topics.SPECS.encode(resource), [])
            await records.send_all(producer, [record])
        return name

    async def query(self, *statements: str) -> None:
        connection = await asyncpg.connect(self.dsn)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    async def tables(self) -> RefTables:
        """Return all tables as they are on their topics."""
        found = RefTables(self.book)
        for topic in found.update():
            async for batch in read_partition(self.servers, topic, 0):
                found.apply(topic, batch)
        return found

    async def since(self, table: str, zone: str, area: float | None) -> int:
        """Return since when a zone is of an area, once that has been loaded."""

        async def probe() -> list[int]:
            held = (await self.tables()).all[table].lookup.versions.get(zone, {})
            is_that = [since for since, version in held.items() if _area(version) == area]
            return is_that[-1:]

        return (await eventually(probe, what=f"{table} of {zone} is {area}"))[0]

    async def alerts(self) -> list[tuple[str, str]]:
        found = []
        for partition in range(topics.ALERTS.partitions):
            async for batch in read_partition(self.servers, topics.ALERTS.name, partition):
                found += [topics.ALERTS.decode(record.value) for record in batch]
        return [(each.subject, each.sentence) for each in found if each.subject.endswith(self.name)]


def _area(version: Version) -> float | None:
    return None if version.row is None else float(version.row["area"])


@pytest.fixture(scope="module")
def world(kafka_servers: str, postgres_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(kafka_servers, postgres_dsn, tmp_path_factory.mktemp("ingestion"))
    asyncio.run(ensure_topics(kafka_servers, topics.STATIC))
    made.process.start()
    yield made
    made.process.kill()


async def test_tables_of_a_file_and_of_a_query_are_loaded_and_change_whoever_is_killed(world: World) -> None:
    world.write("file", a=1.0, b=2.0)
    await world.query(
        f'create table "{world.name}" (zone text, area numeric)',
        f"insert into \"{world.name}\" values ('a', 1), ('c', 3)",
    )
    of_file = await world.apply("file", parquet=str(world.file("file")))
    query = f'select zone, area, now() as ignored from "{world.name}"'
    of_query = await world.apply("query", postgres={"query": query, "connection": "real"})
    assert [await world.since(table, "a", 1.0) for table in (of_file, of_query)] == [FROM_EVER, FROM_EVER]

    world.write("file", a=5.0, b=2.0)
    await world.query(
        f"update \"{world.name}\" set area = 5 where zone = 'a'; delete from \"{world.name}\" where zone = 'c'"
    )
    world.process.kill()
    world.process.start()
    of_change = await world.since(of_file, "a", 5.0)
    assert await world.since(of_query, "c", None) == await world.since(of_query, "a", 5.0)

    tables = (await world.tables()).all
    lookup = tables[of_file].lookup
    assert lookup.values(["a", "a", "b"], [of_change - 1, of_change, of_change]).tolist() == [[1], [5], [2]]
    for held in (*tables[of_file].lookup.versions.values(), *tables[of_query].lookup.versions.values()):
        areas = [_area(version) for _, version in sorted(held.items())]
        assert all(one != other for one, other in itertools.pairwise(areas)), "a version is there twice"


async def test_a_table_that_cannot_be_read_stays_what_it_was_with_one_alert_until_it_is_well_and_one_then(
    world: World,
) -> None:
    world.write("away", a=1.0)
    name = await world.apply("away", parquet=str(world.file("away")))
    nobody = await world.apply("nobody", postgres={"query": "select 1", "connection": "nobody"})
    writes = await world.apply(
        "writes", postgres={"query": f'drop table "{world.name}"', "connection": "real"}
    )
    await world.since(name, "a", 1.0)
    world.file("away").unlink()

    async def told() -> set[str]:
        alerts = {subject for subject, _ in await world.alerts()}
        return alerts if {name, nobody, writes} <= alerts else set()

    await eventually(told, what="alerts")
    world.write("away", a=2.0)
    await world.since(name, "a", 2.0)

    alerts = await world.alerts()
    assert sorted(subject for subject, _ in alerts) == sorted([name, name, nobody, writes])
    assert [said for subject, said in alerts if subject == name][1] == f"table {name!r} is loaded again"
    said = dict(reversed(alerts))
    assert said[name].endswith(f"{world.file('away')} is not there: write the file, or name another")
    assert "the query of nobody cannot be read: PostgreSQL is away: " in said[nobody]
    assert "the query of real " in said[writes]
    await world.query(f'select * from "{world.name}"')
