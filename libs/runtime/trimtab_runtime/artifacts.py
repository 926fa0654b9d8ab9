"""Files named by what is in them.

An artifact is written once and never changes; what is read is checked against its
digest, so a file that rotted or was swapped is an error and not a wrong answer.
"""

import hashlib
import os
import re
import tempfile
from pathlib import Path

import fsspec
from trimtab_contracts.common.v1.common_pb2 import Artifact

from trimtab_runtime.errors import NotFound, Rejected, Unavailable


class Corrupt(Rejected):
    """The bytes at an artifact's place are not the bytes it names."""


class Gone(NotFound):
    """There is no file at an artifact's place; it was written before anyone was told of it, so it has been removed."""


def put(data_dir: Path, content: bytes) -> Artifact:
    """Store `content` below `data_dir` and return its name; storing it again changes nothing."""
    digest = hashlib.sha256(content).hexdigest()
    path = _place(data_dir, digest)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).rename(path)
    return Artifact(uri=str(path), digest=digest, size=len(content))


def find(data_dir: Path, digest: str) -> Artifact:
    """Return the name of what is stored below `data_dir` by a digest.

    Raises:
        NotFound: nothing is.
    """
    path = _place(data_dir, digest)
    if not re.fullmatch("[0-9a-f]{64}", digest) or not path.exists():
        raise NotFound(f"no file of digest {digest!r} is stored: send it first")
    return Artifact(uri=str(path), digest=digest, size=path.stat().st_size)


def _place(data_dir: Path, digest: str) -> Path:
    return data_dir.absolute() / "artifacts" / digest[:2] / digest


def fetch(artifact: Artifact) -> bytes:
    """Return the bytes of `artifact`.

    Raises:
        Corrupt: they are not those that the digest names.
        Gone: there is no such file.
        Unavailable: they cannot be read.
    """
    try:
        with fsspec.open(artifact.uri, "rb") as file:
            content: bytes = file.read()
    except FileNotFoundError as error:
        raise Gone(
            f"artifact {artifact.uri} is not there: restore it from a backup, or train again"
        ) from error
    except OSError as error:
        raise Unavailable(f"artifact {artifact.uri} cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != artifact.digest:
        raise Corrupt(
            f"artifact {artifact.uri} is not what its digest {artifact.digest[:12]} names: restore it"
        )
    return content
