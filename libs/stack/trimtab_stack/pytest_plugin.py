"""Gives tests the real Kafka and PostgreSQL, started once a file, and a schema registry, an MLflow server and a Ray cluster, once a process of tests.

Each is started only if a test asks for it; tests that do are marked `real`. A file's tests share the servers, so each uses topics, groups,
schemas and subjects of its own; what other files left behind no file meets, in whichever order they run. With TRIMTAB_TEST_KAFKA_SERVERS or TRIMTAB_TEST_POSTGRES_DSN set, that server is used in place of one of our own.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab_stack.stack import Stack
from trimtab_stack.testing import ApicurioRegistry, MLflowServer, ray_cluster
from trimtab_stack.wiring import KAFKA_SERVERS, POSTGRES_DSN

_GIVEN = {"TRIMTAB_TEST_KAFKA_SERVERS": KAFKA_SERVERS, "TRIMTAB_TEST_POSTGRES_DSN": POSTGRES_DSN}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A stack of Kafka and PostgreSQL alone; PostgreSQL does not wait for the disk."""
    given = os.environ.copy()  # noqa: TID251  a test run is configured by its environment
    environ = {name: given[test_name] for test_name, name in _GIVEN.items() if test_name in given}
    with (
        tempfile.TemporaryDirectory(prefix="trimtab-stack-") as directory,
        Stack(Path(directory), services={}, environ=environ, fsync=False) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def kafka_servers(stack: Stack) -> str:
    """The bootstrap servers of the real Kafka."""
    return stack.environ[KAFKA_SERVERS]


@pytest.fixture(scope="module")
def postgres_dsn(stack: Stack) -> str:
    """The address of the real PostgreSQL."""
    return stack.environ[POSTGRES_DSN]


@pytest.fixture(scope="session")
def schema_registry() -> Iterator[ApicurioRegistry]:
    """A schema registry that runs; a test may kill it, and starts it again."""
    with tempfile.TemporaryDirectory(prefix="trimtab-schemas-") as directory:
        registry = ApicurioRegistry(Path(directory))
        registry.start()
        yield registry
        registry.stop()


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """The address of a Ray cluster of two CPUs; a test may end its workers."""
    with pytest.MonkeyPatch.context() as environ:  # which those that connect to it share
        environ.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environ.setenv("RAY_AUTH_MODE", "disabled")  # or Ray writes a token into this user's home
        environ.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # or it takes this machine's other address
        with ray_cluster() as address:
            yield address


@pytest.fixture(scope="session")
def mlflow_server() -> Iterator[MLflowServer]:
    """An MLflow server that runs; a test may kill it, and starts it again."""
    with tempfile.TemporaryDirectory(prefix="trimtab-mlflow-") as directory:
        server = MLflowServer(Path(directory))
        server.start()
        yield server
        server.stop()
