"""What can go wrong on one machine, each as one sentence that a user can act on.

    StackError
    ├── MissingJava           no Java, or one that is too old
    ├── MissingKafka          the jars are not there and cannot be fetched
    ├── CannotFetch           Maven is missing, or failed
    ├── MissingPostgres       no PostgreSQL binaries, or none that this user may run
    ├── PortInUse             a port that the stack was given belongs to someone else
    ├── AlreadyRunning        another process runs a stack in this directory
    ├── DidNotStart           a process ended, or was not ready in time
    └── UnknownService        a name or an index that this stack does not have

A message names the thing, what was found and the remedy, or the log that tells more; it never is a traceback.
"""

from pathlib import Path


class StackError(Exception):
    """Something on this machine keeps the stack from running; the message is one sentence for the user."""


class MissingJava(StackError):
    """No Java that can run Kafka was found."""

    def __init__(self, found: str, least: int) -> None:
        super().__init__(
            f"Kafka needs Java {least} or newer, and {found}: install one or set JAVA_HOME to it"
        )


class MissingKafka(StackError):
    """The jars of Kafka are neither here nor fetchable."""


class CannotFetch(StackError):
    """Something is not in the cache, and Maven cannot bring it there."""


class MissingPostgres(StackError):
    """PostgreSQL's binaries are not installed, or may not be run by this user."""


class PortInUse(StackError):
    """A port that the stack was given, or remembers, is taken."""

    def __init__(self, port: int, owner: str, state: Path | None = None) -> None:
        remedy = (
            f"stop that, or delete {state} to have new ports chosen"
            if state
            else "stop that, or name another port"
        )
        super().__init__(f"port {port} of {owner} is in use by another process: {remedy}")
        self.port = port


class AlreadyRunning(StackError):
    """Another process holds this directory."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"a stack is already running in {directory}: stop it first, or name another directory"
        )


class DidNotStart(StackError):
    """A process ended before it was ready, or was not ready in time."""

    def __init__(self, name: str, log: Path, reason: str) -> None:
        super().__init__(f"{name} did not start: {reason}; its log is {log}")
        self.name = name
        self.log = log


class UnknownService(StackError):
    """This stack runs no such service process."""

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f"this stack has no {name}, only {', '.join(known) or 'Kafka and PostgreSQL'}")
