"""What ingestion is told by its environment."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Set `max_records` with `TRIMTAB_INGESTION_MAX_RECORDS`, and so on for each field."""

    kafka_servers: str
    """Where Kafka is: host:port, several with commas."""
    grpc_address: str
    """Where to answer gRPC."""
    instance: str = "ingestion-0"
    """Name of this process among ingestion's."""
    max_records: int = 2000
    """Most rows of one transaction."""
    schema_registry_url: str | None = field(default=None, repr=False)
    """Where the schemas of Avro and Protobuf records are asked for: the address of a registry's Confluent API; user:password@ may
    stand before the host."""
    connections: str | None = field(default=None, repr=False)
    """The PostgreSQL servers that tables are read from: `name=postgresql://...`, several with spaces; specs name the name."""
    table_lead_s: float = 10.0
    """How long after a table was read what has changed begins to count: in that time every reader must have it; 4 at the least."""
    trace_file: Path | None = None
    """Where spans are written as JSON lines, if anywhere."""
