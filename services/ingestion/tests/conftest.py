"""A running ingestion, and sources for it."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from trimtab_contracts import topics
from trimtab_contracts.registry.v1.registry_pb2 import Resource
from trimtab_ingestion.app import run
from trimtab_ingestion.config import Config
from trimtab_runtime import bus
from trimtab_runtime.admin import ensure_topics
from trimtab_stack import ports

FIELDS = {"id": {"type": "string"}, "at": {"type": "timestamp"}, "x": {"type": "number", "min": 0}}


@pytest.fixture
def apply(kafka_servers: str) -> Callable[..., Awaitable[str]]:
    """Apply a source with topics of its own, as the registry would, and return its name."""

    async def apply(**spec: Any) -> str:
        name = f"trips-{uuid.uuid4().hex[:8]}"
        families = (topics.RAW, topics.EVENTS, topics.SEEN)
        made = [family.named(name, partitions=2) for family in families]
        await ensure_topics(kafka_servers, [*topics.STATIC, *made])
        whole = {
            "key": "id",
            "event_time": "at",
            "lateness": "3650d",
            "partitions": 2,
            "fields": FIELDS,
            **spec,
        }
        document = Struct()
        json_format.ParseDict({"kind": "Source", "metadata": {"name": name}, "spec": whole}, document)
        resource = Resource(kind="Source", name=name, generation=1, document=document)
        async with bus.open_producer(kafka_servers) as producer:
            await producer.send_and_wait(
                topics.SPECS.name, key=f"Source/{name}".encode(), value=topics.SPECS.encode(resource)
            )
        return name

    return apply


@pytest.fixture
def ingestion(kafka_servers: str) -> Callable[..., AbstractAsyncContextManager[str]]:
    """Run ingestion with some settings, and yield where it answers: an async context manager."""

    @asynccontextmanager
    async def running(**settings: Any) -> AsyncIterator[str]:
        address = f"127.0.0.1:{ports.choose()}"
        config = Config(kafka_servers=kafka_servers, grpc_address=address, **settings)
        task = asyncio.get_running_loop().create_task(run(config))
        try:
            yield address
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return running
