"""Makes ready, once for a machine, what starting Kafka needs: its jars, and an archive of its classes.

The archive (Java's class-data sharing) lets the broker start in two thirds of the time and CPU. It is a nicety: where
it cannot be made Kafka starts without.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from trimtab_stack import jars, java, ports
from trimtab_stack.environment import tools
from trimtab_stack.errors import StackError
from trimtab_stack.kafka import Kafka
from trimtab_stack.locks import locked

_WAIT_SECONDS = 120.0


def fetch_kafka(environ: Mapping[str, str] | None = None) -> jars.Jars:
    """Return Kafka's jars, after fetching them and archiving their classes if that has not been done.

    Raises:
        MissingJava, MissingKafka: there is nothing to run Kafka with, and it cannot be fetched.
    """
    where = tools(environ)
    version = java.find(where).version  # first: without Java, Maven fails in words of its own
    found = jars.find_or_fetch(where)
    archive = found.archive(version)
    if archive and not archive.exists():
        with locked(jars.lock(where), within=_WAIT_SECONDS) as held:
            if held and not archive.exists():
                _make_archive(archive, where)
    return found


def _make_archive(archive: Path, environ: Mapping[str, str]) -> None:
    """Run a broker once and keep what classes it loaded; an empty file says that it did not work, do not try again."""
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".archiving-") as scratch:
        made = Path(scratch, archive.name)
        broker = Kafka(
            Path(scratch), ports.choose(), environ=environ, jvm=[f"-XX:ArchiveClassesAtExit={made}"]
        )
        try:
            broker.start()
            broker.stop()
        except StackError:
            broker.kill()
        if not made.exists():
            made.touch()
        os.replace(made, archive)
