"""Skew: now and then, whether serving sees what the archive says that it should see.

The sample is a model's newest window of predictions. Both sides come of the same events by the same code, so any difference
that is no rounding is a fault; what is trained while it stands would be trained on other features than it is asked with.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from trimtab_core.quality import TOLERANCE, stated_of
from trimtab_core.watched import Reading
from trimtab_runtime.clock import Clock
from trimtab_runtime.errors import Rejected, Unavailable

from trimtab_monitoring.usecases.entities import Alert, Health, News
from trimtab_monitoring.usecases.owning import Owns, everything
from trimtab_monitoring.usecases.ports import Specs, Store

log = logging.getLogger(__name__)

KIND: Final = "skew"
_GONE: Final = "The live version does not take the feature any more."


@dataclass(frozen=True, slots=True)
class Skewed:
    """What an audit found of one feature."""

    feature: str
    rows: int
    """That were compared."""
    mismatched: int
    missing: int
    """Logged as missing, known to the archive."""
    extra: int
    """Logged as known, missing in the archive."""

    @property
    def share(self) -> float:
        """The share of the rows in which serving saw something else."""
        return (self.mismatched + self.missing + self.extra) / self.rows if self.rows else 0.0


class Auditor(Protocol):
    """Who recomputes features from the archive."""

    async def audit(self, model: str, *, since_ms: int, until_ms: int) -> Sequence[Skewed] | None:
        """Compare what serving logged of predictions of [since, until); None while the archive has not come so far.

        Raises:
            Unavailable: the feature store is away.
            Rejected: it knows no such model.
        """
        ...


class Skews:
    """Has the newest window of each model audited."""

    def __init__(
        self, store: Store, specs: Specs, auditor: Auditor, clock: Clock, *, every_s: float, owns: Owns = everything
    ) -> None:  # fmt: skip
        self._store = store
        self._specs = specs
        self._auditor = auditor
        self._clock = clock
        self._every_s = every_s
        self._owns = owns
        self._audited: dict[str, int] = {}
        """By model, where the newest window that was audited ends."""

    async def work(self) -> None:
        """Audit now and then, until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            for model in filter(self._owns, list(self._specs.models)):
                try:
                    await self.look(model)
                except (Unavailable, Rejected) as error:
                    log.warning("skew of %s is not looked at: %s", model, error)

    async def look(self, model: str) -> bool:
        """Audit the newest window of a model, and tell what was found; return whether there was anything to audit.

        Raises:
            Unavailable: the feature store or PostgreSQL is away.
            Rejected: the feature store knows no such model.
        """
        span = _span(await self._store.health(model))
        if span is None or self._audited.get(model) == span[1]:
            return False
        found = await self._auditor.audit(model, since_ms=span[0], until_ms=span[1] + 1)
        if not found:
            return False
        async with self._store.begin(model) as unit:
            version, now_ms = unit.watch.version, self._clock.now_ms()
            readings = [
                Reading(
                    "quality", model, version, "skew_share", it.share, *span, it.rows, it.feature, TOLERANCE
                )
                for it in found
                if it.rows and it.share
            ]
            held = await unit.standing([model], [KIND])
            standing = {alert.occasion for alert in held}
            looked = {f"{model}/{KIND}/{each.feature}" for each in found}
            told: list[News] = [
                replace(alert, id=f"{alert.id}/gone", sentence=_GONE, at_ms=now_ms, resolved=True)
                for alert in held
                if alert.occasion not in looked
            ]
            for each in found:
                place = f"{model}/{KIND}/{each.feature}"
                if each.rows and (each.share >= TOLERANCE) != (place in standing):
                    origin = self._origin(model, each.feature)
                    told.append(_alert(model, each, origin, span[1], now_ms, resolved=place in standing))
            await unit.keep_readings(KIND, readings)
            await unit.tell([*readings, *told])
        self._audited[model] = span[1]
        return True

    def _origin(self, model: str, feature: str) -> str:
        """Return in words where a feature comes from, and who answers for it; nothing, if that is not known."""
        spec = self._specs.models.get(model)
        stated = stated_of(spec, [feature], self._specs.sources, self._specs.views) if spec else {}
        return stated[feature].origin if feature in stated else ""


def _span(health: Health) -> tuple[int, int] | None:
    """Return the first and the last event time of the newest window of predictions that was judged."""
    ends = [(reading.to_ms, reading.from_ms) for reading in health.readings if reading.subject == "drift"]
    return (max(ends)[1], max(ends)[0]) if ends else None


def _alert(model: str, found: Skewed, origin: str, window_ms: int, now_ms: int, *, resolved: bool) -> Alert:
    occasion = f"{model}/{KIND}/{found.feature}"
    where = f" It is {origin}." if origin else ""
    said = (
        f"{found.feature} is again what the archive says in all but {found.share:.1%} of {found.rows} predictions."
        if resolved
        else f"Serving saw another {found.feature} than the archive says in {found.share:.1%} of {found.rows} predictions "
        f"({found.mismatched} apart, {found.missing} missing, {found.extra} that should be missing): look at "
        f"`trimtab audit skew {model}`.{where}"
    )
    name = f"{occasion}/{window_ms}" + ("/resolved" if resolved else "")
    return Alert(name, model, "warning", KIND, said, now_ms, occasion, resolved)
