"""Real servers for tests that Trimtab itself does not bring along: a schema registry, MLflow, and a Ray cluster.

The registry is Apicurio, which speaks Confluent's API. What either was told is still there after `kill` and `start`.
"""

import signal
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen

from trimtab_stack import java, maven, ports
from trimtab_stack.environment import tools
from trimtab_stack.processes import ChildProcess, Launch

_TICK_SECONDS = 1.0
_VERSION = "2.6.13.Final"
_GOAL = ("dependency:unpack", f"-Dartifact=io.apicurio:apicurio-registry-app:{_VERSION}:tar.gz:all")
_JVM = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m")
_START_SECONDS = 120.0
_STOP_SECONDS = 20.0


_RAY_HEAD = """
import sys, ray
limits = {"num_cpus": 2, "_memory": 8 << 30, "object_store_memory": 100_000_000}
ray.init(_temp_dir=sys.argv[1], _node_ip_address="127.0.0.1", include_dashboard=False, log_to_driver=False, **limits)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def ray_cluster() -> Iterator[str]:
    """Run Ray in a process of its own, with no dashboard, no telemetry and no door but on loopback."""
    # Ray makes sockets below its folder, whose names are limited in length.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        while True:
            with Popen([sys.executable, "-c", _RAY_HEAD, folder], stdin=PIPE, stdout=PIPE, text=True) as head:
                assert head.stdin is not None and head.stdout is not None
                try:
                    if address := head.stdout.readline().strip():
                        yield address
                        return
                finally:  # on a busy machine Ray may have given up its own processes, and then another does better
                    head.stdin.close()


class ApicurioRegistry:
    """A registry on one port of loopback."""

    def __init__(self, directory: Path) -> None:
        """Start nothing yet; its schemas, and what it prints, are kept in `directory`."""
        self._schemas = directory / "schemas"
        self._port = ports.choose()
        self._environ = tools()
        self.process = ChildProcess("Apicurio Registry", directory / "apicurio.log")

    @property
    def url(self) -> str:
        """The address of its Confluent API."""
        return f"http://{ports.LOOPBACK}:{self._port}/apis/ccompat/v7"

    def start(self) -> None:
        """Start, and return once it answers; it is fetched first if need be (142 MB).

        Raises:
            MissingJava, CannotFetch: there is nothing to run it with, or to fetch it.
            DidNotStart: it ended first, or did not answer in time.
        """
        found = java.find(self._environ)
        place = maven.cache(self._environ) / f"apicurio-{_VERSION}"
        maven.fetch(f"Apicurio Registry {_VERSION}", place, _GOAL, "app", self._environ)
        (runner,) = place.glob("app/*-runner.jar")
        environ = {
            "QUARKUS_HTTP_HOST": ports.LOOPBACK,
            "QUARKUS_HTTP_PORT": str(self._port),
            "QUARKUS_DATASOURCE_JDBC_URL": f"jdbc:h2:file:{self._schemas};WRITE_DELAY=0",
        }
        self.process.spawn(Launch([found.command, *_JVM, "-jar", str(runner)], self._environ | environ))
        self.process.wait_ready(self._answers, _START_SECONDS)

    def stop(self) -> None:
        """End it."""
        self.process.end(signal.SIGTERM, _STOP_SECONDS)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self.process.kill()

    def _answers(self) -> bool:
        return _answers(f"{self.url}/subjects")


class MLflowServer:
    """MLflow's own tracking server and model registry, on one port of loopback; it keeps artifacts and serves them.

    It runs from this environment: `mlflow-skinny` has the server, and the root's dev group what that imports.
    """

    def __init__(self, directory: Path) -> None:
        """Start nothing yet; what it is told, and what it prints, is kept in `directory`."""
        self._directory = directory
        self._port = ports.choose()
        self.process = ChildProcess("MLflow", directory / "mlflow.log")

    @property
    def url(self) -> str:
        """The tracking URI, which is the registry's too."""
        return f"http://{ports.LOOPBACK}:{self._port}"

    def start(self) -> None:
        """Start, and return once it answers.

        Raises:
            DidNotStart: it ended first, or did not answer in time.
        """
        store = f"sqlite:///{self._directory / 'mlflow.db'}"
        environ = {
            "_MLFLOW_SERVER_FILE_STORE": store,
            "_MLFLOW_SERVER_REGISTRY_STORE": store,
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(self._directory / "artifacts"),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        # `mlflow server` runs this app with a second one around it, for language models, and workers behind.
        app = ["-m", "flask", "--app", "mlflow.server:app", "run", "--with-threads"]
        place = ["--host", ports.LOOPBACK, "--port", str(self._port)]
        self.process.spawn(Launch([sys.executable, *app, *place], tools() | environ))
        self.process.wait_ready(self._answers, _START_SECONDS)

    def stop(self) -> None:
        """End it."""
        self.process.end(signal.SIGTERM, _STOP_SECONDS)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self.process.kill()

    def _answers(self) -> bool:
        return _answers(f"{self.url}/health")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=_TICK_SECONDS):
            return True
    except OSError:
        return False
