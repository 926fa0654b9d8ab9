"""Puts the parts of one stack together; starts none of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trimtab_stack import ports, state
from trimtab_stack.environment import inherited
from trimtab_stack.kafka import Kafka
from trimtab_stack.postgres import Postgres
from trimtab_stack.services import ServiceProcess
from trimtab_stack.together import Part
from trimtab_stack.wiring import KAFKA_SERVERS, POSTGRES_DSN, Wiring, process_name


@dataclass(frozen=True, slots=True)
class Assembly:
    """What a stack runs itself, and how it is wired."""

    wiring: Wiring
    kafka: Kafka | None
    """None where one was given to use."""
    postgres: Postgres | None
    services: Mapping[str, ServiceProcess]
    """By process name."""

    @property
    def servers(self) -> dict[str, Part]:
        """Kafka and PostgreSQL, those that are our own."""
        own: dict[str, Part | None] = {"kafka": self.kafka, "postgres": self.postgres}
        return {name: server for name, server in own.items() if server}

    @property
    def parts(self) -> dict[str, Part]:
        """All by name, in the order of starting."""
        return {**self.servers, **self.services}

    @property
    def versions(self) -> dict[str, str]:
        """The versions of the servers that are our own."""
        own = {"kafka": self.kafka, "postgres": self.postgres}
        return {name: server.version for name, server in own.items() if server}


def assemble(
    directory: Path, services: Mapping[str, int], given: Mapping[str, str], *, fsync: bool
) -> Assembly:
    """Choose the ports, those of the last time where there was one, and make the parts.

    Raises:
        PortInUse: a remembered port is taken.
    """
    servers, dsn = given.get(KAFKA_SERVERS), given.get(POSTGRES_DSN)
    processes = [(service, index) for service, count in services.items() for index in range(count)]
    names = [process_name(service, index) for service, index in processes]
    names += [] if servers else ["kafka", "kafka-controller"]
    names += [] if dsn else ["postgres"]
    port = ports.allot(names, state.read(directory).ports, state.path(directory))

    logs = directory / "logs"
    kafka = postgres = None
    if not servers:
        kafka = Kafka(
            directory / "kafka",
            port["kafka"],
            controller_port=port["kafka-controller"],
            environ=given,
            log=logs / "kafka.log",
        )
        servers = kafka.servers
    if not dsn:
        log = logs / "postgres.log"
        postgres = Postgres(directory / "postgres", port["postgres"], fsync=fsync, environ=given, log=log)
        dsn = postgres.dsn
    wiring = Wiring(
        directory=directory,
        kafka_servers=servers,
        postgres_dsn=dsn,
        services=services,
        ports=port,
        given=given,
    )
    return Assembly(
        wiring, kafka, postgres, {process_name(*each): _service(wiring, *each) for each in processes}
    )


def _service(wiring: Wiring, service: str, index: int) -> ServiceProcess:
    environ = wiring.for_process(service, index)
    for folder in (
        environ["TRIMTAB_DATA_DIR"],
        environ["TRIMTAB_STATE_DIR"],
        Path(environ["TRIMTAB_TRACE_FILE"]).parent,
    ):
        Path(folder).mkdir(parents=True, exist_ok=True)
    log = wiring.directory / "logs" / f"{process_name(service, index)}.log"
    return ServiceProcess(service, index, inherited() | environ, log)
