"""Graphs in memory, within a budget: what was asked least recently goes first, and comes back when it is asked.

A version holds the `Entry` of its file, and versions with the same file the same one.
An entry without a session is cold: whoever asks it waits until it is open again, for
as long as its caller waits. Going cold takes nothing from a request that has begun.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from time import monotonic, monotonic_ns
from typing import Any
from weakref import WeakValueDictionary

from trimtab_runtime import pool
from trimtab_runtime.errors import Unavailable

from trimtab_serving.engines import Engine, Session
from trimtab_serving.errors import ModelBusy

log = logging.getLogger(__name__)

PATIENCE_S = 30.0
"""How long a request waits for a graph, if its caller does not say that it waits less."""
LOADS = 2
"""At once."""
MOST_WAITING = 128
"""Requests for one cold graph; one more is told to come back later."""


class Entry:
    """One file as a graph: in memory, or cold."""

    def __init__(self, name: str, digest: str, content: Callable[[], bytes], cache: "SessionCache") -> None:
        self.name = name
        self.digest = digest
        self.size = 0
        """Bytes that it takes while it is in memory."""
        self.used_ns = 0
        """When it was last asked, on a clock of its own."""
        self.warm: Session | None = None
        self.content = content
        self.loading = threading.Lock()
        self.room = threading.Semaphore(MOST_WAITING)
        self._cache = cache

    def session(self) -> Session:
        """Return the graph, and load it first if it is cold.

        Raises:
            ModelBusy: too many wait for it.
            Unavailable, CannotServe: it cannot be had.
        """
        self.used_ns = monotonic_ns()
        return self.warm or self._cache.reopen(self)

    def forget(self, session: Session) -> None:
        """Count `session` as gone, unless it has been loaded again already."""
        if self.warm is session:
            self.warm = None


class SessionCache:
    """The graphs of one process."""

    def __init__(self, engine: Engine, budget_bytes: int) -> None:
        self._engine = engine
        self._budget = budget_bytes
        self._entries: WeakValueDictionary[str, Entry] = WeakValueDictionary()
        self._kept: Collection[str] = ()
        self._lock = threading.Lock()
        self._loads = threading.Semaphore(LOADS)
        self.reopened = 0
        """How often a graph was asked that was cold."""

    def open(self, name: str, digest: str, content: Callable[[], bytes]) -> Entry:
        """Return the entry of a file, warm; others may go cold for it.

        Raises:
            CannotServe, Unavailable: it cannot be opened.
        """
        with self._lock:
            entry = self._entries.get(digest) or Entry(name, digest, content, self)
            self._entries[digest] = entry
        with entry.loading:
            if entry.warm is None:
                self._load(entry)
        return entry

    def keep(self, digests: Collection[str]) -> None:
        """Never let go of these, asked or not."""
        self._kept = digests

    def reopen(self, entry: Entry) -> Session:
        """Return the graph of an entry that went cold."""
        with pool.aside() as remaining_s, _waiting(entry):
            until = monotonic() + min(remaining_s, PATIENCE_S)
            with _taken(entry.loading, until, entry):
                if (warm := entry.warm) is not None:
                    return warm
                with _taken(self._loads, until, entry):
                    self.reopened += 1
                    return self._load(entry)

    def used_bytes(self) -> int:
        """Return how much of the budget is taken."""
        return sum(entry.size for entry in list(self._entries.values()) if entry.warm is not None)

    def _load(self, entry: Entry) -> Session:
        session = self._engine.load(entry.name, entry.content())
        entry.size, entry.used_ns = session.size, monotonic_ns()
        entry.warm = session
        self._make_room(entry)
        return session

    def _make_room(self, newest: Entry) -> None:
        with self._lock:
            warm = [entry for entry in list(self._entries.values()) if entry.warm is not None]
            taken = sum(entry.size for entry in warm)
            for entry in sorted(warm, key=lambda entry: entry.used_ns):
                if taken <= self._budget:
                    return
                if entry is not newest and entry.digest not in self._kept:
                    entry.warm = None
                    taken -= entry.size
        if taken > self._budget:
            log.warning(
                "the versions that have to stay in memory take %d MB: raise TRIMTAB_SERVING_MODEL_MEMORY_MB",
                taken >> 20,
            )


@contextmanager
def _waiting(entry: Entry) -> Iterator[None]:
    if not entry.room.acquire(blocking=False):
        raise ModelBusy(entry.name, MOST_WAITING)
    try:
        yield
    finally:
        entry.room.release()


@contextmanager
def _taken(lock: Any, until: float, entry: Entry) -> Iterator[None]:
    if not lock.acquire(timeout=max(0.0, until - monotonic())):
        raise Unavailable(f"{entry.name} was not loaded in time: ask again")
    try:
        yield
    finally:
        lock.release()
