"""Names that are made of what they name: the same parts have the same name, in any process and for ever."""

from collections.abc import Sequence
from hashlib import sha256


def id_of(*parts: str | int) -> str:
    """Return the id of what `parts` name together, in their order: 32 hex digits. No text may hold a NUL."""
    return sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence says them: `a, b and c`; nothing if there are none."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
