"""What a spec says a model is made of, as a name of a few letters.

Two specs of one recipe ask for the same model of the same rows: what is left out is how
a model is judged, watched, told of and rolled out, what only a drift's run reads, and
what a run may use up. A search that is given more of that may find another model; it is
not trained anew because of it. A key that a later release adds leaves every recipe as
it is until it is written.
"""

import hashlib
import json
from collections.abc import Mapping, Set
from typing import Any, Final, Literal

from trimtab_core.specs import ModelSpec

_OF_THE_RUN: Final = {"holdout", "min_rows", "after_drift", "judging", "timeout", "memory_mb"}
"""Keys of a trainer that change nothing in what it is to make."""
_OF_THE_SEARCH: Final = {"budget", "at_once"}
"""Those of its search."""


def recipe(spec: ModelSpec) -> str:
    """Return the name of what a model is made of: the digest of what it is fitted to, and that of its trainer."""
    made = spec.model_dump(mode="json", exclude_defaults=True, by_alias=True)
    rows = {name: made.get(name) for name in ("task", "source", "features", "label")}
    trainer = _without(_OF_THE_RUN, made["trainer"])
    if search := _without(_OF_THE_SEARCH, trainer.pop("search", {})):  # an empty one is none
        trainer["search"] = search
    return f"{_digest(rows)}.{_digest([trainer, spec.judged_by])}"


def difference(before: str, after: str) -> Literal["spec", "trainer"] | None:
    """Return what differs between two recipes, which either part may: `trainer` if that alone does."""
    if before == after:
        return None
    return "trainer" if before.partition(".")[0] == after.partition(".")[0] else "spec"


def _without(names: Set[str], part: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name not in names}


def _digest(part: Any) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:16]
