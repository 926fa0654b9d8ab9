"""What the trainer is told by its environment."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Set `lease_s` with `TRIMTAB_TRAINER_LEASE_S`, and so on for each field."""

    kafka_servers: str
    """Where Kafka is: host:port, several with commas."""
    postgres_dsn: str = field(repr=False)
    """Where PostgreSQL is, as a connection URI."""
    grpc_address: str
    """Where to answer gRPC."""
    feature_store_address: str
    """Where training sets are asked for."""
    data_dir: Path
    """Where artifacts are kept, unless `artifacts_url` says otherwise."""
    state_dir: Path
    """Where a job's files lie while it runs."""
    artifacts_url: str = ""
    """Where artifacts are kept: a folder, or `s3://bucket/prefix` with AWS's usual variables; below the data folder, if not set."""
    instance: str = "trainer-0"
    """Name of this process among the trainers."""
    jobs: int = 1
    """Jobs that run side by side."""
    lease_s: float = 10.0
    """A trainer that has not renewed its lease for so long has lost its job to another."""
    patience_s: float = 1800.0
    """A run that has waited so long for its rows, or for what keeps them, fails."""
    ray_address: str | None = None
    """The Ray cluster that runs and their trials are put on; here, if not set."""
    mlflow_tracking_uri: str = field(default="", metadata={"also": "MLFLOW_TRACKING_URI"})
    """An MLflow server that is shown runs and versions, such as http://mlflow:5000; none, if it is empty."""
    trace_file: Path | None = None
    """Where spans are written as JSON lines, if anywhere."""
