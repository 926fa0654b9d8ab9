"""What a table that was read comes to: rows by key and time, those that are refused, and what has changed.

Nothing here knows Kafka, and no clock: the same rows over the same history give the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import msgspec
from trimtab_core.contract import Reason, RowContract, entity_text
from trimtab_core.lookup import FROM_EVER, Change, History, Row, changes
from trimtab_core.specs import TableSpec
from trimtab_core.timestamps import parse_timestamps, zone
from trimtab_runtime.clock import iso

from trimtab_ingestion.errors import TableUnfit

MOST_REFUSED: Final = 1_000
"""Rows of a load; if more are refused, the table is another than its spec says."""
_encode = msgspec.json.Encoder(enc_hook=str).encode


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that is against the contract."""

    key: str | None
    payload: bytes
    """The row as it was read, as JSON."""
    digest: str
    """Of the payload; the same row has the same in every load."""
    reasons: Sequence[Reason]


@dataclass(frozen=True, slots=True)
class Found:
    """What was read of a table."""

    wanted: Mapping[str, Mapping[int, Row]]
    """The good rows, by key and the time since which each holds."""
    refused: Sequence[Refused]
    columns: frozenset[str]

    @property
    def rows(self) -> int:
        """How many rows are good."""
        return sum(map(len, self.wanted.values()))

    def changes(self, history: History, known: frozenset[str], at_ms: int, *, is_first: bool) -> list[Change]:
        """Return what brings `history`, with the columns `known`, to what was read, from `at_ms` on."""
        kept = {each.key for each in self.refused if each.key is not None}
        brings = self.columns - known
        return list(changes(history, self.wanted, kept=kept, at_ms=at_ms, brings=brings, is_first=is_first))


def judged(spec: TableSpec, rows: Sequence[dict[str, Any]]) -> Found:
    """Clean and judge rows as they were read.

    Raises:
        TableUnfit: they are no table: none is good, too many are not, or two are of one key at one time.
    """
    cleaned = [dict(row) for row in rows]
    faulty = RowContract(spec.fields).check(cleaned)
    refused = [_refused(spec, rows[at], cleaned[at], reasons) for at, reasons in faulty.items()]
    good = [row for at, row in enumerate(cleaned) if at not in faulty]
    if len(refused) > MOST_REFUSED or not good:
        said = f"; the first: {refused[0].reasons[0].message}" if refused else ""
        raise TableUnfit(
            f"{len(refused)} of its {len(rows)} rows are refused{said}: no more than {MOST_REFUSED} may be, and one "
            "at least must be good; mend the table, or its fields"
        )
    wanted: dict[str, dict[int, Row]] = {}
    for row, since_ms in zip(good, _since(spec, good), strict=True):
        key = entity_text(row[spec.key])
        of_key = wanted.setdefault(key, {})
        if since_ms in of_key:
            at = f" since {iso(since_ms)}" if spec.effective else ""
            raise TableUnfit(f"{spec.key} {key!r} is in two rows{at}: keep one of them")
        of_key[since_ms] = {name: row[name] for name in spec.columns}
    return Found(wanted, refused, frozenset(spec.columns))


def _since(spec: TableSpec, rows: Sequence[Row]) -> Iterator[int]:
    if spec.effective is None:
        yield from [FROM_EVER] * len(rows)
    else:
        where = zone(spec.fields[spec.effective].timezone)
        yield from parse_timestamps([row[spec.effective] for row in rows], where).tolist()


def _refused(spec: TableSpec, row: Row, cleaned: Row, reasons: Sequence[Reason]) -> Refused:
    payload, key = _encode(row), cleaned[spec.key]
    # What a key is whose own value is refused is not known, so nothing is kept by it.
    is_key = isinstance(key, str | int | float) and all(reason.field != spec.key for reason in reasons)
    digest = blake2b(payload, digest_size=8).hexdigest()
    return Refused(entity_text(key) if is_key else None, payload, digest, reasons)
