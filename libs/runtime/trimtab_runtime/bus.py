"""From Kafka to effects, at least once: how a service hears the topics of the table.

An offset is committed only after the effect of its record. `Rejected` makes a dead
letter, `Unavailable` is waited out for as long as it takes, and any other error is
tried a few times and then made a dead letter too; an outage never is. A partition is
paused while its records are at work, so one that waits holds up no other and the
process stays in its group however long it takes.
"""

import asyncio
import logging
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from google.protobuf.message import Message
from msgspec import structs
from trimtab_contracts.ingestion.v1.ingestion_pb2 import DeadLetter, Reason
from trimtab_contracts.topics import DEADLETTER, MOST_ROW_BYTES, Topic, Undecodable

from trimtab_runtime import producing, records, telemetry
from trimtab_runtime.clock import to_timestamp
from trimtab_runtime.errors import Rejected, Unavailable
from trimtab_runtime.lifecycle import finish
from trimtab_runtime.records import Outgoing, Record
from trimtab_runtime.starting import member, started

M = TypeVar("M", bound=Message)
log = logging.getLogger(__name__)

CUT = "cut"
"""The code of the reason by which a dead letter says that it is not whole."""
SMALLER = (524_288, 65_536, 8_192)
"""How many bytes of its payload a dead letter keeps, where Kafka refuses what our topics are made to take."""
_SHORTENED = re.compile(r"… \(([\d,]+) characters\)$")
_LEAST_TOLD = 4_096
ATTEMPTS = 5
_BACKOFF_S = (0.05, 0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Subscription(Generic[M]):
    """A topic and what is done with some of its records, in order, all or none.

    `handler` takes records of one partition. It must be idempotent: records come
    again after a crash, and one by one after a batch was refused.
    """

    topic: Topic[M]
    handler: Callable[[Sequence[Record[M]]], Awaitable[None]]


def each(topic: Topic[M], handler: Callable[[M, Record[M]], Awaitable[None]]) -> Subscription[M]:
    """Subscribe a handler that takes one message at a time, in a span that continues the record's trace."""

    async def one_by_one(batch: Sequence[Record[M]]) -> None:
        for record in batch:
            with telemetry.span(f"{record.topic} receive", parent=record.traceparent):
                await handler(record.message, record)

    return Subscription(topic, one_by_one)


async def start_producer(servers: str, *, linger_ms: int = 2) -> AIOKafkaProducer:
    """Return a started idempotent producer: what it has acknowledged is written once."""
    try:
        return await producing.start(servers, linger_ms=linger_ms, max_batch_size=131_072)
    except KafkaError as error:
        raise Unavailable(f"no Kafka answers at {servers}: {error}") from error


@asynccontextmanager
async def open_producer(servers: str, *, linger_ms: int = 2) -> AsyncIterator[AIOKafkaProducer]:
    """Have a producer as `start_producer` makes it, and stop it whole in the end."""
    producer = await start_producer(servers, linger_ms=linger_ms)
    try:
        yield producer
    finally:
        await finish(producer.stop())


async def consume(
    servers: str,
    service: str,
    subscriptions: Sequence[Subscription[Any]],
    *,
    max_records: int = 500,
    ready: asyncio.Event | None = None,
) -> None:
    """Hear `subscriptions` as the consumer group `service` until cancelled.

    Handlers of several partitions run side by side, those of one in order.
    """
    by_name = {subscription.topic.name: subscription for subscription in subscriptions}
    # A partition that left and came back while its records were at work may have two batches in hand.
    turns: defaultdict[TopicPartition, asyncio.Lock] = defaultdict(asyncio.Lock)

    def make() -> AIOKafkaConsumer:
        return member(servers, service, *by_name)

    async def work(place: TopicPartition, batch: Sequence[Any]) -> None:
        async with turns[place]:
            await settle(by_name[place.topic], batch, producer, service)
            await _commit(consumer, {place: batch[-1].offset + 1})
        if place in consumer.assignment():
            consumer.resume(place)

    async with (
        open_producer(servers) as producer,
        started(make, service) as consumer,
        asyncio.TaskGroup() as tasks,
    ):
        if ready is not None:
            ready.set()
        while True:
            batches = await consumer.getmany(timeout_ms=500, max_records=max_records)
            for place, batch in batches.items():
                consumer.pause(place)
                tasks.create_task(work(place, batch))


async def _commit(consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]) -> None:
    try:
        await consumer.commit(dict(offsets))
    except KafkaError as error:
        # The partition went to another member: it will see the records again, and their effects are idempotent.
        log.warning("offsets %s were not committed: %s", offsets, error)


async def settle(
    subscription: Subscription[Any], batch: Sequence[Any], producer: AIOKafkaProducer, service: str
) -> None:
    """Bring about the effect of every raw record of `batch`, or its dead letter; an outage is waited out."""
    readable = []
    for raw in batch:
        if raw.value is None:
            continue
        try:
            readable.append(records.read(subscription.topic, raw))
        except Undecodable as error:
            await bury(producer, service, raw, "undecodable", str(error))
    if readable:
        await _handle(
            subscription,
            readable,
            {record.offset: raw for record, raw in _pair(readable, batch)},
            producer,
            service,
        )


def _pair(readable: Sequence[Record[Any]], batch: Sequence[Any]) -> list[tuple[Record[Any], Any]]:
    raw = {record.offset: record for record in batch}
    return [(record, raw[record.offset]) for record in readable]


async def _handle(
    subscription: Subscription[Any],
    batch: Sequence[Record[Any]],
    raw: Mapping[int, Any],
    producer: AIOKafkaProducer,
    service: str,
) -> None:
    outages = faults = 0
    while True:
        try:
            return await subscription.handler(batch)
        except Unavailable as error:
            outages += 1
            log.warning("%s waits: %s", subscription.topic.name, error)
        except Rejected as error:
            if len(batch) == 1:
                return await bury(producer, service, raw[batch[0].offset], "rejected", str(error))
            break
        except Exception as error:  # the edge of the loop: one record must not stop the stream
            faults += 1
            log.exception("%s failed on %s, try %d", subscription.topic.name, batch[0].id, faults)
            if faults >= ATTEMPTS:
                if len(batch) == 1:
                    return await bury(
                        producer, service, raw[batch[0].offset], "failed", f"{type(error).__name__}: {error}"
                    )
                break
        await asyncio.sleep(_BACKOFF_S[min(outages + faults, len(_BACKOFF_S)) - 1])
    for record in batch:
        await _handle(subscription, [record], raw, producer, service)
    return None


async def bury(producer: AIOKafkaProducer, service: str, raw: Any, code: str, message: str) -> None:
    """Make a dead letter of a raw record, with one reason, and wait until Kafka has it, however long that takes."""
    log.error("dead letter %s/%d/%d: %s", raw.topic, raw.partition, raw.offset, message)
    reasons = [Reason(code=code, message=message)]
    letter = dead_letter(raw, service=service, source=raw.topic, reasons=reasons)
    smaller = list(SMALLER)
    while True:
        try:
            return await records.send_all(producer, [letter])
        except KafkaError as error:
            log.warning("dead letter %s/%d/%d waits: %r", raw.topic, raw.partition, raw.offset, error)
            if isinstance(error, MessageSizeTooLargeError) and smaller:
                letter = cut(letter, smaller.pop(0))
            else:
                await asyncio.sleep(_BACKOFF_S[-1])


def dead_letter(
    raw: Any,
    *,
    service: str,
    source: str,
    reasons: Sequence[Reason],
    offset: int | None = None,
) -> Outgoing:
    """Return the dead letter of a raw aiokafka record; its id is the record's place, so a second one is the same.

    `offset` is that of the record which was refused first, where `raw` is that one sent again. What is too large to
    travel on is cut as `fitting` does; the whole of it lies at that place.
    """
    offset = raw.offset if offset is None else offset
    letter = DeadLetter(
        id=f"{raw.topic}/{raw.partition}/{offset}",
        source=source,
        topic=raw.topic,
        partition=raw.partition,
        offset=offset,
        key=raw.key or b"",
        payload=raw.value or b"",
        reasons=reasons,
        arrived_at=to_timestamp(records.origin(raw).arrived_at_ms),
        row_id=records.given_id(dict(raw.headers)),
        content_type=records.content_type(raw),
    )
    fitting(letter)
    return records.outgoing(
        DEADLETTER,
        letter,
        key=letter.key.decode(errors="replace"),
        id=letter.id,
        source=service,
        time_ms=raw.timestamp,
    )


def cut(record: Outgoing, most: int) -> Outgoing:
    """Return a record that Kafka refused as too large, cut as `fitting` does if it is a dead letter, and else as it is."""
    if record.topic != DEADLETTER.name or record.value is None:
        return record
    letter = DEADLETTER.decode(record.value)
    whole = letter.key
    fitting(letter, most)
    if letter.key == whole:
        return structs.replace(record, value=DEADLETTER.encode(letter))
    key = letter.key.decode(errors="replace").encode()
    headers = [(name, key if name == "ce_subject" else value) for name, value in record.headers]
    return structs.replace(record, key=key, value=DEADLETTER.encode(letter), headers=headers)


def _shortened(text: str, characters: int) -> str:
    """Return the beginning of a text that is longer, and how long it was before it was shortened at all."""
    if len(text) <= characters:
        return text
    before = _SHORTENED.search(text)
    kept, whole = (text[: before.start()], before[1]) if before else (text, f"{len(text):,}")
    return f"{kept[:characters]}… ({whole} characters)"


def fitting(letter: DeadLetter, most: int = MOST_ROW_BYTES) -> DeadLetter:
    """Cut what of a letter is too large for a record, and return it: of the payload `most` bytes stay.

    Of the key so much stays that it fits three times, twice as text, and of the reasons so much that JSON may need six
    bytes for each. A reason of the code `cut` says of payload and key how large they were.
    """
    most_key, most_told = most // 64, max(most // 16, _LEAST_TOLD)
    if letter.ByteSize() <= most_key:
        return letter
    told = [reason for reason in letter.reasons if reason.code != CUT]
    if sum(reason.ByteSize() for reason in told) > most_told:
        characters = most_told // (12 * len(told))  # of up to four bytes, in each of three texts
        for reason in told:
            reason.field, reason.value, reason.message = (
                _shortened(text, characters) for text in (reason.field, reason.value, reason.message)
            )
    for name, kept in (("payload", most), ("key", most_key)):
        whole: bytes = getattr(letter, name)
        if len(whole) > kept:
            setattr(letter, name, whole[:kept])
            before = next((each for each in letter.reasons if (each.code, each.field) == (CUT, name)), None)
            reason = before or letter.reasons.add(code=CUT, field=name, value=str(len(whole)))
            reason.message = (
                f"only the first {kept:,} of the {int(reason.value):,} bytes of its {name} are kept"
            )
    return letter
