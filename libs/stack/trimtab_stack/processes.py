"""Child processes: started on a leash, ended by group, their output in a log.

A child never outlives this process, whichever way this process ends. Linux ties a child to the *thread* that forked it,
so all are forked by one thread that lives as long as the process does.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from trimtab_stack import leash
from trimtab_stack.errors import DidNotStart
from trimtab_stack.waiting import until

_FORKER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trimtab-forker")
_TAIL_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Identity:
    """One process for ever: a pid is given out again, a pid with its start time is not."""

    pid: int
    started: float
    """Seconds between the machine's start and its own; unlike a time of day, a corrected clock does not change it."""

    @classmethod
    def of(cls, pid: int) -> "Identity | None":
        """Return the identity of the process that has `pid` now, None if there is none."""
        try:
            return cls(pid, _started(psutil.Process(pid)))
        except psutil.NoSuchProcess:
            return None

    @property
    def alive(self) -> bool:
        """Whether that very process still runs (one that waits to be reaped does not)."""
        try:
            process = psutil.Process(self.pid)
            same = abs(_started(process) - self.started) < 0.05
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def runs(self, program: str) -> bool:
        """Return whether the process runs a program of that name."""
        try:
            return psutil.Process(self.pid).name() == program
        except psutil.NoSuchProcess:
            return False


@dataclass(frozen=True, slots=True)
class Launch:
    """What to run and as whom."""

    argv: Sequence[str]
    environ: Mapping[str, str]
    through: Sequence[str] = ()
    """A command that runs the program in its own place, such as `unshare --user`."""
    user: int | None = None
    """The uid and gid to change to; None stays as we are."""


class ChildProcess:
    """One program, run at most once at a time, appending what it prints to `log`."""

    def __init__(self, name: str, log: Path, *, at_our_death: signal.Signals = signal.SIGKILL) -> None:
        self.name = name
        self.log = log
        self._at_our_death = at_our_death
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._swept = True

    @property
    def pid(self) -> int | None:
        """The pid of the running program, None if it does not run."""
        return self._process.pid if self._process and self.alive else None

    @property
    def alive(self) -> bool:
        """Whether the program runs now."""
        return self._process is not None and self._process.poll() is None

    @property
    def identity(self) -> Identity | None:
        """Who the running program is, None if it does not run."""
        return Identity.of(self.pid) if self.pid else None

    @property
    def exit_code(self) -> int | None:
        """The last run's exit status (negative: the signal that ended it), None if it has not ended."""
        return self._process.poll() if self._process else None

    def spawn(self, launch: Launch) -> None:
        """Start the program in a session of its own; return at once."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        user = "-" if launch.user is None else str(launch.user)
        leashed = [
            sys.executable,
            "-I",
            "-S",
            leash.__file__,
            str(os.getpid()),
            str(int(self._at_our_death)),
            user,
        ]
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            start = _FORKER.submit(
                subprocess.Popen,
                [*launch.through, *leashed, *launch.argv],
                env=dict(launch.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._process = start.result()
            self._swept = False

    def wait_ready(self, ready: Callable[[], bool], within: float) -> None:
        """Return once `ready()`.

        Raises:
            DidNotStart: the program ended first, or `within` seconds passed; then all that is left of it is killed.
        """
        in_time = until(lambda: not self.alive or ready(), within=within, every=0.05)
        if in_time and self.alive:
            return
        why = (
            f"it was not ready after {within:g} s" if self.alive else f"it ended with {self.describe_exit()}"
        )
        self.kill()
        raise DidNotStart(self.name, self.log, f"{why}{self._said()}")

    def signal(self, number: int) -> None:
        """Send a signal to the program itself; nothing happens if it does not run."""
        if self.alive and self._process:
            self._process.send_signal(number)

    def end(self, number: int, within: float) -> None:
        """Ask the program to stop by signal `number`; kill it if it still runs after `within` seconds."""
        self.signal(number)
        until(lambda: not self.alive, within=within)
        self.kill()

    def kill(self) -> None:
        """SIGKILL the program and all that is left of its process group, and wait until it is gone."""
        if self._process and not self._swept:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._swept = True  # from now on another group may get this number

    def output(self) -> str:
        """Return the end of what the last run printed."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return log.read().decode(errors="replace")

    def note(self, text: str) -> None:
        """Append `text` to the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            log.write(text)

    def describe_exit(self) -> str:
        """Return how the last run ended, in words."""
        code = self.exit_code
        if code is not None and code < 0:
            return f"signal {signal.Signals(-code).name}"
        return f"exit code {code}"

    def _said(self) -> str:
        lines = [line.strip() for line in self.output().splitlines()]
        telling = [line for line in lines if line and not line.startswith(("at ", "..."))]
        return f", saying {telling[-1]!r}" if telling else ""


def _started(process: psutil.Process) -> float:
    return round(process.create_time() - psutil.boot_time(), 2)
