"""Windowing: what a full window tells, and what follows: readings, bad data, drift, broken limits, and retrains.

It happens in the transaction that closes the window.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from trimtab_core import accepted, ahead, detection, parts, promised, quality, slicing, windows
from trimtab_core.accepted import Word
from trimtab_core.baseline import Calibration, Settings, Uncalibrated
from trimtab_core.detection import Judged
from trimtab_core.episodes import DriftKind
from trimtab_core.specs import Model
from trimtab_core.watched import Blind, Drift, Due, Reading, Watch
from trimtab_core.windows import DataWindow, PerformanceWindow, Window
from trimtab_runtime import telemetry
from trimtab_runtime.clock import Clock

from trimtab_monitoring.usecases import alarms, fair, loops, revising
from trimtab_monitoring.usecases.entities import News, ReportOrder
from trimtab_monitoring.usecases.estimating import Held, Judges
from trimtab_monitoring.usecases.ports import Specs, Unit
from trimtab_monitoring.usecases.retraining import Retraining


class Windowing:
    """Holds full windows against their version's calibration."""

    def __init__(
        self, specs: Specs, judges: Judges, retraining: Retraining, clock: Clock, reports: Path
    ) -> None:
        """`reports` is the folder in which reports are promised."""
        self._specs = specs
        self._judges = judges
        self._retraining = retraining
        self._clock = clock
        self._reports = reports

    async def take(
        self, unit: Unit, model: Model, settings: Settings, watch: Watch, window: Window
    ) -> tuple[Watch, int]:
        """Return the watch after a full window, and how many episodes it opened."""
        own = quality.of_version(watch.faults, window.version)
        if own != watch.faults:
            await unit.tell(alarms.bad_data(model.name, watch.faults, own, window, self._clock.now_ms()))
            watch = replace(watch, faults=own)
        sized = settings.of_rows(len(window.rows))
        held = await self._judges.ready(model.name, window.version, sized, watch.generation)
        watch = await self._seen(unit, model, watch, window, held)
        if isinstance(held, Uncalibrated):
            return watch, 0
        calibration, features = held
        doubt = watch.doubt
        if isinstance(window, DataWindow):
            losses = windows.champion_losses(model.spec, window.rows)
            doubt = ahead.doubt(window, losses, features, calibration, doubt)
        stated = quality.stated_of(model, calibration.features, self._specs.sources, self._specs.views)
        judged = detection.judge(model.name, window, features, calibration, settings, watch.episodes, stated)
        faults = judged.faults(watch.faults, stated, settings.rule.k)
        await unit.tell(alarms.bad_data(model.name, watch.faults, faults, window, self._clock.now_ms()))
        fault = quality.blocking(faults)
        readings = [*judged.readings, *_parts(model, window, features)]
        if isinstance(window, DataWindow) and settings.judges(window):
            readings += parts.by_slice(model.name, window, features, calibration)
            readings += await self._by_arm(model, settings, watch, window, calibration, features)
        await unit.tell(readings)
        if readings:
            await unit.keep_readings(window.kind, [reading for reading in readings if not reading.slice])
        if (published := slicing.told(window, readings, model.spec)) is not None:
            await unit.leave_open(published, next_ms=revising.next_look(published, model.spec))
        of_all = readings if settings.judges(window) else []
        breaches, told = alarms.of_rules(
            model, watch.breaches, of_all, window.rows[-1].at_ms, self._clock.now_ms()
        )
        await unit.tell(told)
        await self._open(unit, model, judged, calibration, features, fault)
        await unit.tell(alarms.drift_over(model.name, judged, watch.episodes, self._clock.now_ms()))
        severities = detection.severities(judged, calibration)
        await self._look_again(unit, model, judged, fault, severities)
        watch = replace(watch, episodes=judged.episodes, doubt=doubt, breaches=breaches, faults=faults)
        if isinstance(window, PerformanceWindow) and window.kind == "performance":
            fairness, told_of = await fair.look(
                unit,
                model,
                window,
                features,
                calibration,
                settings,
                watch.fairness,
                now_ms=self._clock.now_ms(),
            )
            if told_of is not None:
                await unit.leave_open(told_of, next_ms=revising.next_look(told_of, model.spec))
            watch = replace(watch, fairness=fairness)
        if watch.put_off is not None and not fault:
            watch = await self.due(unit, model, watch, replace(watch.put_off, at_ms=window.end[0]))
        return watch, len(judged.alarms)

    async def _by_arm(
        self, model: Model, settings: Settings, watch: Watch, window: DataWindow, calibration: Calibration,
        features: Sequence[str],
    ) -> list[Reading]:  # fmt: skip
        """Return what the versions on trial see of a window; one whose calibration is not there yet says nothing, and is not waited for."""
        versions = slicing.on_trial(window.rows)[0] if watch.trial is not None else ()
        held = [(number, await self._judges.at_hand(model.name, number, settings)) for number in versions]
        known = {number: each[0] for number, each in held if isinstance(each, tuple)}
        return list(parts.by_arm(model.name, window, features, calibration, known)) if known else []

    async def _seen(self, unit: Unit, model: Model, watch: Watch, window: Window, held: Held) -> Watch:
        """Return the watch with the version of a window, if that is not watched, and tell what has changed of that."""
        before, version = watch.blind, window.version
        if not isinstance(held, Uncalibrated):
            after = None
        elif before is not None and before.version == version:
            after = before
        else:
            after = Blind(version, window.rows[0].at_ms, promised.unwatched(version, held))
        if after == before:
            return watch
        await unit.tell(alarms.blind(model.name, before, after, version, self._clock.now_ms()))
        return replace(watch, blind=after)

    async def _open(
        self, unit: Unit, model: Model, judged: Judged, calibration: Calibration, features: Sequence[str], fault: str
    ) -> None:  # fmt: skip
        """Tell of the episodes of drift that a window opens, each with its loop and its report."""
        for alarm, finding in judged.alarms:
            drift = detection.drift(
                judged, alarm, finding, calibration, features,
                report=self._report_of(model, alarm.episode), recorded_ms=self._clock.now_ms(),
            )  # fmt: skip
            await self._tell_of(unit, model, replace(drift, fault=fault))

    async def _tell_of(self, unit: Unit, model: Model, drift: Drift) -> None:
        """Tell of an episode of drift, with its loop and its report."""
        with telemetry.span("drift found", model=model.name, drift=drift.kind):
            await unit.put_loop(loops.triggered(drift, telemetry.traceparent()))
            await unit.order_report(ReportOrder.of(model, drift))
            news: list[News] = [
                drift,
                alarms.drift(drift.episode, model.name, drift.summary, drift.recorded_ms),
            ]
            await unit.tell(news)

    def _report_of(self, model: Model, episode: str) -> str:
        """Return where the report of an episode will be."""
        return str(self._reports / quote(model.name, safe="") / f"{episode}.html")

    async def hear(self, unit: Unit, model: Model, watch: Watch, word: Word) -> bool:
        """Do what a word about the accepted level calls for, and return whether a report was promised."""
        now_ms, held, fault = self._clock.now_ms(), watch.acceptance, quality.blocking(watch.faults)
        if word.what == "over":
            await unit.tell([alarms.over(word.episode, model.name, word.sentence, now_ms)])
        if held is None:
            return False
        if word.what == "standing":
            told = accepted.reading(model.name, held, word)
            await unit.tell([told])
            await unit.keep_readings("acceptance", [told])
        elif word.what == "goes on" and "performance" in model.spec.retrain.on:
            severity = accepted.severity(held, word)
            await self._retraining.look_again(unit, word.episode, word.at_ms, fault, severity)
        elif word.what == "exceeded":
            report = self._report_of(model, word.episode)
            drift = accepted.drift(model.name, held, word, fault=fault, report=report, recorded_ms=now_ms)
            await self._tell_of(unit, model, drift)
        return word.what == "exceeded"

    async def due(self, unit: Unit, model: Model, watch: Watch, due: Due) -> Watch:
        """Ask the policy about what is due, and keep it in mind while data is bad."""
        put_off = await self._retraining.due(unit, model, due, quality.blocking(watch.faults))
        return replace(watch, put_off=put_off)

    async def _look_again(
        self, unit: Unit, model: Model, judged: Judged, fault: str, severities: Mapping[DriftKind, float]
    ) -> None:
        """Let the policy decide again about episodes that go on."""
        fresh = {alarm.episode for alarm, _ in judged.alarms}
        for kind in judged.kinds:
            episode = judged.episodes[kind].episode
            if episode is not None and episode not in fresh and kind in model.spec.retrain.on:
                now_ms, severity = judged.window.end[0], severities.get(kind)
                await self._retraining.look_again(unit, episode, now_ms, fault, severity)


def _parts(model: Model, window: Window, features: Sequence[str]) -> list[Reading]:
    """Return what is told of a window beside what is judged of it: how much is labelled, its slices and its arms."""
    if isinstance(window, DataWindow):
        return slicing.asked(model.name, window, features, model.spec)
    if window.kind == "performance":
        return slicing.measured(model.name, window, features, model.spec)
    return []
