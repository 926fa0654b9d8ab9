"""One load client for HTTP, as serving_client.py is for gRPC: POSTs over kept connections, so many at a time, for so long.

`python http_client.py HOST:PORT PATH BODIES SECONDS CONCURRENCY` prints the line of JSON that serving_client.py does.
"""

import http.client
import json
import sys
import threading
import time
from itertools import cycle
from pathlib import Path

from serving_client import WARM_UP_S, read_bodies, seen


class Load:
    """Connections that each make one call after another."""

    def __init__(self, address: str, path: str, bodies: list[bytes]) -> None:
        self.latencies: list[float] = []
        self.failures = 0
        self._address = address
        self._path = path
        self._bodies = cycle(bodies)
        self._stopping = threading.Event()

    def run(self) -> None:
        """Call until stopped."""
        connection = http.client.HTTPConnection(self._address, timeout=30)
        headers = {"Content-Type": "application/json"}
        while not self._stopping.is_set():
            begun = time.perf_counter()
            try:
                connection.request("POST", self._path, next(self._bodies), headers)
                answer = connection.getresponse()
                answer.read()
                self.failures += answer.status != 200
            except (OSError, http.client.HTTPException):
                connection.close()
                self.failures += 1
            self.latencies.append(time.perf_counter() - begun)
        connection.close()

    def stop(self) -> None:
        """Start no more calls."""
        self._stopping.set()


def main(address: str, path: str, bodies: Path, seconds: float, concurrency: int) -> None:
    load = Load(address, path, list(read_bodies(bodies)))
    threads = [threading.Thread(target=load.run) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    time.sleep(WARM_UP_S)
    first, failed, cpu, begun = len(load.latencies), load.failures, time.process_time(), time.perf_counter()
    time.sleep(seconds)
    last, elapsed = len(load.latencies), time.perf_counter() - begun
    cpu = time.process_time() - cpu
    load.stop()
    for thread in threads:
        thread.join()
    print(json.dumps(seen(load.latencies, first, last, elapsed, cpu, load.failures - failed)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
