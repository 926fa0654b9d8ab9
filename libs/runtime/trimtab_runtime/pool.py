"""The door's threads: they wait for calls together, and each works on the one that it finds.

Nothing is handed from thread to thread where a call finds one free: the thread that
hears of it answers it. One more than may work is there, so that somebody always listens;
what it hears of while the others work is kept, in order, for whichever is done first.

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
from time import perf_counter_ns
from typing import Optional, Protocol

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

    A thread that is none of a pool's has none to take its place. Where nobody is known to wait, the seconds are without end.

    Raises:
        RuntimeError: the machine has no thread left; nothing has changed.
    """
    pool, remaining = _here.pool, _here.remaining
    seconds = math.inf if remaining is None else remaining()
    if pool is None:
        yield seconds
        return
    pool.stand_in()
    try:
        yield seconds
    finally:
        pool.stand_back()


class Job(Protocol):
    """One call."""

    came_ns: int
    """When it came; on the clock of `perf_counter_ns`."""

    def run(self) -> None:
        """Do the work."""
        ...


class Source(Protocol):
    """Where calls come from."""

    def next(self) -> Job | None:
        """Wait for the next call; None once it is closed. Many threads wait at once, and a call is told one of them."""
        ...

    def close(self) -> None:
        """Let those that wait go; no call is under way."""
        ...


@dataclass(slots=True)
class Tally:
    """What one thread, or several together, did so far."""

    calls: int = 0
    waited_ns: int = 0
    """From the coming of calls to when a thread took them."""

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.calls + other.calls, self.waited_ns + other.waited_ns)


class Pool:
    """Threads of which a fixed number work on calls, in the order in which they came."""

    def __init__(self, threads: int) -> None:
        self.size = threads
        self.waited_ns = 0
        """How long the call that was begun last had waited: what one that comes now has before it."""
        self.waiting = 0
        """Calls that were announced and that no thread has begun."""
        self._source: Source | None = None
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._kept: deque[Job] = deque()
        self._working = 0
        self._aside = 0
        self._numbers = 0
        self._threads: dict[threading.Thread, Tally] = {}
        self._left = Tally()
        """By threads that have ended."""

    @property
    def threads(self) -> int:
        """How many there are now."""
        return len(self._threads)

    def serve(self, source: Source) -> None:
        """Begin to work on the calls of `source`."""
        with self._lock:
            self._source = source
            for _ in range(self.size + 1):
                self._begin()

    def announce(self, most: int) -> bool:
        """Say that a call is going to come, and return whether it may: no more than `most` wait."""
        with self._lock:
            if self.waiting >= most:
                return False
            self.waiting += 1
            return True

    def withdraw(self) -> None:
        """Say that a call that was announced does not come."""
        with self._lock:
            self.waiting -= 1
            self._ended.notify_all()

    def tally(self) -> Tally:
        """Return what was done so far."""
        with self._lock:
            return sum(self._threads.values(), self._left)

    def close(self, patience_s: float = 5.0) -> None:
        """End the threads, once all calls that were announced have been worked on.

        After `patience_s` they are left behind, with what they wait for: a call that is stuck may yet have something to say.
        """
        with self._lock:
            source = self._source
            ended = self._ended.wait_for(lambda: not self._working and not self.waiting, patience_s)
        if source is None or not ended:
            return
        source.close()
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(patience_s)

    def stand_in(self) -> None:
        """Have another thread for one that is about to wait."""
        with self._lock:  # what is counted is counted after the thread has begun, which may fail
            if self._kept:  # those that are free listen, and would not see it
                self._begin(self._kept[0])
                self._next_kept()
                self._working += 1
            elif len(self._threads) <= self.size + self._aside + 1:
                self._begin()
            self._aside += 1

    def stand_back(self) -> None:
        """Take a thread back that waited; one that is then too many ends with its next call."""
        with self._lock:
            self._aside -= 1

    def _begin(self, job: Job | None = None) -> None:
        tally = Tally()
        thread = threading.Thread(
            target=self._serve, args=(tally, job), name=f"door-{self._numbers}", daemon=True
        )
        thread.start()
        self._numbers += 1
        self._threads[thread] = tally

    def _serve(self, tally: Tally, job: Job | None) -> None:
        _here.pool, source = self, self._source
        assert source is not None
        while True:
            if job is None:
                if (heard := source.next()) is None:
                    return
                if not self._takes(heard):
                    continue
                job = heard
                del heard  # or the last call's request would live until the next one comes
            self.waited_ns = perf_counter_ns() - job.came_ns
            tally.calls += 1
            tally.waited_ns += self.waited_ns
            try:
                job.run()
            except Exception:  # the edge: this thread has other calls to work on
                log.exception("a call failed outside its handler")
            _here.remaining = None
            job, ends = self._done(tally)
            if ends:
                return

    def _takes(self, job: Job) -> bool:
        """Return whether this thread may work on a call that it heard of; if not, it is kept."""
        with self._lock:
            if self._working < self.size + self._aside:
                self._working += 1
                self.waiting -= 1
                return True
            self._kept.append(job)
            return False

    def _done(self, tally: Tally) -> tuple[Job | None, bool]:
        """Return what this thread is to work on next, if something is kept, and whether it is one too many and ends."""
        with self._lock:
            most = self.size + self._aside
            if self._kept and self._working <= most:
                return self._next_kept(), False
            self._working -= 1
            if not self._working:
                self._ended.notify_all()
            if len(self._threads) <= most + 1:
                return None, False
            del self._threads[threading.current_thread()]
            self._left += tally
            return None, True

    def _next_kept(self) -> Job:
        self.waiting -= 1
        return self._kept.popleft()
