"""When a model is due to be trained again without drift: by its schedule, and by newly labelled rows.

Both follow from the closed rows and their times alone, and each occasion has an id
of its own, so that a replay comes to the same ones and none is told twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from trimtab_core.accepted import Word
from trimtab_core.naming import id_of
from trimtab_core.schedules import instants
from trimtab_core.specs import Model
from trimtab_core.timestamps import iso
from trimtab_core.watched import Due, Fresh, Row, Watch
from trimtab_core.windows import Window


@dataclass(frozen=True, slots=True)
class Since:
    """What is known of a version when its first row is closed."""

    trained_to_ms: int | None
    """Event time of the newest row that it was fitted to, if it is known."""
    labelled: int = 0
    """Rows labelled since then that were closed before; read where they are not counted yet."""


def scheduled(model: Model, before: Watch, until_ms: int) -> list[Due]:
    """Return the instants of the schedule that are passed now; before the first closing none was missed."""
    schedule = model.spec.retrain.schedule
    if schedule is None or not before.closed_ms:
        return []
    return [
        Due("schedule", _id(model, "schedule", at_ms), at_ms, f"The schedule, due at {iso(at_ms)[:16]},")
        for at_ms in instants(schedule, before.closed_ms, until_ms)
    ]


def stretches(before: Watch, rows: Sequence[Row]) -> list[tuple[int, int]]:
    """Return the versions that were live while `rows` were answered, in order, each with the time of its first row."""
    found = [(before.version, rows[0].at_ms)]
    generation = before.generation
    for row in rows:
        if row.generation > generation:
            generation = row.generation
            if row.version != found[-1][0]:
                found.append((row.version, row.at_ms))
    return found


def counted(
    model: Model, before: Watch, rows: Sequence[Row], since: Sequence[Since]
) -> tuple[Fresh, list[Due]]:
    """Count the labelled rows among `rows` that the live version was not fitted to.

    Return the count, and each multiple of `retrain.new_rows` that it reaches. `since` is what is known of each version
    that `stretches` names.
    """
    each = model.spec.retrain.new_rows
    if each is None or not rows:
        return (Fresh() if each is None else before.fresh), []
    fresh, found = before.fresh, list[Due]()
    known = iter(since)
    now, version, generation = next(known), before.version, before.generation
    for row in rows:
        if row.generation > generation:
            if row.version != version:
                now = next(known)
            version, generation = row.version, row.generation
        if now.trained_to_ms is None:
            continue
        reached = fresh.rows // each if fresh.version == version else 0
        if fresh.version != version:
            fresh = Fresh(version, now.labelled)
        if row.label is not None and row.at_ms > now.trained_to_ms:
            fresh = replace(fresh, rows=fresh.rows + 1)
        if (count := fresh.rows // each) > reached:
            summary = f"A count of {count * each} rows labelled since version {version} was trained"
            found.append(Due("new_rows", _id(model, "new_rows", version, count), row.at_ms, summary))
    return fresh, found


def among(windows: Sequence[Window], occasions: Sequence[Due | Word]) -> Iterator[Window | Due | Word]:
    """Yield windows and occasions in order of event time: what is due by a window's end comes before it."""
    left = sorted(occasions, key=lambda it: it.at_ms)
    for window in windows:
        while left and left[0].at_ms <= window.end[0]:
            yield left.pop(0)
        yield window
    yield from left


def _id(model: Model, trigger: Literal["schedule", "new_rows"], *occasion: int) -> str:
    return id_of(model.name, trigger, *occasion)
