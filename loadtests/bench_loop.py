"""How long a drifting world is served by the wrong model: from the drift event to the version that answers it.

The six services, each one process, see 200 labelled predictions a second, asked and answered throughout. The world
changes; its drift event becomes a command, a run on 20,000 rows, a gated version, a challenger in shadow judged on live
traffic, and a swap. The claim is the median over the rounds of the seconds from the first to the last, by the loop ledger.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from trimtab.cli.session import addresses
from trimtab.testing import World, living
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Loop
from trimtab_stack.stack import Stack

ROUNDS, AT_MOST = 3, 45.0
ROWS, A_SECOND, A_STEP = 20_000, 200, 100
SLOPES = (5.0, 2.0, 5.0)
TRAINER = f"{{kind: hist_gradient_boosting, window: 9d, half_life: 12h, max_rows: {ROWS}}}"
GATES = "[{metric: mae, versus: champion, better_by: 0.0, confidence: 0.95}]"
PATIENCE_S = 150.0


async def main() -> bool:
    """Measure, print the outcome, and return whether the claim holds."""
    with (
        tempfile.TemporaryDirectory(prefix="trimtab-bench-") as directory,
        Stack(Path(directory), fsync=False) as stack,
    ):
        servers = stack.environ["TRIMTAB_KAFKA_SERVERS"]
        async with living(
            "swap", servers, addresses(stack.environ), strategy="shadow", gates=GATES, trainer=TRAINER
        ) as world:
            loops = await measure(world)
            tally = world.replay.tally
    seconds = [taken(loop)["live"] for loop in loops]
    value = round(statistics.median(seconds), 1)
    claim = {"claim": "drift_to_live_seconds", "value": value, "at_most": AT_MOST}
    details = {
        "rows": ROWS,
        "predictions_a_second": A_SECOND,
        "rounds": [{state: round(at, 2) for state, at in taken(loop).items()} for loop in loops],
        "spread": [round(min(seconds), 1), round(max(seconds), 1)],
        "predictions": tally.predictions,
        "failed_requests": tally.failed_requests,
    }
    print(json.dumps({"bench": "loop", "claims": [claim], "details": details}))
    return value <= AT_MOST and not tally.failed_requests


async def measure(world: World) -> list[Loop]:
    """Return the loop that each change of the world led to."""
    world.per_hour = A_STEP
    await world.backfill(ROWS // A_STEP)
    first = await world.first_version()
    assert first.state == "live", first.outcome
    known = {first.id}
    loops = []
    for slope in SLOPES[:ROUNDS]:
        world.slope = slope
        loop = await live_until_replaced(world, known)
        loops.append(loop)
        known |= {each.id for each in await world.trimtab.loops(world.name)}
    return loops


async def live_until_replaced(world: World, known: set[str]) -> Loop:
    """Live on, at the stated pace, until a loop that is not `known` has put a version live."""
    due = time.monotonic()
    for _ in range(int(PATIENCE_S * A_SECOND / A_STEP)):
        await world.play_hour()
        due += A_STEP / A_SECOND
        await asyncio.sleep(max(due - time.monotonic(), 0.0))
        for loop in await world.trimtab.loops(world.name):
            if loop.id not in known and loop.state == "live":
                return loop
    states = {
        loop.id: (loop.state, loop.outcome or loop.reason) for loop in await world.trimtab.loops(world.name)
    }
    raise RuntimeError(f"no version went live within {PATIENCE_S} s: {states}")


def taken(loop: Loop) -> dict[str, Any]:
    """Return the seconds from the drift event at which each state was reached."""
    began = loop.steps["triggered"].ToNanoseconds()
    return {
        state: (at.ToNanoseconds() - began) / 1e9
        for state, at in sorted(loop.steps.items(), key=lambda step: step[1].ToNanoseconds())
    }


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
