"""Reads the headers of many row records at once.

A batch costs a fraction of what `records.origin` would for each record, and says the
same: a header that cannot be read counts as absent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trimtab_runtime import freshness, records
from trimtab_runtime.records import Origin

_WATERMARK = records.WATERMARK_TYPE.encode()


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
        ids.append(records.row_id(record, headers))
        offsets.append(record.offset)
        times.append(headers.get("ce_time"))
        arrivals.append(headers.get("ce_arrivedat"))
        taken.append(record.timestamp)
    otherwise = np.array(taken, np.int64)
    arrived = records.parse_times(arrivals, otherwise)
    return Read(
        Rows(payloads, ids, records.parse_times(times, otherwise), arrived, offsets),
        watermarks,
        freshness.oldest_ms(arrived, otherwise),
    )
