"""What an event costs on its way from raw.<source> to the online features, beside the least that Kafka asks for.

The real services judge the rows, bring them together by entity and fold them, exactly once. The bare process beside
them consumes the same records and produces them again in transactions of 500. Both are charged their own CPU time,
user and system, in turn over the same rows; the claim is the median over the rounds of one over the other, as a round's
two halves meet the same machine. The archive reads the same rows in the same process: what it writes, in threads of
its own, is told apart and not claimed; what it reads is charged.
"""

import asyncio
import json
import statistics
import sys
import tempfile
from pathlib import Path

from stream import ARCHIVE, PARTITIONS, SOURCE, SOURCE_SPEC, VIEW, apply, bare, measure, summary
from trimtab.replay import Watermarks
from trimtab_stack.stack import Stack

MEASURED = ("ingestion", "feature_store")
EVENTS, WARM_UP = 40_000, 4_000
AT_MOST = 4.0
SPECS = f"""
{SOURCE_SPEC}
---
kind: FeatureView
metadata: {{name: {VIEW}}}
spec:
  source: {SOURCE}
  entity: pickup_zone
  aggregates:
    - {{field: mph, functions: [count, mean, stddev], windows: [6h, 1d]}}
    - {{field: minutes, functions: [mean, max], windows: [1d]}}
  hop: 1h
  ttl: 60d
"""


async def main() -> bool:
    """Measure, print the outcome, and return whether the claim holds."""
    with (
        tempfile.TemporaryDirectory(prefix="trimtab-bench-") as directory,
        Stack(Path(directory), dict.fromkeys(("registry", *MEASURED), 1), fsync=False) as stack,
    ):
        await apply(stack, SPECS)
        command = bare(stack.environ["TRIMTAB_KAFKA_SERVERS"])
        measured = await measure(stack, MEASURED, arrived, command, events=EVENTS, warm_up=WARM_UP)
    ratios = [ours / theirs for ours, theirs in zip(measured["trimtab"], measured["peer"], strict=True)]
    ratio = round(statistics.median(ratios), 2)
    medians = {name: statistics.median(values) for name, values in measured.items()}
    claim = {"claim": "stream_cpu_ratio", "value": ratio, "at_most": AT_MOST}
    details = {
        "events_a_round": EVENTS,
        "ratios": [round(each, 2) for each in ratios],
        "ratio_of_medians": round(medians["trimtab"] / medians["peer"], 2),
        "ratio_with_archive_writing": round((medians["trimtab"] + medians[ARCHIVE]) / medians["peer"], 2),
        **summary(measured),
    }
    print(json.dumps({"bench": "stream", "claims": [claim], "details": details}))
    return ratio <= AT_MOST


async def arrived(watermarks: Watermarks, until_ms: int) -> None:
    """Return once the rows up to a time are in the features and in the archive."""
    await watermarks.wait("features", VIEW, until_ms, partitions=PARTITIONS)
    await watermarks.wait("archive", SOURCE, until_ms)


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
