"""How many valid events a core takes in, beside a bare process that only consumes and produces the same records.

The real ingestion judges every row by its contract and writes the good ones, the watermark, a quality metric and the
offset in one transaction. The bare process consumes the same records and produces them again in transactions of 500,
with aiokafka and nothing else. Both are charged their own CPU time, user and system, in turn over the same rows; the
claim is the median over the rounds of what the bare process needs for an event over what ingestion needs. The same is
told, and not claimed, of rows in Avro with the ids of their schema, which a real registry has.
"""

import asyncio
import json
import statistics
import struct
import sys
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from fastavro import parse_schema, schemaless_writer
from stream import (
    PARTITIONS,
    SOURCE,
    SOURCE_SPEC,
    Encode,
    apply,
    as_json,
    bare,
    measure,
    refused_records,
    summary,
)
from trimtab.replay import Watermarks
from trimtab_runtime.clock import parse_iso
from trimtab_stack.stack import Stack
from trimtab_stack.testing import ApicurioRegistry

EVENTS, WARM_UP = 40_000, 4_000
AT_LEAST = 0.5
AVRO_SOURCE = f"{SOURCE}-avro"
AVRO_SPEC = SOURCE_SPEC.replace(f"name: {SOURCE}", f"name: {AVRO_SOURCE}") + "  format: avro\n"
SCHEMA = {
    "type": "record",
    "name": "DropOff",
    "fields": [
        {"name": "trip_id", "type": "string"},
        {"name": "dropoff_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "pickup_zone", "type": "int"},
        *({"name": name, "type": "double"} for name in ("distance", "minutes", "mph")),
        {"name": "vendor", "type": "string"},
    ],
}


async def main() -> bool:
    """Measure, print the outcome, and return whether the claim holds."""
    with tempfile.TemporaryDirectory(prefix="trimtab-bench-") as directory:
        registry = ApicurioRegistry(Path(directory))
        registry.start()
        try:
            environ = {"TRIMTAB_INGESTION_SCHEMA_REGISTRY_URL": registry.url}
            with Stack(
                Path(directory), {"registry": 1, "ingestion": 1}, environ=environ, fsync=False
            ) as stack:
                await apply(stack, f"{SOURCE_SPEC}\n---\n{AVRO_SPEC}")
                measured = await compare(stack, SOURCE, as_json)
                avro = await compare(
                    stack, AVRO_SOURCE, partial(framed, register(registry), parse_schema(SCHEMA))
                )
                refused = await refused_records(stack)
        finally:
            registry.kill()
    shares = shares_of_bare(measured)
    share = round(statistics.median(shares), 2)
    claims = [
        {"claim": "ingestion_share_of_bare", "value": share, "at_least": AT_LEAST},
        {"claim": "valid events refused", "value": refused, "at_most": 0},
    ]
    details = {"events_a_round": EVENTS, **told(measured), "avro_by_schema_ids": told(avro)}
    print(json.dumps({"bench": "ingestion", "claims": claims, "details": details}))
    return share >= AT_LEAST and not refused


async def compare(stack: Stack, source: str, encode: Encode) -> dict[str, list[float]]:
    """Return what ingestion and the bare process need for an event of a source."""

    async def arrived(watermarks: Watermarks, until_ms: int) -> None:
        """Return once the rows up to a time are valid events."""
        await watermarks.wait("ingestion", source, until_ms, partitions=PARTITIONS)

    return await measure(
        stack,
        ["ingestion"],
        arrived,
        bare(stack.environ["TRIMTAB_KAFKA_SERVERS"], source),
        events=EVENTS,
        warm_up=WARM_UP,
        source=source,
        encode=encode,
    )


def shares_of_bare(measured: Mapping[str, Sequence[float]]) -> list[float]:
    """Return what the bare process needs over what ingestion needs, a figure a round."""
    return [peer / ours for ours, peer in zip(measured["ingestion"], measured["peer"], strict=True)]


def told(measured: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return what was measured of one source, to be read."""
    return {
        "events_per_second_per_core": {
            name: round(1e6 / statistics.median(measured[name])) for name in ("ingestion", "peer")
        },
        "shares": [round(each, 2) for each in shares_of_bare(measured)],
        **summary(measured),
    }


def register(registry: ApicurioRegistry) -> int:
    """Return the id that the schema gets."""
    request = urllib.request.Request(
        f"{registry.url}/subjects/raw.{AVRO_SOURCE}-value/versions",
        data=json.dumps({"schema": json.dumps(SCHEMA)}).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return int(json.load(answer)["id"])


def framed(schema_id: int, schema: Any, row: Mapping[str, Any]) -> bytes:
    """Return a row as Confluent's serializer sends it."""
    stream = BytesIO()
    schemaless_writer(stream, schema, {**row, "dropoff_at": parse_iso(row["dropoff_at"])})
    return b"\0" + struct.pack(">i", schema_id) + stream.getvalue()


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
