"""Whether a model treats groups of rows alike: one rate or loss for each group, and how far the groups are apart.

A limit is held against bounds that hold for all pairs of groups together, so that of
many small groups the unluckiest refuses nothing by chance. Shares are bounded by
Wilson's interval and means by the normal one; two groups by combining theirs (MOVER,
Zou and Donner 2008; its ratio, Donner and Zou 2012). Of more classes than two, rates are
those of each class against the rest, and the class that is furthest from fair counts.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from statistics import NormalDist
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from trimtab_core.findings import MOST, Finding, Floats, Unsure, at_most
from trimtab_core.losses import Metric, loss, said_class

Rate = Literal[
    "selection_rate",
    "true_positive_rate",
    "false_positive_rate",
    "mean_error",
    "mae",
    "log_loss",
    "error_rate",
]
"""What groups are compared by; `mean_error` is prediction less label, and so may be below 0."""
SHARES: Final = ("selection_rate", "true_positive_rate", "false_positive_rate", "error_rate")
OF_TASK: Final[dict[str, tuple[Rate, ...]]] = {
    "regression": ("mae", "mean_error"),
    "binary": ("selection_rate", "true_positive_rate", "false_positive_rate", "error_rate", "log_loss"),
    "multiclass": ("selection_rate", "true_positive_rate", "false_positive_rate", "error_rate", "log_loss"),
}
_METRICS: Final[dict[Rate, Metric]] = {"mae": "mae", "log_loss": "log_loss", "error_rate": "error_rate"}
_NORMAL: Final = NormalDist()


@dataclass(frozen=True, slots=True)
class Fairness:
    """No two groups of at least `min_rows` rows that count are further apart than the limit, of which there is one at most."""

    group: str
    of: Rate
    max_difference: float | None = None
    min_ratio: float | None = None
    threshold: float = 0.5
    """From which probability on a row is selected."""
    confidence: float = 0.95
    min_rows: int = 100
    unsure: Unsure = "passes"

    @property
    def limit(self) -> float | None:
        """Of the difference or the ratio; None where groups are compared and held to nothing."""
        return self.max_difference if self.min_ratio is None else self.min_ratio


@dataclass(frozen=True, slots=True)
class Group:
    """A group's rate, within bounds."""

    name: str
    rows: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Part:
    """What a rate is the mean of, for each row that counts, by group; `of_class` is the class it is of, if it is of one."""

    values: Floats
    names: NDArray[np.str_]
    number: NDArray[np.int64]
    large: NDArray[np.int64]
    of_class: str | None = None

    @property
    def pairs(self) -> int:
        """How many differences there are between large groups, either way round."""
        return self.large.size * (self.large.size - 1)


def fairness(
    asked: Fairness, label: Floats, prediction: Floats, group: NDArray[Any], classes: Sequence[str] = ()
) -> Finding:
    """Hold the rows to `asked`; `group` has a value for each row. Where there is no limit, the difference is within an infinite one.

    Where `prediction` is the probabilities [rows, classes] of `classes`, `label` is the number of a class, and a row is selected
    for the class that is the most probable one.

    Raises:
        ValueError: lengths differ, or a row is not what the rate reads.
    """
    if not len(label) == len(prediction) == len(group):
        raise ValueError(f"{asked.group} has {group.size} values for {label.size} rows: give one a row")
    found = [
        part for part in parts(asked, label, prediction, group.astype(str), classes) if part.large.size > 1
    ]
    limit = math.inf if asked.limit is None else asked.limit
    if not found:
        said = (
            f"Fewer than two groups of {asked.group} have {asked.min_rows} rows to take the {said_of(asked.of)} of, so "
            f"nothing can be told of its fairness ({asked.unsure} when unsure)."
        )
        return Finding(asked.unsure == "passes", None, limit, None, None, said)
    z = _NORMAL.inv_cdf(1 - (1 - asked.confidence) / sum(part.pairs for part in found))
    sign = 1 if asked.min_ratio is None else -1

    def unfair(found: Finding) -> tuple[bool, bool, float]:
        """Order what misses the limit after what may miss it, and that after what meets it."""
        low, value, high = (sign * (each or 0.0) for each in (found.low, found.value, found.high))
        return min(low, high) > sign * limit, max(low, high) > sign * limit, value

    return max((_held(asked, part, z) for part in found), key=unfair)


def parts(
    asked: Fairness, label: Floats, prediction: Floats, group: NDArray[np.str_], classes: Sequence[str]
) -> Iterator[Part]:
    """Yield what the rate is the mean of: once, or for each class against the rest."""
    if prediction.ndim == 1 or asked.of in _METRICS:
        values, counts = _values(asked, label, prediction)
        yield _grouped(values, group[counts], asked.min_rows)
        return
    said = said_class(prediction)
    for number, name in enumerate(classes):
        truth, selected = (label == number).astype(np.float64), (said == number).astype(np.float64)
        values, counts = _values(asked, truth, selected)
        yield _grouped(values, group[counts], asked.min_rows, name)


def _values(asked: Fairness, label: Floats, prediction: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Return what the rate is the mean of, for the rows that count, and which those are."""
    every = np.full(label.shape, True)
    if asked.of in _METRICS:
        return loss(_METRICS[asked.of], label, prediction), every
    if asked.of == "mean_error":
        return prediction - label, every
    selected = (prediction >= asked.threshold).astype(np.float64)
    counts = {"true_positive_rate": label == 1, "false_positive_rate": label == 0}.get(asked.of, every)
    return selected[counts], counts


def _grouped(values: Floats, group: NDArray[np.str_], least: int, of_class: str | None = None) -> Part:
    names, number = np.unique(group, return_inverse=True)
    large = np.flatnonzero(np.bincount(number, minlength=names.size) >= least)
    return Part(values, names, number, large, of_class)


def _held(asked: Fairness, part: Part, z: float) -> Finding:
    groups = [bounded(str(part.names[at]), part.values[part.number == at], asked.of, z) for at in part.large]
    what = said_of(asked.of) + (f" of class {part.of_class}" if part.of_class is not None else "")
    return _differing(asked, what, groups) if asked.min_ratio is None else _by_ratio(asked, what, groups)


def bounded(name: str, values: Floats, of: Rate, z: float) -> Group:
    """Return a group's rate within z standard errors."""
    rows, rate = values.size, float(values.mean())
    if of in SHARES:
        middle = (rate + z * z / (2 * rows)) / (1 + z * z / rows)
        reach = z / (1 + z * z / rows) * float(np.sqrt(rate * (1 - rate) / rows + (z / (2 * rows)) ** 2))
        return Group(
            name, rows, rate, max(min(middle - reach, rate), 0.0), min(max(middle + reach, rate), 1.0)
        )
    reach = z * float(values.std(ddof=1)) / float(np.sqrt(rows))
    low = rate - reach
    return Group(name, rows, rate, low if of == "mean_error" else max(low, 0.0), rate + reach)


def _differing(asked: Fairness, what: str, groups: Sequence[Group]) -> Finding:
    limit = math.inf if asked.limit is None else asked.limit
    pairs = list(permutations(groups, 2))
    low = max(
        one.rate - other.rate - np.hypot(one.rate - one.low, other.high - other.rate) for one, other in pairs
    )
    high = max(
        one.rate - other.rate + np.hypot(one.high - one.rate, other.rate - other.low) for one, other in pairs
    )
    most, least = max(groups, key=_rate), min(groups, key=_rate)
    value, low = most.rate - least.rate, max(float(low), 0.0)
    passed, how = at_most(value, low, float(high), limit, asked.unsure)
    said = (
        f"The {what} is {_shown(most)} and {_shown(least)} of {asked.group}, {value:.4g} apart (between "
        f"{low:.4g} and {high:.4g} with {asked.confidence:.0%} confidence)"
    )
    said += "." if asked.limit is None else f", {how} the limit of at most {limit:.4g}."
    return Finding(passed, value, limit, low, float(high), said)


def _by_ratio(asked: Fairness, what: str, groups: Sequence[Group]) -> Finding:
    limit = asked.min_ratio or 0.0
    pairs = list(permutations(groups, 2))
    low, high = (min(bounds) for bounds in zip(*(_ratio(*pair) for pair in pairs), strict=True))
    most, least = max(groups, key=_rate), min(groups, key=_rate)
    value = least.rate / most.rate if most.rate > 0 else 1.0
    low, high = min(low, value), min(max(high, value), 1.0)
    # As of a shortfall: at least a limit is at most its opposite.
    passed, how = at_most(-value, -high, -low, -limit, asked.unsure)
    said = (
        f"The {what} is {_shown(least)} and {_shown(most)} of {asked.group}, {value:.4g} times (between "
        f"{low:.4g} and {high:.4g} with {asked.confidence:.0%} confidence), {how} the limit of at least {limit:.4g}."
    )
    return Finding(passed, value, limit, low, high, said)


def _ratio(one: Group, other: Group) -> tuple[float, float]:
    """Return the bounds of one group's rate by another's."""
    product = one.rate * other.rate
    below = product + np.sqrt(
        max(product**2 - one.low * (2 * one.rate - one.low) * other.high * (2 * other.rate - other.high), 0.0)
    )
    low = one.low * (2 * one.rate - one.low) / below if below > 0 else 0.0
    divisor = other.low * (2 * other.rate - other.low)
    root = np.sqrt(max(product**2 - one.high * (2 * one.rate - one.high) * divisor, 0.0))
    high = (product + root) / divisor if divisor > 0 else MOST
    return max(float(low), 0.0), min(float(high), MOST)


def _rate(group: Group) -> float:
    return group.rate


def _shown(group: Group) -> str:
    return f"{group.rate:.4g} for {group.name} ({group.rows} rows)"


def said_of(of: Rate) -> str:
    """Return what a sentence calls a rate."""
    return of.replace("_", " ")
