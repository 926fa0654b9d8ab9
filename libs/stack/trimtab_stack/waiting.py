"""Waiting for something outside this process: always a poll, always with a deadline."""

import time
from collections.abc import Callable


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
