"""What the model alone costs: ONNX Runtime in a loop, one row after the other, with no server at all.

`python serving_loop.py MODEL.onnx SECONDS` prints the line of JSON that the load clients do.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from serving_client import seen
from serving_session import session


def main(model: Path, seconds: float) -> None:
    ready, output = session(model.read_bytes())
    rows = np.random.default_rng(0).normal(size=(500, 1, 20)).astype(np.float32)
    for row in rows:
        ready.run([output], {"features": row})
    latencies: list[float] = []
    cpu, begun = time.process_time(), time.perf_counter()
    while (now := time.perf_counter()) < begun + seconds:
        ready.run([output], {"features": rows[len(latencies) % len(rows)]})
        latencies.append(time.perf_counter() - now)
    cpu = time.process_time() - cpu
    print(json.dumps(seen(latencies, 0, len(latencies), now - begun, cpu, 0)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
