"""Artifacts on this machine: fetched once, verified, kept by digest.

What is here needs nobody else: a restart finds every wanted version, whatever is down.
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trimtab_contracts.common.v1.common_pb2 import Artifact
from trimtab_runtime import artifacts

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Where an artifact is, and what its bytes are."""

    uri: str
    digest: str


class ModelFiles:
    """The files of all wanted versions, below one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def fetch(self, file: StoredFile) -> bytes:
        """Return the bytes of `file`, from here or, the first time, from where it is.

        Raises:
            Corrupt: they are not those that the digest names.
            Unavailable: they cannot be read.
        """
        path = self._directory / file.digest
        with suppress(OSError):  # it is not here, or not to be read; a digest that is none names no file
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == file.digest:
                return content
        content = artifacts.fetch(Artifact(uri=file.uri, digest=file.digest))
        try:
            self._keep(path, content)
        except OSError as error:
            log.warning(
                "artifact %s is not kept here, and a restart has to fetch it again: %s", file.uri, error
            )
        return content

    def keep_only(self, digests: Collection[str]) -> None:
        """Delete every other file."""
        for path in self._directory.iterdir():
            if path.name not in digests:
                path.unlink(missing_ok=True)

    def _keep(self, path: Path, content: bytes) -> None:
        handle, temporary = tempfile.mkstemp(dir=self._directory)
        with os.fdopen(handle, "wb") as written:
            written.write(content)
            written.flush()
            os.fsync(written.fileno())
        Path(temporary).rename(path)
