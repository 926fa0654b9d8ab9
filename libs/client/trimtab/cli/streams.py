"""`trimtab tail | freshness`."""

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from aiokafka import TopicPartition
from trimtab_contracts import topics
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Metric
from trimtab_contracts.topics import Encoding, Topic
from trimtab_runtime.clock import from_timestamp, iso
from trimtab_runtime.errors import NotFound
from trimtab_runtime.freshness import P50, P99

from trimtab.cli.session import HOME, Directory, Json, environ, plain, show, wanted
from trimtab.reading import PATIENCE_S, opened, up_to

_RECENT = 200
"""Records of each partition that are looked at for the newest of each view."""


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (tail, freshness):
        app.command()(command)


def tail(
    topic: str,
    beginning: Annotated[bool, typer.Option("--from-beginning", help="Also what is there already.")] = False,
    limit: Annotated[int, typer.Option(help="Stop after so many records; 0 for never.")] = 0,
    directory: Directory = HOME,
) -> None:
    """Print the records of TOPIC as JSON lines, as they come."""
    [servers] = wanted(environ(directory), "TRIMTAB_KAFKA_SERVERS")
    asyncio.run(_tail(servers, topic, _described(topic), beginning, limit))


def _described(name: str) -> Topic[Any]:
    for topic in topics.ALL:
        if topic.name == name or (topic.is_family and name.startswith(topic.name.partition("{")[0])):
            return topic
    raise NotFound(f"there is no topic {name!r}: Trimtab has {', '.join(topic.name for topic in topics.ALL)}")


async def _tail(servers: str, name: str, topic: Topic[Any], beginning: bool, limit: int) -> None:
    reset = "earliest" if beginning else "latest"
    async with opened(servers, auto_offset_reset=reset, isolation_level="read_committed") as consumer:
        if name not in await consumer.topics():
            raise NotFound(
                f"topic {name!r} does not exist yet: apply what it belongs to, or look at `trimtab get`"
            )
        consumer.subscribe([name])
        printed = 0
        async for record in consumer:
            print(json.dumps(_line(topic, record)), flush=True)
            printed += 1
            if printed == limit:
                return


def _line(topic: Topic[Any], record: Any) -> dict[str, Any]:
    line = {"partition": record.partition, "offset": record.offset, "key": _text(record.key)}
    headers = {name: value.decode(errors="replace") for name, value in _wanted(record.headers)}
    return line | ({"headers": headers} if headers else {}) | {"value": _value(topic, record.value)}


def _wanted(headers: Sequence[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    return [(name, value) for name, value in headers if name in ("ce_type", "ce_time", "traceparent")]


def _value(topic: Topic[Any], value: bytes | None) -> Any:
    if not value:
        return None
    if topic.encoding is Encoding.BINARY:
        return plain(topic.decode(value))
    try:
        return json.loads(value)
    except ValueError:
        return {"bytes": base64.b64encode(value).decode()}


def _text(key: bytes | None) -> str | None:
    return None if key is None else key.decode(errors="replace")


def freshness(directory: Directory = HOME, as_json: Json = False) -> None:
    """Show how long the newest events of each view took, from produced to readable as features."""
    [servers] = wanted(environ(directory), "TRIMTAB_KAFKA_SERVERS")
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for where, metric in asyncio.run(_recent(servers)):
        row = found.setdefault((metric.model, where), {"view": metric.model, "read by": where})
        row["transactions"], row["until"] = metric.rows, iso(from_timestamp(metric.window_to))
        row[{P50: "p50 ms", P99: "p99 ms"}.get(metric.name, metric.name)] = metric.value
    rows = [found[place] for place in sorted(found)]
    show(
        rows,
        as_json=as_json,
        empty="no event has come since the features were read: see `trimtab get featureviews`",
    )


async def _recent(servers: str) -> list[tuple[str, Metric]]:
    """Return the newest metrics of features in order, each with the instance that told it.

    Raises:
        Unavailable: Kafka is away, or goes away meanwhile.
    """
    topic = topics.METRICS_FEATURES
    found: list[tuple[int, str, Metric]] = []
    async with opened(servers, request_timeout_ms=int(PATIENCE_S * 1000)) as consumer:
        if topic.name not in await consumer.topics():
            return []
        places = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        consumer.assign(places)
        begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
        for place in places:
            consumer.seek(place, max(begins[place], ends[place] - _RECENT))
        async for batch in up_to(consumer, ends, servers=servers):
            for record in batch:
                where = dict(record.headers).get("ce_source", b"").decode()
                found.append((record.timestamp, where, topic.decode(record.value)))
    return [(where, metric) for _, where, metric in sorted(found, key=lambda each: each[0])]
