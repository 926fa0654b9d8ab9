"""Starts, stops and asks after a stack that runs on its own, in the background.

The process that runs it is `python -m trimtab_stack`. Whoever dies, nothing is left behind: its children die with it,
and what they missed is ended by the next `up` or `down`.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from trimtab_stack import state
from trimtab_stack.environment import inherited
from trimtab_stack.errors import AlreadyRunning, DidNotStart, StackError, UnknownService
from trimtab_stack.locks import locked
from trimtab_stack.orphans import end_orphans
from trimtab_stack.processes import Identity
from trimtab_stack.stack import SERVICES
from trimtab_stack.state import State
from trimtab_stack.waiting import until

_UP_SECONDS = 900.0
"""Long, as the first start may fetch Kafka; each process that it starts has a deadline of its own."""
_DOWN_SECONDS = 60.0


def up(
    directory: Path,
    scale: Mapping[str, int] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    services: Collection[str] = SERVICES,
) -> State:
    """Start a stack that outlives this process, and return its state once it is ready.

    A stack that runs there already is left as it is, and its state returned.

    Args:
        directory: where everything of the stack is kept.
        scale: how many processes to run of a service, one unless named.
        environ: variables for every process of the stack.
        services: the services to run, all by default; with none, Kafka and PostgreSQL alone.

    Raises:
        UnknownService: `scale` names one that is not among `services`.
        StackError: why it did not start; then nothing is left running.
    """
    for name in scale or {}:
        if name not in services:
            raise UnknownService(name, list(services))
    directory = directory.absolute()
    with locked(directory / "up.lock", within=_UP_SECONDS) as held:
        if not held:
            raise AlreadyRunning(directory)
        if (running := status(directory)) and running.status == "stopping":
            until(lambda: status(directory) is None, within=_DOWN_SECONDS)
        running = status(directory)
        owner = running.owner if running else _spawn(directory, scale or {}, environ or {}, services)
        return _wait_ready(directory, owner)


def down(directory: Path) -> bool:
    """Stop the stack in `directory`, and return whether there was anything to stop.

    Raises:
        StackError: it is run by a program itself, not by a supervisor.
    """
    directory = directory.absolute()
    last = state.read(directory)
    if last.running and last.owner:
        if not last.supervised:
            raise StackError(
                f"the stack in {directory} belongs to process {last.owner.pid}: end that instead"
            )
        _end(last.owner)
        last, was_running = state.read(directory), True
    else:
        was_running = False
    orphans = end_orphans(last)
    if was_running or orphans:
        state.write(directory, replace(last, status="stopped", processes={}))
    return was_running or bool(orphans)


def status(directory: Path) -> State | None:
    """Return the state of the stack that runs in `directory`, None if none does."""
    last = state.read(directory.absolute())
    return last if last.running else None


def log_path(directory: Path) -> Path:
    """Return where the supervisor writes what happened."""
    return directory.absolute() / "logs" / "supervisor.log"


def _spawn(
    directory: Path, scale: Mapping[str, int], environ: Mapping[str, str], services: Collection[str]
) -> Identity | None:
    log = log_path(directory)
    log.parent.mkdir(parents=True, exist_ok=True)
    scaled = ",".join(f"{name}={count}" for name, count in scale.items())
    options = ["--quiet", "--services", ",".join(services), "--scale", scaled]
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "trimtab_stack", str(directory), *options],
        inherited() | dict(environ),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    return Identity.of(pid)


def _wait_ready(directory: Path, owner: Identity | None) -> State:
    def settled() -> bool:
        last = state.read(directory)
        return not (owner and owner.alive) or (last.owner == owner and last.status == "ready")

    in_time = until(settled, within=_UP_SECONDS, every=0.05)
    last = state.read(directory)
    if owner and owner.alive and in_time:
        return last
    if owner and owner.alive:
        _end(owner)
        raise DidNotStart("the stack", log_path(directory), f"it was not ready after {_UP_SECONDS:g} s")
    _reap(owner)
    if last.owner == owner and last.error:
        raise StackError(f"{last.error} (what was started is logged in {log_path(directory).parent})")
    raise DidNotStart("the stack", log_path(directory), "its supervisor ended")


def _end(owner: Identity) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(owner.pid, number)
        if until(lambda: not owner.alive, within=_DOWN_SECONDS):
            break
    _reap(owner)


def _reap(owner: Identity | None) -> None:
    """Take note of the end of a process that may be our child, or else it stays a zombie while we live."""
    if owner:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(owner.pid, os.WNOHANG)
