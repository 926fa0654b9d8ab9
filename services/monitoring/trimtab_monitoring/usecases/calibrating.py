"""Keeps what is usual for each version at hand, worked out once and in good time.

A version is calibrated as soon as a deployment names it, in the background; a window
that is full before that waits for it.
"""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from trimtab_core.baseline import NO_REFERENCE, Calibration, Settings, Uncalibrated
from trimtab_core.specs import Model
from trimtab_runtime.errors import Unavailable

from trimtab_monitoring.errors import NotCalibrated, Overwhelmed
from trimtab_monitoring.usecases.entities import StoredFile
from trimtab_monitoring.usecases.owning import Owns, everything
from trimtab_monitoring.usecases.ports import Rollouts, Specs, Store

log = logging.getLogger(__name__)

_IN_MEMORY: Final = 2.5
"""How many bytes a calibration takes for each of its JSON."""
_MOST_TRIES = 3
_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """A version to be calibrated under settings."""

    model: str
    version: int
    settings: Settings


class Calibrator(Protocol):
    """Works a calibration out, away from this process's loop."""

    async def calibrate(self, reference: StoredFile, settings: Settings) -> Calibration:
        """Return the calibration that a reference gives.

        Raises:
            Rejected: it is not what its digest or its format promises.
            Unavailable: it cannot be read now.
            Overwhelmed: the work took too long, or was killed.
        """
        ...


class _Held(NamedTuple):
    calibration: Calibration
    features: Sequence[str]
    size: int
    """In bytes, about."""


class Calibrations:
    """Calibrations by version and settings; what windows asked for most recently is at hand, within a budget of memory."""

    def __init__(
        self,
        store: Store,
        specs: Specs,
        rollouts: Rollouts,
        calibrator: Calibrator,
        wake: Callable[[str], None],
        *,
        most_bytes: int = 256 << 20,
        owns: Owns = everything,
    ) -> None:
        """`wake` is called with a model that has a calibration it may have waited for; at hand are `most_bytes` of them.

        Only versions of models that it `owns` are worked out here.
        """
        self._store = store
        self._specs = specs
        self._rollouts = rollouts
        self._calibrator = calibrator
        self._wake = wake
        self._most_bytes = most_bytes
        self._owns = owns
        self._held: OrderedDict[tuple[str, int, str], _Held] = OrderedDict()
        self._wanted: dict[Wanted, None] = {}
        self._overwhelmed: Counter[Wanted] = Counter()
        self._more = asyncio.Event()

    def settings(self, model: Model) -> Settings:
        """Return the settings that a model's spec states now."""
        return Settings.of(model, self._specs.sources.get(model.spec.source))

    async def ready(
        self, model: str, version: int, settings: Settings, generation: int
    ) -> tuple[Calibration, Sequence[str]] | Uncalibrated:
        """Return a version's calibration and the features its rows carry, or why it has none and never will.

        Raises:
            NotCalibrated: it is being worked out, or its deployment has not been heard of yet.
        """
        found = await self.at_hand(model, version, settings)
        if found is None:
            self._want(Wanted(model, version, settings))
            raise NotCalibrated(model, version)
        if found is NO_REFERENCE:
            standing = self._rollouts.standing(model)
            if standing is None or standing.generation < generation:
                raise NotCalibrated(model, version)
        return found

    async def at_hand(
        self, model: str, version: int, settings: Settings
    ) -> tuple[Calibration, Sequence[str]] | Uncalibrated | None:
        """Return what `ready` does, and None of what is yet to be worked out; it asks for nothing."""
        place = (model, version, settings.key)
        if place in self._held:
            self._held.move_to_end(place)
            return self._held[place][:2]
        found, features, size = await self._read(model, version, settings)
        if not isinstance(found, Calibration):
            return found
        if features:  # which are not known of a version on trial, before its own rows come
            self._hold(place, _Held(found, features, round(_IN_MEMORY * size)))
        return found, features

    def _hold(self, place: tuple[str, int, str], held: _Held) -> None:
        """Keep a calibration at hand, and let go of those that were used least recently until the budget is kept."""
        self._held[place] = held
        taken = sum(each.size for each in self._held.values())
        while taken > self._most_bytes and len(self._held) > 1:
            _, gone = self._held.popitem(last=False)
            taken -= gone.size

    async def found(
        self, model: str, version: int, settings: Settings
    ) -> tuple[Calibration | Uncalibrated | None, Sequence[str]]:
        """Return what was worked out for a version, None if it has yet to be, and the features that its rows carry."""
        found, features, _ = await self._read(model, version, settings)
        return found, features

    async def _read(
        self, model: str, version: int, settings: Settings
    ) -> tuple[Calibration | Uncalibrated | None, Sequence[str], int]:
        """Return what `found` does, and how many bytes were read for it."""
        known = await self._store.version(model, version)
        if known is None or known.reference is None:
            return NO_REFERENCE, (), 0
        found, size = await self._store.calibration(model, version, settings.key)
        named = found.features if isinstance(found, Calibration) and known.features else ()
        if lacking := [name for name in named if name not in known.features]:
            fault = (
                f"its reference has {', '.join(lacking)}, which its predictions do not carry: train it again"
            )
            return Uncalibrated(fault), known.features, 0
        return found, known.features, size

    def prepare(self, models: Sequence[str]) -> None:
        """Ask for the calibrations of the versions that serve in `models`, or are to serve."""
        for name in models:
            standing, model = self._rollouts.standing(name), self._specs.models.get(name)
            if standing is not None and model is not None:
                for version in (
                    standing.champion,
                    standing.challenger,
                    *(arm.version for arm in standing.arms),
                ):
                    if version:
                        self._want(Wanted(name, version, self.settings(model)))

    def _want(self, wanted: Wanted) -> None:
        self._wanted[wanted] = None
        self._more.set()

    async def work(self) -> None:
        """Work calibrations out, one after the other, until cancelled."""
        while True:
            self._more.clear()
            for wanted in list(self._wanted):
                if not self._owns(wanted.model):  # its owner wants it too, or will
                    del self._wanted[wanted]
                    continue
                try:
                    await self._work_out(wanted)
                except (Unavailable, OSError) as error:
                    log.warning(
                        "calibration of version %d of %s waits: %s", wanted.version, wanted.model, error
                    )
                    await asyncio.sleep(_AGAIN_S)
                    continue
                self._wanted.pop(wanted, None)
                self._wake(wanted.model)
            if not self._wanted:
                await self._more.wait()

    async def _work_out(self, wanted: Wanted) -> None:
        model, number, settings = wanted.model, wanted.version, wanted.settings
        known = await self._store.version(model, number)
        if known is None or known.reference is None:
            return
        if (await self._store.calibration(model, number, settings.key))[0] is not None:
            return
        found: Calibration | Uncalibrated
        try:
            found = await self._calibrator.calibrate(known.reference, settings)
            for note in found.notes:
                log.warning("version %d of %s: %s", number, model, note)
        except Overwhelmed as error:
            self._overwhelmed[wanted] += 1
            if self._overwhelmed[wanted] < _MOST_TRIES:
                raise
            log.error("version %d of %s cannot be watched: %s", number, model, error)
            found = Uncalibrated(f"after {_MOST_TRIES} tries: {error}")
        except (Unavailable, OSError):
            raise
        except Exception as error:  # one version's fault must not keep the others from being calibrated
            log.error("version %d of %s cannot be watched: %s", number, model, error)
            found = Uncalibrated(str(error) or repr(error))
        await self._store.put_calibration(model, number, settings.key, found)
