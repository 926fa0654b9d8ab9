"""A counting stage in a process of its own: counts by key, kept nowhere but in the topic that it publishes.

Every input record has an effect: a record in the partition of the same number that says
its place, and its key's count so far. A loss, a repeat or a stale state shows there.
On SIGUSR1 it stops itself with a batch in its hands, and on SIGCONT goes straight on to
commit it: a zombie that cannot know of what came between.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
from collections.abc import Sequence
from typing import Any

from aiokafka import TopicPartition
from trimtab_runtime.pipeline import Pipeline, read_partition
from trimtab_runtime.records import Outgoing


class Counts:
    """Counts of the keys of one partition."""

    stop_at_next_batch = False

    def __init__(self, told: argparse.Namespace, place: TopicPartition) -> None:
        self._told = told
        self._partition = place.partition
        self._counts: dict[bytes, int] = {}

    async def restore(self) -> list[Outgoing]:
        async for records in read_partition(self._told.servers, self._told.state, self._partition):
            for record in records:
                self._counts[record.key] = int(record.value)
        return []

    def process(self, records: Sequence[Any]) -> list[Outgoing]:
        effects, changed = [], set()
        for record in records:
            count = self._counts[record.key] = self._counts.get(record.key, 0) + 1
            changed.add(record.key)
            value = json.dumps([record.offset, count]).encode()
            effects.append(Outgoing(self._told.effects, record.key, value, partition=self._partition))
        if Counts.stop_at_next_batch:
            Counts.stop_at_next_batch = False
            os.kill(os.getpid(), signal.SIGSTOP)
        return effects + [
            Outgoing(self._told.state, key, b"%d" % self._counts[key], partition=self._partition)
            for key in changed
        ]


async def run(told: argparse.Namespace) -> None:
    pipeline = Pipeline(
        told.servers,
        service=told.service,
        make_worker=lambda place: Counts(told, place),
        topics=[told.input],
        max_records=50,
        session_ms=told.session_ms,
    )
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    loop.add_signal_handler(signal.SIGUSR1, lambda: setattr(Counts, "stop_at_next_batch", True))
    logging.info("at work")
    await pipeline.run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("servers", "service", "input", "state", "effects"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--session-ms", type=int, required=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        asyncio.run(run(parser.parse_args()))
    except asyncio.CancelledError:
        logging.info("stopped")
