"""What a condition on a candidate found: a yes or no, the numbers behind it, and a sentence that tells both."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Unsure = Literal["passes", "refuses"]
"""What becomes of a candidate where the rows are too few, or too noisy, to tell on which side of a limit it is."""

MOST: Final = 1e6
"""The largest ratio that is told: some have no bound, and a figure must be finite."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A value held to a limit; `low` and `high` bound the value, one-sidedly each, where something was estimated."""

    passed: bool
    value: float | None
    limit: float
    low: float | None
    high: float | None
    sentence: str


def at_most(value: float, low: float, high: float, limit: float, unsure: Unsure) -> tuple[bool, str]:
    """Return whether a value that is known up to noise passes `at most limit`, and how that is said.

    Noise alone decides nothing: between the bounds it is for `unsure` to say.
    """
    if low > limit:
        return False, "which misses"
    if high <= limit:
        return True, "which meets"
    return unsure == "passes", f"so the rows do not tell whether it is within ({unsure} when unsure)"
