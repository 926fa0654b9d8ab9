from collections.abc import Mapping
from pathlib import Path

import pytest

FAKES = Path(__file__).with_name("fakes")


@pytest.fixture
def fake_environ() -> Mapping[str, str]:
    """What lets a stack run `trimtab_fake`, against servers that it never talks to."""
    return {
        "PYTHONPATH": str(FAKES),
        "TRIMTAB_KAFKA_SERVERS": "127.0.0.1:1",
        "TRIMTAB_POSTGRES_DSN": "postgresql://nowhere",
    }
