"""Reading up to an end: all of it, and no waiting for ever."""

from typing import Any

import pytest
from aiokafka import TopicPartition
from trimtab import reading
from trimtab_runtime.errors import Unavailable

ONE, OTHER = TopicPartition("t", 0), TopicPartition("t", 1)


class Consumer:
    """Gives the batches that it is made with, one at a time, and then nothing."""

    def __init__(self, *batches: tuple[TopicPartition, list[str]]) -> None:
        self.batches, self.at = list(batches), {ONE: 0, OTHER: 0}

    async def position(self, place: TopicPartition) -> int:
        return self.at[place]

    async def getmany(self, timeout_ms: int) -> dict[TopicPartition, list[str]]:
        if not self.batches:
            return {}
        place, batch = self.batches.pop(0)
        self.at[place] += len(batch)
        return {place: batch}


async def read(consumer: Any, ends: dict[TopicPartition, int]) -> list[str]:
    return [record async for batch in reading.up_to(consumer, ends, servers="k:9092") for record in batch]


async def test_all_partitions_are_read_to_their_ends() -> None:
    consumer = Consumer((OTHER, ["a"]), (ONE, ["b", "c"]), (OTHER, ["d"]))

    assert await read(consumer, {ONE: 2, OTHER: 2}) == ["a", "b", "c", "d"]
    assert await read(Consumer(), {ONE: 0}) == []


async def test_a_kafka_that_goes_away_meanwhile_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PATIENCE_S", 0.0)

    with pytest.raises(Unavailable, match="Kafka at k:9092 gives no more of t"):
        await read(Consumer((ONE, ["a"])), {ONE: 1, OTHER: 1})
