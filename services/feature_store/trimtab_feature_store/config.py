"""What the feature store is told by its environment."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Set `max_records` with `TRIMTAB_FEATURE_STORE_MAX_RECORDS`, and so on for each field."""

    kafka_servers: str
    """Where Kafka is: host:port, several with commas."""
    grpc_address: str
    """Where to answer gRPC."""
    data_dir: Path
    """Where the archive's tables are kept; all feature stores share it."""
    instance: str = "feature_store-0"
    """Name of this process among the feature stores."""
    threads: int = 4
    """Questions about online features answered at once; Python runs one of them at a time."""
    max_waiting: int = 1024
    """Calls let in and not yet answered; one more is told to come back later."""
    max_records: int = 5000
    """Most rows of one transaction."""
    patience_s: float = 60.0
    """How long a training set waits for the archive where its caller states no deadline, and a view that begins."""
    online_dsn: str | None = field(default=None, repr=False)
    """Where the PostgreSQL is in which online features lie, as a connection URI; in memory, if not set."""
    ray_address: str | None = None
    """The Ray cluster that training sets are joined on; in this process, if not set."""
    trace_file: Path | None = None
    """Where spans are written as JSON lines, if anywhere."""
