"""What ingestion decides of a batch of rows: which are good, and what is wrong with the others.

Nothing here knows Kafka. A row is judged by itself and its time of arrival, so a
restart or a replay judges the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from trimtab_core.contract import Checked, Contract, Reason, ReasonCode, compile_contract
from trimtab_core.specs import Source


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as it was sent."""

    key: bytes | None
    payload: bytes
    arrived_at_ms: int


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of a row: an event, or reasons why not."""

    key: str | None
    payload: bytes
    event_time_ms: int
    reasons: tuple[Reason, ...]


class Contracts:
    """The data contracts of all sources, compiled once for each generation of a source's spec."""

    def __init__(self) -> None:
        self._compiled: dict[str, tuple[Source, Contract]] = {}

    def of(self, source: Source) -> Contract:
        """Return the compiled contract of `source`."""
        held = self._compiled.get(source.name)
        if held is None or held[0] is not source:
            held = (source, compile_contract(source.spec))
            self._compiled[source.name] = held
        return held[1]


def judge(contract: Contract, rows: Sequence[RawRow], *, re_encode: bool) -> list[Judged]:
    """Judge `rows`; the answer has one entry for each, in order.

    `re_encode` writes accepted rows anew, for a contract that drops unknown fields.
    """
    checked = contract.check(
        [row.payload for row in rows], np.array([row.arrived_at_ms for row in rows], np.int64)
    )
    return [_judged(row, checked, index, re_encode) for index, row in enumerate(rows)]


def _judged(row: RawRow, checked: Checked, index: int, re_encode: bool) -> Judged:
    key, reasons = checked.keys[index], checked.reasons[index]
    if key is not None and (row.key is None or row.key.decode(errors="replace") != key):
        reasons = (*reasons, _wrong_key(row.key, key))
    payload = msgspec.json.encode(checked.rows[index]) if re_encode and not reasons else row.payload
    return Judged(key, payload, int(checked.event_time_ms[index]), reasons)


def _wrong_key(found: bytes | None, wanted: str) -> Reason:
    shown = "no key" if found is None else repr(found.decode(errors="replace"))
    return Reason(
        code=ReasonCode.WRONG_KEY,
        field="",
        value=shown,
        message=f"the record has {shown} where the row's key field says {wanted!r}: produce it keyed by the key field",
    )


def key_of(source: Source, payload: bytes) -> bytes | None:
    """Return the record key that a row sent over gRPC gets: its key field as text.

    A row that cannot be read gets none, and becomes a dead letter with its reasons like any other.
    """
    try:
        row: Mapping[str, Any] = msgspec.json.decode(payload, type=dict[str, Any])
    except msgspec.DecodeError:
        return None
    value = row.get(source.spec.key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None else str(value).encode()
