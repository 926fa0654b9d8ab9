"""Correcting what was published by labels that came late: never a decision, and not for ever.

A window is looked at again a few times within `monitoring.revise` after its end, by event time: its
rows are read as they are joined by then, and what has changed is told as the next revision of the
metric that it was. Rows that came late themselves count then too.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from trimtab_core import slicing
from trimtab_core.specs import Model, ModelSpec
from trimtab_core.watched import Published, Reading, Row

from trimtab_monitoring.usecases import fair
from trimtab_monitoring.usecases.entities import LabelStream
from trimtab_monitoring.usecases.ports import Unit

LOOKS: Final = (16, 4, 1)
"""The parts of `monitoring.revise` after which a window is looked at again, the last at its end."""
MOST_ROWS: Final = 100_000
"""A window among more predictions than these is not read again."""
_MOST_AT_ONCE: Final = 50
"""Windows that one transaction looks at: the others wait for the next."""


def next_look(published: Published, spec: ModelSpec) -> int:
    """Return when, in event time, a window is to be looked at again."""
    return published.readings[0].to_ms + spec.monitoring.revise // LOOKS[published.looks]


async def revise(unit: Unit, model: Model, closed_ms: int) -> tuple[int, int]:
    """Look again at windows for which it is time, and tell what late labels have changed.

    Return how many predictions, and how many labels of predictions, there are now that were not counted when their window was told.
    """
    read = predictions = labels = 0
    for number, published in await unit.left_open(before_ms=closed_ms, at_most=_MOST_AT_ONCE):
        if read > MOST_ROWS:
            break
        of = fair if published.kind == "fairness" else slicing
        rows = await _rows(unit, model, published) if published.measure == of.measure(model.spec) else None
        if rows is None:
            await unit.settle(number)
            continue
        read += len(rows)
        features = await unit.features(published.version)
        if published.kind == "fairness":
            found = await fair.again(unit, model, published, rows, features)
            now, changed = slicing.revised(published, found)
        else:
            now, changed = slicing.corrected(model.name, published, rows, features, model.spec)
        (rows_before, labels_before), (rows_now, labels_now) = _counted(published), _counted(now)
        predictions, labels = predictions + rows_now - rows_before, labels + labels_now - labels_before
        if changed:
            await unit.tell(changed)
            await _keep(unit, published, changed)
        now = replace(now, looks=published.looks + 1)
        if now.looks == len(LOOKS) or not any(row.lacks_label for row in rows):
            await unit.settle(number)
        else:
            await unit.leave_open(now, next_ms=next_look(now, model.spec), number=number)
    return predictions, labels


def _counted(published: Published) -> tuple[int, int]:
    """Return of how many predictions a window tells whether they have a label, and how many have."""
    for it in published.readings:
        if it.name == slicing.LABELLED and not it.slice:
            return it.rows, round((it.value or 0.0) * it.rows)
    return 0, 0


async def _rows(unit: Unit, model: Model, published: Published) -> list[Row] | None:
    """Return the rows of a window with their labels of now; None if they are too many."""
    labels = replace(LabelStream.of(model), late_ms=model.spec.monitoring.revise)
    (after_ms, _), (until_ms, _) = published.after, published.until
    rows, reached = await unit.rows(labels, after_ms=after_ms - 1, until_ms=until_ms, at_most=MOST_ROWS)
    if reached < until_ms:
        return None
    return [
        row
        for row in rows
        if row.version == published.version and published.after < (row.at_ms, row.id) <= published.until
    ]


async def _keep(unit: Unit, published: Published, changed: Sequence[Reading]) -> None:
    """Put what changed in the place of what whoever looks at the model is shown, if that window is the newest."""
    held = await unit.readings(published.kind)
    corrected = {reading.id: reading for reading in changed}
    if any(reading.id in corrected for reading in held):
        await unit.keep_readings(published.kind, [corrected.get(reading.id, reading) for reading in held])
