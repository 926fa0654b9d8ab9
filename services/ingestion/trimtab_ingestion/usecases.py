"""What ingestion decides of a batch of rows: which are good, and what is wrong with the others.

Nothing here knows Kafka. A row is judged by itself and its time of arrival, so a
restart or a replay judges the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from trimtab_core.cleaning import Operation
from trimtab_core.contract import UNDECODABLE, Contract, Reason, ReasonCode, compile_contract
from trimtab_core.specs import Source

_LONGEST_ID = 200


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of a batch of rows; every list and array has one entry a row, in order."""

    keys: list[str | None]
    """The key that the row itself states, if it can be read."""
    rows: Sequence[Mapping[str, Any] | None]
    """The row itself; None where it could not be decoded."""
    payloads: Sequence[bytes]
    """The row in JSON: as it was sent, or for a row that cleaning changed, as it is now."""
    event_time_ms: NDArray[np.int64]
    reasons: list[tuple[Reason, ...]]
    """Why a row is no event; empty if it is one."""
    cleaned: Mapping[tuple[str, Operation], int]
    """How many rows each cleaning of a field has changed."""

    @property
    def good(self) -> NDArray[np.int64]:
        """The places of the rows that are events."""
        return np.flatnonzero([not each for each in self.reasons])


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


def judge(
    contract: Contract,
    keys: Sequence[bytes | None],
    payloads: Sequence[bytes],
    arrived_at_ms: NDArray[np.int64],
    unreadable: Mapping[int, Reason],
) -> Judged:
    """Judge JSON rows that were sent with the record keys `keys` and arrived at `arrived_at_ms`.

    `unreadable` are the places of those that could not be made JSON, and why.
    """
    checked = contract.check(payloads, arrived_at_ms, unreadable)
    reasons = checked.reasons
    for at, (found, wanted) in enumerate(zip(keys, checked.keys, strict=True)):
        if wanted is not None and found != wanted.encode():
            reasons[at] = (*reasons[at], _wrong_key(found, wanted))
    if changed := {at for at in checked.changed if not reasons[at]}:
        payloads = [
            msgspec.json.encode(row) if at in changed else payload
            for at, (row, payload) in enumerate(zip(checked.rows, payloads, strict=True))
        ]
    return Judged(checked.keys, checked.rows, payloads, checked.event_time_ms, reasons, checked.cleaned)


def _wrong_key(found: bytes | None, wanted: str) -> Reason:
    shown = "no key" if found is None else repr(found.decode(errors="replace"))
    return Reason(
        code=ReasonCode.WRONG_KEY,
        field="",
        value=shown,
        message=f"the record has {shown} where the row's key field says {wanted!r}: produce it keyed by the key field",
    )


def wrong_replay(letter: bytes, topic: str, partition: int) -> Reason:
    """Return what is wrong with a record that says it is `letter`, sent again, and cannot be."""
    shown = repr(letter[:_LONGEST_ID].decode(errors="replace"))
    return Reason(
        code=ReasonCode.WRONG_REPLAY,
        field="",
        value=shown,
        message=f"the record replays {shown}, which is no earlier record of {topic}/{partition}: "
        "use `trimtab deadletter replay`, which sends a letter to where it came from",
    )


def key_of(source: Source, payload: bytes) -> bytes | None:
    """Return the record key that a row sent over gRPC gets: its key field as text.

    A row that cannot be read gets none, and becomes a dead letter with its reasons like any other.
    """
    try:
        row: Mapping[str, Any] = msgspec.json.decode(payload, type=dict[str, Any])
    except UNDECODABLE:
        return None
    value = row.get(source.spec.key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None else str(value).encode()
