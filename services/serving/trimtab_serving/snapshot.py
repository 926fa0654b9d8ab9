"""Everything a request needs, in one object that never changes.

The control plane builds a new snapshot and puts it in the place of the old one by
one assignment. A request takes the snapshot once and works on that to its end, so it
sees a swap whole or not at all, and the versions it holds stay alive until it is done.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from trimtab_runtime.errors import Conflict
from trimtab_runtime.specbook import UnknownModel

from trimtab_serving.errors import VersionNotWarm
from trimtab_serving.routing import Arms
from trimtab_serving.rows import RowReader
from trimtab_serving.versions import Version

CHAMPION, CHALLENGER = "champion", "challenger"
"""The arms, as a caller is told of them; of several challengers each has its number after it."""


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """One model as it answers now."""

    model: str
    generation: int
    """Of the deployment it stands at."""
    champion: Version
    challengers: tuple[Version, ...]
    """Score every request beside the champion, while a rollout is on: one, or several in an A/B test."""
    arms: Arms
    warm: Mapping[int, Version]
    """By number: whatever a request may pin."""
    reader: RowReader

    def arm_of(self, key: str) -> int:
        """Return the arm of the row with this key: 0 is the champion's, 1 that of the first challenger, and so on.

        The champion also answers for a version that has left a test, or is not warm here yet.
        """
        if not self.arms.bounds:
            return 1 if self.arms.challenger_answers(key) else 0
        number = self.arms.version_for(key)
        return next((arm for arm, each in enumerate(self.challengers, 1) if each.number == number), 0)

    def name_of(self, arm: int) -> str:
        """Return what a caller is told that an arm is called."""
        if not arm:
            return CHAMPION
        return f"{CHALLENGER}-{self.challengers[arm - 1].number}" if self.arms.bounds else CHALLENGER

    def pinned(self, version: int | str) -> Version:
        """Return a warm version by its number, or raise `VersionNotWarm`; 0 and "" pin none: the champion."""
        if not version:
            return self.champion
        number = int(version) if isinstance(version, int) or version.isdecimal() else -1
        if (found := self.warm.get(number)) is None:
            raise VersionNotWarm(self.model, version, self.warm)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """All models, by name."""

    served: Mapping[str, Served] = field(default_factory=lambda: MappingProxyType({}))
    silent: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Models that are known and do not answer, with a sentence that says why."""

    def of(self, model: str) -> Served:
        """Return what answers for a model.

        Raises:
            UnknownModel: no such model has been applied.
            Conflict: it is known, and does not answer.
        """
        if (found := self.served.get(model)) is not None:
            return found
        if (why := self.silent.get(model)) is not None:
            raise Conflict(why)
        raise UnknownModel(model)


class Board:
    """Holds the current snapshot: written by the control plane, read by every request."""

    def __init__(self) -> None:
        self.current = Snapshot()
        self.ready = False
        """Whether every model that ought to answer does."""
