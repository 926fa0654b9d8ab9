"""What all of the trainer's tests have."""

from collections.abc import Iterator

import pytest
import sklearn.ensemble  # noqa: F401 - threads that are not there yet when they are limited are not
from threadpoolctl import threadpool_limits
from trimtab_trainer.nursery import Nursery


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Fit as a child process does: OpenMP's threads spin, and slow each other where others work."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """What the processes of all tests' runs are forked from."""
    with Nursery() as nursery:
        yield nursery
