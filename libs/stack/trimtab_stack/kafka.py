"""A real Apache Kafka: one node that is broker and controller, in one JVM, on loopback.

What was acknowledged is still there after `kill` and `start` on the same directory.
"""

import base64
import json
import signal
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from trimtab_stack import jars, java, ports, probes
from trimtab_stack.environment import tools
from trimtab_stack.errors import DidNotStart, PortInUse
from trimtab_stack.processes import ChildProcess, Launch

_LOCALE = {"LC_ALL": "C.UTF-8"}  # or Java cannot open a directory whose name is not ASCII
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_LOG4J = Path(__file__).with_name("kafka_log4j2.properties")
_JVM = (
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Xms64m",
    "-Xmx512m",
    f"-Dlog4j2.configurationFile={_LOG4J}",
)

# The quick election and the short broker session are what lets a killed broker be back in 3 s instead of 12.
_SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
controller.quorum.election.timeout.ms=200
listeners=BROKER://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=BROKER://{host}:{port}
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
broker.session.timeout.ms=1500
broker.heartbeat.interval.ms=300
log.dirs={data}
log.cleaner.dedupe.buffer.size=8388608
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
"""


class Kafka:
    """A broker that listens on `port` of loopback and keeps its data in `directory`."""

    def __init__(
        self,
        directory: Path,
        port: int,
        *,
        controller_port: int | None = None,
        environ: Mapping[str, str] | None = None,
        log: Path | None = None,
        jvm: Sequence[str] = (),
    ) -> None:
        """Start nothing yet.

        Args:
            directory: where the data and the log are kept.
            port: the port of loopback to listen on.
            controller_port: where it talks to itself, by default any free port.
            environ: JAVA_HOME, KAFKA_HOME, TRIMTAB_CACHE and the like, over this process's own.
            log: where to keep what the broker prints; by default in `directory`.
            jvm: further options of the Java machine; with any, no class-data archive is used.
        """
        self._directory = directory.absolute()
        self._port = port
        self._controller_port = controller_port
        self._environ = tools(environ)
        self._jvm = tuple(jvm)
        self.process = ChildProcess("Kafka", log or self._directory / "kafka.log")

    @property
    def servers(self) -> str:
        """What clients take as bootstrap servers."""
        return f"{ports.LOOPBACK}:{self._port}"

    @property
    def log(self) -> Path:
        """The file that holds what the broker prints."""
        return self.process.log

    @property
    def version(self) -> str:
        """The version of Kafka, fetched first if need be."""
        return self._jars.version

    @cached_property
    def _jars(self) -> jars.Jars:
        return jars.find_or_fetch(self._environ)

    def start(self) -> None:
        """Start, and return once clients can produce; nothing happens if it runs.

        Raises:
            MissingJava, MissingKafka: there is nothing to run it with.
            PortInUse: another process listens on the port.
            DidNotStart: the broker ended or did not answer in time.
        """
        if self.process.alive:
            return
        found = java.find(self._environ)
        if not ports.is_free(self._port):
            raise PortInUse(self._port, "Kafka")
        settings = self._write_settings()
        if not (self._data / "meta.properties").exists():
            self._format(found, settings)
        self.process.spawn(self._launch(found, "kafka.Kafka", str(settings)))
        self.process.wait_ready(lambda: probes.kafka_answers(self._port), _START_SECONDS)

    def stop(self) -> None:
        """Shut down in an orderly way, or kill it if that takes too long."""
        self.process.end(signal.SIGTERM, _STOP_SECONDS)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self.process.kill()

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    def _write_settings(self) -> Path:
        self._directory.mkdir(parents=True, exist_ok=True)
        settings = self._directory / "server.properties"
        controller_port = self._controller_port or ports.choose({self._port})
        data = json.dumps(str(self._data))[
            1:-1
        ]  # Java's properties are Latin-1, and escape the rest as JSON does
        text = _SETTINGS.format(
            host=ports.LOOPBACK, port=self._port, controller_port=controller_port, data=data
        )
        settings.write_text(text)
        return settings

    def _format(self, found: java.Java, settings: Path) -> None:
        cluster = (
            base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        )  # begins with A
        tool = ("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(settings))
        launch = self._launch(found, *tool)
        run = subprocess.run(launch.argv, env=dict(launch.environ), capture_output=True, text=True)
        if run.returncode != 0:
            self.process.note(run.stdout + run.stderr)
            raise DidNotStart("Kafka", self.log, f"its directory {self._data} could not be formatted")

    def _launch(self, found: java.Java, *program: str) -> Launch:
        options = [*_JVM, *self._jvm]
        archive = self._jars.archive(found.version)
        if archive and archive.exists() and archive.stat().st_size and not self._jvm:
            options.append(f"-XX:SharedArchiveFile={archive}")
        return Launch(
            [found.command, *options, "-cp", self._jars.class_path, *program], self._environ | _LOCALE
        )
