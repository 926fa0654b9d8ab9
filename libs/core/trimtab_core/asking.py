"""Rows that a model is asked about: cleaned as events are, and held to the source's contract in the fields that count.

Whoever reads such a row, to answer it or to say what is wrong with it before it is
sent, reads it here.
"""

from collections.abc import Collection
from typing import Any

import msgspec

from trimtab_core.contract import UNDECODABLE, Contract
from trimtab_core.timestamps import NOT_A_TIME, parse_timestamp, zone


class NotARow(ValueError):
    """A row is not as the source's contract says; the message names every field and what is wrong with it."""


class Asking:
    """Reads rows of one source for whoever needs some of their fields."""

    def __init__(self, contract: Contract, fields: Collection[str]) -> None:
        """`fields` are those that are read; the others may be absent."""
        self._contract = contract
        self._fields = frozenset(fields)
        self._decode = msgspec.json.Decoder(dict[str, Any]).decode
        self._times = [
            (name, zone(field.timezone))
            for name, field in contract.spec.fields.items()
            if name in self._fields and field.type == "timestamp"
        ]

    def read(self, payload: bytes) -> dict[str, Any]:
        """Return the row in `payload`, a JSON object; its timestamps are instants, in milliseconds since the epoch.

        Raises:
            NotARow: it is none.
        """
        try:
            row = self._decode(payload)
        except UNDECODABLE as error:
            raise NotARow(f"it is no JSON object ({error}): send one") from error
        for cleaner in self._contract.cleaners:
            cleaner.clean(row)
        for name, where in self._times:
            if (instant := parse_timestamp(row.get(name), where)) != NOT_A_TIME:
                row[name] = instant
        if reasons := self._contract.check_fields(row, self._fields):
            raise NotARow("; ".join(reason.message for reason in reasons))
        return row
