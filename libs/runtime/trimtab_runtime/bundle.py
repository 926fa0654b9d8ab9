"""One version of a model with all that it takes to answer, in one file: what `trimtab model export` writes and serving reads.

A bundle is a zip of a manifest, the artifacts by digest, and the records of `specs`,
`deployments`, `features.*` and `tables.*` that serving would have heard. The manifest
names every part with its digest, and the signature is of the manifest: HMAC-SHA256,
by a key that who makes and who serves the bundle share. Nothing of a bundle is used
before all of it has been checked.
"""

import hashlib
import hmac
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from trimtab_runtime.clock import iso, parse_iso
from trimtab_runtime.errors import NotFound, Rejected

_FORMAT = 1
_MANIFEST, _SIGNATURE = "manifest.json", "signature"
_ARTIFACTS, _RECORDS = "artifacts/", "records/"
_LEAST_KEY_BYTES = 16


class BadBundle(Rejected):
    """A bundle is not what was signed, or cannot be read; it says which part."""

    def __init__(self, path: Path, sentence: str) -> None:
        super().__init__(f"bundle {path}: {sentence}")


class Record(NamedTuple):
    """A record as it is on its topic."""

    topic: str
    partition: int
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Bundle:
    """What answers for one model with nothing else around."""

    model: str
    version: int
    made_ms: int
    """Wall clock."""
    features_until_ms: int | None
    """The watermark of its features of views; None where it takes none."""
    records: Sequence[Record]
    artifacts: Mapping[str, bytes]
    """By sha256."""
    digest: str = ""
    """Of the manifest, and so of all; empty until it is written."""


def key_in(path: Path) -> bytes:
    """Return the key that a file holds.

    Raises:
        NotFound: there is no such file.
        Rejected: it is too short to be a key.
    """
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise NotFound(f"the key {path} cannot be read ({error.strerror}): mend its name") from error
    if len(key) < _LEAST_KEY_BYTES:
        raise Rejected(
            f"the key in {path} has {len(key)} bytes, and {_LEAST_KEY_BYTES} are the least: make one with `openssl rand -hex 32`"
        )
    return key


def write(path: Path, bundle: Bundle, key: bytes | None) -> None:
    """Write a bundle, signed if there is a key, whole or not at all."""
    by_topic: dict[str, list[Record]] = {}
    for record in bundle.records:
        by_topic.setdefault(record.topic, []).append(record)
    parts = {f"{_ARTIFACTS}{digest}": content for digest, content in bundle.artifacts.items()}
    parts |= {f"{_RECORDS}{topic}": msgspec.msgpack.encode(found) for topic, found in by_topic.items()}
    manifest = msgspec.json.encode(
        {
            "format": _FORMAT,
            "model": bundle.model,
            "version": bundle.version,
            "made_at": iso(bundle.made_ms),
            "features_until": None if bundle.features_until_ms is None else iso(bundle.features_until_ms),
            "parts": {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()},
        }
    )
    new = path.with_name(f"{path.name}.new")
    with zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(_MANIFEST, manifest)
        if key is not None:
            file.writestr(_SIGNATURE, _signature(manifest, key))
        for name, content in parts.items():
            file.writestr(name, content)
    new.replace(path)


def read(path: Path, key: bytes | None) -> Bundle:
    """Return a bundle, once its signature and every part of it have been checked; without a key only the parts are.

    Raises:
        NotFound: there is no such file.
        BadBundle: it is no bundle, is not signed by the key, or a part of it is not what the manifest names.
    """
    try:
        with zipfile.ZipFile(path) as file:
            manifest = _part(path, file, _MANIFEST)
            if key is not None:
                _check(path, file, manifest, key)
            named = _manifest(path, manifest)
            parts = _parts(path, file, named["parts"])
    except FileNotFoundError as error:
        raise NotFound(f"there is no bundle {path}: mend its name") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise BadBundle(path, f"it cannot be read ({error}): get it anew") from error
    records = [
        record
        for name, content in parts.items()
        if name.startswith(_RECORDS)
        for record in msgspec.msgpack.decode(content, type=list[Record])
    ]
    return Bundle(
        named["model"],
        named["version"],
        parse_iso(named["made_at"]),
        None if named["features_until"] is None else parse_iso(named["features_until"]),
        records,
        {name.removeprefix(_ARTIFACTS): part for name, part in parts.items() if name.startswith(_ARTIFACTS)},
        hashlib.sha256(manifest).hexdigest(),
    )


def _signature(manifest: bytes, key: bytes) -> str:
    return hmac.new(key, manifest, hashlib.sha256).hexdigest()


def _check(path: Path, file: zipfile.ZipFile, manifest: bytes, key: bytes) -> None:
    if _SIGNATURE not in file.namelist():
        raise BadBundle(path, "it is not signed: export it with --key, or serve it with --unsigned")
    if not hmac.compare_digest(_part(path, file, _SIGNATURE), _signature(manifest, key).encode()):
        raise BadBundle(
            path,
            f"its {_MANIFEST} is not what was signed with this key: get it anew, or give the key it was made with",
        )


def _manifest(path: Path, manifest: bytes) -> dict[str, Any]:
    try:
        named: dict[str, Any] = msgspec.json.decode(manifest, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise BadBundle(path, f"its {_MANIFEST} cannot be read ({error}): get it anew") from error
    if named.get("format") != _FORMAT:
        raise BadBundle(
            path,
            f"it is of format {named.get('format')!r}, and {_FORMAT} is read here: export it with the same release",
        )
    return named


def _parts(path: Path, file: zipfile.ZipFile, digests: Mapping[str, str]) -> dict[str, bytes]:
    names = [name for name in file.namelist() if name not in (_MANIFEST, _SIGNATURE)]
    if extra := sorted(set(names) - set(digests)):
        raise BadBundle(path, f"part {extra[0]} is not among those that were signed: get it anew")
    found = {}
    for name, digest in digests.items():
        content = _part(path, file, name)
        if hashlib.sha256(content).hexdigest() != digest:
            raise BadBundle(path, f"part {name} is not what was signed: get it anew")
        found[name] = content
    return found


def _part(path: Path, file: zipfile.ZipFile, name: str) -> bytes:
    try:
        return file.read(name)
    except KeyError as error:
        raise BadBundle(path, f"part {name} is missing: get it anew") from error
    except (zipfile.BadZipFile, zlib.error) as error:
        raise BadBundle(path, f"part {name} is damaged ({error}): get it anew") from error
