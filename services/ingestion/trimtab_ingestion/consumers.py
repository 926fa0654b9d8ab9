"""Kafka door of ingestion: raw.<source> in, events.<source> or deadletter out.

One transaction holds a batch's events, dead letters, quality metric, watermark and
offset: a row is let in once or refused once, whatever dies.
"""

from collections.abc import Sequence
from typing import Any

from trimtab_contracts import topics
from trimtab_contracts.common.v1.common_pb2 import Watermark
from trimtab_contracts.ingestion.v1.ingestion_pb2 import Reason
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Metric
from trimtab_core.specs import Source
from trimtab_runtime import bus, records
from trimtab_runtime.clock import to_timestamp
from trimtab_runtime.records import Outgoing
from trimtab_runtime.specbook import SpecBook

from trimtab_ingestion.usecases import Contracts, Judged, RawRow, judge

HEARS = (topics.RAW,)


class Ingest:
    """Work of one partition of raw.<source>; it keeps nothing but the newest times it has seen."""

    def __init__(self, book: SpecBook, contracts: Contracts, topic: str, partition: int) -> None:
        self.source = topics.RAW.member(topic)
        self.partition = partition
        self.newest_ms: int | None = None
        self.watermark_ms: int | None = None
        self._book = book
        self._contracts = contracts

    async def restore(self) -> None:
        """Nothing to rebuild: every row is judged by itself."""

    def process(self, batch: Sequence[Any]) -> list[Outgoing]:
        """Return what a batch of raw records becomes, in their order."""
        source = self._book.source(self.source)
        origins = [records.origin(record) for record in batch]
        rows = [
            (record, origin) for record, origin in zip(batch, origins, strict=True) if not origin.is_watermark
        ]
        judged = judge(
            self._contracts.of(source),
            [RawRow(record.key, record.value or b"", origin.arrived_at_ms) for record, origin in rows],
            re_encode=source.spec.unknown_fields == "drop",
        )
        outcomes = iter(zip(rows, judged, strict=True))
        out: list[Outgoing] = []
        for origin in origins:
            if not origin.is_watermark:
                (record, row_origin), row = next(outcomes)
                out.append(
                    self._event(record, row, row_origin) if not row.reasons else self._refused(record, row)
                )
            elif origin.event_time_ms is not None and origin.event_time_ms > (self.watermark_ms or 0):
                out += self._watermark(source, origin.event_time_ms)
        if judged:
            out.append(self._quality(batch[-1], judged))
        return out

    def _event(self, record: Any, row: Judged, origin: records.Origin) -> Outgoing:
        self.newest_ms = max(self.newest_ms or row.event_time_ms, row.event_time_ms)
        headers = records.row_headers(
            id=f"{record.topic}/{record.partition}/{record.offset}",
            source=self.source,
            event_time_ms=row.event_time_ms,
            arrived_at_ms=origin.arrived_at_ms,
        )
        return Outgoing(
            topics.EVENTS.named(self.source).name, record.key, row.payload, headers, self.partition
        )

    def _refused(self, record: Any, row: Judged) -> Outgoing:
        reasons = [Reason(code=r.code, field=r.field, value=r.value, message=r.message) for r in row.reasons]
        letter = bus.dead_letter(record, source=self.source, reasons=reasons)
        return _output(topics.DEADLETTER, letter, key=row.key or "", id=letter.id, time_ms=record.timestamp)

    def _watermark(self, source: Source, time_ms: int) -> list[Outgoing]:
        self.watermark_ms = time_ms
        headers = records.watermark_headers(
            source=self.source, time_ms=time_ms, origin=self.partition, origins=source.spec.partitions
        )
        report = Watermark(
            stage="ingestion",
            name=self.source,
            partition=self.partition,
            partitions=source.spec.partitions,
            time=to_timestamp(time_ms),
        )
        key = f"ingestion/{self.source}/{self.partition}/"
        return [
            Outgoing(topics.EVENTS.named(self.source).name, None, b"", headers, self.partition),
            _output(topics.WATERMARKS, report, key=key, id=f"{key}{time_ms}", time_ms=time_ms),
        ]

    def _quality(self, last: Any, judged: Sequence[Judged]) -> Outgoing:
        refused = sum(bool(row.reasons) for row in judged)
        times = [row.event_time_ms for row in judged if not row.reasons] or [last.timestamp]
        metric = Metric(
            id=f"{last.topic}/{last.partition}/{last.offset}/refused_share",
            model=self.source,
            name="refused_share",
            value=refused / len(judged),
            window_from=to_timestamp(min(times)),
            window_to=to_timestamp(max(times)),
            rows=len(judged),
        )
        return _output(topics.METRICS_QUALITY, metric, key=self.source, id=metric.id, time_ms=last.timestamp)


def _output(topic: topics.Topic[Any], message: Any, *, key: str, id: str, time_ms: int) -> Outgoing:
    return records.outgoing(topic, message, key=key, id=id, source="ingestion", time_ms=time_ms)
