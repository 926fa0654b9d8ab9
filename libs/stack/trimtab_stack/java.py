"""Finds the Java that runs Kafka."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trimtab_stack.errors import MissingJava

LEAST_JAVA = 17


@dataclass(frozen=True, slots=True)
class Java:
    """A `java` command that works."""

    command: str
    version: str
    """As it calls itself, such as `17.0.15`."""

    @property
    def major(self) -> int:
        """The number that features are counted by: 17 of 17.0.15, 8 of 1.8.0."""
        first, second, *_ = [*re.findall(r"\d+", self.version), "0", "0"]
        return int(second if first == "1" else first)


def find(environ: Mapping[str, str]) -> Java:
    """Return the Java of JAVA_HOME, else the first on PATH.

    Raises:
        MissingJava: there is none, it does not run, or it is older than Kafka needs.
    """
    home = environ.get("JAVA_HOME")
    command = str(Path(home, "bin", "java")) if home else shutil.which("java", path=environ.get("PATH"))
    if command is None:
        raise MissingJava("there is no java on PATH", LEAST_JAVA)
    try:
        asked = subprocess.run(
            [command, "-version"], capture_output=True, text=True, env=dict(environ), timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingJava(f"{command} does not run ({error})", LEAST_JAVA) from error
    version = re.search(r'version "([^"]+)"', asked.stderr + asked.stdout)
    if not version:
        raise MissingJava(f"{command} does not tell its version", LEAST_JAVA)
    java = Java(command, version[1])
    if java.major < LEAST_JAVA:
        raise MissingJava(f"{command} is {java.version}", LEAST_JAVA)
    return java
