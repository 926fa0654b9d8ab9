"""Stream features: a feature store's worker beside a Quix Streams application, over the same events of one broker.

The worker brings rows together by entity and folds them; the application groups them by the same key and keeps hopping
windows of the same durations and step. Each is one process, charged its own CPU time, in turn over the same rows.
"""

import json
import statistics
from pathlib import Path
from typing import Any

from stream import ARCHIVE, HOUR, PARTITIONS, SOURCE, SOURCE_SPEC, VIEW, measure, summary
from trimtab.replay import Watermarks
from trimtab_contracts import topics
from trimtab_runtime.pipeline import read_partition
from trimtab_stack.stack import Stack

HERE = Path(__file__).parent
EVENTS, WARM_UP = 10_000, 2_000
AT_LEAST = 1.0
ENTITY, LATENESS_MS = "pickup_zone", 2 * HOUR
FIELDS = {"mph": ["count", "mean", "max"], "minutes": ["mean", "max"]}
WINDOWS_H = (6, 24)
AGGREGATES = [
    {"field": field, "functions": functions, "windows": [f"{hours}h" for hours in WINDOWS_H]}
    for field, functions in FIELDS.items()
]
SPECS = f"""
{SOURCE_SPEC}
---
kind: FeatureView
metadata: {{name: {VIEW}}}
spec:
  source: {SOURCE}
  entity: {ENTITY}
  aggregates: {json.dumps(AGGREGATES)}
  hop: 1h
  ttl: 60d
"""
"""Its columns are ten."""


async def versus_quix(
    stack: Stack, peers: Path, directory: Path
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the claim, and what was measured. The source and the view are applied, and ingestion runs."""
    asked = {
        "servers": stack.environ["TRIMTAB_KAFKA_SERVERS"],
        "topic": topics.EVENTS.named(SOURCE).name,
        "entity": ENTITY,
        "fields": FIELDS,
        "windows_ms": [hours * HOUR for hours in WINDOWS_H],
        "step_ms": HOUR,
        "grace_ms": LATENESS_MS,
        "state_dir": str(directory / "quix"),
    }
    command = [str(peers), str(HERE / "quix_windows.py"), json.dumps(asked)]
    measured = await measure(stack, ["feature_store"], arrived, command, events=EVENTS, warm_up=WARM_UP)
    ratios = [quix / ours for ours, quix in zip(measured["trimtab"], measured["peer"], strict=True)]
    claim = {
        "claim": "stream_features_versus_quix",
        "value": round(statistics.median(ratios), 2),
        "at_least": AT_LEAST,
    }
    with_archive = [sum(each) for each in zip(measured["trimtab"], measured[ARCHIVE], strict=True)]
    a_core = {
        name: round(1e6 / statistics.median(values))
        for name, values in (
            ("trimtab", measured["trimtab"]),
            ("trimtab_with_archive_writing", with_archive),
            ("quix", measured["peer"]),
        )
    }
    details = {
        "events_a_round": EVENTS,
        "events_per_cpu_second": a_core,
        "windows_that_quix_published": await published(stack),
        "ratios": [round(each, 2) for each in ratios],
        **summary(measured),
    }
    return [claim], details


async def published(stack: Stack) -> int:
    """Return how many closed windows the application has published, to see that it did."""
    count = 0
    for hours in WINDOWS_H:
        async for batch in read_partition(stack.environ["TRIMTAB_KAFKA_SERVERS"], f"quix-{hours * HOUR}", 0):
            count += len(batch)
    return count


async def arrived(watermarks: Watermarks, until_ms: int) -> None:
    """Return once the rows up to a time are in the features and in the archive."""
    await watermarks.wait("features", VIEW, until_ms, partitions=PARTITIONS)
    await watermarks.wait("archive", SOURCE, until_ms)
