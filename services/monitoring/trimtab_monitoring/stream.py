"""Faust door of monitoring: drift in, at most one retrain command out.

Faust would acknowledge a record whose agent has raised or was cut off, so the agent
acknowledges by itself, once the effect is stored or the record is a dead letter. It
holds no table; the inbox row in the effect's transaction tells a repeated event.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faust
from trimtab_contracts import topics
from trimtab_contracts.monitoring.v1.monitoring_pb2 import DriftEvent
from trimtab_runtime import bus
from trimtab_runtime.errors import Unavailable
from trimtab_runtime.lifecycle import finish
from trimtab_runtime.records import Record

from trimtab_monitoring import messages
from trimtab_monitoring.news import SOURCE
from trimtab_monitoring.usecases.retraining import Retraining

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
        """Answer drift until cancelled.

        Raises:
            Unavailable: the application ended by itself.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        app = self._app()
        try:
            await app.start()
            ready.set()
            await app.wait_until_stopped()
            raise Unavailable(f"the stream of {topics.DRIFT.name} ended: {app.crash_reason!r}")
        finally:
            await finish(app.stop())

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
