"""What tests of services share: waiting for a condition, with a deadline."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

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
