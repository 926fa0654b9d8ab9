"""Faust door of monitoring: drift in, at most one retrain command out.

Faust would acknowledge a record whose agent has raised or was cut off, so the agent
acknowledges by itself, once the effect is stored or the record is a dead letter. It
holds no table; the inbox row in the effect's transaction tells a repeated event. Faust
ends where its look for Kafka finds none: it is begun once Kafka is there, and again.
"""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faust
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from trimtab_contracts import topics
from trimtab_contracts.monitoring.v1.monitoring_pb2 import DriftEvent
from trimtab_runtime import bus
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.lifecycle import finish
from trimtab_runtime.records import Record
from trimtab_runtime.starting import AGAIN_AFTER_S, naming_no_brokers, started

from trimtab_monitoring import messages
from trimtab_monitoring.news import SOURCE
from trimtab_monitoring.usecases.retraining import Retraining

log = logging.getLogger(__name__)

HEARS = (topics.DRIFT,)

APPLICATION = "monitoring-stream"
"""Faust's consumer group: it cannot share one with other clients."""


@dataclass(frozen=True, slots=True)
class _Raw:
    """A record as Faust fetched it, in the form that `bus` reads."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Any
    timestamp: int


class PolicyStream:
    """The Faust application, embedded in the service's own event loop."""

    def __init__(
        self,
        servers: str,
        retraining: Retraining,
        producer: Any,
        *,
        folder: Path,
        application: str = APPLICATION,
    ) -> None:
        """`folder` is where Faust may keep files; it keeps none that matter."""
        self._servers = servers
        self._producer = producer
        self._folder = folder
        self._application = application
        self._subscription = bus.each(topics.DRIFT, _answering(retraining))

    async def run(self, ready: asyncio.Event) -> None:
        """Answer drift until cancelled; a Kafka that is away is waited for.

        Raises:
            Unavailable: the application ended by itself, and not for Kafka.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                await self._answer(ready)
            except KafkaError as error:
                log.warning("the stream of %s waits for Kafka: %r", topics.DRIFT.name, error)
                await asyncio.sleep(AGAIN_AFTER_S)

    async def _answer(self, ready: asyncio.Event) -> None:
        async with started(self._consumer, self._application):
            pass  # Kafka is there: an application of Faust's that finds none leaves loops and sockets open
        app = self._app()
        try:
            with naming_no_brokers():
                await app.start()
            ready.set()
            await app.wait_until_stopped()
            if isinstance(app.crash_reason, KafkaError):
                raise app.crash_reason
            raise Unavailable(f"the stream of {topics.DRIFT.name} ended: {app.crash_reason!r}")
        finally:
            await finish(app.stop())

    def _consumer(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(bootstrap_servers=self._servers)

    def _app(self) -> Any:
        app = faust.App(
            self._application,
            broker="kafka://" + self._servers.replace(",", ";"),
            loop=asyncio.get_running_loop(),
            store="memory://",
            datadir=str(self._folder),
            autodiscover=False,
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            broker_session_timeout=6.0,
            broker_heartbeat_interval=1.0,
            broker_commit_interval=1.0,
            stream_wait_empty=False,
        )
        channel = app.topic(
            topics.DRIFT.name, key_serializer="raw", value_serializer="raw", key_type=bytes, value_type=bytes
        )

        @app.agent(channel, name="monitoring.retrain-policy")
        async def answer(stream: Any) -> None:
            async for event in stream.noack().events():
                await bus.settle(self._subscription, [_raw(event.message)], self._producer, SOURCE)
                event.ack()

        app.finalize()
        return app


def _answering(retraining: Retraining) -> Any:
    async def drifted(event: DriftEvent, _: Record[DriftEvent]) -> None:
        await retraining.answer(messages.drift(event))

    return drifted


def _raw(message: Any) -> _Raw:
    return _Raw(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        key=message.key,
        value=message.value,
        headers=message.headers or (),
        timestamp=int((message.timestamp or 0) * 1000),
    )
