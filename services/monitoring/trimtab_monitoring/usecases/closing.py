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
from typing import Protocol
from urllib.parse import quote

from trimtab_core import detection, occasions, trial, windows
from trimtab_core.baseline import Calibration, Settings
from trimtab_core.detection import Judged
from trimtab_core.episodes import DriftKind, EpisodeState
from trimtab_core.occasions import Since
from trimtab_core.specs import Model
from trimtab_core.watched import Drift, Due, Row, Series, Watch
from trimtab_core.windows import Partial, Window
from trimtab_runtime import telemetry
from trimtab_runtime.clock import Clock
from trimtab_runtime.errors import Unavailable

from trimtab_monitoring.usecases import loops
from trimtab_monitoring.usecases.entities import Alert, Closed, LabelStream, News, ReportOrder
from trimtab_monitoring.usecases.ports import Rollouts, Specs, Store, Unit
from trimtab_monitoring.usecases.retraining import Retraining
from trimtab_monitoring.usecases.together import Asked, Together

MOST_ROWS = 5_000
"""Rows that one transaction closes at most, so that a long absence is made good in steps."""


class Judges(Protocol):
    """What windows are held against."""

    def settings(self, model: Model) -> Settings:
        """Return the settings that a model's spec states now."""
        ...

    async def ready(
        self, model: str, version: int, settings: Settings, generation: int
    ) -> tuple[Calibration, Sequence[str]] | None:
        """Return a version's calibration and the features its rows carry; None if it has none and never will.

        Raises:
            NotCalibrated: it is being worked out.
        """
        ...


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
        until = (await self._until([spec])).get(model)
        if until is None or (until <= self._reached.get(model, 0) and not self._on_trial(model)):
            return False
        async with self._store.begin(model) as unit:
            reached, promised = await self._close(unit, spec, until)
        self._reached[model] = reached
        if promised:
            self._on_report()
        return reached < until

    async def close_all(self, models: Sequence[str]) -> list[str]:
        """Close many models in one transaction, and return those that are left to `close`.

        Raises:
            Unavailable: PostgreSQL is away; nothing is changed.
        """
        known = {name: spec for name in models if (spec := self._specs.models.get(name)) is not None}
        until = await self._until([spec for name, spec in known.items() if not self._on_trial(name)])
        asked = [
            Asked(name, LabelStream.of(known[name]), reach)
            for name, reach in until.items()
            if reach > self._reached.get(name, 0)
        ]
        left = [name for name in models if name not in known or self._on_trial(name)]
        if not asked:
            return left
        reached: dict[str, int] = {}
        async with self._store.begin_all(asked) as units:
            for each in asked:
                unit = units[each.model]
                try:
                    reached[each.model], _ = await self._close(unit, known[each.model], each.until_ms)
                except Exception as error:  # whatever it is, `close` meets it too, and tells of it
                    unit.give_up()
                    if isinstance(error, Unavailable):
                        raise
                    left.append(each.model)
        self._reached |= reached
        return left

    def _on_trial(self, model: str) -> bool:
        standing = self._rollouts.standing(model)
        return standing is not None and bool(standing.rollout_id)

    async def _until(self, models: Sequence[Model]) -> dict[str, int]:
        """Return up to when each of the models can be closed; those of which that is not known yet are left out."""
        labels = {model.name: model.spec.label for model in models}
        found = await self._store.reach(
            {name: label.source for name, label in labels.items()},
            silent_ms=self._silent_ms,
            now_ms=self._clock.now_ms(),
        )
        return {
            name: min(predicted, labelled - labels[name].within)
            for name, (predicted, labelled) in found.items()
        }

    async def _close(self, unit: Unit | Together, model: Model, until: int) -> tuple[int, bool]:
        """Return up to where the model is closed now, and whether a report was promised."""
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
        watch, partial, full = windows.fill(watch, partial, rows, losses, settings.window, settings.look)
        since = await _since(unit, model, before, rows)
        fresh, counted = occasions.counted(model, before, rows, since)
        due = [*occasions.scheduled(model, before, reached), *counted]
        on_trial = trial.take(watch.trial, rows, losses, spec)
        watch = replace(watch, closed_ms=reached, trial=on_trial, fresh=fresh)
        for each in occasions.among(full, due):
            if isinstance(each, Due):
                await self._retraining.due(unit, model, each)
            else:
                watch, alarms = await self._judge(unit, model, settings, watch, each)
                promised = promised or alarms > 0
        watch = await self._say(unit, model, watch)
        if watch == before:
            return reached, False
        await unit.save_watch(watch)
        if reached > before.closed_ms:
            await unit.tell([Closed(model.name, reached)])
        self._partials[model.name] = partial
        return reached, promised

    async def _resume(self, unit: Unit, model: Model, settings: Settings) -> tuple[Watch, Partial]:
        """Return the watch with the rows of its unfinished windows: those at hand, or from the store."""
        watch = unit.watch
        if watch.settings != settings.key:
            empty = Series()
            watch = replace(watch, settings=settings.key, data=empty, performance=empty, concept=empty)
            return watch, Partial()
        partial = self._partials.get(model.name, Partial())
        if partial.matches(watch):
            return watch, partial
        starts = [series.first_ms for series in (watch.data, watch.performance, watch.concept) if series.rows]
        if not starts:
            return watch, Partial()
        rows, _ = await unit.rows(LabelStream.of(model), after_ms=min(starts) - 1, until_ms=watch.closed_ms)
        return watch, windows.restore(watch, rows, windows.champion_losses(model.spec, rows))

    async def _judge(
        self, unit: Unit, model: Model, settings: Settings, watch: Watch, window: Window
    ) -> tuple[Watch, int]:
        """Return the watch after a full window, and how many episodes it opened."""
        held = await self._judges.ready(model.name, window.version, settings, watch.generation)
        if held is None:
            return watch, 0
        calibration, features = held
        judged = detection.judge(model.name, window, features, calibration, settings, watch.episodes)
        await unit.tell(judged.readings)
        if judged.readings:
            await unit.keep_readings(window.kind, judged.readings)
        for alarm, finding in judged.alarms:
            with telemetry.span("drift found", model=model.name, drift=finding.kind):
                path = self._reports / quote(model.name, safe="") / f"{alarm.episode}.html"
                drift = detection.drift(
                    judged, alarm, finding, calibration, report=str(path), recorded_ms=self._clock.now_ms()
                )
                await unit.put_loop(loops.triggered(drift, telemetry.traceparent()))
                await unit.order_report(_report(model, judged, drift, path))
                news: list[News] = [
                    drift,
                    _alert(drift.episode, model.name, drift.summary, drift.recorded_ms),
                ]
                await unit.tell(news)
        await unit.tell(_over(model, judged, watch.episodes, self._clock.now_ms()))
        await self._look_again(unit, model, judged)
        return replace(watch, episodes=judged.episodes), len(judged.alarms)

    async def _look_again(self, unit: Unit, model: Model, judged: Judged) -> None:
        """Let the policy decide again about episodes that go on."""
        fresh = {alarm.episode for alarm, _ in judged.alarms}
        for kind in judged.kinds:
            episode = judged.episodes[kind].episode
            if episode is not None and episode not in fresh and kind in model.spec.retrain.on:
                await self._retraining.look_again(unit, episode, judged.window.end[0])

    async def _say(self, unit: Unit, model: Model, watch: Watch) -> Watch:
        """Say what the judge has to say of the step at which the rollout stands."""
        standing, on_trial = self._rollouts.standing(model.name), watch.trial
        if standing is None or on_trial is None or not standing.rollout_id:
            return watch
        found = trial.verdict(
            model.name, on_trial, standing, model.spec.judged_by,
            closed_ms=watch.closed_ms, recorded_ms=self._clock.now_ms(),
        )  # fmt: skip
        loop = await unit.loop(standing.loop_id) if found is not None else None
        if found is None or loop is None or not loops.is_on_trial(loop, standing.rollout_id):
            return watch
        with telemetry.span(f"verdict {found.outcome.lower()}", parent=loop.traceparent, model=model.name):
            await unit.put_loop(loops.judged(loop, found))
            await unit.tell([found])
        return replace(watch, trial=replace(on_trial, said_at_step=standing.step))


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


def _alert(episode: str, model: str, sentence: str, at_ms: int) -> Alert:
    occasion = f"{episode}/drift"
    return Alert(occasion, model, "warning", "drift", sentence, at_ms, occasion)
