"""What a view takes of an event: for each of its groups a number, or nothing.

The conditions are held against the event here, on its way into the view, so that what
travels on and what is folded or joined are numbers only.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab_core.columns import Columns
from trimtab_core.conditions import Condition, compile_condition
from trimtab_core.slots import Layout
from trimtab_core.specs import FieldSpec

Floats = NDArray[np.float64]
_NUMERIC = frozenset({"integer", "number", "boolean"})


class Grouping:
    """Reads events of a source for the groups of one view."""

    def __init__(self, layout: Layout, fields: Mapping[str, FieldSpec]) -> None:
        """`fields` are the source's.

        Raises:
            KeyError: a group reads a field that the source lacks.
            TextFault: a condition does not fit the fields.
        """
        self._fields = fields
        types = {name: field.type for name, field in fields.items()}
        distinct = {group for group, kind in layout.sketches if kind == "distinct"}
        self._groups: list[tuple[str, bool, Condition | None]] = [
            (
                group.field,
                types[group.field] in _NUMERIC or at in distinct,
                compile_condition(group.where, types) if group.where is not None else None,
            )
            for at, group in enumerate(layout.groups)
        ]

    def values(self, columns: Mapping[str, Any], rows: int) -> Floats:
        """Return each group's values [rows, groups] of events, NaN where an event does not count.

        `columns` are as `Columns` takes them. What can only be counted is 1.
        """
        read = Columns(self._fields, columns)
        found = np.empty((rows, len(self._groups)))
        for at, (field, by_value, condition) in enumerate(self._groups):
            column = read.numbers(field) if by_value else np.where(read.missing(field), np.nan, 1.0)
            found[:, at] = column if condition is None else np.where(condition.met(read), column, np.nan)
        return found
