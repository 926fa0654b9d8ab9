"""A view's columns recomputed from its events in plain Python, with nothing of what is being checked."""

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stream import HOUR
from trimtab_runtime.clock import iso

WINDOWS = {"6h": 6 * HOUR, "1d": 24 * HOUR}
FUNCTIONS = ("count", "sum", "mean", "stddev", "min", "max")
COLUMNS = [f"mph_{function}_{window}" for function in FUNCTIONS for window in WINDOWS]
TOLERANCE = 1e-9
Values = dict[tuple[int, int], list[float]]
"""The columns' values by (zone, time)."""


class Ride(NamedTuple):
    """An event, and when it came."""

    id: str
    zone: int
    at_ms: int
    arrived_ms: int
    mph: float | None


def by_hand(
    rides: Iterable[Ride], zones: Sequence[int], times: Sequence[int], *, arrived_only: bool
) -> Values:
    """Return the columns of all zones at all times, of all rides or of those that had arrived by a time."""
    of_zone: dict[int, list[Ride]] = {zone: [] for zone in zones}
    for ride in rides:
        if ride.mph is not None:
            of_zone[ride.zone].append(ride)
    found: Values = {}
    for zone, at in itertools.product(zones, times):
        end = at // HOUR * HOUR
        known = [ride for ride in of_zone[zone] if ride.arrived_ms <= at or not arrived_only]
        windows = [
            [ride.mph for ride in known if ride.mph is not None and end - length <= ride.at_ms < end]
            for length in WINDOWS.values()
        ]
        found[zone, at] = [aggregate(function, window) for function in FUNCTIONS for window in windows]
    return found


def aggregate(function: str, values: Sequence[float]) -> float:
    """Return a function of a window's values; NaN where it has none."""
    count = len(values)
    if function == "count":
        return float(count)
    if function == "sum":
        return math.fsum(values)
    if function == "stddev":
        return statistics.stdev(values) if count > 1 else math.nan
    if not count:
        return math.nan
    return {"mean": statistics.fmean(values), "min": min(values), "max": max(values)}[function]


def differing(expected: Values, found: Values) -> list[str]:
    """Return what differs, in words; what is missing differs whole."""
    nothing = [math.inf] * len(COLUMNS)
    return [
        f"zone {zone} at {iso(at)}: {column} is {value} and should be {right}"
        for (zone, at), values in expected.items()
        for column, right, value in zip(COLUMNS, values, found.get((zone, at), nothing), strict=True)
        if not math.isclose(right, value, rel_tol=TOLERANCE) and not (math.isnan(right) and math.isnan(value))
    ]
