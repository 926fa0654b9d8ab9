"""Tells whether this machine can run a stack, and what to do where it cannot. Changes nothing."""

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trimtab_stack import jars, java, postgres
from trimtab_stack.environment import tools
from trimtab_stack.errors import StackError

_LEAST_PYTHON = (3, 11)
_LEAST_DISK = 2 * 2**30
_INSTALLERS = {
    "apt-get": {"java": "openjdk-17-jre-headless", "maven": "maven"},
    "dnf": {"java": "java-17-openjdk-headless", "maven": "maven"},
    "brew": {"java": "openjdk@17", "maven": "maven"},
}
"""What each is called where."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a stack needs."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    """What to do, as one sentence; empty if nothing needs doing."""


def checks(directory: Path = Path(), environ: Mapping[str, str] | None = None) -> list[Check]:
    """Look for all that a stack in `directory` needs."""
    where = tools(environ)
    return [
        _python(),
        _found("Java", lambda: _java(where), _how_to_get("java", where)),
        _maven(where),
        _found("PostgreSQL", lambda: str(postgres.binaries())),
        _kafka(where),
        _disk(directory.absolute()),
    ]


def _found(name: str, look: Callable[[], str], how: str = "") -> Check:
    try:
        return Check(name, True, look())
    except StackError as error:
        return Check(name, False, "none that serves", f"{error}{how}.")


def _how_to_get(what: str, environ: Mapping[str, str]) -> str:
    """Return this machine's command that installs `what`, in brackets, or the commands of several machines."""
    here = [tool for tool in _INSTALLERS if shutil.which(tool, path=environ.get("PATH"))]
    commands = [f"`{tool} install {_INSTALLERS[tool][what]}`" for tool in here[:1] or _INSTALLERS]
    return f" ({' or '.join(commands)})"


def _python() -> Check:
    found = ".".join(str(part) for part in sys.version_info[:3])
    least = ".".join(str(part) for part in _LEAST_PYTHON)
    ok = sys.version_info >= _LEAST_PYTHON
    return Check("Python", ok, found, "" if ok else f"Install Python {least} or newer.")


def _java(environ: Mapping[str, str]) -> str:
    found = java.find(environ)
    return f"{found.version} at {found.command}"


def _maven(environ: Mapping[str, str]) -> Check:
    if maven := shutil.which("mvn", path=environ.get("PATH")):
        return Check("Maven", True, maven)
    if _has_jars(environ):
        return Check("Maven", True, "none, and none is needed: Kafka is here")
    return Check(
        "Maven",
        False,
        "none",
        f"Install Maven{_how_to_get('maven', environ)}, which fetches Kafka once, or set KAFKA_HOME to a Kafka.",
    )


def _kafka(environ: Mapping[str, str]) -> Check:
    try:
        if found := jars.find(environ):
            return Check("Kafka", True, f"{found.version} at {found.folder}")
    except StackError as error:
        return Check("Kafka", False, "none at KAFKA_HOME", f"{error}.")
    fetchable = shutil.which("mvn", path=environ.get("PATH")) is not None
    remedy = (
        "The first `trimtab up` fetches it (45 MB)."
        if fetchable
        else f"Install Maven{_how_to_get('maven', environ)}, or set KAFKA_HOME to a Kafka."
    )
    return Check("Kafka", fetchable, "not fetched yet", remedy)


def _has_jars(environ: Mapping[str, str]) -> bool:
    try:
        return jars.find(environ) is not None
    except StackError:
        return False


def _disk(directory: Path) -> Check:
    place = next(folder for folder in (directory, *directory.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    ok = free >= _LEAST_DISK
    remedy = "" if ok else f"Free {_LEAST_DISK / 2**30:.0f} GiB there, or keep the stack on another disk."
    return Check("Disk", ok, f"{free / 2**30:.1f} GiB free at {place}", remedy)
