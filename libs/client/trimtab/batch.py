"""Answers the rows of a file, each once, whatever is interrupted.

One version answers all of them. What a row's views say is joined point in time: from
the archive where that is whole, and of newer rows from what serving has online, as if
they had been asked one by one. A part of the answers and how far it goes are kept
together: whoever goes on cuts off what was written after that, so no row is twice or
missing. A row that cannot be read has its place among the answers, with the reason.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray
from trimtab_contracts.registry.v1.registry_pb2 import Deployment, VersionRef
from trimtab_core import specs
from trimtab_core.asking import Asking, NotARow
from trimtab_core.contract import compile_contract, entity_text
from trimtab_core.features import ViewFeature, inputs, required_fields, resolve
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import Conflict, Rejected, Unavailable
from trimtab_runtime.specbook import from_message

from trimtab.client import Trimtab
from trimtab.files import Row
from trimtab.roles import serving
from trimtab.typed import Typing

_MOST_ROWS = 5_000
"""Of a chunk, which is joined by one question and kept as one."""
_MOST_VALUES = 250_000
"""Of views, of a chunk."""
_ASKED_AT_ONCE = 500
"""Rows of one question to serving: others wait no longer for it than for themselves."""
_NOBODY = "\0"
"""An entity of which nothing is known."""
_FORMS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet"}
_COLUMNS = ("row", "prediction", "version", "error")


@dataclass(frozen=True, slots=True)
class Read:
    """A row of a file: what is asked of it, or why nothing can be."""

    number: int
    payload: bytes
    fields: Mapping[str, Any]
    """Cleaned, its timestamps instants; as they stand in the file where they are no row."""
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """What a version said of one row."""

    prediction: float | str
    probabilities: Sequence[float] = ()


class Scorer:
    """One version of a model, and what it takes of a row."""

    def __init__(
        self,
        trimtab: Trimtab,
        model: specs.Model,
        source: specs.Source,
        version: VersionRef,
        views: Mapping[str, specs.FeatureViewSpec],
        tables: Mapping[str, specs.TableSpec],
    ) -> None:
        """`views` and `tables` are those that there are, by name."""
        features = resolve([*version.features, *version.texts], source.spec, views, tables)
        looked_up = [each for each in inputs(features) if isinstance(each, ViewFeature)]
        always = {source.spec.key, source.spec.event_time, model.spec.label.on}
        self.model = model.name
        self.number = version.number
        self.classes = tuple(version.classes)
        self.key = source.spec.key
        self.names = list(dict.fromkeys(f"{each.view}.{each.column}" for each in looked_up))
        """Of the features that are looked up in views."""
        self._trimtab = trimtab
        self._event_time = source.spec.event_time
        self._entities = sorted({name for each in looked_up for name in views[each.view].entities})
        self._asking = Asking(compile_contract(source.spec), always | required_fields(features, views))

    @classmethod
    async def of(cls, trimtab: Trimtab, model: specs.Model, source: specs.Source, number: int = 0) -> Self:
        """Return a warm version of a model, the champion if no other is asked for.

        Raises:
            Conflict: there is none, or it is not warm.
        """
        _, version = await warm_version(trimtab, model.name, number)
        resources = [
            from_message(each) for kind in ("FeatureView", "Table") for each in await trimtab.resources(kind)
        ]
        views = {each.name: each.spec for each in resources if isinstance(each, specs.FeatureView)}
        tables = {each.name: each.spec for each in resources if isinstance(each, specs.Table)}
        return cls(trimtab, model, source, version, views, tables)

    @property
    def most_rows(self) -> int:
        """How many rows are answered as one."""
        return max(1, min(_MOST_ROWS, _MOST_VALUES // max(1, len(self.names))))

    def read(self, row: Row, typing: Typing) -> Read:
        """Return a row of a file, or what is wrong with it."""
        fields, payload = typing.typed(row, "")
        try:
            return Read(row.number, payload, self._asking.read(payload))
        except NotARow as error:
            return Read(row.number, payload, fields, str(error))

    async def answer(self, rows: Sequence[Read]) -> list[Said]:
        """Return what the version says of rows, none of which is at fault.

        Raises:
            Unavailable: a service is away, or neither the archive nor what is online can answer for a row's time yet.
        """
        said: list[Said | None] = [None] * len(rows)
        at = np.array([row.fields[self._event_time] for row in rows], np.int64)
        given, until_ms = await self._joined(rows, at)
        archived = at <= until_ms
        for is_archived in (True, False):
            places = np.flatnonzero(archived == is_archived)
            for start in range(0, len(places), _ASKED_AT_ONCE):
                part = places[start : start + _ASKED_AT_ONCE]
                values = {name: column[part] for name, column in given.items()} if is_archived else None
                found = await self._ask([rows[place] for place in part], values, at[part], until_ms)
                for place, each in zip(part, found, strict=True):
                    said[place] = each
        return [each for each in said if each is not None]

    async def _joined(
        self, rows: Sequence[Read], at: NDArray[np.int64]
    ) -> tuple[Mapping[str, NDArray[np.float64]], int]:
        """Return what the archive says of views, and up to when it is whole; all is online where no view is looked up."""
        if not self.names or not rows:
            return {}, -1
        entities = {
            name: [_NOBODY if (value := row.fields.get(name)) is None else value for row in rows]
            for name in self._entities
        }
        return await self._trimtab.join_features(self.names, entities, at.tolist())

    async def _ask(
        self,
        rows: Sequence[Read],
        given: Mapping[str, NDArray[np.float64]] | None,
        at: NDArray[np.int64],
        until_ms: int,
    ) -> list[Said]:
        answer = await self._trimtab.predict(
            self.model, [row.payload for row in rows], version=self.number, given=given, timeout=60.0
        )
        if given is None and answer.HasField("features_until"):
            online_ms = from_timestamp(answer.features_until)
            if (old := int(at.min())) <= online_ms:
                # What is online is of now: the windows of older rows may be gone from it.
                raise Unavailable(
                    f"row {rows[int(at.argmin())].number} is of {iso(old)}, and the archive stands at {iso(until_ms)}"
                )
        width = len(answer.class_names)
        predictions: Sequence[float | str] = answer.classes or answer.predictions
        return [
            Said(prediction, answer.probabilities[width * place : width * (place + 1)])
            for place, prediction in enumerate(predictions)
        ]


async def warm_version(trimtab: Trimtab, model: str, number: int) -> tuple[Deployment, VersionRef]:
    """Return the wanted state of a model, and a version of it that serves: the champion, if `number` is 0.

    Raises:
        Conflict: there is none, or it is not warm.
    """
    deployment = await trimtab.deployment(model)
    warm = serving(deployment)
    if number == 0 and "champion" in warm:
        return deployment, warm["champion"]
    for version in warm.values():
        if version.number == number:
            return deployment, version
    listed = ", ".join(str(each.number) for each in warm.values()) or "none"
    said = (
        f"version {number} of model {model!r} does not serve"
        if number
        else f"model {model!r} has no champion"
    )
    raise Conflict(f"{said}, and warm are {listed}: see `trimtab versions {model}`")


@dataclass(slots=True)
class Part:
    """How far the answers of a file go, and where they are until all are there: `OUTPUT.part` and `OUTPUT.job`."""

    output: Path
    asked: Mapping[str, Any]
    """What is done here: a part of anything else is not gone on with."""
    version: int = 0
    """The one that answers all rows; 0 until it is known."""
    rows: int = 0
    """The answers of all rows up to this number are there,"""
    bytes: int = 0
    """in so many bytes."""
    refused: int = 0
    """Rows that could not be read."""
    found: list[str] = field(default_factory=list)
    """What was wrong with the first of those."""

    @classmethod
    def begin(cls, output: Path, asked: Mapping[str, Any]) -> Self:
        """Return the part of an output, of an earlier command if it did the same.

        Raises:
            Conflict: what is there is a part of something else.
        """
        new = cls(output, asked)
        try:
            kept = json.loads(new.job.read_text())
            held = cls(output, kept.pop("asked"), **kept)
        except FileNotFoundError:
            return new
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Conflict(f"{new.job} cannot be read ({error}): remove it to begin anew") from error
        if held.asked != asked:
            other = [name for name, value in asked.items() if held.asked.get(name) != value]
            raise Conflict(
                f"{new.job} is of an unfinished command with another {', '.join(other)}: run that one again, or remove the "
                "file to begin anew"
            )
        return held

    @property
    def job(self) -> Path:
        """Where it is kept how far they go."""
        return self.output.with_name(f"{self.output.name}.job")

    @property
    def path(self) -> Path:
        """Where the answers are."""
        return self.output.with_name(f"{self.output.name}.part")

    def add(self, answers: pa.Table, rows: int) -> None:
        """Keep the answers up to row `rows`, whole or not at all."""
        self.path.touch()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, answers.schema) as writer:
            writer.write_table(answers)
        with self.path.open("r+b") as file:
            file.truncate(self.bytes)  # of what a crash left behind it
            file.seek(self.bytes)
            file.write(sink.getvalue())
            file.flush()
            os.fsync(file.fileno())
            self.bytes = file.tell()
        self.rows = rows
        new = self.job.with_name(f"{self.job.name}.new")
        kept = {name: value for name, value in asdict(self).items() if name != "output"}
        new.write_text(json.dumps(kept) + "\n")
        os.replace(new, self.job)

    def finish(self, schema: pa.Schema) -> None:
        """Put the output in its place, whole, and remove the part."""
        new = self.output.with_name(f"{self.output.name}.new")
        _WRITERS[form_of(self.output)](new, schema, self._tables())
        os.replace(new, self.output)
        self.path.unlink(missing_ok=True)
        self.job.unlink(missing_ok=True)

    def _tables(self) -> Iterator[pa.Table]:
        if not self.bytes:
            return
        with pa.memory_map(str(self.path)) as file:
            while file.tell() < self.bytes:
                yield pa.ipc.open_stream(file).read_all()


def form_of(output: Path) -> str:
    """Return how an output is written: csv, jsonl or parquet, as its name says.

    Raises:
        Rejected: it says none of them, or there is no such folder.
    """
    if not output.parent.is_dir():
        raise Rejected(f"there is no folder {output.parent}: make it, or name another --output")
    if (form := _FORMS.get(output.suffix.lower())) is None:
        raise Rejected(
            f"--output {output.name!r} says no format that is written: call it .csv, .jsonl or .parquet"
        )
    return form


def schema_of(scorer: Scorer) -> pa.Schema:
    """Return the columns of the answers: the row's number and key, what was said by which version, and what was wrong."""
    key = scorer.key if scorer.key not in _COLUMNS else "key"
    said = pa.string() if scorer.classes else pa.float64()
    return pa.schema(
        [
            ("row", pa.int64()),
            (key, pa.string()),
            ("prediction", said),
            *((f"probability.{name}", pa.float64()) for name in scorer.classes),
            ("version", pa.int64()),
            ("error", pa.string()),
        ]
    )


def answers_of(scorer: Scorer, rows: Sequence[Read], said: Iterable[Said]) -> pa.Table:
    """Return the answers of some rows of a file, in their order; `said` is of those that could be read."""
    answers = iter(said)
    found = [None if row.fault else next(answers) for row in rows]
    keys = [row.fields.get(scorer.key) for row in rows]
    columns: list[Any] = [
        [row.number for row in rows],
        [
            None if key is None else str(key) if isinstance(key, list | dict) else entity_text(key)
            for key in keys
        ],
        [each and each.prediction for each in found],
        *([each and each.probabilities[at] for each in found] for at in range(len(scorer.classes))),
        [each and scorer.number for each in found],
        [row.fault or None for row in rows],
    ]
    schema = schema_of(scorer)
    return pa.table(
        [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)], schema=schema
    )


def chunks(rows: Iterable[Row], scorer: Scorer, typing: Typing, after: int) -> Iterator[list[Read]]:
    """Yield the rows behind row `after`, as many at a time as are answered as one."""
    wanted = (scorer.read(row, typing) for row in rows if row.number > after)
    while chunk := list(islice(wanted, scorer.most_rows)):
        yield chunk


def _write_csv(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    with pa.csv.CSVWriter(path, schema, write_options=pa.csv.WriteOptions(quoting_style="needed")) as writer:
        for table in tables:
            writer.write_table(table)


def _write_jsonl(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    with path.open("w") as file:
        for table in tables:
            for row in table.to_pylist():
                file.write(
                    json.dumps({name: value for name, value in row.items() if value is not None}) + "\n"
                )


def _write_parquet(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    with pq.ParquetWriter(path, schema) as writer:
        for table in tables:
            writer.write_table(table)


_WRITERS = {"csv": _write_csv, "jsonl": _write_jsonl, "parquet": _write_parquet}
