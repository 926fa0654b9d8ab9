"""`trimtab tail | freshness`."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any

import typer
from trimtab_contracts import topics
from trimtab_contracts.topics import Encoding, Topic
from trimtab_runtime.errors import NotFound

from trimtab import metrics
from trimtab.cli.session import HOME, Directory, Json, environ, plain, show, wanted
from trimtab.reading import committed, opened


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (tail, freshness):
        app.command()(command)


def tail(
    topic: str,
    beginning: Annotated[bool, typer.Option("--from-beginning", help="Also what is there already.")] = False,
    once: Annotated[bool, typer.Option("--once", help="What is there already, and no more.")] = False,
    limit: Annotated[int, typer.Option(help="Stop after so many records; 0 for never.")] = 0,
    directory: Directory = HOME,
) -> None:
    """Print the records of TOPIC as JSON lines, as they come."""
    [servers] = wanted(environ(directory), "TRIMTAB_KAFKA_SERVERS")
    described = _described(topic)
    found = _there(servers, topic) if once else _coming(servers, topic, beginning)
    asyncio.run(_print(found, described, limit))


def _described(name: str) -> Topic[Any]:
    for topic in topics.ALL:
        if topic.name == name or (topic.is_family and name.startswith(topic.name.partition("{")[0])):
            return topic
    raise NotFound(f"there is no topic {name!r}: Trimtab has {', '.join(topic.name for topic in topics.ALL)}")


async def _there(servers: str, name: str) -> AsyncGenerator[Any, None]:
    """Yield the records of a topic up to its end, a partition after the other."""
    async with opened(servers) as consumer:
        await _must_exist(consumer, name)
    async for record in committed(servers, name):
        yield record


async def _coming(servers: str, name: str, beginning: bool) -> AsyncGenerator[Any, None]:
    """Yield the records of a topic as they come, for ever."""
    reset = "earliest" if beginning else "latest"
    async with opened(servers, auto_offset_reset=reset, isolation_level="read_committed") as consumer:
        await _must_exist(consumer, name)
        consumer.subscribe([name])
        async for record in consumer:
            yield record


async def _must_exist(consumer: Any, name: str) -> None:
    if name not in await consumer.topics():
        raise NotFound(
            f"topic {name!r} does not exist yet: apply what it belongs to, or look at `trimtab get`"
        )


async def _print(records: AsyncGenerator[Any, None], topic: Topic[Any], limit: int) -> None:
    printed = 0
    async with aclosing(records) as found:
        async for record in found:
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
    rows = asyncio.run(metrics.freshness(servers))
    show(
        rows,
        as_json=as_json,
        empty="no event has come since the features were read: see `trimtab get featureviews`",
    )
