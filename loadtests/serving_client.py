"""One load client for every server: unary calls from bytes to bytes, so many at a time, for so long.

`python serving_client.py ADDRESS METHOD BODIES SECONDS CONCURRENCY CHANNELS` reads the requests from the file BODIES
(each with its length before it), and prints one line of JSON: requests a second, latencies, failures, all requests (the
warming up included), and the share of a core that the client itself took.
"""

import json
import struct
import sys
import threading
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import grpc

WARM_UP_S = 0.5


def write_bodies(path: Path, bodies: list[bytes]) -> None:
    path.write_bytes(b"".join(struct.pack("<I", len(body)) + body for body in bodies))


def read_bodies(path: Path) -> Iterator[bytes]:
    content, at = path.read_bytes(), 0
    while at < len(content):
        (length,) = struct.unpack_from("<I", content, at)
        yield content[at + 4 : at + 4 + length]
        at += 4 + length


class Load:
    """Keeps a number of calls in flight; each that ends starts the next."""

    def __init__(self, bodies: list[bytes]) -> None:
        self.latencies: list[float] = []
        self.failures = 0
        self.ended = threading.Semaphore(0)
        self._bodies = cycle(bodies)
        self._stopping = False

    def start(self, call: Any) -> None:
        """Start a call, and go on with another when it has ended."""
        begun = time.perf_counter()

        def done(future: Any) -> None:
            if future.exception() is not None:
                self.failures += 1
            self.latencies.append(time.perf_counter() - begun)
            if self._stopping:
                self.ended.release()
            else:
                self.start(call)

        call.future(next(self._bodies)).add_done_callback(done)

    def stop(self) -> None:
        """Start no more."""
        self._stopping = True


def seen(
    latencies: list[float], first: int, last: int, elapsed: float, cpu: float, failures: int
) -> dict[str, float]:
    """Return what was measured: of the calls from `first` to `last`, in the seconds and CPU seconds that they took."""
    within = sorted(latencies[first:last])
    return {
        "requests_per_second": (last - first) / elapsed,
        "p50_ms": within[len(within) // 2] * 1000,
        "p99_ms": within[int(len(within) * 0.99)] * 1000,
        "failures": failures,
        "requests": len(latencies),
        "client_cpu": cpu / elapsed,
    }


def main(address: str, method: str, bodies: Path, seconds: float, concurrency: int, channels: int) -> None:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    opened = [grpc.insecure_channel(address, options) for _ in range(channels)]
    calls: list[grpc.UnaryUnaryMultiCallable[bytes, bytes]] = [each.unary_unary(method) for each in opened]
    load = Load(list(read_bodies(bodies)))
    for number in range(concurrency):
        load.start(calls[number % channels])
    time.sleep(WARM_UP_S)
    first, failed, cpu, begun = len(load.latencies), load.failures, time.process_time(), time.perf_counter()
    time.sleep(seconds)
    last, elapsed = len(load.latencies), time.perf_counter() - begun
    cpu = time.process_time() - cpu
    load.stop()
    for _ in range(concurrency):
        load.ended.acquire()
    print(json.dumps(seen(load.latencies, first, last, elapsed, cpu, load.failures - failed)))


if __name__ == "__main__":
    address, method, bodies, *numbers = sys.argv[1:]
    main(address, method, Path(bodies), float(numbers[0]), int(numbers[1]), int(numbers[2]))
