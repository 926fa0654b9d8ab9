"""How the newest load of each table went, as its topic says: for the wide form of `trimtab get tables`."""

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab_contracts import topics
from trimtab_contracts.ingestion.v1.ingestion_pb2 import TableLoad
from trimtab_core.lookup import History
from trimtab_runtime import tablelog
from trimtab_runtime.clock import iso
from trimtab_runtime.pipeline import read_partition


async def with_loads(servers: str, tables: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of `tables`, each with how many rows it has, when they were loaded, and why not since.

    Raises:
        Unavailable: Kafka cannot be read.
    """
    found = []
    for table in tables:
        history, load = History(), TableLoad()
        async for batch in read_partition(servers, topics.TABLES.named(table["table"]).name, 0):
            load = tablelog.apply(history, batch) or load
        loaded = iso(load.loaded_ms) if load.loaded_ms else "not yet"
        found.append({**table, "rows": load.rows, "loaded": loaded, "fault": load.fault})
    return found
