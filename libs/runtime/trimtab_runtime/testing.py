"""What tests of services share: waiting for a condition, with a deadline."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

from trimtab_runtime.pool import Job, Pool

T = TypeVar("T")


async def eventually(
    probe: Callable[[], Awaitable[T]], *, what: str = "condition", deadline_s: float = 120.0
) -> T:
    """Return the first true thing that `probe` answers.

    Raises:
        AssertionError: nothing true came within `deadline_s`; it shows the last answer.
    """
    until = time.monotonic() + deadline_s
    while True:
        last = await probe()
        if last:
            return last
        if time.monotonic() > until:
            raise AssertionError(
                f"{what} did not come about within {deadline_s} s; the last answer was {last!r}"
            )
        await asyncio.sleep(0.02)


class Handed:
    """Calls that a test hands to a pool itself: in the place of a door."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._jobs: SimpleQueue[_Handed | None] = SimpleQueue()
        pool.serve(self)

    def end(self, patience_s: float = 5.0) -> None:
        """End the pool's threads, once what was handed to them is done."""
        self.pool.close(patience_s)

    def submit(self, work: Callable[..., object], *arguments: object) -> None:
        """Have `work(*arguments)` done by one of the threads."""
        assert self.pool.announce(sys.maxsize)
        self._jobs.put(_Handed(partial(work, *arguments)))

    def next(self) -> Job | None:
        """Wait for the next one."""
        job = self._jobs.get()
        if job is None:
            self._jobs.put(None)  # for the next thread
        return job

    def close(self) -> None:
        """Let the threads go."""
        self._jobs.put(None)


class _Handed:
    def __init__(self, work: Callable[[], object]) -> None:
        self.came_ns = time.perf_counter_ns()
        self._work = work

    def run(self) -> None:
        self._work()
