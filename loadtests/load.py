"""Servers under load: each on a core, asked by a client on another, in turn, so that noise meets all alike."""

import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent


def pin(pid: int | None, core: int) -> None:
    """Keep a process, with all threads that it has or starts, on one core."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {core})


def start(command: Sequence[str], environ: Mapping[str, str], core: int) -> subprocess.Popen[bytes]:
    """Start a program on one core.

    It stays in our session: Linux may give each session an equal share of a busy machine, and then a server in one of its
    own would be measured by what other sessions leave it.
    """
    return subprocess.Popen(command, env=dict(environ), preexec_fn=lambda: os.sched_setaffinity(0, {core}))


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Let a process rest, so that it takes nothing from the core that it shares."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def ask(pid: int, client: Sequence[str], core: int) -> dict[str, float]:
    """Return what a load client on a core saw of a server, and what a request cost the server's processes."""
    server = psutil.Process(pid)
    before = _cpu_s(server)
    done = subprocess.run(
        client,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    spent, seen = _cpu_s(server) - before, dict(json.loads(done.stdout))
    return {**seen, "server_cpu_us": spent / seen["requests"] * 1e6}


def grpc_client(address: str, method: str, bodies: Path, seconds: float, *calls: int) -> list[str]:
    """Return the command of the gRPC client: so many seconds, so many calls at a time over so many channels."""
    arguments = [address, method, str(bodies), str(seconds), *map(str, calls)]
    return [sys.executable, str(HERE / "serving_client.py"), *arguments]


def summary(rounds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return medians over rounds, to be read."""
    rates = [each["requests_per_second"] for each in rounds]
    return {
        "requests_per_second": round(statistics.median(rates)),
        "spread": [round(min(rates)), round(max(rates))],
        "p50_ms": round(statistics.median(each["p50_ms"] for each in rounds), 2),
        "p99_ms": round(statistics.median(each["p99_ms"] for each in rounds), 2),
        "server_cpu_us": round(statistics.median(each["server_cpu_us"] for each in rounds)),
        "failures": sum(int(each["failures"]) for each in rounds),
        "client_cpu": round(statistics.median(each["client_cpu"] for each in rounds), 2),
    }


def ratios(
    ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]], what: str
) -> list[float]:
    """Return a figure of ours over theirs, a round each."""
    return [our[what] / their[what] for our, their in zip(ours, theirs, strict=True)]


def _cpu_s(server: psutil.Process) -> float:
    used = [process.cpu_times() for process in (server, *server.children(recursive=True))]
    return sum(times.user + times.system for times in used)
