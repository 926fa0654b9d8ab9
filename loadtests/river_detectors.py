"""river's detectors on streams of losses in [0, 1]: `python river_detectors.py STREAMS.npz ROWS_BETWEEN`, with .venv-peers.

Of each stream there are several draws. Each detector's own parameter is set so that on the quiet rows of all of them it raises a false alarm once in so
many rows. Then it is given a draw's held-out rows, as it knows no reference, and what it takes to see the draw's changes is printed as JSON. KSWIN takes 0.45 ms a row and is left out: it was measured at five
times ADWIN's delay.
"""

import copy
import json
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from river import drift

STEPS = 7
DETECTORS: dict[str, tuple[Callable[[float], Any], float, float]] = {
    # How it is made of its parameter, and the parameter at its most and its least sensitive.
    "ADWIN": (lambda at: drift.ADWIN(delta=at), 0.99, 1e-6),
    "Page-Hinkley": (lambda at: drift.PageHinkley(threshold=at, mode="up"), 0.3, 300.0),
    "HDDM_A": (lambda at: drift.binary.HDDMA(drift_confidence=at, warning_confidence=0.99), 0.99, 1e-9),
    "HDDM_W": (lambda at: drift.binary.HDDMW(drift_confidence=at, warning_confidence=0.99), 0.99, 1e-12),
    "DDM": (lambda at: drift.binary.DDM(drift_threshold=at, warning_threshold=0.5), 1.0, 8.0),
    "EDDM": (lambda at: drift.binary.EDDM(beta=at, alpha=0.99), 0.95, 0.3),
}


OF_MISTAKES = ("DDM", "EDDM")
"""What counts mistakes and the rows between them, and so takes no other losses; HDDM's bound is of any numbers in [0, 1]."""


def alarms(detector: Any, rows: list[float]) -> list[int]:
    found = []
    for at, row in enumerate(rows):
        detector.update(row)
        if detector.drift_detected:
            found.append(at)
    return found


def tuned(
    make: Callable[[float], Any], loud: float, calm: float, quiet: list[list[float]], wanted: float
) -> tuple[float, int]:
    """Return the parameter at which about as many alarms are raised as wanted, at most, and how many there are then."""

    def raised_at(at: float) -> int:
        return sum(len(alarms(make(at), rows)) for rows in quiet)

    best, count = calm, raised_at(calm)
    low, high = math.log(calm), math.log(loud)
    for _ in range(STEPS):
        middle = (low + high) / 2
        raised = raised_at(math.exp(middle))
        if raised <= wanted:
            low, best, count = middle, math.exp(middle), raised
        else:
            high = middle
    return best, count


def main(file: str, rows_between: float) -> None:
    streams, told = np.load(file), {}
    before = int(streams["before"])
    for stream in streams["names"].tolist():
        held, quiet, changed = (streams[f"{stream} {what}"] for what in ("held", "quiet", "changed"))
        numbers = not np.isin(quiet, (0, 1)).all()
        told[stream] = {
            name: one(name, held.tolist(), quiet.tolist(), changed.tolist(), rows_between, before)
            for name in DETECTORS
            if not numbers or name not in OF_MISTAKES
        }
    print(json.dumps(told))


def one(
    name: str, held: Any, quiet: list[list[float]], changed: Any, rows_between: float, before: int
) -> dict[str, Any]:
    make, loud, calm = DETECTORS[name]
    at, raised = tuned(make, loud, calm, quiet, sum(map(len, quiet)) / rows_between)
    delays = []
    for rows, runs in zip(held, changed, strict=True):
        led = make(at)
        alarms(led, rows)
        for run in runs:
            after = [row - before + 1 for row in alarms(copy.deepcopy(led), run) if row >= before]
            delays.append(after[0] if after else None)
    return {"parameter": at, "false": raised, "delays": delays}


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
