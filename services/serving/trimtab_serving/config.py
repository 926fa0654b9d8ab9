"""What serving is told by its environment."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Set `threads` with `TRIMTAB_SERVING_THREADS`, and so on for each field."""

    kafka_servers: str
    """Where Kafka is: host:port, several with commas."""
    grpc_address: str
    """Where to answer gRPC: both doors, health and reflection."""
    state_dir: Path
    """Where this process keeps its copy of specs, deployments, features and models, and the log not yet sent."""
    instance: str = "serving-0"
    """Name of this process among serving's."""
    workers: int = 1
    """Processes that share the address, each an instance of its own; as many as there are cores, at most."""
    threads: int = 4
    """Requests worked on at once; Python runs one of them at a time, so more only get in each other's way."""
    max_waiting: int = 1024
    """Requests let in and not yet answered; one more is told to come back later."""
    model_memory_mb: int = 2048
    """How much memory the graphs of versions may take; those asked least recently go cold, and are loaded again when asked."""
    always_warm: str = ""
    """Models whose champion never goes cold, with commas."""
    triton_address: str = ""
    """host:port of a Triton that runs the models, with --model-control-mode=explicit; in this process, if not set."""
    triton_backend: str = "onnxruntime"
    """The backend of that Triton that runs them: onnxruntime, or python, where that can import onnxruntime."""
    log_limit_mb: int = 256
    """How much of the prediction log is kept on disk while Kafka is away."""
    mirror_limit_mb: int = 4096
    """The most that the local copy may take on disk."""
    catch_up_s: float = 5.0
    """How long a restart with a local copy waits for news from Kafka before it answers from the copy."""
    trace_file: Path | None = None
    """Where spans are written as JSON lines, if anywhere."""
