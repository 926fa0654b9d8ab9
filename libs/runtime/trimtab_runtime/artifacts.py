"""Files named by what is in them, in a folder or in a bucket.

An artifact is written once and never changes; what is read is checked against its
digest, so a file that rotted or was swapped is an error and not a wrong answer. A file
is there whole or not at all: in a folder by a rename, in a bucket because a PUT is.
Storing it again makes it new, so whoever throws old files away leaves it alone.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import fsspec
from trimtab_contracts.common.v1.common_pb2 import Artifact

from trimtab_runtime.clock import from_datetime
from trimtab_runtime.errors import NotFound, Rejected, Unavailable

BUCKETS = ("s3", "memory")
"""What a URL may begin with; `memory` is of this process alone, for tests."""
_S3_OPTIONS = {
    # The layer above tries five times already, and whoever asks here tries again anyway.
    "config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 0}},
    # Two services write, and a third throws away: what was listed a minute ago is not what is there.
    "use_listings_cache": False,
}

Removed = Literal["removed", "gone", "newer"]


class Corrupt(Rejected):
    """The bytes at an artifact's place are not the bytes it names."""


class Gone(NotFound):
    """There is no file at an artifact's place; it was written before anyone was told of it, so it has been removed."""


class BadPlace(Rejected):
    """Artifacts cannot be kept where a setting says."""


def home(url: str, data_dir: Path) -> str | Path:
    """Return where artifacts are kept: at `url` (a folder, `s3://bucket/prefix`) or, where that is empty, in `data_dir`.

    Raises:
        BadPlace: it is none where they can be kept.
    """
    if not url:
        return data_dir
    protocol, found, rest = url.partition("://")
    if not found:
        return Path(url)
    if protocol not in BUCKETS or not rest.strip("/"):
        raise BadPlace(
            f"TRIMTAB_ARTIFACTS_URL is {url!r}, where no artifacts can be kept: write a folder or s3://bucket/prefix"
        )
    _filesystem(url)
    return url.rstrip("/")


def put(place: str | Path, content: bytes) -> Artifact:
    """Store `content` at `place` (a folder, or what `home` returned) and return its name.

    Raises:
        Unavailable: it cannot be stored now.
    """
    digest = hashlib.sha256(content).hexdigest()
    uri = _uri(place, digest)
    if isinstance(place, Path):
        _write(Path(uri), content)
        return Artifact(uri=uri, digest=digest, size=len(content))
    try:
        with _outages(uri, "stored"):
            _filesystem(uri).pipe_file(uri, content)
    except FileNotFoundError as error:
        raise Unavailable(f"artifact {uri} cannot be stored, for there is no such bucket: make it") from error
    return Artifact(uri=uri, digest=digest, size=len(content))


def _uri(place: str | Path, digest: str) -> str:
    root = place.absolute() if isinstance(place, Path) else place
    return f"{root}/artifacts/{digest[:2]}/{digest}"


def find(place: str | Path, digest: str) -> Artifact:
    """Return the name of what is stored at `place` by a digest.

    Raises:
        NotFound: nothing is.
        Unavailable: that cannot be seen now.
    """
    uri = _uri(place, digest)
    try:
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise FileNotFoundError(digest)
        if isinstance(place, Path):
            return Artifact(uri=uri, digest=digest, size=Path(uri).stat().st_size)
        files = _filesystem(uri)
        with _outages(uri, "found"):
            return Artifact(uri=uri, digest=digest, size=files.info(uri)["size"])
    except FileNotFoundError as error:
        raise NotFound(f"no file of digest {digest!r} is stored: send it first") from error


def fetch(artifact: Artifact) -> bytes:
    """Return the bytes of `artifact`.

    Raises:
        Corrupt: they are not those that the digest names.
        Gone: there is no such file.
        Unavailable: they cannot be read.
    """
    if not artifact.digest:
        raise Corrupt(f"artifact {artifact.uri!r} is named without a digest: register the version again")
    try:
        content = _read(artifact.uri)
    except FileNotFoundError as error:
        raise Gone(
            f"artifact {artifact.uri} is not there: restore it from a backup, or train again"
        ) from error
    if hashlib.sha256(content).hexdigest() != artifact.digest:
        _check_whole(artifact.uri, len(content))
        raise Corrupt(
            f"artifact {artifact.uri} is not what its digest {artifact.digest[:12]} names: restore it"
        )
    return content


def remove(uri: str, *, older_than_ms: int) -> Removed:
    """Throw away the file at `uri`, unless it was stored, or stored again, at `older_than_ms` (wall clock) or later.

    In a folder whoever stores it meanwhile has it afterwards, whatever the order. A bucket has no such order: what is
    stored there between the look at its time and its end, some milliseconds, is thrown away.

    Raises:
        Unavailable: that cannot be done now.
    """
    if not _in_bucket(uri):
        return _remove(Path(uri), older_than_ms)
    files = _filesystem(uri)
    with _outages(uri, "removed"):
        try:
            if from_datetime(_modified(files, uri)) >= older_than_ms:
                return "newer"
            files.rm_file(uri)
        except FileNotFoundError:
            return "gone"
    return "removed"


def _in_bucket(uri: str) -> bool:
    return uri.partition("://")[0] in BUCKETS and "://" in uri


def _filesystem(uri: str) -> Any:
    """Return what reads and writes at a URL.

    Raises:
        BadPlace: what that takes is not installed.
    """
    protocol = uri.partition("://")[0]
    try:
        return fsspec.filesystem(protocol, **(_S3_OPTIONS if protocol == "s3" else {}))
    except ImportError as error:
        raise BadPlace(
            f"artifacts cannot be kept at {uri!r}, for {error.name or error} is missing: "
            "install trimtab-runtime[s3], or keep them in a folder"
        ) from error


def _modified(files: Any, uri: str) -> Any:
    if uri.startswith("memory://"):
        return files.modified(uri)
    return files.info(uri, refresh=True)["LastModified"]


def _read(uri: str) -> bytes:
    if not _in_bucket(uri):
        try:
            return Path(uri.removeprefix("file://")).read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Unavailable(f"artifact {uri} cannot be read: {error}") from error
    with _outages(uri, "read"):
        content: bytes = _filesystem(uri).cat_file(uri)
    return content


def _check_whole(uri: str, came: int) -> None:
    """Tell an answer that ended as if it were whole, for its connection was cut, from bytes that are wrong."""
    if not _in_bucket(uri):
        return
    with _outages(uri, "read"):
        if came != (size := _filesystem(uri).info(uri)["size"]):
            raise Unavailable(f"artifact {uri} cannot be read: {came} of {size} bytes came")


@contextmanager
def _outages(uri: str, done: str) -> Iterator[None]:
    """Turn the many ways in which a bucket is away into `Unavailable`."""
    try:
        yield
    except (FileNotFoundError, Unavailable):
        raise
    except Exception as error:  # of s3fs, botocore, aiohttp and asyncio, which have no base in common
        raise Unavailable(
            f"artifact {uri} cannot be {done}: {type(error).__name__} {error}".strip()
        ) from error


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).rename(path)
    except OSError as error:
        raise Unavailable(f"artifact {path} cannot be stored: {error}") from error


def _remove(path: Path, older_than_ms: int) -> Removed:
    """Throw a file away; it is out of the way first, so that what is stored meanwhile is another file."""
    aside = path.with_name(f".{path.name}.removed")
    try:
        if path.stat().st_mtime * 1000 >= older_than_ms:
            return "newer"
        path.rename(aside)
        if aside.stat().st_mtime * 1000 >= older_than_ms:  # stored again after the first look
            aside.rename(path)
            return "newer"
        aside.unlink()
    except FileNotFoundError:
        return "gone"
    except OSError as error:
        raise Unavailable(f"artifact {path} cannot be removed: {error}") from error
    return "removed"
