"""Features and datasets as a notebook takes them: Arrow, pandas and Parquet files.

A training set is named by what it was made from: the model, the times, and the
versions of the tables. Its digest is that of the rows alone, so that two sets of one
digest are one set, whenever and by whomever they were made.
"""

import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from numpy.typing import NDArray
from trimtab_contracts.features.v1.features_pb2 import ArchivedEvents, EntityColumn, GetOnlineFeaturesResponse
from trimtab_contracts.registry.v1.registry_pb2 import DatasetTag
from trimtab_contracts.training.v1.training_pb2 import RunEvent
from trimtab_core.contract import entity_text
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import Rejected
from trimtab_runtime.onlineview import Status


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a run was trained on, as it is on record; the run's id names it, and so does each of its tags."""

    model: str
    run: str
    rows: int
    from_ms: int
    """Event time of the oldest row that the candidate was fitted to."""
    to_ms: int
    as_of_ms: int
    """The run's: nothing of the rows happened, or arrived, later."""
    tables: Mapping[str, int]
    """The version of each table that it was made from."""
    digest: str
    tags: tuple[str, ...]

    @classmethod
    def of(cls, run: RunEvent, tags: Iterable[DatasetTag]) -> Self:
        """Return the dataset of a run."""
        made = run.candidate
        return cls(
            run.model,
            run.run_id,
            made.rows,
            from_timestamp(made.trained_from),
            from_timestamp(made.trained_to),
            from_timestamp(run.as_of),
            {table.table: table.version for table in made.tables},
            made.dataset_digest,
            tuple(tag.name for tag in tags if tag.run_id == run.run_id),
        )

    def row(self) -> dict[str, Any]:
        """Return it as a row of a table."""
        return {
            "model": self.model,
            "run": self.run,
            "tags": ", ".join(self.tags),
            "rows": self.rows,
            "from": iso(self.from_ms),
            "to": iso(self.to_ms),
            "tables": versions(self.tables),
            "digest": self.digest,
        }


class Rows:
    """Rows that can be had as Arrow or pandas."""

    __slots__ = ()
    _table: pa.Table

    def arrow(self) -> pa.Table:
        """Return the rows."""
        return self._table

    def pandas(self) -> Any:
        """Return the rows as a pandas frame.

        Raises:
            Rejected: pandas is not installed.
        """
        return frame(self._table)


@dataclass(frozen=True, slots=True)
class TrainingSet(Rows):
    """The labelled rows of a model between two times, point in time: key, event_time_ms, the features, label."""

    model: str
    start_ms: int
    end_ms: int
    as_of_ms: int | None
    """Nothing that arrived later was seen; None where everything was."""
    tables: Mapping[str, int]
    """The version of each table that it was made from."""
    digest: str
    rows: int
    rows_without_label: int
    """Left out, for no label came for them within the model's time, or one that is none of the model's classes."""
    _table: pa.Table = field(repr=False)
    rows_of_other_classes: int = 0
    """Of those: the ones whose label is none of the model's classes."""

    def write(self, path: Path) -> None:
        """Write the rows to a Parquet file, with what names them as its metadata `trimtab`.

        Raises:
            Rejected: the file cannot be written.
        """
        named = self.described() | {"tables": dict(self.tables)}
        table = self._table.replace_schema_metadata({"trimtab": json.dumps(named)})
        try:
            pyarrow.parquet.write_table(table, path)
        except OSError as error:
            raise Rejected(f"{path} cannot be written ({error}): name another file") from error

    def described(self) -> dict[str, Any]:
        """Return what names it, as plain data."""
        return {
            "model": self.model,
            "start": iso(self.start_ms),
            "end": iso(self.end_ms),
            "as_of": None if self.as_of_ms is None else iso(self.as_of_ms),
            "rows": self.rows,
            "rows_without_label": self.rows_without_label,
            "rows_of_other_classes": self.rows_of_other_classes,
            "tables": versions(self.tables),
            "digest": self.digest,
        }


@dataclass(frozen=True, slots=True)
class Events(Rows):
    """Archived events of a source, in order of event time: its contract's fields, and event.id, event.time, event.arrived_at."""

    source: str
    version: int | None
    """Of the source's table; None where nothing has been archived."""
    total: int
    """How many there are in the range that was asked for; the rows may be a sample of them."""
    first_ms: int | None
    """Event time of the first one in the range, if there is one."""
    last_ms: int | None
    watermark_ms: int | None
    """All events up to here are archived."""
    _table: pa.Table = field(repr=False)

    @classmethod
    def of(cls, source: str, extent: ArchivedEvents.Extent, stream: bytes) -> Self:
        """Return what an answer holds; `stream` is its rows."""

        def at_ms(name: str) -> int | None:
            return from_timestamp(getattr(extent, name)) if extent.HasField(name) else None  # type: ignore[arg-type]

        return cls(
            source,
            extent.table.version if extent.HasField("table") else None,
            extent.rows,
            at_ms("first"),
            at_ms("last"),
            at_ms("watermark"),
            pa.ipc.open_stream(stream).read_all(),
        )

    @property
    def rows(self) -> int:
        """How many of them are here."""
        return int(self._table.num_rows)


def frame(table: pa.Table) -> Any:
    """Return a table as a pandas frame.

    Raises:
        Rejected: pandas is not installed.
    """
    try:
        importlib.import_module("pandas")
    except ImportError as error:
        raise Rejected("pandas is not installed: `pip install pandas`, or take the rows as Arrow") from error
    return table.to_pandas()


def versions(tables: Mapping[str, int]) -> str:
    """Return the versions of tables as one text, such as events/rides@12."""
    return ", ".join(f"{table}@{version}" for table, version in sorted(tables.items()))


def entity_columns(entities: Mapping[str, Sequence[Any]]) -> list[EntityColumn]:
    """Return entities as a request carries them: as the texts that name them everywhere.

    Raises:
        Rejected: one of them is nothing that an entity could be.
    """
    return [EntityColumn(field=name, values=_texts(name, values)) for name, values in entities.items()]


def _texts(name: str, values: Iterable[Any]) -> list[str]:
    given = [value.item() if isinstance(value, np.generic) else value for value in values]
    if wrong := [value for value in given if not isinstance(value, str | int | float)]:
        raise Rejected(f"entity {wrong[0]!r} of {name!r} names nothing: give texts, numbers or booleans")
    return [entity_text(value) for value in given]


def feature_table(entities: Mapping[str, Sequence[Any]], answer: GetOnlineFeaturesResponse) -> pa.Table:
    """Return an answer as a table: the entities, and of each feature its value (null for none) and `<name>.status`.

    The schema's metadata `trimtab` says of each view up to which hop boundary it was read, how far it has come and how
    long its newest events took.
    """
    width = len(answer.names)
    values = np.array(answer.values).reshape(-1, width)
    statuses = np.frombuffer(answer.statuses, np.uint8).reshape(-1, width)
    words = pa.array([each.name.lower() for each in Status])
    columns: dict[str, Any] = {name: pa.array(list(each)) for name, each in entities.items()}
    for at, name in enumerate(answer.names):
        columns[name] = pa.array(values[:, at], from_pandas=True)
        columns[f"{name}.status"] = pa.DictionaryArray.from_arrays(
            pa.array(statuses[:, at].astype(np.int8)), words
        )
    told = {view.name: _view(view) for view in answer.views}
    return pa.table(columns).replace_schema_metadata({"trimtab": json.dumps(told)})


def _view(view: GetOnlineFeaturesResponse.View) -> dict[str, Any]:
    return {
        "as_of": iso(from_timestamp(view.as_of)),
        "watermark": iso(from_timestamp(view.watermark)) if view.HasField("watermark") else None,
        "freshness_ms": view.freshness_ms if view.HasField("freshness_ms") else None,
    }


def compared(left: pa.Table, right: pa.Table) -> list[dict[str, Any]]:
    """Return how two tables differ, a row for each feature or label of either: type, mean, deviation and share of nulls."""
    names = dict.fromkeys([*left.column_names, *right.column_names])
    return [
        {"column": name, **_shape("left", left, name), **_shape("right", right, name)}
        for name in names
        if name not in ("key", "event_time_ms")
    ]


def _shape(side: str, table: pa.Table, name: str) -> dict[str, Any]:
    if name not in table.column_names:
        return {f"{side} {what}": None for what in ("type", "mean", "std", "nulls")}
    values = _known(table[name])
    return {
        f"{side} type": str(table[name].type),
        f"{side} mean": float(values.mean()) if len(values) else None,
        f"{side} std": float(values.std()) if len(values) else None,
        f"{side} nulls": 1 - len(values) / table.num_rows if table.num_rows else None,
    }


def _known(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return the values of a column that are known; NaN is not."""
    values = np.asarray(pc.cast(column, pa.float64()).to_numpy(), np.float64)
    return values[~np.isnan(values)]
