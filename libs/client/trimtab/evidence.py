"""How good a candidate was found to be, as people read it."""

from collections.abc import Mapping, Sequence
from math import floor, log10
from typing import Any

from trimtab_contracts.registry.v1.registry_pb2 import Candidate, Interval
from trimtab_core.losses import LOWER_IS_BETTER

_OF_CHAMPION = "champion_"


def told(value: float, interval: Interval | None = None) -> str:
    """Return a figure with its interval, to the digits that the interval leaves: `3.43 (3.31 to 3.57)`."""
    if interval is None:
        return f"{value:.4g}"
    low, high = interval.low, interval.high
    if low == high:
        return f"{value:.4g} ({low:.4g} to {high:.4g})"
    places = 1 - floor(log10(high - low))
    said, least, most = (f"{round(each, places) + 0.0:.{max(places, 0)}f}" for each in (value, low, high))
    return f"{said} ({least} to {most})"


def metrics(candidate: Candidate) -> dict[str, str]:
    """Return a candidate's own metrics by name, the losses that gates know first, with their intervals."""
    names = [name for name in candidate.metrics if not name.startswith(_OF_CHAMPION)]
    return {
        name: told(candidate.metrics[name], candidate.intervals.get(name))
        for name in sorted(names, key=lambda each: (each not in LOWER_IS_BETTER, each))
    }


def measured(figures: Mapping[str, Sequence[float | None]], name: str) -> str | None:
    """Return a figure of a piece of evidence, or None if it has none of that name."""
    if name not in figures:
        return None
    value, low, high = figures[name]
    assert value is not None
    return told(value, None if low is None or high is None else Interval(low=low, high=high))


def rows(evidence: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the figures as rows of a table, beside the champion's where it was asked."""
    beside = (evidence["champion"] or {}).get("measures", {})
    return [
        {
            "metric": name,
            "candidate": measured(evidence["measures"], name),
            "champion": measured(beside, name),
        }
        for name in evidence["measures"]
    ]


def slices(sliced: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the figures by slice as rows of a table; a slice of few rows has none."""
    names = list(dict.fromkeys(name for each in sliced["slices"] for name in each["measures"]))
    return [
        {
            sliced["by"]: each["of"],
            "rows": each["rows"],
            **{name: measured(each["measures"], name) for name in names},
        }
        for each in sliced["slices"]
    ]
