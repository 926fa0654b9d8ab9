"""Prints the part of a lock that some distributions need: `python closure.py LOCK NAME...`.

Who needs what is read from the lock's own `# via` notes, so nothing is resolved
again and every hash stays. Install it with `--no-deps --require-hashes`; `pip check`
says whether it was complete.
"""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_HEAD = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?==")
_NEEDER = re.compile(r"^ +# +(?:via +)?([a-z0-9][a-z0-9._-]*)(?: |$)")


@dataclass(frozen=True, slots=True)
class Entry:
    """One requirement of a lock; a name has several where markers part them."""

    name: str
    lines: list[str]

    @property
    def needers(self) -> set[str]:
        """The distributions that it is there for."""
        return {match[1] for line in self.lines if (match := _NEEDER.match(line))}


def entries(lock: str) -> list[Entry]:
    """Return the requirements of `lock`, in order."""
    found: list[Entry] = []
    for line in lock.splitlines():
        if head := _HEAD.match(line):
            found.append(Entry(head[1].lower(), []))
        if found:
            found[-1].lines.append(line)
    return found


def closure(lock: str, roots: Iterable[str]) -> str:
    """Return the requirements of `lock` that `roots` are or need.

    Raises:
        SystemExit: the lock knows nothing of one of `roots`.
    """
    needers = [(entry, entry.needers) for entry in entries(lock)]
    wanted = set(roots)
    if unknown := wanted - {name for entry, by in needers for name in (entry.name, *by)}:
        raise SystemExit(f"the lock knows nothing of {', '.join(sorted(unknown))}: run `make lock`")
    while more := {entry.name for entry, by in needers if by & wanted} - wanted:
        wanted |= more
    return "".join(f"{line}\n" for entry, _ in needers if entry.name in wanted for line in entry.lines)


if __name__ == "__main__":
    sys.stdout.write(closure(Path(sys.argv[1]).read_text(), sys.argv[2:]))
