"""The real Kafka and the real PostgreSQL keep what they acknowledged, whatever ends them."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from trimtab_stack import ports, supervisor
from trimtab_stack.catalogue import create_static_topics
from trimtab_stack.errors import DidNotStart, PortInUse
from trimtab_stack.kafka import Kafka
from trimtab_stack.postgres import Postgres
from trimtab_stack.privileges import NOBODY, Privileges
from trimtab_stack.waiting import until

pytestmark = pytest.mark.real


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[Kafka]:
    broker = Kafka(tmp_path / "Zoë's data", ports.choose())
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[Postgres]:
    server = Postgres(tmp_path, ports.choose())
    server.start()
    yield server
    server.kill()


async def produce(servers: str, *values: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=servers, acks="all") as producer:
        for value in values:
            await producer.send_and_wait("t", value)


async def consume(servers: str, count: int) -> list[bytes]:
    async with AIOKafkaConsumer("t", bootstrap_servers=servers, auto_offset_reset="earliest") as consumer:
        return [(await consumer.getone()).value for _ in range(count)]


async def create_topic(servers: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic("t", num_partitions=1, replication_factor=1)])
    await admin.close()


async def topics(servers: str) -> set[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    names = await admin.list_topics()
    await admin.close()
    return set(names)


async def run(dsn: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


async def test_kafka_killed_and_started_again_has_all_it_acknowledged(kafka: Kafka) -> None:
    await create_topic(kafka.servers)
    await produce(kafka.servers, b"before", b"the crash")

    kafka.kill()
    kafka.start()
    await produce(kafka.servers, b"after")

    assert await consume(kafka.servers, 3) == [b"before", b"the crash", b"after"]


async def test_a_kafka_that_was_stopped_says_so_and_starts_again(kafka: Kafka) -> None:
    await create_topic(kafka.servers)

    kafka.stop()
    assert "Transition from SHUTTING_DOWN to SHUTDOWN" in kafka.log.read_text()
    kafka.start()

    assert await topics(kafka.servers) == {"t"}


def test_a_kafka_that_cannot_read_its_data_names_its_log(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "meta.properties").write_text("version=1\ncluster.id=A\nnode.id=7\n")
    broker = Kafka(tmp_path, ports.choose())

    with pytest.raises(
        DidNotStart, match=rf"^Kafka did not start: it ended with .*; its log is {broker.log}$"
    ):
        broker.start()


@pytest.mark.parametrize(("kind", "name"), [(Kafka, "Kafka"), (Postgres, "PostgreSQL")])
def test_a_server_whose_port_is_taken_says_so(
    kind: type[Kafka] | type[Postgres], name: str, tmp_path: Path
) -> None:
    with socket.create_server((ports.LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            PortInUse, match=f"^port {port} of {name} is in use by another process: stop that"
        ):
            kind(tmp_path, port).start()


async def test_the_topics_of_the_catalogue_can_be_made_twice(kafka_servers: str) -> None:
    create_static_topics(kafka_servers)
    create_static_topics(kafka_servers)

    assert {"runs", "deployments", "deadletter"} <= await topics(kafka_servers)


async def test_postgres_killed_under_a_client_and_started_again_has_all_it_committed(
    postgres: Postgres,
) -> None:
    client = await asyncpg.connect(postgres.dsn)
    await client.execute("create table kept as select 7 as n")

    postgres.kill()
    postgres.start()

    client.terminate()
    assert [row["n"] for row in await run(postgres.dsn, "select n from kept")] == [7]


async def test_postgres_stops_without_waiting_for_its_clients(postgres: Postgres) -> None:
    client = await asyncpg.connect(postgres.dsn)

    postgres.stop()

    client.terminate()
    assert "database system is shut down" in postgres.log.read_text()


async def test_a_lock_file_whose_pid_went_to_another_program_does_not_matter(
    postgres: Postgres, tmp_path: Path
) -> None:
    lock = tmp_path / "data" / "postmaster.pid"
    held = lock.read_text().splitlines()
    postgres.kill()
    lock.write_text("\n".join([str(os.getpid()), *held[1:]]) + "\n")

    postgres.start()

    assert await run(postgres.dsn, "select 1")


async def test_a_data_directory_that_was_half_made_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "data.new").mkdir()
    (tmp_path / "data.new" / "PG_VERSION").touch()
    server = Postgres(tmp_path, ports.choose())

    server.start()

    assert (await run(server.dsn, "select current_database() as name"))[0]["name"] == "trimtab"
    server.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_postgres_runs_as_nobody_where_there_are_no_user_namespaces(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    server = Postgres(tmp_path, ports.choose(), privileges=Privileges(user=NOBODY))

    server.start()

    assert await run(server.dsn, "select 1")
    assert (tmp_path / "data").stat().st_uid == NOBODY
    server.kill()


async def test_the_real_servers_die_with_their_supervisor_and_come_back_with_their_data(
    tmp_path: Path,
) -> None:
    up = supervisor.up(tmp_path, services=())
    assert up.owner
    dsn, servers = up.environ["TRIMTAB_POSTGRES_DSN"], up.environ["TRIMTAB_KAFKA_SERVERS"]
    await create_topic(servers)
    await run(dsn, "create table kept ()")

    os.kill(up.owner.pid, signal.SIGKILL)
    assert until(lambda: not any(identity.alive for identity in up.processes.values()), within=60)

    assert supervisor.up(tmp_path, services=()).environ == up.environ
    assert await run(dsn, "select * from kept") == []
    assert await topics(servers) == {"t"}
    assert supervisor.down(tmp_path)
