"""Columns of events, read by the type that the source's contract states: from decoded JSON or from the archive alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trimtab_core import sketches
from trimtab_core.specs import FieldSpec
from trimtab_core.timestamps import NOT_A_TIME, parse_timestamps, zone

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
_ARROW = (pa.Array, pa.ChunkedArray)


@dataclass(frozen=True, slots=True)
class Texts:
    """A column of texts: which of the known ones each row has, -1 where it has none."""

    codes: NDArray[np.int64]
    known: list[str]

    def look_up(self, found: Any, otherwise: Any) -> NDArray[Any]:
        """Return for each row what is found for its text."""
        return np.array([*found, otherwise])[self.codes]


class Columns:
    """Some fields of many events; each is read once, when it is asked for."""

    def __init__(self, fields: Mapping[str, FieldSpec], values: Mapping[str, Any]) -> None:
        """`values` are by field, as lists of what JSON held or as Arrow arrays of the archive."""
        self._fields = fields
        self._values = values
        self._numbers: dict[str, Floats] = {}
        self._texts: dict[str, Texts] = {}

    def numbers(self, name: str) -> Floats:
        """Return a number for each row, NaN where the field is null.

        A boolean is 0 or 1, a timestamp its instant in milliseconds, and a string its hash.
        """
        if name not in self._numbers:
            self._numbers[name] = self._read(name)
        return self._numbers[name]

    def comparable(self, one: str, other: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return two fields as numbers that compare as their values do; of a null, any.

        Two integers stay what they are: not every one of them is a float.
        """
        if self._fields[one].type == self._fields[other].type == "integer":
            return self._integers(one), self._integers(other)
        return self.numbers(one), self.numbers(other)

    def texts(self, name: str) -> Texts:
        """Return a string field."""
        if name not in self._texts:
            values = self._values[name]
            whole = _arrow(values) if isinstance(values, _ARROW) else pa.array(values, pa.string())
            coded = whole.cast(pa.string()).dictionary_encode()
            codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
            self._texts[name] = Texts(codes, coded.dictionary.to_pylist())
        return self._texts[name]

    def missing(self, name: str) -> Mask:
        """Return where a field is null."""
        values = self._values[name]
        if isinstance(values, _ARROW):
            return np.asarray(_arrow(values).is_null().to_numpy(zero_copy_only=False), bool)
        return np.fromiter((value is None for value in values), bool, len(values))

    def _integers(self, name: str) -> NDArray[np.int64]:
        values = self._values[name]
        if isinstance(values, _ARROW):
            whole = _arrow(values).cast(pa.int64(), safe=False).fill_null(0)
            return np.asarray(whole.to_numpy(zero_copy_only=False), np.int64)
        return np.array([0 if value is None else value for value in values], np.int64)

    def _read(self, name: str) -> Floats:
        values, kind = self._values[name], self._fields[name].type
        if kind == "string":
            texts = self.texts(name)
            found: Floats = texts.look_up(sketches.text_numbers(texts.known), np.nan)
            return found
        if kind == "timestamp":
            listed = values.to_pylist() if isinstance(values, _ARROW) else values
            times = parse_timestamps(listed, zone(self._fields[name].timezone))
            return np.where(times == NOT_A_TIME, np.nan, times.astype(np.float64))
        if isinstance(values, _ARROW):
            whole = _arrow(values).cast(pa.float64(), safe=False)
            return np.array(whole.to_numpy(zero_copy_only=False), np.float64)
        return np.array(values, np.float64)  # null becomes NaN


def _arrow(values: Any) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
