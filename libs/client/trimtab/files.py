"""Reads a user's file row by row: CSV, JSONL or Parquet, plain or gzipped, in bounded memory.

Rows are numbered from 1 in the order of the file, the same each time it is read; an
empty line is no row. Values are as the file has them: a CSV cell is a text, or None
where it is empty.
"""

import codecs
import csv
import gzip
import hashlib
import io
import os
import re
import select
import sys
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from trimtab_contracts.topics import MOST_ROW_BYTES
from trimtab_core.contract import UNDECODABLE
from trimtab_runtime.errors import NotFound, Rejected

Format = Literal["csv", "jsonl", "parquet"]
STDIN = "-"
_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_DELIMITERS = ",;\t|"
_SNIFFED = 65_536
_PIPE_S = 0.2
_BATCH_ROWS = 2_000


class BadFile(Rejected):
    """A file cannot be read, or not to its end."""

    def __init__(self, path: str, sentence: str) -> None:
        super().__init__(f"{path}: {sentence}")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file."""

    number: int
    """From 1."""
    fields: dict[str, Any] | None
    """By column; None where the line is no row."""
    line: bytes = b""
    """As it stands in the file, if that is JSON; the cells as JSON where `fields` is None."""


class File:
    """One file, or standard input, and how to read it."""

    def __init__(self, path: str, format: str = "", *, encoding: str = "utf-8") -> None:
        """Tell the format by the name where none is given; `-` is JSONL on standard input.

        Raises:
            NotFound: there is no such file.
            Rejected: its format cannot be told, or is none that is read.
        """
        self.path = path
        self.is_stdin = path == STDIN
        place = Path(path)
        if not self.is_stdin and not place.is_file():
            raise NotFound(f"there is no file {path!r}: mend its name")
        self._zipped = place.suffix == ".gz"
        suffix = Path(place.stem).suffix if self._zipped else place.suffix
        found = format or ("jsonl" if self.is_stdin else _SUFFIXES.get(suffix.lower(), ""))
        if found not in ("csv", "jsonl", "parquet") or (found == "parquet" and self._zipped):
            said = f"--format {format!r}" if format else f"the name {place.name!r}"
            raise Rejected(f"{said} says no format that is read: give --format csv, jsonl or parquet")
        if self.is_stdin and found != "jsonl":
            raise Rejected(
                f"standard input is read as JSONL, not as {found}: write to a file first, and name that"
            )
        self.format = found
        self.size = 0 if self.is_stdin else place.stat().st_size
        """Bytes in the file; 0 for standard input."""
        self.position = 0
        """How many of them have been read."""
        try:
            self._encoding = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
        except LookupError as error:
            raise Rejected(
                f"--encoding {encoding!r} is none that is known: write one such as latin-1"
            ) from error
        self.delimiter = self._sniff() if self.format == "csv" and not self.is_stdin else ","
        self._pipe = _Pipe(sys.stdin.fileno()) if self.is_stdin else None

    @property
    def decimal_comma(self) -> bool:
        """Whether `2,6` is a number here: where the comma does not part the cells."""
        return self.delimiter in (";", "\t")

    def digest(self) -> str:
        """Return the sha256 of the file's bytes."""
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def idle(self) -> bool:
        """Whether the next row may be long in coming, as on a pipe that nobody writes to now."""
        return self._pipe is not None and self._pipe.idle()

    def stop(self) -> None:
        """Let no reader wait for a pipe any more: it ends here."""
        if self._pipe is not None:
            self._pipe.stopped = True

    def rows(self) -> Iterator[Row]:
        """Read the rows, in order.

        Raises:
            BadFile: something in it cannot be read; it says where, and the rows before that have been given.
        """
        try:
            if self.format == "parquet":
                yield from self._parquet()
            elif self.format == "csv":
                yield from self._csv()
            else:
                yield from self._jsonl()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise BadFile(self.path, f"the compressed data is broken ({error}): get the file anew") from error
        except OSError as error:
            raise BadFile(self.path, f"it cannot be read ({error.strerror or error}): mend that") from error

    def _open(self) -> tuple[IO[bytes], IO[bytes]]:
        """Return the bytes as written, and as they are once unzipped."""
        raw: IO[bytes] = open(self.path, "rb")  # noqa: SIM115 - the caller's
        return raw, gzip.open(raw, "rb") if self._zipped else raw  # type: ignore[return-value]

    def _sniff(self) -> str:
        """Return what parts the cells: the mark that the first line has most of."""
        raw, file = self._open()
        with raw:
            head = io.TextIOWrapper(io.BytesIO(file.read(_SNIFFED)), self._encoding, errors="replace")
            first = re.sub(r'"[^"]*"', "", head.readline())
        return max(_DELIMITERS, key=first.count)

    def _csv(self) -> Iterator[Row]:
        csv.field_size_limit(MOST_ROW_BYTES)
        raw, file = self._open()
        with raw, io.TextIOWrapper(file, self._encoding, newline="") as text:
            lines = csv.reader(text, delimiter=self.delimiter)
            try:
                columns = _columns(next(lines, []))
                number = 0
                for cells in lines:
                    if not any(cells):
                        continue
                    number += 1
                    if number % 500 == 0:
                        self.position = raw.tell()
                    yield _of_cells(number, columns, cells)
            except csv.Error as error:
                raise BadFile(self.path, f"line {lines.line_num} is no CSV ({error}): mend it") from error
            except UnicodeDecodeError as error:
                said = f"byte 0x{error.object[error.start]:02x} in it is no {error.encoding}"
                raise BadFile(self.path, f"{said}: say which --encoding it has, such as latin-1") from error
        self.position = self.size

    def _jsonl(self) -> Iterator[Row]:
        if self._pipe is not None:
            yield from self._objects(self._pipe.readline, lambda: 0)
            return
        raw, file = self._open()
        with raw:
            yield from self._objects(file.readline, raw.tell)
        self.position = self.size

    def _objects(self, readline: Callable[[int], bytes], tell: Callable[[], int]) -> Iterator[Row]:
        decode = msgspec.json.Decoder().decode
        for number, line in enumerate(_lines(readline), start=1):
            if number == 1 and line.startswith(b"["):
                raise BadFile(self.path, "it is one JSON array: write an object a line (jq -c '.[]')")
            if number % 500 == 0:
                self.position = tell()
            try:
                fields = decode(line)
            except UNDECODABLE:
                fields = None
            yield Row(number, fields if isinstance(fields, dict) else None, line)

    def _parquet(self) -> Iterator[Row]:
        try:
            with pq.ParquetFile(self.path) as file:
                number, total, names = 0, file.metadata.num_rows, _columns(file.schema_arrow.names)
                for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                    for fields in _in_microseconds(batch).rename_columns(names).to_pylist():
                        number += 1
                        yield Row(number, fields)
                    self.position = self.size * number // total
        except pa.ArrowException as error:
            raise BadFile(self.path, f"it is no Parquet that can be read ({error}): get it anew") from error


class _Pipe:
    """Lines of a pipe, and whether one is there."""

    def __init__(self, file: int) -> None:
        self.stopped = False
        self._file = file
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._ended = False

    def readline(self, most: int) -> bytes:
        """Return the next line, or its first part of `most` bytes or a little more; nothing at the end."""
        while not self._lines and not self._ended:
            if self.stopped:
                return b""
            if self._ready(_PIPE_S):
                self._read()
            if len(self._rest) > most:
                self._lines.append(self._rest)
                self._rest = b""
        return self._lines.popleft() if self._lines else b""

    def idle(self) -> bool:
        """Whether no line is there."""
        return not (self._lines or self._ended or self._ready(0))

    def _ready(self, within_s: float) -> bool:
        return bool(select.select([self._file], [], [], within_s)[0])

    def _read(self) -> None:
        data = os.read(self._file, _SNIFFED)
        self._ended = not data
        lines = (self._rest + data).splitlines(keepends=True)
        self._rest = lines.pop() if lines and data and not lines[-1].endswith(b"\n") else b""
        self._lines += lines


def _lines(readline: Callable[[int], bytes]) -> Iterator[bytes]:
    """Read lines, of a line too long for a row only so much that it can be told to be so."""
    while line := readline(MOST_ROW_BYTES + 1):
        rest = line
        while len(rest) > MOST_ROW_BYTES and not rest.endswith(b"\n"):
            rest = readline(MOST_ROW_BYTES + 1)
        if line := line.removeprefix(codecs.BOM_UTF8).strip():
            yield line


def _columns(names: Sequence[str]) -> list[str]:
    """Return the names of a header's cells, none twice."""
    seen: Counter[str] = Counter()
    found = []
    for name in map(str.strip, names):
        seen[name] += 1
        found.append(f"{name}_{seen[name]}" if name and seen[name] > 1 else name)
    return found


def _of_cells(number: int, columns: Sequence[str], cells: Sequence[str]) -> Row:
    if len(cells) > len(columns) and any(cells[len(columns) :]):
        # Nobody can tell which cell belongs to which column: let the contract refuse it, whole.
        return Row(number, None, msgspec.json.encode(cells))
    fields = {name: cell or None for name, cell in zip_longest(columns, cells[: len(columns)]) if name}
    # What a column without a name holds is kept where it holds something.
    for at, (name, cell) in enumerate(zip(columns, cells, strict=False)):
        if not name and cell:
            fields[f"column_{at + 1}"] = cell
    return Row(number, fields)


def _in_microseconds(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch whose times are no finer than Python's are."""
    for at, field in enumerate(batch.schema):
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            coarse = batch.column(at).cast(pa.timestamp("us", field.type.tz), safe=False)
            batch = batch.set_column(at, field.name, coarse)
    return batch
