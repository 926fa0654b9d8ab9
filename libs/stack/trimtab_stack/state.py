"""What a stack writes down about itself: `state.json` in its directory.

It is replaced whole, never changed in place, so a reader sees one state or the next. It outlives the stack, so that the
next start takes the same ports; whether a stack runs is told by `owner`, never by the file being there.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from trimtab_stack.processes import Identity

Status = Literal["starting", "ready", "stopping", "stopped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A stack as it was when this was written."""

    status: Status = "stopped"
    error: str = ""
    """What is wrong, as one sentence; empty if nothing is."""
    owner: Identity | None = None
    """The process that runs the stack: a supervisor, or whoever made a `Stack`."""
    supervised: bool = False
    """Whether the owner is a supervisor, which `down` may end."""
    ports: Mapping[str, int] = field(default_factory=dict)
    """By process: `kafka`, `postgres`, `serving-0`, ..."""
    processes: Mapping[str, Identity] = field(default_factory=dict)
    """Those that ran, by the same names."""
    addresses: Mapping[str, str] = field(default_factory=dict)
    """host:port, by the same names."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """What a client needs: TRIMTAB_KAFKA_SERVERS and so on."""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        """Whether the owner is alive and has not stopped the stack."""
        return (
            self.status in ("starting", "ready", "stopping") and self.owner is not None and self.owner.alive
        )


def path(directory: Path) -> Path:
    """Return where the state of the stack in `directory` is kept."""
    return directory / "state.json"


def write(directory: Path, state: State) -> None:
    """Put `state` in the place of the last one."""
    directory.mkdir(parents=True, exist_ok=True)
    new = path(directory).with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(json.dumps(asdict(state), indent=2) + "\n")
    os.replace(new, path(directory))


def read(directory: Path) -> State:
    """Return the last state written, an empty one if there is none or it cannot be read."""
    try:
        return _parse(json.loads(path(directory).read_text()))
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return State()


def _parse(kept: dict[str, Any]) -> State:
    owner = kept.pop("owner")
    processes = kept.pop("processes")
    return State(
        **kept,
        owner=Identity(**owner) if owner else None,
        processes={name: Identity(**identity) for name, identity in processes.items()},
    )
