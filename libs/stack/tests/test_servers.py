"""The real Kafka and the real PostgreSQL keep what they acknowledged, whatever ends them."""

from pathlib import Path
import pytest

pytestmark = pytest.mark.real


def test_first(kafka_servers: str, postgres_dsn: str) -> None:
    assert kafka_servers and postgres_dsn
