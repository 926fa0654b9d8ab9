"""Finds the jars of Kafka, and fetches them once.

A cache folder is complete from the moment it exists: it is filled under another name and renamed, under a lock.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trimtab_stack.errors import MissingKafka
from trimtab_stack.locks import locked

KAFKA_VERSION = "4.3.1"
_POM = Path(__file__).with_name("kafka_pom.xml")
_FETCH_SECONDS = 600.0
_SCRATCH = ".fetching-"


@dataclass(frozen=True, slots=True)
class Jars:
    """A folder of jars that runs a Kafka broker."""

    folder: Path
    version: str
    cached: bool
    """Whether the folder is ours, so that more may be kept beside it."""

    def archive(self, java_version: str) -> Path | None:
        """Return where the class-data archive for that Java is or would be; None if we may keep none."""
        return self.folder.with_name(f"classes-{java_version}.jsa") if self.cached else None

    @property
    def class_path(self) -> str:
        """All jars, always in the same order, as a class-data archive demands."""
        return ":".join(str(jar) for jar in sorted(self.folder.glob("*.jar")))


def cache(environ: Mapping[str, str]) -> Path:
    """Return the folder that holds the fetched Kafka: in TRIMTAB_CACHE, else in ~/.cache/trimtab."""
    root = environ.get("TRIMTAB_CACHE") or Path(environ.get("HOME") or Path.home(), ".cache", "trimtab")
    return Path(root, f"kafka-{KAFKA_VERSION}")


def lock(environ: Mapping[str, str]) -> Path:
    """Return the file that is locked by whoever adds to the cache."""
    return cache(environ).with_name(f"kafka-{KAFKA_VERSION}.lock")


def find(environ: Mapping[str, str]) -> Jars | None:
    """Return the jars of KAFKA_HOME, else those in the cache; None if they were not fetched yet.

    Raises:
        MissingKafka: KAFKA_HOME is set and holds no Kafka.
    """
    if home := environ.get("KAFKA_HOME"):
        folder = Path(home, "libs")
        named = [
            re.fullmatch(r"kafka_[\d.]+-(\d[\d.]*)\.jar", jar.name) for jar in folder.glob("kafka_*.jar")
        ]
        versions = [match[1] for match in named if match]
        if not versions:
            raise MissingKafka(
                f"KAFKA_HOME is {home}, which holds no libs/kafka_*.jar: correct it or unset it"
            )
        return Jars(folder, versions[0], cached=False)
    folder = cache(environ) / "libs"
    return Jars(folder, KAFKA_VERSION, cached=True) if folder.exists() else None


def find_or_fetch(environ: Mapping[str, str]) -> Jars:
    """Return the jars, fetched into the cache first if they are not there (45 MB, about 10 s).

    Raises:
        MissingKafka: they are not there and Maven is missing or failed.
    """
    if jars := find(environ):
        return jars
    place = cache(environ)
    with locked(lock(environ), within=_FETCH_SECONDS) as held:
        if not held:
            raise MissingKafka(
                f"another process has been fetching Kafka into {place} for {_FETCH_SECONDS:g} s: end it"
            )
        if not (jars := find(environ)):
            _fetch(place, environ)
            jars = find(environ)
    if not jars:
        raise MissingKafka(
            f"Maven fetched Kafka, and {place} does not hold it: delete that folder and try again"
        )
    return jars


def _fetch(place: Path, environ: Mapping[str, str]) -> None:
    maven = shutil.which("mvn", path=environ.get("PATH"))
    if not maven:
        raise MissingKafka(
            "Kafka is not here and there is no mvn to fetch it: install Maven, or set KAFKA_HOME"
        )
    for abandoned in place.parent.glob(f"{_SCRATCH}*"):  # we hold the lock, so nobody works there
        shutil.rmtree(abandoned, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=_SCRATCH) as scratch:
        shutil.copy(_POM, Path(scratch, "pom.xml"))
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={scratch}/kafka/libs"]
        command = [maven, "-q", "-B", "-f", f"{scratch}/pom.xml", *goal]
        try:
            run = subprocess.run(
                command, capture_output=True, text=True, env=dict(environ), timeout=_FETCH_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MissingKafka(f"Maven could not fetch Kafka {KAFKA_VERSION} ({error}): try again") from error
        if run.returncode != 0:
            why = next(
                (line for line in run.stdout.splitlines() if "ERROR" in line), f"exit code {run.returncode}"
            )
            raise MissingKafka(
                f"Maven could not fetch Kafka {KAFKA_VERSION} ({why.strip()}): see to that, or set KAFKA_HOME"
            )
        Path(scratch, "kafka").rename(place)
