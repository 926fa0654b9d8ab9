"""The columns of the archive: one table for each source, and one of all predictions.

A row keeps what it was sent as, next to when it happened, when it arrived and its
place on its topic. An event that no longer fits its source's contract is archived
all the same, with nulls where it does not fit: the archive loses no row.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from trimtab_contracts.serving.v1.serving_pb2 import PredictionBatch
from trimtab_core.specs import SourceSpec
from trimtab_runtime.clock import iso

from trimtab_feature_store.decoding import RowDecoder
from trimtab_feature_store.rows import Rows

PREDICTIONS = "predictions"

_ARROW: dict[str, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "timestamp": pa.string(),
}
_PLACE = [
    pa.field("event_time_ms", pa.int64()),
    pa.field("arrived_at_ms", pa.int64()),
    pa.field("id", pa.string()),
    pa.field("partition", pa.int32()),
    pa.field("offset", pa.int64()),
]
_TAKEN = frozenset(field.name for field in _PLACE)


def events_table(source: str) -> str:
    """Return the name of the table of a source's events."""
    return f"events/{source}"


def column_of(field: str) -> str:
    """Return the column of a contract's field; a field named like one of ours gets another name."""
    return f"row_{field}" if field in _TAKEN else field


class EventTable:
    """How the rows of one source become columns."""

    def __init__(self, source: SourceSpec) -> None:
        self._decoder = RowDecoder(source, source.fields)
        self.schema = pa.schema(
            [*((column_of(name), _ARROW[kind]) for name, kind in self._decoder.types.items()), *_PLACE]
        )

    def batch(self, rows: Rows, partition: int | NDArray[np.int32]) -> pa.RecordBatch:
        """Return `rows` of one partition of events.<source>, or each of its own, as columns."""
        columns: list[Any] = [
            pa.array(
                list(map(_time_text, values)) if self._decoder.types[name] == "timestamp" else values, kind
            )
            for (name, values), kind in zip(
                self._decoder.columns(rows.payloads).items(), self.schema.types, strict=False
            )
        ]
        columns += [
            pa.array(rows.event_time_ms),
            pa.array(rows.arrived_at_ms),
            pa.array(rows.ids, pa.string()),
            pa.array(np.broadcast_to(np.asarray(partition, np.int32), (len(rows),)).copy()),
            pa.array(rows.offsets, pa.int64()),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def _time_text(value: Any) -> Any:
    """Return a time as it was written; one that was a number of milliseconds as the text of that instant."""
    if not isinstance(value, float):
        return value
    try:
        return iso(int(value))
    except (ValueError, OverflowError, OSError):
        return str(int(value))


_ROW_COLUMNS = (
    "keys", "event_time_ms", "answered_ms", "champion", "challenger", "challenger_answered", "latency_us",
    "features_until_ms",
)  # fmt: skip
_OTHER = pa.struct(
    [
        pa.field("version", pa.int64()),
        pa.field("said", pa.float64()),
        pa.field("probabilities", pa.list_(pa.float64())),
        pa.field("answered", pa.bool_()),
    ]
)
"""What a version on trial beside the challenger said, in an A/B test of several."""
PREDICTIONS_SCHEMA = pa.schema(
    [
        pa.field("model", pa.string()),
        pa.field("instance", pa.string()),
        pa.field("batch_id", pa.string()),
        pa.field("id", pa.string()),
        pa.field("key", pa.string()),
        pa.field("event_time_ms", pa.int64()),
        pa.field("answered_ms", pa.int64()),
        pa.field("champion_version", pa.int64()),
        pa.field("challenger_version", pa.int64()),
        pa.field("rollout_id", pa.string()),
        pa.field("generation", pa.int64()),
        pa.field("champion", pa.float64()),
        pa.field("challenger", pa.float64()),
        pa.field("challenger_answered", pa.bool_()),
        pa.field("latency_us", pa.int32()),
        pa.field("feature_names", pa.list_(pa.string())),
        pa.field("features", pa.list_(pa.float64())),
        pa.field("text_names", pa.list_(pa.string())),
        pa.field("texts", pa.list_(pa.string())),
        pa.field("classes", pa.list_(pa.string())),
        pa.field("champion_probabilities", pa.list_(pa.float64())),
        pa.field("challenger_probabilities", pa.list_(pa.float64())),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("others", pa.list_(_OTHER)),
        pa.field("features_until_ms", pa.int64()),
    ]
)
"""One row a prediction."""


class Uneven(ValueError):
    """The columns of a batch of predictions are not of one length."""


def predictions_batch(batch: PredictionBatch, partition: int, offset: int) -> pa.RecordBatch:
    """Return one record of `predictions` as columns.

    Raises:
        Uneven: its columns are not of one length.
    """
    rows, width = len(batch.ids), len(batch.feature_names)
    for name in _ROW_COLUMNS:
        if len(getattr(batch, name)) not in (0, rows):
            raise Uneven(f"batch {batch.id} has {rows} ids and {len(getattr(batch, name))} of {name}")
    if len(batch.features) != rows * width:
        raise Uneven(f"batch {batch.id} has {rows} rows of {width} features and {len(batch.features)} values")
    if len(batch.texts) != rows * len(batch.text_names):
        raise Uneven(
            f"batch {batch.id} has {rows} rows of {len(batch.text_names)} texts and {len(batch.texts)} values"
        )
    classes = len(batch.classes)
    for name in ("champion_probabilities", "challenger_probabilities"):
        if len(getattr(batch, name)) not in (0, rows * classes):
            raise Uneven(
                f"batch {batch.id} has {rows} rows of {classes} classes and {len(getattr(batch, name))} of {name}"
            )
    for other in batch.others:
        lengths = (len(other.said), len(other.answered), len(other.probabilities))
        if lengths != (rows, rows, rows * classes):
            raise Uneven(
                f"batch {batch.id} has {rows} rows of {classes} classes and of version {other.version} {lengths}"
            )

    def others(at: int) -> list[dict[str, Any]]:
        return [
            {
                "version": other.version,
                "said": other.said[at],
                "probabilities": list(other.probabilities[at * classes : at * classes + classes]),
                "answered": other.answered[at],
            }
            for other in batch.others
        ]

    def lists(values: Any, each: int, kind: pa.DataType) -> pa.Array:
        """Return `values`, row by row, as a list of `each` a row; null where there ought to be some and are none."""
        if each and not len(values):
            return pa.nulls(rows, pa.list_(kind))
        starts = pa.array(np.arange(rows + 1, dtype=np.int32) * each)
        return pa.ListArray.from_arrays(starts, pa.array(list(values), kind))

    def each(value: Any, kind: pa.DataType) -> pa.Array:
        return pa.repeat(pa.scalar(value, kind), rows)

    def column(values: Any, kind: pa.DataType) -> pa.Array:
        return pa.array(list(values), kind) if len(values) else pa.nulls(rows, kind)

    return pa.RecordBatch.from_arrays(
        [
            each(batch.model, pa.string()),
            each(batch.instance, pa.string()),
            each(batch.id, pa.string()),
            pa.array(list(batch.ids), pa.string()),
            column(batch.keys, pa.string()),
            column(batch.event_time_ms, pa.int64()),
            column(batch.answered_ms, pa.int64()),
            each(batch.champion_version, pa.int64()),
            each(batch.challenger_version or None, pa.int64()),
            each(batch.rollout_id or None, pa.string()),
            each(batch.generation, pa.int64()),
            column(batch.champion, pa.float64()),
            column(batch.challenger, pa.float64()),
            column(batch.challenger_answered, pa.bool_()),
            column(batch.latency_us, pa.int32()),
            lists(list(batch.feature_names) * rows, width, pa.string()),
            lists(batch.features, width, pa.float64()),
            lists(list(batch.text_names) * rows, len(batch.text_names), pa.string()),
            lists(batch.texts, len(batch.text_names), pa.string()),
            lists(list(batch.classes) * rows, classes, pa.string()),
            lists(batch.champion_probabilities, classes, pa.float64()),
            lists(batch.challenger_probabilities, classes, pa.float64()),
            each(partition, pa.int32()),
            each(offset, pa.int64()),
            pa.array([others(at) for at in range(rows)], pa.list_(_OTHER))
            if batch.others
            else pa.nulls(rows, pa.list_(_OTHER)),
            column([at or None for at in batch.features_until_ms], pa.int64()),
        ],
        schema=PREDICTIONS_SCHEMA,
    )
