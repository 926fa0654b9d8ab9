"""Closing: what a model predicted up to a time is joined, windowed and told.

When both watermarks have moved on, the rows between are read once, in order, with
their labels. What follows from them (windows, episodes, news and the new mark) is one
transaction that locks the model, so it happens once whichever instance does it and
whatever dies, and gives the same decisions however the rows were batched. Estimates and
rollouts go ahead of it, each in transactions of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from trimtab_core import accepted, ahead, occasions, windows
from trimtab_core.accepted import Word
from trimtab_core.baseline import Settings
from trimtab_core.occasions import Since
from trimtab_core.specs import Model
from trimtab_core.watched import Due, Row, Watch
from trimtab_core.windows import Partial
from trimtab_runtime.clock import Clock
from trimtab_runtime.errors import Unavailable

from trimtab_monitoring.errors import NotCalibrated
from trimtab_monitoring.usecases import judging, revising
from trimtab_monitoring.usecases.entities import Closed, LabelStream
from trimtab_monitoring.usecases.estimating import MOST_ROWS, Estimating, Judges, Taken
from trimtab_monitoring.usecases.judging import Judging
from trimtab_monitoring.usecases.ports import Rollouts, Specs, Store, Unit
from trimtab_monitoring.usecases.retraining import Retraining
from trimtab_monitoring.usecases.together import ToClose, Together
from trimtab_monitoring.usecases.windowing import Windowing


class Closing:
    """Closes models."""

    def __init__(
        self, store: Store, specs: Specs, rollouts: Rollouts, judges: Judges, retraining: Retraining, clock: Clock,
        *, reports: Path, silent_ms: int, on_report: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """`reports` is the folder in which reports are promised; `on_report` is called after one was."""
        self._store = store
        self._specs = specs
        self._judges = judges
        self._clock = clock
        self._silent_ms = silent_ms
        self._on_report = on_report
        self._estimating = Estimating(store, judges, clock)
        self._judging = Judging(store, rollouts, judges, clock)
        self._windowing = Windowing(specs, judges, retraining, clock, reports)
        self._partials: dict[str, Partial] = {}
        self._reached: dict[str, int] = {}

    async def close(self, model: str) -> bool:
        """Close what can be closed of `model`, or a part of it, and return whether more is left.

        Raises:
            NotFound: there is no such model.
            NotCalibrated: a full window waits for its version's calibration, and nothing else is left to do.
            Unavailable: PostgreSQL is away.
        """
        spec = self._specs.model(model)
        marks = (await self._marks([spec])).get(model)
        if marks is None:
            return False
        until, predicted = marks
        more = await self._estimating.estimate(spec, predicted)
        more |= await self._judging.judge(spec, until, predicted)
        if until <= self._reached.get(model, 0):
            return more
        try:
            async with self._store.begin(model) as unit:
                until = ahead.closable(spec.spec, unit.watch.ahead, until)
                reached, promised = await self._close(unit, spec, until)
        except NotCalibrated:
            if more:
                return True
            raise
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
        left = [name for name in models if name not in known or self._judging.is_on(name)]
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
                    until = ahead.closable(spec.spec, unit.watch.ahead, each.until_ms)
                    closed, _ = await self._close(unit, spec, until)
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

    async def _close(self, unit: Unit | Together, model: Model, until: int) -> tuple[int, bool]:
        """Return up to where the model is closed now, and whether a report was promised; rows are complete up to `until`."""
        before, rows, reached, promised = unit.watch, list[Row](), unit.watch.closed_ms, False
        settings = self._judges.settings(model)
        watch, partial = await self._resume(unit, model, settings)
        if until > before.closed_ms:
            rows, reached = await unit.rows(
                LabelStream.of(model), after_ms=before.closed_ms, until_ms=until, at_most=MOST_ROWS
            )
        losses = windows.champion_losses(model.spec, rows)
        watch, partial, full = windows.fill(
            watch, partial, rows, losses, settings.full, settings.look,
            every_ms=settings.every_ms, closed_ms=reached,
        )  # fmt: skip
        fresh, counted = occasions.counted(model, before, rows, await _since(unit, model, before, rows))
        due = [*occasions.scheduled(model, before, reached), *counted]
        watch = await judging.take(unit, model, settings, watch, rows, losses)
        acceptance, words = accepted.take(model, settings, before.acceptance, rows, losses)
        if acceptance is None and before.acceptance is not None:
            await unit.keep_readings("acceptance", [])
        watch = replace(watch, closed_ms=reached, fresh=fresh, acceptance=acceptance)
        for each in occasions.among(full, [*due, *words]):
            if isinstance(each, Due):
                watch = await self._windowing.due(unit, model, watch, each)
            elif isinstance(each, Word):
                promised |= await self._windowing.hear(unit, model, watch, each)
            else:
                watch, alarms = await self._windowing.take(unit, model, settings, watch, each)
                promised = promised or alarms > 0
        if watch == before:
            return reached, False
        predictions, labels = await revising.revise(unit, model, reached)
        watch = replace(watch, predictions=watch.predictions + predictions, labels=watch.labels + labels)
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
