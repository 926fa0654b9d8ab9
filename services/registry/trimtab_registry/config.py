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
    artifact_retention: str = ""
    """How long the files of a version are kept that nothing refers to, such as 90d; for ever, if not set."""
    artifact_grace: str = "1d"
    """How long they stay after that, so that what a run is about to refer to is not thrown away."""
    collect_every_s: float = 3600.0
    """How often files are looked for whose time has come."""
    trace_file: Path | None = None
    """Where spans are written as JSON lines, if anywhere."""
