"""How many valid events a core takes in, beside a bare process that only consumes and produces the same records.

The real ingestion judges every row by its contract and writes the good ones, the watermark, a quality metric and the
offset in one transaction. The bare process consumes the same records and produces them again in transactions of 500,
with aiokafka and nothing else. Both are charged their own CPU time, user and system, in turn over the same rows; the
claim is the median over the rounds of what the bare process needs for an event over what ingestion needs.
"""

import asyncio
import json
import statistics
import sys
import tempfile
from pathlib import Path

from stream import PARTITIONS, SOURCE, SOURCE_SPEC, apply, bare, measure, refused_records, summary
from trimtab.replay import Watermarks
from trimtab_stack.stack import Stack

EVENTS, WARM_UP = 40_000, 4_000
AT_LEAST = 0.5


async def main() -> bool:
    """Measure, print the outcome, and return whether the claim holds."""
    with (
        tempfile.TemporaryDirectory(prefix="trimtab-bench-") as directory,
        Stack(Path(directory), {"registry": 1, "ingestion": 1}, fsync=False) as stack,
    ):
        await apply(stack, SOURCE_SPEC)
        command = bare(stack.environ["TRIMTAB_KAFKA_SERVERS"])
        measured = await measure(stack, ["ingestion"], arrived, command, events=EVENTS, warm_up=WARM_UP)
        refused = await refused_records(stack)
    shares = [peer / ours for ours, peer in zip(measured["ingestion"], measured["peer"], strict=True)]
    share = round(statistics.median(shares), 2)
    a_core = {name: round(1e6 / statistics.median(measured[name])) for name in ("ingestion", "peer")}
    claims = [
        {"claim": "ingestion_share_of_bare", "value": share, "at_least": AT_LEAST},
        {"claim": "valid events refused", "value": refused, "at_most": 0},
    ]
    details = {
        "events_a_round": EVENTS,
        "events_per_second_per_core": a_core,
        "shares": [round(each, 2) for each in shares],
        **summary(measured),
    }
    print(json.dumps({"bench": "ingestion", "claims": claims, "details": details}))
    return share >= AT_LEAST and not refused


async def arrived(watermarks: Watermarks, until_ms: int) -> None:
    """Return once the rows up to a time are valid events."""
    await watermarks.wait("ingestion", SOURCE, until_ms, partitions=PARTITIONS)


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
