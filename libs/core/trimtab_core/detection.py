"""What a full window says: its readings, and whether an episode of drift opens.

Pure: the same windows in the same order give the same readings and the same episodes.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trimtab_core import episodes, parts, quality, slicing, windows
from trimtab_core.apart import APART, Tree
from trimtab_core.baseline import Calibration, Settings
from trimtab_core.calibration import WindowVerdict, judge_level, judge_window
from trimtab_core.concept import watch_losses
from trimtab_core.drift import Column
from trimtab_core.episodes import DriftAlarm, DriftKind, EpisodeState, episode_id
from trimtab_core.losses import aggregate
from trimtab_core.quality import Fault, Share, Stated
from trimtab_core.timestamps import iso
from trimtab_core.together import TOGETHER, Pair
from trimtab_core.watched import Drift, FeatureDrift, Reading, Rise, Subject
from trimtab_core.windows import DataWindow, PerformanceWindow, Window

Floats = NDArray[np.float64]

_NAMED: Final = 3
"""Features that a sentence names at most."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one kind of drift says of a window."""

    kind: DriftKind
    verdict: WindowVerdict
    readings: tuple[Reading, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """A window, what was found in it, and the episodes after it."""

    window: Window
    findings: tuple[Finding, ...]
    readings: tuple[Reading, ...]
    """All of them, those of the findings among them."""
    episodes: Mapping[DriftKind, EpisodeState]
    alarms: tuple[tuple[DriftAlarm, Finding], ...]
    shares: tuple[Share, ...] = ()
    """What of its data may be bad."""

    def faults(
        self, before: Mapping[str, Fault], stated: Mapping[str, Stated], patience: int
    ) -> Mapping[str, Fault]:
        """Return the faults of quality that stand after this window; only one of predictions tells of them."""
        window = self.window
        if not isinstance(window, DataWindow) or not self.findings:  # one that is not judged says nothing
            return before
        return quality.step(
            before, self.shares, stated, version=window.version, from_ms=window.rows[0].at_ms,
            to_ms=window.end[0], rows=len(window.rows), patience=patience,
        )  # fmt: skip

    @property
    def kinds(self) -> tuple[DriftKind, ...]:
        """The kinds whose episodes, if they go on, are answered again at the end of this window."""
        found = tuple(finding.kind for finding in self.findings)
        return (*found, "concept") if "performance" in found and "concept" in self.episodes else found


def judge(
    model: str,
    window: Window,
    features: Sequence[str],
    calibration: Calibration,
    settings: Settings,
    before: Mapping[DriftKind, EpisodeState],
    stated: Mapping[str, Stated] = MappingProxyType({}),
) -> Judged:
    """Judge a window and take it into the episodes; `features` names those that its rows carry, `stated` what specs say of them.

    Of one that `settings` do not judge, what needs no level is told. `calibration` is that of a window of as many rows.
    """
    if isinstance(window, PerformanceWindow) and window.kind == "concept":
        return _look(model, window, calibration, settings, before)
    readings, shares = _Readings(model, window), tuple[Share, ...]()
    findings, others = list[Finding](), tuple[Reading, ...]()
    if isinstance(window, DataWindow):
        columns = windows.columns(window.rows, features)
        if settings.judges(window):
            findings = [*_data(readings, columns, calibration), _prediction(readings, columns, calibration)]
            shares = tuple(quality.look(columns, calibration.quality, stated))
    else:
        found = _performance(readings, window, calibration, settings)
        if settings.judges(window):
            findings = [found]
        else:
            others = tuple(replace(reading, threshold=None) for reading in found.readings)
    after, alarms = dict(before), []
    for finding in findings:
        state, alarm = episodes.step(
            after.get(finding.kind, EpisodeState()),
            finding.verdict,
            window.rows[0].at_ms / 1000,
            rule=settings.rule,
            model=model,
            version=str(window.version),
            kind=finding.kind,
        )
        after[finding.kind] = state
        if alarm is not None:
            alarms.append((alarm, finding))
    after |= _concept_ended(window, findings, after)
    told = [*(reading for finding in findings for reading in finding.readings), *others]
    told += [readings.one("quality", it.statistic, it.value, it.limit, it.feature) for it in shares]
    return Judged(window, tuple(findings), tuple(told), after, tuple(alarms), shares)


def drift(
    judged: Judged,
    alarm: DriftAlarm,
    finding: Finding,
    calibration: Calibration,
    features: Sequence[str],
    *,
    report: str,
    recorded_ms: int,
) -> Drift:
    """Return an alarm as it is told, with its evidence; `report` is where the report will be."""
    window = judged.window
    slices: tuple[Rise, ...] = ()
    from_ms, rows = window.rows[0].at_ms, len(window.rows)
    if finding.kind == "concept":
        (value,) = alarm.scores.values()
        (loss,) = finding.readings
        from_ms, rows, limit = loss.from_ms, loss.rows, loss.threshold or 0.0
        summary = _worse(loss, alarm.version, calibration)
    elif finding.kind == "performance":
        (loss,) = finding.readings
        value, limit = loss.value or 0.0, loss.threshold or 0.0
        mean = calibration.performance.mean
        slices = slicing.risen(window, features, loss.name, mean, calibration.slices)
        summary = _worse(loss, alarm.version, calibration) + _where(slices)
    else:
        value, limit = alarm.scores[alarm.drifted[0]], calibration.limits[alarm.drifted[0]]
        moved = next((name for name in alarm.drifted if name not in (TOGETHER, APART)), "")
        slices = parts.furthest(window, features, moved, alarm.scores.get(moved, 0.0), calibration)
        summary = _moved(alarm, finding.verdict, window, calibration) + _most(moved, slices)
    return Drift(
        episode=alarm.episode,
        model=alarm.model,
        version=window.version,
        kind=alarm.kind,
        at_ms=window.end[0],
        from_ms=from_ms,
        rows=rows,
        score=value,
        threshold=limit,
        severity=_severity(finding, calibration),
        features=_ranked(alarm, finding.verdict) if finding.kind == "data" else (),
        summary=summary,
        report=report,
        recorded_ms=recorded_ms,
        changed_ms=round(alarm.changed_at * 1000),
        slices=slices,
    )


def severities(judged: Judged, calibration: Calibration) -> Mapping[DriftKind, float]:
    """Return how many times what is usual at most each kind of drift is in a window; 1 is the edge of it."""
    return {finding.kind: _severity(finding, calibration) for finding in judged.findings}


def _severity(finding: Finding, calibration: Calibration) -> float:
    if finding.kind in ("performance", "concept"):
        (loss,) = finding.readings
        return loss.value / loss.threshold if loss.value and loss.threshold else 0.0
    scores = finding.verdict.scores
    names = finding.verdict.drifted[:1] or tuple(scores)
    return max(scores[name] / calibration.limits[name] for name in names)


def _concept_ended(
    window: Window, findings: Sequence[Finding], states: Mapping[DriftKind, EpisodeState]
) -> Mapping[DriftKind, EpisodeState]:
    """Return the state of `concept` if this window of performance, begun after its change was found, is clear."""
    open_at = states.get("concept", EpisodeState()).opened_at
    if open_at is None or window.rows[0].at_ms / 1000 < open_at:
        return {}
    clear = any(finding.kind == "performance" and finding.verdict.clear for finding in findings)
    return {"concept": EpisodeState(str(window.version))} if clear else {}


def _look(
    model: str,
    window: PerformanceWindow,
    calibration: Calibration,
    settings: Settings,
    before: Mapping[DriftKind, EpisodeState],
) -> Judged:
    """Look for a change in a few rows, unless one has been found: then a clear window of performance ends it."""
    state, version = before.get("concept", EpisodeState()), str(window.version)
    if state.version != version:
        state = EpisodeState(version)
    quiet = Judged(window, (), (), {**before, "concept": state}, ())
    if state.episode is not None or calibration.change is None:
        return quiet
    times = [row.at_ms / 1000 for row in window.rows]
    sums, change = watch_losses(calibration.change, state.change, window.losses, times)
    if change is None:
        return replace(quiet, episodes={**before, "concept": replace(state, change=sums)})
    opened = window.rows[change.at].at_ms
    episode = episode_id(model, version, "concept", opened / 1000)
    mean, usual = (aggregate(settings.metric, [value]) for value in (change.mean, change.usual))
    told = Reading(
        "performance", model, window.version, settings.metric, mean, round(change.began * 1000), opened,
        change.rows, threshold=usual,
    )  # fmt: skip
    verdict = WindowVerdict({"loss": mean}, {}, 0.0, True, False, ("loss",))
    alarm = DriftAlarm(
        episode, model, version, "concept", opened / 1000, 0.0, ("loss",), verdict.scores, {}, change.began
    )
    finding = Finding("concept", verdict, (told,))
    opened_state = EpisodeState(version, (), episode, opened / 1000)
    return Judged(window, (finding,), (), {**before, "concept": opened_state}, ((alarm, finding),))


def _ranked(alarm: DriftAlarm, verdict: WindowVerdict) -> tuple[FeatureDrift, ...]:
    """Return the evidence of each feature, the most unusual first; what is of several is called by those that tell most."""
    ranked = sorted(alarm.p_values, key=lambda name: (alarm.p_values[name], -alarm.scores[name]))
    several: Mapping[str, Sequence[Pair | Tree]] = {TOGETHER: verdict.pairs, APART: verdict.trees}
    called = {name: found[0].name for name, found in several.items() if found}
    return tuple(
        FeatureDrift(called.get(name, name), alarm.scores[name], alarm.p_values[name], name in alarm.drifted)
        for name in ranked
    )


def _moved(alarm: DriftAlarm, verdict: WindowVerdict, window: Window, calibration: Calibration) -> str:
    moved = [
        f"{name} moved by {alarm.scores[name]:.2f} (up to {calibration.limits[name]:.2f} is usual)"
        for name in alarm.drifted
        if name not in (TOGETHER, APART)
    ]
    moved += [
        f"the correlation of {each.one} and {each.other} went from {each.was:.2f} to {each.now:.2f}"
        for each in verdict.pairs
    ]
    moved += [
        f"{each.name} tell the rows apart by {each.score:.2f} (up to {calibration.limits[APART]:.2f} is usual)"
        for at, each in enumerate(verdict.trees)
        if at == 0 or each.score > calibration.limits[APART]
    ]
    named = ", ".join(moved[:_NAMED]) + (f" and {len(moved) - _NAMED} more" if len(moved) > _NAMED else "")
    over = _over(len(window.rows), window.rows[0].at_ms, window.end[0])
    notes = "".join(f" {note}" for note in calibration.notes)
    return f"Against what version {alarm.version} was trained on, {named} {over}.{notes}"


def _worse(loss: Reading, version: str, calibration: Calibration) -> str:
    mean = calibration.performance.mean
    usual = math.sqrt(mean) if loss.name == "rmse" else mean
    over = _over(loss.rows, loss.from_ms, loss.to_ms)
    return (
        f"The {loss.name} of version {version} went from {usual:.3g} to {loss.value:.3g} {over}; "
        f"up to {loss.threshold:.3g} is usual."
    )


def _where(slices: Sequence[Rise]) -> str:
    """Return a sentence about the slices to which most of a rise is due, if any are known."""
    said = [
        f"{each.feature} {each.slice} ({each.usual:.3g} to {each.value:.3g} over {each.rows} of them)"
        for each in slices
    ]
    return f" It rose most in {', '.join(said)}." if said else ""


def _most(moved: str, slices: Sequence[Rise]) -> str:
    """Return a sentence about the slices in which a feature has moved most, if any are known."""
    said = [f"{each.feature} {each.slice} (by {each.value:.2f} over {each.rows} of them)" for each in slices]
    return f" {moved} moved most in {', '.join(said)}." if said else ""


def _over(rows: int, from_ms: int, to_ms: int) -> str:
    return f"over {rows} predictions of {iso(from_ms)[:16]} to {iso(to_ms)[:16]}"


class _Readings:
    """Makes the readings of one window."""

    def __init__(self, model: str, window: Window) -> None:
        self._model = model
        self._window = window

    def one(
        self, subject: Subject, name: str, value: float, threshold: float | None = None, feature: str = ""
    ) -> Reading:
        """Return one."""
        window = self._window
        extent = window.covers
        return Reading(
            subject, self._model, window.version, name, value, extent.from_ms, extent.to_ms, len(window.rows),
            feature, threshold,
        )  # fmt: skip


def _data(readings: _Readings, columns: Mapping[str, Column], calibration: Calibration) -> Iterator[Finding]:
    if calibration.data is None:
        return
    verdict = judge_window(calibration.data, calibration.references, columns)
    told = [readings.one("drift", "p_value", verdict.min_p, calibration.data.level)]
    told += [
        readings.one("drift", "drift", value, calibration.limits[name], name)
        for name, value in verdict.scores.items()
    ]
    yield Finding("data", verdict, tuple(told))


def _prediction(readings: _Readings, columns: Mapping[str, Column], calibration: Calibration) -> Finding:
    verdict = judge_window(calibration.prediction, calibration.references, columns)
    value = verdict.scores["prediction"]
    told = readings.one("drift", "prediction_drift", value, calibration.limits["prediction"])
    return Finding("prediction", verdict, (told,))


def _performance(
    readings: _Readings, window: PerformanceWindow, calibration: Calibration, settings: Settings
) -> Finding:
    losses, metric = window.losses, settings.metric
    limit = aggregate(metric, [calibration.limits["loss"]])
    told = readings.one("performance", metric, aggregate(metric, losses), limit)
    return Finding("performance", judge_level(calibration.performance, losses), (told,))
