"""Closing: what a model predicted up to a time is joined, windowed, judged and told.

When both watermarks have moved on, the rows between are read once, in order, with
their labels. What follows from them (windows, episodes, the judge's state, news and
the new mark) is one transaction that locks the model, so it happens once whichever
instance does it and whatever dies, and gives the same decisions however the rows
were batched.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from trimtab_core import (
    ahead,
    alertrules,
    detection,
    guarding,
    occasions,
    quality,
    slicing,
    trial,
    windows,
    worth,
)
from trimtab_core.baseline import Settings
from trimtab_core.detection import Judged
from trimtab_core.episodes import DriftKind, EpisodeState
from trimtab_core.occasions import Since
from trimtab_core.quality import Fault
from trimtab_core.specs import Model
from trimtab_core.watched import Drift, Due, Earning, Reading, Row, Watch
from trimtab_core.windows import DataWindow, Partial, PerformanceWindow, Window
from trimtab_runtime import telemetry
from trimtab_runtime.clock import Clock
from trimtab_runtime.errors import Unavailable

from trimtab_monitoring.usecases import fair, loops, revising
from trimtab_monitoring.usecases.entities import Alert, Closed, LabelStream, News, ReportOrder, Severity
from trimtab_monitoring.usecases.estimating import MOST_ROWS, Estimating, Judges, Taken
from trimtab_monitoring.usecases.ports import Rollouts, Specs, Store, Unit
from trimtab_monitoring.usecases.retraining import Retraining
from trimtab_monitoring.usecases.together import ToClose, Together


class Closing:
    """Closes models."""

    def __init__(
        self, store: Store, specs: Specs, rollouts: Rollouts, judges: Judges, retraining: Retraining, clock: Clock,
        *, reports: Path, silent_ms: int, on_report: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """`reports` is the folder in which reports are promised; `on_report` is called after one was."""
        self._store = store
        self._specs = specs
        self._rollouts = rollouts
        self._judges = judges
        self._retraining = retraining
        self._clock = clock
        self._reports = reports
        self._silent_ms = silent_ms
        self._on_report = on_report
        self._estimating = Estimating(store, judges)
        self._partials: dict[str, Partial] = {}
        self._reached: dict[str, int] = {}

    async def close(self, model: str) -> bool:
        """Close what can be closed of `model`, or a part of it, and return whether more is left.

        Raises:
            NotFound: there is no such model.
            NotCalibrated: a full window waits for its version's calibration; nothing is changed.
            Unavailable: PostgreSQL is away.
        """
        spec = self._specs.model(model)
        marks = (await self._marks([spec])).get(model)
        if marks is None:
            return False
        until, predicted = marks
        more = await self._estimating.estimate(spec, predicted)
        if until <= self._reached.get(model, 0) and not self._on_trial(model):
            return more
        async with self._store.begin(model) as unit:
            reached, promised = await self._close(unit, spec, until, predicted)
        self._reached[model] = reached
        if promised:
            self._on_report()
        return more or reached < until

    async def close_all(self, models: Sequence[str]) -> list[str]:
        """Close many models in one transaction, and return those that are left to `close`.

        Raises:
            Unavailable: PostgreSQL is away; nothing is changed.
        """
        known = {name: spec for name in models if (spec := self._specs.models.get(name)) is not None}
        left = [name for name in models if name not in known or self._on_trial(name)]
        marks = await self._marks([spec for name, spec in known.items() if name not in left])
        asked = [
            ToClose(name, LabelStream.of(known[name]), until, predicted)
            for name, (until, predicted) in marks.items()
            if until > self._reached.get(name, 0) or predicted > self._estimating.reached(name)
        ]
        if not asked:
            return left
        reached, ahead_of = dict[str, int](), dict[str, Taken]()
        async with self._store.begin_all(asked) as units:
            for each in asked:
                unit, spec = units[each.model], known[each.model]
                try:
                    taken = await self._estimating.take(unit, spec, each.predicted_ms)
                    closed, _ = await self._close(unit, spec, each.until_ms, each.predicted_ms)
                except Exception as error:  # whatever it is, `close` meets it too, and tells of it
                    unit.give_up()
                    if isinstance(error, Unavailable):
                        raise
                    left.append(each.model)
                else:
                    reached[each.model], ahead_of[each.model] = closed, taken
        self._reached |= reached
        for model, taken in ahead_of.items():
            self._estimating.took(model, taken)
        return left

    def _on_trial(self, model: str) -> bool:
        standing = self._rollouts.standing(model)
        return standing is not None and bool(standing.rollout_id)

    async def _marks(self, models: Sequence[Model]) -> dict[str, tuple[int, int]]:
        """Return up to when each of the models can be closed, and up to when its predictions are complete.

        Those of which that is not known yet are left out.
        """
        labels = {model.name: model.spec.label for model in models}
        found = await self._store.reach(
            {name: label.source for name, label in labels.items()},
            silent_ms=self._silent_ms,
            now_ms=self._clock.now_ms(),
        )
        return {
            name: (min(predicted, labelled - labels[name].within), predicted)
            for name, (predicted, labelled) in found.items()
        }

    async def _close(
        self, unit: Unit | Together, model: Model, until: int, predicted: int
    ) -> tuple[int, bool]:
        """Return up to where the model is closed now, and whether a report was promised.

        Predictions are complete up to `predicted`, and with their labels up to `until`.
        """
        before, spec = unit.watch, model.spec
        rows: list[Row] = []
        promised = False
        reached = before.closed_ms
        settings = self._judges.settings(model)
        watch, partial = await self._resume(unit, model, settings)
        if until > before.closed_ms:
            rows, reached = await unit.rows(
                LabelStream.of(model), after_ms=before.closed_ms, until_ms=until, at_most=MOST_ROWS
            )
        losses = windows.champion_losses(spec, rows)
        watch, partial, full = windows.fill(
            watch,
            partial,
            rows,
            losses,
            settings.full,
            settings.look,
            every_ms=settings.every_ms,
            closed_ms=reached,
        )
        since = await _since(unit, model, before, rows)
        fresh, counted = occasions.counted(model, before, rows, since)
        due = [*occasions.scheduled(model, before, reached), *counted]
        on_trial = trial.take(watch.trials, rows, losses, spec)
        earning, replaced = worth.take(before.earning, rows, losses, on_trial, settings.window)
        earning = await _tell_gains(unit, model, replaced, earning)
        watch = replace(watch.judging(on_trial), closed_ms=reached, fresh=fresh, earning=earning)
        for each in occasions.among(full, due):
            if isinstance(each, Due):
                watch = await self._due(unit, model, watch, each)
            else:
                watch, alarms = await self._judge(unit, model, settings, watch, each)
                promised = promised or alarms > 0
        watch = await self._guard(unit, model, watch, predicted)
        watch = await self._say(unit, model, watch)
        if watch == before:
            return reached, False
        await revising.revise(unit, model, reached)
        await unit.save_watch(watch)
        if reached > before.closed_ms:
            await unit.tell([Closed(model.name, reached)])
        self._partials[model.name] = partial
        return reached, promised

    async def _resume(self, unit: Unit, model: Model, settings: Settings) -> tuple[Watch, Partial]:
        """Return the watch with the rows of its unfinished windows: those at hand, or from the store."""
        watch = unit.watch
        if watch.settings != settings.key:
            return windows.afresh(watch, settings.key)
        partial = self._partials.get(model.name, Partial())
        if partial.matches(watch):
            return watch, partial
        starts = [series.first_ms for series in (watch.data, watch.performance, watch.concept) if series.rows]
        if not starts:
            return watch, windows.restore(watch, [], windows.champion_losses(model.spec, []))
        rows, _ = await unit.rows(LabelStream.of(model), after_ms=min(starts) - 1, until_ms=watch.closed_ms)
        return watch, windows.restore(watch, rows, windows.champion_losses(model.spec, rows))

    async def _judge(
        self, unit: Unit, model: Model, settings: Settings, watch: Watch, window: Window
    ) -> tuple[Watch, int]:
        """Return the watch after a full window, and how many episodes it opened."""
        own = quality.of_version(watch.faults, window.version)
        if own != watch.faults:
            await unit.tell(_bad_data(model.name, watch.faults, own, window, self._clock.now_ms()))
            watch = replace(watch, faults=own)
        sized = settings.of_rows(len(window.rows))
        held = await self._judges.ready(model.name, window.version, sized, watch.generation)
        if held is None:
            return watch, 0
        calibration, features = held
        doubt = watch.doubt
        if isinstance(window, DataWindow):
            losses = windows.champion_losses(model.spec, window.rows)
            doubt = ahead.doubt(window, losses, features, calibration, doubt)
        stated = quality.stated_of(model, calibration.features, self._specs.sources, self._specs.views)
        judged = detection.judge(model.name, window, features, calibration, settings, watch.episodes, stated)
        faults = judged.faults(watch.faults, stated, settings.rule.k)
        await unit.tell(_bad_data(model.name, watch.faults, faults, window, self._clock.now_ms()))
        fault = quality.blocking(faults)
        readings = [*judged.readings, *_parts(model, window, features)]
        await unit.tell(readings)
        if readings:
            await unit.keep_readings(window.kind, [reading for reading in readings if not reading.slice])
        if (published := slicing.told(window, readings, model.spec)) is not None:
            await unit.leave_open(published, next_ms=revising.next_look(published, model.spec))
        breaches, told = alertrules.take(
            model.spec.alerts.rules,
            watch.breaches,
            judged.readings if settings.judges(window) else (),
            window.rows[-1].at_ms,
        )
        await unit.tell([_of_rule(model.name, each, self._clock.now_ms()) for each in told])
        for alarm, finding in judged.alarms:
            with telemetry.span("drift found", model=model.name, drift=finding.kind):
                path = self._reports / quote(model.name, safe="") / f"{alarm.episode}.html"
                drift = detection.drift(
                    judged, alarm, finding, calibration, features,
                    report=str(path), recorded_ms=self._clock.now_ms(),
                )  # fmt: skip
                drift = replace(drift, fault=fault)
                await unit.put_loop(loops.triggered(drift, telemetry.traceparent()))
                await unit.order_report(_report(model, judged, drift, path))
                news: list[News] = [
                    drift,
                    _alert(drift.episode, model.name, drift.summary, drift.recorded_ms),
                ]
                await unit.tell(news)
        await unit.tell(_over(model, judged, watch.episodes, self._clock.now_ms()))
        severities = detection.severities(judged, calibration)
        await self._look_again(unit, model, judged, fault, severities)
        watch = replace(watch, episodes=judged.episodes, doubt=doubt, breaches=breaches, faults=faults)
        if isinstance(window, PerformanceWindow) and window.kind == "performance":
            fairness = await fair.look(
                unit,
                model,
                window,
                features,
                calibration,
                settings,
                watch.fairness,
                now_ms=self._clock.now_ms(),
            )
            watch = replace(watch, fairness=fairness)
        if watch.put_off is not None and not fault:
            watch = await self._due(unit, model, watch, replace(watch.put_off, at_ms=window.end[0]))
        return watch, len(judged.alarms)

    async def _due(self, unit: Unit, model: Model, watch: Watch, due: Due) -> Watch:
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

    async def _guard(self, unit: Unit, model: Model, watch: Watch, predicted: int) -> Watch:
        """Hold the challenger to the guardrails, by all requests of the rollout that are complete."""
        standing = self._rollouts.standing(model.name)
        if standing is None or not standing.rollout_id:
            return watch
        guard, more = guarding.begun(watch.guard, standing, model.spec, watch.closed_ms), True
        while more and guard.state.tripped is None:
            requests = await unit.asked(
                guard.rollout_id,
                from_ms=guard.from_ms,
                after_id=guard.after_id,
                until_ms=predicted,
                at_most=MOST_ROWS,
            )
            more = len(requests) == MOST_ROWS
            guard = guarding.take(guard, requests, None if more else predicted)
        return replace(watch, guard=guard)

    async def _say(self, unit: Unit, model: Model, watch: Watch) -> Watch:
        """Say what the guardrails or the judge have to say of the step at which the rollout stands."""
        standing, on_trial, guard = self._rollouts.standing(model.name), watch.trial, watch.guard
        if standing is None or not standing.rollout_id:
            return watch
        # What either has said of this step is still to be done: another word would come too late for it.
        here = standing.rollout_id, standing.step
        if any(it is not None and (it.rollout_id, it.said_at_step) == here for it in (on_trial, guard)):
            return watch
        now_ms = self._clock.now_ms()
        found = guarding.verdict(model.name, guard, standing, now_ms)
        if found is None and on_trial is not None:
            found = trial.verdict(
                model.name, watch.trials, standing, model.spec.judged_by,
                closed_ms=watch.closed_ms, recorded_ms=now_ms,
            )  # fmt: skip
        loops_of = {arm.version: arm.loop_id for arm in standing.on_trial}
        loop = await unit.loop(loops_of[found.challenger]) if found is not None else None
        if found is None or loop is None or not loops.is_on_trial(loop, standing.rollout_id):
            return watch
        with telemetry.span(f"verdict {found.outcome.lower()}", parent=loop.traceparent, model=model.name):
            await unit.put_loop(loops.judged(loop, found))
            await unit.tell([found])
        if found.guardrail:
            return replace(watch, guard=guard and replace(guard, said_at_step=standing.step))
        return replace(watch, trial=on_trial and replace(on_trial, said_at_step=standing.step))


async def _since(unit: Unit, model: Model, before: Watch, rows: Sequence[Row]) -> list[Since]:
    """Look up what `retrain.new_rows` counts from, for each version that was live while `rows` were answered."""
    if model.spec.retrain.new_rows is None or not rows:
        return []
    found = []
    for at, (version, first_ms) in enumerate(occasions.stretches(before, rows)):
        trained_to, labelled = await unit.trained_to(version), 0
        if trained_to is not None and (at or before.fresh.version != version):
            labels = LabelStream.of(model)
            labelled = await unit.labelled(labels, after_ms=trained_to, before_ms=first_ms)
        found.append(Since(trained_to, labelled))
    return found


async def _tell_gains(unit: Unit, model: Model, replaced: Sequence[Earning], live: Earning) -> Earning:
    """Write down what versions have bought: those that were replaced for the last time, the live one now and then."""
    for each in (*replaced, live):
        found = worth.gain(each, model.spec.judged_by)
        if found is None or (each is live and not worth.is_due(live)):
            continue
        if (loop := await unit.loop_of(each.version)) is not None:
            await unit.put_loop(replace(loop, gain=found))
        if each is live:
            live = replace(live, told=live.rows)
    return live


def _parts(model: Model, window: Window, features: Sequence[str]) -> list[Reading]:
    """Return what is told of a window beside what is judged of it: how much is labelled, its slices and its arms."""
    if isinstance(window, DataWindow):
        return slicing.asked(model.name, window, features, model.spec)
    if window.kind == "performance":
        return slicing.measured(model.name, window, features, model.spec)
    return []


def _report(model: Model, judged: Judged, drift: Drift, path: Path) -> ReportOrder:
    labels, window = LabelStream.of(model), judged.window
    return ReportOrder(
        episode=drift.episode,
        model=model.name,
        version=window.version,
        labels=labels,
        from_ms=drift.from_ms,
        to_ms=window.end[0],
        path=str(path),
    )


def _over(model: Model, judged: Judged, before: Mapping[DriftKind, EpisodeState], now_ms: int) -> list[News]:
    """Return the news of the episodes that were open before a window and are not after it."""
    version, told = judged.window.version, list[News]()
    for kind, state in before.items():
        if state.episode is not None and judged.episodes[kind].episode != state.episode:
            sentence = (
                f"The {kind} drift of version {version} is over: its newest window is as usual."
                if state.version == str(version)
                else f"The {kind} drift of version {state.version} is over: version {version} answers now."
            )
            fired = _alert(state.episode, model.name, sentence, now_ms)
            told.append(replace(fired, id=f"{fired.id}/resolved", resolved=True))
    return told


def _of_rule(model: str, told: alertrules.Told, now_ms: int) -> Alert:
    occasion = f"{model}/rule/{told.place}"
    name = f"{occasion}/{told.to_ms}" + ("" if told.broken else "/resolved")
    return Alert(
        name, model, told.severity, "rule", told.sentence, now_ms, occasion, resolved=not told.broken
    )


def _bad_data(
    model: str, before: Mapping[str, Fault], after: Mapping[str, Fault], window: Window, now_ms: int
) -> list[News]:
    """Return the news of the faults that began with a window, and of those that are over after it."""
    told = list[News]()
    for place, fault in after.items():
        held = before.get(place)
        if held is None or held.since_ms != fault.since_ms:
            told.append(_fault_alert(model, fault, fault.sentence, now_ms))
    for place, fault in before.items():
        if place not in after or after[place].since_ms != fault.since_ms:
            version = window.version
            why = (
                f"{quality.SAYS[fault.statistic]} no more often than is usual"
                if fault.version == version
                else (f"no more looked at for version {fault.version}: version {version} answers now")
            )
            over = _fault_alert(model, fault, f"{fault.feature} is {why}.", now_ms)
            told.append(replace(over, id=f"{over.id}/resolved", resolved=True))
    return told


def _fault_alert(model: str, fault: Fault, sentence: str, at_ms: int) -> Alert:
    occasion = f"{model}/{fault.version}/{fault.place}/{fault.since_ms}"
    severity: Severity = "warning" if fault.blocks else "info"
    return Alert(occasion, model, severity, "quality", sentence, at_ms, occasion)


def _alert(episode: str, model: str, sentence: str, at_ms: int) -> Alert:
    occasion = f"{episode}/drift"
    return Alert(occasion, model, "warning", "drift", sentence, at_ms, occasion)
