"""Gives tests the real Kafka and PostgreSQL, a real schema registry and a real MLflow, each started once a run and only if a test asks for them.

Tests that use these fixtures are marked `real`. All share the servers, so each uses topics, groups, schemas and subjects of its
own. With TRIMTAB_TEST_KAFKA_SERVERS or TRIMTAB_TEST_POSTGRES_DSN set, that server is used in place of one of our own.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab_stack.stack import Stack
from trimtab_stack.testing import ApicurioRegistry, MLflowServer
from trimtab_stack.wiring import KAFKA_SERVERS, POSTGRES_DSN

_GIVEN = {"TRIMTAB_TEST_KAFKA_SERVERS": KAFKA_SERVERS, "TRIMTAB_TEST_POSTGRES_DSN": POSTGRES_DSN}


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A stack of Kafka and PostgreSQL alone; PostgreSQL does not wait for the disk."""
    given = os.environ.copy()  # noqa: TID251  a test run is configured by its environment
    environ = {name: given[test_name] for test_name, name in _GIVEN.items() if test_name in given}
    with (
        tempfile.TemporaryDirectory(prefix="trimtab-stack-") as directory,
        Stack(Path(directory), services={}, environ=environ, fsync=False) as running,
    ):
        yield running


@pytest.fixture(scope="session")
def kafka_servers(stack: Stack) -> str:
    """The bootstrap servers of the real Kafka."""
    return stack.environ[KAFKA_SERVERS]


@pytest.fixture(scope="session")
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
def mlflow_server() -> Iterator[MLflowServer]:
    """An MLflow server that runs; a test may kill it, and starts it again."""
    with tempfile.TemporaryDirectory(prefix="trimtab-mlflow-") as directory:
        server = MLflowServer(Path(directory))
        server.start()
        yield server
        server.stop()
