"""A process that was paused in the middle of a transaction wakes after another has taken its partition over.

At whatever step it was paused, what it does next is refused, nothing of it is ever read, and the group's offset stays
where the new owner has put it. The steps after `partition joined` and `group joined` go to the broker with nothing but
the old epoch to be told by: aiokafka sends TxnOffsetCommit v0, which names no generation of the group.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from trimtab_runtime.pipeline import Pipeline, read_partition
from trimtab_runtime.records import Outgoing
from trimtab_runtime.testing import eventually

pytestmark = pytest.mark.real

EVENTS = 100


class Copy:
    """Writes what it reads."""

    def __init__(self, output: str) -> None:
        self._output = output

    async def restore(self) -> list[Outgoing]:
        return []

    def process(self, records: Sequence[Any]) -> list[Outgoing]:
        return [Outgoing(self._output, record.key, record.value, [], 0) for record in records]


class Place:
    """A partition of a topic of its own, the topic its copy goes to, and who copies."""

    def __init__(self, servers: str) -> None:
        name = uuid.uuid4().hex[:8]
        self.servers = servers
        self.service, self.input, self.output = f"copy-{name}", f"in-{name}", f"out-{name}"
        self.partition = TopicPartition(self.input, 0)

    async def fill(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.servers)
        await admin.start()
        await admin.create_topics([NewTopic(self.input, 1, 1), NewTopic(self.output, 1, 1)])
        await admin.close()
        async with AIOKafkaProducer(bootstrap_servers=self.servers, linger_ms=5) as producer:
            for number in range(EVENTS):
                await producer.send(self.input, b"%d" % number, partition=0)

    async def copied(self) -> list[bytes]:
        batches = [batch async for batch in read_partition(self.servers, self.output, 0)]
        return [record.value for batch in batches for record in batch]

    async def committed_all(self) -> int | None:
        """Return the offset that is committed, once that is behind all events."""
        offset = await self.committed()
        return offset if offset is not None and offset >= EVENTS else None

    async def committed(self) -> int | None:
        async with AIOKafkaConsumer(
            bootstrap_servers=self.servers, group_id=self.service, enable_auto_commit=False
        ) as consumer:
            offset: int | None = await consumer.committed(self.partition)
            return offset

    @asynccontextmanager
    async def new_owner(self) -> AsyncIterator[None]:
        """Have a pipeline take the partition over and copy all there is."""
        pipeline = Pipeline(
            self.servers,
            service=self.service,
            make_worker=lambda place: Copy(self.output),
            topics=[self.input],
            max_records=10,
            session_ms=1_000,
        )
        running = asyncio.get_running_loop().create_task(pipeline.run())

        async def all_copied() -> bool:
            return len(await self.copied()) >= EVENTS

        try:
            await eventually(all_copied, what="all copied by the new owner")
            yield
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


@pytest.fixture
async def place(kafka_servers: str) -> Place:
    place = Place(kafka_servers)
    await place.fill()
    return place


async def wake(paused: AIOKafkaProducer, place: Place, wakes_to: str) -> None:
    if wakes_to == "send":
        await paused.send_and_wait(place.output, b"from the woken", partition=0)
    if wakes_to == "offset":
        await paused.send_offsets_to_transaction({place.partition: 7}, place.service)
    await paused.commit_transaction()


@pytest.mark.parametrize("paused_after", ["begun", "partition joined", "group joined"])
@pytest.mark.parametrize("wakes_to", ["send", "offset", "commit"])
async def test_who_was_paused_in_a_transaction_can_add_and_commit_nothing_once_another_has_the_partition(
    place: Place, paused_after: str, wakes_to: str
) -> None:
    paused = AIOKafkaProducer(
        bootstrap_servers=place.servers,
        transactional_id=f"{place.service}/{place.input}/0",
        retry_backoff_ms=20,
    )
    await paused.start()
    try:
        await paused.begin_transaction()
        if paused_after != "begun":
            await paused.send_and_wait(place.output, b"from the paused", partition=0)
        if paused_after == "group joined":
            await paused.send_offsets_to_transaction({place.partition: 7}, place.service)
        nothing_in_it = paused_after == "begun" and wakes_to == "commit"

        async with place.new_owner():
            before = await eventually(place.committed_all, what="the last offset")
            if nothing_in_it:
                await paused.commit_transaction()  # a transaction that was never told of is nobody's
            else:
                with pytest.raises(KafkaError):
                    await wake(paused, place, wakes_to)

            assert await place.copied() == [b"%d" % number for number in range(EVENTS)]
            assert await place.committed() == before
    finally:
        with suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(5):
                await paused.stop()
        await paused.client.close()  # which stop() leaves open if it raises what fenced the producer
        ended = paused._txn_manager.wait_for_transaction_end()
        if ended.done():
            ended.exception()  # seen, so that asyncio does not report it
