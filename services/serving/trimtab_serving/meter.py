"""Counts what the doors do, for `metrics.serving`.

Handlers only append to a queue, which is atomic; the control plane empties it.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

_MOST_WAITING = 200_000


@dataclass(frozen=True, slots=True)
class Traffic:
    """What happened to one model's requests in a span of time."""

    model: str
    predictions: int
    failures: int
    p50_ms: float
    """NaN where nothing was answered."""
    p99_ms: float


class Meter:
    """Takes notes from many threads."""

    def __init__(self) -> None:
        self._notes: deque[tuple[str, int, int]] = deque(maxlen=_MOST_WAITING)

    def answered(self, model: str, rows: int, latency_us: int) -> None:
        """Note a request that was answered."""
        self._notes.append((model, rows, latency_us))

    def failed(self, model: str) -> None:
        """Note a request that was refused or failed."""
        self._notes.append((model, 0, -1))

    def take(self) -> list[Traffic]:
        """Return what was noted since the last time, of each model that had traffic."""
        by_model: dict[str, list[tuple[int, int]]] = {}
        for _ in range(len(self._notes)):
            model, rows, latency_us = self._notes.popleft()
            by_model.setdefault(model, []).append((rows, latency_us))
        return [_sum(model, notes) for model, notes in by_model.items()]


def _sum(model: str, notes: list[tuple[int, int]]) -> Traffic:
    latencies = np.array([latency for _, latency in notes if latency >= 0], np.float64) / 1000
    p50, p99 = np.quantile(latencies, (0.5, 0.99)) if len(latencies) else (np.nan, np.nan)
    return Traffic(model, sum(rows for rows, _ in notes), len(notes) - len(latencies), float(p50), float(p99))
