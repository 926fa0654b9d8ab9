"""What is to be sent and is not yet acknowledged, in append-only files.

Everything that goes to the prediction log is written here first and read back in
order; so a broker that is away, or the end of this process, loses nothing that was
appended. Files are not synced: what a power cut takes is what the system had not
written yet, and a torn end is cut off. What was sent but not yet acknowledged at a
crash is sent again, byte for byte.
"""

import logging
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

log = logging.getLogger(__name__)

_HEAD = struct.Struct("<II")  # length, crc32
_CURSOR = struct.Struct("<QQ")  # segment, offset
_SEGMENT_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Somewhere in the journal."""

    segment: int
    offset: int


class Journal:
    """A bounded queue of byte strings on disk, with one writer and one reader in one thread."""

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        """Open the journal in `directory`, with what an earlier process left in it."""
        self._directory = directory
        self._limit = limit_bytes
        directory.mkdir(parents=True, exist_ok=True)
        *whole, last = [*sorted(directory.glob("*.segment"))] or [self._path(0)]
        self._sizes = {int(path.stem): path.stat().st_size for path in whole}
        self._sizes[int(last.stem)] = _cut_torn_end(last)
        self._cursor_file = os.open(directory / "cursor", os.O_RDWR | os.O_CREAT, 0o644)
        self._acknowledged = self._saved_cursor()
        self._read = self._acknowledged
        self._end = os.open(self._path(max(self._sizes)), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._end)
        os.close(self._cursor_file)

    @property
    def size(self) -> int:
        """Bytes that are not yet acknowledged."""
        held = sum(size for segment, size in self._sizes.items() if segment >= self._acknowledged.segment)
        return held - self._acknowledged.offset

    @property
    def is_empty(self) -> bool:
        """Whether everything has been acknowledged."""
        return self.size == 0

    def append(self, entries: Sequence[bytes]) -> bool:
        """Write `entries`, all or none, and return whether there was room."""
        content = b"".join(_HEAD.pack(len(entry), zlib.crc32(entry)) + entry for entry in entries)
        if self.size + len(content) > self._limit:
            return False
        try:
            if self._sizes[max(self._sizes)] >= _SEGMENT_BYTES:
                self._begin_segment()
            written = os.write(self._end, content)
        except OSError as error:
            log.error("the journal cannot be written: %s", error)
            written = 0
        last = max(self._sizes)
        if written < len(content):
            os.ftruncate(self._end, self._sizes[last])
            return False
        self._sizes[last] += len(content)
        return True

    def read(self, at_most_bytes: int = 1024 * 1024) -> tuple[list[bytes], Place]:
        """Return the next entries after those read before, and the place to acknowledge once they are safe."""
        while True:
            if self._read.offset >= self._sizes[self._read.segment] and self._read.segment < max(self._sizes):
                self._read = Place(min(at for at in self._sizes if at > self._read.segment), 0)
            path, size = self._path(self._read.segment), self._sizes[self._read.segment]
            with path.open("rb") as file:
                file.seek(self._read.offset)
                entries, taken = _parse(file.read(size - self._read.offset), at_most_bytes)
            if entries or self._read.offset == size:
                self._read = Place(self._read.segment, self._read.offset + taken)
                return entries, self._read
            log.error("%s has %d bytes that are no entry: left out", path, size - self._read.offset)
            self._read = Place(self._read.segment, size)

    def rewind(self) -> None:
        """Read again from what was last acknowledged."""
        self._read = self._acknowledged

    def acknowledge(self, place: Place) -> None:
        """Forget what comes before `place`; where that cannot be written down, the next process reads some of it again."""
        self._acknowledged = place
        try:
            os.pwrite(self._cursor_file, _CURSOR.pack(place.segment, place.offset), 0)
        except OSError as error:
            log.error("the journal's cursor cannot be written: %s", error)
        for segment in [at for at in self._sizes if at < place.segment]:
            self._path(segment).unlink()
            del self._sizes[segment]

    def _saved_cursor(self) -> Place:
        """Return what was acknowledged, as far as it is still here."""
        saved = os.read(self._cursor_file, _CURSOR.size)
        place = Place(*_CURSOR.unpack(saved)) if len(saved) == _CURSOR.size else Place(0, 0)
        if place.segment not in self._sizes:
            return Place(min(self._sizes), 0)
        return Place(place.segment, min(place.offset, self._sizes[place.segment]))

    def _begin_segment(self) -> None:
        number = max(self._sizes) + 1
        new = os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.close(self._end)
        self._end, self._sizes[number] = new, 0

    def _path(self, segment: int) -> Path:
        return self._directory / f"{segment:012d}.segment"


def _parse(content: bytes, at_most_bytes: int) -> tuple[list[bytes], int]:
    """Return the whole entries at the beginning of `content`, and how many bytes they take."""
    entries: list[bytes] = []
    at = 0
    while at + _HEAD.size <= len(content) and at < at_most_bytes:
        length, checksum = _HEAD.unpack_from(content, at)
        entry = content[at + _HEAD.size : at + _HEAD.size + length]
        if not length or len(entry) < length or zlib.crc32(entry) != checksum:
            break
        entries.append(entry)
        at += _HEAD.size + length
    return entries, at


def _cut_torn_end(path: Path) -> int:
    """Cut off what is no whole entry at the end of a segment, and return its size."""
    content = path.read_bytes() if path.exists() else b""
    _, whole = _parse(content, len(content))
    if whole < len(content):
        log.warning("%s ends in %d bytes that are no entry: cut off", path, len(content) - whole)
        os.truncate(path, whole)
    return whole
