"""gRPC door of ingestion: rows in, an answer once Kafka has them."""

from collections.abc import AsyncIterator
from typing import Any

from trimtab_contracts import topics
from trimtab_contracts.ingestion.v1.ingestion_pb2 import IngestRequest, IngestResponse
from trimtab_contracts.ingestion.v1.ingestion_pb2_grpc import IngestionServicer
from trimtab_core.timestamps import EARLIEST_MS, LATEST_MS
from trimtab_runtime import records
from trimtab_runtime.clock import Clock, iso
from trimtab_runtime.records import Outgoing
from trimtab_runtime.specbook import SpecBook

from trimtab_ingestion.errors import IdTooLong, NoArrival, NotOneARow, RowTooLarge
from trimtab_ingestion.usecases import key_of


class IngestionApi(IngestionServicer):
    """Answers `trimtab.ingestion.v1.Ingestion`.

    It judges nothing: rows go to raw.<source> and meet the contract there, like all others.
    """

    def __init__(self, book: SpecBook, producer: Any, clock: Clock) -> None:
        self._book = book
        self._producer = producer
        self._clock = clock

    async def Ingest(self, request: IngestRequest, context: Any) -> IngestResponse:
        """Accept a batch of rows; with none, wait until nothing that was taken before is still on its way."""
        return IngestResponse(accepted=await self._accept(request))

    async def IngestStream(self, requests: AsyncIterator[IngestRequest], context: Any) -> IngestResponse:
        """Accept batches as they come; each is with Kafka before the next is read."""
        accepted = 0
        async for request in requests:
            accepted += await self._accept(request)
        return IngestResponse(accepted=accepted)

    async def _accept(self, request: IngestRequest) -> int:
        source, rows = self._book.source(request.source), request.rows
        _check(request)
        if not rows:
            await self._producer.flush()
            return 0
        arrived = request.arrived_at_ms or [self._clock.now_ms()] * len(rows)
        ids = request.ids or [""] * len(rows)
        topic = topics.RAW.named(source.name).name
        await records.send_all(
            self._producer,
            [
                Outgoing(topic, key_of(source, row), row, _headers(row_id, at))
                for row, row_id, at in zip(rows, ids, arrived, strict=True)
            ],
        )
        return len(rows)


def _check(request: IngestRequest) -> None:
    """Refuse a request that cannot be taken whole."""
    count = len(request.rows)
    for name, found in (("ids", len(request.ids)), ("arrived_at_ms", len(request.arrived_at_ms))):
        if found not in (0, count):
            raise NotOneARow(name, found, count)
    for at, row in enumerate(request.rows):
        if len(row) > topics.MOST_ROW_BYTES:
            raise RowTooLarge(at, len(row))
    for at, row_id in enumerate(request.ids):
        if (size := len(row_id.encode())) > records.MOST_ID_BYTES:
            raise IdTooLong(at, size)
    for at, arrived_at_ms in enumerate(request.arrived_at_ms):
        if not EARLIEST_MS <= arrived_at_ms <= LATEST_MS:
            raise NoArrival(at, arrived_at_ms)


def _headers(row_id: str, arrived_at_ms: int) -> records.Headers:
    said = [records.IS_JSON, ("ce_arrivedat", iso(arrived_at_ms).encode())]
    return [("ce_id", row_id.encode()), *said] if row_id else said
