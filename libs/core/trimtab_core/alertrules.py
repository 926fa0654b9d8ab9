"""Limits that a user puts on a model's metrics, held against the readings of its windows.

A rule fires once when its limit has been broken for as many windows in a row as it says,
and is over once with the first window that keeps it or finds the rule taken out of the
spec. Shares of bad data that are nothing are no readings, and keep a limit all the same.
Pure: the same readings in the same order fire the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from trimtab_core.metricnames import STATISTICS
from trimtab_core.specs import AlertRule, Severity
from trimtab_core.timestamps import iso
from trimtab_core.watched import Breach, Reading


@dataclass(frozen=True, slots=True)
class Told:
    """A rule that has begun to be broken, or is kept again."""

    place: str
    """Names the rule and the feature; the same when it is over as when it began."""
    severity: Severity
    broken: bool
    sentence: str
    to_ms: int
    """Event time: the end of the window that told."""


def take(
    rules: Sequence[AlertRule], before: Mapping[str, Breach], readings: Sequence[Reading], at_ms: int
) -> tuple[Mapping[str, Breach], list[Told]]:
    """Return which limits are broken after the readings of a window that ended at `at_ms`, and what is to be told.

    Of the readings those of all its rows count, and not those of a slice, or of an arm of a rollout.
    What is over is told with the severity with which it began, whatever the spec says by then.
    """
    state, told, looked_at = dict(before), list[Told](), set[str]()
    for rule in rules:
        for reading in (*_of(rule, readings), *_nothing(rule, state, readings)):
            place = _place(rule, reading.feature)
            if (
                place in looked_at or reading.value is None
            ):  # by a rule that says the same; an unknown breaks none
                continue
            looked_at.add(place)
            held = state.pop(place, Breach(0, rule.severity))
            if not _breaks(rule, reading.value):
                if held.told:
                    told.append(Told(place, held.severity, False, _kept(rule, reading), reading.to_ms))
                continue
            if not held.told:
                held = Breach(held.windows + 1, rule.severity, told=held.windows + 1 >= rule.windows)
                if held.told:
                    told.append(Told(place, rule.severity, True, _broken(rule, reading), reading.to_ms))
            state[place] = held
    for place in [place for place in state if not any(_is_of(rule, place) for rule in rules)]:
        if (gone := state.pop(place)).told:
            sentence = f"The rule {place.strip()!r} is no more in the spec."
            told.append(Told(place, gone.severity, False, sentence, at_ms))
    return state, told


def _of(rule: AlertRule, readings: Sequence[Reading]) -> Iterable[Reading]:
    return (
        it
        for it in readings
        if it.name == rule.metric and rule.feature in (None, it.feature) and not (it.slice or it.arm)
    )


def _is_of(rule: AlertRule, place: str) -> bool:
    return place.startswith(_place(rule, "")) if rule.feature is None else place == _place(rule, rule.feature)


def _nothing(rule: AlertRule, held: Mapping[str, Breach], readings: Sequence[Reading]) -> Iterable[Reading]:
    """Return the shares that are broken and of which a window of predictions says nothing: none of its rows is so."""
    whole = next((it for it in readings if it.name == "prediction_drift"), None)
    if rule.metric not in STATISTICS or whole is None:
        return []
    said = {it.feature for it in _of(rule, readings)}
    broken = {place.removeprefix(_place(rule, "")) for place in held if place.startswith(_place(rule, ""))}
    return [
        replace(whole, subject="quality", name=rule.metric, value=0.0, feature=feature, threshold=None)
        for feature in sorted(broken - said)
        if rule.feature in (None, feature)
    ]


def _breaks(rule: AlertRule, value: float) -> bool:
    return (rule.above is not None and value > rule.above) or (rule.below is not None and value < rule.below)


def _place(rule: AlertRule, feature: str) -> str:
    return f"{rule.metric} {rule.limit}, {rule.windows} in a row: {feature}"


def _named(rule: AlertRule, reading: Reading) -> str:
    of = f" of {reading.feature}" if reading.feature else ""
    return (
        f"{rule.metric}{of} of version {reading.version} is {reading.value:.4g} over {reading.rows} predictions of "
        f"{iso(reading.from_ms)[:16]} to {iso(reading.to_ms)[:16]}"
    )


def _broken(rule: AlertRule, reading: Reading) -> str:
    times = f", {rule.windows} windows in a row" if rule.windows > 1 else ""
    return f"The {_named(rule, reading)}: {rule.limit}{times}."


def _kept(rule: AlertRule, reading: Reading) -> str:
    return f"The {_named(rule, reading)}: no longer {rule.limit}."
