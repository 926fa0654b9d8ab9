"""How a candidate is made, and the files that a user brings for it."""

import re
from collections.abc import Iterator
from typing import Final, Literal

from pydantic import Field

from trimtab_core.durations import format_duration, parse_duration
from trimtab_core.specs.base import Place, Spec
from trimtab_core.specs.values import Duration, Tried

Family = Literal["linear", "random_forest", "hist_gradient_boosting", "lightgbm", "xgboost", "neural_network"]
"""A family of models; `docs/training.md` says what each is for."""


class SearchSpec(Spec):
    """How `kind: auto` looks for a family and its parameters."""

    families: tuple[Family, ...] = ()
    """All that the trainer has, if none is named; of those that are, one that it lacks is left out."""
    trials: int = Field(default=40, ge=1, le=10_000)
    budget: Duration | None = None
    """Wall time after which no further trial begins; half of trainer.timeout if not given."""
    at_once: int = Field(default=4, ge=1, le=64)
    """So many trials are chosen together, and run side by side where there is a Ray cluster."""
    parameters: dict[Family, dict[str, Tried]] = {}
    """What to try in the place of, or beside, a family's own ranges."""

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        for at, family in enumerate(self.families):
            if family in self.families[:at]:
                yield ("families", at), f"{family} is named twice: remove one"
        for family in self.parameters:
            if self.families and family not in self.families:
                yield (
                    ("parameters", family),
                    f"{family} is not among the families, {', '.join(self.families)}: add it there, or remove this",
                )


class AfterDriftSpec(Spec):
    """When a candidate may be fitted to what came after a change alone."""

    min_rows: int | None = Field(default=None, ge=10)
    """So many labelled rows of the new world at least; a tenth of the rows, and `trainer.min_rows`, if it is not given."""


_LEAST_MEMORY_MB: Final = 512


class TrainerSpec(Spec):
    """How a candidate is made."""

    kind: Family | Literal["auto", "own"] = "hist_gradient_boosting"
    """`auto` searches for the family; `own` is a trainer that the user brings."""
    entry_point: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.-]*(:[A-Za-z_][\w.]*)?$")
    """Of `kind: own`, where the trainer is: `mypackage.module:Trainer`, or the name of an entry point of the group
    `trimtab.trainers`; the only one of them, if not given."""
    wheel: str | None = None
    """Of `kind: own`, the wheel that has it: a file beside this one, which `trimtab apply` sends and names by its digest.
    Without one, it is in a package that is installed where the trainer runs."""
    lock: str | None = None
    """Of `kind: own`, the requirements that the wheel runs with, each with its hashes; those of the trainer, if not given."""
    parameters: dict[str, float | int | str | bool] = {}
    search: SearchSpec | None = None
    """Of `kind: auto`."""
    class_weight: Literal["balanced"] | None = None
    """Whether the rows of a rare class weigh as much as those of a frequent one; answers stay probabilities of the world as it is."""
    window: Duration
    """How far back the training rows reach."""
    half_life: Duration | None = None
    """Rows this much older count half in the fit; without it all count the same."""
    holdout: float = Field(default=0.2, gt=0, lt=0.9)
    """The newest share of the rows, on which candidate and champion are compared."""
    seed: int = 0
    min_rows: int = Field(default=200, ge=10)
    max_rows: int | None = None
    after_drift: AfterDriftSpec = AfterDriftSpec()
    judging: Literal["auto", "full"] = "auto"
    """Whether the fits that only judge may see a part of the rows, where a fit takes long."""
    timeout: Duration = parse_duration("15m")
    memory_mb: int = 4096
    """What a run may hold, at least 512: what fits are made with takes half of that."""

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        yield from self._own_faults()
        if self.memory_mb < _LEAST_MEMORY_MB:
            yield (
                ("memory_mb",),
                f"{self.memory_mb} is too little for any fit, for what fits are made with takes half of {_LEAST_MEMORY_MB}: "
                f"write {_LEAST_MEMORY_MB} at least, or leave it out",
            )
        if self.max_rows is not None and self.max_rows < self.min_rows:
            yield (
                ("max_rows",),
                f"{self.max_rows} is under min_rows, {self.min_rows}: no run would start; raise it",
            )
        if self.kind == "auto" and self.parameters:
            yield (
                ("parameters",),
                f"{', '.join(self.parameters)} of which family? kind auto tries several: write "
                "search.parameters.FAMILY, or name a kind",
            )
        if self.kind != "auto" and self.search is not None:
            yield ("search",), f"kind {self.kind} is not searched for: write kind: auto, or remove search"
        if self.search and self.search.budget and self.search.budget >= self.timeout:
            budget, timeout = format_duration(self.search.budget), format_duration(self.timeout)
            yield (
                ("search", "budget"),
                f"{budget} leaves nothing of trainer.timeout, {timeout}, for the fits that follow: lower it, or raise that",
            )

    def _own_faults(self) -> Iterator[tuple[Place, str]]:
        given = {
            name: value
            for name in ("entry_point", "wheel", "lock")
            if (value := getattr(self, name)) is not None
        }
        if self.kind != "own":
            for name, value in given.items():
                yield (
                    (name,),
                    f"{value!r} is for kind: own, and this is {self.kind}: remove it, or write kind: own",
                )
            return
        if not given.keys() & {"entry_point", "wheel"}:
            yield ("kind",), "'own' stands without entry_point and wheel: say where your trainer is"
        if self.wheel is not None and not self.wheel.partition("@")[0].endswith(".whl"):
            yield (
                ("wheel",),
                f"{self.wheel!r} is no wheel: build one, with `python -m build --wheel`, and name its file",
            )
        if self.class_weight is not None:
            yield (
                ("class_weight",),
                f"{self.class_weight!r} is for Trimtab's own families: remove it, and weigh classes in your trainer",
            )
        if self.lock is not None and self.wheel is None:
            yield (
                ("lock",),
                f"{self.lock!r} stands without a wheel: name the wheel that runs with it, or remove it",
            )


PINNED: Final = re.compile(r"([^/\\]+)@sha256:([0-9a-f]{64})")


def pinned(name: str, digest: str) -> str:
    """Return how an applied spec names a file: by its name and what is in it."""
    return f"{name}@sha256:{digest}"


def unpinned(text: str) -> tuple[str, str]:
    """Return the name and the digest of a file that an applied spec names.

    Raises:
        ValueError: it names a path.
    """
    found = PINNED.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is a path: `trimtab apply` sends the file, and names it by its digest")
    return found[1], found[2]
