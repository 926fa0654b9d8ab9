"""Moves event time on where nobody else does.

A producer that knows its own time, such as a replay, writes watermark records, and so
does who scores the events that a source of predictions is made of: it alone knows which
are still to be scored. For every other source this loop writes them: once a second, the
newest event time seen less the source's lateness, to each partition this process owns,
idle ones included.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from trimtab_contracts import topics
from trimtab_runtime import records
from trimtab_runtime.records import Outgoing
from trimtab_runtime.specbook import SpecBook

from trimtab_ingestion.consumers import Ingest

PERIOD_S = 1.0


async def beat(producer: Any, book: SpecBook, workers: Callable[[], Iterable[Ingest]]) -> None:
    """Write watermarks until cancelled."""
    while True:
        await asyncio.sleep(PERIOD_S)
        await records.send_all(producer, due(book, list(workers())))


def due(book: SpecBook, workers: Iterable[Ingest]) -> list[Outgoing]:
    """Return the watermark records that would move the partitions of `workers` on."""
    workers = list(workers)
    newest: dict[str, int] = {}
    for worker in workers:
        if worker.newest_ms is not None:
            newest[worker.source] = max(newest.get(worker.source, worker.newest_ms), worker.newest_ms)
    found = []
    for worker in workers:
        if worker.source not in newest or worker.source not in book.sources:
            continue
        spec = book.sources[worker.source].spec
        if spec.predictions_of is not None:
            continue
        reached = newest[worker.source] - spec.lateness
        if reached > (worker.watermark_ms or 0):
            headers = records.watermark_headers(
                source=worker.source, time_ms=reached, origin=worker.partition, origins=spec.partitions
            )
            topic = topics.RAW.named(worker.source).name
            found.append(Outgoing(topic, None, b"", headers, worker.partition))
    return found
