"""How much comes of each source, and how good it is: counted as ingestion tells it, and looked at and told hour by hour.

An hour is told once, and unusual volume, repeats, refused rows and delay open an alert, however late the look comes and
whether it is over by then. Silence, where events were to be expected and those who are
asked go on, is bad data: features grow stale and labels stay away.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from trimtab_core import flow, quality
from trimtab_core.flow import Flowed, FlowFault, FlowState, Hour
from trimtab_core.metricnames import OF_AN_HOUR
from trimtab_core.specs import Source
from trimtab_core.watched import Reading
from trimtab_runtime.clock import Clock
from trimtab_runtime.errors import Unavailable

from trimtab_monitoring.usecases import alarms
from trimtab_monitoring.usecases.entities import Alert, News
from trimtab_monitoring.usecases.history import HistoryStore, shelf_of
from trimtab_monitoring.usecases.ports import Specs

log = logging.getLogger(__name__)

PERIOD_S: Final = 10.0
QUIET_MS: Final = 60_000
"""Nothing is called silent that was heard of so recently, by the wall clock: its events may be on their way."""
_JUDGED: Final[Mapping[str, flow.Kind]] = {"refused_share": "refused", "delay_ms": "delay"}
"""Of what ingestion says, what is judged."""
_STRETCH_MS: Final = 7 * 24 * flow.HOUR_MS
"""Hours that are judged in one go."""
_SWEEP: Final = 5_000
"""Old readings that are deleted in one go."""


@dataclass(frozen=True, slots=True)
class Came:
    """What one batch held of an hour of event time."""

    source: str
    partition: int
    place: int
    """Offset of the batch's last record in raw.<source>."""
    hour_ms: int
    events: int
    repeats: int
    newest_ms: int


@dataclass(frozen=True, slots=True)
class Figure:
    """What ingestion says of a batch, or of a window of rows that a batch has filled."""

    source: str
    partition: int
    place: int
    """As in `Came`."""
    hour_ms: int
    """Of its newest row."""
    name: str
    """Of a reason for which rows were refused, the value is their share."""
    field: str
    rows: int
    value: float
    low: float | None = None
    """Where it should be, if it is expected, and whether it is there."""
    high: float | None = None
    held: bool | None = None


@dataclass(frozen=True, slots=True)
class Hourly:
    """What was said under one name of an hour, all partitions together."""

    hour_ms: int
    name: str
    field: str
    rows: int
    total: float
    """The sum of value times rows."""
    least: float
    most: float
    low: float | None = None
    high: float | None = None
    held: bool | None = None

    @property
    def value(self) -> float:
        """How many rows were refused; of an extreme, a spread or a number of values the furthest; of others the mean of rows."""
        match self.name:
            case "refused_share":
                return float(round(self.total))
            case "min":
                return self.least
            case "max" | "stddev" | "distinct":
                return self.most
        return self.total / self.rows


@dataclass(frozen=True, slots=True)
class Seen:
    """How far a source has come in event time."""

    newest_ms: int
    quiet: bool
    """Whether nothing has been heard of it lately, by the wall clock."""
    asked_ms: int | None
    """Up to where the models that are made of it have answered."""


class FlowUnit(Protocol):
    """One transaction on one source, whose row it locks."""

    state: FlowState

    async def hours(self, from_ms: int) -> list[Hour]:
        """Return the hours of which something came, of those that began after a time, in order."""
        ...

    async def said(self, from_ms: int, until_ms: int) -> list[Hourly]:
        """Return what was said of the hours that began in [from, until), in order."""
        ...

    async def seen(self, models: Sequence[str], heard_before_ms: int) -> Seen | None:
        """Return how far the source has come, and how far those who are asked with it; None if nothing has come yet."""
        ...

    async def save(self, state: FlowState, told: Sequence[News]) -> None:
        """Remember `state`, publish `told` once the transaction is committed, and keep the readings among it."""
        ...


class FlowStore(Protocol):
    """Where it is kept how much came."""

    async def count(self, came: Sequence[Came], figures: Sequence[Figure]) -> None:
        """Count what came and what was said of it; what was counted before changes nothing."""
        ...

    def begin(self, source: str) -> AbstractAsyncContextManager[FlowUnit]:
        """Open a unit of work on a source."""
        ...

    async def forget(self, source: str, *, before_ms: int) -> None:
        """Delete the hours that began before a time."""
        ...


class Flowing:
    """Counts what comes, and looks at it."""

    def __init__(
        self, store: FlowStore, history: HistoryStore, specs: Specs, clock: Clock, *, history_ms: int
    ) -> None:
        """Readings are kept for `history_ms` behind the newest event of their source."""
        self._store = store
        self._history = history
        self._specs = specs
        self._clock = clock
        self._history_ms = history_ms

    async def heard(self, came: Sequence[Came], figures: Sequence[Figure]) -> None:
        """Count what came, and what is said of it.

        Raises:
            Unavailable: PostgreSQL is away.
        """
        await self._store.count(came, figures)

    async def work(self) -> None:
        """Look at all sources now and then, until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            try:
                for source in list(self._specs.sources):
                    await self.look(source)
            except Unavailable as error:
                log.warning("sources are not looked at: %s", error)

    async def look(self, source: str) -> None:
        """Judge the hours of a source that are over, and whether it is silent, and tell what has changed.

        An hour is over once an event is newer than its end by the lateness of the source. Of one that is no more nothing is told.
        """
        while (spec := self._specs.sources.get(source)) is not None and await self._look(spec):
            pass

    async def _look(self, spec: Source) -> bool:
        """Judge the next hours, and return whether there are more."""
        source, now_ms = spec.name, self._clock.now_ms()
        models = [
            model.name
            for model in self._specs.models.values()
            if source in quality.sources_of(model, self._specs.views)
        ]
        async with self._store.begin(source) as unit:
            seen = await unit.seen(models, now_ms - QUIET_MS)
            if seen is None:
                return False
            before, until_ms = unit.state, seen.newest_ms - spec.spec.lateness
            if (
                until_ms // flow.HOUR_MS * flow.HOUR_MS <= before.judged_ms
                and not seen.quiet
                and not before.faults
            ):
                return False
            is_behind = before.judged_ms > 0 and until_ms > before.judged_ms + _STRETCH_MS
            if is_behind:
                until_ms = before.judged_ms + _STRETCH_MS
            known_ms = min(before.judged_ms or seen.newest_ms, seen.newest_ms)
            hours = await unit.hours(known_ms - flow.KEPT * flow.HOUR_MS)
            after, figures, brief = flow.judge(source, hours, before, until_ms)
            if not is_behind:
                asked_ms = seen.asked_ms if seen.quiet and seen.asked_ms is not None else seen.newest_ms
                after = flow.silence(source, hours, after, seen.newest_ms, asked_ms)
            if after != before:
                said = await unit.said(before.judged_ms, after.judged_ms)
                told: list[News] = [
                    _reading(source, figure) for figure in figures if figure.kind in ("volume", "duplicates")
                ]
                usual = {(figure.kind, figure.at_ms): figure.expected for figure in figures}
                told += [_hourly(source, it, usual) for it in said if it.name in OF_AN_HOUR]
                told += _news(source, spec.metadata.owner, before, brief, after, said, now_ms)
                await unit.save(after, told)
        if is_behind:
            return True
        await self._store.forget(source, before_ms=seen.newest_ms - 2 * flow.KEPT * flow.HOUR_MS)
        told_from = seen.newest_ms - self._history_ms
        await self._history.forget(shelf_of(source), before_ms=told_from, at_most=_SWEEP)
        return False


def _reading(source: str, figure: Flowed) -> Reading:
    name = "events_an_hour" if figure.kind == "volume" else "repeats_an_hour"
    return Reading(
        "quality", source, 0, name, figure.value, figure.at_ms, figure.at_ms + flow.HOUR_MS, round(figure.value),
        threshold=figure.expected,
    )  # fmt: skip


def _hourly(source: str, said: Hourly, usual: Mapping[tuple[flow.Kind, int], float | None]) -> Reading:
    kind = _JUDGED.get(said.name)
    return Reading(
        "quality", source, 0, OF_AN_HOUR[said.name], said.value, said.hour_ms, said.hour_ms + flow.HOUR_MS, said.rows,
        said.field, threshold=usual.get((kind, said.hour_ms)) if kind else None, low=said.low, high=said.high, held=said.held,
    )  # fmt: skip


def _news(
    source: str, owner: str | None, before: FlowState, brief: Sequence[FlowFault], after: FlowState, said: Sequence[Hourly],
    now_ms: int,
) -> list[News]:  # fmt: skip
    """Return the news of what was and is over, of what began and is over by now, and of what has begun."""
    who, told = f" Its owner is {owner}." if owner else "", list[News]()
    over = alarms.without(before.faults, after.faults)
    begun = alarms.without(after.faults, before.faults)
    well = f"What comes of source {source!r} is as usual again."
    for fault in (*over, *brief, *begun):
        if fault not in over:
            told.append(_alert(source, fault, f"{fault.sentence}{_reason(fault, said)}{who}", now_ms))
        if fault not in begun:
            told.append(_alert(source, fault, well, now_ms, resolved=True))
    return told


def _reason(fault: FlowFault, said: Sequence[Hourly]) -> str:
    """Return a sentence about the reason for which most rows were refused, where it is about refused rows."""
    codes = [
        (it.total, it.name.removeprefix("refused_"))
        for it in said
        if it.hour_ms == fault.since_ms and it.name.startswith("refused_") and it.name not in OF_AN_HOUR
    ]
    if fault.kind != "refused" or not codes:
        return ""
    rows, code = max(codes)
    return f" {rows:.0f} of them are {code}."


def _alert(source: str, fault: FlowFault, sentence: str, at_ms: int, *, resolved: bool = False) -> Alert:
    occasion = f"{source}/{fault.kind}/{fault.since_ms}"
    name = f"{occasion}/resolved" if resolved else occasion
    return Alert(name, source, "warning", fault.kind, sentence, at_ms, occasion, resolved)
