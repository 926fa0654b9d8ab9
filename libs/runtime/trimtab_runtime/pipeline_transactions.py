"""The transactions of one input partition: its outputs and its consumed offset, kept together or not at all.

Opening fences every older writer of the same name and ends what it left undone, so whatever is read after `open`
stays true until this writer is itself fenced. A batch that Kafka refused is never committed around.
"""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import InvalidProducerEpoch, KafkaError, ProducerClosed, ProducerFenced
from aiokafka.partitioner import murmur2

from trimtab_runtime.errors import TrimtabError, Unavailable

_BATCH_BYTES = 524_288
_COMMIT_LIMIT_S = 60.0
_CLOSE_LIMIT_S = 2.0


@dataclass(frozen=True, slots=True)
class Output:
    """A record to write; without `partition` the key decides, as in every Kafka client."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    partition: int | None = None


class Fenced(TrimtabError):
    """Another writer took over, or the broker gave up on the transaction; nothing of it was written."""


class Transactions:
    """Writes under one transactional id; of all that were ever opened under it only the newest can commit."""

    def __init__(self, servers: str, *, transactional_id: str, group: str, timeout_ms: int) -> None:
        self._group = group
        self._id = transactional_id
        self._producer = AIOKafkaProducer(
            bootstrap_servers=servers,
            transactional_id=transactional_id,
            transaction_timeout_ms=timeout_ms,
            max_batch_size=_BATCH_BYTES,
            compression_type="lz4",
            retry_backoff_ms=20,
            request_timeout_ms=20_000,
            metadata_max_age_ms=30_000,
        )

    async def open(self) -> None:
        """Fence older writers and end their transactions; then it may be read where they got to.

        Raises:
            KafkaError: no broker answers.
        """
        await self._producer.start()

    async def commit(self, outputs: Sequence[Output], place: TopicPartition, offset: int) -> None:
        """Write `outputs` and that `place` is consumed up to `offset`, or nothing.

        After an error it is over: close it and open another.

        Raises:
            Fenced: a newer writer has taken over, or the transaction took longer than its time-out.
            Unavailable: Kafka refused it or did not answer; a newly opened writer can tell whether it was committed.
            TypeError, ValueError: an output cannot be written.
        """
        batches = await self._pack(outputs)
        try:
            async with asyncio.timeout(_COMMIT_LIMIT_S):
                await self._write(batches, place, offset)
        except (ProducerFenced, InvalidProducerEpoch) as error:
            raise Fenced(f"{self._id} has a newer writer, or its transaction timed out") from error
        except (
            KafkaError,
            TimeoutError,
            AssertionError,
        ) as error:  # aiokafka asserts that the writer is not broken
            cause = error.__cause__ or error
            raise Unavailable(f"the transaction of {self._id} failed: {cause!r}") from cause

    async def close(self) -> None:
        """Let go of the connection; a transaction still open is aborted if that is quickly done, else left to the next."""
        with suppress(
            KafkaError, TimeoutError, AssertionError
        ):  # no transaction is open, or no broker answers
            async with asyncio.timeout(_CLOSE_LIMIT_S):
                await self._producer.abort_transaction()
        try:
            async with asyncio.timeout(_CLOSE_LIMIT_S):
                await self._producer.stop()
        except (TimeoutError, KafkaError):
            # stop() waits for what can no longer be delivered, and gives no way to drop it.
            self._producer._message_accumulator.fail_all(ProducerClosed())
            with suppress(TimeoutError, KafkaError):
                async with asyncio.timeout(_CLOSE_LIMIT_S):
                    await self._producer._sender.close()
            await self._producer.client.close()

    async def _write(
        self, batches: Sequence[tuple[str, int, Any]], place: TopicPartition, offset: int
    ) -> None:
        producer = self._producer
        await producer.begin_transaction()
        sent: list[asyncio.Future[Any]] = []
        try:
            for topic, partition, batch in batches:
                sent.append(await producer.send_batch(batch, topic, partition=partition))
            await producer.send_offsets_to_transaction({place: offset}, self._group)
            for delivered in sent:  # commit_transaction would commit around a batch that was refused
                await delivered
        except BaseException:
            for delivered in sent:
                if not delivered.cancel() and not delivered.cancelled():
                    delivered.exception()  # seen, so that asyncio does not report it
            raise
        await producer.commit_transaction()

    async def _pack(self, outputs: Sequence[Output]) -> list[tuple[str, int, Any]]:
        """Return batches by topic and partition, the records of each in order."""
        counts = await self._partition_counts({output.topic for output in outputs})
        keyless = {topic: random.randrange(count) for topic, count in counts.items()}
        batches: list[tuple[str, int, Any]] = []
        filling: dict[tuple[str, int], Any] = {}
        for output in outputs:
            count, partition = counts[output.topic], output.partition
            if partition is None:
                partition = keyless[output.topic] if output.key is None else _hash(output.key) % count
            elif not 0 <= partition < count:
                raise ValueError(
                    f"topic {output.topic} has {count} partitions, so none is number {partition}"
                )
            target = (output.topic, partition)
            batch = filling.get(target)
            if batch is None or not _append(batch, output):
                batch = filling[target] = self._producer.create_batch()
                batches.append((*target, batch))
                _append(batch, output)  # a new batch takes one record of any size
        return batches

    async def _partition_counts(self, topics: set[str]) -> dict[str, int]:
        try:
            return {topic: len(await self._producer.partitions_for(topic)) for topic in topics}
        except KafkaError as error:
            raise Unavailable(f"{self._id} cannot write to {sorted(topics)}: {error!r}") from error


def _append(batch: Any, output: Output) -> bool:
    """Add `output` to `batch`, unless it is full."""
    return (
        batch.append(key=output.key, value=output.value, timestamp=None, headers=list(output.headers))
        is not None
    )


@lru_cache(maxsize=65_536)
def _hash(key: bytes) -> int:
    return int(murmur2(key)) & 0x7FFFFFFF
