"""What travels on keyed.<view>: the values of a view's groups, many rows a record, column by column.

A record holds rows of one partition of the view, all from one partition of
events.<source> and in its order, stamped with the generation of the view that chose
the groups.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from trimtab_core.contract import entity_key, entity_text
from trimtab_core.slots import Group


class BadRows(ValueError):
    """The value of a record is no rows of a view."""


ROWS_A_RECORD = 2_000
BYTES_A_RECORD = 500_000


class KeyedRows(msgspec.Struct, frozen=True):
    """Some rows of one view."""

    generation: int
    origin: int
    """The partition of events.<source> that the rows come from."""
    offset: list[int]
    """Of each row there."""
    entity: list[str]
    event_time_ms: list[int]
    id: list[str]
    groups: dict[str, list[float | None]]
    """By name of the group of the view's layout; null where a row does not count."""

    def part(self, start: int, end: int) -> "KeyedRows":
        """Return the rows of [start, end)."""
        return KeyedRows(
            self.generation,
            self.origin,
            self.offset[start:end],
            self.entity[start:end],
            self.event_time_ms[start:end],
            self.id[start:end],
            {name: values[start:end] for name, values in self.groups.items()},
        )

    def values(self, groups: Sequence[Group]) -> NDArray[np.float64]:
        """Return the groups' values [rows, groups], NaN where a row does not count."""
        found = np.full((len(self.entity), len(groups)), np.nan)
        for at, group in enumerate(groups):
            if group.name in self.groups:
                found[:, at] = self.groups[group.name]  # null becomes NaN
        return found


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(KeyedRows).decode


def encode(rows: KeyedRows) -> Iterator[bytes]:
    """Return `rows` as the values of as many records as it takes for none to be too large."""
    count = len(rows.entity)
    value = _encode(rows) if count <= ROWS_A_RECORD else b""
    if value and (len(value) <= BYTES_A_RECORD or count == 1):
        yield value
        return
    yield from encode(rows.part(0, count // 2))
    yield from encode(rows.part(count // 2, count))


def decode(value: bytes) -> KeyedRows:
    """Return the rows in a record's value.

    Raises:
        BadRows: the bytes are no such rows.
    """
    try:
        rows = _decode(value)
    except msgspec.DecodeError as error:
        raise BadRows(f"no rows of a view: {error}") from error
    lengths = {len(rows.entity), len(rows.offset), len(rows.event_time_ms), len(rows.id)}
    lengths |= {len(values) for values in rows.groups.values()}
    if len(lengths) > 1:
        raise BadRows(f"the columns of a view's rows are of lengths {sorted(lengths)}")
    return rows


def entity_texts(columns: Sequence[Sequence[Any]], rows: int) -> list[str | None]:
    """Return the entities that columns name together, as the texts that name them everywhere; None where a part is null."""
    if not columns:
        return [""] * rows
    if len(columns) > 1:
        return list(map(entity_key, zip(*columns, strict=True)))
    if all(type(value) is str for value in columns[0]):
        return list(columns[0])
    return [None if value is None else entity_text(value) for value in columns[0]]
