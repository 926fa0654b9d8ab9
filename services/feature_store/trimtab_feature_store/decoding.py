"""From users' JSON rows to columns, by the types that the source's contract states.

The same reading serves the fold and the archive, so that both see the same values. A
value that does not fit its field reads as null; a row that is no object is all nulls.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec
from trimtab_core.specs import SourceSpec

_INT64 = msgspec.Meta(ge=-(2**63), le=2**63 - 1)
_TYPES: dict[str, Any] = {
    "string": str | None,
    "integer": Annotated[int, _INT64] | None,
    "number": float | None,
    "boolean": bool | None,
    "timestamp": str | float | None,
}


class RowDecoder:
    """Reads some fields of many rows of one source."""

    def __init__(self, source: SourceSpec, names: Iterable[str]) -> None:
        """Read the fields called `names`; all of them are in the contract."""
        self.types = {name: source.fields[name].type for name in dict.fromkeys(names)}
        # Attributes get names of our own: a field may be called like a keyword.
        renamed = {f"f{number}": name for number, name in enumerate(self.types)}
        row = msgspec.defstruct(
            "Row", [(at, _TYPES[self.types[name]], None) for at, name in renamed.items()], rename=renamed
        )
        self._attributes = list(renamed)
        self._decoder = msgspec.json.Decoder(list[row])  # type: ignore[valid-type]

    def columns(self, payloads: Sequence[bytes]) -> dict[str, list[Any]]:
        """Return the fields' values by name, one for each payload, in order."""
        try:
            rows = self._decoder.decode(b"[" + b",".join(payloads) + b"]")
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._one_by_one(payloads)
        if len(rows) != len(payloads):  # a payload that is several values, or none
            return self._one_by_one(payloads)
        return {
            name: [getattr(row, attribute) for row in rows]
            for name, attribute in zip(self.types, self._attributes, strict=True)
        }

    def _one_by_one(self, payloads: Sequence[bytes]) -> dict[str, list[Any]]:
        documents = [_document(payload) for payload in payloads]
        return {
            name: [_fitted(document.get(name), _TYPES[kind]) for document in documents]
            for name, kind in self.types.items()
        }


def _document(payload: bytes) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _fitted(value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return int(value) if kind is _TYPES["integer"] and _is_whole(value) else None


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer() and abs(value) < 2**63
