"""The Faust door, over a real Kafka that comes late, dies and comes back."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from trimtab_contracts import topics
from trimtab_monitoring import news
from trimtab_monitoring.stream import PolicyStream
from trimtab_monitoring.usecases.entities import Command, Drift
from trimtab_runtime import admin, bus, records
from trimtab_runtime.testing import eventually
from trimtab_stack import ports
from trimtab_stack.kafka import Kafka

DAY = 86_400_000


def a_drift(episode: str, at_ms: int) -> Drift:
    return Drift(
        episode=episode, model="m", version=1, kind="data", at_ms=at_ms, from_ms=at_ms - DAY, rows=100, score=0.4,
        threshold=0.2, severity=2.0, features=(), summary="it moved", report="", recorded_ms=4_000,
    )  # fmt: skip


@pytest.mark.real
async def test_drift_is_answered_by_a_kafka_that_came_late_and_by_one_that_came_back(
    world: Any, tmp_path: Path
) -> None:
    kafka = Kafka(tmp_path / "kafka", ports.choose(set()))

    async def come() -> None:
        await asyncio.to_thread(kafka.start)
        await admin.ensure_topics(kafka.servers, [topics.DRIFT])

    async def answers(episode: str, at_ms: int) -> None:
        async def answered() -> bool:
            return any(command.episode == episode for command in world.told(Command)) or (
                (loop := await world.store.find_loop(episode)) is not None and loop.state != "triggered"
            )

        async with bus.open_producer(kafka.servers, linger_ms=0) as producer:
            await records.send_all(producer, news.outgoing([a_drift(episode, at_ms)]))
        await eventually(answered, what=f"an answer to {episode}")

    stream = PolicyStream(kafka.servers, world.retraining, None, folder=tmp_path / "faust")
    ready = asyncio.Event()
    running = asyncio.create_task(stream.run(ready))  # noqa: TID251 - it is ended below, whatever it does
    try:
        await come()
        await answers("first", 10 * DAY)
        assert ready.is_set()
        kafka.kill()
        await come()
        await answers("second", 20 * DAY)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        kafka.kill()
