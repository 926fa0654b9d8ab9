"""How fast history is lived: rows a second of a backtest apart from its fits, and in all.

360,000 rows over three years, like the demo's: trips with distance, zones, hour and
weekday, and how fast the zone was lately; after two years the streets empty. All four
strategies are lived, with gates, rollouts and drift looked for in each window. Seconds of
CPU on one thread, which other work on the machine disturbs least. What fits cost is what
scikit-learn costs, so the claim is of the rest: reading the file, the features, and living.
Arguments name some of the strategies, BENCH_ROWS is how many rows there are: `always` takes most fits.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # noqa: TID251 - read by the libraries when they load

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from trimtab import project
from trimtab.backtest import history, running, strategies
from trimtab.backtest.history import Project
from trimtab.backtest.strategies import Wishes
from trimtab_core.timestamps import iso

ROWS = int(os.environ.get("BENCH_ROWS", "360000"))  # noqa: TID251
DAY_MS = 86_400_000
BEGIN_MS = 1_514_764_800_000
DAYS = 1_095
LEAST = 5_000
SPEC = """
kind: Source
metadata: {name: trips}
spec:
  key: id
  event_time: at
  lateness: 2h
  fields:
    id: {type: string}
    at: {type: timestamp}
    zone: {type: integer, min: 1, max: 263}
    to: {type: integer, min: 1, max: 263}
    distance: {type: number, min: 0, max: 100}
    mph: {type: number, min: 0}
    minutes: {type: number, min: 0, max: 1440}
---
kind: FeatureView
metadata: {name: zone_speed}
spec:
  source: trips
  entity: zone
  aggregates: [{field: mph, functions: [mean], windows: [7d, 28d]}]
  hop: 12h
  ttl: 60d
---
kind: Model
metadata: {name: trip-minutes}
spec:
  task: regression
  source: trips
  features: [request.distance, request.zone, request.to, hour(at), weekday(at), zone_speed.*]
  label: {source: trips, on: id, value: minutes, within: 4h}
  trainer: {kind: hist_gradient_boosting, window: 120d, half_life: 30d, holdout: 0.05}
  gates: [{metric: mae, at_most: 8}, {metric: mae, versus: champion}]
  rollout: {strategy: canary, steps: [10, 50, 100], judge: mae, cap: 60, within: 14d}
  monitoring: {window: 500, false_alarms: "1 per 90d"}
  retrain: {on: [performance], cooldown: 7d, at_most: 4 per 60d}
"""


def trips(count: int) -> pa.Table:
    """Return trips that nobody made, in order of time; after two thirds of it they are faster by half."""
    rng = np.random.default_rng(0)
    at = BEGIN_MS + np.sort(rng.integers(0, DAYS * DAY_MS, count))
    zone, to = rng.integers(1, 264, (2, count))
    distance = rng.gamma(1.2, 2.5, count).clip(0.1, 90).round(2)
    hour = at // 3_600_000 % 24
    speed = 12 + 3 * np.cos(hour / 24 * 2 * np.pi) + zone / 80 + rng.normal(0, 2, count)
    speed = speed.clip(3) * np.where(at > BEGIN_MS + DAYS * DAY_MS * 2 // 3, 1.5, 1.0)
    return pa.table(
        {
            "id": [str(number) for number in range(count)],
            "at": [iso(each) for each in at.tolist()],
            "zone": zone,
            "to": to,
            "distance": distance,
            "mph": speed.round(2),
            "minutes": (distance / speed * 60 + 1).round(3),
        }
    )


def main(asked: Sequence[str]) -> int:
    made = Project.of(project.parse(SPEC).resources)
    took: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trips.parquet"
        pq.write_table(trips(ROWS), path)
        held, took["reading"] = timed(lambda: running.read(made, [str(path)]))
    rows, took["features"] = timed(lambda: history.history(made, held))
    wishes = Wishes(asked or strategies.NAMES, step_ms=DAY_MS // 2)
    found, whole = timed(lambda: strategies.run(made, rows, wishes))
    took |= {"fits": found.spent.seconds, "living": whole - found.spent.seconds}
    apart = took["reading"] + took["features"] + took["living"]
    per_second = ROWS / apart
    told: dict[str, Any] = {
        "bench": "backtest",
        "claims": {
            "rows_per_cpu_second_apart_from_fits": {
                "value": round(per_second), "at_least": LEAST, "held": per_second >= LEAST,
            }
        },
        "details": {
            "rows": ROWS,
            "cpu_seconds": {name: round(seconds, 2) for name, seconds in took.items()},
            "rows_per_cpu_second": {name: round(ROWS / seconds) for name, seconds in took.items()},
            "rows_per_cpu_second_in_all": round(ROWS / (apart + took["fits"])),
            "fits": found.spent.fits,
            "retrains": {name: len(life.retrains) for name, life in found.lives.items()},
            "values": {name: round(found.value(name), 4) for name in found.lives},
            "alarms": {name: len(life.alarms) for name, life in found.lives.items()},
        },
    }  # fmt: skip
    print(json.dumps(told))
    return 0 if per_second >= LEAST else 1


def timed(work: Any) -> tuple[Any, float]:
    began = time.process_time()
    return work(), time.process_time() - began


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
