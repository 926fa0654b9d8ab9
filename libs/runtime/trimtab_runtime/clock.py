"""The only place that asks what time it is.

Leases, retries and records of who did what read this clock; decisions about data
read event time, which comes with the data.
"""

import time
from datetime import UTC, datetime
from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp
from trimtab_core.timestamps import iso as iso


class Clock(Protocol):
    """Tells the time of day."""

    def now_ms(self) -> int:
        """Return milliseconds since the epoch, UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Return milliseconds since the epoch, UTC."""
        return time.time_ns() // 1_000_000


class ManualClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now_ms: int = 0) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """Return the time it was set to."""
        return self._now_ms

    def advance(self, milliseconds: int) -> None:
        """Move on by `milliseconds`."""
        self._now_ms += milliseconds


def to_timestamp(ms: int) -> Timestamp:
    """Return the Protobuf timestamp of `ms` since the epoch."""
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)


def from_timestamp(stamp: Timestamp) -> int:
    """Return milliseconds since the epoch; 0 for an unset timestamp."""
    return int(stamp.seconds) * 1000 + stamp.nanos // 1_000_000


def to_datetime(ms: int) -> datetime:
    """Return `ms` since the epoch as an aware UTC datetime, as PostgreSQL wants it."""
    return datetime.fromtimestamp(ms / 1000, tz=UTC)


def from_datetime(moment: datetime) -> int:
    """Return milliseconds since the epoch of an aware datetime."""
    return round(moment.timestamp() * 1000)


def parse_iso(text: str) -> int:
    """Return milliseconds since the epoch of an RFC 3339 text.

    Raises:
        ValueError: the text is no such time, or states no offset.
    """
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} states no offset from UTC: add one, or a Z")
    return from_datetime(moment)
