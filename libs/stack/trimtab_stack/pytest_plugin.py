"""Gives tests the real Kafka and PostgreSQL, a schema registry and an MLflow server, each started once a process of tests, and a Ray cluster.

Each is started only if a test asks for it; tests that do are marked `real`. A file's tests share the servers, so each uses topics, groups,
schemas and subjects of its own; what other files left behind no file meets, in whichever order they run: each has a database of its own, and
when it ends its topics are deleted. In the end all are killed, for an orderly end takes up to 20 s and what they keep is thrown away.
"""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import asyncpg
import pytest
from aiokafka.errors import for_code
from trimtab_runtime.admin import administering

from trimtab_stack import ports
from trimtab_stack.kafka import Kafka
from trimtab_stack.postgres import DATABASE, Postgres
from trimtab_stack.testing import ApicurioRegistry, MLflowServer, ray_cluster
from trimtab_stack.waiting import finish
from trimtab_stack.wiring import KAFKA_SERVERS, POSTGRES_DSN

_DELETED_WITHIN_S, _BETWEEN_S = 60.0, 0.05


@pytest.fixture(scope="session")
def kafka_for_all() -> Iterator[Kafka]:
    """A broker that runs; no test may kill it."""
    with tempfile.TemporaryDirectory(prefix="trimtab-kafka-", ignore_cleanup_errors=True) as directory:
        kafka = Kafka(Path(directory), ports.choose())
        kafka.start()
        yield kafka
        kafka.kill()


@pytest.fixture(scope="session")
def postgres_for_all() -> Iterator[Postgres]:
    """A PostgreSQL that runs and does not wait for the disk; no test may kill it."""
    with tempfile.TemporaryDirectory(prefix="trimtab-postgres-", ignore_cleanup_errors=True) as directory:
        postgres = Postgres(Path(directory), ports.choose(), fsync=False)
        postgres.start()
        yield postgres
        postgres.stop()


@pytest.fixture(scope="module")
def kafka_servers(kafka_for_all: Kafka) -> Iterator[str]:
    """The bootstrap servers of the real Kafka, on which no other file's topics are."""
    yield kafka_for_all.servers
    finish(delete_topics(kafka_for_all.servers))


@pytest.fixture(scope="module")
def postgres_dsn(postgres_for_all: Postgres, request: pytest.FixtureRequest) -> str:
    """The address of an empty database of the real PostgreSQL."""
    name = request.path.stem
    finish(_create_database(postgres_for_all.dsn, name))
    return postgres_for_all.dsn.removesuffix(DATABASE) + name


@pytest.fixture(scope="module")
def server_environ(kafka_servers: str, postgres_dsn: str) -> dict[str, str]:
    """The variables that tell a process of both."""
    return {KAFKA_SERVERS: kafka_servers, POSTGRES_DSN: postgres_dsn}


@pytest.fixture(scope="session")
def schema_registry() -> Iterator[ApicurioRegistry]:
    """A schema registry that runs; a test may kill it, and starts it again."""
    with tempfile.TemporaryDirectory(prefix="trimtab-schemas-", ignore_cleanup_errors=True) as directory:
        registry = ApicurioRegistry(Path(directory))
        registry.start()
        yield registry
        registry.kill()


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """The address of a Ray cluster of two CPUs, for one file, since it is never idle; a test may end its workers."""
    with pytest.MonkeyPatch.context() as environ:  # which those that connect to it share
        environ.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environ.setenv("RAY_AUTH_MODE", "disabled")  # or Ray writes a token into this user's home
        environ.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # or it takes this machine's other address
        with ray_cluster() as address:
            yield address


@pytest.fixture(scope="session")
def mlflow_server() -> Iterator[MLflowServer]:
    """An MLflow server that runs; a test may kill it, and starts it again."""
    with tempfile.TemporaryDirectory(prefix="trimtab-mlflow-", ignore_cleanup_errors=True) as directory:
        server = MLflowServer(Path(directory))
        server.start()
        yield server
        server.kill()


async def _create_database(dsn: str, name: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()


async def delete_topics(servers: str) -> None:
    """Delete all topics but Kafka's own, and return once there are none.

    Raises:
        TimeoutError: some are still there after a minute; it says what Kafka answered.
    """
    until, failures = monotonic() + _DELETED_WITHIN_S, dict[str, str]()
    async with administering(servers) as admin:
        while names := [name for name in await admin.list_topics() if not name.startswith("__")]:
            if monotonic() > until:
                raise TimeoutError(f"Kafka still has {names} after {_DELETED_WITHIN_S:.0f} s: {failures}")
            answer = await admin.delete_topics(names)
            failures = {name: for_code(code).__name__ for name, code in answer.topic_error_codes if code}
            if failures:
                await asyncio.sleep(_BETWEEN_S)
