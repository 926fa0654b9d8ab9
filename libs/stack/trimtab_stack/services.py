"""One process of one service.

Ready means that the service itself says so, through the standard gRPC health check; an open port is not enough.
"""

import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from trimtab_stack.processes import ChildProcess, Launch
from trimtab_stack.wiring import process_name

_START_SECONDS = 90.0
_DRAIN_SECONDS = 15.0
_PROBE_SECONDS = 1.0
_CHANNEL = (("grpc.enable_http_proxy", 0),)


class ServiceProcess:
    """`python -m trimtab_<name>`, in a process group of its own."""

    def __init__(self, name: str, index: int, environ: Mapping[str, str], log: Path) -> None:
        """Start nothing yet; `environ` is all of its environment, TRIMTAB_GRPC_ADDRESS included."""
        self.name = process_name(name, index)
        self._environ = environ
        self._address = environ["TRIMTAB_GRPC_ADDRESS"]
        self._argv = [sys.executable, "-m", f"trimtab_{name}"]
        self.process = ChildProcess(self.name, log)

    @property
    def alive(self) -> bool:
        """Whether it runs now."""
        return self.process.alive

    @property
    def pid(self) -> int | None:
        """Its pid, None if it does not run."""
        return self.process.pid

    @property
    def log(self) -> Path:
        """The file that holds what it prints."""
        return self.process.log

    def start(self) -> None:
        """Start, and return once it says that it serves; nothing happens if it runs.

        Raises:
            DidNotStart: it ended first, or was not ready in time; then it is killed.
        """
        if not self.alive:
            self.process.spawn(Launch(self._argv, self._environ))
        self.process.wait_ready(self._serves, _START_SECONDS)

    def stop(self, within: float = _DRAIN_SECONDS) -> None:
        """Ask it to drain and end; kill it if it still runs after `within` seconds."""
        self.process.end(signal.SIGTERM, within)

    def kill(self) -> None:
        """SIGKILL it and the processes that it started, as losing its machine would."""
        self.process.kill()

    def signal(self, number: int) -> None:
        """Send a signal to the service's first process alone."""
        self.process.signal(number)

    def _serves(self) -> bool:
        host, port = self._address.rsplit(":", 1)
        try:
            socket.create_connection((host, int(port)), timeout=_PROBE_SECONDS).close()
            with grpc.insecure_channel(self._address, options=_CHANNEL) as channel:
                check = health_pb2_grpc.HealthStub(channel).Check
                answer = check(health_pb2.HealthCheckRequest(service=""), timeout=_PROBE_SECONDS)
        except (OSError, grpc.RpcError):
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
