"""Counts what the doors do, for `metrics.serving` and for whoever asks a door.

Handlers append to a queue, which is atomic; those who read the counts empty it, and a
handler only where nobody has for long.
"""

import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

_MOST_UNREAD, _MOST_WAITING = 50_000, 200_000


@dataclass(frozen=True, slots=True)
class Traffic:
    """What happened to one model's requests in a span of time."""

    model: str
    predictions: int
    failures: int
    p50_ms: float
    """NaN where nothing was answered."""
    p99_ms: float


@dataclass(slots=True)
class Totals:
    """What a version was asked since this process began."""

    rows: int = 0
    requests: int = 0
    """That it answered, wholly or in part."""
    latency_us: int = 0
    """Of those requests, together."""
    failures: int = 0
    failures_us: int = 0
    newest_ms: int = 0
    """When the newest of its requests was answered, by the wall clock."""


class Meter:
    """Takes notes from many threads."""

    def __init__(self) -> None:
        self._notes: deque[tuple[str, Sequence[int], int, int, bool]] = deque()
        self._reading = threading.Lock()
        self._since: deque[tuple[str, int, int]] = deque(maxlen=_MOST_WAITING)
        self._totals: dict[tuple[str, int], Totals] = {}

    def answered(self, model: str, versions: Sequence[int], latency_us: int, at_ms: int) -> None:
        """Note a request that was answered, by a version for each row."""
        self._note(model, versions, latency_us, at_ms, True)

    def failed(self, model: str, version: int, latency_us: int, at_ms: int) -> None:
        """Note a request that was refused or failed, and which version it was for."""
        self._note(model, (version,), latency_us, at_ms, False)

    def take(self) -> list[Traffic]:
        """Return what was noted since the last time, of each model that had traffic."""
        by_model: dict[str, list[tuple[int, int]]] = {}
        with self._reading:
            self._read()
            for model, rows, latency_us in self._since:
                by_model.setdefault(model, []).append((rows, latency_us))
            self._since.clear()
        return [_sum(model, notes) for model, notes in by_model.items()]

    def totals(self) -> Mapping[tuple[str, int], Totals]:
        """Return all that was noted, by model and version."""
        with self._reading:
            self._read()
            return {place: replace(totals) for place, totals in self._totals.items()}

    def _note(self, *note: Any) -> None:
        self._notes.append(note)
        if len(self._notes) > _MOST_UNREAD:  # whoever takes is away, and totals are to stay whole
            with self._reading:
                self._read()

    def _read(self) -> None:
        for _ in range(len(self._notes)):
            model, versions, latency_us, at_ms, is_answered = self._notes.popleft()
            self._since.append((model, len(versions), latency_us) if is_answered else (model, 0, -1))
            counts = {versions[0]: 1} if len(versions) == 1 else Counter(versions)
            for version, count in counts.items():
                totals = self._totals.setdefault((model, version), Totals())
                totals.newest_ms = max(totals.newest_ms, at_ms)
                if is_answered:
                    totals.rows += count
                    totals.requests += 1
                    totals.latency_us += latency_us
                else:
                    totals.failures += 1
                    totals.failures_us += latency_us


def _sum(model: str, notes: list[tuple[int, int]]) -> Traffic:
    latencies = np.array([latency for _, latency in notes if latency >= 0], np.float64) / 1000
    p50, p99 = np.quantile(latencies, (0.5, 0.99)) if len(latencies) else (np.nan, np.nan)
    return Traffic(model, sum(rows for rows, _ in notes), len(notes) - len(latencies), float(p50), float(p99))
