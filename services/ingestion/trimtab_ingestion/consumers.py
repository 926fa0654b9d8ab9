"""Kafka door of ingestion: raw.<source> in, events.<source> or deadletter out.

One transaction holds a batch's events, dead letters, quality metrics, watermark, what
has been seen, and offset: a row is let in once or refused once, whatever dies.
"""

from collections.abc import Sequence
from typing import Any

from msgspec import structs
from trimtab_contracts import topics
from trimtab_contracts.common.v1.common_pb2 import Watermark
from trimtab_contracts.ingestion.v1.ingestion_pb2 import Reason
from trimtab_core.contract import Reason as Fault
from trimtab_core.specs import Source
from trimtab_runtime import bus, records
from trimtab_runtime.clock import to_timestamp
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.records import REPLAY_OF, Outgoing
from trimtab_runtime.specbook import SpecBook

from trimtab_ingestion.quality import Quality
from trimtab_ingestion.reading import Reader, Schemas, read_json
from trimtab_ingestion.seen import NO_LETTER, ReadPartition, Seen, replays
from trimtab_ingestion.usecases import Contracts, Judged, judge, wrong_replay

HEARS = (topics.RAW,)


class Ingest:
    """Work of one partition of raw.<source>.

    It keeps the newest times it has seen, what may not come again, and the window of expectations.
    """

    def __init__(
        self,
        book: SpecBook,
        contracts: Contracts,
        schemas: Schemas,
        read_partition: ReadPartition,
        topic: str,
        partition: int,
    ) -> None:
        self.source = topics.RAW.member(topic)
        self.partition = partition
        self.newest_ms: int | None = None
        self.watermark_ms: int | None = None
        self._book = book
        self._contracts = contracts
        self._schemas = schemas
        self._read: Reader = read_json
        self._read_partition = read_partition
        self._quality = Quality()
        self._seen = Seen(self.source, partition)

    async def restore(self) -> list[Outgoing]:
        """Read back what has been let in and may not come again; all else of a row is judged by itself."""
        await self._seen.restore(self._read_partition)
        return []

    async def prepare(self, batch: Sequence[Any]) -> None:
        """Have what it takes to read a batch, by the source's format as it is now."""
        if (source := self._book.sources.get(self.source)) is None:
            raise Unavailable(f"the source {self.source!r} is gone")
        self._read = await self._schemas.reader(source.spec.format, batch)

    def process(self, batch: Sequence[Any]) -> list[Outgoing]:
        """Return what a batch of raw records becomes, in their order."""
        if not batch:
            return []
        source = self._book.source(self.source)
        marks = {at for at, record in enumerate(batch) if records.is_watermark(record)}
        rows = [record for at, record in enumerate(batch) if at not in marks] if marks else batch
        outcomes = iter(self._outcomes(source, rows))
        out: list[Outgoing | None] = []
        for at, record in enumerate(batch):
            if at not in marks:
                out.append(next(outcomes))
                continue
            time_ms = records.origin(record).event_time_ms
            if time_ms is not None and time_ms > (self.watermark_ms or 0):
                out += self._watermark(source, time_ms)
                out += self._seen.forget(source.spec, time_ms, record.timestamp)
        out += outcomes
        return [each for each in out if each is not None]

    def _outcomes(self, source: Source, rows: Sequence[Any]) -> list[Outgoing | None]:
        """Return what becomes of each row, in order, nothing of a repeat; and how good they were together."""
        if not rows:
            return []
        arrived_at_ms = records.arrivals_ms(rows)
        payloads, unreadable = self._read(rows)
        judged = judge(
            self._contracts.of(source), [record.key for record in rows], payloads, arrived_at_ms, unreadable
        )
        letters = self._letters(rows, judged)
        good = judged.good
        if len(good):
            newest_ms = int(judged.event_time_ms[good].max())
            self.newest_ms = max(self.newest_ms or newest_ms, newest_ms)
        kept, seen = self._seen.let_in(source.spec, rows, judged, letters)
        repeats = set(good.tolist()).difference(kept.tolist()) if len(kept) < len(good) else ()
        ids, place = records.ids(rows), f"{rows[0].topic}/{rows[0].partition}/"
        for at, offset in letters.items():
            if not records.given_id(dict(rows[at].headers)):
                ids[at] = f"{place}{offset}"
        headers = iter(
            records.rows_headers(
                [ids[at] for at in kept.tolist()],
                self.source,
                judged.event_time_ms[kept],
                arrived_at_ms[kept],
            )
        )
        events = topics.EVENTS.named(self.source).name
        outcomes = [
            self._refused(record, reasons, letters.get(at))
            if reasons
            else None
            if at in repeats
            else Outgoing(events, record.key, payload, next(headers), self.partition)
            for at, (record, payload, reasons) in enumerate(
                zip(rows, judged.payloads, judged.reasons, strict=True)
            )
        ]
        quality = self._quality.of(
            source, rows[-1], judged, kept, arrived_at_ms, repeats=len(repeats) if seen or repeats else None
        )
        return [*outcomes, *seen, *quality]

    def _letters(self, rows: Sequence[Any], judged: Judged) -> dict[int, int]:
        """Return the places of the rows that dead letters are sent again with, and the letters' offsets."""
        letters = replays(rows)
        for at in [at for at, offset in letters.items() if offset == NO_LETTER]:
            del letters[at]
            named = dict(rows[at].headers)[REPLAY_OF] or b""
            judged.reasons[at] = (*judged.reasons[at], wrong_replay(named, rows[at].topic, self.partition))
        return letters

    def _refused(self, record: Any, faults: Sequence[Fault], letter_offset: int | None) -> Outgoing:
        """Return the dead letter of a record; that of a letter that is sent again has the same id."""
        reasons = [Reason(code=r.code, field=r.field, value=r.value, message=r.message) for r in faults]
        letter = bus.dead_letter(
            record, service="ingestion", source=self.source, reasons=reasons, offset=letter_offset
        )
        if letter_offset is None:
            return letter
        return structs.replace(letter, headers=[*letter.headers, (REPLAY_OF, dict(letter.headers)["ce_id"])])

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


def _output(topic: topics.Topic[Any], message: Any, *, key: str, id: str, time_ms: int) -> Outgoing:
    return records.outgoing(topic, message, key=key, id=id, source="ingestion", time_ms=time_ms)
