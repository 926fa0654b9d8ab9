"""Trimtab's serving beside what else serves a model, while versions are swapped under it, and with its broker killed.

All servers are processes of their own on one core, with the same model; one load generator on another core asks them in
turns, round by round, and those that are not asked rest, so that whatever else the machine does meets all alike. Trimtab
routes, logs every prediction to a real Kafka and counts; its peers only call ONNX Runtime. A claim about rates is the
median over the rounds of one over the other.
"""

import asyncio
import json
import logging
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from load import alone, ask, pin, ratios, stopped, summary
from numpy.typing import NDArray
from serving_client import write_bodies
from serving_faults import logged, outage, swap
from serving_project import apply, infer_bodies, predict_bodies, project, retold, train
from serving_servers import GRPC_LOAD, THREADS, Server, compare, running, versions
from serving_session import session
from trimtab_contracts.registry.v1.registry_pb2 import VersionRef
from trimtab_runtime import artifacts
from trimtab_stack import environment, ports
from trimtab_stack.kafka import Kafka

HERE = Path(__file__).parent
CONCURRENCIES, CHANNELS, JUDGED_AT = (1, 8, 32, 64), 4, 32
SECONDS, SECONDS_JUDGED, SECONDS_LOOP = 0.6, 1.2, 0.5
SETTINGS = {"ROUNDS": 5, "SWAPS": 100, "OUTAGE_S": 60}
"""What the environment may make smaller for a quick look."""
SWAP_ROUNDS = 4
RATE = "requests_per_second"
INFER, PREDICT = "/inference.GRPCInferenceService/ModelInfer", "/trimtab.serving.v1.Prediction/Predict"
ASKED = {
    "trimtab": ("trimtab", INFER, "keyed"),
    "trimtab_entity": ("trimtab", PREDICT, "entity"),
    "mlserver": ("mlserver", INFER, "bare"),
    "triton": ("triton", INFER, "bare"),
    "plain": ("plain", INFER, "keyed"),
    "echo": ("echo", INFER, "keyed"),
}
"""Server, method and requests of each row of the table; a key makes a request part of rollouts and of the log."""
SAID = {
    "trimtab": "Trimtab, Open Inference Protocol",
    "trimtab_entity": "Trimtab, Predict with online features",
    "mlserver": "MLServer",
    "triton": "Triton",
    "plain": "plain threaded gRPC server",
    "echo": "bare echo: the load generator's limit",
    "loop": "ONNX Runtime in a loop, no server",
}
Seen = Mapping[str, float]
Sample = tuple[list[bytes], NDArray[np.float32]]
Rounds = dict[str, dict[int, list[dict[str, float]]]]


def take_turns(servers: Mapping[str, Server], directory: Path, rounds: int, cores: tuple[int, int]) -> Rounds:
    """Return what each round gave, of each row of the table and each number of calls at once."""
    server_core, client_core = cores
    found: Rounds = {name: {at_once: [] for at_once in CONCURRENCIES} for name in ASKED}
    found["loop"] = {1: []}
    loop = [sys.executable, str(HERE / "serving_loop.py"), str(directory / "model.onnx"), str(SECONDS_LOOP)]
    for number in range(rounds):
        tell(f"round {number + 1} of {rounds}: all servers in turns")
        for at_once in CONCURRENCIES:
            for name, (server, *_) in ASKED.items():
                seconds = SECONDS_JUDGED if at_once == JUDGED_AT else SECONDS
                asking = client(servers, name, directory, seconds, at_once)
                with stopped([other.process for at, other in servers.items() if at != server]):
                    found[name][at_once].append(ask(servers[server].process.pid, asking, client_core))
        with stopped([server.process for server in servers.values()]):
            found["loop"][1].append(alone(loop, server_core))
    return found


def tell(what: str) -> None:
    """Say what is done now, apart from what is printed in the end."""
    print(what, file=sys.stderr, flush=True)


def client(
    servers: Mapping[str, Server], name: str, directory: Path, seconds: float, at_once: int = JUDGED_AT
) -> list[str]:
    """Return the command of the load generator; of 0 seconds it asks until it is stopped."""
    server, method, bodies = ASKED[name]
    arguments = [servers[server].address, method, str(directory / bodies)]
    return [str(GRPC_LOAD), *arguments, str(seconds), str(at_once), str(CHANNELS)]


def prepare(directory: Path, rng: np.random.Generator, files: int) -> tuple[list[VersionRef], Sample]:
    """Write the model, so many versions of it, and the requests of each door.

    Returns the versions, and some requests with the answers that they must get.
    """
    _, features = project()
    content = train(rng)
    (directory / "model.onnx").write_bytes(content)
    refs = [
        VersionRef(number=number, model=artifacts.put(directory, retold(content, number)), features=features)
        for number in range(1, files + 1)
    ]
    rows = rng.normal(size=(500, 20)).astype(np.float32)
    bare = infer_bodies(rows, keyed=False)
    write_bodies(directory / "keyed", infer_bodies(rows, keyed=True))
    write_bodies(directory / "bare", bare)
    write_bodies(directory / "entity", predict_bodies(rng))
    ready, output = session(content)
    return refs, (bare[:50], ready.run([output], {"features": rows[:50]})[0].ravel())


def measure(directory: Path, settings: Mapping[str, int]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Start everything, and return the claims and the details."""
    rng = np.random.default_rng(0)
    server_core, *_, client_core = sorted(os.sched_getaffinity(0))
    swaps = max(1, settings["SWAPS"] // SWAP_ROUNDS)
    refs, sample = prepare(directory, rng, (swaps + 1) * SWAP_ROUNDS + 2)
    tell("the servers start")
    pin(os.getpid(), client_core)  # and with us the broker
    kafka = Kafka(directory / "kafka", ports.choose())
    environ = environment.inherited() | {
        "TRIMTAB_KAFKA_SERVERS": kafka.servers,
        "TRIMTAB_STATE_DIR": str(directory / "state"),
        "TRIMTAB_SERVING_THREADS": str(THREADS),
    }
    try:
        kafka.start()
        asyncio.run(apply(kafka.servers, rng, refs[0]))
        with running(directory, directory / "model.onnx", environ, server_core) as servers:
            compare(servers, *sample)
            made = versions(servers) | {"onnxruntime": onnxruntime.__version__, "kafka": kafka.version}
            rounds = take_turns(servers, directory, settings["ROUNDS"], (server_core, client_core))
            asking = client(servers, "trimtab", directory, 0)
            with stopped([server.process for name, server in servers.items() if name != "trimtab"]):
                tell(f"{swaps * SWAP_ROUNDS} hot swaps")
                swapped = asyncio.run(swap(kafka.servers, refs, swaps, SWAP_ROUNDS, asking, client_core))
                tell(f"the broker is killed for {settings['OUTAGE_S']} s")
                broken = outage(kafka, settings["OUTAGE_S"], asking, client_core)
                tell("the prediction log is counted")
                asked = [*flat(rounds, "trimtab", "trimtab_entity"), *chain(*swapped), broken]
                answers = sum(int(seen["requests"] - seen["failures"]) for seen in asked)
                in_log, twice = asyncio.run(logged(kafka.servers, answers))
    finally:
        kafka.kill()
    details = {
        "settings": dict(settings),
        "versions": made,
        "swaps": [{"quiet": quiet, "swapping": swapping} for quiet, swapping in swapped],
        "outage": broken,
        "log": {"answers": answers, "logged": in_log, "logged_twice": twice},
        "rounds": {
            name: {at_once: summary(seen) for at_once, seen in each.items()} for name, each in rounds.items()
        },
    }
    return claims(rounds, swapped, broken, answers - in_log), details


def flat(rounds: Rounds, *names: str) -> list[dict[str, float]]:
    return [seen for name in names for each in rounds[name].values() for seen in each]


def claims(
    rounds: Rounds, swaps: Sequence[tuple[Seen, Seen]], broken: Seen, lost: int
) -> list[dict[str, Any]]:
    """Return the claims: a sentence, the value, the bound."""

    def over(ours: str, theirs: str) -> float:
        found = ratios(rounds[ours][JUDGED_AT], rounds[theirs][JUDGED_AT], RATE)
        return round(statistics.median(found), 3)

    slower = [swapping["p99_ms"] / quiet["p99_ms"] for quiet, swapping in swaps]
    failed = sum(int(seen["failures"]) for seen in flat(rounds, *ASKED))
    failed_swapping = sum(int(seen["failures"]) for each in swaps for seen in each)
    count = sum(int(swapping["swaps"]) for _, swapping in swaps)
    return [
        {
            "claim": "Trimtab over the Open Inference Protocol, of MLServer's rate",
            "value": over("trimtab", "mlserver"),
            "at_least": 2.5,
        },
        {
            "claim": "Trimtab over the Open Inference Protocol, of the plain threaded server's rate",
            "value": over("trimtab", "plain"),
            "at_least": 0.8,
        },
        {
            "claim": "Trimtab's Predict with online features, of the plain threaded server's rate",
            "value": over("trimtab_entity", "plain"),
            "at_least": 0.6,
        },
        {"claim": "requests that failed while all were asked in turns", "value": failed, "at_most": 0},
        {"claim": f"requests that failed in {count} hot swaps", "value": failed_swapping, "at_most": 0},
        {
            "claim": f"p99 in {count} hot swaps, of the quiet one with a version on trial",
            "value": round(statistics.median(slower), 3),
            "at_most": 1.5,
        },
        {
            "claim": "requests that failed while the broker was killed",
            "value": int(broken["failures"]),
            "at_most": 0,
        },
        {"claim": "predictions lost from the log, of all answers of the run", "value": lost, "at_most": 0},
    ]


def holds(claim: Mapping[str, Any]) -> bool:
    """Return whether a claim's value is within its bound."""
    return bool(
        claim.get("at_least", claim["value"]) <= claim["value"] <= claim.get("at_most", claim["value"])
    )


def table(rounds: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[str]:
    """Return the medians of the rounds, with the least and the most of the rates, to be read."""
    lines = [
        f"{'':38}{'at once':>8}{'req/s':>8}{'spread':>16}{'p50 ms':>8}{'p99 ms':>8}{'server µs':>10}{'client':>7}"
    ]
    for name, said in SAID.items():
        for at_once, seen in rounds[name].items():
            spread = "{} to {}".format(*seen["spread"])
            lines.append(
                f"{said:38}{at_once:8}{seen[RATE]:8}{spread:>16}{seen['p50_ms']:8}{seen['p99_ms']:8}"
                f"{seen['server_cpu_us']:10}{seen['client_cpu']:7}"
            )
            said = ""
    return lines


def settings_of(environ: Mapping[str, str]) -> dict[str, int]:
    """Return the settings, those of the environment over ours."""
    return {name: int(environ.get(f"BENCH_{name}", value)) for name, value in SETTINGS.items()}


def main() -> int:
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    settings = settings_of(environment.inherited())
    with tempfile.TemporaryDirectory(prefix="bench-serving-", ignore_cleanup_errors=True) as directory:
        claimed, details = measure(Path(directory), settings)
    print(json.dumps({"bench": "serving", "claims": claimed, "details": details}))
    print(", ".join(f"{name} {version}" for name, version in details["versions"].items()))
    print(*table(details["rounds"]), sep="\n")
    for claim in claimed:
        bound = f"at least {claim['at_least']}" if "at_least" in claim else f"at most {claim['at_most']}"
        print(f"{claim['claim']}: {claim['value']} ({bound}){'' if holds(claim) else ' DOES NOT HOLD'}")
    return 0 if all(map(holds, claimed)) else 1


if __name__ == "__main__":
    if not GRPC_LOAD.exists():
        sys.exit("the peers are not installed: run `make bench-serving`, which installs them")
    sys.exit(main())
