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
from trimtab.replay import Tally
from trimtab.testing import World, living
from trimtab_contracts.monitoring.v1.monitoring_pb2 import Loop
from trimtab_stack.stack import Stack

ROUNDS, AT_MOST = 3, 45.0
ROWS, A_SECOND, A_STEP = 20_000, 200, 100
SLOPE = 5.0
"""Of the changed world; it was 2."""
TRAINER = f"{{kind: hist_gradient_boosting, window: 9d, half_life: 12h, max_rows: {ROWS}}}"
GATES = "[{metric: mae, at_most: 20}]"
PATIENCE_S = 150.0


async def main() -> bool:
    """Measure, print the outcome, and return whether the claim holds."""
    with (
        tempfile.TemporaryDirectory(prefix="trimtab-bench-") as directory,
        Stack(Path(directory), fsync=False) as stack,
    ):
        rounds = [await measure(stack, f"swap-{number}") for number in range(ROUNDS)]
    loops, tallies = [loop for loop, _ in rounds], [tally for _, tally in rounds]
    failed = sum(tally.failed_requests for tally in tallies)
    seconds = [taken(loop)["live"] for loop in loops]
    value = round(statistics.median(seconds), 1)
    claims = [
        {"claim": "drift_to_live_seconds", "value": value, "at_most": AT_MOST},
        {"claim": "requests that failed", "value": failed, "at_most": 0},
    ]
    details = {
        "rows": ROWS,
        "predictions_a_second": A_SECOND,
        "rounds": [{state: round(at, 2) for state, at in taken(loop).items()} for loop in loops],
        "spread": [round(min(seconds), 1), round(max(seconds), 1)],
        "predictions": sum(tally.predictions for tally in tallies),
    }
    print(json.dumps({"bench": "loop", "claims": claims, "details": details}))
    return value <= AT_MOST and not failed


async def measure(stack: Stack, name: str) -> tuple[Loop, Tally]:
    """Return the loop to which a change of a world of its own led, and what was asked and answered."""
    servers, where = stack.environ["TRIMTAB_KAFKA_SERVERS"], addresses(stack.environ)
    async with living(name, servers, where, strategy="shadow", gates=GATES, trainer=TRAINER) as world:
        world.per_hour = A_STEP
        await world.backfill(ROWS // A_STEP)
        first = await world.first_version()
        assert first.state == "live", first.outcome
        world.slope = SLOPE
        return await live_until_replaced(world), world.replay.tally


async def live_until_replaced(world: World) -> Loop:
    """Live on, at the stated pace, until a loop that drift began has put a version live."""
    due = time.monotonic()
    for _ in range(int(PATIENCE_S * A_SECOND / A_STEP)):
        await world.play_hour()
        due += A_STEP / A_SECOND
        await asyncio.sleep(max(due - time.monotonic(), 0.0))
        for loop in await world.trimtab.loops(world.name):
            if loop.HasField("drift") and loop.state == "live":
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
