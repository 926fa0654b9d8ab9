"""river's detectors on streams of mistakes: `python river_detectors.py STREAMS.npz ROWS_BETWEEN`, with .venv-peers.

Each detector's own parameter is set so that on the quiet streams it raises a false alarm once in so many rows. Then it is
given the held-out rows, as it knows no reference, and what it takes to see the changes is printed as JSON. KSWIN takes 0.45 ms a row and is left out: it was measured at five
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
    "ADWIN": (lambda at: drift.ADWIN(delta=at), 0.9, 1e-6),
    "Page-Hinkley": (lambda at: drift.PageHinkley(threshold=at, mode="up"), 3.0, 300.0),
    "HDDM_A": (lambda at: drift.binary.HDDMA(drift_confidence=at, warning_confidence=0.99), 0.3, 1e-9),
    "HDDM_W": (lambda at: drift.binary.HDDMW(drift_confidence=at, warning_confidence=0.99), 0.3, 1e-12),
    "DDM": (lambda at: drift.binary.DDM(drift_threshold=at, warning_threshold=0.5), 1.0, 8.0),
    "EDDM": (lambda at: drift.binary.EDDM(beta=at, alpha=0.99), 0.95, 0.3),
}


def alarms(detector: Any, rows: list[float]) -> list[int]:
    found = []
    for at, row in enumerate(rows):
        detector.update(row)
        if detector.drift_detected:
            found.append(at)
    return found


def tuned(
    make: Callable[[float], Any], loud: float, calm: float, quiet: list[float], wanted: float
) -> tuple[float, int]:
    """Return the parameter at which about as many alarms are raised as wanted, at most, and how many there are then."""
    best, count = calm, len(alarms(make(calm), quiet))
    low, high = math.log(calm), math.log(loud)
    for _ in range(STEPS):
        middle = (low + high) / 2
        raised = len(alarms(make(math.exp(middle)), quiet))
        if raised <= wanted:
            low, best, count = middle, math.exp(middle), raised
        else:
            high = middle
    return best, count


def main(file: str, rows_between: float) -> None:
    streams, told = np.load(file), {}
    before = int(streams["before"])
    for concept in streams["concepts"].tolist():
        held, rows, runs = (streams[f"{concept} {what}"].tolist() for what in ("held", "quiet", "changed"))
        for name, (make, loud, calm) in DETECTORS.items():
            at, raised = tuned(make, loud, calm, rows, len(rows) / rows_between)
            led, delays = make(at), []
            alarms(led, held)
            for run in runs:
                after = [row - before + 1 for row in alarms(copy.deepcopy(led), run) if row >= before]
                delays.append(after[0] if after else None)
            told[f"{concept}/{name}"] = {"parameter": at, "false": raised, "delays": delays}
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
