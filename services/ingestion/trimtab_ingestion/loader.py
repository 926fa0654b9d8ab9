"""Kafka door of tables: what they are read to be becomes tables.<table>, once.

One transaction holds a load's changes, its dead letters, what there is to say of it, and
last the load itself; so a load is there whole or not at all, and one that a killed
process had begun is begun anew. Tables are read in a thread of their own, for that may
take long; the tick of an idle partition takes what has been read.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import Any, Final, TypeVar

from trimtab_contracts import topics
from trimtab_contracts.ingestion.v1.ingestion_pb2 import DeadLetter, Reason, TableLoad
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Alert, Metric
from trimtab_core.lookup import Change, History
from trimtab_core.specs import Table, TableSpec
from trimtab_runtime import bus, records, tablelog
from trimtab_runtime.clock import Clock, to_timestamp
from trimtab_runtime.errors import TrimtabError
from trimtab_runtime.records import Outgoing
from trimtab_runtime.specbook import SpecBook

from trimtab_ingestion.errors import TableUnfit
from trimtab_ingestion.loading import Refused, judged
from trimtab_ingestion.seen import ReadPartition

HEARS = (topics.TABLES,)

log = logging.getLogger(__name__)

RETRY_MS: Final = 60_000
"""When a table that could not be loaded is tried again, if it is not due earlier."""

T = TypeVar("T")
Read = Callable[[TableSpec], list[dict[str, Any]]]
Start = Callable[[Callable[[], T]], "Future[T]"]


@dataclass(frozen=True, slots=True)
class _Load:
    """A load that can be written."""

    load: TableLoad
    changes: Sequence[Change]
    outputs: Sequence[Outgoing]


class Loader:
    """Work of the one partition of tables.<table>: it knows the table's history, and how the newest load went."""

    def __init__(
        self,
        book: SpecBook,
        read: Read,
        read_partition: ReadPartition,
        clock: Clock,
        topic: str,
        *,
        lead_ms: int,
        start: Start[_Load] | None = None,
    ) -> None:
        """What is read begins to count `lead_ms` later; `start` has a load done meanwhile, by default in a thread."""
        self.table = topics.TABLES.member(topic)
        self._book = book
        self._read = read
        self._read_partition = read_partition
        self._clock = clock
        self._topic = topic
        self._lead_ms = lead_ms
        self._start = start or in_thread
        self._history = History()
        self._newest = TableLoad()
        self._running: Future[_Load] | None = None

    async def restore(self) -> list[Outgoing]:
        """Read the history back."""
        async for batch in self._read_partition(self._topic, 0):
            self._newest = tablelog.apply(self._history, batch) or self._newest
        return []

    def process(self, batch: Sequence[Any]) -> list[Outgoing]:
        """Return what a load that has ended becomes, or begin one that is due; what comes was written here."""
        if (table := self._book.tables.get(self.table)) is None:
            return []
        if self._running is None:
            if self._is_due(table):
                self._running = self._start(partial(self._load, table, self._book.generation(table)))
            return []
        if not self._running.done():
            return []
        ended, self._running = self._running, None
        try:
            made = ended.result()
        except TrimtabError as error:
            return self._failed(table, error)
        if self._comes_too_late(made):
            log.warning("table %r is read again: what was read comes too late to count", self.table)
            return []
        for change in made.changes:
            self._history.apply(change)
        self._newest = made.load
        return list(made.outputs)

    def _comes_too_late(self, made: _Load) -> bool:
        """Whether it would be too near to the time from which it counts; a first load counts from ever."""
        if not made.changes or self._newest.loaded_ms == 0:
            return False
        return self._clock.now_ms() > made.load.effective_ms - self._lead_ms / 2

    def _is_due(self, table: Table) -> bool:
        if self._newest.generation != self._book.generation(table):
            return True
        wait_ms = min(table.spec.refresh, RETRY_MS) if self._newest.fault else table.spec.refresh
        return self._clock.now_ms() >= self._newest.tried_ms + wait_ms

    def _load(self, table: Table, generation: int) -> _Load:
        """Read the table and say what has changed; nothing else changes meanwhile."""
        found = judged(table.spec, self._read(table.spec))
        before, now_ms = self._newest, self._clock.now_ms()
        at_ms = max(now_ms + self._lead_ms, before.effective_ms + 1)
        known, is_first = frozenset(before.columns), before.loaded_ms == 0
        changes = found.changes(self._history, known, at_ms, is_first=is_first)
        load = TableLoad(
            generation=generation,
            loaded_ms=now_ms,
            effective_ms=at_ms if changes else before.effective_ms,
            rows=found.rows,
            columns=sorted(found.columns | known),
            refused=[each.digest for each in found.refused],
            tried_ms=now_ms,
        )
        written = [tablelog.change_record(self.table, change) for change in changes]
        if large := [change.key for change, each in zip(changes, written, strict=True) if _is_large(each)]:
            raise TableUnfit(
                f"the row of {large[0]!r} has more than {topics.MOST_ROW_BYTES} bytes: keep a reference to what is large"
            )
        refused = len(found.refused)
        letters = [each for each in found.refused if each.digest not in before.refused]
        outputs = [
            *written,
            *(self._letter(each, now_ms) for each in letters),
            self._metric("refused_share", refused / (found.rows + refused), load),
            self._metric("load_failed", 0.0, load),
            tablelog.load_record(self.table, load),
        ]
        if before.fault_kind:
            outputs.append(self._alert(f"table {self.table!r} is loaded again", now_ms, resolved=True))
        return _Load(load, changes, outputs)

    def _failed(self, table: Table, error: TrimtabError) -> list[Outgoing]:
        """Keep what was; of a failure there is an alert, and no second one of its kind until the table is well again."""
        load, kind = TableLoad(), type(error).__name__
        load.CopyFrom(self._newest)
        load.generation, load.tried_ms = self._book.generation(table), self._clock.now_ms()
        load.fault, load.fault_kind = str(error), kind
        outputs = [self._metric("load_failed", 1.0, load), tablelog.load_record(self.table, load)]
        if self._newest.fault_kind != kind:
            log.warning("table %r cannot be loaded, and stays what it was: %s", self.table, error)
            sentence = f"table {self.table!r} cannot be loaded, and stays what it was: {error}"
            outputs.append(self._alert(sentence, load.tried_ms))
        self._newest = load
        return outputs

    def _alert(self, sentence: str, at_ms: int, *, resolved: bool = False) -> Outgoing:
        alert = Alert(
            id=f"{self._topic}/{at_ms}/load",
            subject=self.table,
            severity="warning",
            kind="table",
            sentence=sentence,
            at=to_timestamp(at_ms),
            occasion=f"{self._topic}/load",
            resolved=resolved,
        )
        return self._output(topics.ALERTS, alert, at_ms)

    def _letter(self, refused: Refused, now_ms: int) -> Outgoing:
        letter = DeadLetter(
            id=f"{self._topic}/{refused.digest}",
            source=self.table,
            topic=self._topic,
            key=(refused.key or "").encode(),
            payload=refused.payload,
            reasons=[
                Reason(code=each.code, field=each.field, value=each.value, message=each.message)
                for each in refused.reasons
            ],
            arrived_at=to_timestamp(now_ms),
        )
        return self._output(topics.DEADLETTER, bus.fitting(letter), now_ms)

    def _metric(self, name: str, value: float, load: TableLoad) -> Outgoing:
        at = to_timestamp(load.tried_ms)
        metric = Metric(
            id=f"{self._topic}/{load.tried_ms}/{name}",
            model=self.table,
            name=name,
            value=value,
            window_from=at,
            window_to=at,
            rows=load.rows,
        )
        return self._output(topics.METRICS_QUALITY, metric, load.tried_ms)

    def _output(self, topic: topics.Topic[Any], message: Any, now_ms: int) -> Outgoing:
        return records.outgoing(
            topic, message, key=self.table, id=message.id, source="ingestion", time_ms=now_ms
        )


def _is_large(record: Outgoing) -> bool:
    return len(record.value or b"") > topics.MOST_ROW_BYTES


def in_thread(work: Callable[[], T]) -> "Future[T]":
    """Have `work` done by a thread that keeps nobody from ending."""
    ended: Future[T] = Future()

    def run() -> None:
        try:
            ended.set_result(work())
        except BaseException as error:  # whoever asks for the result is told
            ended.set_exception(error)

    Thread(target=run, name="table", daemon=True).start()
    return ended
