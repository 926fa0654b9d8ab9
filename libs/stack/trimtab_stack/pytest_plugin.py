"""Gives tests the real Kafka and PostgreSQL, started once a run and only if a test asks for them.

Loaded by itself wherever this package is installed. Tests that use these fixtures are marked `real`. All tests share
the two servers, so each uses topics, groups and schemas of its own.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab_stack.stack import Stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A stack of Kafka and PostgreSQL alone; PostgreSQL does not wait for the disk."""
    with (
        tempfile.TemporaryDirectory(prefix="trimtab-stack-") as directory,
        Stack(Path(directory), services={}, fsync=False) as running,
    ):
        yield running


@pytest.fixture(scope="session")
def kafka_servers(stack: Stack) -> str:
    """The bootstrap servers of the real Kafka."""
    return stack.environ["TRIMTAB_KAFKA_SERVERS"]


@pytest.fixture(scope="session")
def postgres_dsn(stack: Stack) -> str:
    """The address of the real PostgreSQL."""
    return stack.environ["TRIMTAB_POSTGRES_DSN"]
