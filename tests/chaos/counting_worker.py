"""A stateful stage for the chaos tests: counts by key, kept in no place but the topic that it publishes.

Every input record becomes one output record, in the partition of the same number: the key's count, the running number
of the partition and the input's place. So whoever reads the output sees each loss, each repeat and each stale state.
"""

import argparse
import asyncio
import json
import logging
import signal
from collections.abc import Sequence
from typing import Any

from aiokafka import TopicPartition
from trimtab_runtime.pipeline import Pipeline, read_partition
from trimtab_runtime.records import Outgoing


class Counts:
    """Counts of one partition's keys."""

    def __init__(self, servers: str, output: str, place: TopicPartition) -> None:
        self._servers = servers
        self._output = output
        self._partition = place.partition
        self._counts: dict[bytes, int] = {}
        self._number = 0

    async def restore(self) -> None:
        async for records in read_partition(self._servers, self._output, self._partition):
            for record in records:
                self._counts[record.key], self._number, _ = json.loads(record.value)

    def process(self, records: Sequence[Any]) -> list[Outgoing]:
        return [self._count(record) for record in records]

    def _count(self, record: Any) -> Outgoing:
        self._counts[record.key] = self._counts.get(record.key, 0) + 1
        self._number += 1
        value = json.dumps([self._counts[record.key], self._number, record.offset]).encode()
        return Outgoing(self._output, record.key, value, partition=self._partition)


async def run(told: argparse.Namespace) -> None:
    pipeline = Pipeline(
        told.servers,
        service=told.service,
        make_worker=lambda place: Counts(told.servers, told.output, place),
        topics=[told.input],
        max_records=told.max_records,
        session_ms=told.session_ms,
    )
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await pipeline.run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("servers", "service", "input", "output"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--max-records", type=int, default=50)
    parser.add_argument("--session-ms", type=int, default=1_000)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        asyncio.run(run(parser.parse_args()))
    except asyncio.CancelledError:
        logging.info("stopped")
