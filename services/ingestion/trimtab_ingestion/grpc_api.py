"""gRPC door of ingestion: rows in, an answer once Kafka has them."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from trimtab_contracts import topics
from trimtab_contracts.ingestion.v1.ingestion_pb2 import IngestRequest, IngestResponse
from trimtab_contracts.ingestion.v1.ingestion_pb2_grpc import IngestionServicer
from trimtab_runtime import records
from trimtab_runtime.clock import Clock, iso
from trimtab_runtime.records import Outgoing
from trimtab_runtime.specbook import SpecBook

from trimtab_ingestion.errors import RowTooLarge
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
        """Accept a batch of rows."""
        return IngestResponse(accepted=await self._accept(request.source, request.rows))

    async def IngestStream(self, requests: AsyncIterator[IngestRequest], context: Any) -> IngestResponse:
        """Accept batches as they come; each is with Kafka before the next is read."""
        accepted = 0
        async for request in requests:
            accepted += await self._accept(request.source, request.rows)
        return IngestResponse(accepted=accepted)

    async def _accept(self, name: str, rows: Sequence[bytes]) -> int:
        source = self._book.source(name)
        for at, row in enumerate(rows):
            if len(row) > topics.MOST_ROW_BYTES:
                raise RowTooLarge(at, len(row))
        topic, arrived = topics.RAW.named(name).name, self._clock.now_ms()
        headers = [("ce_arrivedat", iso(arrived).encode())]
        await records.send_all(
            self._producer, [Outgoing(topic, key_of(source, row), row, headers) for row in rows]
        )
        return len(rows)
