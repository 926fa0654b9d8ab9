"""How long one row takes a graph on one thread, beside the live version's.

The two are asked in turns, row by row, so that whatever else the machine does disturbs
both: the ratio holds on a noisy machine, where a time by itself does not.
"""

from dataclasses import asdict
from time import perf_counter
from typing import Any

import numpy as np
from trimtab_core import cost

from trimtab_training.inputs import Inputs, Matrix, given

_WARM = 20
_MOST_CALLS = 1_000
_LEAST_CALLS = 40
_BUDGET_S = 1.0


def latency(
    session: Any, rows: Matrix | Inputs, champion: tuple[Any, Matrix | Inputs] | None
) -> dict[str, Any]:
    """Return p50 and p99 of single rows as the candidate tells them; `champion` is its session and the same rows as it takes them."""
    asked = [(session, rows), *([champion] if champion is not None else [])]
    times: list[list[float]] = [[] for _ in asked]
    until = perf_counter() + _BUDGET_S
    for call in range(_WARM + _MOST_CALLS):
        for (each, shown), taken in zip(asked, times, strict=True):
            at = call % len(shown)
            row = given(shown[at : at + 1])
            begun = perf_counter()
            each.run(None, row)
            taken.append((perf_counter() - begun) * 1e3)
        if call >= _WARM + _LEAST_CALLS and perf_counter() > until:
            break
    own, *others = [np.array(taken[_WARM:]) for taken in times]
    found = {name: cost.latency(name, own, others[0] if others else None) for name in cost.QUANTILES}
    return {name: asdict(each) for name, each in found.items()} | {"calls": len(own)}
