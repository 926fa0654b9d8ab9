"""Servers under load: each on a core, asked by a client on another, in turn, so that noise meets all alike.

Nothing that is started here outlives the process that started it.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil
from trimtab_stack import leash

HERE = Path(__file__).parent


def pin(pid: int | None, core: int) -> None:
    """Keep a process, with all threads that it has or starts, on one core."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {core})


def start(
    command: Sequence[str], environ: Mapping[str, str], core: int, log: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a program on one core; what it prints goes to `log`, or where ours goes.

    It stays in our session: Linux may give each session an equal share of a busy machine, and then a server in one of its
    own would be measured by what other sessions leave it.
    """
    leashed = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), str(int(signal.SIGKILL)), "-"]
    with log.open("ab") if log else nullcontext() as output:
        return subprocess.Popen(
            [*leashed, *command],
            env=dict(environ),
            stdout=output,
            stderr=output,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )


def end(server: subprocess.Popen[bytes], patience_s: float = 20.0) -> None:
    """End a server and the processes that it started; one that does not end in time is killed."""
    if server.poll() is not None:
        return
    family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    server.terminate()
    with suppress(subprocess.TimeoutExpired):
        server.wait(patience_s)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    server.wait()


@contextmanager
def stopped(servers: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Let servers rest, so that they take nothing from the core that they share."""
    for server in servers:
        server.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for server in servers:
            server.send_signal(signal.SIGCONT)


def ask(pid: int, client: Sequence[str], core: int) -> dict[str, float]:
    """Return what a load client on a core saw of a server, and what a request cost the server's processes."""
    server = psutil.Process(pid)
    before = _cpu_s(server)
    seen = _run(client, core)
    return {**seen, "server_cpu_us": (_cpu_s(server) - before) / seen["requests"] * 1e6}


def alone(loop: Sequence[str], core: int) -> dict[str, float]:
    """Return what a program on a core saw that needs no server, so that its own CPU time is the server's."""
    seen = _run(loop, core)
    return {
        **seen,
        "server_cpu_us": seen["client_cpu"] / seen["requests_per_second"] * 1e6,
        "client_cpu": 0.0,
    }


@contextmanager
def under_load(client: Sequence[str], core: int) -> Iterator[dict[str, float]]:
    """Have a load client ask that does so until its standard input ends; what it saw is in the mapping afterwards."""
    seen: dict[str, float] = {}
    asking = subprocess.Popen(
        client,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    try:
        yield seen
    finally:
        said, _ = asking.communicate(timeout=60)
    seen.update(json.loads(said))


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


def _run(client: Sequence[str], core: int) -> dict[str, float]:
    done = subprocess.run(
        client,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    return dict(json.loads(done.stdout))


def _cpu_s(server: psutil.Process) -> float:
    used = [process.cpu_times() for process in (server, *server.children(recursive=True))]
    return sum(times.user + times.system for times in used)
