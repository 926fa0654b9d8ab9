"""What is made of records as they come: predictions, labels and marks, ready to be stored.

Pure. A label is kept for each way in which a model reads its source; a row without
the field that names the prediction, or without a value, is no label.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from trimtab_core.contract import entity_text
from trimtab_core.specs import Model

from trimtab_monitoring.usecases.entities import Arrivals, Labelled, LabelStream, Mark, Predicted, streams_of

_Text = str | int | float | bool | None
_Number = float | bool | None


def label_streams(models: Iterable[Model]) -> dict[str, list[LabelStream]]:
    """Return the label streams that `models` read, by source, each once."""
    found: dict[str, dict[str, LabelStream]] = {}
    for model in models:
        for stream in streams_of(model):
            found.setdefault(stream.source, {})[stream.name] = stream
    return {source: list(streams.values()) for source, streams in found.items()}


class LabelReader:
    """Reads the rows of a source as labels of one stream."""

    def __init__(self, stream: LabelStream) -> None:
        self.stream = stream.name
        self._of_classes = bool(stream.classes)
        names = {"on": stream.on, "value": stream.value}
        value = _Text if self._of_classes else _Number
        row = msgspec.defstruct("LabelRow", [("on", _Text, None), ("value", value, None)], rename=names)
        self._decode = msgspec.json.Decoder(row).decode

    def read(self, payload: bytes) -> tuple[str, float | str] | None:
        """Return the key and the value of a label, a number or a class, or None if the row is none."""
        try:
            row: Any = self._decode(payload)
        except msgspec.MsgspecError:
            return None
        if row.on is None or row.value is None:
            return None
        return entity_text(row.on), entity_text(row.value) if self._of_classes else float(row.value)


@dataclass(slots=True)
class _Columns:
    keys: list[str] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Gathering:
    """Gathers what came until it is stored."""

    predicted: list[Predicted] = field(default_factory=list)
    marks: dict[tuple[str, str, int], Mark] = field(default_factory=dict)
    _labels: dict[str, _Columns] = field(default_factory=dict)

    def label(self, stream: str, key: str, event_time_ms: int, value: float | str) -> None:
        """Add a label, a number or a class."""
        columns = self._labels.setdefault(stream, _Columns())
        columns.keys.append(key)
        columns.times.append(event_time_ms)
        if isinstance(value, str):
            columns.classes.append(value)
            value = math.nan
        columns.values.append(value)

    def mark(self, mark: Mark) -> None:
        """Add a mark; of one place the last counts."""
        self.marks[mark.stream, mark.instance, mark.partition] = mark

    def arrivals(self) -> Arrivals:
        """Return all of it."""
        labelled: Sequence[Labelled] = [
            Labelled(stream, columns.keys, columns.times, columns.values, columns.classes or None)
            for stream, columns in self._labels.items()
        ]
        return Arrivals(self.predicted, labelled, list(self.marks.values()))
