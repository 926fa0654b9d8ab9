"""Estimating: how well a model does where its labels have not come yet, and which of them would tell most.

It goes ahead of the closing, as far as predictions are complete. A window is estimated
in the transaction that takes it in, so once, whichever instance does it and whatever
dies; nothing is decided by it, but that limits of `alerts.rules` on it are broken.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from trimtab_core import ahead, trial
from trimtab_core.baseline import Calibration, Settings, Uncalibrated
from trimtab_core.specs import Model
from trimtab_core.watched import Ahead, Reading, Row, Series, Watch
from trimtab_core.windows import DataWindow
from trimtab_runtime.clock import Clock

from trimtab_monitoring.errors import NotCalibrated
from trimtab_monitoring.usecases import alarms
from trimtab_monitoring.usecases.entities import WantedLabel
from trimtab_monitoring.usecases.ports import Store, Unit
from trimtab_monitoring.usecases.together import Together, ahead_of

log = logging.getLogger(__name__)

MOST_ROWS = 5_000
"""Rows that one transaction takes in at most, so that a long absence is made good in steps."""


Held = tuple[Calibration, Sequence[str]] | Uncalibrated
"""A version's calibration with the features that its rows carry, or why it has none."""


class Judges(Protocol):
    """What windows are held against."""

    def settings(self, model: Model) -> Settings:
        """Return the settings that a model's spec states now."""
        ...

    async def ready(self, model: str, version: int, settings: Settings, generation: int) -> Held:
        """Return a version's calibration and the features its rows carry, or why it has none and never will.

        Raises:
            NotCalibrated: it is being worked out.
        """
        ...

    async def at_hand(self, model: str, version: int, settings: Settings) -> Held | None:
        """Return what `ready` does, and None of what is yet to be worked out."""
        ...


class Taken(NamedTuple):
    """What was taken in of a model's predictions: up to when, and the rows of the window that they leave unfilled."""

    until_ms: int
    rows: list[Row]


class Estimating:
    """Estimates windows of predictions, and asks for labels."""

    def __init__(self, store: Store, judges: Judges, clock: Clock) -> None:
        self._store = store
        self._judges = judges
        self._clock = clock
        self._partials: dict[str, list[Row]] = {}
        self._reached: dict[str, int] = {}

    async def estimate(self, model: Model, until: int) -> bool:
        """Take in what `model` predicted up to `until`, or a part of it, and return whether more is left.

        A window that waits for its version's calibration is left for later, and holds up nothing else; where labels come for wanted rows
        alone, its rows wait to be closed.

        Raises:
            Unavailable: PostgreSQL is away.
        """
        if until <= self.reached(model.name):
            return False
        try:
            async with self._store.begin(model.name) as unit:
                taken = await self.take(unit, model, until)
        except NotCalibrated as error:
            log.info("estimating waits: %s", error)
            return False
        self.took(model.name, taken)
        return taken.until_ms < until

    def reached(self, model: str) -> int:
        """Return up to where predictions of a model were taken in."""
        return self._reached.get(model, 0)

    def took(self, model: str, taken: Taken) -> None:
        """Remember what was taken in, now that its transaction is committed."""
        self._partials[model], self._reached[model] = taken.rows, taken.until_ms

    async def take(self, unit: Unit | Together, model: Model, until: int) -> Taken:
        """Take in what `model` predicted up to `until`, or a part of it, in the caller's transaction.

        Raises:
            NotCalibrated: a window waits for its version's calibration.
        """
        watch, settings = unit.watch, self._judges.settings(model)
        before, partial = await self._resume(unit, model.name, settings)
        if until <= before.reached_ms:
            return Taken(before.reached_ms, partial)
        rows, reached = await unit.predictions(after_ms=before.reached_ms, until_ms=until, at_most=MOST_ROWS)
        after, partial, full = ahead.fill(before, partial, rows, reached, settings)
        for window in full:
            watch = await self._tell(unit, model, settings, watch, window, after.generation)
        await unit.save_watch(replace(watch, ahead=after))
        return Taken(reached, partial)

    async def _resume(self, unit: Unit | Together, model: str, settings: Settings) -> tuple[Ahead, list[Row]]:
        """Return what was reached with the rows of the unfinished window: those at hand, or from the store."""
        held = unit.watch.ahead
        if held.settings != settings.key:
            return replace(held, reached_ms=ahead_of(unit.watch), rows=Series(), settings=settings.key), []
        partial = self._partials.get(model, []) if held.rows.rows else []
        if not ahead.are_held(held, partial):
            rows, _ = await unit.predictions(after_ms=held.rows.first_ms - 1, until_ms=held.reached_ms)
            partial = ahead.restore(held, rows)
        return held, partial

    async def _tell(
        self, unit: Unit | Together, model: Model, settings: Settings, watch: Watch, window: DataWindow, generation: int
    ) -> Watch:  # fmt: skip
        """Tell the estimate of a window, and which of its labels are wanted; return the watch with the limits that it breaks."""
        sized = settings.of_rows(len(window.rows))
        held = await self._judges.ready(model.name, window.version, sized, generation)
        calibration, features = (held, ()) if isinstance(held, Uncalibrated) else held
        reading = ahead.estimated(model.name, window, features, calibration, settings, watch)
        told_of = [reading, *await self._of_arms(model, settings, window, features, generation)]
        await unit.keep_readings("estimate", told_of)
        await unit.tell(told_of)
        if count := model.spec.monitoring.labels_wanted:
            chosen = ahead.wanted(model.name, window, features, calibration, count)
            asked = [_asked(model.name, window, each) for each in chosen]
            await unit.put_wanted(asked)
            await unit.tell(asked)
        judged = [reading] if settings.judges(window) else []
        breaches, told = alarms.of_rules(
            model, watch.breaches, judged, window.rows[-1].at_ms, self._clock.now_ms()
        )
        await unit.tell(told)
        return replace(watch, breaches=breaches)

    async def _of_arms(
        self, model: Model, settings: Settings, window: DataWindow, features: Sequence[str], generation: int
    ) -> list[Reading]:
        """Estimate what versions on trial answered; one whose calibration is not at hand is left out, and nothing waits for it."""
        found = list[Reading]()
        for each in trial.of_arms(window):
            sized = settings.of_rows(len(each.rows))
            try:
                held = await self._judges.ready(model.name, each.version, sized, generation)
            except NotCalibrated:
                continue
            if isinstance(held, Uncalibrated) or not ahead.can_be_read(features, held[0]):
                continue
            reading = ahead.estimated(model.name, each, features, held[0], settings, Watch())
            found.append(replace(reading, arm="challenger"))
        return found


def _asked(model: str, window: DataWindow, chosen: ahead.Wanted) -> WantedLabel:
    row, rows = chosen.row, window.rows
    return WantedLabel(
        model, window.version, row.id, row.key, row.at_ms, row.champion, chosen.expected, chosen.chance,
        window.covers.from_ms, window.covers.to_ms, len(rows), chosen.weight,
    )  # fmt: skip
