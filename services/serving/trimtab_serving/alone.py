"""Serving from a bundle, with nothing else around.

A bundle becomes the local copy that a restart would find, in a place of its own, once;
from there on it is served as any copy is. With Kafka named, what changes for its model
is followed and the log goes out whenever Kafka is there; the log waits on disk till
then. Other models, and other specs than the bundle's, are not for this process.
"""

import logging
import shutil
import socket
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from trimtab_contracts import topics
from trimtab_runtime import bundle
from trimtab_runtime.bundle import Bundle
from trimtab_runtime.clock import iso

from trimtab_serving.config import Config
from trimtab_serving.mirror import Mirror, Stored

log = logging.getLogger(__name__)

_MB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class AloneConfig(Config):
    """The settings of serving, none of which has to be given."""

    kafka_servers: str = ""
    """Where Kafka is, if it is anywhere."""
    grpc_address: str = "[::]:50051"
    state_dir: Path = Path("trimtab-serving")
    instance: str = field(default_factory=lambda: f"edge-{socket.gethostname()}")


@dataclass(frozen=True, slots=True)
class Home:
    """Where what is served is kept."""

    mirror: Path
    models: Path
    only: Collection[str] | None = None
    """Specs that are for this process, as Kind/name; all, if not given."""

    @classmethod
    def of(cls, config: Config) -> "Home":
        """Return that of a process that follows everything."""
        return cls(config.state_dir / "mirror", config.state_dir / "models")


def unpack(path: Path, key: bytes | None, config: Config) -> Home:
    """Check a bundle, and have its copy below the state directory, with what was heard since it was first served.

    Raises:
        NotFound, BadBundle: it is not there, or not what was signed.
        Unavailable: the copy cannot be opened.
    """
    found = bundle.read(path, key)
    directory = config.state_dir / "bundles" / found.digest[:16]
    only = [record.key.decode() for record in found.records if record.topic == topics.SPECS.name]
    home = Home(directory / "mirror", directory / "models", only)
    whole = directory / "whole"
    if not whole.exists():
        shutil.rmtree(directory, ignore_errors=True)  # what a crash left of it
        _fill(home, found, config.mirror_limit_mb * _MB)
        whole.touch()
    until = found.features_until_ms
    log.info(
        "serving version %d of model %r from a bundle made at %s%s",
        found.version,
        found.model,
        iso(found.made_ms),
        "" if until is None else f", with features up to {iso(until)}",
    )
    return home


def _fill(home: Home, found: Bundle, limit_bytes: int) -> None:
    home.models.mkdir(parents=True)
    for digest, content in found.artifacts.items():
        (home.models / digest).write_bytes(content)
    with Mirror(home.mirror, limit_bytes) as mirror:
        mirror.begin_with([Stored(*record) for record in found.records])
