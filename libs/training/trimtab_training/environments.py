"""Environments of users' own trainers: made once for a wheel and its lock, and kept by their digests.

With a lock it is a virtual environment of what the lock names, hashes and all, and the
wheel. Without one the wheel lies beside the trainer's own environment. One that is not
whole is never seen: it is made under another name, and renamed. What makes one ends with
this process, and what that leaves is swept by a later one.
"""

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trimtab_runtime.parent import bound
from uv import find_uv_bin

from trimtab_training.errors import RunFailed

log = logging.getLogger(__name__)

KEPT = 8
"""So many are kept, the newest used; a job that is at work has used its own a moment ago."""
_SECONDS = 600
_HALF_S = 4 * _SECONDS
"""Longer than any is in the making, of at most three times uv."""
_MOST_SAID = 400


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
        half = Path(tempfile.mkdtemp(prefix=f"{place.name}.", dir=folder))
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
    wheel_said = f"trainer.wheel {wheel.name} cannot be installed"
    if lock is None:
        _uv(
            wheel_said,
            "pip",
            "install",
            "--python",
            sys.executable,
            "--target",
            str(place / "packages"),
            "--no-deps",
            str(wheel),
        )
        return
    _uv("the environment of the trainer cannot be made", "venv", "--python", sys.executable, str(place))
    install = ("pip", "install", "--python", str(place / "bin" / "python"))
    _uv(
        f"what trainer.lock {lock.name} names cannot be installed",
        *install,
        "--require-hashes",
        "-r",
        str(lock),
    )
    _uv(wheel_said, *install, "--no-deps", str(wheel))


def _uv(said: str, *words: str) -> None:
    """Run uv; what it prints is in the run's log.

    Raises:
        RunFailed: it fails, and so what `said` says.
    """
    command = bound(find_uv_bin(), *words, "--quiet")
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
        why = " ".join(printed.split())[-_MOST_SAID:] or f"exit {done.returncode}"
        raise RunFailed(f"{said} ({why}): mend it, and apply it again; `trimtab run logs` has more")


def _sweep(folder: Path) -> None:
    """Remove the environments that have been out of use the longest, and what is left of those whose making was cut off."""
    used = {}
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another job has renamed or removed it
            used[path] = path.stat().st_mtime
    whole = sorted((path for path in used if path.suffix == ""), key=lambda path: -used[path])
    half = [path for path in used if path.suffix and used[path] < used[whole[0]] - _HALF_S]
    for path in [*whole[KEPT:], *half]:
        shutil.rmtree(path, ignore_errors=True)
