"""Who listens where, and what each process and each client is told of it.

What the caller of the stack passed always wins over what is derived here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trimtab_stack import ports
from trimtab_stack.errors import UnknownService

KAFKA_SERVERS = "TRIMTAB_KAFKA_SERVERS"
POSTGRES_DSN = "TRIMTAB_POSTGRES_DSN"


def process_name(service: str, index: int) -> str:
    """Return what one process of a service is called, `serving-0`."""
    return f"{service}-{index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """The addresses of one stack."""

    directory: Path
    kafka_servers: str
    postgres_dsn: str
    services: Mapping[str, int]
    """How many processes each service has."""
    ports: Mapping[str, int]
    """By process name."""
    given: Mapping[str, str]
    """What the caller passed for every process."""

    def address(self, service: str, index: int = 0) -> str:
        """Return host:port of one process of a service.

        Raises:
            UnknownService: this stack does not run it.
        """
        if not 0 <= index < self.services.get(service, 0):
            known = [process_name(name, i) for name, count in self.services.items() for i in range(count)]
            raise UnknownService(process_name(service, index), known)
        return f"{ports.LOOPBACK}:{self.ports[process_name(service, index)]}"

    def for_clients(self) -> dict[str, str]:
        """Return the variables that anyone who uses the stack needs; several processes are parted by commas."""
        return {
            KAFKA_SERVERS: self.kafka_servers,
            POSTGRES_DSN: self.postgres_dsn,
            **{
                f"TRIMTAB_{service.upper()}_ADDRESS": ",".join(self.address(service, i) for i in range(count))
                for service, count in self.services.items()
                if count
            },
        }

    def for_process(self, service: str, index: int) -> dict[str, str]:
        """Return the variables that one process of a service starts with."""
        name = process_name(service, index)
        return {
            **self.for_clients(),
            "TRIMTAB_GRPC_ADDRESS": self.address(service, index),
            "TRIMTAB_INSTANCE": name,
            "TRIMTAB_DATA_DIR": str(self.directory / "data"),
            "TRIMTAB_STATE_DIR": str(self.directory / "state" / name),
            "TRIMTAB_TRACE_FILE": str(self.directory / "traces" / f"{name}.jsonl"),
            "DO_NOT_TRACK": "1",
            **self.given,
        }
