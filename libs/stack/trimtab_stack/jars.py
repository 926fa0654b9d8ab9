"""Finds the jars of Kafka, and fetches them once."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trimtab_stack import maven
from trimtab_stack.errors import CannotFetch, MissingKafka

KAFKA_VERSION = "4.3.1"
_POM = Path(__file__).with_name("kafka_pom.xml")


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
    """Return the folder that holds the fetched Kafka."""
    return maven.cache(environ) / f"kafka-{KAFKA_VERSION}"


def lock(environ: Mapping[str, str]) -> Path:
    """Return the file that is locked by whoever adds to the cache."""
    return maven.lock(cache(environ))


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
    goal = ("-f", str(_POM), "dependency:copy-dependencies")
    try:
        maven.fetch(f"Kafka {KAFKA_VERSION}", cache(environ), goal, "libs", environ)
    except CannotFetch as error:
        raise MissingKafka(f"{error}, or set KAFKA_HOME") from error
    if not (jars := find(environ)):
        raise MissingKafka(
            f"Maven fetched Kafka, and {cache(environ)} does not hold it: delete that folder and try again"
        )
    return jars
