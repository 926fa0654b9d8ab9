"""Kafka, PostgreSQL and the services as processes of one machine, under one directory.

Nothing is left running when `start` fails or `stop` returns, and a directory is held by one stack at a time.
"""

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Self, TypeVar

from trimtab_stack import ports, state
from trimtab_stack.assembly import Assembly, assemble
from trimtab_stack.catalogue import create_static_topics
from trimtab_stack.errors import AlreadyRunning, StackError
from trimtab_stack.fetch import fetch_kafka
from trimtab_stack.kafka import Kafka
from trimtab_stack.locks import try_lock
from trimtab_stack.orphans import end_orphans
from trimtab_stack.postgres import Postgres
from trimtab_stack.processes import Identity
from trimtab_stack.services import ServiceProcess
from trimtab_stack.state import State, Status
from trimtab_stack.together import Part, together
from trimtab_stack.wiring import process_name

SERVICES = ("registry", "ingestion", "feature_store", "trainer", "serving", "monitoring")
"""In the order in which they start."""

Server = TypeVar("Server", Kafka, Postgres)


class Stack:
    """One machine's Trimtab.

    With TRIMTAB_KAFKA_SERVERS or TRIMTAB_POSTGRES_DSN among `environ`, that server is used in place of one of its own.
    """

    def __init__(
        self,
        directory: Path,
        services: Mapping[str, int] | None = None,
        environ: Mapping[str, str] | None = None,
        *,
        create_topics: Callable[[str], None] = create_static_topics,
        fsync: bool = True,
        supervised: bool = False,
    ) -> None:
        """Start nothing yet.

        Args:
            directory: where everything of this stack is kept.
            services: how many processes to run of each service, by default one of each; `{}` for the servers alone.
            environ: variables for every process, winning over what the stack would set.
            create_topics: makes the topics that services need, given the Kafka servers; not called without services.
            fsync: whether PostgreSQL waits for the disk at each commit.
            supervised: whether this process is a supervisor, which `trimtab_stack.supervisor.down` may end.
        """
        self.directory = directory.absolute()
        self._services = dict.fromkeys(SERVICES, 1) if services is None else dict(services)
        self._given = dict(environ or {})
        self._create_topics = create_topics
        self._fsync = fsync
        self._supervised = supervised
        self._lock: IO[str] | None = None
        self._assembly: Assembly | None = None

    def start(self) -> None:
        """Start everything, and return once all of it is ready; nothing happens if it runs.

        Raises:
            StackError: something is missing, taken or did not start; nothing is left running then.
        """
        if self._lock:
            return
        self._lock = try_lock(self.directory / "lock")
        if not self._lock:
            raise AlreadyRunning(self.directory)
        try:
            end_orphans(state.read(self.directory))
            made = self._assembly = assemble(self.directory, self._services, self._given, fsync=self._fsync)
            self.record("starting")
            if made.kafka:
                fetch_kafka(self._given)
            together(lambda part: part.start(), made.servers.values())
            if made.services:
                self._create_topics(made.wiring.kafka_servers)
                together(lambda part: part.start(), made.services.values())
            self.record("ready")
        except BaseException as error:
            failed = isinstance(error, Exception)  # else it was interrupted
            self._end("failed" if failed else "stopped", str(error) if failed else "")
            raise

    def stop(self) -> None:
        """End the services, then the servers; nothing happens if it does not run."""
        if self._lock:
            self.record("stopping")
            self._end("stopped")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def environ(self) -> dict[str, str]:
        """The variables that a client needs to find everything in this stack."""
        return self._made.wiring.for_clients()

    @property
    def parts(self) -> dict[str, Part]:
        """What this stack runs itself, by name (`kafka`, `postgres`, `serving-0`), in the order of starting."""
        return self._assembly.parts if self._assembly else {}

    @property
    def kafka(self) -> Kafka:
        """The broker, to be killed and started by those who test what happens then."""
        return _own(self._made.kafka, "Kafka")

    @property
    def postgres(self) -> Postgres:
        """The database server, likewise."""
        return _own(self._made.postgres, "PostgreSQL")

    def service(self, name: str, index: int = 0) -> ServiceProcess:
        """Return one process of a service.

        Raises:
            UnknownService: this stack does not run it.
        """
        self._made.wiring.address(name, index)
        return self._made.services[process_name(name, index)]

    def address(self, name: str, index: int = 0) -> str:
        """Return the host:port of one process of a service."""
        return self._made.wiring.address(name, index)

    def start_service(self, name: str, index: int = 0) -> None:
        """Start one process of a service, and return once it is ready."""
        self.service(name, index).start()
        self.record("ready")

    def stop_service(self, name: str, index: int = 0) -> None:
        """Let one process of a service drain and end."""
        self.service(name, index).stop()
        self.record("ready")

    def kill_service(self, name: str, index: int = 0, sig: int = signal.SIGKILL) -> None:
        """Send `sig` to one process of a service; SIGKILL takes the processes that it started along."""
        service = self.service(name, index)
        if sig == signal.SIGKILL:
            service.kill()
        else:
            service.signal(sig)
        self.record("ready")

    def restart_service(self, name: str, index: int = 0) -> None:
        """Stop one process of a service and start it again."""
        self.stop_service(name, index)
        self.start_service(name, index)

    def record(self, status: Status, error: str = "") -> None:
        """Write down in `state.json` how the stack is now."""
        identities = {name: part.process.identity for name, part in self.parts.items()}
        made = self._assembly
        port = made.wiring.ports if made else state.read(self.directory).ports
        now = State(
            status=status,
            error=error,
            owner=Identity.of(os.getpid()),
            supervised=self._supervised,
            ports=port,
            processes={name: identity for name, identity in identities.items() if identity},
            addresses={name: f"{ports.LOOPBACK}:{port[name]}" for name in self.parts},
            environ=made.wiring.for_clients() if made else {},
            versions=made.versions if made and status == "ready" else {},
        )
        state.write(self.directory, now)

    @property
    def _made(self) -> Assembly:
        if not self._assembly:
            raise StackError(f"the stack in {self.directory} is not started: start it first")
        return self._assembly

    def _end(self, status: Status, error: str = "") -> None:
        """End all that runs, the services first, and let go of the directory."""
        made = self._assembly
        try:
            together(lambda part: part.stop(), made.services.values() if made else ())
        finally:
            try:
                together(lambda part: part.stop(), made.servers.values() if made else ())
            finally:
                self.record(status, error)
                if self._lock:
                    self._lock.close()
                    self._lock = None


def _own(server: Server | None, name: str) -> Server:
    if not server:
        raise StackError(f"this stack runs no {name} of its own: it was given one to use")
    return server
