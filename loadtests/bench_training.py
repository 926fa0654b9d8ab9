"""What a candidate costs beside the bare fit, and whether a run comes out the same ten times over.

The rows are like the demo's, trips of which distance, zones, hour and weekday are
known, as many as make a fit take over ten seconds. Beside each other, in processes
that may use one thread: scikit-learn's fit of the rows with the same parameters, and
a whole run from the file of rows to the stored candidate, judged and exported, with
its gates. Seconds of CPU, which other work on the machine disturbs least; the ratio of
the medians. What a trainer loads once for all of its runs is told apart, as what
the bare fit loads is not counted either. One run is made ten times, in processes that two
nurseries fork in turns.
"""

import asyncio
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from trimtab_core.specs import Model, parse
from trimtab_trainer.nursery import Nursery
from trimtab_trainer.sandbox import ChildProcess, Files
from trimtab_trainer.usecases.entities import Recipe, TrainingSet

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))  # noqa: TID251
TIMES = 10
ROWS, ITERATIONS = 1_500_000, 150
MOST = 1.25
MINUTE = 60_000
PARAMETERS = {"max_iter": ITERATIONS, "max_leaf_nodes": 63}

BARE = """
import sys, time, numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
held = np.load(sys.argv[1])
began = time.process_time()
HistGradientBoostingRegressor(
    max_iter=int(sys.argv[2]), max_leaf_nodes=63, random_state=7, early_stopping=False, loss="absolute_error"
).fit(held["x"], held["y"])
print(time.process_time() - began)
"""


def a_model(parameters: dict[str, Any]) -> Model:
    spec = {
        "task": "regression",
        "source": "trips",
        "features": ["request.distance"],
        "label": {"source": "trips", "on": "id", "value": "minutes", "within": "4h"},
        "trainer": {
            "window": "1500d", "kind": "hist_gradient_boosting", "parameters": parameters, "seed": 7, "timeout": "1h",
        },
        "gates": [{"metric": "mae", "at_most": 8}],
        "rollout": {"judge": "mae", "cap": 60},
    }  # fmt: skip
    model = parse("Model", {"metadata": {"name": "trip-minutes"}, "spec": spec})
    assert isinstance(model, Model)
    return model


def trips(count: int) -> tuple[Any, Any]:
    """Return features [rows, 10] and minutes of trips that nobody made."""
    rng = np.random.default_rng(0)
    distance, hour, weekday = (
        rng.gamma(1.2, 2.5, count),
        rng.integers(0, 24, count),
        rng.integers(0, 7, count),
    )
    zones = rng.integers(1, 264, (count, 2))
    speeds = rng.normal(12, 3, (count, 5)).clip(3)
    pace = 60 / (
        speeds[:, 0] + 3 * np.cos(hour / 24 * 2 * np.pi) + (weekday > 4) * 2 + zones[:, 0] / 80
    ).clip(3)
    minutes = distance * pace * rng.lognormal(0, 0.2, count) + 1
    return np.column_stack([distance, zones, hour, weekday, speeds]).astype(np.float32), minutes


def write(folder: Path, x: Any, y: Any) -> TrainingSet:
    columns = {"key": [str(at) for at in range(len(y))], "event_time_ms": np.arange(len(y)) * MINUTE}
    columns |= {f"f{at}": x[:, at].astype(np.float64) for at in range(x.shape[1])} | {"label": y}
    table = pa.table(columns)
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return TrainingSet(folder / "rows.arrow", (("events/trips", 1),), "digest", len(y))


async def run(nursery: Nursery, model: Model, rows: TrainingSet, folder: Path) -> tuple[dict[str, str], Any]:
    """Do a run as the trainer does, and return the digests of what came out."""
    recipe = Recipe(model, 1, len_ms(rows.rows))
    made = await ChildProcess(nursery).fit(recipe, rows, folder, lambda _: None)
    files = Files(folder / "data")
    stored = {path.name: files.put(path).digest for path in (made.model, made.reference, made.evaluation)}
    return stored, made


def len_ms(rows: int) -> int:
    return rows * MINUTE


def spent(nursery: Nursery) -> tuple[float, float]:
    """Return the seconds of CPU of a nursery itself, and of what it has forked and this process together."""
    used = psutil.Process(nursery.pid).cpu_times()
    return used.user + used.system, used.children_user + used.children_system + time.process_time()


def costs(folder: Path, nursery: Nursery) -> tuple[list[float], list[float], Any]:
    x, y = trips(ROWS)
    np.savez(folder / "rows.npz", x=x, y=y)
    rows = write(folder, x, y)
    bare, whole, made = [], [], None
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}  # noqa: TID251 - as the trainer's child has it
    for _ in range(ROUNDS):
        command = [sys.executable, "-c", BARE, str(folder / "rows.npz"), str(ITERATIONS)]
        told = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
        bare.append(float(told.stdout))
        before = sum(spent(nursery))
        _, made = asyncio.run(run(nursery, a_model(PARAMETERS), rows, folder))
        whole.append(sum(spent(nursery)) - before)
        print(f"bare {bare[-1]:.1f} s, run {whole[-1]:.1f} s: {whole[-1] / bare[-1]:.2f} times", flush=True)
    return bare, whole, made


def again(folder: Path, *nurseries: Nursery) -> int:
    """Return how many of the runs came out as the first did."""
    x, y = trips(20_000)
    rows, model = write(folder, x, y), a_model({"max_iter": 30})
    digests = []
    for at in range(TIMES):
        place = folder / str(at)
        place.mkdir()
        (place / "rows.arrow").symlink_to(rows.path)
        found, _ = asyncio.run(run(nurseries[at % len(nurseries)], model, rows, place))
        digests.append(hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest())
    return digests.count(digests[0])


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="bench-training-") as directory, Nursery() as nursery:
        folder = Path(directory)
        (folder / "again").mkdir()
        with Nursery() as other:
            same = again(folder / "again", nursery, other)
        print(f"made again: {same} of {TIMES} came out the same, to the bit", flush=True)
        memory = psutil.Process(nursery.pid).memory_full_info()
        print(
            f"a nursery loads for {spent(nursery)[0]:.1f} s, once a trainer, and holds {memory.uss / 1e6:.0f} MB of its own",
            flush=True,
        )
        bare, whole, made = costs(folder, nursery)
    ratio = statistics.median(whole) / statistics.median(bare)
    ratios = [each / fit for each, fit in zip(whole, bare, strict=True)]
    print(
        f"a run of {ROWS:,} rows costs {ratio:.2f} times the bare fit of {statistics.median(bare):.1f} s "
        f"({min(ratios):.2f} to {max(ratios):.2f}, at most {MOST}); judged by each {made.plan.every}th row "
        f"in {made.plan.stretches} stretch; mae {made.metrics['mae']:.4f}"
    )
    return 0 if ratio <= MOST and same == TIMES else 1


if __name__ == "__main__":
    sys.exit(main())
