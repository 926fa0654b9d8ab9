"""Kafka door of serving for models that `score: [stream]`: events in, what is said of them out.

Each partition of events.<source> is scored by one process of the group. What a batch
becomes, on `predictions`, on scores.<source> and on raw.<source> of the sources that are
made of a model's predictions, and the offset after it are one transaction, and a
prediction's id is that of its event's place: so every event that a model had a version
for is in the log once, whatever is killed. It is answered as a request is: from the
board, with the same arms.

In the log each partition of events is a writer of its own, whose watermark is that of
its events; whoever scores it next goes on with that.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any

from aiokafka import TopicPartition
from trimtab_contracts import topics
from trimtab_contracts.ingestion.v1.ingestion_pb2 import Reason
from trimtab_core.specs import Source
from trimtab_runtime import bus, records
from trimtab_runtime.clock import Clock
from trimtab_runtime.errors import Conflict, NotFound, Overloaded, Unavailable
from trimtab_runtime.featurelog import partition_of
from trimtab_runtime.pipeline import Broken, Pipeline
from trimtab_runtime.records import Outgoing
from trimtab_runtime.specbook import SpecBook

from trimtab_serving import carrying
from trimtab_serving.messages import Messages
from trimtab_serving.meter import Meter
from trimtab_serving.predictionlog import Answered, Batch, PredictionLog, pieces
from trimtab_serving.snapshot import Board
from trimtab_serving.usecases import Answer, Predictions

HEARS = (topics.EVENTS,)
GROUP = "serving-stream"

log = logging.getLogger(__name__)

_MOST_RECORDS = 500
_AGAIN_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class _Scored:
    """Some events of one batch that one snapshot answered together."""

    answer: Answer
    answered: Answered
    events: Sequence[Any]


class Streams:
    """Which events are scored, and by whom; only the control plane calls it."""

    def __init__(
        self,
        servers: str,
        book: SpecBook,
        board: Board,
        is_wanted: Callable[[str], bool],
        meter: Meter,
        clock: Clock,
    ) -> None:
        """`is_wanted` says whether a model that does not answer is to: its version is on its way, or cannot be loaded."""
        self.board = board
        self.is_wanted = is_wanted
        self.meter = meter
        self.clock = clock
        self._book = book
        self._models: Mapping[str, Sequence[str]] = {}
        self._made_of: Mapping[str, Sequence[Source]] = {}
        self._pipeline = Pipeline(
            servers, service=GROUP, make_worker=self._worker, max_records=_MOST_RECORDS, from_now=True
        )

    def update(self) -> None:
        """Follow the book: score the events of all sources that a model asks it for."""
        found = defaultdict(list)
        for name, model in self._book.models.items():
            if "stream" in model.spec.score and model.spec.source in self._book.sources:
                found[model.spec.source].append(name)
        made_of = defaultdict(list)
        for source in self._book.sources.values():
            if source.spec.predictions_of is not None:
                made_of[source.spec.predictions_of].append(source)
        self._models, self._made_of = found, made_of
        self._pipeline.set_topics([topics.EVENTS.named(source).name for source in found])

    def models_of(self, source: str) -> Sequence[str]:
        """Return the models that score the events of a source."""
        return self._models.get(source, ())

    def made_of(self, model: str) -> Sequence[Source]:
        """Return the sources whose events are the predictions of a model."""
        return self._made_of.get(model, ())

    async def run(self) -> None:
        """Score until cancelled; what cannot be scored on stops no request."""
        while True:
            try:
                await self._pipeline.run()
            except Broken:
                log.exception("events are not scored for %s s", _AGAIN_AFTER_S)
                await asyncio.sleep(_AGAIN_AFTER_S)

    def _worker(self, place: TopicPartition) -> "Worker":
        return Worker(self, topics.EVENTS.member(place.topic), place.partition)


class Worker:
    """Scores the events of one partition, while it is ours."""

    def __init__(self, streams: Streams, source: str, partition: int) -> None:
        self._streams = streams
        self._source = source
        self._partition = partition
        self._instance = f"stream/{source}/{partition}"
        self._messages = Messages(self._instance, streams.clock)
        self._caught = _Caught()
        self._predictions = Predictions(streams.board, self._caught, streams.meter, streams.clock)
        self._watermark_ms = 0
        self._ready: list[Outgoing] = []

    async def restore(self) -> Sequence[Outgoing]:
        """Have nothing to restore: the board is everybody's."""
        return []

    async def prepare(self, batch: Sequence[Any]) -> None:
        """Score a batch, on a thread of its own.

        Raises:
            Unavailable: a model that is to answer cannot yet.
        """
        events = [record for record in batch if not records.is_watermark(record)]
        marks = [
            records.origin(record).event_time_ms or 0 for record in batch if records.is_watermark(record)
        ]
        watermark_ms = max([self._watermark_ms, *marks])
        moved = watermark_ms > self._watermark_ms
        models = self._streams.models_of(self._source)
        # Before any is asked: what one said would be lost, and computed again, while another is waited for.
        answering = {model for model in models if self._answers(model)}
        ready: list[Outgoing] = []
        for model in models:
            if model in answering and self._answers(model):  # it may have been withdrawn since
                refused: list[Outgoing] = []
                scored = await asyncio.to_thread(self._score, model, events, refused)
                ready += [
                    *refused,
                    *self._log(model, scored, watermark_ms, moved=moved),
                    *self._scores(model, scored),
                    *self._carried(model, scored),
                ]
            if moved:
                ready += [
                    carrying.watermark(made, watermark_ms, self._partition)
                    for made in self._streams.made_of(model)
                ]
        self._watermark_ms, self._ready = watermark_ms, ready

    def process(self, batch: Sequence[Any]) -> Sequence[Outgoing]:
        """Return what the batch became."""
        ready, self._ready = self._ready, []
        return ready

    def _answers(self, model: str) -> bool:
        """Return whether a model answers; one that has no version yet has nothing to say of these events, nor later.

        Raises:
            Unavailable: it is to answer, and cannot yet.
        """
        board = self._streams.board.current
        if model not in board.served and self._streams.is_wanted(model):
            why = board.silent.get(model, "it is being loaded")
            raise Unavailable(f"events of {self._source!r} wait for model {model!r}: {why}")
        return model in board.served

    def _score(self, model: str, events: Sequence[Any], refused: list[Outgoing]) -> list[_Scored]:
        """Return what is said of events; of a batch that fails each is asked about alone, and a dead letter if that fails."""
        if not events:
            return []
        try:
            answer = self._predictions.predict(model, [event.value or b"" for event in events])
        except (Conflict, NotFound, Overloaded, Unavailable) as error:  # it passes, and events can wait
            raise Unavailable(str(error)) from error
        except Exception as error:  # whatever one event brings about, the others are answered
            if len(events) > 1:
                return [scored for event in events for scored in self._score(model, [event], refused)]
            log.error("event %s of %s cannot be scored: %s", events[0].offset, self._source, error)
            refused.append(self._letter(model, events[0], error))
            return []
        answered = self._caught.take()
        ids = [_id(model, event) for event in events]
        return [_Scored(answer._replace(ids=ids), answered._replace(ids=ids), events)]

    def _log(
        self, model: str, scored: Sequence[_Scored], watermark_ms: int, *, moved: bool
    ) -> Iterable[Outgoing]:
        """Return the batches of the prediction log: one at least for each partition if the watermark has moved."""
        partitions = topics.PREDICTIONS.partitions
        found: dict[int, list[list[tuple[Answered, int]]]] = defaultdict(list)
        for each in scored:
            of_one: dict[int, list[tuple[Answered, int]]] = defaultdict(list)
            for at, key in enumerate(each.answered.keys):
                of_one[partition_of(key, partitions)].append((each.answered, at))
            for number, rows in of_one.items():
                found[number].append(rows)
        for number in range(partitions):
            cut = pieces(found.get(number, [])) or ([[]] if moved else [])
            for at, rows in enumerate(cut):
                until_ms = watermark_ms if at == len(cut) - 1 else 0
                yield self._messages.predictions(Batch(model, number, until_ms, rows))

    def _scores(self, model: str, scored: Sequence[_Scored]) -> Iterable[Outgoing]:
        topic = topics.SCORES.named(self._source)
        for each in scored:
            for at, event in enumerate(each.events):
                time_ms = each.answered.event_time_ms[at]
                yield self._messages.score(topic, model, each.answer, at, event, time_ms)

    def _carried(self, model: str, scored: Sequence[_Scored]) -> Iterable[Outgoing]:
        for source in self._streams.made_of(model):
            for each in scored:
                yield from carrying.rows(source, each.answer, each.events, each.answered.event_time_ms)

    def _letter(self, model: str, event: Any, error: Exception) -> Outgoing:
        reason = Reason(code="not_scored", message=f"model {model!r} cannot score it: {error}")
        return bus.dead_letter(event, service=self._instance, source=self._source, reasons=[reason])


class _Caught(PredictionLog):
    """Takes what is to be logged of one question at a time, for it goes out with the offset and not by itself."""

    def __init__(self) -> None:
        super().__init__(
            partial(partition_of, partitions=topics.PREDICTIONS.partitions), topics.PREDICTIONS.partitions
        )
        self._answered: list[Answered] = []

    def add(self, answered: Answered) -> None:
        """Keep an answer."""
        self._answered.append(answered)

    def take(self) -> Answered:
        """Return the answer."""
        self.drain([])  # the tickets of the questions
        return self._answered.pop()


def _id(model: str, event: Any) -> str:
    """Return what a prediction is called: the same whenever the event at this place is scored."""
    place = f"{model}\0{event.topic}\0{event.partition}\0{event.offset}"
    return blake2b(place.encode(), digest_size=16).hexdigest()
