"""Holds the audit log against its own hashes, and against what was told of it on the topic `audit`.

All hashes are computed here, from the entries as they are told: the registry's word is
not taken for it. Its table alone shows an entry that was changed, removed or put in;
a table that was rewritten whole, or cut short at its end, shows beside the topic.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from google.protobuf import json_format
from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import AuditEntry
from trimtab_core.auditchain import Chain, Line
from trimtab_runtime.clock import from_timestamp

from trimtab.reading import committed

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verified:
    """How many entries the log has, how many of those the topic tells alike, and the first fault, if there is one."""

    entries: int
    told: int
    fault: str = ""


class Told:
    """What the topic has told of the log."""

    def __init__(self) -> None:
        self._told: dict[int, str | Line] = {}
        """An entry's hash by its sequence; the entry itself, if it was told before there was a chain."""
        self.fault = ""
        """The first entry that was told in two ways."""

    def note(self, entry: AuditEntry) -> None:
        """Take in what was told; a repeat is none the worse."""
        told = entry.hash or line_of(entry)
        if self._told.setdefault(entry.sequence, told) != told:
            self.fault = self.fault or f"entry {entry.sequence} was told twice on the topic, and differently"

    def take(self, line: Line, *, previous: str, hash: str) -> bool | None:
        """Return whether an entry of the log is what was told of it; None if nothing was. It is not looked for again."""
        told = self._told.pop(line.sequence, None)
        if told is None:
            return None
        return (told.hash_after(previous) if isinstance(told, Line) else told) == hash

    @property
    def missing(self) -> int:
        """The first entry that was told and has not been taken; 0 if there is none."""
        return min(self._told, default=0)


async def told(servers: str) -> Told:
    """Read what the topic has told.

    Raises:
        Unavailable: Kafka cannot be read.
    """
    found = Told()
    async for record in committed(servers, topics.AUDIT.name):
        try:
            found.note(topics.AUDIT.decode(record.value or b""))
        except topics.Undecodable as error:
            log.warning("audit/%d/%d is left out: %s", record.partition, record.offset, error)
    return found


async def verify(pages: AsyncIterator[Sequence[AuditEntry]], against: Told | None = None) -> Verified:
    """Recompute the chain of a log that is read from its beginning, up to the first entry that does not fit.

    What was told must have been read before the log is: each entry is in the log before it is told.
    """
    chain, entries, alike = Chain(), 0, 0
    if against is not None and not against.missing:
        return Verified(0, 0, "the topic holds no entry, so there is nothing to compare the log with")
    async for page in pages:
        for entry in page:
            line = line_of(entry)
            if fault := chain.take(line, previous=entry.previous, hash=entry.hash):
                return Verified(entries, alike, fault)
            if against is not None:
                same = against.take(line, previous=entry.previous, hash=entry.hash)
                if same is False:
                    return Verified(
                        entries,
                        alike,
                        f"entry {line.sequence} is not what was told on the topic: the log was rewritten",
                    )
                alike += same is True
            entries += 1
    if against is None:
        return Verified(entries, alike)
    if against.missing:
        return Verified(
            entries,
            alike,
            f"entry {against.missing} was told on the topic and is not in the log: it was removed",
        )
    return Verified(entries, alike, against.fault)


def line_of(entry: AuditEntry) -> Line:
    """Return an entry as it is hashed."""
    return Line(
        entry.sequence,
        entry.resource,
        entry.action,
        entry.actor,
        entry.reason,
        from_timestamp(entry.at),
        json_format.MessageToDict(entry.details),
    )
