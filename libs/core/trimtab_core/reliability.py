"""Whether probabilities are what they say: of the rows given 30 %, about 30 in 100 are positive.

Of more classes than two it is the probability of the class that is said, and of the rows
whose class was given 80 %, about 80 in 100 are of it (Guo et al. 2017).

The error is that of equal-count bins (expected calibration error). Chance alone makes
it larger than 0, more so with fewer rows, so its bounds are as wide as what chance adds
to a model that is calibrated: the distance between the error that is seen and the true
one is at most the mean of the bins' own noise, and that is simulated.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from trimtab_core.findings import Finding, Floats, Unsure, at_most
from trimtab_core.losses import said_class

_ROUNDS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Calibration:
    """The calibration error over `bins` bins of as many rows each is at most a limit, with confidence."""

    at_most: float
    bins: int = 10
    confidence: float = 0.95
    unsure: Unsure = "passes"


def calibration(asked: Calibration, label: Floats, prediction: Floats, *, seed: int = 0) -> Finding:
    """Hold probabilities to `asked`, against labels of 0 and 1; or probabilities [rows, classes] against the numbers of classes.

    Raises:
        ValueError: lengths differ, there are no rows, or one is no probability or no label.
    """
    if prediction.ndim == 2 and len(label) == len(prediction):
        label, prediction = (said_class(prediction) == label).astype(np.float64), prediction.max(axis=1)
    if label.shape != prediction.shape or not label.size:
        raise ValueError(
            f"label has {label.size} rows and prediction {len(prediction)}: pass one of each per row"
        )
    if not (np.isin(label, (0, 1)).all() and ((prediction >= 0) & (prediction <= 1)).all()):
        raise ValueError(
            "a calibration error is of labels of 0 and 1 and of probabilities: pass such rows alone"
        )
    value, reach = calibration_error(
        label - prediction, prediction, bins=asked.bins, confidence=asked.confidence, seed=seed
    )
    low, high = max(value - reach, 0.0), value + reach
    bins = min(asked.bins, label.size)
    passed, how = at_most(value, low, high, asked.at_most, asked.unsure)
    said = (
        f"The candidate's calibration error over {bins} bins of about {-(-label.size // bins)} rows is {value:.4g} (between "
        f"{low:.4g} and {high:.4g} with {asked.confidence:.0%} confidence), {how} the limit of at most {asked.at_most:.4g}."
    )
    return Finding(passed, value, asked.at_most, low, high, said)


def calibration_error(
    off: Floats, said: Floats, *, bins: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Return how far, on average, what was said is off in bins of as many rows each, and what chance alone adds to that.

    `off` [rows] is what came true less what was `said` [rows], by which rows are put into bins.
    """
    parts = [part for part in np.array_split(off[np.argsort(said, kind="stable")], bins) if part.size]
    share = np.array([part.size / off.size for part in parts])
    gap = np.abs([part.mean() for part in parts])
    noise = np.array([part.std() / np.sqrt(part.size) for part in parts])
    drawn = np.abs(np.random.default_rng(seed).normal(size=(_ROUNDS, share.size))) * noise
    return float(share @ gap), float(np.quantile(drawn @ share, confidence))
