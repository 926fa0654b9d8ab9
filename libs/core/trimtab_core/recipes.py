"""What a spec says a model is made of, as a name of a few letters.

Two specs of one recipe give the same model of the same rows: what is left out is how a
model is judged, watched and rolled out, and what a run may use up. A key that a later
release adds leaves every recipe as it is until it is written.
"""

import hashlib
import json
from typing import Any, Final, Literal

from trimtab_core.specs import ModelSpec

_OF_THE_RUN: Final = {"holdout", "min_rows", "timeout", "memory_mb"}
"""Keys of a trainer that change nothing in what it makes."""


def recipe(spec: ModelSpec) -> str:
    """Return the name of what a model is made of: the digest of what it is fitted to, and that of its trainer."""
    made = spec.model_dump(mode="json", exclude_defaults=True, by_alias=True)
    rows = {name: made.get(name) for name in ("task", "source", "features", "label")}
    trainer = {name: value for name, value in made["trainer"].items() if name not in _OF_THE_RUN}
    return f"{_digest(rows)}.{_digest([trainer, spec.judged_by])}"


def difference(before: str, after: str) -> Literal["spec", "trainer"] | None:
    """Return what differs between two recipes, which either part may: `trainer` if that alone does."""
    if before == after:
        return None
    return "trainer" if before.partition(".")[0] == after.partition(".")[0] else "spec"


def _digest(part: Any) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:16]
