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
from trimtab_core.contract import Reason as Fault
from trimtab_core.specs import Source
from trimtab_runtime import bus, records
from trimtab_runtime.clock import to_timestamp
from trimtab_runtime.records import Outgoing
from trimtab_runtime.specbook import SpecBook

from trimtab_ingestion.usecases import Contracts, Judged, judge

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
        marks = {at for at, record in enumerate(batch) if records.is_watermark(record)}
        rows = [record for at, record in enumerate(batch) if at not in marks] if marks else batch
        outcomes = iter(self._outcomes(source, rows))
        out: list[Outgoing] = []
        for at, record in enumerate(batch):
            if at not in marks:
                out.append(next(outcomes))
                continue
            time_ms = records.origin(record).event_time_ms
            if time_ms is not None and time_ms > (self.watermark_ms or 0):
                out += self._watermark(source, time_ms)
        out += outcomes
        return out

    def _outcomes(self, source: Source, rows: Sequence[Any]) -> list[Outgoing]:
        """Return what becomes of each row, in order, and how good they were together."""
        if not rows:
            return []
        arrived_at_ms = records.arrivals_ms(rows)
        judged = judge(
            self._contracts.of(source),
            [record.key for record in rows],
            [record.value or b"" for record in rows],
            arrived_at_ms,
            re_encode=source.spec.unknown_fields == "drop",
        )
        good = judged.good
        if len(good):
            newest_ms = int(judged.event_time_ms[good].max())
            self.newest_ms = max(self.newest_ms or newest_ms, newest_ms)
        ids = records.ids(rows)
        headers = iter(
            records.rows_headers(
                [ids[at] for at in good.tolist()],
                self.source,
                judged.event_time_ms[good],
                arrived_at_ms[good],
            )
        )
        events = topics.EVENTS.named(self.source).name
        outcomes = [
            self._refused(record, key, reasons)
            if reasons
            else Outgoing(events, record.key, payload, next(headers), self.partition)
            for record, key, payload, reasons in zip(
                rows, judged.keys, judged.payloads, judged.reasons, strict=True
            )
        ]
        return [*outcomes, self._quality(rows[-1], judged)]

    def _refused(self, record: Any, key: str | None, faults: Sequence[Fault]) -> Outgoing:
        reasons = [Reason(code=r.code, field=r.field, value=r.value, message=r.message) for r in faults]
        letter = bus.dead_letter(record, source=self.source, reasons=reasons)
        return _output(topics.DEADLETTER, letter, key=key or "", id=letter.id, time_ms=record.timestamp)

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

    def _quality(self, last: Any, judged: Judged) -> Outgoing:
        good, rows = judged.good, len(judged.reasons)
        times = judged.event_time_ms[good].tolist() or [last.timestamp]
        metric = Metric(
            id=f"{last.topic}/{last.partition}/{last.offset}/refused_share",
            model=self.source,
            name="refused_share",
            value=1 - len(good) / rows,
            window_from=to_timestamp(min(times)),
            window_to=to_timestamp(max(times)),
            rows=rows,
        )
        return _output(topics.METRICS_QUALITY, metric, key=self.source, id=metric.id, time_ms=last.timestamp)


def _output(topic: topics.Topic[Any], message: Any, *, key: str, id: str, time_ms: int) -> Outgoing:
    return records.outgoing(topic, message, key=key, id=id, source="ingestion", time_ms=time_ms)
