"""What serving says outwards goes on, whatever one record is like, and ends when it is told to."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError
from trimtab_contracts import topics
from trimtab_contracts.serving.v1.serving_pb2 import PredictionBatch
from trimtab_runtime import bus
from trimtab_runtime.clock import iso
from trimtab_runtime.testing import eventually
from trimtab_serving import app, testing
from trimtab_serving.journal import Journal
from trimtab_serving.messages import Messages
from trimtab_serving.predictionlog import Answered
from trimtab_serving.producers import LogWriter
from trimtab_serving.testing import Instance

MODEL = testing.project().model.name
AT = iso(19_700 * 86_400_000 + 1)
MOST_BYTES = 2_000


class Producer:
    """Takes records as Kafka does, but none that is large."""

    def __init__(self) -> None:
        self.taken: list[PredictionBatch] = []

    async def send(self, topic: str, *, value: bytes, **_: Any) -> asyncio.Future[None]:
        if len(value) > MOST_BYTES:
            raise MessageSizeTooLargeError(f"it has {len(value)} bytes")
        self.taken.append(topics.PREDICTIONS.decode(value))
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def stop(self) -> None:
        """Have nothing to stop."""

    def keys(self) -> list[str]:
        return [key for batch in {each.id: each for each in self.taken}.values() for key in batch.keys]


def answered(instance: Instance, trip: str) -> Answered:
    """Answer a request, and return what of it is to be logged."""
    instance.predictions.predict(
        MODEL, [json.dumps({"trip": trip, "at": AT, "zone": 7, "distance": 1}).encode()]
    )
    [found] = [row for batch in instance.log.drain([]) for row, _ in batch.rows]
    return found


async def test_a_batch_that_no_broker_takes_is_left_out_and_those_around_it_are_sent(
    instance: Instance, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    producer = Producer()
    with Journal(tmp_path, 1 << 20) as journal:
        writer = LogWriter(instance.board, instance.log, journal, Messages("s", instance.clock))
        for trip in ("before", "x" * MOST_BYTES, "after"):
            instance.log.add(answered(instance, trip))
            await writer.flush()
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            shipping = tasks.create_task(writer.ship(producer))
            await writer.shipped()
            shipping.cancel()

    assert producer.keys() == ["before", "after"]
    assert "is left out, and its predictions are missing" in caplog.text


async def test_an_answer_that_cannot_be_logged_ends_nothing(
    instance: Instance, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Journal(tmp_path, 1 << 20) as journal:
        writer = LogWriter(instance.board, instance.log, journal, Messages("s", instance.clock))
        instance.log.add(answered(instance, "bad")._replace(event_time_ms=[10**30]))
        await writer.flush()
        instance.log.add(answered(instance, "good"))
        await writer.flush()

        assert len(journal.read()[0]) == 1
    assert f"1 predictions of {MODEL!r} cannot be logged" in caplog.text


async def test_what_is_told_to_end_ends_though_kafka_fails_in_that_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = asyncio.Event()

    async def start_producer(_: str) -> Producer:
        return Producer()

    async def loop(_: Any) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise KafkaConnectionError from None

    monkeypatch.setattr(bus, "start_producer", start_producer)
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        speaking = tasks.create_task(app._speak("", [loop]))
        await begun.wait()
        speaking.cancel()

    assert speaking.cancelled()


async def test_after_a_failure_it_is_said_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Producer] = []

    async def start_producer(_: str) -> Producer:
        begun.append(Producer())
        return begun[-1]

    async def loop(_: Any) -> None:
        if len(begun) == 1:
            raise KafkaConnectionError
        await asyncio.Event().wait()

    async def again() -> bool:
        return len(begun) == 2

    monkeypatch.setattr(bus, "start_producer", start_producer)
    monkeypatch.setattr(app, "_RECONNECT_S", 0.01)
    async with asyncio.TaskGroup() as tasks:
        speaking = tasks.create_task(app._speak("", [loop]))
        await eventually(again, what="another producer")
        speaking.cancel()
