"""The alerts that a window gives rise to, and those that it ends: about drift, bad data, limits that were stated, and what is not watched.

An alert that is over is told as resolved, under the occasion that it was opened with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from trimtab_core import alertrules, quality
from trimtab_core.detection import Judged
from trimtab_core.episodes import DriftKind, EpisodeState
from trimtab_core.flow import FlowFault
from trimtab_core.quality import Fault
from trimtab_core.specs import Model
from trimtab_core.watched import Blind, Breach, Reading
from trimtab_core.windows import Window

from trimtab_monitoring.usecases.entities import Alert, News, Severity

Place = TypeVar("Place", bound=str)
Standing = TypeVar("Standing", Fault, FlowFault)


def without(faults: Mapping[Place, Standing], others: Mapping[Place, Standing]) -> list[Standing]:
    """Return those of `faults` that are not among `others`: at the place of none of them, or of one with another beginning."""
    return [
        fault
        for place, fault in faults.items()
        if place not in others or others[place].since_ms != fault.since_ms
    ]


def drift_over(
    model: str, judged: Judged, before: Mapping[DriftKind, EpisodeState], now_ms: int
) -> list[News]:
    """Return the news of the episodes that were open before a window and are not after it."""
    version, told = judged.window.version, list[News]()
    for kind, state in before.items():
        if state.episode is not None and judged.episodes[kind].episode != state.episode:
            sentence = (
                f"The {kind} drift of version {version} is over: its newest window is as usual."
                if state.version == str(version)
                else f"The {kind} drift of version {state.version} is over: version {version} answers now."
            )
            told.append(over(state.episode, model, sentence, now_ms))
    return told


def of_rules(
    model: Model, before: Mapping[str, Breach], readings: Sequence[Reading], at_ms: int, now_ms: int
) -> tuple[Mapping[str, Breach], list[News]]:
    """Return which limits of a model's rules are broken after a window that ended at `at_ms`, and the news of it."""
    breaches, told = alertrules.take(model.spec.rules, before, readings, at_ms)
    return breaches, [of_rule(model.name, each, now_ms) for each in told]


def of_rule(model: str, told: alertrules.Told, now_ms: int) -> Alert:
    """Return the alert about a limit on a metric that is broken, or kept again."""
    occasion = f"{model}/rule/{told.place}"
    name = f"{occasion}/{told.to_ms}" + ("" if told.broken else "/resolved")
    return Alert(
        name, model, told.severity, "rule", told.sentence, now_ms, occasion, resolved=not told.broken
    )


def bad_data(
    model: str, before: Mapping[str, Fault], after: Mapping[str, Fault], window: Window, now_ms: int
) -> list[News]:
    """Return the news of the faults that began with a window, and of those that are over after it."""
    told: list[News] = [
        _fault_alert(model, fault, fault.sentence, now_ms) for fault in without(after, before)
    ]
    for fault in without(before, after):
        version = window.version
        why = (
            f"{quality.SAYS[fault.statistic]} no more often than is usual"
            if fault.version == version
            else (f"no more looked at for version {fault.version}: version {version} answers now")
        )
        told.append(resolved(_fault_alert(model, fault, f"{fault.feature} is {why}.", now_ms)))
    return told


def blind(model: str, before: Blind | None, after: Blind | None, version: int, now_ms: int) -> list[News]:
    """Return the news that a version is not watched, and that one no longer is not, as a window of `version` says."""
    told: list[News] = []
    if before is not None:
        why = (
            "is calibrated, and watched"
            if before.version == version
            else f"has gone: version {version} answers now"
        )
        told.append(resolved(_blind_alert(model, before, f"Version {before.version} {why}.", now_ms)))
    if after is not None:
        told.append(_blind_alert(model, after, after.sentence, now_ms))
    return told


def _blind_alert(model: str, of: Blind, sentence: str, at_ms: int) -> Alert:
    occasion = f"{model}/{of.version}/calibration/{of.since_ms}"
    return Alert(occasion, model, "warning", "calibration", sentence, at_ms, occasion)


def _fault_alert(model: str, fault: Fault, sentence: str, at_ms: int) -> Alert:
    occasion = f"{model}/{fault.version}/{fault.place}/{fault.since_ms}"
    severity: Severity = "warning" if fault.blocks else "info"
    return Alert(occasion, model, severity, "quality", sentence, at_ms, occasion)


def drift(episode: str, model: str, sentence: str, at_ms: int) -> Alert:
    """Return the alert about an episode of drift."""
    occasion = f"{episode}/drift"
    return Alert(occasion, model, "warning", "drift", sentence, at_ms, occasion)


def over(episode: str, model: str, sentence: str, at_ms: int) -> Alert:
    """Return the news that an episode of drift is over."""
    return resolved(drift(episode, model, sentence, at_ms))


def resolved(alert: Alert) -> Alert:
    """Return the news that what an alert is about is over; its sentence says so already."""
    return replace(alert, id=f"{alert.id}/resolved", resolved=True)
