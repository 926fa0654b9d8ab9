"""What views said of entities at times of the past, made of the archive's rows.

Whoever asks for it, for a training set or for rows of a file, gets the same.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from trimtab_core.contract import entity_key, entity_text
from trimtab_core.grouping import Grouping
from trimtab_core.slots import Layout
from trimtab_core.specs import FeatureView, Source

from trimtab_feature_store.sharding import ShardedJoin
from trimtab_feature_store.store import Tables
from trimtab_feature_store.tables import column_of, events_table

NOBODY = "\x00"
"""Entity and key of a row that has none: no event has it either."""
_TIMES = ("event_time_ms", "arrived_at_ms")
_PLACE = ("partition", "offset")


def archived(
    tables: Tables,
    source: Source,
    fields: Iterable[str],
    start_ms: int,
    end_ms: int,
    *,
    version: int,
    as_of_ms: int,
    more: Sequence[str] = (),
) -> pa.Table:
    """Return fields, times, place and `more` of archived rows, in an order that their storage has no part in."""
    found = tables.read(
        events_table(source.name),
        list(dict.fromkeys([*map(column_of, fields), *_TIMES, *_PLACE, *more])),
        version=version,
        start_ms=start_ms,
        end_ms=end_ms,
        arrived_by_ms=as_of_ms,
    )
    order = np.lexsort([ints(found[name]) for name in ("offset", "partition", "event_time_ms")])
    return found.take(pa.array(order))


def view_values(
    tables: Tables,
    view: FeatureView,
    source: Source,
    entities: pa.Array,
    at_ms: NDArray[np.int64],
    start_ms: int,
    end_ms: int,
    *,
    version: int,
    as_of_ms: int,
    join: ShardedJoin,
) -> NDArray[np.float64]:
    """Return a view's columns [rows, columns] of each entity at a time of its own in [start, end)."""
    layout = Layout.of(view.spec, source.spec.lateness)
    longest = max(column.slots for column in layout.columns) * layout.hop_ms
    events = archived(
        tables,
        source,
        [*layout.fields, *view.spec.entities],
        layout.boundary_of(start_ms) - longest,
        end_ms,
        version=version,
        as_of_ms=as_of_ms,
        more=["id"] if layout.ends else [],
    )
    for name in view.spec.entities:
        events = events.filter(pc.is_valid(events[column_of(name)]))
    columns = {name: events[column_of(name)] for name in layout.fields}
    return join(
        layout,
        entities_of([events[column_of(name)] for name in view.spec.entities], events.num_rows),
        ints(events["event_time_ms"]),
        Grouping(layout, source.spec.fields).values(columns, events.num_rows),
        ints(events["arrived_at_ms"]),
        entities,
        at_ms,
        events["id"].to_pylist() if layout.ends else (),
    )


def entities_of(columns: Sequence[Any], rows: int) -> pa.Array:
    """Return the entities that columns name together."""
    if len(columns) == 1:
        return as_texts(columns[0])
    named: dict[tuple[Any, ...], str] = {}
    values = zip(*(column.to_pylist() for column in columns), strict=True) if columns else [()] * rows
    texts = [named[each] if each in named else named.setdefault(each, _entity(each)) for each in values]
    return pa.array(texts, pa.string())


def as_texts(column: Any) -> pa.Array:
    """Return entities or keys as the texts that name them everywhere."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not pa.types.is_string(whole.type):
        coded = whole.dictionary_encode()
        names = pa.array([entity_text(value) for value in coded.dictionary.to_pylist()], pa.string())
        whole = names.take(coded.indices)
    return pc.fill_null(whole, NOBODY)


def ints(column: Any) -> NDArray[np.int64]:
    """Return a column of integers."""
    return np.asarray(column.cast(pa.int64()).to_numpy(), np.int64)


def _entity(values: tuple[Any, ...]) -> str:
    key = entity_key(values)
    return NOBODY if key is None else key
