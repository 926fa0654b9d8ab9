"""The least that a stage can do: consume and produce in transactions of 500 records, with aiokafka and nothing else.

Told by a line on standard input how many records to carry, it answers with the CPU seconds that this took it.
"""

import asyncio
import sys
import time
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

RECORDS_A_TRANSACTION = 500


async def main(servers: str, source: str, target: str) -> None:
    consumer = AIOKafkaConsumer(
        source,
        bootstrap_servers=servers,
        group_id="bare",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=servers, transactional_id="bare", max_batch_size=131_072, retry_backoff_ms=20
    )
    await consumer.start()
    await producer.start()
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            began = time.process_time()
            await carry(consumer, producer, target, int(line))
            print(time.process_time() - began, flush=True)
    finally:
        await consumer.stop()
        await producer.stop()


async def carry(consumer: Any, producer: Any, target: str, count: int) -> None:
    """Carry `count` records over."""
    while count > 0:
        batches = await consumer.getmany(timeout_ms=1_000, max_records=RECORDS_A_TRANSACTION)
        if not batches:
            continue
        async with producer.transaction():
            sent = [
                await producer.send(target, each.value, each.key, each.partition, headers=list(each.headers))
                for batch in batches.values()
                for each in batch
            ]
            offsets = {place: batch[-1].offset + 1 for place, batch in batches.items()}
            await producer.send_offsets_to_transaction(offsets, "bare")
            for future in sent:
                await future
        count -= len(sent)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
