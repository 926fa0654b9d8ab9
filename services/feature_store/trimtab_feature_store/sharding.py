"""The point-in-time join by shards: rows and events of some entities, which know nothing of the others.

What the shards are depends on what is joined and on nothing else, so that whoever joins
them, one after the other here or side by side on a cluster, says the same to the last
bit: floating-point sums depend on what lies beside what.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from trimtab_core.partials import Floats
from trimtab_core.pointintime import point_in_time
from trimtab_core.slots import Layout, Millis
from trimtab_runtime.featurelog import partition_of

Shard = tuple[Any, ...]
"""Arguments of `point_in_time`."""
Places = NDArray[np.intp]
ROWS_A_SHARD = 100_000
"""Few enough to be joined quickly: what lies together in a cache costs less than what does not."""
_MOST_SHARDS = 4_096


def one_by_one(shards: Iterable[Shard]) -> Iterator[Floats]:
    """Yield what the shards say, each joined when it is asked for."""
    return (point_in_time(*shard) for shard in shards)


class ShardedJoin:
    """`point_in_time`, by shards."""

    def __init__(
        self,
        run: Callable[[Iterable[Shard]], Iterable[Floats]] = one_by_one,
        rows_a_shard: int = ROWS_A_SHARD,
    ) -> None:
        """`run` returns what each shard says, in order."""
        self._run = run
        self._rows_a_shard = rows_a_shard

    def __call__(
        self,
        layout: Layout,
        entities: pa.Array,
        event_time_ms: Millis,
        values: Floats,
        arrived_at_ms: Millis,
        spine_entities: pa.Array,
        spine_at_ms: Millis,
        ids: Sequence[str] = (),
    ) -> Floats:
        """Return what `point_in_time` returns of the same."""
        count = min(-(-max(len(entities), len(spine_entities)) // self._rows_a_shard), _MOST_SHARDS)
        parts = list(zip(_parts(entities, count), _parts(spine_entities, count), strict=True))
        parts = [(events, rows) for events, rows in parts if len(rows)]
        names = np.array(ids, object)
        shards = (
            (
                layout,
                entities.take(pa.array(events)),
                event_time_ms[events],
                values[events],
                arrived_at_ms[events],
                spine_entities.take(pa.array(rows)),
                spine_at_ms[rows],
                names[events] if layout.ends else (),
            )
            for events, rows in parts
        )
        found = np.empty((len(spine_at_ms), len(layout.columns)))
        for (_, rows), answer in zip(parts, self._run(shards), strict=True):
            found[rows] = answer
        return found


def _parts(entities: pa.Array, count: int) -> list[Places]:
    """Return the places of each shard's entities, in order."""
    coded = entities.dictionary_encode()
    shard_of = np.array([partition_of(name, count) for name in coded.dictionary.to_pylist()], np.uint16)
    shards = shard_of[coded.indices.to_numpy()]
    order = np.argsort(shards, kind="stable")
    return np.split(order, np.searchsorted(shards[order], np.arange(1, count)))
