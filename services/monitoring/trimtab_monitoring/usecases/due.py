"""When a model is due to be trained again without drift: by its schedule, and by newly labelled rows.

Both follow from the closed rows and their times alone, and each occasion has an id
of its own, so that a replay comes to the same ones and none is told twice.
"""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Literal

from trimtab_core.schedules import instants
from trimtab_core.specs import Model
from trimtab_runtime.clock import iso

from trimtab_monitoring.usecases.entities import Due, Fresh, LabelStream, Row, Watch
from trimtab_monitoring.usecases.ports import Unit


def scheduled(model: Model, before: Watch, until_ms: int) -> list[Due]:
    """Return the instants of the schedule that are passed now; before the first closing none was missed."""
    schedule = model.spec.retrain.schedule
    if schedule is None or not before.closed_ms:
        return []
    return [
        Due("schedule", _id(model, "schedule", at_ms), at_ms, f"The schedule, due at {iso(at_ms)[:16]},")
        for at_ms in instants(schedule, before.closed_ms, until_ms)
    ]


async def counted(unit: Unit, model: Model, before: Watch, rows: Sequence[Row]) -> tuple[Fresh, list[Due]]:
    """Count the labelled rows among `rows` that the live version was not fitted to.

    Return the count, and each multiple of `retrain.new_rows` that it reaches. For a version that is live anew,
    those that were closed before it was are looked up.
    """
    each = model.spec.retrain.new_rows
    if each is None or not rows:
        return (Fresh() if each is None else before.fresh), []
    fresh, found = before.fresh, list[Due]()
    trained_to = await unit.trained_to(before.version)
    version, generation = before.version, before.generation
    for row in rows:
        if row.generation > generation:
            if row.version != version:
                trained_to = await unit.trained_to(row.version)
            version, generation = row.version, row.generation
        if trained_to is None:
            continue
        reached = fresh.rows // each if fresh.version == version else 0
        if fresh.version != version:
            known = await unit.labelled(LabelStream.of(model), after_ms=trained_to, before_ms=row.at_ms)
            fresh = Fresh(version, known)
        if row.label is not None and row.at_ms > trained_to:
            fresh = replace(fresh, rows=fresh.rows + 1)
        if (count := fresh.rows // each) > reached:
            summary = f"A count of {count * each} rows labelled since version {version} was trained"
            found.append(Due("new_rows", _id(model, "new_rows", version, count), row.at_ms, summary))
    return fresh, found


def _id(model: Model, trigger: Literal["schedule", "new_rows"], *occasion: int) -> str:
    return sha256("\0".join([model.name, trigger, *map(str, occasion)]).encode()).hexdigest()[:32]
