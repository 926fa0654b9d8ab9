"""Reads the headers of many row records at once.

A batch costs a fraction of what `records.origin` would for each record, and says the
same: a header that cannot be read counts as absent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from trimtab_runtime import freshness, records
from trimtab_runtime.clock import parse_iso
from trimtab_runtime.records import Origin

_WATERMARK = records.WATERMARK_TYPE.encode()
_ISO_LENGTH = len("2020-01-01T00:00:00.000Z")


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows among some records of one partition, in order, column by column."""

    payloads: list[bytes]
    ids: list[str]
    event_time_ms: NDArray[np.int64]
    arrived_at_ms: NDArray[np.int64]
    offsets: list[int]

    def __len__(self) -> int:
        return len(self.payloads)


@dataclass(frozen=True, slots=True)
class Read:
    """What a batch of raw records holds: rows, and the promises of its watermark records."""

    rows: Rows
    watermarks: list[Origin]
    produced_ms: int | None = None
    """When the oldest of the rows was produced, as `freshness` says."""

    @property
    def watermark_ms(self) -> int | None:
        """The furthest watermark in the batch, if it has one."""
        return max(
            (mark.event_time_ms for mark in self.watermarks if mark.event_time_ms is not None), default=None
        )


def read(batch: Sequence[Any]) -> Read:
    """Split raw aiokafka records of events.<source> into rows and watermarks."""
    payloads: list[bytes] = []
    ids: list[str] = []
    offsets: list[int] = []
    times: list[bytes | None] = []
    arrivals: list[bytes | None] = []
    taken: list[int] = []
    watermarks: list[Origin] = []
    for record in batch:
        headers = dict(record.headers)
        if headers.get("ce_type") == _WATERMARK:
            watermarks.append(records.origin(record))
            continue
        payloads.append(record.value or b"")
        found = headers.get("ce_id")
        ids.append(found.decode() if found else f"{record.topic}/{record.partition}/{record.offset}")
        offsets.append(record.offset)
        times.append(headers.get("ce_time"))
        arrivals.append(headers.get("ce_arrivedat"))
        taken.append(record.timestamp)
    otherwise = np.array(taken, np.int64)
    arrived = parse_times(arrivals, otherwise)
    return Read(
        Rows(payloads, ids, parse_times(times, otherwise), arrived, offsets),
        watermarks,
        freshness.oldest_ms(arrived, otherwise),
    )


def parse_times(texts: Sequence[bytes | None], otherwise: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the instants that RFC 3339 texts state, and `otherwise` where one states none."""
    if all(text is not None and len(text) == _ISO_LENGTH and text.endswith(b"Z") for text in texts):
        try:
            instants = pa.array(texts, pa.binary()).cast(pa.string()).cast(pa.timestamp("ms", "UTC"))
            return np.asarray(instants.cast(pa.int64()).to_numpy(zero_copy_only=False), np.int64)
        except pa.ArrowInvalid:
            pass  # one of them is no time: find out which
    return np.array(
        [_time(text, int(instead)) for text, instead in zip(texts, otherwise, strict=True)], np.int64
    )


def _time(text: bytes | None, otherwise: int) -> int:
    try:
        return parse_iso(text.decode()) if text else otherwise
    except ValueError:
        return otherwise
