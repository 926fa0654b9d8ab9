"""A lock between processes: a file that one holds, and that the system lets go when its holder dies."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from trimtab_stack.waiting import until


def try_lock(path: Path) -> IO[str] | None:
    """Lock the file at `path` until the returned file is closed; None if another holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


@contextlib.contextmanager
def locked(path: Path, *, within: float) -> Iterator[bool]:
    """Hold the file at `path` locked, waiting `within` seconds for it; yield whether it could be had."""
    held: list[IO[str]] = []

    def take() -> bool:
        if file := try_lock(path):
            held.append(file)
        return bool(held)

    try:
        yield until(take, within=within, every=0.1)
    finally:
        for file in held:
            file.close()
