"""The audit log's hash chain: each entry's hash holds the entry and the hash of the one before.

Whoever has the entries can recompute the chain, in any language: a hash is the sha256,
in hex, of a canonical text of the list [previous, sequence, resource, action, actor,
reason, at_ms, details], which differs if and only if one of them does.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

GENESIS = ""
"""What the first entry has in place of the hash before."""


@dataclass(frozen=True, slots=True)
class Line:
    """One entry as it is hashed."""

    sequence: int
    resource: str
    action: str
    actor: str
    reason: str
    at_ms: int
    details: Mapping[str, Any] = field(default_factory=dict)

    def hash_after(self, previous: str) -> str:
        """Return the entry's hash where it follows the one whose hash is `previous`."""
        parts = [
            previous, self.sequence, self.resource, self.action, self.actor, self.reason, self.at_ms, self.details,
        ]  # fmt: skip
        return hashlib.sha256(canonical(parts).encode()).hexdigest()


class Chain:
    """Takes a log's lines from the first on, and finds the first that does not fit."""

    def __init__(self) -> None:
        self._sequence = 0
        self._hash = GENESIS

    def take(self, line: Line, *, previous: str, hash: str) -> str:
        """Take the next line with the hashes that it carries; return why it does not fit, or nothing."""
        if line.sequence <= self._sequence:
            return f"entry {line.sequence} comes after entry {self._sequence}"
        if previous != self._hash:
            before = f"entry {self._sequence}" if self._sequence else "the beginning"
            return (
                f"entry {line.sequence} does not follow {before}: it names {_short(previous)} as the hash before it, "
                f"which is {_short(self._hash)}; an entry between them was removed, or one was put in"
            )
        if hash != (computed := line.hash_after(previous)):
            return (
                f"entry {line.sequence} is not what was recorded: it hashes to {_short(computed)} and carries "
                f"{_short(hash)}; it was changed"
            )
        self._sequence, self._hash = line.sequence, hash
        return ""


def canonical(value: Any) -> str:
    """Return plain data as a text that no other data has.

    A text is its length in bytes of UTF-8, a colon and itself; a number is x and the sixteen hex digits of its double,
    big-endian; true, false and null are t, f and n; a list is l, its items and e; an object is d, its keys in the order
    of their code points, each before its value, and e.
    """
    match value:
        case str():
            return f"{len(value.encode())}:{value}"
        case None:
            return "n"
        case bool():
            return "t" if value else "f"
        case int() | float():
            return "x" + struct.pack(">d", value + 0.0).hex()  # so that -0.0 is 0.0, as in PostgreSQL
        case Mapping():
            pairs = (canonical(key) + canonical(value[key]) for key in sorted(value))
            return f"d{''.join(pairs)}e"
        case list() | tuple():
            return f"l{''.join(map(canonical, value))}e"
    raise TypeError(f"{type(value).__name__} is no plain data")


def _short(hash: str) -> str:
    return f"{hash[:12]}…" if hash else "none"
