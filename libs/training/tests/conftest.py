"""What all tests of fits have."""

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Fit as a child process does: OpenMP's threads spin, and slow each other where others work."""
    with threadpool_limits(1):
        yield
