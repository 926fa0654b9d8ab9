"""Environments of users' own trainers: made once for a wheel and its lock, and kept by their digests.

With a lock it is a virtual environment of what the lock names, hashes and all, and the
wheel. Without one the wheel lies beside the trainer's own environment. One that is not
whole is never seen: it is made under another name, and renamed.
"""

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab_trainer.errors import RunFailed

log = logging.getLogger(__name__)

KEPT = 8
"""So many are kept, the newest used; a job that is at work has used its own a moment ago."""
_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a trainer runs: the interpreter, and a folder of packages that are put before its own, if there is one."""

    python: str
    packages: str = ""


def of(wheel: Path | None, lock: Path | None, folder: Path) -> Environment:
    """Return the environment for a wheel and its lock, made below `folder` if it is not there yet.

    Raises:
        RunFailed: it cannot be made.
    """
    if wheel is None:
        return Environment(sys.executable)
    parts = [platform.python_version(), *(path.read_bytes().hex() if path else "" for path in (wheel, lock))]
    place = folder / hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    if not place.exists():
        folder.mkdir(parents=True, exist_ok=True)
        half = place.with_name(f"{place.name}.{os.getpid()}")
        try:
            _make(half, wheel, lock)
            half.rename(place)
        except FileExistsError:  # another job has made it
            pass
        except OSError:
            if not place.exists():
                raise
        finally:
            shutil.rmtree(half, ignore_errors=True)
    os.utime(place)
    _sweep(folder)
    if lock is not None:
        return Environment(str(place / "bin" / "python"))
    return Environment(sys.executable, str(place / "packages"))


def _make(place: Path, wheel: Path, lock: Path | None) -> None:
    log.info("making the environment of %s%s", wheel.name, f" and {lock.name}" if lock else "")
    uv = _uv()
    if lock is None:
        target = ["--target", str(place / "packages"), "--no-deps", str(wheel)]
        _run(_pip(uv, sys.executable, *target), f"trainer.wheel {wheel.name} cannot be installed")
        return
    made = (
        [uv, "venv", "-q", "--python", sys.executable, str(place)]
        if uv
        else [sys.executable, "-m", "venv", str(place)]
    )
    _run(made, "the environment of the trainer cannot be made")
    python = str(place / "bin" / "python")
    _run(
        _pip(uv, python, "--require-hashes", "-r", str(lock)),
        f"what trainer.lock {lock.name} names cannot be installed",
    )
    _run(_pip(uv, python, "--no-deps", str(wheel)), f"trainer.wheel {wheel.name} cannot be installed")


def _uv() -> str | None:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else shutil.which("uv")


def _pip(uv: str | None, python: str, *rest: str) -> list[str]:
    if uv:
        return [uv, "pip", "install", "-q", "--python", python, *rest]
    return [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *rest]


def _run(command: Sequence[str], said: str) -> None:
    """Run an installer; what it prints is in the run's log.

    Raises:
        RunFailed: it fails.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise RunFailed(f"{said} within {_SECONDS} s: see `trimtab run logs`") from error
    printed = (done.stdout + done.stderr).strip()
    if printed:
        log.info("%s", printed)
    if done.returncode:
        last = printed.splitlines()[-1].strip() if printed else f"exit {done.returncode}"
        raise RunFailed(f"{said} ({last}): mend it, and apply it again; `trimtab run logs` has more")


def _sweep(folder: Path) -> None:
    """Remove the environments that have been out of use the longest."""
    whole = sorted(
        (path for path in folder.iterdir() if path.suffix == ""), key=lambda path: -path.stat().st_mtime
    )
    for path in whole[KEPT:]:
        shutil.rmtree(path, ignore_errors=True)
