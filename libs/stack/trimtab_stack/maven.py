"""Fetches things by Maven into a cache, each once.

A folder of the cache is complete from the moment it exists: it is filled under another name and renamed, under a lock.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from trimtab_stack.errors import CannotFetch
from trimtab_stack.locks import locked

_SECONDS = 600.0
_SCRATCH = ".fetching-"


def cache(environ: Mapping[str, str]) -> Path:
    """Return the folder of the cache: TRIMTAB_CACHE, else ~/.cache/trimtab."""
    return Path(environ.get("TRIMTAB_CACHE") or Path(environ.get("HOME") or Path.home(), ".cache", "trimtab"))


def lock(place: Path) -> Path:
    """Return the file that is locked by whoever fills a folder of the cache."""
    return place.with_name(f"{place.name}.lock")


def fetch(what: str, place: Path, goal: Sequence[str], into: str, environ: Mapping[str, str]) -> None:
    """Have `place`, filled by a goal of Maven if it is not there; `goal` writes to the folder `into` of it.

    Raises:
        CannotFetch: it is not there and Maven is missing or failed; it says why, and what to do.
    """
    with locked(lock(place), within=_SECONDS) as held:
        if not held:
            raise CannotFetch(
                f"another process has been fetching {what} into {place} for {_SECONDS:g} s: end it"
            )
        if not place.exists():
            _run(what, place, goal, into, environ)


def _run(what: str, place: Path, goal: Sequence[str], into: str, environ: Mapping[str, str]) -> None:
    maven = shutil.which("mvn", path=environ.get("PATH"))
    if not maven:
        raise CannotFetch(f"{what} is not here and there is no mvn to fetch it: install Maven")
    scratches = f"{_SCRATCH}{place.name}-"
    for abandoned in place.parent.glob(f"{scratches}*"):  # we hold the lock, so nobody works there
        shutil.rmtree(abandoned, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=scratches) as scratch:
        filled = Path(scratch, place.name)
        command = [maven, "-q", "-B", *goal, f"-DoutputDirectory={filled / into}"]
        try:
            run = subprocess.run(
                command, cwd=scratch, capture_output=True, text=True, env=dict(environ), timeout=_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CannotFetch(f"Maven could not fetch {what} ({error}): try again") from error
        if run.returncode != 0:
            why = next(
                (line for line in run.stdout.splitlines() if "ERROR" in line), f"exit code {run.returncode}"
            )
            raise CannotFetch(f"Maven could not fetch {what} ({why.strip()}): see to that")
        filled.rename(place)
