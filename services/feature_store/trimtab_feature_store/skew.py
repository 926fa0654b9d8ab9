"""Skew: whether what serving saw is what the archive says it should have seen.

Each logged prediction's features are recomputed from archived events by the code that
makes training sets, as of the time that was logged, and held against what was logged.
"""

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from trimtab_core import features as core
from trimtab_runtime.errors import Rejected

from trimtab_feature_store.errors import BadWindow
from trimtab_feature_store.historical import Historical, Making, Plan, Wanted
from trimtab_feature_store.store import EVER_MS, Tables
from trimtab_feature_store.tables import PREDICTIONS

TOLERANCE = 1e-6
"""Relative; serving logs float32."""
ROUNDING = 1e-9
"""Two values no further apart than this are one, however small they are."""
_AT_ONCE = 50_000
"""Predictions that are looked at together, which bounds the memory."""
_SEPARATOR = "\x00"

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Example:
    """One prediction of which a feature is not as it should be."""

    key: str
    event_time_ms: int
    version: int
    logged: float
    recomputed: float
    apart: float
    """Of the larger of the two; 0 where one is NaN."""


@dataclass(slots=True)
class Compared:
    """What was found of one feature."""

    rows: int = 0
    mismatched: int = 0
    """Both known, and apart."""
    missing: int = 0
    """Logged as NaN, and known offline."""
    extra: int = 0
    """Logged as known, and NaN offline."""
    worst: Example | None = None


@dataclass(slots=True)
class Audit:
    """What was found of a model's predictions."""

    features: dict[str, Compared] = field(default_factory=dict)
    rows: int = 0
    """Compared."""
    mismatched: int = 0
    """Rows of which some feature is mismatched, missing or extra."""
    rows_past_archive: int = 0
    rows_without_event: int = 0
    rows_of_old_features: int = 0
    versions: dict[str, int] = field(default_factory=dict)
    """Of the tables that were read."""


class Skew:
    """Audits what serving logged, one model at a time, off the event loop."""

    def __init__(self, historical: Historical, tables: Tables) -> None:
        self._historical = historical
        self._tables = tables
        self._one = asyncio.Lock()

    async def audit(self, model: str, since_ms: int | None = None, until_ms: int | None = None) -> Audit:
        """Compare the archived predictions of a model with event times in [since, until); all, if not given.

        Raises:
            UnknownModel, UnknownSource: it names something that is not there.
            BadWindow: the times make no range.
        """
        start_ms, end_ms = since_ms or 0, EVER_MS if until_ms is None else until_ms
        if start_ms >= end_ms:
            raise BadWindow(start_ms, end_ms)
        wanted = Wanted(model, start_ms, end_ms, EVER_MS, 0)
        self._historical.check(model)
        async with self._one:
            reach = await asyncio.to_thread(self._tables.reach, PREDICTIONS, 0)
            audit, plans = Audit(versions={PREDICTIONS: reach.version}), dict[str, Plan | None]()
            if reach.version < 0:
                return audit
            log = _Log(self._tables, model, reach.version)
            for span in await asyncio.to_thread(lambda: list(log.spans(start_ms, end_ms))):
                logged = await asyncio.to_thread(log.read, *span)
                for names, rows in _by_features(logged):
                    if names not in plans:
                        plans[names] = await self._plan(wanted, names.split(_SEPARATOR))
                    if (plan := plans[names]) is None:
                        audit.rows_of_old_features += rows.num_rows
                        continue
                    audit.versions |= plan.versions
                    whole = rows.filter(pc.less_equal(rows["event_time_ms"], plan.reached_ms))
                    audit.rows_past_archive += rows.num_rows - whole.num_rows
                    of_span = replace(plan, wanted=replace(wanted, start_ms=span[0], end_ms=span[1]))
                    await asyncio.to_thread(_compare, audit, Making(self._tables, of_span), of_span, whole)
            return audit

    async def _plan(self, wanted: Wanted, features: Sequence[str]) -> Plan | None:
        """Return how a version's features are made; None if one of them means nothing any more."""
        try:
            return await self._historical.plan(wanted, features)
        except Rejected:
            return None


class _Log:
    """The archived predictions of one model, at one version of the table."""

    def __init__(self, tables: Tables, model: str, version: int) -> None:
        self._tables, self._model, self._version = tables, model, version

    def spans(self, start_ms: int, end_ms: int) -> Iterator[tuple[int, int]]:
        """Return ranges of event time that together hold all predictions of [start, end), none of them too many."""
        times = np.sort(_column(self._read(["event_time_ms"], start_ms, end_ms), "event_time_ms"))
        cuts = [*dict.fromkeys(times[::_AT_ONCE].tolist()), *(times[-1:] + 1).tolist()]
        yield from itertools.pairwise(cuts)

    def read(self, start_ms: int, end_ms: int) -> pa.Table:
        """Return what an audit needs of the predictions of [start, end)."""
        columns = [
            "key",
            "event_time_ms",
            "champion_version",
            "feature_names",
            "features",
            "text_names",
            "texts",
        ]
        return self._read(columns, start_ms, end_ms)

    def _read(self, columns: Sequence[str], start_ms: int, end_ms: int) -> pa.Table:
        return self._tables.read(
            PREDICTIONS, columns, version=self._version, start_ms=start_ms, end_ms=end_ms, model=self._model
        )


def _by_features(logged: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Return the predictions that were made of the same features, in the same order, together."""
    numbers = pc.binary_join(_lists(logged["feature_names"]), _SEPARATOR)
    texts = pc.binary_join(_lists(logged["text_names"]), _SEPARATOR)
    parts = pc.if_else(pc.and_(pc.not_equal(numbers, ""), pc.not_equal(texts, "")), _SEPARATOR, "")
    names = pc.binary_join_element_wise(numbers, parts, texts, "")
    for each in pc.unique(names).to_pylist():
        yield each, logged.filter(pc.equal(names, each))


def _compare(audit: Audit, making: Making, plan: Plan, logged: pa.Table) -> None:
    spine = making.spine()
    pairs = zip(making.keys(spine).to_pylist(), spine["event_time_ms"].to_pylist(), strict=True)
    places = {pair: at for at, pair in enumerate(pairs)}
    asked = zip(logged["key"].to_pylist(), logged["event_time_ms"].to_pylist(), strict=True)
    where = np.array([places.get(pair, -1) for pair in asked], np.int64)
    there = where >= 0
    audit.rows_without_event += int((~there).sum())
    if not there.any():
        return
    rows, back = np.unique(where[there], return_inverse=True)
    spine = spine.take(pa.array(rows))
    recomputed, texts = making.features(spine)[back], making.texts(spine)[back]
    found = logged.filter(pa.array(there))
    of_texts = _note_texts(audit, plan, found, texts)
    seen = np.array(pc.list_flatten(found["features"].combine_chunks()).to_numpy(zero_copy_only=False))
    names = [each.name for each in core.numbers(plan.features)]
    _note(audit, names, found, seen.reshape(recomputed.shape), recomputed, of_texts)


def _note_texts(audit: Audit, plan: Plan, rows: pa.Table, recomputed: NDArray[np.object_]) -> Mask:
    """Take into the audit what was logged of texts and what should have been, and return which rows are not alike."""
    seen = pc.list_flatten(_lists(rows["texts"])).to_numpy(zero_copy_only=False)
    logged = seen.reshape(recomputed.shape)
    wrong = logged != recomputed
    for at, each in enumerate(core.texts(plan.features)):
        found = audit.features.setdefault(each.name, Compared())
        found.rows += len(logged)
        found.missing += int((wrong[:, at] & (logged[:, at] == "")).sum())
        found.extra += int((wrong[:, at] & (recomputed[:, at] == "")).sum())
        found.mismatched += int((wrong[:, at] & (logged[:, at] != "") & (recomputed[:, at] != "")).sum())
    return np.asarray(wrong.any(axis=1), bool)


def _lists(column: Any) -> pa.Array:
    """Return a column of lists of texts, whose nulls, of rows that were logged before there were texts, have none."""
    whole = column.combine_chunks().cast(pa.list_(pa.string()))
    return pc.if_else(pc.is_valid(whole), whole, pa.scalar([], pa.list_(pa.string())))


def _note(
    audit: Audit, names: Sequence[str], rows: pa.Table, logged: Floats, recomputed: Floats, unlike: Mask
) -> None:
    """Take into the audit what was logged and what should have been; both [rows, features].

    `unlike` says of which rows [rows] something else is not as it should be.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        recomputed = recomputed.astype(np.float32).astype(np.float64)
        alike = np.isclose(logged, recomputed, rtol=TOLERANCE, atol=ROUNDING, equal_nan=True)
        apart = np.abs(logged - recomputed) / np.maximum(np.abs(logged), np.abs(recomputed))
    missing, extra = np.isnan(logged) & ~np.isnan(recomputed), ~np.isnan(logged) & np.isnan(recomputed)
    audit.rows += len(logged)
    audit.mismatched += int(((~alike).any(axis=1) | unlike).sum())
    apart = np.where(alike, -1.0, np.nan_to_num(apart, nan=0.0))
    for at, name in enumerate(names):
        found = audit.features.setdefault(name, Compared())
        found.rows += len(logged)
        found.missing += int(missing[:, at].sum())
        found.extra += int(extra[:, at].sum())
        found.mismatched += int((~alike & ~missing & ~extra)[:, at].sum())
        worst = int(apart[:, at].argmax())
        if apart[worst, at] > (-1.0 if found.worst is None else found.worst.apart):
            found.worst = _example(rows, worst, logged[worst, at], recomputed[worst, at], apart[worst, at])


def _example(rows: pa.Table, at: int, logged: float, recomputed: float, apart: float) -> Example:
    return Example(
        key=rows["key"][at].as_py(),
        event_time_ms=rows["event_time_ms"][at].as_py(),
        version=rows["champion_version"][at].as_py(),
        logged=float(logged),
        recomputed=float(recomputed),
        apart=float(apart),
    )


def _column(table: pa.Table, name: str) -> NDArray[np.int64]:
    return np.asarray(table[name].to_numpy(), np.int64)
