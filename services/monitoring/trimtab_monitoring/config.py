"""What monitoring is told by its environment."""

from dataclasses import dataclass, field
from pathlib import Path

NICE = 5
"""By how much the priority of calibrations and reports is lowered: the join and the windows go first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Set `keep_days` with `TRIMTAB_MONITORING_KEEP_DAYS`, and so on for each field."""

    kafka_servers: str
    """Where Kafka is: host:port, several with commas."""
    postgres_dsn: str = field(repr=False)
    """Where PostgreSQL is, as a connection URI."""
    grpc_address: str
    """Where to answer gRPC."""
    data_dir: Path
    """Where artifacts are read and reports are written."""
    state_dir: Path
    """Where the files of a calibration or a report lie while it is made."""
    instance: str = "monitoring-0"
    """Name of this process among the monitors."""
    feature_store_address: str = ""
    """Where skew is asked about; nobody is asked, if not set."""
    skew_every_s: float = 3600.0
    """How often, by the wall clock, a model's newest window is audited for skew."""
    silent_s: float = 300.0
    """A serving instance that has said nothing for so long holds no window back."""
    calibration_memory_mb: int = 256
    """How much memory the calibrations of versions may take; those used least recently are read again when a window is full."""
    keep_days: int = 30
    """Predictions and labels are kept so many days of event time behind what is closed."""
    history_days: int = 400
    """Metrics can be asked for so many days of event time back from what is closed."""
    alert_sinks: str = field(default="", repr=False)
    """Where alerts go: `name=webhook:https://...`, or `slack:` or `alertmanager:` in its place; several with spaces."""
    alert_secret: str = field(default="", repr=False)
    """Signs what webhooks are sent, if given."""
    trace_file: Path | None = None
    """Where spans are written as JSON lines, if anywhere."""
