"""Waiting: for something outside this process, always a poll with a deadline; and for a coroutine."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def until(holds: Callable[[], bool], *, within: float, every: float = 0.02) -> bool:
    """Poll `holds` every `every` seconds for at most `within` seconds; return whether it came to hold.

    It is asked at least once, and once more at the deadline.
    """
    deadline = time.monotonic() + within
    while not holds():
        left = deadline - time.monotonic()
        if left <= 0:
            return holds()
        time.sleep(min(every, left))
    return True


def finish(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end in a loop of its own, in a thread of its own: the caller's may have a loop already."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(work)).result()
