"""Bundles: what comes out is what went in, and nothing comes out of one that was tampered with."""

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from trimtab_runtime import bundle
from trimtab_runtime.bundle import BadBundle, Bundle, Record
from trimtab_runtime.errors import NotFound, Rejected

KEY = b"0123456789abcdef"
MODEL = b"an ONNX file"
DIGEST = hashlib.sha256(MODEL).hexdigest()
MADE = Bundle(
    "minutes",
    3,
    1_700_000_000_000,
    1_600_000_000_000,
    [Record("specs", 0, b"Model/minutes", b"{}"), Record("features.speed", 1, b"k", b"v")],
    {DIGEST: MODEL},
)


def written(directory: Path, key: bytes | None = KEY) -> Path:
    path = directory / "minutes.bundle"
    bundle.write(path, MADE, key)
    return path


def changed(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """Write a bundle anew with other parts, as somebody would who can write zips."""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    change(parts)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)
    return path


@pytest.mark.parametrize("key", [KEY, None])
def test_what_comes_out_is_what_went_in(tmp_path: Path, key: bytes | None) -> None:
    found = bundle.read(written(tmp_path, key), key)

    assert replace(found, digest="") == MADE
    assert len(found.digest) == 64


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (f"artifacts/{DIGEST}", b"another ONNX file", f"part artifacts/{DIGEST} is not what was signed"),
        ("records/specs", b"\x90", "part records/specs is not what was signed"),
        ("records/tables.zones", b"\x90", "part records/tables.zones is not among those that were signed"),
        ("manifest.json", b"{}", "its manifest.json is not what was signed with this key"),
        ("signature", b"0" * 64, "its manifest.json is not what was signed with this key"),
    ],
)
def test_a_part_that_was_changed_or_added_is_named(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    path = changed(written(tmp_path), lambda parts: parts.update({name: content}))

    with pytest.raises(BadBundle, match=sentence):
        bundle.read(path, KEY)


def test_a_part_that_was_taken_out_is_named(tmp_path: Path) -> None:
    path = changed(written(tmp_path), lambda parts: parts.pop("records/specs") and None)

    with pytest.raises(BadBundle, match="part records/specs is missing"):
        bundle.read(path, KEY)


def test_a_bit_that_rotted_is_found_where_it_is(tmp_path: Path) -> None:
    path = written(tmp_path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        at = file.getinfo(f"artifacts/{DIGEST}").header_offset
    content[at + 30 + len(f"artifacts/{DIGEST}") + 3] ^= 1
    path.write_bytes(content)

    with pytest.raises(BadBundle, match=f"part artifacts/{DIGEST} is"):
        bundle.read(path, KEY)


def test_one_that_is_not_signed_or_by_another_key_is_served_only_if_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadBundle, match="not what was signed with this key"):
        bundle.read(written(tmp_path), b"another key, as long")
    with pytest.raises(
        BadBundle, match="it is not signed: export it with --key, or serve it with --unsigned"
    ):
        bundle.read(written(tmp_path, None), KEY)

    assert bundle.read(written(tmp_path), None).version == 3


def test_what_is_no_bundle_is_told_in_a_sentence(tmp_path: Path) -> None:
    rubbish = tmp_path / "rubbish"
    rubbish.write_bytes(b"rubbish")

    with pytest.raises(BadBundle, match="it cannot be read"):
        bundle.read(rubbish, KEY)
    with pytest.raises(NotFound, match="there is no bundle"):
        bundle.read(tmp_path / "none", KEY)


def test_a_bundle_of_a_later_format_asks_for_the_same_release(tmp_path: Path) -> None:
    path = changed(written(tmp_path, None), lambda parts: parts.update({"manifest.json": b'{"format": 2}'}))

    with pytest.raises(BadBundle, match="it is of format 2, and 1 is read here"):
        bundle.read(path, None)


def test_a_key_is_long_enough_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("secret\n")

    with pytest.raises(Rejected, match="has 6 bytes, and 16 are the least"):
        bundle.key_in(path)
    with pytest.raises(NotFound, match="cannot be read"):
        bundle.key_in(tmp_path / "none")
