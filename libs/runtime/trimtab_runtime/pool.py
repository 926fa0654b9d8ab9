"""The door's threads: what `grpc.server` needs of a thread pool, and nothing more.

`concurrent.futures` makes a lock, a condition and a future for each call, which at
thousands a second is a twentieth of what a call costs. Here a call is one object, and
the two threads that meet in it, the one that serves and the one that asks to hear of
the end, do so through the atomic operations of a deque.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from time import perf_counter_ns
from typing import Any

log = logging.getLogger(__name__)


class Job:
    """One call that waits, runs or has ended."""

    __slots__ = ("_arguments", "_ended", "_hearers", "_work", "came_ns")

    def __init__(self, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.came_ns = perf_counter_ns()
        """When it came; on the clock of `perf_counter_ns`."""
        self._work = work
        self._arguments = arguments
        self._hearers: deque[Callable[[Any], Any]] = deque()
        self._ended = False

    def add_done_callback(self, hear: Callable[[Any], Any]) -> None:
        """Call `hear` once, when the call has ended."""
        self._hearers.append(hear)
        if self._ended:
            self._tell()

    def run(self) -> None:
        """Do the work, and tell of its end."""
        try:
            self._work(*self._arguments)
        except Exception:  # the edge: grpc answers its caller itself, and this thread has others to serve
            log.exception("a call failed outside its handler")
        self._ended = True
        self._tell()

    def _tell(self) -> None:
        """Call whoever waits; of two threads that come here at once, one gets each hearer."""
        while self._hearers:
            try:
                hear = self._hearers.popleft()
            except IndexError:
                return
            hear(self)


class Pool:
    """A fixed number of threads that take calls in the order in which they came."""

    def __init__(self, threads: int) -> None:
        self._waiting: SimpleQueue[Job | None] = SimpleQueue()
        self.waited_ns = 0
        """How long the call that was begun last had waited: what one that comes now has before it."""
        self._threads = [
            threading.Thread(target=self._serve, name=f"door-{at}", daemon=True) for at in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Job:
        """Have `work(*arguments)` done by one of the threads."""
        job = Job(work, arguments)
        self._waiting.put(job)
        return job

    @property
    def waiting(self) -> int:
        """Calls that no thread has begun."""
        return self._waiting.qsize()

    def close(self, patience_s: float = 5.0) -> None:
        """End the threads, once what waits is done; one that is stuck is left behind after `patience_s`."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join(patience_s)

    def _serve(self) -> None:
        while (job := self._waiting.get()) is not None:
            self.waited_ns = perf_counter_ns() - job.came_ns
            job.run()
            del job  # or the last call's request would live until the next one comes
