"""What the registry is told by its environment."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Set `schema` with `TRIMTAB_REGISTRY_SCHEMA`, and so on for each field."""

    kafka_servers: str
    """Where Kafka is: host:port, several with commas."""
    postgres_dsn: str = field(repr=False)
    """Where PostgreSQL is, as a connection URI."""
    grpc_address: str
    """Where to answer gRPC."""
    instance: str = "registry-0"
    """Name of this process among the registries."""
    schema: str = "registry"
    """The PostgreSQL schema and the Kafka group of this registry."""
    replication: int = 1
    """On how many brokers each partition of a source's or view's topics is kept."""
    roles: str = ""
    """Who may approve in which role, like `risk:ann,bob;ml:carl`."""
    trace_file: Path | None = None
    """Where spans are written as JSON lines, if anywhere."""
