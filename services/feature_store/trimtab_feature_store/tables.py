"""The columns of the archive: one table for each source, and one of all predictions.

A row keeps what it was sent as, next to when it happened, when it arrived and its
place on its topic. An event that no longer fits its source's contract is archived
all the same, with nulls where it does not fit: the archive loses no row.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa
from trimtab_contracts.serving.v1.serving_pb2 import PredictionBatch
from trimtab_core.specs import SourceSpec

from trimtab_feature_store.rows import Rows

PREDICTIONS = "predictions"

_INT64 = msgspec.Meta(ge=-(2**63), le=2**63 - 1)
_TYPES: dict[str, tuple[Any, pa.DataType]] = {
    "string": (str | None, pa.string()),
    "integer": (Annotated[int, _INT64] | None, pa.int64()),
    "number": (float | None, pa.float64()),
    "boolean": (bool | None, pa.bool_()),
    "timestamp": (str | int | float | None, pa.string()),
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
        self._fields = {name: _TYPES[field.type] for name, field in source.fields.items()}
        # Attributes get names of our own: a field may be called like a keyword.
        attributes = {f"f{number}": name for number, name in enumerate(self._fields)}
        row = msgspec.defstruct(
            "Row",
            [(attribute, self._fields[name][0], None) for attribute, name in attributes.items()],
            rename=attributes,
        )
        self._attributes = list(attributes)
        self._decoder = msgspec.json.Decoder(list[row])  # type: ignore[valid-type]
        self.schema = pa.schema([*((column_of(name), kind) for name, (_, kind) in self._fields.items()), *_PLACE])

    def batch(self, rows: Rows, partition: int) -> pa.RecordBatch:
        """Return `rows` of one partition of events.<source> as columns."""
        columns: list[Any] = [
            pa.array(values, kind)
            for values, (_, kind) in zip(self._columns(rows.payloads), self._fields.values(), strict=True)
        ]
        columns += [
            pa.array(rows.event_time_ms),
            pa.array(rows.arrived_at_ms),
            pa.array(rows.ids, pa.string()),
            pa.array(np.full(len(rows), partition, np.int32)),
            pa.array(rows.offsets, pa.int64()),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _columns(self, payloads: Sequence[bytes]) -> list[list[Any]]:
        try:
            decoded = self._decoder.decode(b"[" + b",".join(payloads) + b"]")
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._leniently(payloads)
        if len(decoded) != len(payloads):  # a payload that is several values, or none
            return self._leniently(payloads)
        return [[getattr(row, attribute) for row in decoded] for attribute in self._attributes]

    def _leniently(self, payloads: Sequence[bytes]) -> list[list[Any]]:
        documents = [_document(payload) for payload in payloads]
        return [
            [_converted(document.get(name), kind) for document in documents]
            for name, (kind, _) in self._fields.items()
        ]


def _document(payload: bytes) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return document if isinstance(document, dict) else {}


def _converted(value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError:
        return None


_ROW_COLUMNS = (
    "keys", "event_time_ms", "answered_ms", "champion", "challenger", "challenger_answered", "latency_us",
)  # fmt: skip
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
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
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
    starts = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    names = pa.array(list(batch.feature_names) * rows, pa.string())

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
            pa.ListArray.from_arrays(starts, names),
            pa.ListArray.from_arrays(starts, pa.array(list(batch.features), pa.float64())),
            each(partition, pa.int32()),
            each(offset, pa.int64()),
        ],
        schema=PREDICTIONS_SCHEMA,
    )
