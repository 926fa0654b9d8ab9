"""The door's threads: what `grpc.server` needs of a thread pool, and nothing more.

`concurrent.futures` makes a lock, a condition and a future for each call, which at
thousands a second is a twentieth of what a call costs. Here a call is one object, and
the two threads that meet in it, the one that serves and the one that asks to hear of
the end, do so through the atomic operations of a deque.

A call that has to wait says so (`aside`), and another thread takes its place: however
many calls wait, as many as ever are worked on.
"""

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from time import perf_counter_ns
from typing import Any, Optional

log = logging.getLogger(__name__)


class _Here(threading.local):
    """What the call at work on this thread may ask for."""

    pool: Optional["Pool"] = None
    remaining: Callable[[], float] | None = None


_here = _Here()


def working_until(remaining: Callable[[], float]) -> None:
    """Say how the call at work on this thread learns how many seconds its caller still waits."""
    _here.remaining = remaining


@contextmanager
def aside() -> Iterator[float]:
    """Let another thread of the pool take this one's place while it waits; yields the seconds that the caller still does.

    On a thread that is none of a pool's it does nothing, and nobody is known to wait.
    """
    pool, remaining = _here.pool, _here.remaining
    seconds = math.inf if pool is None or remaining is None else remaining()
    if pool is None:
        yield seconds
        return
    pool.stand_in()
    try:
        yield seconds
    finally:
        pool.stand_back()


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


@dataclass(slots=True)
class Tally:
    """What one thread, or several together, did so far."""

    calls: int = 0
    waited_ns: int = 0
    """From the coming of calls to when a thread took them."""

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.calls + other.calls, self.waited_ns + other.waited_ns)


class Pool:
    """A fixed number of threads that take calls in the order in which they came."""

    def __init__(self, threads: int) -> None:
        self.size = threads
        self._waiting: SimpleQueue[Job | None] = SimpleQueue()
        self.waited_ns = 0
        """How long the call that was begun last had waited: what one that comes now has before it."""
        self._lock = threading.Lock()
        self._aside = 0
        self._numbers = 0
        self._threads: dict[threading.Thread, Tally] = {}
        self._left = Tally()
        """By threads that have ended."""
        for _ in range(threads):
            self._begin()

    @property
    def threads(self) -> int:
        """How many there are now."""
        return len(self._threads)

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Job:
        """Have `work(*arguments)` done by one of the threads."""
        job = Job(work, arguments)
        self._waiting.put(job)
        return job

    @property
    def waiting(self) -> int:
        """Calls that no thread has begun."""
        return self._waiting.qsize()

    def tally(self) -> Tally:
        """Return what was done so far."""
        with self._lock:
            return sum(self._threads.values(), self._left)

    def close(self, patience_s: float = 5.0) -> None:
        """End the threads, once what waits is done; one that is stuck is left behind after `patience_s`."""
        with self._lock:
            threads = list(self._threads)
        for _ in threads:
            self._waiting.put(None)
        for thread in threads:
            thread.join(patience_s)

    def stand_in(self) -> None:
        """Have another thread for one that is about to wait."""
        with self._lock:
            self._aside += 1
            if len(self._threads) < self.size + self._aside:
                self._begin()

    def stand_back(self) -> None:
        """Take a thread back that waited; one that is then too many ends with its next call."""
        with self._lock:
            self._aside -= 1

    def _begin(self) -> None:
        tally = Tally()
        thread = threading.Thread(
            target=self._serve, args=(tally,), name=f"door-{self._numbers}", daemon=True
        )
        self._numbers += 1
        self._threads[thread] = tally
        thread.start()

    def _serve(self, tally: Tally) -> None:
        _here.pool = self
        while (job := self._waiting.get()) is not None:
            self.waited_ns = perf_counter_ns() - job.came_ns
            tally.calls += 1
            tally.waited_ns += self.waited_ns
            job.run()
            _here.remaining = None
            del job  # or the last call's request would live until the next one comes
            if len(self._threads) > self.size + self._aside and self._end(tally):
                return

    def _end(self, tally: Tally) -> bool:
        """Return whether this thread is one too many, and then is counted no longer."""
        with self._lock:
            if len(self._threads) <= self.size + self._aside:
                return False
            del self._threads[threading.current_thread()]
            self._left += tally
            return True
